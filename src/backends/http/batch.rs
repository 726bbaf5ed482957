//! Small files that are wanted before anybody waits for them, asked for together.
//!
//! The first few requests go by themselves. While these are on their way, what else is wanted waits
//! until one of them has ended, and then goes with all that waits by then. What the server does not
//! send among others is asked for by itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, stream};
use reqwest::{Client, Response, StatusCode, header};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::answer::{self, refused};
use super::connection::ask;
use super::failure::lost;
use super::lines::Lines;
use super::{Http, body};
use crate::backends::pulse::{Pulse, alive};
use crate::backends::{Download, Timeouts};
use crate::error::{Error, Kind, Result};
use crate::object::{Change, Meta, Version};
use crate::path::RelPath;
use crate::wire::{BATCH_MAX, BATCH_TYPE, Line};

/// Requests on their way, with one file or with many.
const LANES: usize = 4;
/// Longest file that is taken from an answer with many.
const FILE_MAX: u64 = 1 << 20;

/// None: it is to be asked for by itself.
type Reply = Result<Option<Download>>;

struct Wanted {
    key: RelPath,
    version: Version,
    reply: oneshot::Sender<Reply>,
}

#[derive(Default)]
struct Desk {
    busy: usize,
    waiting: VecDeque<Wanted>,
}

/// How to ask, and who waits.
struct Counter {
    url: String,
    client: Client,
    times: Timeouts,
    /// Whether the server takes batches.
    is_open: AtomicBool,
    desk: Mutex<Desk>,
    /// Beats with what comes.
    pulse: Pulse,
}

/// See the module.
pub(super) struct Batches(Arc<Counter>);

/// How a file is to be had.
enum Turn {
    Now(Lane),
    Together(oneshot::Receiver<Reply>),
}

/// A request on its way. What waits goes when it ends.
struct Lane(Arc<Counter>);

impl Drop for Lane {
    fn drop(&mut self) {
        let mut desk = self.0.desk();
        desk.busy -= 1;
        desk.waiting.retain(|wanted| !wanted.reply.is_closed());
        if desk.waiting.is_empty() {
            return;
        }
        let n = desk.waiting.len().min(BATCH_MAX);
        let batch: VecDeque<_> = desk.waiting.drain(..n).collect();
        desk.busy += 1;
        drop(desk);
        let lane = Lane(self.0.clone());
        // Without a runtime all is over, and who still waits hears of it.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(lane.bring(batch));
        }
    }
}

impl Batches {
    pub(super) fn new(base: &str, client: Client, times: Timeouts) -> Batches {
        Batches(Arc::new(Counter {
            url: format!("{base}/v1/batch"),
            client,
            times,
            is_open: AtomicBool::new(false),
            desk: Mutex::default(),
            pulse: Pulse::default(),
        }))
    }

    /// Whether the server takes batches.
    pub(super) fn set_open(&self, is_open: bool) {
        self.0.is_open.store(is_open, Ordering::Relaxed);
    }

    fn turn(&self, key: &RelPath, version: &Version) -> Turn {
        let mut desk = self.0.desk();
        if desk.busy < LANES || !self.0.is_open.load(Ordering::Relaxed) {
            desk.busy += 1;
            return Turn::Now(Lane(self.0.clone()));
        }
        let (reply, replied) = oneshot::channel();
        desk.waiting.push_back(Wanted {
            key: key.clone(),
            version: version.clone(),
            reply,
        });
        Turn::Together(replied)
    }
}

