//! The house, held against the source: floors, confinements, sizes.
//!
//! Imports point down only; third parties stay where they are confined; files and
//! functions stay short. What is allowed beyond the rule stands here, with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "layers/source.rs"]
mod source;

use std::path::Path;

use source::Source;

/// Every module of the top level, by floor. On one floor nobody imports another,
/// except on the ground floor, which is the shared vocabulary.
const FLOORS: &[&[&str]] = &[
    &[
        "beneath", "clock", "config", "crash", "error", "legacy", "locks", "metrics", "object",
        "path", "secret", "wire", "writers",
    ],
    &["backends", "index", "store"],
    &["sync", "transfer"],
    &["overlay"],
    &["control", "fs", "server"],
    &["daemon"],
    &["cli", "lib", "main"],
];

const S3: &[&str] = &["backends/s3.rs", "backends/s3/"];

/// Third parties and the only places that may name them (prefixes below `src/`).
const CONFINED: &[(&str, &[&str])] = &[
    ("fuser", &["fs.rs", "fs/"]),
    ("rusqlite", &["index/", "legacy.rs"]),
    (
        "reqwest",
        &[
            "backends/http.rs",
            "backends/http/",
            "backends/fxcache.rs",
            "backends/fxcache/",
        ],
    ),
    ("aws_config", S3),
    ("aws_sdk_s3", S3),
    ("aws_smithy_checksums", S3),
    ("aws_smithy_http_client", S3),
    ("http_body", S3),
    ("md5", S3),
    ("mime_guess", S3),
    ("url", &["backends/"]),
    ("axum", &["server/"]),
    ("hyper", &["server/", "backends/http/failure.rs"]),
    ("s3s", &["server/s3/"]),
    ("hyper_util", &["server/"]),
    ("tower_http", &["server/"]),
    ("tokio_rustls", &["server/"]),
    ("rustls", &["server/", "backends/http.rs", "backends/http/"]),
    ("notify", &["server/watch.rs"]),
    ("similar", &["overlay/compare.rs"]),
    ("clap", &["cli.rs", "cli/"]),
    ("indicatif", &["cli/show.rs"]),
    ("jiff", &["cli/show.rs", "server/fxcache/answer.rs"]),
    ("tracing_subscriber", &["cli/log.rs"]),
    ("toml", &["config/"]),
    ("strsim", &["config/"]),
    ("globset", &["config/"]),
    (
        "libc",
        &[
            "beneath.rs",
            "beneath/",
            "store/",
            "fs.rs",
            "fs/",
            // Numbers of errors that have no kind of their own.
            "error.rs",
            // One fcntl that no safe crate offers.
            "writers.rs",
            // O_NOFOLLOW for the log file.
            "cli/log.rs",
        ],
    ),
    (
        "rustix",
        &[
            "beneath.rs",
            "beneath/",
            "store/",
            "fs.rs",
            "fs/",
            // Who asks at the socket: user and process.
            "control/",
            // Making a daemon: session, standard output, the mount's end, free space.
            "cli/background.rs",
            "cli/guard.rs",
            "cli/doctor/",
        ],
    ),
];

/// Lines of a file without its tests, and of a function.
const FILE_MOST: usize = 600;
const FUNCTION_MOST: usize = 100;

fn library() -> Vec<Source> {
    let sources = source::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 20, "the source was not found");
    sources
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_module_has_its_floor() {
    let faults = library()
        .iter()
        .filter(|source| floor(source.module()).is_none())
        .map(|source| format!("{}: on no floor; put it into the table", source.path))
        .collect();
    none(faults);
}

#[test]
fn imports_point_down_only() {
    let mut faults = Vec::new();
    for source in library() {
        let own = source.module();
        let Some(here) = floor(own) else { continue };
        for named in source.named() {
            let Some(there) = floor(&named) else { continue };
            let allowed = named == own || there < here || (here == 0 && there == 0);
            if !allowed {
                let text = format!(
                    "{} (floor {here}) imports {named} (floor {there})",
                    source.path
                );
                faults.push(text);
            }
        }
    }
    none(faults);
}

#[test]
fn third_parties_stay_where_they_are_confined() {
    let mut faults = Vec::new();
    for source in library().iter().filter(|source| !source.is_test()) {
        for (name, places) in CONFINED {
            let allowed = places.iter().any(|place| match place.ends_with('/') {
                true => source.path.starts_with(place),
                false => source.path == *place,
            });
            if !allowed && source.uses(name) {
                faults.push(format!("{} uses {name}", source.path));
            }
        }
    }
    none(faults);
}

#[test]
fn every_file_says_what_it_owns() {
    let silent = |source: &&Source| !source.text.starts_with("//!");
    let sources = library();
    let faults = sources.iter().filter(silent);
    none(
        faults
            .map(|s| format!("{}: no //! at its head", s.path))
            .collect(),
    );
}

#[test]
fn files_and_functions_are_short() {
    let mut faults = Vec::new();
    for source in library().iter().filter(|source| !source.is_test()) {
        let lines = source.untested().lines().count();
        if lines > FILE_MOST {
            faults.push(format!("{}: {lines} lines without its tests", source.path));
        }
        for (name, first, lines) in source.functions() {
            if lines > FUNCTION_MOST {
                faults.push(format!("{}:{first}: {name} has {lines} lines", source.path));
            }
        }
    }
    none(faults);
}

#[test]
fn the_reader_of_source_reads_it() {
    let text = "use crate::{a::{b, c}, d, E};\n// crate::x\nlet s = \"crate::y { }\"; let c = '{'; fn f<'a>() {\n}\n/* fuser:: */ r#\"libc::\"#; rustix::f();\n#[cfg(test)]\nmod tests {\n fn g() { {} }\n}\n";
    let source = Source {
        path: "overlay/x.rs".into(),
        text: text.into(),
        code: source::code(text),
    };
    assert_eq!(source.module(), "overlay");
    assert_eq!(source.named(), ["a", "d"]);
    assert!(source.uses("rustix") && !source.uses("fuser") && !source.uses("libc"));
    assert_eq!(source.functions(), [("f".into(), 3, 2), ("g".into(), 8, 1)]);
    assert!(!source.untested().contains("fn g"));
    assert_eq!(source.code.lines().count(), text.lines().count());
}
