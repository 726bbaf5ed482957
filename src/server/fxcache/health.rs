//! `/health`.

use std::time::{Duration, SystemTime};

use axum::extract::{Extension, Request, State};
use serde_json::json;

use crate::server::access::Need;

use super::Asked;
use super::answer::{Reply, local_time, ok, tenths};

/// `GET /health`. The one answer that has an absolute path: clients know the server by it.
pub async fn health((State(app), Extension(peer)): Asked, request: Request) -> Reply {
    app.counters.other();
    app.access.check(Need::Read, peer.0, request.headers())?;
    let activity = &app.activity;
    let began = u64::try_from(activity.began_ms).unwrap_or(0);
    let uptime = activity.now_ms().saturating_sub(activity.began_ms);
    let heard = app.fxcache.legacy().map_or(0, |legacy| legacy.files());
    ok(&json!({
        "db_file_count": app.tree.index.totals().0.max(heard),
        "fxcache_path": app.tree.root.path().to_string_lossy(),
        "last_refresh": app.refresh.last().map(|last| local_time(last.at_ms)),
        "stats": {
            "bytes_received": activity.received.get(),
            "bytes_sent": activity.sent.get(),
            "downloads": activity.downloads.get(),
            "errors": activity.errors.get(),
            "exists_checks": activity.exists.get(),
            "start_time": httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(began)),
            "uploads": activity.uploads.get(),
        },
        "status": "ok",
        "uptime_seconds": tenths(uptime as f64 / 1000.0),
    }))
}