impl Http {
    /// All of an object, together with others if many are wanted.
    pub(super) async fn get_together(&self, key: &RelPath, version: &Version) -> Result<Download> {
        let lane = match self.batches.turn(key, version) {
            Turn::Now(lane) => lane,
            Turn::Together(replied) => {
                let pulse = &self.batches.0.pulse;
                // Those before it get on, or nobody does.
                return match alive(pulse, |_| self.times.answer, replied).await? {
                    Ok(Err(error)) => Err(error),
                    Ok(Ok(Some(download))) => Ok(download),
                    Ok(Ok(None)) | Err(_) => self.get_now(key, None, Some(version)).await,
                };
            }
        };
        let mut download = self.get_now(key, None, Some(version)).await?;
        // Others are not to wait for a long one.
        if download.meta.size <= FILE_MAX {
            let body = download.body.inspect(move |_| lane.0.pulse.beat());
            download.body = Box::pin(body);
        }
        Ok(download)
    }
}

impl Counter {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer's lines, and the epoch of their numbers.
    async fn question(&self, batch: &VecDeque<Wanted>) -> Result<Response> {
        let mut text = Vec::new();
        for wanted in batch {
            serde_json::to_writer(&mut text, &Line::wanted(&wanted.key, &wanted.version))
                .map_err(|error| Error::new(Kind::Io, format!("cannot be asked for: {error}")))?;
            text.push(b'\n');
        }
        let request = self
            .client
            .post(&self.url)
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .body(text);
        ask(request, self.times.answer).await
    }
}

impl Lane {
    /// Asks for the batch, and gives everybody what came for him.
    async fn bring(self, mut batch: VecDeque<Wanted>) {
        let counter = self.0.clone();
        let brought = async {
            let response = counter.question(&batch).await?;
            match response.status() {
                StatusCode::OK => counter.hand_out(response, &mut batch).await,
                // Another server than it was: those who wait find out what it is.
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                    counter.is_open.store(false, Ordering::Relaxed);
                    batch.clear();
                    Ok(())
                }
                _ => Err(refused(response, counter.times.stall).await),
            }
        };
        if let Err(error) = brought.await {
            for wanted in batch {
                // Who is gone does not mind.
                let _ = wanted.reply.send(Err(error.clone()));
            }
        }
    }
}

impl Counter {
    async fn hand_out(&self, response: Response, batch: &mut VecDeque<Wanted>) -> Result<()> {
        let kind = response.headers().get(header::CONTENT_TYPE);
        if kind.is_none_or(|kind| kind.as_bytes() != BATCH_TYPE.as_bytes()) {
            return Err(corrupt("the answer is no batch of files"));
        }
        let epoch = answer::revision(response.headers()).map(|revision| revision.epoch);
        let pulse = self.pulse.clone();
        let chunks = response.bytes_stream().inspect(move |_| pulse.beat());
        let chunks = chunks.map(|chunk| chunk.map_err(lost));
        let chunks = body::steady(chunks, self.times.stall);
        let mut lines = Lines::new(chunks, self.times.stall);
        while let Some(wanted) = batch.front() {
            if batch.iter().all(|wanted| wanted.reply.is_closed()) {
                return Ok(());
            }
            let line = lines.line().await?;
            let reply = match line.size {
                None => None,
                Some(_) => {
                    let meta = meta_of(line.into_change(epoch.as_ref())?, wanted)?;
                    let pieces = lines.bytes(meta.size).await?;
                    let pieces = stream::iter(pieces.into_iter().map(Ok));
                    Some(Download {
                        range: 0..meta.size,
                        body: body::exactly(pieces, meta.size, self.times.stall),
                        meta,
                        is_proven: false,
                        proof: None,
                    })
                }
            };
            if let Some(wanted) = batch.pop_front() {
                // Who is gone does not mind.
                let _ = wanted.reply.send(Ok(reply));
            }
        }
        Ok(())
    }
}

