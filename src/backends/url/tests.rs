//! Addresses of every kind: one form, clear refusals, no credentials.

use super::*;

fn shown(text: &str) -> String {
    RemoteUrl::parse(text).unwrap().shown().to_owned()
}

#[test]
fn one_remote_has_one_form() {
    for same in ["http://Host:80/", "http://host", " http://u:p@host// "] {
        assert_eq!(shown(same), "http://host", "{same}");
    }
    assert_eq!(shown("https://h:5002/a/b/"), "https://h:5002/a/b");
    assert_eq!(shown("http://[::1]:5002"), "http://[::1]:5002");
    assert_eq!(
        shown("FILE:///srv//fx%20cache/./"),
        "file:///srv/fx%20cache"
    );
    assert_eq!(shown("file://localhost/srv"), "file:///srv");
}

#[test]
fn a_directory_of_any_bytes_has_an_address() {
    let path = PathBuf::from(OsStr::from_bytes(b"/srv/a%b\xff c"));
    let url = RemoteUrl::try_from(path.as_path()).unwrap();
    assert_eq!(url.place(), &Place::Directory(path));
}

#[test]
fn what_cannot_be_a_remote_is_one_clear_line() {
    let table = [
        ("s3://", Kind::Invalid),
        ("s3:///prefix", Kind::Invalid),
        ("s3://Bucket/x", Kind::Invalid),
        ("s3://ab", Kind::Invalid),
        ("s3://-abc", Kind::Invalid),
        ("s3://a..b", Kind::Invalid),
        ("s3://bucket/a/../b", Kind::Invalid),
        ("s3://bucket/a#b", Kind::Invalid),
        ("s3://bucket/%ff", Kind::Invalid),
        ("s3://bucket/a%00b", Kind::Invalid),
        ("s3://10.0.0.1/bucket", Kind::Invalid),
        ("s3://localhost:9000/bucket", Kind::Invalid),
        ("ftp://host", Kind::Unsupported),
        ("/srv/cache", Kind::Invalid),
        ("host:5002", Kind::Invalid),
        ("", Kind::Invalid),
        ("http://", Kind::Invalid),
        ("http://host:99999", Kind::Invalid),
        ("http://host/?q=1", Kind::Invalid),
        ("file:///srv?region=x", Kind::Invalid),
        ("http://host/#f", Kind::Invalid),
        ("file://other/srv", Kind::Invalid),
        ("file:///srv/../etc", Kind::Invalid),
        ("file:///a%00b", Kind::Invalid),
    ];
    for (text, kind) in table {
        let error = RemoteUrl::parse(text).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(error.to_string().lines().count(), 1, "{text}");
    }
}

fn refusal(text: &str) -> String {
    let error = RemoteUrl::parse(text).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{text}");
    error.to_string()
}

