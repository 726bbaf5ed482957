//! A mount made from Lumibot's environment alone, in Lumibot's own folder.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use super::SPY;
use super::common::{Lab, Mount, eventually, is_mounted, put};
use super::s3::{BUCKET, Habits, KEY, Op, S3Server, SECRET};

/// What Lumibot's user has set, with `more` over it.
fn environment(server: &S3Server, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let endpoint = server.endpoint();
    let base = [
        ("LUMIBOT_CACHE_BACKEND", "s3"),
        ("LUMIBOT_CACHE_MODE", "readwrite"),
        ("LUMIBOT_CACHE_S3_BUCKET", BUCKET),
        ("LUMIBOT_CACHE_S3_PREFIX", "/prod/cache/"),
        ("LUMIBOT_CACHE_S3_REGION", "us-east-1"),
        ("LUMIBOT_CACHE_S3_ACCESS_KEY_ID", KEY),
        ("LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY", SECRET),
        ("AWS_ENDPOINT_URL_S3", &endpoint),
    ];
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    base.iter().chain(more).map(own).collect()
}

/// Lumibot's own folder in the home of the laboratory.
fn folder(lab: &Lab) -> PathBuf {
    lab.path("home/.cache/lumibot/1.0")
}

fn run(lab: &Lab, env: &[(String, String)], words: &[&str]) -> Output {
    let output = lab.larder().envs(env.to_vec()).args(words).output();
    output.unwrap()
}

/// Mounts without naming a folder or a remote.
fn mount<'a>(lab: &'a Lab, env: &[(String, String)], words: &[&str]) -> Mount<'a> {
    let words = [&["mount", "--profile", "lumibot"][..], words].concat();
    let output = run(lab, env, &words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let at = folder(lab);
    assert!(is_mounted(&at), "{said}");
    Mount { lab, at }
}

#[test]
fn lumibots_environment_is_all_that_a_mount_needs_and_keys_are_lumibots() {
    let (lab, server) = (Lab::new(), S3Server::start(Habits::default()));
    let key = format!("prod/cache/v1/{SPY}");
    server.place(&key, "bars");
    server.place("prod/cache/v2/other.parquet", "of another version");
    let env = environment(&server, &[]);
    let mount = mount(&lab, &env, &[]);
    assert_eq!(fs::read(mount.path(SPY)).unwrap(), b"bars");
    assert!(!mount.path("other.parquet").exists());

    let chain = "thetadata/option/option_chains/SPY_2025-09-15.parquet";
    put(&mount.path(chain), b"chain");
    put(&mount.path(format!("{chain}.meta.json")), b"{}");
    for local in [".s3tmp", ".s3key", ".s3key.tmp", ".lock", ".tmp"] {
        put(&mount.path(format!("{chain}{local}")), b"local");
    }
    put(&mount.path("binance/BTC_USDT_1m.duckdb"), b"in use");
    put(&mount.path("binance/BTC_USDT_1m.duckdb.wal"), b"in use");
    mount.flush();
    let stored = server.object(&format!("prod/cache/v1/{chain}")).unwrap();
    assert_eq!(stored.bytes, "chain");
    let keys = server.keys();
    let new: Vec<_> = keys.iter().filter(|key| key.contains("SPY_2025")).collect();
    assert_eq!(new.len(), 2, "{new:?}");
    assert!(!keys.iter().any(|key| key.contains("duckdb")), "{keys:?}");

    // Each by its profile alone.
    let output = run(&lab, &env, &["status", "--profile", "lumibot"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let remote = format!("s3://{BUCKET}/prod/cache/v1");
    assert!(
        text.contains(&remote) && text.contains("takes uploads"),
        "{text}"
    );
    assert!(!text.contains(SECRET), "{text}");
    eventually("it is unmounted", || {
        run(&lab, &env, &["umount", "--profile", "lumibot"]);
        !is_mounted(&folder(&lab))
    });
    assert_eq!(fs::read(folder(&lab).join(SPY)).unwrap(), b"bars");
}

#[test]
fn in_readonly_mode_everything_can_be_written_and_nothing_goes_up() {
    let (lab, server) = (Lab::new(), S3Server::start(Habits::default()));
    server.place(&format!("prod/cache/v1/{SPY}"), "bars");
    let env = environment(&server, &[("LUMIBOT_CACHE_MODE", " RO ")]);
    // Not even where all remotes are to have what is written.
    let mount = mount(&lab, &env, &["--upload"]);
    fs::write(mount.path(SPY), b"mine").unwrap();
    put(&mount.path("yahoo/SPY_bars.pickle"), b"mine");
    fs::remove_file(mount.path("yahoo/SPY_bars.pickle")).unwrap();
    mount.flush();
    assert_eq!(fs::read(mount.path(SPY)).unwrap(), b"mine");
    let status = mount.status();
    assert_eq!(status["upload"], false);
    assert_eq!(status["read_only"], false);
    assert_eq!(server.keys(), [format!("prod/cache/v1/{SPY}")]);
    assert_eq!(server.object(&server.keys()[0]).unwrap().bytes, "bars");
    assert_eq!((server.count(Op::Put), server.count(Op::Delete)), (0, 0));
}

#[test]
fn another_version_is_another_cache() {
    let (lab, server) = (Lab::new(), S3Server::start(Habits::default()));
    server.place(&format!("prod/cache/v1/{SPY}"), "bars");
    let one = mount(&lab, &environment(&server, &[]), &[]);
    fs::read(one.path(SPY)).unwrap();
    one.unmount();
    let env = environment(&server, &[("LUMIBOT_CACHE_S3_VERSION", "/v2/")]);
    let two = mount(&lab, &env, &[]);
    two.sync();
    assert_eq!(fs::read_dir(&two.at).unwrap().count(), 0);
    put(&two.path("yahoo/SPY_bars.pickle"), b"new");
    two.flush();
    let wanted = [
        format!("prod/cache/v1/{SPY}"),
        "prod/cache/v2/yahoo/SPY_bars.pickle".to_owned(),
    ];
    assert_eq!(server.keys(), wanted);
}

#[test]
fn what_is_nearer_is_asked_first_and_the_bucket_gets_what_is_written() {
    let (lab, server) = (Lab::new(), S3Server::start(Habits::default()));
    server.place(&format!("prod/cache/v1/{SPY}"), "bars");
    server.place("prod/cache/v1/far.parquet", "far");
    let near = lab.dir("near");
    put(&near.join(SPY), b"bars");
    let url = format!("file://{}?rate=50MiB&requests=4", near.display());
    let mount = mount(&lab, &environment(&server, &[]), &["--remote", &url]);
    // Whoever was listed first is asked until the other was.
    mount.sync();
    assert_eq!(fs::read(mount.path(SPY)).unwrap(), b"bars");
    assert_eq!(server.count(Op::Get), 0);
    assert_eq!(fs::read(mount.path("far.parquet")).unwrap(), b"far");
    assert_eq!(server.count(Op::Get), 1);
    put(&mount.path("new.parquet"), b"new");
    mount.flush();
    assert!(server.object("prod/cache/v1/new.parquet").is_some());
    assert!(!near.join("new.parquet").exists());
}
