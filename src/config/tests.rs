//! The layers from outside: what wins, what is refused, what is shown.

use super::*;
use std::path::Path;

const MNT: &str = "/data/FXCACHE";

fn file(text: &str) -> crate::error::Result<ConfigFile> {
    ConfigFile::parse(text, Path::new("/etc/larder.toml"), Some("/home/u".into()))
}

fn mount(
    text: &str,
    env: &[(&str, &str)],
    flags: &Flags,
) -> crate::error::Result<Resolved<MountConfig>> {
    resolve_mount(Path::new(MNT), &file(text)?, &Environment::of(env), flags)
}

fn serve(
    text: &str,
    env: &[(&str, &str)],
    flags: &Flags,
) -> crate::error::Result<Resolved<ServeSettings>> {
    resolve_serve(&file(text)?, &Environment::of(env), flags)
}

fn source(resolved: &Resolved<MountConfig>, name: &str) -> String {
    let line = resolved.shown.iter().find(|s| s.name == name).unwrap();
    format!("{} <- {}", line.value, line.source)
}

#[test]
fn later_layers_win_and_say_who_they_are() {
    let text = "[mount]\nmax_size = \"1GiB\"\nthreads = 2\n[mounts.\"/data/FXCACHE\"]\nmax_size = \"2GiB\"\n[mounts.\"/other\"]\nmax_size = \"9GiB\"\n";
    let got = mount(text, &[], &Flags::default()).unwrap();
    assert_eq!(got.config.max_size, Some(2 << 30));
    assert_eq!(
        source(&got, "max_size"),
        "2GiB <- /etc/larder.toml [/data/FXCACHE]"
    );
    assert_eq!(source(&got, "threads"), "2 <- /etc/larder.toml [mount]");
    assert_eq!(source(&got, "min_free"), "1GiB <- default");

    let env = [("LARDER_MAX_SIZE", "3G")];
    let got = mount(text, &env, &Flags::default()).unwrap();
    assert_eq!(
        source(&got, "max_size"),
        "3GiB <- environment LARDER_MAX_SIZE"
    );

    let mut flags = Flags::default();
    flags.set("max_size", ["4G"]);
    let got = mount(text, &env, &flags).unwrap();
    assert_eq!(got.config.max_size, Some(4 << 30));
    assert_eq!(source(&got, "max_size"), "4GiB <- flag --max-size");
}

#[test]
fn the_fxcache_variables_work_as_they_are() {
    let env = [
        ("REMOTE_FXCACHE_URL", "http://10.0.0.2:5002"),
        ("REMOTE_FXCACHE_MODE", "stream"),
        ("REMOTE_FXCACHE_UPLOAD", "true"),
        ("FXCACHE_PATH", "/srv/FXCACHE"),
        ("FXCACHE_SERVER_PORT", "5003"),
        ("FXCACHE_SERVER_HOST", "127.0.0.1"),
    ];
    let got = mount("", &env, &Flags::default()).unwrap().config;
    assert_eq!(got.remotes[0].url, "http://10.0.0.2:5002");
    assert!(got.stream && got.upload);
    let got = serve("", &env, &Flags::default()).unwrap().config;
    assert_eq!((got.dir, got.port), ("/srv/FXCACHE".into(), 5003));
    assert_eq!(got.host, "127.0.0.1");

    let off = [("REMOTE_FXCACHE_URL", ""), ("REMOTE_FXCACHE_MODE", "cache")];
    let got = mount("", &off, &Flags::default()).unwrap().config;
    assert!(got.remotes.is_empty() && !got.stream && !got.upload);
    let ours = [
        ("REMOTE_FXCACHE_URL", "http://a:1"),
        ("LARDER_REMOTE", "http://b:1 file:///c"),
    ];
    let got = mount("", &ours, &Flags::default()).unwrap().config;
    let urls: Vec<_> = got.remotes.iter().map(|r| r.url.as_str()).collect();
    assert_eq!(urls, ["http://b:1", "file:///c"]);
}

