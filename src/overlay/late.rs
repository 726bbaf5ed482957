//! Those who came too late: the file that they had looked up was replaced before they opened it, or
//! before the kernel asked whether they may.
//!
//! The kernel looks such a name up and tries once more, and then gives up: where many replace one
//! file, a program would be told that it is stale. So what a reader finds the second time is open
//! already, and stays open, whatever happens to its name, until he opens it himself. Only that:
//! whoever wanted its attributes alone goes on to other names. For a writer what he finds stays as
//! it is until he has come (`awaited`).

use std::sync::Arc;
use std::time::Duration;

use super::moments::Moments;
use super::read::{Access, Others};
use super::tree::Changes;
use super::{Answer, Attr, Opened, Overlay};
use crate::error::{Kind, Result};
use crate::index::{NodeId, NodeKind};
use crate::path::Name;

/// Longer than the way to the kernel and back, which a killed reader does not come by any more.
const MOMENT: Duration = Duration::from_secs(1);
/// How often a name is looked up that is replaced as often before it can be opened.
const TRIES: usize = 8;
const READ: Access = Access {
    write: false,
    truncate: false,
};

/// By the number of their threads.
#[derive(Default)]
pub(super) struct Late(Moments<u32, Comer>);

#[derive(Clone, Copy)]
enum Who {
    Reader,
    Writer { truncates: bool },
}

enum Comer {
    /// Something may be open for him already.
    Reader(Option<Kept>),
    Writer {
        truncates: bool,
    },
}

/// What is open for somebody, and where he found it.
struct Kept {
    parent: NodeId,
    name: Name,
    fh: u64,
}

impl Late {
    /// Puts down who is to come. Returns the handles that nobody needs any more.
    fn note(&self, opener: u32, comer: Comer) -> Vec<u64> {
        handles(self.0.put(opener, MOMENT, comer))
    }

    /// Who it is that looks for this name, if what he finds is to be there when he comes for it.
    fn who(&self, opener: u32, parent: NodeId, name: &Name) -> Option<Who> {
        let is_this = |kept: &Kept| kept.parent == parent && kept.name == *name;
        let who = self.0.get(&opener, |comer, _| match comer {
            Comer::Reader(kept) => kept.as_ref().is_none_or(is_this).then_some(Who::Reader),
            Comer::Writer { truncates } => Some(Who::Writer {
                truncates: *truncates,
            }),
        });
        who.flatten()
    }

    /// Forgets the opener, who is here, and those who will not come. Returns whether it was noted as
    /// a writer, and what was kept for them.
    fn arrived(&self, opener: Option<u32>) -> (bool, Vec<u64>) {
        let who = opener.and_then(|opener| {
            self.0
                .get(&opener, |comer, _| matches!(comer, Comer::Writer { .. }))
        });
        (who.unwrap_or(false), handles(self.0.take(opener.as_ref())))
    }
}

fn handles(over: Vec<Comer>) -> Vec<u64> {
    let kept = over.into_iter().filter_map(|comer| match comer {
        Comer::Reader(kept) => kept,
        Comer::Writer { .. } => None,
    });
    kept.map(|kept| kept.fh).collect()
}

impl Overlay {
    /// [`lookup`](Overlay::lookup) for a thread that may come to open what it finds.
    pub fn lookup_for(
        self: &Arc<Self>,
        opener: u32,
        parent: NodeId,
        name: &Name,
    ) -> Answer<Option<Attr>> {
        let found = self.lookup(parent, name);
        let Some(who) = self.late.who(opener, parent, name) else {
            return found;
        };
        let (this, name) = (self.clone(), name.clone());
        Answer::later(async move {
            let found = found.get().await?;
            // Nobody makes a name in the directory meanwhile: the kernel waits for this answer.
            let kept = tokio::time::timeout(MOMENT, async {
                match who {
                    Who::Reader => this.keep_for(opener, parent, &name, found).await,
                    Who::Writer { truncates } => {
                        this.hold_for(opener, truncates, parent, &name, found)
                    }
                }
            });
            kept.await.unwrap_or(Ok(found))
        })
    }

    /// Has what was found wait for the writer who asks.
    fn hold_for(
        &self,
        opener: u32,
        truncates: bool,
        parent: NodeId,
        name: &Name,
        mut found: Option<Attr>,
    ) -> Result<Option<Attr>> {
        for _ in 0..TRIES {
            let Some(file) = found.filter(|found| found.kind == NodeKind::File) else {
                break;
            };
            let expected = self.expect_writer(opener, file.id, truncates)?;
            if expected == Some(file.id) {
                break;
            }
            found = self.lookup_now(parent, name)?;
            if expected.is_some() && found.map(|found| found.id) == expected {
                break;
            }
        }
        Ok(found)
    }

