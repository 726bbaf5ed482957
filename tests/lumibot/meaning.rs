//! What Lumibot's variables mean, by Lumibot's own word.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use larder::backends::url::{Place, RemoteUrl};
use larder::config::{ConfigFile, Environment, Flags, resolve_mount};
use serde_json::{Value, json};

use super::common::{Lab, eventually};
use super::{done, lumibot, program, store};

type Pairs = Vec<(&'static str, &'static str)>;

/// Environments that people may have.
fn environments() -> Vec<Pairs> {
    let base = [
        ("LUMIBOT_CACHE_BACKEND", "s3"),
        ("LUMIBOT_CACHE_MODE", "readwrite"),
        ("LUMIBOT_CACHE_S3_BUCKET", "quotes"),
    ];
    let with = |more: &[(&'static str, &'static str)]| {
        let mut pairs: Pairs = base.to_vec();
        for (name, value) in more {
            pairs.retain(|(known, _)| known != name);
            pairs.push((name, value));
        }
        pairs
    };
    let mut all = vec![Pairs::new(), with(&[])];
    for backend in ["local", "gcs", " S3 ", "", "s3x"] {
        all.push(with(&[("LUMIBOT_CACHE_BACKEND", backend)]));
    }
    for mode in [
        "disabled",
        "off",
        "LOCAL",
        "",
        " ",
        "rw",
        " ReadWrite ",
        "s3_readwrite",
        "readonly",
        "RO",
        "s3_readonly",
        "read-write",
        "Nonsense",
        "true",
    ] {
        all.push(with(&[("LUMIBOT_CACHE_MODE", mode)]));
        // The mode is looked at before the bucket, and neither where the backend is another.
        all.push(with(&[
            ("LUMIBOT_CACHE_MODE", mode),
            ("LUMIBOT_CACHE_S3_BUCKET", ""),
        ]));
        all.push(with(&[
            ("LUMIBOT_CACHE_MODE", mode),
            ("LUMIBOT_CACHE_BACKEND", "none"),
        ]));
    }
    for bucket in ["", "  ", " quotes "] {
        all.push(with(&[("LUMIBOT_CACHE_S3_BUCKET", bucket)]));
    }
    for prefix in [
        "",
        " ",
        "/",
        "p",
        "/stage/cache/",
        " /p//q/ ",
        "//p",
        "a b/c#d",
        "ü",
    ] {
        for version in ["", "/", "v2", " /v3/ ", "a/b"] {
            let both = [
                ("LUMIBOT_CACHE_S3_PREFIX", prefix),
                ("LUMIBOT_CACHE_S3_VERSION", version),
            ];
            all.push(with(&both));
        }
    }
    // Half a key is refused here at once; boto3 does so at its first use.
    for (region, id, secret) in [
        ("", "", ""),
        (" eu-west-1 ", " AKIAEXAMPLE ", " a-secret"),
        (" ", "AKIAEXAMPLE", "a-secret"),
    ] {
        all.push(with(&[
            ("LUMIBOT_CACHE_S3_REGION", region),
            ("LUMIBOT_CACHE_S3_ACCESS_KEY_ID", id),
            ("LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY", secret),
        ]));
    }
    all
}

fn by_lumibot(environments: &[Pairs]) -> Vec<Value> {
    let asked: Vec<_> = environments
        .iter()
        .map(|pairs| {
            pairs
                .iter()
                .copied()
                .collect::<std::collections::BTreeMap<_, _>>()
        })
        .collect();
    let mut command = program::<&str>("oracle.py", []);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(&asked).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same by us: off, an error, or where a file goes and who asks there.
fn by_us(pairs: &Pairs) -> Value {
    let mut flags = Flags::default();
    flags.set("profile", Some("lumibot"));
    let env = Environment::of(pairs);
    let resolved = resolve_mount(
        Path::new("/somewhere"),
        &ConfigFile::default(),
        &env,
        &flags,
    );
    let config = match resolved {
        Err(error) => {
            let text = error.to_string();
            return match text.contains("remote cache is off") {
                true => Value::Null,
                false => json!({"error": text}),
            };
        }
        Ok(resolved) => resolved.config,
    };
    let [remote] = &config.remotes[..] else {
        return Value::Null;
    };
    let url = RemoteUrl::parse(&remote.url).unwrap();
    let Place::S3(bucket) = url.place() else {
        panic!("{url}");
    };
    json!({
        "upload": url.options().upload,
        "bucket": bucket.name,
        "key": format!("{}/x/a b#.parquet", bucket.prefix),
        "region": bucket.region,
        "access_key_id": remote.credentials.access.as_ref().map(|access| access.id.clone()),
    })
}

#[test]
fn what_the_variables_mean_is_what_they_mean_to_lumibot() {
    let all = environments();
    for (pairs, theirs) in all.iter().zip(by_lumibot(&all)) {
        let ours = by_us(pairs);
        match theirs["error"].as_str() {
            Some(text) => {
                let said = ours["error"].as_str().unwrap_or_default();
                assert!(said.contains(text), "{pairs:?}: {ours}, not {text}");
            }
            None => assert_eq!(ours, theirs, "{pairs:?}"),
        }
    }
}

#[test]
fn the_cache_manager_works_on_a_mount() {
    let lab = Lab::new();
    let store = store();
    let mount = super::mounted(&lab, "mnt", &store, &[]);
    let mut pytest = std::process::Command::new(super::python::python());
    pytest
        .args([
            "-B",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--basetemp",
        ])
        .arg(mount.path("t"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lumibot/test_manager.py"));
    let said = done(pytest);
    assert!(said.contains("7 passed"), "{said}");
}

/// Nothing but the variables is needed: not even a mountpoint.
#[test]
fn the_variables_alone_are_enough_to_mount() {
    let lab = Lab::new();
    let store = store();
    let folder = lab.path("cache folder");
    let endpoint = store.endpoint();
    let mut env = lumibot(&endpoint, "readwrite", "v1");
    env.push(("LUMIBOT_CACHE_FOLDER", folder.to_str().unwrap()));
    store.place("stage/cache/v1/yahoo/a.pickle", "bytes");
    let run = |args: &[&str]| {
        let output = lab
            .larder()
            .envs(env.iter().copied())
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
    };
    run(&["mount", "--profile", "lumibot"]);
    eventually("the bucket's file is there", || {
        std::fs::read(folder.join("yahoo/a.pickle")).is_ok_and(|b| b == b"bytes")
    });
    run(&["umount", folder.to_str().unwrap()]);
    assert_eq!(
        std::fs::read(folder.join("yahoo/a.pickle")).unwrap(),
        b"bytes"
    );
}