#[test]
fn a_bad_value_names_itself_its_source_and_what_is_allowed() {
    let refusal = |env: &[(&str, &str)]| mount("", env, &Flags::default()).unwrap_err().to_string();
    let text = refusal(&[("REMOTE_FXCACHE_MODE", "turbo")]);
    assert_eq!(
        text,
        "stream = \"turbo\" (from environment REMOTE_FXCACHE_MODE) is not usable: it must be cache or stream"
    );
    for (name, value, allowed) in [
        ("LARDER_MAX_SIZE", "20XB", "20GiB"),
        ("LARDER_MAX_SIZE", "0", "none for no limit"),
        ("LARDER_OFFLINE", "maybe", "hide or error"),
        ("LARDER_CONFLICTS", "x", "keep-both or local-wins"),
        ("LARDER_UPLOAD", "perhaps", "true or false"),
        ("LARDER_THREADS", "0", "1 to 64"),
        ("LARDER_REFRESH", "30", "30s"),
        ("LARDER_REMOTE", "nas", "http://"),
        ("LARDER_EXCLUDE", "a[", "pattern"),
    ] {
        let text = refusal(&[(name, value)]);
        assert!(text.contains(value) && text.contains(allowed), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let text = serve(
        "",
        &[("FXCACHE_SERVER_PORT", "five"), ("FXCACHE_PATH", "/x")],
        &Flags::default(),
    );
    assert!(
        text.unwrap_err()
            .to_string()
            .contains("a port from 0 to 65535")
    );
    let text = mount("[mount]\nthreads = 1.5\n", &[], &Flags::default()).unwrap_err();
    assert!(
        text.to_string().contains("/etc/larder.toml [mount]"),
        "{text}"
    );
}

#[test]
fn unknown_words_name_the_nearest() {
    let refusal = |text| file(text).unwrap_err().to_string();
    assert!(refusal("[mount]\nmaxsize = 1\n").contains("did you mean `max_size`?"));
    assert!(refusal("[mounts.\"/x\"]\nuplaod = true\n").contains("did you mean `upload`?"));
    assert!(refusal("[server]\n").contains("did you mean `serve`?"));
    assert!(refusal("[mounts.x]\n").contains("starts with /"));
    assert!(refusal("[mount]\nmax_size = \n").starts_with("line 2: "));
    let notes = mount("", &[("LARDER_MAXSIZE", "1G")], &Flags::default())
        .unwrap()
        .notes;
    assert_eq!(
        notes,
        ["LARDER_MAXSIZE is not a setting; did you mean LARDER_MAX_SIZE?"]
    );
}

#[test]
fn p10_keys_come_from_safe_places_and_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, "from-file\n").unwrap();
    let key_file = key_file.to_str().unwrap();
    let env = [
        ("LARDER_KEY", "sesame"),
        ("LARDER_REMOTE", "http://u:pw@h:1"),
    ];

    let got = mount("", &env, &Flags::default()).unwrap();
    assert_eq!(
        got.config.remotes[0].credentials.key,
        Some(Secret::new("sesame").unwrap())
    );
    let everything = format!(
        "{:?} {:?}",
        got.shown, got.config.remotes[0].credentials.key
    );
    assert!(
        !everything.contains("sesame") && !everything.contains("pw"),
        "{everything}"
    );

    let both = [
        ("LARDER_KEY", "sesame"),
        ("LARDER_REMOTE", "file:///c http://b:1"),
    ];
    let got = mount("", &both, &Flags::default()).unwrap().config;
    assert!(got.remotes[0].credentials.key.is_none() && got.remotes[1].credentials.key.is_some());

    let mut flags = Flags::default();
    flags.set("key_file", [key_file]);
    let got = mount("", &env, &flags).unwrap();
    assert_eq!(
        got.config.remotes[0].credentials.key,
        Some(Secret::new("from-file").unwrap())
    );
    assert!(
        got.notes.iter().any(|n| n.contains("chmod 600")),
        "{:?}",
        got.notes
    );

    let large = dir.path().join("large");
    std::fs::write(&large, "k".repeat(5000)).unwrap();
    flags.set("key_file", [large.to_str().unwrap()]);
    let refused = mount("", &env, &flags).unwrap_err().to_string();
    assert!(refused.contains("larger than 4,096 bytes"), "{refused}");

    let refused = file("[mount]\nkey = \"sesame\"\n").unwrap_err().to_string();
    assert!(
        refused.contains("key_file") && !refused.contains("sesame"),
        "{refused}"
    );

    let text = format!(
        "[mount]\nremote = [{{ url = \"http://a:1\", key_file = \"{key_file}\" }}, \"http://b:1\"]\n"
    );
    let got = mount(&text, &[("LARDER_KEY", "sesame")], &Flags::default())
        .unwrap()
        .config;
    assert_eq!(
        got.remotes[0].credentials.key,
        Some(Secret::new("from-file").unwrap())
    );
    assert_eq!(
        got.remotes[1].credentials.key,
        Some(Secret::new("sesame").unwrap())
    );
}

