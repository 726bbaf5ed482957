//! Whether an empty listing is believed.
//!
//! A server whose disk is not mounted, or a share that is not, looks like one that everything was
//! deleted from. Who deletes everything stays who it was; that one is somebody else, by the identity
//! (epoch) that it tells. Of it nothing is believed until it has something.

use crate::error::{Error, Kind, Result};
use crate::index::RemoteRow;
use crate::object::Cursor;

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
             removed here. If it is meant to be empty, put any file there",
            known.files
        ),
    ))
}
