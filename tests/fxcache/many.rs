//! As many files as an FXCACHE has: a few hundred here, 63,000 with `packaging/scale.sh`.

use std::fs;

use super::common::Lab;
use super::common::many::{copy, count, fxcache, mount_all, same, setting, timed, wait_until};
use super::original::Original;

#[test]
fn p14_all_its_files_are_copied_and_then_it_is_not_needed() {
    let files = setting("LARDER_SCALE_FILES", 600);
    let lab = Lab::new();
    let real = lab.dir("original");
    fxcache(&real, files, setting("LARDER_SCALE_MEAN", 4_000));
    let (server, _) = timed("the original's first refresh", || {
        let server = Original::start(&lab, &["--no-refresh"]);
        server.refresh("full");
        server
    });
    let flags = ["--remote", &server.url, "--min-free", "0B"];
    let mount = mount_all(&lab, &flags, files);
    let (found, _) = timed("find -type f", || count(&mount.at));
    assert_eq!(found, files);
    let (first, second) = (lab.path("first"), lab.path("second"));
    timed("first cp -a", || copy(&mount.at, &first));
    wait_until("all files are kept", || {
        mount.status()["held"]["files"] == files
    });
    // One request a file, and nothing asked that the listing says.
    let (all, index) = (
        "GET /download?path=",
        "GET /download?path=.fxcache_index.db",
    );
    assert_eq!(server.asked(all) - server.asked(index), files);
    server.stop();
    timed("second cp -a, the server stopped", || {
        copy(&mount.at, &second);
    });
    for copied in [&first, &second] {
        fs::remove_file(real.join(".fxcache_index.db")).ok();
        same(copied, &real);
    }
}
