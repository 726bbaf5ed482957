//! Names and attributes: answered from the index, unless a remote was never listed.

use std::sync::Arc;

use super::elsewhere::head;
use super::{Answer, Attr, FIRST_LISTING, Overlay, replaced};
use crate::beneath::facts_of;
use crate::config::Offline;
use crate::error::{Error, Kind, Result};
use crate::index::{Entry, Held, Node, NodeId, NodeKind, node as rows};
use crate::path::Name;
use crate::transfer::commit::seen;

impl Overlay {
    /// What `name` in `parent` is; none if there is no such file (promise P2).
    pub fn lookup(self: &Arc<Self>, parent: NodeId, name: &Name) -> Answer<Option<Attr>> {
        match self.lookup_now(parent, name) {
            Ok(None) if !self.remotes.absence_is_known() => {
                let (this, name) = (self.clone(), name.clone());
                Answer::later(async move { this.lookup_unlisted(parent, name).await })
            }
            Ok(found) => self.or_elsewhere(parent, name, found),
            Err(error) => Answer::Now(Err(error)),
        }
    }

    pub(super) fn lookup_now(&self, parent: NodeId, name: &Name) -> Result<Option<Attr>> {
        if self.is_plainly_absent(parent, name)? {
            return Ok(None);
        }
        self.reconcile_once(parent)?;
        let mark = self.opens.mark();
        match self.index.entry(parent, name)? {
            Some(entry) if !self.is_entry_hidden(&entry)? => {
                Ok(Some(self.shown_since(mark, entry.into())))
            }
            _ => Ok(None),
        }
    }

    /// Whether neither the index nor the folder has the name, in a directory that was not compared
    /// yet: that needs no look at all of it.
    fn is_plainly_absent(&self, parent: NodeId, name: &Name) -> Result<bool> {
        if self.is_compared(parent) || self.index.entry(parent, name)?.is_some() {
            return Ok(false);
        }
        match self.path_of_dir(parent)?.join(name) {
            Ok(path) => Ok(self.store.stored(&path)?.is_none()),
            // Too long to be anywhere.
            Err(_) => Ok(false),
        }
    }

