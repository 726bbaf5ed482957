//! `/refresh`, `/refresh/status` and `/rebuild`: our sweep, in this protocol's words.
//!
//! Every mode notices everything: deletions, renames and old times too.

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::server::App;
use crate::server::access::Need;
use crate::server::refresh::{Mode, Phase};

use super::Asked;
use super::answer::{self, Refusal, Reply, local_time, ok, tenths};
use super::path::value;

/// `POST /refresh?mode=`.
pub async fn refresh((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Write, peer.0, request.headers())?;
    let asked = value(request.uri(), "mode").unwrap_or_else(|| "auto".to_owned());
    let mode = match asked.as_str() {
        "full" => Mode::Full,
        "incremental" => Mode::Incremental,
        "auto" if app.tree.index.is_scanned() => Mode::Incremental,
        "auto" => Mode::Full,
        _ => {
            let why = "Invalid mode. Use: auto, full, incremental";
            return Err(Refusal::bad(why));
        }
    };
    start(&app, mode, &asked, "Database refresh started in background")
}

/// `/rebuild`.
pub async fn rebuild((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Write, peer.0, request.headers())?;
    let message = "Full rebuild started (walks entire FXCACHE)";
    start(&app, Mode::Full, "full", message)
}

fn start(app: &App, mode: Mode, asked: &str, message: &str) -> Reply {
    if !app.refresh.ask(mode) {
        let running = json!({ "status": "already_running" });
        return Ok(answer::json(StatusCode::CONFLICT, &running));
    }
    app.sweeps.ask();
    ok(&json!({ "message": message, "mode": asked, "status": "started" }))
}

/// `GET /refresh/status`.
pub async fn status((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Read, peer.0, request.headers())?;
    ok(&told(&app.refresh.phase(), app.refresh.so_far()))
}

fn told(phase: &Phase, (files, found): (u64, u64)) -> Value {
    let running = |mode, since_ms, files, found| {
        json!({
            "status": "running",
            "mode": word(mode),
            "files_scanned": files,
            "files_added": found,
            "started_at": local_time(since_ms),
        })
    };
    match phase {
        Phase::Asked { mode, since_ms } => running(*mode, *since_ms, 0, 0),
        Phase::Running { mode, since_ms } => running(*mode, *since_ms, files, found),
        Phase::Done {
            mode: Mode::Full,
            tally,
            total,
            took,
        } => json!({
            "status": "complete",
            "mode": "full",
            "total_files": total,
            "stale_removed": tally.gone,
            "duration_seconds": tenths(took.as_secs_f64()),
        }),
        Phase::Done { tally, took, .. } => json!({
            "status": "complete",
            "mode": "incremental",
            "files_scanned": tally.files,
            "files_added": tally.differences.saturating_sub(tally.gone),
            "duration_seconds": tenths(took.as_secs_f64()),
        }),
        Phase::Failed(error) => json!({ "status": "error", "error": error }),
    }
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Full => "full",
        Mode::Incremental => "incremental",
    }
}
