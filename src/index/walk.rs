//! The tree's files in the order in which programs walk it.

use rusqlite::Connection;

use super::node::{Node, NodeId, NodeKind, ROOT, children, node};
use crate::error::Result;

/// Rows read in one go.
const PAGE: usize = 32;

/// Up to `limit` files that follow `id` where names are taken in byte order and directories are
/// entered when their turn comes. Fewer after `looks` rows, whatever is behind them.
pub fn files_after(c: &Connection, id: NodeId, limit: usize, looks: usize) -> Result<Vec<Node>> {
    let mut found = Vec::with_capacity(limit.min(PAGE));
    let Some((mut dir, mut after)) = place(c, id)? else {
        return Ok(found);
    };
    let mut looked = 0;
    while found.len() < limit && looked < looks {
        let page = children(c, dir, &after, PAGE)?;
        looked += page.len().max(1);
        let is_last = page.len() < PAGE;
        let mut entered = None;
        for child in page {
            after = child
                .name
                .as_ref()
                .map_or(Vec::new(), |n| n.as_bytes().to_vec());
            match child.kind {
                NodeKind::File => found.push(child),
                NodeKind::Dir => {
                    entered = Some(child.id);
                    break;
                }
                NodeKind::Symlink => {}
            }
            if found.len() == limit {
                break;
            }
        }
        match entered {
            Some(below) => (dir, after) = (below, Vec::new()),
            None if is_last => match place(c, dir)? {
                Some(above) => (dir, after) = above,
                None => break,
            },
            None => {}
        }
    }
    Ok(found)
}

/// The directory a node is in, and its name there; none of the top.
fn place(c: &Connection, id: NodeId) -> Result<Option<(NodeId, Vec<u8>)>> {
    if id == ROOT {
        return Ok(None);
    }
    let found = node(c, id)?;
    Ok(found.and_then(|n| Some((n.parent, n.name?.as_bytes().to_vec()))))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::index::{EVENTS, Index, NewNode, node as nodes};
    use crate::path::{Name, RelPath};

    #[test]
    fn p14_files_follow_each_other_as_programs_walk_them() {
        let dir = tempfile::tempdir().unwrap();
        let (events, _heard) = sync_channel(EVENTS);
        let (index, _) = Index::open(&dir.path().join("index.db"), events).unwrap();
        let many: Vec<_> = (0..2 * PAGE).map(|n| format!("m/{n:03}")).collect();
        let mut paths = vec!["a/1", "a/2", "b/c/d/1", "b/z", "e/f/1"];
        paths.extend(many.iter().map(String::as_str));
        paths.push("n");
        for path in &paths {
            let mut parent = ROOT;
            for (n, part) in path.split('/').enumerate() {
                let is_file = n == path.matches('/').count();
                let new = NewNode {
                    parent,
                    name: Name::new(part.as_bytes()).unwrap(),
                    kind: if is_file {
                        NodeKind::File
                    } else {
                        NodeKind::Dir
                    },
                    mode: 0o755,
                    uid: None,
                    gid: None,
                    size: 0,
                    mtime_ns: 0,
                };
                let known = index
                    .read(|c| nodes::child(c, parent, part.as_bytes()))
                    .unwrap();
                parent = match known {
                    Some(node) => node.id,
                    None => index.edit(move |w| w.create(&new, 0)).unwrap().id,
                };
            }
        }
        let id = |path: &str| {
            let path = RelPath::new(path.as_bytes()).unwrap();
            index
                .read(|c| nodes::resolve(c, &path))
                .unwrap()
                .unwrap()
                .id
        };
        let after = |path: &str, limit, looks| -> Vec<NodeId> {
            let id = id(path);
            let found = index.read(|c| files_after(c, id, limit, looks));
            found.unwrap().into_iter().map(|node| node.id).collect()
        };
        let all: Vec<_> = paths.iter().map(|path| id(path)).collect();
        for (n, path) in paths.iter().enumerate() {
            assert_eq!(after(path, 1000, 1000), all[n + 1..], "{path}");
            assert_eq!(after(path, 2, 1000), all[n + 1..(n + 3).min(all.len())]);
        }
        assert!(
            after("a/1", 1000, 8).len() < all.len() - 1,
            "it looks no further"
        );
    }
}
