//! The asking end: blocking, for the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::place::{candidates, mountpoint, shown};
use super::{Answer, LINE_MAX, Progress, Reply, Request};
use crate::error::{Error, Kind, Result};

/// A daemon at work says so every few seconds; one that is silent for longer is stuck.
const SILENCE: Duration = Duration::from_secs(20);

/// A connection to the daemon of one mount.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    mountpoint: PathBuf,
    pid: Option<u32>,
}

impl Client {
    /// Finds the daemon that is mounted at `path`. Errors: [`Kind::NotFound`] where none is.
    pub fn connect(path: &Path) -> Result<Client> {
        let mountpoint = mountpoint(path)?;
        for socket in candidates(&mountpoint) {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Client::over(stream, mountpoint),
                Err(error) if is_nobody(&error) => {}
                Err(error) => return Err(Error::from(error).about(socket.display())),
            }
        }
        let at = shown(&mountpoint);
        let text = format!(
            "no larder is mounted at {at}; start one with `larder mount {at} --remote URL`"
        );
        Err(Error::new(Kind::NotFound, text))
    }

    fn over(stream: UnixStream, mountpoint: PathBuf) -> Result<Client> {
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let pid = peer_pid(&stream);
        Ok(Client {
            stream: BufReader::new(stream),
            mountpoint,
            pid,
        })
    }

    #[cfg(test)]
    pub(super) fn over_test(stream: UnixStream) -> Client {
        Client::over(stream, "/mnt".into()).unwrap()
    }

    /// Where the mount is.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The daemon's process, where the system tells.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Asks and waits for the answer; `progress` sees what comes before it.
    pub fn ask(&mut self, request: &Request, progress: &mut dyn FnMut(Progress)) -> Result<Answer> {
        let mut line = serde_json::to_vec(request).map_err(|_| unreadable())?;
        line.push(b'\n');
        let sent = self.stream.get_mut().write_all(&line);
        sent.map_err(|error| self.lost(&error))?;
        loop {
            match self.reply()? {
                Reply::Progress(Some(step)) => progress(step),
                Reply::Progress(None) => {}
                Reply::Ok(answer) => return Ok(answer),
                Reply::Error(failure) => {
                    let error = Error::new(failure.kind, failure.message);
                    return Err(match failure.about {
                        Some(about) => error.about(about),
                        None => error,
                    });
                }
            }
        }
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LINE_MAX as u64);
        let read = limited.read_until(b'\n', &mut line);
        match read {
            Ok(_) if line.ends_with(b"\n") => {
                serde_json::from_slice(&line).map_err(|_| unreadable())
            }
            Ok(_) => Err(self.lost(&std::io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        let at = shown(&self.mountpoint);
        let who = self
            .pid
            .map_or(String::new(), |pid| format!(" (process {pid})"));
        match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                let text = format!(
                    "the daemon of {at}{who} does not answer; `kill` it and mount again, nothing is lost"
                );
                Error::new(Kind::TimedOut, text)
            }
            _ => {
                let text = format!(
                    "the daemon of {at}{who} ended before it answered; look at its log in .larder/larder.log"
                );
                Error::new(Kind::Offline, text)
            }
        }
    }

    /// Waits until the daemon's process is gone; false if it still runs after `most`.
    pub fn wait_gone(self, most: Duration) -> bool {
        let Some(pid) = self.pid else {
            return self.wait_closed(most);
        };
        drop(self.stream);
        let end = Instant::now() + most;
        while is_running(pid) {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Without a process to look at: until the daemon closes the connection.
    fn wait_closed(self, most: Duration) -> bool {
        let stream = self.stream.into_inner();
        let mut byte = [0];
        stream.set_read_timeout(Some(most)).is_ok() && matches!((&stream).read(&mut byte), Ok(0))
    }
}

fn unreadable() -> Error {
    let text = "the daemon speaks another version of the control protocol; unmount and mount again with this one";
    Error::new(Kind::Unsupported, text)
}

fn is_nobody(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as E;
    matches!(error.kind(), E::NotFound | E::ConnectionRefused)
}

#[cfg(target_os = "linux")]
fn peer_pid(stream: &UnixStream) -> Option<u32> {
    let peer = rustix::net::sockopt::socket_peercred(stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

#[cfg(not(target_os = "linux"))]
fn peer_pid(_stream: &UnixStream) -> Option<u32> {
    None
}

/// Whether the process still does anything: a zombie has let go of everything.
fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next());
    !matches!(state, Some("Z" | "X") | None)
}
