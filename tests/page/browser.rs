//! The page in headless Chromium: it fills itself, it fits, and names stay names.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Lab;
use crate::{EVIL, busy};

fn chromium() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.exists());
    found.expect("Chromium is missing: run `make test-page`, which installs it")
}

/// Opens the page, lets it run for some seconds of its own time, and gives what `how` asks for.
fn browse(lab: &Lab, url: &str, how: &[&str]) -> String {
    let output = Command::new(chromium())
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .args([
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--virtual-time-budget=7000",
        ])
        .arg(format!("--user-data-dir={}", lab.dir("browser").display()))
        .args(how)
        .arg(url)
        .env("HOME", lab.dir("browser-home"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs Chromium: make test-page"]
fn p10_a_browser_shows_the_page_and_runs_nothing_that_a_name_says() {
    let lab = Lab::new();
    let server = busy(&lab);
    let looks = || server.stats()["page"].as_u64().unwrap();
    let before = looks();
    let shown = browse(&lab, &format!("{}/", server.url), &["--dump-dom"]);
    assert!(shown.contains("<title>FXCACHE – Larder</title>"), "{shown}");
    assert!(!shown.contains("owned</title>"));
    assert!(!shown.contains("<img"));
    assert!(shown.contains("&lt;img src=x onerror="));
    // What would make the rest of the name run backwards is shown as what it is.
    assert!(shown.contains("&gt;\\u202e"), "{shown}");
    assert!(shown.contains("larder mount FOLDER --remote http://"));
    assert!(shown.contains("MT/result_0xabc.pkl"));
    assert!(shown.contains("class=\"state good\""));
    assert!(shown.contains(">43<") && EVIL.contains("<img"));
    // What it shows is asked for again and again.
    assert!(looks() >= before + 2, "{before}, {}", looks());
}

#[test]
#[ignore = "needs Chromium: make test-page"]
fn it_fits_a_phone_and_a_desk() {
    let lab = Lab::new();
    let server = busy(&lab);
    let kept = std::env::var_os("LARDER_PAGE_SHOTS").map(PathBuf::from);
    for (name, width, height) in [("desk", 1280, 1000), ("phone", 390, 1600)] {
        let dir = kept.clone().unwrap_or_else(|| lab.dir("shots"));
        let shot = dir.join(format!("{name}.png"));
        let how = [
            format!("--window-size={width},{height}"),
            format!("--screenshot={}", shot.display()),
        ];
        let how: Vec<&str> = how.iter().map(String::as_str).collect();
        browse(&lab, &format!("{}/", server.url), &how);
        assert_eq!(size_of(&shot), (width, height));
    }
    // Nothing sticks out to the side: the page says so itself, in a frame as wide as a phone.
    let wide = probe(&lab, &server.url);
    assert!(wide.contains("data-fits=\"true\""), "{wide}");
}

/// The width and height in a PNG's head.
fn size_of(shot: &Path) -> (u32, u32) {
    let head = std::fs::read(shot).unwrap();
    let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

/// Runs the page's own style and script from a file that adds a measurement.
fn probe(lab: &Lab, url: &str) -> String {
    let page = curl_page(url);
    let measure = "<script>addEventListener('load', () => setTimeout(() => {\
        const d = document.documentElement; d.dataset.fits = d.scrollWidth <= d.clientWidth; }, 3000));</script></body>";
    let page = page
        .replace("fetch(\"/v1/page\"", &format!("fetch(\"{url}/v1/page\""))
        .replace("</body>", measure);
    let file = lab.path("probe.html");
    std::fs::write(&file, page).unwrap();
    let how = [
        "--dump-dom",
        "--window-size=390,844",
        "--disable-web-security",
    ];
    browse(lab, &format!("file://{}", file.display()), &how)
}

fn curl_page(url: &str) -> String {
    crate::common::get(&format!("{url}/"))
}

#[test]
#[ignore = "needs Chromium: make test-page"]
fn p10_a_browser_is_asked_for_the_read_key() {
    let lab = Lab::new();
    let key = lab.path("key");
    std::fs::write(&key, "reader").unwrap();
    let server = lab.serve("root", &["--read-key-file", key.to_str().unwrap()]);
    let shown = browse(&lab, &format!("{}/", server.url), &["--dump-dom"]);
    assert!(shown.contains("This server needs a key"));
    assert!(
        shown.contains("<form id=\"lock\" class=\"card\">"),
        "{shown}"
    );
    assert!(shown.contains("<main id=\"main\" hidden=\"\">"));
}
