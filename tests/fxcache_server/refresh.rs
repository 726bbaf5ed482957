//! Refreshing: what may be asked for, how it is told, and that every mode notices everything.

use std::fs;

use serde_json::json;

use crate::common::{bytes, put};
use crate::support::{Site, at};

/// Check 10.
#[tokio::test]
async fn one_refresh_at_a_time_and_each_is_told() {
    let site = Site::new(&[]).await;
    // Enough to go through that the second question comes while the first sweep goes on.
    for n in 0..3000 {
        put(&site.path(&format!("many/{}/{n}", n % 10)), b"x");
    }
    let mut both = false;
    for _ in 0..20 {
        let (first, second) = tokio::join!(
            site.client.post("/refresh?mode=full", b""),
            site.client.post("/refresh?mode=full", b"")
        );
        let running = site.client.get("/refresh/status").await.json();
        let mut answers = [first, second];
        answers.sort_by_key(|answer| answer.status);
        assert_eq!(
            answers[0].json(),
            json!({ "message": "Database refresh started in background", "mode": "full", "status": "started" })
        );
        if answers[1].status == 409 {
            assert_eq!(answers[1].json(), json!({ "status": "already_running" }));
            if running["status"] == "running" {
                assert_eq!(running["mode"], "full");
                assert_eq!(running["started_at"].as_str().unwrap().len(), 19);
                assert!(running["files_scanned"].is_u64() && running["files_added"].is_u64());
                both = true;
            }
        }
        let done = site.client.refreshed().await;
        assert_eq!(done["status"], "complete");
        assert_eq!(done["mode"], "full");
        assert!(done["stale_removed"].is_u64() && done["duration_seconds"].is_f64());
        if both && done["total_files"] == 3005 {
            break;
        }
    }
    assert!(both, "a refresh was never seen running");
    let invalid = "Invalid mode. Use: auto, full, incremental".to_owned();
    let answer = site.client.post("/refresh?mode=bogus", b"").await;
    assert_eq!(answer.error(), (400, invalid));
    let started = site.client.post("/refresh", b"").await.json();
    assert_eq!(started["mode"], "auto");
    let done = site.client.refreshed().await;
    assert_eq!(done["mode"], "incremental");
    assert_eq!(done["files_scanned"], 3005);
    let answer = site.client.get("/rebuild").await.json();
    assert_eq!(
        answer["message"],
        "Full rebuild started (walks entire FXCACHE)"
    );
    assert_eq!(site.client.refreshed().await["total_files"], 3005);
}

/// Check 11. The original shows none of the three.
#[tokio::test]
async fn p8_an_incremental_refresh_notices_what_was_done_behind_its_back() {
    let site = Site::new(&[]).await;
    put(&site.path("TB/moved.pkl"), b"moved");
    put(&site.path("TB/edited.pkl"), b"before");
    site.client.post("/refresh?mode=full", b"").await;
    site.client.refreshed().await;
    fs::remove_file(site.path("TB/a.pkl")).unwrap();
    fs::rename(site.path("TB/moved.pkl"), site.path("TB/named.pkl")).unwrap();
    put(&site.path("TB/old.pkl"), b"old");
    at(&site.path("TB/old.pkl"), 1_577_836_800, 0);
    put(&site.path("TB/edited.pkl"), &bytes(3, 17));
    at(&site.path("TB/edited.pkl"), 1_577_836_800, 0);
    let started = site.client.post("/refresh?mode=incremental", b"").await;
    assert_eq!(started.status, 200);
    assert_eq!(site.client.refreshed().await["status"], "complete");
    for (path, there) in [
        ("TB/a.pkl", false),
        ("TB/moved.pkl", false),
        ("TB/named.pkl", true),
    ] {
        assert_eq!(site.client.exists(path).await, there, "{path}");
    }
    let old = site.client.get("/exists?path=TB/old.pkl").await.json();
    assert_eq!(
        old,
        json!({ "exists": true, "mtime": 1_577_836_800.0, "size": 3 })
    );
    let edited = site.client.get("/exists?path=TB/edited.pkl").await.json();
    assert_eq!(edited["size"], 17);
    assert_eq!(site.client.get("/health").await.json()["db_file_count"], 7);
}

#[tokio::test]
async fn p8_and_without_any_refresh_too() {
    let site = Site::new(&[]).await;
    put(&site.path("TB/new.pkl"), b"new");
    fs::remove_file(site.path("TB/a.pkl")).unwrap();
    let begun = std::time::Instant::now();
    while !site.client.exists("TB/new.pkl").await || site.client.exists("TB/a.pkl").await {
        assert!(begun.elapsed() < crate::common::SOON, "never noticed");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