const S3_KEY: &[(&str, &str)] = &[
    ("LARDER_S3_ACCESS_KEY_ID", " AKIA1 "),
    ("LARDER_S3_SECRET_ACCESS_KEY", "sesame"),
    ("LARDER_S3_SESSION_TOKEN", "token-1"),
];

#[test]
fn p10_access_keys_go_to_buckets_only() {
    let remotes = (
        "LARDER_REMOTE",
        "http://a:1 s3://b/p?upload S3://c file:///d",
    );
    let env = [&[remotes, ("LARDER_KEY", "lan-key")][..], S3_KEY].concat();
    let got = mount("", &env, &Flags::default()).unwrap();
    let who: Vec<_> = got
        .config
        .remotes
        .iter()
        .map(|r| (r.credentials.key.is_some(), r.credentials.access.is_some()))
        .collect();
    assert_eq!(
        who,
        [(true, false), (false, true), (false, true), (false, false)]
    );
    let access = got.config.remotes[1].credentials.access.clone().unwrap();
    assert_eq!(access.id, "AKIA1");
    assert_eq!(access.secret, Secret::new("sesame").unwrap());
    assert_eq!(access.session, Some(Secret::new("token-1").unwrap()));
    let everything = format!("{:?} {:?}", got.shown, got.config);
    for secret in ["sesame", "token-1", "lan-key"] {
        assert!(!everything.contains(secret), "{everything}");
    }
    let none = mount("", &[remotes], &Flags::default()).unwrap().config;
    assert!(none.remotes.iter().all(|r| r.credentials.access.is_none()));
}

#[test]
fn p10_half_an_access_key_is_refused_and_its_secret_may_be_in_a_file() {
    let refusal = |text: &str, env: &[_]| {
        let refused = mount(text, env, &Flags::default()).unwrap_err();
        let text = refused.to_string();
        assert!(
            !text.contains("sesame") && !text.contains("token-1"),
            "{text}"
        );
        text
    };
    assert!(refusal("", &S3_KEY[..1]).contains("s3_secret_access_key is not"));
    assert!(refusal("", &S3_KEY[1..2]).contains("s3_access_key_id is not"));
    assert!(refusal("", &S3_KEY[2..]).contains("goes with a key"));
    let spaced = [("LARDER_S3_ACCESS_KEY_ID", "a b"), S3_KEY[1]];
    assert!(refusal("", &spaced).contains("s3_access_key_id"));
    let text = "[mount]\ns3_secret_access_key = \"sesame\"\n";
    assert!(refusal(text, &[]).contains("s3_secret_access_key_file"));

    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "in-file\n").unwrap();
    let text = format!(
        "[mount]\nremote = \"s3://b\"\ns3_access_key_id = \"AKIA2\"\ns3_secret_access_key_file = \"{}\"\n",
        secret.display()
    );
    let got = mount(&text, &[], &Flags::default()).unwrap().config;
    let access = got.remotes[0].credentials.access.clone().unwrap();
    assert_eq!(access.id, "AKIA2");
    assert_eq!(access.secret, Secret::new("in-file").unwrap());
}

