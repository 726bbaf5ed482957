//! Both ends together, over a real socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::error::Error;

struct Fake {
    dropped: Arc<AtomicBool>,
}

struct OnDrop(Arc<AtomicBool>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Handler for Fake {
    async fn handle(
        &self,
        request: Request,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Answer> {
        match request {
            Request::Status => Ok(Answer::Status(Box::new(Status {
                pid: 7,
                ..Status::default()
            }))),
            Request::Flush { .. } => {
                let _guard = OnDrop(self.dropped.clone());
                let what = "uploading".to_owned();
                progress(Progress {
                    what,
                    done: 1,
                    total: Some(2),
                    bytes: None,
                });
                std::future::pending().await
            }
            Request::Sync => {
                for done in 0..10_000 {
                    let what = "listing".to_owned();
                    progress(Progress {
                        what,
                        done,
                        total: None,
                        bytes: None,
                    });
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(Answer::Done(Report::default()))
            }
            _ => Err(Error::new(Kind::NotFound, "no such file").about("a/b")),
        }
    }
}

async fn start() -> (tempfile::TempDir, PathBuf, Listening, Arc<AtomicBool>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    let dropped = Arc::new(AtomicBool::new(false));
    let handler = Fake {
        dropped: dropped.clone(),
    };
    let listening = listen(&path, Arc::new(handler)).unwrap();
    (dir, path, listening, dropped)
}

async fn with_client<T: Send + 'static>(
    path: &std::path::Path,
    ask: impl FnOnce(&mut Client) -> T + Send + 'static,
) -> T {
    let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    tokio::task::spawn_blocking(move || ask(&mut Client::over_test(stream)))
        .await
        .unwrap()
}

async fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < end, "it did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_errors_come_through() {
    let (_dir, path, listening, _) = start().await;
    let (status, error) = with_client(&path, |client| {
        let status = client.ask(&Request::Status, &mut |_| {}).unwrap();
        let path = "a".to_owned();
        let error = client
            .ask(&Request::Restore { path }, &mut |_| {})
            .unwrap_err();
        (status, error)
    })
    .await;
    assert!(matches!(status, Answer::Status(status) if status.pid == 7));
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "a/b: no such file")
    );
    listening.stop().await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_progress_is_bounded_and_the_answer_comes() {
    let (_dir, path, _listening, _) = start().await;
    let seen = with_client(&path, |client| {
        let mut seen = 0;
        client.ask(&Request::Sync, &mut |_| seen += 1).unwrap();
        seen
    })
    .await;
    assert!(seen < 100, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_ends_when_the_asker_goes_away() {
    let (_dir, path, _listening, dropped) = start().await;
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        stream
            .write_all(b"{\"ask\":\"flush\",\"wait\":true}\n")
            .unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
    })
    .await
    .unwrap();
    until(|| dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_socket_is_busy_and_a_dead_one_is_replaced() {
    let (_dir, path, listening, dropped) = start().await;
    let again = listen(
        &path,
        Arc::new(Fake {
            dropped: dropped.clone(),
        }),
    );
    assert_eq!(again.unwrap_err().kind(), Kind::Busy);
    listening.stop().await;
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(listen(&path, Arc::new(Fake { dropped })).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_answered_with_an_error() {
    let (_dir, path, _listening, _) = start().await;
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let line = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead, BufReader, Write};
        stream.write_all(b"GET / HTTP/1.1\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    })
    .await
    .unwrap();
    assert!(line.contains("another version"), "{line}");
}

#[test]
fn a_missing_daemon_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect(dir.path()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("larder mount"), "{error}");
}