/// What the server says it sends, if that was asked for.
fn meta_of(change: Change, wanted: &Wanted) -> Result<Meta> {
    match change {
        Change::Put(object) if object.key == wanted.key => match object.meta {
            meta if meta.version != wanted.version => {
                Err(corrupt("the batch brings another version"))
            }
            meta if meta.size > FILE_MAX => Err(corrupt("the batch brings a long file")),
            meta => Ok(meta),
        },
        _ => Err(corrupt("the batch brings another file")),
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(Kind::Corrupt, why)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::tests::script::{Act, Server};
    use super::*;

    fn key(n: usize) -> RelPath {
        RelPath::new(format!("d/f{n} \n").as_bytes()).unwrap()
    }

    fn version(n: usize) -> Version {
        Version::new(&format!("v{n}")).unwrap()
    }

    /// Lines of files, each with its bytes behind it; the text of file `n` is its number, often.
    fn part(n: usize, claimed: usize, sent: &str) -> String {
        let path = format!("d/f{n} \\n");
        format!(
            "{{\"path\":\"{path}\",\"size\":{claimed},\"mtime_ns\":7,\"etag\":\"v{n}\"}}\n{sent}"
        )
    }

    fn text(n: usize) -> String {
        n.to_string().repeat(40)
    }

    fn good(n: usize) -> String {
        let text = text(n);
        part(n, text.len(), &text)
    }

    fn say(status: &str, headers: &str, body: &str) -> Act {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n");
        Act::Say((head + body).into_bytes())
    }

    fn batch(body: &str) -> Act {
        say("200 OK", &format!("content-type: {BATCH_TYPE}\r\n"), body)
    }

    fn file(n: usize) -> Act {
        let facts = format!("etag: \"v{n}\"\r\nx-mtime-ns: 7\r\n");
        say("200 OK", &facts, &text(n))
    }

    /// So many files, wanted while the lanes are taken, and what became of each.
    async fn together(server: &Server, count: usize) -> Vec<Result<Vec<u8>>> {
        let http = Arc::new(server.http());
        http.batches.set_open(true);
        let mut lanes = taken(&http);
        let wanted: Vec<_> = (0..count)
            .map(|n| {
                let http = http.clone();
                tokio::spawn(async move {
                    let mut body = http.get_together(&key(n), &version(n)).await?.body;
                    let mut bytes = Vec::new();
                    while let Some(chunk) = body.next().await {
                        bytes.extend_from_slice(&chunk?);
                    }
                    Ok(bytes)
                })
            })
            .collect();
        waiting(&http, count).await;
        lanes.pop();
        let mut came = Vec::new();
        for one in wanted {
            came.push(one.await.unwrap());
        }
        came
    }

    fn taken(http: &Http) -> Vec<Turn> {
        let take = |_| http.batches.turn(&key(0), &version(0));
        let lanes: Vec<_> = (0..LANES).map(take).collect();
        assert!(lanes.iter().all(|turn| matches!(turn, Turn::Now(_))));
        lanes
    }

    async fn waiting(http: &Http, count: usize) {
        let begun = Instant::now();
        while http.batches.0.desk().waiting.len() != count {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::task::yield_now().await;
        }
    }

    fn kinds(came: &[Result<Vec<u8>>]) -> Vec<Option<Kind>> {
        let kind = |one: &Result<Vec<u8>>| one.as_ref().err().map(Error::kind);
        came.iter().map(kind).collect()
    }

    #[tokio::test]
    async fn p14_files_that_are_wanted_together_come_in_one_answer() {
        let server = Server::new(batch(&(good(0) + &good(1) + &good(2)))).await;
        let came = together(&server, 3).await;
        for (n, one) in came.into_iter().enumerate() {
            assert_eq!(one.unwrap(), text(n).into_bytes());
        }
        let heard = server.heard();
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
        for wanted in [
            "POST /v1/batch HTTP/1.1\r\n",
            "x-api-key: sesame\r\n",
            "\"etag\":\"v2\"",
        ] {
            assert!(heard.contains(wanted), "{wanted}\n{heard}");
        }
    }

    #[tokio::test]
    async fn p1_a_batch_that_is_not_what_was_asked_for_is_corrupt() {
        let all = |bad: String| batch(&(good(0) + &bad));
        let another_version = good(1).replace("v1", "v2");
        let endless = part(1, 1 << 40, &text(1));
        let cases = [
            ("another file", all(good(2))),
            ("another version", all(another_version)),
            ("cut short", all(part(1, 81, &text(1)))),
            ("too long", all(endless)),
            ("over 2^63", all(part(1, 1 << 63, ""))),
            ("HTML behind it", all("<html>\n".into())),
            ("nothing behind it", all(String::new())),
            ("an endless line", all("x".repeat(1 << 16))),
        ];
        for (name, act) in cases {
            let came = together(&Server::new(act).await, 2).await;
            assert_eq!(kinds(&came), [None, Some(Kind::Corrupt)], "{name}");
        }
        let html = say("200 OK", "content-type: text/html\r\n", &good(0));
        let came = together(&Server::new(html).await, 2).await;
        assert_eq!(kinds(&came), [Some(Kind::Corrupt); 2]);
    }

    #[tokio::test]
    async fn what_does_not_come_among_others_is_asked_for_by_itself() {
        let alone = "{\"path\":\"d/f1 \\n\"}\n";
        let acts = vec![batch(&(good(0) + alone + &good(2))), file(1)];
        let server = Server::each(acts).await;
        let came = together(&server, 3).await;
        for (n, one) in came.into_iter().enumerate() {
            assert_eq!(one.unwrap(), text(n).into_bytes());
        }
        assert!(server.heard().contains("GET /v1/files/d/f1%20%0A HTTP/1.1"));
    }

    #[tokio::test]
    async fn a_server_without_batches_is_asked_file_by_file() {
        let server = Server::each(vec![say("404 Not Found", "", ""), file(0)]).await;
        let came = together(&server, 1).await;
        assert_eq!(came[0].as_ref().unwrap(), &text(0).into_bytes());
        let http = server.http();
        let _lanes = taken(&http);
        assert!(matches!(
            http.batches.turn(&key(0), &version(0)),
            Turn::Now(_)
        ));
    }

    #[tokio::test]
    async fn p6_a_batch_that_stalls_or_fails_ends_for_everybody_within_its_deadline() {
        let half =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {BATCH_TYPE}\r\ncontent-length: 999\r\n\r\n");
        let cases = [
            (
                Act::Hold((half.clone() + &good(0)).into_bytes()),
                [None, Some(Kind::TimedOut)],
            ),
            (Act::Hold(Vec::new()), [Some(Kind::TimedOut); 2]),
            (say("503 Busy", "", ""), [Some(Kind::Unavailable); 2]),
            (say("401 No", "", ""), [Some(Kind::Unauthorized); 2]),
        ];
        for (act, expected) in cases {
            let begun = Instant::now();
            let came = together(&Server::new(act).await, 2).await;
            assert_eq!(kinds(&came), expected);
            assert!(
                begun.elapsed() < Duration::from_secs(6),
                "{:?}",
                begun.elapsed()
            );
        }
    }

    #[tokio::test]
    async fn p6_who_waits_behind_requests_that_stand_still_does_not_wait_for_ever() {
        let server = Server::new(Act::Deaf).await;
        let http = server.http();
        http.batches.set_open(true);
        let _lanes = taken(&http);
        let error = http.get_together(&key(1), &version(1)).await.err().unwrap();
        assert_eq!(error.kind(), Kind::TimedOut);
    }

    #[tokio::test]
    async fn who_gave_up_is_not_asked_for() {
        let server = Server::new(batch(&good(1))).await;
        let http = Arc::new(server.http());
        http.batches.set_open(true);
        let mut lanes = taken(&http);
        let (key_0, version_0) = (key(0), version(0));
        let wanted = http.get_together(&key_0, &version_0);
        let gave_up = tokio::time::timeout(Duration::from_millis(1), wanted).await;
        assert!(gave_up.is_err());
        let other = http.clone();
        let stays =
            tokio::spawn(async move { other.get_together(&key(1), &version(1)).await.is_ok() });
        waiting(&http, 2).await;
        lanes.pop();
        assert!(stays.await.unwrap());
        assert!(!server.heard().contains("d/f0"), "{}", server.heard());
    }
}