const LUMIBOT: &[(&str, &str)] = &[
    ("LUMIBOT_CACHE_BACKEND", "s3"),
    ("LUMIBOT_CACHE_MODE", "readwrite"),
    ("LUMIBOT_CACHE_S3_BUCKET", "bars"),
    ("LUMIBOT_CACHE_S3_PREFIX", "/prod/cache/"),
    ("LUMIBOT_CACHE_S3_REGION", "us-east-1"),
    ("HOME", "/home/u"),
];

fn lumibot() -> Flags {
    let mut flags = Flags::default();
    flags.set("profile", ["lumibot"]);
    flags
}

fn urls(config: &MountConfig) -> Vec<&str> {
    config.remotes.iter().map(|r| r.url.as_str()).collect()
}

const BUCKET: &str = "s3://bars/prod/cache/v1?upload=true&region=us%2Deast%2D1";

#[test]
fn the_lumibot_profile_needs_only_what_lumibot_reads() {
    let got = mount("", LUMIBOT, &lumibot()).unwrap();
    assert_eq!(urls(&got.config), [BUCKET]);
    assert_eq!((got.off, got.config.read_only), (None, false));
    // In the file and in the environment it is the same.
    let text = "[mount]\nprofile = \"lumibot\"\n";
    let got = mount(text, LUMIBOT, &Flags::default()).unwrap();
    assert_eq!(urls(&got.config), [BUCKET]);
    let env = [&[("LARDER_PROFILE", "lumibot")][..], LUMIBOT].concat();
    let got = mount("", &env, &Flags::default()).unwrap();
    assert_eq!(urls(&got.config), [BUCKET]);
    // Without it, Lumibot's variables say nothing.
    let got = mount("", LUMIBOT, &Flags::default()).unwrap();
    assert!(got.config.remotes.is_empty() && got.off.is_none());
}

#[test]
fn the_bucket_of_the_profile_stands_behind_the_remotes_that_were_named() {
    let mut flags = lumibot();
    flags.set("remote", ["http://lan:5002"]);
    let env = [LUMIBOT, &[("LARDER_KEY", "lan-key")]].concat();
    let got = mount("", &env, &flags).unwrap();
    assert_eq!(urls(&got.config), ["http://lan:5002", BUCKET]);
    assert!(got.config.remotes[0].credentials.key.is_some());
    assert!(got.config.remotes[1].credentials.key.is_none());
    assert_eq!(
        source(&got, "remote"),
        format!("http://lan:5002 {BUCKET} <- flag --remote, profile lumibot")
    );
    // What is said to FXCACHE is not said to Lumibot.
    let env = [
        LUMIBOT,
        &[
            ("REMOTE_FXCACHE_URL", "http://fx:5002"),
            ("REMOTE_FXCACHE_UPLOAD", "true"),
        ],
    ]
    .concat();
    let got = mount("", &env, &lumibot()).unwrap();
    assert_eq!(
        (urls(&got.config), got.config.upload),
        (vec![BUCKET], false)
    );
    assert!(
        got.notes[0].contains("REMOTE_FXCACHE_URL"),
        "{:?}",
        got.notes
    );
}

#[test]
fn who_asks_the_bucket_of_the_profile() {
    let access = |env: &[(&str, &str)]| {
        let got = mount("", &[LUMIBOT, env].concat(), &lumibot()).unwrap();
        let access = got.config.remotes[0].credentials.access.clone();
        access.map(|access| access.id)
    };
    let lumibots = [
        ("LUMIBOT_CACHE_S3_ACCESS_KEY_ID", "AKIA2"),
        ("LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY", "open"),
    ];
    assert_eq!(access(&[]), None);
    assert_eq!(access(S3_KEY), Some("AKIA1".into()));
    assert_eq!(access(&[S3_KEY, &lumibots].concat()), Some("AKIA2".into()));
}