fn bucket(text: &str) -> Bucket {
    match RemoteUrl::parse(text).unwrap().place() {
        Place::S3(bucket) => bucket.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_of_every_remote_are_no_part_of_its_name() {
    for base in ["http://host", "file:///srv", "s3://bucket/p"] {
        let url = RemoteUrl::parse(&format!("{base}?upload&requests=4&rate=10MiB")).unwrap();
        assert_eq!(url.shown(), base);
        let expected = UrlOptions {
            upload: Some(true),
            requests: Some(4),
            rate: Some(10 << 20),
        };
        assert_eq!(url.options(), expected, "{base}");
        let not = RemoteUrl::parse(&format!("{base}?Upload=false&")).unwrap();
        assert_eq!(not.options().upload, Some(false));
        let none = RemoteUrl::parse(base).unwrap();
        assert_eq!(none.options(), UrlOptions::default());
        for bad in [
            "upload=perhaps",
            "requests=0",
            "requests",
            "rate=fast",
            "rate=0",
            "upload&upload=false",
            "%ff",
        ] {
            refusal(&format!("{base}?{bad}"));
        }
    }
}

#[test]
fn an_option_that_nobody_knows_is_refused_with_the_nearest_one() {
    let near = refusal("http://host?uplaod");
    assert!(
        near.contains("no option uplaod; did you mean upload?"),
        "{near}"
    );
    let near = refusal("s3://bucket?storageclass=GLACIER");
    assert!(near.contains("did you mean storage-class?"), "{near}");
    let far = refusal("s3://bucket?q=1");
    assert!(
        far.contains("it may have endpoint, kms-key, path-style"),
        "{far}"
    );
    let other = refusal("file:///srv?region=x");
    assert!(
        other.contains("it may have rate, requests, upload"),
        "{other}"
    );
}

#[test]
fn a_prefix_is_what_a_key_begins_with() {
    let table = [
        ("s3://bucket", "", "s3://bucket"),
        ("S3://bucket/", "", "s3://bucket"),
        ("s3://bucket/a/b/", "a/b", "s3://bucket/a/b"),
        ("s3://bucket//p//q/v1/", "p//q/v1", "s3://bucket/p//q/v1"),
        ("s3://bucket/a b+c", "a b+c", "s3://bucket/a%20b%2Bc"),
        (
            "s3://bucket/a%3Fb%23c%25",
            "a?b#c%",
            "s3://bucket/a%3Fb%23c%25",
        ),
        ("s3://bucket/été", "été", "s3://bucket/%C3%A9t%C3%A9"),
        ("s3://my.bucket-1/...", "...", "s3://my.bucket-1/..."),
    ];
    for (text, prefix, form) in table {
        assert_eq!(bucket(text).prefix, prefix, "{text}");
        assert_eq!(shown(text), form);
        assert_eq!(shown(form), form);
    }
}

#[test]
fn a_bucket_is_named_by_its_store_and_prefix_only() {
    let text = "s3://bucket/p?endpoint=HTTP://127.0.0.1:9000/&region=eu-west-1&profile=a b\
                &storage-class=standard_ia&sse=aws:kms&kms-key=alias/x&path-style=false";
    let found = bucket(text);
    assert_eq!(shown(text), "s3://bucket/p?endpoint=http://127.0.0.1:9000");
    assert_eq!(shown(&shown(text)), shown(text));
    assert_eq!(found.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(found.region.as_deref(), Some("eu-west-1"));
    assert_eq!(found.profile.as_deref(), Some("a b"));
    assert_eq!(found.storage_class.as_deref(), Some("STANDARD_IA"));
    let key = Some(Encryption::Kms(Some("alias/x".into())));
    assert_eq!(
        (found.encryption.clone(), found.is_path_style()),
        (key, false)
    );
    assert!(bucket("s3://bucket?endpoint=http://h").is_path_style());
    assert!(!bucket("s3://bucket").is_path_style());
    assert!(bucket("s3://bucket?path-style").is_path_style());
    let plain = bucket("s3://bucket?sse=AES256").encryption;
    assert_eq!(plain, Some(Encryption::Aes256));
    for bad in [
        "endpoint=127.0.0.1:9000",
        "endpoint=ftp://h",
        "endpoint=http://h/?x=y",
        "sse=none",
        "sse=AES256&kms-key=k",
        "region=a/b",
        "region=",
        "profile",
    ] {
        refusal(&format!("s3://bucket?{bad}"));
    }
}

#[test]
fn p10_credentials_are_never_shown() {
    let url = RemoteUrl::parse("http://me:sesame%21@host:1/").unwrap();
    let Place::Http { login, base, .. } = url.place() else {
        panic!("not http")
    };
    let (user, password) = login.clone().unwrap();
    assert_eq!((user.as_str(), base.as_str()), ("me", "http://host:1"));
    assert_eq!(password.unwrap().reveal(), "sesame!");
    assert!(!format!("{url} {url:?} {:?}", url.place()).contains("sesame"));
    for bad in [
        "http://me:sesame@host:x",
        "http://me:sesame@host/?a=b@c",
        "http://host?key=sesame",
        "me:sesame@host",
        "gopher://sesame@h",
        "s3://AKIA:sesame@bucket/p",
        "s3://bucket?endpoint=http://me:sesame@h",
        "s3://bucket?secret=sesame",
        "s3://bucket?sesamesesame1234",
        "http://me:sesame?1@host",
        "http://me:sesame#1@host",
        "http://me:a@sesame#1@host",
        "http:/me:sesame@host://x",
        "http://me/sesame@host",
        "http://me:1\\sesame@host",
        &format!("gopher://me:sesame{}@host", "x".repeat(300)),
    ] {
        let error = RemoteUrl::parse(bad).unwrap_err().to_string();
        assert!(!error.contains("sesame"), "{error}");
    }
}
