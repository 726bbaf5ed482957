//! `/debug/…`: logs that machines leave here, to be compared. In memory, and not many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::server::access::Need;
use crate::server::put::drain;
use crate::server::question::whole;

use super::Asked;
use super::answer::{Refusal, Reply, local_time, ok, written};
use super::path::value;

/// Machines that are remembered; the log that came first makes room.
const MACHINES: usize = 32;
/// Bytes of a log.
const BODY: usize = 1 << 20;
/// Differences that are told, and characters of a text in them.
const DIFFERENCES: usize = 10_000;
const TEXT: usize = 500;
/// What differs between machines as a matter of course.
const IGNORED: [&str; 3] = ["machine", "posted_at", "hostname"];

type Log = Map<String, Value>;

/// The logs by machine, each with its place in the order in which they came. They are kept as
/// text, which is as small as they were sent.
#[derive(Debug, Default)]
pub struct Logs(Mutex<BTreeMap<String, (u64, String)>>);

impl Logs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (u64, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, machine: &str, log: String) {
        let mut logs = self.lock();
        let next = logs.values().map(|(n, _)| n + 1).max().unwrap_or(0);
        logs.insert(machine.to_owned(), (next, log));
        while logs.len() > MACHINES {
            let oldest = logs.iter().min_by_key(|(_, (n, _))| *n);
            let Some(oldest) = oldest.map(|(machine, _)| machine.clone()) else {
                return;
            };
            logs.remove(&oldest);
        }
    }
}

/// `POST /debug/log`.
pub async fn post_log((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    let (parts, body) = request.into_parts();
    if let Err(problem) = app.access.check(Need::Write, peer.0, &parts.headers) {
        drain(&mut body.into_data_stream()).await;
        return Err(problem.into());
    }
    let body = whole(body, BODY).await?;
    let missing = || Refusal::bad("Missing machine field");
    let Ok(Value::Object(mut log)) = serde_json::from_slice(&body) else {
        return Err(missing());
    };
    let machine = match log.get("machine") {
        Some(Value::String(machine)) if !machine.is_empty() => machine.clone(),
        _ => return Err(missing()),
    };
    let now = local_time(app.activity.now_ms());
    log.insert("posted_at".to_owned(), now.into());
    app.fxcache.logs.put(&machine, Value::from(log).to_string());
    ok(&json!({ "machine": machine, "status": "ok" }))
}

/// `GET /debug/log`, of all or of one machine.
pub async fn read_log((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Read, peer.0, request.headers())?;
    let logs = app.fxcache.logs.lock();
    match value(request.uri(), "machine") {
        Some(machine) => match logs.get(&machine) {
            Some((_, log)) => Ok(written(StatusCode::OK, log.clone())),
            None => Err(none_for(&machine)),
        },
        None => {
            let one = |(machine, (_, log)): (&String, &(u64, String))| {
                format!("{}:{log}", Value::from(machine.as_str()))
            };
            let all: Vec<String> = logs.iter().map(one).collect();
            let all = format!("{{{}}}", all.join(","));
            Ok(written(StatusCode::OK, all))
        }
    }
}

fn none_for(machine: &str) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!("No log for machine: {machine}"),
    )
}

/// `GET /debug/log/list`.
pub async fn list((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Read, peer.0, request.headers())?;
    let logs = app.fxcache.logs.lock();
    let machines: Vec<&String> = logs.keys().collect();
    ok(&json!({ "count": machines.len(), "machines": machines }))
}

/// `GET /debug/compare?m1=&m2=`; without names the first two.
pub async fn compare((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Read, peer.0, request.headers())?;
    let logs = app.fxcache.logs.lock();
    let names: Vec<&String> = logs.keys().collect();
    let [first, second, ..] = names[..] else {
        let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
        let (have, names) = (names.len(), quoted.join(", "));
        return Err(Refusal::bad(format!("Need 2 logs, have {have}: [{names}]")));
    };
    let asked = |name, or: &String| value(request.uri(), name).unwrap_or_else(|| or.clone());
    let (m1, m2) = (asked("m1", first), asked("m2", second));
    let log = |machine: &String| {
        let (_, log) = logs.get(machine).ok_or_else(|| none_for(machine))?;
        Ok::<Log, Refusal>(serde_json::from_str(log).unwrap_or_default())
    };
    let mut comparison = Comparison {
        machines: (&m1, &m2),
        diffs: Vec::new(),
    };
    comparison.objects("", &log(&m1)?, &log(&m2)?);
    let diffs = comparison.diffs;
    ok(&json!({ "m1": m1, "m2": m2, "match": diffs.is_empty(), "diffs": diffs }))
}

struct Comparison<'a> {
    machines: (&'a str, &'a str),
    diffs: Vec<Value>,
}

impl Comparison<'_> {
    fn objects(&mut self, under: &str, a: &Log, b: &Log) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            match under {
                "" if IGNORED.contains(&key.as_str()) => {}
                "" => self.values(key, a.get(key), b.get(key)),
                _ => self.values(&format!("{under}.{key}"), a.get(key), b.get(key)),
            }
        }
    }

    fn values(&mut self, key: &str, a: Option<&Value>, b: Option<&Value>) {
        match (a, b) {
            (a, b) if a == b || self.diffs.len() >= DIFFERENCES => {}
            (Some(Value::Object(a)), Some(Value::Object(b))) => self.objects(key, a, b),
            (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
                for (i, (a, b)) in a.iter().zip(b).enumerate() {
                    self.values(&format!("{key}[{i}]"), Some(a), Some(b));
                }
            }
            (a, b) => {
                let mut diff = Map::new();
                diff.insert("key".to_owned(), key.into());
                diff.insert(self.machines.0.to_owned(), cut(a));
                diff.insert(self.machines.1.to_owned(), cut(b));
                self.diffs.push(diff.into());
            }
        }
    }
}

fn cut(value: Option<&Value>) -> Value {
    match value {
        Some(Value::String(text)) => text.chars().take(TEXT).collect::<String>().into(),
        Some(other) => other.clone(),
        None => Value::Null,
    }
}
