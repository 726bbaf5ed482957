//! The answering end: one task a connection, inside the daemon.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answer, Failure, Handler, LINE_MAX, Progress, Reply, Request};
use crate::error::{About, Error, Kind, Result};

/// Askers at a time; more wait in the listener's backlog.
const ASKERS: usize = 32;
/// How often a daemon at work says that it lives.
const ALIVE: Duration = Duration::from_secs(5);
/// How often progress is sent.
const STEP: Duration = Duration::from_millis(100);
/// How long an asker may take to read a line.
const PATIENCE: Duration = Duration::from_secs(20);

/// A socket that is listened at. Dropped, it stops and removes the socket.
#[derive(Debug)]
pub struct Listening {
    path: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Listens at `path`, which [`socket_path`](super::socket_path) gave. A socket left
/// there by a dead daemon is replaced; a living one is [`Kind::Busy`]. Needs to be
/// called inside a runtime.
pub fn listen(path: &Path, handler: Arc<dyn Handler>) -> Result<Listening> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let text = "a larder is already mounted there; unmount it first with `larder umount`";
        return Err(Error::new(Kind::Busy, text));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::from(error).about(path.display()));
        }
        _ => {}
    }
    // Between bind and chmod the directory, which is 0700, keeps others out.
    let listener = UnixListener::bind(path).about(path.display())?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).about(path.display())?;
    let listening = Listening {
        path: path.to_owned(),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let accept = accept(
        listener,
        handler,
        listening.stop.clone(),
        listening.tasks.clone(),
    );
    listening.tasks.spawn(accept);
    Ok(listening)
}

impl Listening {
    /// Takes no more askers and waits a moment for the answers that are under way.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        // An asker that does not read its answer does not keep the daemon.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
        // Already gone is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept(
    listener: UnixListener,
    handler: Arc<dyn Handler>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let seats = Arc::new(Semaphore::new(ASKERS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if is_trusted(&stream) => {
                let handler = handler.clone();
                let stop = stop.clone();
                tasks.spawn(async move {
                    // An asker that goes away is none of ours to report.
                    let _ = converse(stream, &*handler, stop).await;
                    drop(seat);
                });
            }
            Ok(_) => {}
            // Out of descriptors: wait for some to come back.
            Err(_) => tokio::time::sleep(STEP).await,
        }
    }
}

fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn converse(
    stream: UnixStream,
    handler: &dyn Handler,
    stop: CancellationToken,
) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut read).take(LINE_MAX as u64);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            got = limited.read_until(b'\n', &mut line) => got?,
        };
        if line.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<Request>(&line) {
            Ok(request) => answer(request, handler, &mut read, &mut write).await?,
            Err(_) => {
                let text = "this daemon does not know that request; it is of another version than the command";
                send(&mut write, &failed(&Error::new(Kind::Unsupported, text))).await?;
            }
        }
    }
}

/// Carries one request out. Ends early, and drops the work, when the asker goes away.
async fn answer(
    request: Request,
    handler: &dyn Handler,
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
) -> Result<()> {
    let (latest, mut steps) = watch::channel(None::<Progress>);
    let tell = move |step| {
        latest.send_replace(Some(step));
    };
    let mut work = handler.handle(request, &tell);
    let mut alive = tokio::time::interval(ALIVE);
    alive.reset();
    loop {
        tokio::select! {
            biased;
            done = &mut work => return send(write, &reply(done)).await,
            Ok(()) = steps.changed() => {
                let step = steps.borrow_and_update().clone();
                send(write, &Reply::Progress(step)).await?;
                alive.reset();
                // Steps in between are not wanted, the answer is.
                let pause = tokio::time::sleep(STEP);
                tokio::select! {
                    done = &mut work => return send(write, &reply(done)).await,
                    () = pause => {}
                }
            }
            _ = alive.tick() => send(write, &Reply::Progress(None)).await?,
            left = read.fill_buf() => {
                if left?.is_empty() {
                    return Err(Error::new(Kind::Cancelled, "the asker went away"));
                }
                // A next request came early: finish this one first.
                return send(write, &reply(work.await)).await;
            }
        }
    }
}

fn reply(done: Result<Answer>) -> Reply {
    match done {
        Ok(answer) => Reply::Ok(answer),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Reply {
    Reply::Error(Failure {
        kind: error.kind(),
        about: error.subject().map(str::to_owned),
        message: error.message().to_owned(),
    })
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> Result<()> {
    let mut line =
        serde_json::to_vec(reply).map_err(|error| Error::new(Kind::Io, error.to_string()))?;
    line.push(b'\n');
    match tokio::time::timeout(PATIENCE, write.write_all(&line)).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(Error::new(Kind::TimedOut, "the asker does not read")),
    }
}
