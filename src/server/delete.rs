//! `DELETE` of a file, and of the directories that it leaves empty.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode};

use crate::error::{About, Error, Kind, Result};
use crate::index::served::{Knew, Note};
use crate::object::Precondition;
use crate::path::RelPath;

use super::App;
use super::activity::Did;
use super::conditions::precondition;
use super::disk::blocking;
use super::problem::{Answer, Problem};
use super::put::{check, is_unknown};
use super::tree::Tree;

/// Answers `DELETE` of `key`.
pub async fn delete(app: &Arc<App>, key: RelPath, headers: &HeaderMap) -> Answer {
    is_allowed(app)?;
    take_away(app, &key, precondition(headers)?).await?;
    let mut response = Response::new(Body::empty());
    Did::delete(&key).put_on(&mut response);
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Whether this server was told to delete.
pub fn is_allowed(app: &App) -> Result<(), Problem> {
    match app.allow_delete {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "this server does not delete; start it with --allow-delete",
        )),
    }
}

/// Removes `key`, if this server was told to allow that.
pub async fn take_away(
    app: &Arc<App>,
    key: &RelPath,
    condition: Precondition,
) -> Result<(), Problem> {
    is_allowed(app)?;
    app.uploads()?;
    let (tree, path) = (app.tree.clone(), key.clone());
    Ok(blocking(move || remove(&tree, &path, &condition)).await?)
}

fn remove(tree: &Tree, key: &RelPath, condition: &Precondition) -> Result<()> {
    tree.root.check()?;
    {
        let _alone = tree.lock(key);
        if check(tree, key, condition)? {
            return Err(Error::new(Kind::NotFound, "there is no such file").about(key));
        }
        tree.root.dir().remove_file(key)?;
        tree.forget_motion(key);
        tree.index.write(vec![Note::Missing {
            key: key.clone(),
            knew: Knew::Anything,
        }])?;
    }
    let stays = remove_empty(tree, key);
    // The deletion outlives a power cut, or a client would see the file come back.
    match tree.root.dir().sync(&stays) {
        // Somebody else removed it as well, and syncs what is above.
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) if is_unknown(&error) => Ok(()),
        other => other.about(key),
    }
}

/// Removes the directories that became empty, and tells the first one that did not.
fn remove_empty(tree: &Tree, key: &RelPath) -> RelPath {
    let mut dir = key.parent().unwrap_or_default();
    while !dir.is_root() && tree.root.dir().remove_dir(&dir).is_ok() {
        dir = dir.parent().unwrap_or_default();
    }
    dir
}
