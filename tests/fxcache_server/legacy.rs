//! What an FXCACHE server leaves behind, and the ways in which it was started.

use std::fs;

use rusqlite::Connection;

use crate::common::{Lab, put};
use crate::support::{Site, fill};

const TABLES: &str = "
    CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime REAL NOT NULL);
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    INSERT INTO files VALUES ('TB/a.pkl', 99, 1.0), ('TB/gone.pkl', 5, 1.0);";

fn left(lab: &Lab) -> std::path::PathBuf {
    let root = lab.dir("root");
    fill(&root);
    let path = root.join(".fxcache_index.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(TABLES)
        .unwrap();
    path
}

#[tokio::test]
async fn p2_an_index_that_was_left_is_used_until_everything_was_seen() {
    let lab = Lab::new();
    let path = left(&lab);
    let before = fs::read(&path).unwrap();
    let site = Site::start(lab, &[]);
    let said = site.said();
    let note = said.iter().find(|line| line.contains("FXCACHE server"));
    assert!(
        note.is_some_and(|note| note.contains("2 files")),
        "{said:?}"
    );
    // Now everything was seen, and only the truth is left.
    let known = site.client.get("/exists?path=TB/a.pkl").await.json();
    assert_eq!(known["size"], 5);
    assert!(!site.client.exists("TB/gone.pkl").await);
    assert_eq!(site.client.get("/health").await.json()["db_file_count"], 5);
    // It is read only, and a second start has no use for it.
    let lab = site.stop();
    assert_eq!(fs::read(&path).unwrap(), before);
    let site = Site::start(lab, &[]);
    let said = site.said();
    assert!(
        !said.iter().any(|line| line.contains("FXCACHE server")),
        "{said:?}"
    );
}

#[tokio::test]
async fn p10_an_index_that_is_damaged_or_something_else_is_one_line() {
    for content in [&b"no database"[..], &[0x55; 9000], b""] {
        let lab = Lab::new();
        fill(&lab.dir("root"));
        put(&lab.path("root/.fxcache_index.db"), content);
        let site = Site::start(lab, &[]);
        let said = site.said();
        let lines = said
            .iter()
            .filter(|line| line.contains(".fxcache_index.db"));
        assert_eq!(lines.count(), 1, "{said:?}");
        assert!(site.client.exists("TB/a.pkl").await);
        assert_eq!(fs::read(site.path(".fxcache_index.db")).unwrap(), content);
    }
}

#[tokio::test]
async fn it_is_started_as_the_original_is() {
    let lab = Lab::new();
    let root = lab.dir("root");
    fill(&root);
    let mut command = lab.larder();
    command
        .arg("serve")
        .env("FXCACHE_PATH", &root)
        .env("FXCACHE_SERVER_HOST", "127.0.0.1")
        .env("FXCACHE_SERVER_PORT", "0");
    let site = Site::run(lab, root.clone(), command);
    site.client.refreshed().await;
    assert!(site.client.exists("TB/a.pkl").await);
    let lab = site.stop();
    let mut command = lab.larder();
    command
        .args([
            "serve",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--fxcache-path",
        ])
        .arg(&root)
        .env("FXCACHE_PATH", "/nowhere");
    let site = Site::run(lab, root, command);
    assert!(site.client.exists("TB/a.pkl").await);
    let lab = site.stop();
    let twice = lab.run(["serve", "--fxcache-path", "/a", "/b"]);
    assert!(!twice.status.success());
    let mut command = lab.larder();
    let bad = command
        .arg("serve")
        .env("FXCACHE_PATH", "/tmp")
        .env("FXCACHE_SERVER_PORT", "x");
    let said = bad.output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("FXCACHE_SERVER_PORT"));
}