    /// Opens what was found, far as it may be; what is replaced before it is open is looked up again.
    async fn keep_for(
        self: &Arc<Self>,
        opener: u32,
        parent: NodeId,
        name: &Name,
        mut found: Option<Attr>,
    ) -> Result<Option<Attr>> {
        for tries in 0..TRIES {
            let Some(file) = found.filter(|found| found.kind == NodeKind::File) else {
                break;
            };
            if self.awaited.is_due(opener, file.id) {
                // He goes first, and this one waits with his open.
                self.awaited.expect(opener, file.id, false);
                break;
            }
            match self.open(file.id, READ).get().await {
                Ok(opened) => {
                    let (name, fh) = (name.clone(), opened.fh);
                    let kept = Kept { parent, name, fh };
                    self.let_go(self.late.note(opener, Comer::Reader(Some(kept))));
                    break;
                }
                Err(error) if error.kind() == Kind::Stale => {}
                // He is told so himself.
                Err(_) => break,
            }
            // Longer each time: whoever replaces it is at work now.
            tokio::time::sleep(Duration::from_millis(1 << tries)).await;
            found = self.lookup_now(parent, name)?;
        }
        Ok(found)
    }

    /// [`open`](Overlay::open) by a thread that can be told to look its file up again.
    pub fn open_for(self: &Arc<Self>, opener: u32, id: NodeId, access: Access) -> Answer<Opened> {
        if !self.awaited.has_to_wait(opener, id) {
            return self.open_in_turn(opener, id, access);
        }
        let this = self.clone();
        Answer::later(async move {
            this.awaited.wait(opener, id).await;
            this.open_in_turn(opener, id, access).get().await
        })
    }

    fn open_in_turn(self: &Arc<Self>, opener: u32, id: NodeId, access: Access) -> Answer<Opened> {
        let (was_writer, mut kept) = self.late.arrived(Some(opener));
        if access.truncate {
            // It would have to step aside for what is kept for it.
            self.let_go(std::mem::take(&mut kept));
        }
        let answer = match access.truncate && was_writer {
            true => self.open_for_writing(id, access, Others::SeeItCut),
            false => self.open(id, access),
        };
        self.let_go(kept);
        let comer = match access.write || access.truncate {
            true => Comer::Writer {
                truncates: access.truncate,
            },
            false => Comer::Reader(None),
        };
        self.noted(opener, comer, answer)
    }

    /// [`attr`](Overlay::attr) for a thread that the kernel may ask for on the way to an open, which
    /// counts as one try.
    pub fn attr_for(&self, opener: u32, id: NodeId) -> Result<Attr> {
        let attr = self.attr(id);
        self.note_late(opener, Comer::Reader(None), &attr);
        attr
    }

    /// [`set_attr`](Overlay::set_attr) by a thread that can be told to look its file up again.
    pub fn set_attr_for(
        self: &Arc<Self>,
        opener: u32,
        id: NodeId,
        changes: Changes,
    ) -> Answer<Attr> {
        let answer = self.set_attr(id, changes);
        let comer = Comer::Writer { truncates: false };
        self.noted(opener, comer, answer)
    }

    /// The answer to a thread that is here, and is noted for its next try if it was in vain.
    fn noted<T: Send + 'static>(
        self: &Arc<Self>,
        opener: u32,
        comer: Comer,
        answer: Answer<T>,
    ) -> Answer<T> {
        match answer {
            Answer::Now(done) => {
                self.awaited.came(opener);
                self.note_late(opener, comer, &done);
                Answer::Now(done)
            }
            Answer::Later(pending) => {
                let this = self.clone();
                Answer::later(async move {
                    let done = pending.await;
                    this.awaited.came(opener);
                    this.note_late(opener, comer, &done);
                    done
                })
            }
        }
    }

    fn note_late<T>(&self, opener: u32, comer: Comer, done: &Result<T>) {
        if done.as_ref().is_err_and(|e| e.kind() == Kind::Stale) {
            self.let_go(self.late.note(opener, comer));
        }
    }

    /// Closes what was kept for openers that did not come.
    pub(super) fn forget_late(&self) {
        self.let_go(self.late.arrived(None).1);
    }

    fn let_go(&self, handles: Vec<u64>) {
        for fh in handles {
            if let Err(error) = self.release(fh) {
                tracing::warn!(%error, "a file that was kept open could not be closed");
            }
        }
    }
}
