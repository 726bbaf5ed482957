//! Whether a listing is of the remote that is known, and whether an empty one is believed.
//!
//! A server whose disk is not mounted, or a share that is not, looks like one that everything was
//! deleted from. Who deletes everything stays who it was; that one is somebody else, by the identity
//! (epoch) that it tells. Of it nothing is believed until it has something; and then what it does not
//! name was deleted by nobody.

use std::future::Future;

use crate::error::{Error, Kind, Result};
use crate::index::RemoteRow;
use crate::object::Cursor;

/// Whether the remote, which tells its `epoch` when it is asked, is another than the one that `known`
/// is of.
pub(super) async fn is_another<F>(known: &RemoteRow, epoch: impl FnOnce() -> F) -> Result<bool>
where
    F: Future<Output = Result<Option<String>>>,
{
    let Some(before) = known.cursor.as_ref().filter(|_| known.files > 0) else {
        return Ok(false);
    };
    Ok(epoch().await?.is_some_and(|now| now != before.epoch))
}

/// `named`: how much the listing names. Errors: `Offline` if nothing, and it is not the remote that
/// had what `known` tells.
pub(super) fn believed(known: &RemoteRow, cursor: &Cursor, named: u64) -> Result<()> {
    let before = known.cursor.as_ref();
    let is_same = before.is_some_and(|before| before.epoch == cursor.epoch);
    if named > 0 || known.files == 0 || is_same {
        return Ok(());
    }
    Err(Error::new(
        Kind::Offline,
        format!(
            "it is empty, and another one than had {} of the files: is its disk mounted? Nothing is \
             removed here. If it is meant to be empty, put any file there: what is held here stays",
            known.files
        ),
    ))
}
