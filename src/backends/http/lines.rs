//! NDJSON as it arrives: lines of a bounded length, then the line with the cursor, then nothing.
//! In a batch of files each line has its file's bytes behind it.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;

use crate::error::{Error, Kind, Result};
use crate::object::Cursor;
use crate::wire::{LINE_MAX, Line};

/// Longest epoch that is believed.
const EPOCH_MAX: usize = 128;

/// What the next line is.
#[derive(Debug)]
pub enum Entry {
    /// About an object.
    Line(Line),
    /// The last one; nothing came after it.
    End(Cursor),
}

/// A listing on its way.
pub struct Lines {
    chunks: Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>,
    /// What came and was not given out yet.
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line end.
    searched: usize,
    stall: Duration,
}

impl Lines {
    /// Each chunk must come within `stall`.
    pub fn new(
        chunks: impl Stream<Item = Result<Bytes>> + Send + 'static,
        stall: Duration,
    ) -> Lines {
        Lines {
            chunks: Box::pin(chunks),
            buffer: BytesMut::new(),
            searched: 0,
            stall,
        }
    }

    /// The next line. Errors: `Corrupt` for what is no line, and for an end that is missing.
    pub async fn next(&mut self) -> Result<Entry> {
        let line = self.line().await?;
        if !line.is_end() {
            return Ok(Entry::Line(line));
        }
        let (Some(epoch), Some(seq)) = (line.epoch, line.seq) else {
            return Err(corrupt("a line has neither path nor cursor"));
        };
        if epoch.is_empty() || epoch.len() > EPOCH_MAX {
            return Err(corrupt("the listing's epoch is empty or too long"));
        }
        while self.fill().await? {}
        match self.buffer.trim_ascii().is_empty() {
            true => Ok(Entry::End(Cursor { epoch, seq })),
            false => Err(corrupt("the listing goes on after its end")),
        }
    }

    /// The next `length` bytes, which are no lines. Errors: `Corrupt` if so many do not come.
    pub(super) async fn bytes(&mut self, length: u64) -> Result<Vec<Bytes>> {
        let (mut pieces, mut left) = (Vec::new(), length);
        let within = |left: u64, have: usize| usize::try_from(left).map_or(have, |n| n.min(have));
        // What came already was searched for a line.
        self.searched = 0;
        if left > 0 && !self.buffer.is_empty() {
            let piece = self.buffer.split_to(within(left, self.buffer.len()));
            left -= piece.len() as u64;
            pieces.push(piece.freeze());
        }
        while left > 0 {
            let Some(mut chunk) = self.chunk().await? else {
                return Err(corrupt("the answer ended early"));
            };
            let piece = chunk.split_to(within(left, chunk.len()));
            left -= piece.len() as u64;
            pieces.push(piece);
            self.buffer.extend_from_slice(&chunk);
        }
        Ok(pieces)
    }

    /// The next line, whatever it is.
    pub(super) async fn line(&mut self) -> Result<Line> {
        loop {
            let fresh = &self.buffer[self.searched..];
            let Some(at) = fresh.iter().position(|b| *b == b'\n') else {
                self.searched = self.buffer.len();
                if !self.fill().await? {
                    return Err(corrupt("the listing ended early"));
                }
                continue;
            };
            let text = self.buffer.split_to(self.searched + at + 1);
            self.searched = 0;
            if text.len() > LINE_MAX {
                return Err(corrupt("a line of the listing is too long"));
            }
            return serde_json::from_slice(&text)
                .map_err(|_| corrupt("a line of the listing is not what it should be"));
        }
    }

    /// Takes the next chunk; false at the end.
    async fn fill(&mut self) -> Result<bool> {
        if self.searched > LINE_MAX {
            return Err(corrupt("a line of the listing is too long"));
        }
        match self.chunk().await? {
            Some(chunk) => self.buffer.extend_from_slice(&chunk),
            None => return Ok(false),
        }
        Ok(true)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match timeout(self.stall, self.chunks.next()).await {
            Ok(next) => next.transpose(),
            Err(_) => {
                let why = format!("the listing stalled for {} s", self.stall.as_secs_f32());
                Err(Error::new(Kind::TimedOut, why))
            }
        }
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(Kind::Corrupt, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn lines(text: &str, chunk: usize) -> Lines {
        let chunks: Vec<_> = text
            .as_bytes()
            .chunks(chunk)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        Lines::new(stream::iter(chunks), Duration::from_secs(5))
    }

    const GOOD: &str = concat!(
        "{\"path\":\"a\",\"size\":1,\"mtime_ns\":2,\"etag\":\"v\"}\n",
        "{\"seq\":7,\"path\":\"b\",\"deleted\":true}\n",
        "{\"epoch\":\"e\",\"seq\":9}\n",
    );

    #[tokio::test]
    async fn lines_come_whole_however_they_are_cut() {
        for chunk in [1, 2, 7, 64, 4096] {
            let mut lines = lines(GOOD, chunk);
            for _ in 0..2 {
                assert!(matches!(lines.next().await.unwrap(), Entry::Line(_)));
            }
            match lines.next().await.unwrap() {
                Entry::End(cursor) => assert_eq!((cursor.epoch.as_str(), cursor.seq), ("e", 9)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn p1_a_listing_that_is_not_whole_is_corrupt() {
        let long = format!("{{\"path\":\"{}\"}}\n", "x".repeat(LINE_MAX));
        for bad in [
            "",
            "{\"epoch\":\"e\",\"seq\":9}",
            "{}\n",
            "{\"epoch\":\"\",\"seq\":9}\n",
            "{\"epoch\":\"e\",\"seq\":9}\n{}\n",
            "\n",
            "<html>\n",
            long.as_str(),
            long.trim_end(),
        ] {
            let error = lines(bad, 1000).next().await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{bad:.40}");
        }
    }

    #[tokio::test]
    async fn p6_a_listing_that_stalls_ends() {
        let mut stuck = Lines::new(stream::pending(), Duration::from_millis(20));
        assert_eq!(stuck.next().await.unwrap_err().kind(), Kind::TimedOut);
    }
}
