//! Small files: shown as soon as they are verified, put in place together behind their readers.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn p1_p14_small_files_are_read_from_memory_and_land_together() {
    let lab = Lab::new(1);
    let content = |n: usize| bytes_of(1 + n * 1000);
    let nodes: Vec<_> = (0..100)
        .map(|n| lab.listed(0, &format!("f{n}"), &content(n)))
        .collect();
    let flights: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (downloads, node) = (lab.downloads.clone(), node.clone());
            tokio::spawn(async move { downloads.bring_small(&node).await.unwrap() })
        })
        .collect();
    for (n, flight) in flights.into_iter().enumerate() {
        let flight = soon(flight).await.unwrap();
        let all = soon(lab.downloads.read(&flight, 0..flight.size())).await;
        assert_eq!(all.unwrap(), content(n));
    }
    soon(lab.downloads.placed()).await;
    for (n, node) in nodes.iter().enumerate() {
        let name = format!("f{n}");
        assert_eq!(lab.stored(&name), Some(content(n)));
        assert_eq!(
            (lab.node(&name).held, lab.node(&name).id),
            (Held::Whole, node.id)
        );
    }
    let left = lab.dir.path().join(".larder/partial");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0);
    assert_eq!(lab.memory(0).calls(Op::Get), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_what_changed_at_the_remote_before_it_was_in_its_place_is_not_put_there() {
    let lab = Lab::new(1);
    let (old, new) = (bytes_of(1000), bytes_of(2000));
    let node = lab.listed(0, "a", &old);
    let other = lab.listed(0, "b", &old);
    let (held, is_held) = std::sync::mpsc::channel();
    let (release, is_released) = std::sync::mpsc::channel();
    let commit = lab.commit.clone();
    let holder = std::thread::spawn(move || {
        // Nothing gets its name meanwhile.
        let _paths = commit.paths_change();
        held.send(()).unwrap();
        is_released.recv().unwrap()
    });
    is_held.recv().unwrap();
    let flight = soon(lab.downloads.bring_small(&node)).await.unwrap();
    soon(lab.downloads.bring_small(&other)).await.unwrap();
    lab.listed(0, "a", &new);
    release.send(()).unwrap();
    holder.join().unwrap();
    soon(lab.downloads.placed()).await;
    assert_eq!(
        (lab.stored("a"), lab.stored("b")),
        (None, Some(old.clone()))
    );
    let late = soon(lab.downloads.read(&flight, 0..1000)).await;
    assert_eq!(late.unwrap(), old);
    soon(lab.downloads.hydrate(lab.node("a").id)).await.unwrap();
    assert_eq!(lab.stored("a"), Some(new));
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_what_its_disk_cannot_take_is_read_all_the_same() {
    let lab = Lab::new(1);
    let bytes = bytes_of(1000);
    let node = lab.listed(0, "d/a", &bytes);
    // Something that nobody clears away is where its directory should be.
    std::fs::write(lab.dir.path().join("d"), b"in the way").unwrap();
    let flight = soon(lab.downloads.bring_small(&node)).await.unwrap();
    soon(lab.downloads.placed()).await;
    assert_eq!(lab.node("d/a").held, Held::None);
    let all = soon(lab.downloads.read(&flight, 0..1000)).await;
    assert_eq!(all.unwrap(), bytes);
    // Nothing of it stands in the way of the next try.
    drop(flight);
    std::fs::remove_file(lab.dir.path().join("d")).unwrap();
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert_eq!(lab.stored("d/a"), Some(bytes));
}