#[test]
fn every_value_of_the_profile_is_shown_with_its_source_and_no_secret() {
    let env = [
        LUMIBOT,
        &[
            ("LUMIBOT_CACHE_S3_ACCESS_KEY_ID", "AKIA2"),
            ("LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY", "sesame"),
        ],
    ]
    .concat();
    let got = mount("", &env, &lumibot()).unwrap();
    for (name, wanted) in [
        ("profile", "lumibot <- flag --profile"),
        ("lumibot.backend", "s3 <- environment LUMIBOT_CACHE_BACKEND"),
        (
            "lumibot.mode",
            "readwrite <- environment LUMIBOT_CACHE_MODE",
        ),
        (
            "lumibot.bucket",
            "bars <- environment LUMIBOT_CACHE_S3_BUCKET",
        ),
        (
            "lumibot.prefix",
            "prod/cache <- environment LUMIBOT_CACHE_S3_PREFIX",
        ),
        ("lumibot.version", "v1 <- default"),
        (
            "lumibot.secret_access_key",
            "(set, not shown) <- environment LUMIBOT_CACHE_S3_SECRET_ACCESS_KEY",
        ),
        ("lumibot.session_token", " <- default"),
    ] {
        assert_eq!(source(&got, name), wanted);
    }
    assert!(!format!("{got:?}").contains("sesame"));
}

#[test]
fn a_profile_that_is_off_or_unknown_says_so() {
    let off = mount("", &[], &lumibot()).unwrap();
    assert!(off.config.remotes.is_empty());
    assert!(off.off.unwrap().contains("LUMIBOT_CACHE_BACKEND is not s3"));
    let env = [
        ("LUMIBOT_CACHE_BACKEND", "s3"),
        ("LUMIBOT_CACHE_MODE", "on"),
    ];
    let text = mount("", &env, &lumibot()).unwrap_err().to_string();
    assert_eq!(
        text,
        "Unsupported LUMIBOT_CACHE_MODE 'on'. Expected one of: disabled, readwrite, readonly."
    );
    let unknown = |name: &str| {
        let mut flags = Flags::default();
        flags.set("profile", [name]);
        mount("", &[], &flags).unwrap_err().to_string()
    };
    assert!(unknown("lumibt").contains("did you mean lumibot?"));
    assert!(unknown("fxcache").ends_with("lumibot or none"));
}

#[test]
fn a_read_only_mount_sends_nothing_to_the_bucket_of_the_profile() {
    let env = [LUMIBOT, &[("LARDER_READ_ONLY", "true")]].concat();
    let got = mount("", &env, &lumibot()).unwrap().config;
    assert!(got.remotes[0].url.contains("?upload=false&"));
}

#[test]
fn the_profile_has_a_folder_of_its_own() {
    let folder = |text, env: &[_], flags: &Flags| {
        profile_folder(&file(text).unwrap(), &Environment::of(env), flags).unwrap()
    };
    let own = [("LUMIBOT_CACHE_FOLDER", "/data/bars")];
    assert_eq!(folder("", &own, &Flags::default()), None);
    assert_eq!(folder("", &own, &lumibot()), Some("/data/bars".into()));
    let text = "[mount]\nprofile = \"lumibot\"\n";
    let got = folder(text, &own, &Flags::default());
    assert_eq!(got, Some("/data/bars".into()));
    let mut none = Flags::default();
    none.set("profile", ["none"]);
    assert_eq!(folder(text, &own, &none), None);
}

#[test]
fn excludes_add_up_and_the_defaults_can_go() {
    let mut flags = Flags::default();
    flags.set("exclude", ["scratch/"]);
    let got = mount("[mount]\nexclude = [\"*.bak\"]\n", &[], &flags)
        .unwrap()
        .config;
    assert!(got.exclude.len() == DEFAULT_EXCLUDES.len() + 2);
    flags.set("default_excludes", ["false"]);
    let got = mount("[mount]\nexclude = \"*.bak\"\n", &[], &flags)
        .unwrap()
        .config;
    assert_eq!(got.exclude, ["*.bak", "scratch/"]);
}

