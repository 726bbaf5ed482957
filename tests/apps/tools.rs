//! What people do with files all day: git, cargo, tar, rsync. Each runs the same on a bare directory and on
//! mounts, and says the same; afterwards it is right in the plain folder as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::WAYS;
use crate::common::{Lab, bytes, put};

/// What is worked on: a repository, an archive, a crate.
const SOURCE: &str = r#"
umask 022
mkdir -p tree/deep/er work crate/src
cp -r ../noise/. tree
printf 'mine' > tree/private; chmod 600 tree/private
printf '#!/bin/sh\n' > tree/program; chmod 755 tree/program
: > tree/empty
ln -s deep/er tree/link
# None is as young as what is done to its copy: rsync compares seconds.
touch -d '2001-02-03 04:05:06.789' tree/private tree/deep tree
if [ "$(id -u)" = 0 ]; then chown 1234:4321 tree/private; fi
tar -cf tree.tar tree
git init -q work
cp -r tree/. work
for n in 1 2 3 4 5; do
  echo "$n" >> work/numbers; git -C work add -A; git -C work commit -qm "$n"
done
git clone -q --bare work origin.git
printf '[package]\nname = "hello"\nversion = "0.1.0"\nedition = "2021"\n' > crate/Cargo.toml
printf 'pub fn word() -> &%sstatic str { "one" }\n' "'" > crate/src/lib.rs
printf 'fn main() { println!("{}", hello::word()); }\n' > crate/src/main.rs
"#;

/// Programs by name, and how what they left is looked at in the plain folder.
const PROGRAMS: &[(&str, &str, &str)] = &[
    (
        "git",
        r#"
        git clone -q "file://$SOURCE/origin.git" clone
        cd clone
        git fsck --strict
        git ls-files -s
        git checkout -q HEAD~2; cat numbers; git checkout -q -
        echo more >> numbers; git commit -qam more
        git rm -q private; git mv program moved; git commit -qm moved
        git branch side HEAD~3; git checkout -q side; echo side > side; git add side; git commit -qm side
        git merge -q -m merged main
        git gc -q --prune=now
        git fsck --strict
        git count-objects -v | grep -E '^(count|in-pack|packs|garbage)'
        "#,
        r#"
        cd clone
        git fsck --strict
        git status --porcelain
        git log --format='%H %s' --all
        git ls-files -s
        "#,
    ),
    (
        "cargo",
        r#"
        cp -r "$SOURCE/crate" crate
        cd crate
        cargo build -q --offline; ./target/debug/hello
        cargo build --offline 2>&1 | grep -c Compiling || true
        sed -i s/one/two/ src/lib.rs
        cargo build --offline 2>&1 | grep -c Compiling || true
        ./target/debug/hello
        "#,
        r#"
        cd crate
        ./target/debug/hello
        "#,
    ),
    (
        "tar",
        r#"
        tar -xf "$SOURCE/tree.tar"
        tar -df "$SOURCE/tree.tar"
        tar -cf - tree | tar -tvf - | sort
        tar -cf - tree | tar -C "$SOURCE" -df -
        "#,
        r#"
        tar -df "$SOURCE/tree.tar"
        "#,
    ),
    (
        "rsync",
        r#"
        rsync -a "$SOURCE/tree/" copy
        rsync -ai "$SOURCE/tree/" copy
        rsync -aci --delete "$SOURCE/tree/" copy
        echo longer >> copy/numbers; rm copy/empty; chmod 700 copy/private
        rsync -ai --delete "$SOURCE/tree/" copy
        rsync -ai --inplace --checksum copy/ "$SOURCE/tree"
        "#,
        r#"
        rsync -aci --delete "$SOURCE/tree/" copy
        "#,
    ),
];

/// Runs `script` in `dir`; gives all that it printed, and fails if it does.
fn shell(name: &str, script: &str, dir: &Path, source: &Path) -> String {
    let who = ["GIT_AUTHOR", "GIT_COMMITTER"].map(|who| {
        [
            (format!("{who}_NAME"), "t"),
            (format!("{who}_EMAIL"), "t@t"),
            (format!("{who}_DATE"), "2020-01-02T03:04:05Z"),
        ]
    });
    // Cargo's own, and nobody's settings.
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(dir)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env("SOURCE", source)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("GIT_CONFIG_GLOBAL", source.join("gitconfig"))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(who.into_iter().flatten())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{name} in {}: {said}",
        dir.display()
    );
    said.replace(&*dir.to_string_lossy(), "DIR")
}

fn source(lab: &Lab) -> PathBuf {
    let source = lab.dir("source");
    for (n, name) in ["a", "b", "deep/c", "deep/er/d"].iter().enumerate() {
        put(
            &lab.path("noise").join(name),
            &bytes(n as u64, 50_000 * n + 1),
        );
    }
    fs::write(
        source.join("gitconfig"),
        "[init]\ndefaultBranch = main\n[safe]\ndirectory = *\n[gc]\nauto = 0\n",
    )
    .unwrap();
    shell("source", SOURCE, &source, &source);
    source
}

#[test]
fn p13_git_cargo_tar_and_rsync_say_what_they_say_on_a_disk() {
    let lab = Lab::new();
    let source = source(&lab);
    let said_on_disk = PROGRAMS.iter().map(|(name, work, look)| {
        let dir = lab.dir(Path::new("bare").join(name));
        let worked = shell(name, work, &dir, &source);
        (worked, shell(name, look, &dir, &source))
    });
    let said_on_disk: Vec<_> = said_on_disk.collect();
    for (n, way) in WAYS.iter().enumerate() {
        let server = lab.serve(&format!("srv{n}"), &[]);
        let flags = [&["--remote", &server.url, "--upload"], *way].concat();
        let mount = lab.mount(&format!("mnt{n}"), &flags);
        for ((name, work, _), (said, _)) in PROGRAMS.iter().zip(&said_on_disk) {
            let dir = mount.path(name);
            fs::create_dir(&dir).unwrap();
            assert_eq!(&shell(name, work, &dir, &source), said, "{name} {way:?}");
        }
        mount.flush();
        let status = mount.status();
        assert_eq!(
            status["conflicts"].as_array().map(Vec::len),
            Some(0),
            "{status}"
        );
        let at = mount.unmount();
        for ((name, _, look), (_, said)) in PROGRAMS.iter().zip(&said_on_disk) {
            let dir = at.join(name);
            assert_eq!(
                &shell(name, look, &dir, &source),
                said,
                "{name} in the folder"
            );
        }
        // And what went up is what was unpacked.
        let there = server.root.join("tar/tree/deep/er/d");
        assert!(fs::read(there).unwrap() == fs::read(source.join("tree/deep/er/d")).unwrap());
    }
}