    /// A name that the index lacks, while some remote was never listed: it is asked for, and the
    /// listing is waited for; whichever says first that it is there wins.
    async fn lookup_unlisted(&self, parent: NodeId, name: Name) -> Result<Option<Attr>> {
        let search = async {
            self.ask_for(parent, &name).await;
            loop {
                let known = self.remotes.absence_is_known();
                let found = self.lookup_now(parent, &name)?;
                if found.is_some() || known {
                    return Ok(found);
                }
                self.listing_progress().await;
            }
        };
        tokio::time::timeout(FIRST_LISTING, search)
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(Kind::TimedOut, "the remote was not listed in time").about(&name))
            })
    }

    /// Asks remotes that were never listed for one name.
    async fn ask_for(&self, parent: NodeId, name: &Name) {
        let Ok(dir) = self.path_of_dir(parent) else {
            return;
        };
        let Ok(key) = dir.join(name) else { return };
        for remote in self
            .remotes
            .iter()
            .filter(|r| !r.is_listed() && !r.is_away())
        {
            match self
                .take_answer(remote, &key, None, head(remote, &key))
                .await
            {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "a name could not be asked for"),
            }
        }
    }

    /// Ends when a remote was listed or went away, or after a moment.
    async fn listing_progress(&self) {
        let waits = self
            .remotes
            .iter()
            .filter(|r| !r.is_listed())
            .map(|remote| {
                let (mut listed, mut presence) = (remote.listed(), remote.presence());
                Box::pin(async move {
                    tokio::select! {
                        _ = listed.changed() => {}
                        _ = presence.changed() => {}
                        // Names also appear while a listing is being taken.
                        () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {}
                    }
                })
            });
        let waits: Vec<_> = waits.collect();
        if !waits.is_empty() {
            futures_util::future::select_all(waits).await;
        }
    }

    /// Ends when absence is known. Errors: `TimedOut`.
    pub async fn wait_for_listing(&self) -> Result<()> {
        let listed = async {
            while !self.remotes.absence_is_known() {
                self.listing_progress().await;
            }
        };
        tokio::time::timeout(FIRST_LISTING, listed)
            .await
            .map_err(|_| Error::new(Kind::TimedOut, "the remote was not listed in time"))
    }

    /// Whether the name is not to be seen now: a file that could not be read anyway (promise P6).
    pub(super) fn is_hidden(&self, node: &Node) -> bool {
        self.may_be_hidden(node.kind, node.held)
            && !self.opens.is_open(node.id)
            && !self.is_local(node)
            && !self.downloads.is_reachable(node)
    }

    /// The same for a listing's entry, which does not say where else the file is.
    pub(super) fn is_entry_hidden(&self, entry: &Entry) -> Result<bool> {
        if !self.may_be_hidden(entry.kind, entry.held) {
            return Ok(false);
        }
        let node = self.index.node(entry.id)?;
        Ok(node.is_none_or(|node| self.is_hidden(&node)))
    }

    fn may_be_hidden(&self, kind: NodeKind, held: Held) -> bool {
        kind == NodeKind::File
            && held != Held::Whole
            && self.settings.offline == Offline::Hide
            && self.remotes.any_away()
    }

    /// The file that has the name but is not to be seen now.
    pub(super) fn hidden_child(&self, parent: NodeId, name: &Name) -> Result<Option<Node>> {
        let child = self
            .index
            .glance(|c| rows::child(c, parent, name.as_bytes()))?;
        Ok(child.filter(|node| self.is_hidden(node)))
    }

    /// A file that is being made here and has no bytes in the tree yet.
    fn is_local(&self, node: &Node) -> bool {
        node.origin.is_none() && node.held == Held::None
    }

    /// The attributes of a node, those of a file being written as they are now.
    pub(super) fn shown(&self, node: &Node) -> Attr {
        let mut attr = Attr::of(node);
        self.show_session(&mut attr);
        attr
    }

    /// The same of a row that was read after `mark` was taken.
    pub(super) fn shown_since(&self, mark: u64, attr: Attr) -> Attr {
        if attr.kind != NodeKind::File {
            return attr;
        }
        let id = attr.id;
        let again = || {
            let node = self.index.node(id).ok().flatten();
            node.as_ref().map(Attr::of)
        };
        self.opens
            .newest(mark, attr, |attr| self.show_session(attr), again)
    }

    /// Returns whether there is one.
    fn show_session(&self, attr: &mut Attr) -> bool {
        if attr.kind == NodeKind::File
            && let Some(open) = self.opens.node(attr.id)
        {
            let state = open.lock();
            if let Some(session) = &state.session
                && let Some(facts) = state.body.whole().and_then(|file| facts_of(&file).ok())
            {
                attr.size = facts.size;
                attr.mtime_ns = facts.mtime_ns;
                // Since when a file of the tree is what was found or closed, its row knows: the disk's
                // own time is that of the rename. And it knows it now, not when `attr` was read.
                let is_recorded = session.recorded == Some(seen(&facts));
                let row = match session.staged.is_none() && is_recorded {
                    true => self.index.node(attr.id).ok().flatten(),
                    false => None,
                };
                let since = row.map_or(facts.ctime_ns, |row| row.ctime_ns);
                attr.ctime_ns = attr.ctime_ns.max(since);
                return true;
            }
        }
        false
    }

    /// What `stat` shows. Errors: `Stale` for a node that is not open and has no name any more:
    /// the caller looks the name up again.
    pub fn attr(&self, id: NodeId) -> Result<Attr> {
        let mark = self.opens.mark();
        if let Some(node) = self.index.node(id)? {
            return Ok(self.shown_since(mark, Attr::of(&node)));
        }
        let Some(open) = self.opens.node(id) else {
            return Err(replaced());
        };
        let state = open.lock();
        let mut attr = Attr::of(&state.node);
        attr.nlink = 0;
        if let Some(facts) = state.body.whole().and_then(|file| facts_of(&file).ok()) {
            attr.size = facts.size;
            attr.mtime_ns = facts.mtime_ns;
        }
        Ok(attr)
    }
}
