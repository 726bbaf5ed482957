//! Big files, of which comes what is asked for.

use super::*;

const BIG: usize = 24 << 20;
const MIB: u64 = 1 << 20;

/// Asks and waits, as the overlay does.
async fn read(lab: &Lab, flight: &Arc<Flight>, want: ByteRange) -> Result<Bytes> {
    flight.ask(&want);
    soon(lab.downloads.read(flight, want)).await
}

async fn boarded(lab: &Lab, node: &Node) -> Passenger {
    let passenger = lab.downloads.board(node).unwrap();
    soon(passenger.flowing()).await.unwrap();
    passenger
}

/// Once more than that is missing, nothing is held back.
fn sums(ranges: &[Option<ByteRange>]) -> u64 {
    ranges
        .iter()
        .flatten()
        .map(|range| range.end - range.start)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_who_asks_for_little_of_a_big_file_gets_that_and_the_pieces_survive_a_restart() {
    let lab = Lab::new(1);
    let bytes = bytes_of(BIG);
    let node = lab.listed(0, "a.bin", &bytes);
    let passenger = boarded(&lab, &node).await;
    assert_eq!(lab.asked(0), [Some(0..128 << 10)]);
    let wants = [18 * MIB..18 * MIB + 5000, 9 * MIB..9 * MIB + 70_000];
    for want in wants.clone() {
        let got = read(&lab, &passenger, want.clone()).await.unwrap();
        assert!(got == bytes[want.start as usize..want.end as usize]);
        assert_eq!(lab.asked(0), [Some(want)]);
    }
    let flight = Arc::clone(&passenger);
    drop(passenger);
    // Nobody reads it any more.
    let ended = soon(flight.landed()).await.unwrap_err();
    assert_eq!(ended.kind(), Kind::Cancelled);
    assert_eq!(lab.stored("a.bin"), None);
    assert_eq!(lab.node("a.bin").held, Held::None);
    drop(flight);
    let lab = lab.reopened();
    let passenger = boarded(&lab, &lab.node("a.bin")).await;
    for want in wants {
        let got = read(&lab, &passenger, want.clone()).await.unwrap();
        assert!(got == bytes[want.start as usize..want.end as usize]);
    }
    // That the version is there was asked for, and no byte of it.
    assert_eq!((lab.asked(0), lab.memory(0).calls(Op::Head)), (vec![], 1));
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    let came = sums(&lab.asked(0));
    assert_eq!(came, BIG as u64 - (128 << 10) - 75_000, "nothing twice");
    assert!(lab.stored("a.bin").unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_a_big_file_that_is_read_mostly_comes_whole() {
    for in_order in [true, false] {
        let lab = Lab::new(1);
        let bytes = bytes_of(BIG);
        let node = lab.listed(0, "a.bin", &bytes);
        let passenger = boarded(&lab, &node).await;
        for at in 0..13 {
            let at = if in_order { at } else { at * 7 % 23 } * MIB;
            let want = at..at + MIB;
            let got = read(&lab, &passenger, want.clone()).await.unwrap();
            assert!(got == bytes[want.start as usize..want.end as usize]);
        }
        // It goes on without readers.
        let flight = Arc::clone(&passenger);
        drop(passenger);
        soon(flight.landed()).await.unwrap();
        until(|| lab.node("a.bin").held == Held::Whole).await;
        assert!(lab.stored("a.bin").unwrap() == bytes);
        assert_eq!(sums(&lab.asked(0)), BIG as u64, "nothing twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_nobody_reads_all_of_a_big_file_that_is_wrong() {
    let lab = Lab::new(1);
    let bytes = bytes_of(BIG);
    let node = lab.listed(0, "a.bin", &bytes);
    lab.memory(0).script(Op::Get, 10_000, Fault::Corrupt);
    for from_the_end in [false, true] {
        let passenger = boarded(&lab, &node).await;
        let (mut came, mut failed) = (0, None);
        for n in 0..24 {
            let at = if from_the_end { 23 - n } else { n } * MIB;
            match read(&lab, &passenger, at..at + MIB).await {
                Ok(got) => came += got.len(),
                Err(error) => failed = failed.or(Some(error.kind())),
            }
        }
        assert_eq!(failed, Some(Kind::Corrupt));
        assert!(came + (64 << 10) <= BIG, "{came}");
        drop(passenger);
    }
    assert_eq!(lab.stored("a.bin"), None);
    lab.memory(0).clear_script();
    until(|| lab.downloads.under_way(node.id).is_none()).await;
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert!(lab.stored("a.bin").unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_wrong_pieces_come_again_from_the_next_remote() {
    let lab = Lab::new(2);
    let bytes = bytes_of(BIG);
    lab.listed(0, "a.bin", &bytes);
    let node = lab.listed(1, "a.bin", &bytes);
    lab.memory(0).script(Op::Get, 10_000, Fault::Corrupt);
    soon(lab.downloads.hydrate(node.id)).await.unwrap();
    assert!(lab.stored("a.bin").unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_piece_comes_from_whichever_remote_has_it() {
    let lab = Lab::new(2);
    let bytes = bytes_of(BIG);
    lab.listed(0, "a.bin", &bytes);
    let node = lab.listed(1, "a.bin", &bytes);
    let passenger = boarded(&lab, &node).await;
    lab.memory(0).script(Op::Get, 3, Fault::Truncate(1000));
    let want = 10 * MIB..11 * MIB;
    let got = read(&lab, &passenger, want.clone()).await.unwrap();
    assert!(got == bytes[want.start as usize..want.end as usize]);
    lab.memory(0).set_online(false);
    let want = 16 * MIB..17 * MIB;
    let got = read(&lab, &passenger, want.clone()).await.unwrap();
    assert!(got == bytes[want.start as usize..want.end as usize]);
    // None of them: an error, and what is here is still read.
    lab.memory(1).set_online(false);
    let failed = read(&lab, &passenger, 20 * MIB..21 * MIB).await;
    assert_eq!(failed.unwrap_err().kind(), Kind::Offline);
    let got = read(&lab, &passenger, want.clone()).await.unwrap();
    assert!(got == bytes[want.start as usize..want.end as usize]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_pieces_of_a_version_that_is_gone_are_stale() {
    let lab = Lab::new(1);
    let node = lab.listed(0, "a.bin", &bytes_of(BIG));
    let passenger = boarded(&lab, &node).await;
    lab.memory(0)
        .set_object(&key("a.bin"), &bytes_of(BIG + 1), 6);
    let failed = read(&lab, &passenger, 10 * MIB..11 * MIB).await;
    assert_eq!(failed.unwrap_err().kind(), Kind::Stale);
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_what_is_read_forward_comes_by_several_requests() {
    let lab = Lab::new(1);
    let node = lab.listed(0, "a.bin", &bytes_of(3 * BIG));
    let passenger = boarded(&lab, &node).await;
    for at in 0..12 {
        read(&lab, &passenger, at * MIB..(at + 1) * MIB)
            .await
            .unwrap();
    }
    // Those that are asked for from here on do not end.
    until(|| lab.memory(0).calls(Op::Get) == lab.remotes[0].1.lock().unwrap().len() as u64).await;
    let before = lab.memory(0).calls(Op::Get);
    lab.memory(0).script(Op::Get, 4, Fault::StallBody(0));
    passenger.ask(&(60 * MIB..61 * MIB));
    passenger.ask(&(61 * MIB..62 * MIB));
    passenger.ask(&(55 * MIB..56 * MIB));
    until(|| lab.memory(0).calls(Op::Get) >= before + 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_remote_that_went_away_is_not_waited_for() {
    let lab = Lab::new(1);
    let node = lab.listed(0, "a.bin", &bytes_of(BIG));
    let passenger = boarded(&lab, &node).await;
    lab.mount.0[0].went_away(&crate::error::Error::new(Kind::Offline, "cut"));
    let calls = lab.memory(0).all_calls();
    let began = std::time::Instant::now();
    let failed = read(&lab, &passenger, 10 * MIB..11 * MIB).await;
    assert_eq!(failed.unwrap_err().kind(), Kind::Offline);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(lab.memory(0).all_calls(), calls);
}