#[test]
fn what_goes_up_last_is_a_list_that_a_later_layer_replaces() {
    let resolved = |text: &str, env: &[(&str, &str)]| mount(text, env, &Flags::default()).unwrap();
    let got = resolved("", &[]);
    let defaults = ["*.meta.json", "manifest.json", "_SUCCESS"];
    assert_eq!(got.config.publish_last, defaults);
    assert_eq!(
        source(&got, "publish_last"),
        "*.meta.json manifest.json _SUCCESS <- default"
    );
    let file = "[mount]\npublish_last = [\"*.idx\"]\n";
    assert_eq!(resolved(file, &[]).config.publish_last, ["*.idx"]);
    let env = [("LARDER_PUBLISH_LAST", "a.json  *.ok")];
    assert_eq!(resolved(file, &env).config.publish_last, ["a.json", "*.ok"]);
    for (text, env) in [
        ("[mount]\npublish_last = []\n", &[][..]),
        ("", &[("LARDER_PUBLISH_LAST", "none")]),
    ] {
        assert!(resolved(text, env).config.publish_last.is_empty());
    }
    let env = [("LARDER_PUBLISH_LAST", "a[")];
    let text = mount("", &env, &Flags::default()).unwrap_err().to_string();
    assert!(
        text.starts_with("publish_last: \"a[\" is not a pattern"),
        "{text}"
    );
}

#[test]
fn listings_have_a_budget_unless_it_is_lifted() {
    let budget = |value| {
        let env = [("LARDER_LIST_BUDGET", value)];
        mount("", &env, &Flags::default()).map(|got| got.config.list_budget)
    };
    assert_eq!(budget("").unwrap(), Some(20_000));
    assert_eq!(budget("500").unwrap(), Some(500));
    assert_eq!(budget("none").unwrap(), None);
    assert!(budget("0").is_err() && budget("often").is_err());
}

#[test]
fn what_a_remote_may_name_is_bounded_unless_that_is_lifted() {
    let most = |value| {
        let env = [("LARDER_MAX_LISTED", value)];
        mount("", &env, &Flags::default()).map(|got| got.config.max_listed)
    };
    assert_eq!(most("").unwrap(), Some(20_000_000));
    assert_eq!(most("1_000").unwrap(), Some(1_000));
    assert_eq!(most("none").unwrap(), None);
    assert!(most("0").is_err() && most("all").is_err());
}

#[test]
fn what_contradicts_is_refused() {
    let env = [("LARDER_READ_ONLY", "1"), ("REMOTE_FXCACHE_UPLOAD", "true")];
    let text = mount("", &env, &Flags::default()).unwrap_err().to_string();
    assert!(
        text.contains("LARDER_READ_ONLY") && text.contains("REMOTE_FXCACHE_UPLOAD"),
        "{text}"
    );
    let env = [("LARDER_TLS_CERT", "/c.pem"), ("FXCACHE_PATH", "/x")];
    assert!(
        serve("", &env, &Flags::default())
            .unwrap_err()
            .to_string()
            .contains("tls_key")
    );
    assert!(
        serve("", &[], &Flags::default())
            .unwrap_err()
            .to_string()
            .contains("larder serve DIR")
    );
}

#[test]
fn paths_in_the_file_may_start_at_home() {
    let text = "[mounts.\"~/FXCACHE\"]\nstore = \"~/store\"\n";
    let file = file(text).unwrap();
    let at = Path::new("/home/u/FXCACHE");
    assert_eq!(file.mountpoints().collect::<Vec<_>>(), [at]);
    let got = resolve_mount(at, &file, &Environment::default(), &Flags::default()).unwrap();
    assert_eq!(got.config.store, Some("/home/u/store".into()));
}
