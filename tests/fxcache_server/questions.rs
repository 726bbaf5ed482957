//! Questions: health, existence, keys as paths, logs of machines.

use serde_json::json;

use crate::support::Site;

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// Check 1.
#[tokio::test]
async fn health_has_the_fields_that_clients_know_it_by() {
    let site = Site::new(&[]).await;
    let answer = site.client.get("/health").await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(answer.body.ends_with(b"}\n"));
    let health = answer.json();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["db_file_count"], 5);
    let fields = "db_file_count fxcache_path last_refresh stats status uptime_seconds";
    assert_eq!(keys(&health).join(" "), fields);
    let stats = "bytes_received bytes_sent downloads errors exists_checks start_time uploads";
    assert_eq!(keys(&health["stats"]).join(" "), stats);
    let root = site.root.canonicalize().unwrap();
    assert_eq!(health["fxcache_path"], root.to_str().unwrap());
    assert!(
        health["stats"]["start_time"]
            .as_str()
            .unwrap()
            .ends_with(" GMT")
    );
    assert_eq!(health["last_refresh"].as_str().unwrap().len(), 19);

    site.client.get("/exists?path=TB/a.pkl").await;
    site.client.batch(r#"{"paths":["a","b"]}"#).await;
    site.client.get("/download?path=TB/a.pkl").await;
    site.client.post("/upload?path=n", b"123").await;
    let stats = &site.client.get("/health").await.json()["stats"];
    assert_eq!(stats["exists_checks"], 3);
    assert_eq!(
        (&stats["downloads"], &stats["bytes_sent"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(
        (&stats["uploads"], &stats["bytes_received"]),
        (&json!(1), &json!(3))
    );
}

/// Check 2.
#[tokio::test]
async fn existence_is_answered_with_size_and_time() {
    let site = Site::new(&[]).await;
    let answer = site.client.get("/exists?path=TB/a.pkl").await;
    let text = "{\"exists\":true,\"mtime\":1795186679.5516276,\"size\":5}\n";
    assert_eq!(String::from_utf8(answer.body).unwrap(), text);
    for there in [
        "./TB//a.pkl",
        "TB/a.pkl/",
        "d/%C3%BC+b.bin",
        "empty.bin",
        ".dot",
        ".hid/z",
    ] {
        assert!(site.client.exists(there).await, "{there}");
    }
    for absent in [
        "TB/b.pkl",
        "TB",
        ".",
        "%ff",
        ".larder/serve.db",
        "TB/a.pkl/x",
    ] {
        let answer = site.client.get(&format!("/exists?path={absent}")).await;
        assert_eq!(answer.body, b"{\"exists\":false}\n", "{absent}");
    }
    let long = "x".repeat(3000);
    assert!(!site.client.exists(&long).await);
}

/// Check 3.
#[tokio::test]
async fn p10_paths_that_climb_are_refused_everywhere() {
    let site = Site::new(&[]).await;
    for path in [
        "..",
        "/x",
        "a..b",
        "",
        "a%00b",
        "../x",
        "TB/../../x",
        "%2Fetc%2Fpasswd",
    ] {
        for (method, endpoint) in [("GET", "exists"), ("GET", "download"), ("POST", "upload")] {
            let answer = site
                .client
                .ask(method, &format!("/{endpoint}?path={path}"), &[], b"x")
                .await;
            let refused = (400, "Invalid path".to_owned());
            assert_eq!(answer.error(), refused, "{endpoint} {path}");
        }
    }
    let answer = site.client.get("/exists").await;
    assert_eq!(answer.body, b"{\"error\":\"Invalid path\"}\n");
}

/// Check 4.
#[tokio::test]
async fn batches_of_500_and_no_more() {
    let site = Site::new(&[]).await;
    let paths = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("TB/{i}.pkl")).collect();
        json!({ "paths": names }).to_string()
    };
    let answer = site.client.batch(&paths(500)).await.json();
    assert_eq!(answer["results"].as_object().unwrap().len(), 500);
    assert_eq!(answer["results"]["TB/7.pkl"], json!({ "exists": false }));
    let refused = site.client.batch(&paths(501)).await.error();
    let text = "paths must be a list of max 500 items";
    assert_eq!(refused, (400, text.to_owned()));

    let answer = site
        .client
        .batch(r#"{"paths":["./TB//a.pkl","TB/a.pkl","no"]}"#)
        .await;
    let text = r#"{"results":{"TB/a.pkl":{"exists":true,"size":5},"no":{"exists":false}}}"#;
    assert_eq!(String::from_utf8(answer.body).unwrap().trim_end(), text);
    let answer = site.client.batch(r#"{"paths":["TB/a.pkl","../x"]}"#).await;
    assert_eq!(answer.error(), (400, "Invalid path: ../x".to_owned()));
}

#[tokio::test]
async fn keys_are_paths_where_later_servers_take_them() {
    let site = Site::new(&[]).await;
    let answer = site.client.post("/upload?path=tb:EUR:USD", b"1").await;
    assert_eq!(answer.json()["path"], "TB/EUR_USD.pkl");
    assert!(site.path("TB/EUR_USD.pkl").exists());
    assert!(site.client.exists("tb:EUR:USD").await);
    assert_eq!(
        site.client.get("/download?path=tb:EUR:USD").await.body,
        b"1"
    );
    assert_eq!(site.client.get("/exists?path=tb:EUR").await.status, 400);
    // Batches take paths only, and another word before a colon is a name.
    let answer = site
        .client
        .batch(r#"{"paths":["tb:EUR:USD"]}"#)
        .await
        .json();
    assert_eq!(answer["results"]["tb:EUR:USD"]["exists"], false);
    site.client.post("/upload?path=x:y", b"2").await;
    assert!(site.path("x:y").exists());
}

#[tokio::test]
async fn p9_logs_of_machines_are_compared_and_bounded() {
    let site = Site::new(&[]).await;
    let post = async |log: serde_json::Value| {
        site.client
            .post("/debug/log", log.to_string().as_bytes())
            .await
    };
    let need = (400, "Need 2 logs, have 0: []".to_owned());
    assert_eq!(site.client.get("/debug/compare").await.error(), need);
    let long = "x".repeat(900);
    let a = json!({ "machine": "a", "hostname": "1", "n": 1, "list": [{"sub": 1}, 2], "s": long });
    let b = json!({ "machine": "b", "hostname": "2", "n": 1, "list": [{"sub": 3}, 2], "s": "" });
    let posted = post(a).await.json();
    assert_eq!(posted, json!({ "machine": "a", "status": "ok" }));
    let need = (400, "Need 2 logs, have 1: ['a']".to_owned());
    assert_eq!(site.client.get("/debug/compare").await.error(), need);
    post(b).await;
    let told = site.client.get("/debug/compare?m1=a&m2=b").await.json();
    let list = json!({ "key": "list[0].sub", "a": 1, "b": 3 });
    let text = json!({ "key": "s", "a": "x".repeat(500), "b": "" });
    assert_eq!(
        told,
        json!({ "m1": "a", "m2": "b", "match": false, "diffs": [list, text] })
    );
    let none = (404, "No log for machine: c".to_owned());
    for path in ["/debug/log?machine=c", "/debug/compare?m1=a&m2=c"] {
        assert_eq!(site.client.get(path).await.error(), none);
    }
    let missing = (400, "Missing machine field".to_owned());
    assert_eq!(post(json!({ "n": 1 })).await.error(), missing);
    for n in 0..100 {
        post(json!({ "machine": format!("m{n}") })).await;
    }
    let listed = site.client.get("/debug/log/list").await.json();
    assert_eq!(listed["count"], 32);
    let log = site.client.get("/debug/log?machine=m99").await.json();
    assert_eq!(log["posted_at"].as_str().unwrap().len(), 19);
}
