//! The overlay against a model, without a mount: whatever local programs, other clients, a
//! network that comes and goes, restarts and people in the plain folder do in any order, no
//! acknowledged write and nobody's version is lost, and in the end both sides agree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

#[path = "model/alone.rs"]
mod alone;
#[path = "model/gate.rs"]
mod gate;
#[path = "model/gone.rs"]
mod gone;
#[path = "model/late.rs"]
mod late;
#[path = "model/listing.rs"]
mod listing;
#[path = "model/many.rs"]
mod many;
#[path = "model/mounted.rs"]
mod mounted;
#[path = "model/world.rs"]
mod world;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use world::{Between, Step, World};

const FILES: [&str; 6] = ["a", "b", "d/x", "d/y", "e/x", "f/z"];
const DIRS: [&str; 3] = ["d", "e", "f"];

fn file() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&FILES[..])
}

fn dir() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&DIRS[..])
}

fn between() -> impl Strategy<Value = Between> {
    any::<(bool, bool)>().prop_map(|(killed, hears_first)| Between {
        killed,
        hears_first,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => file().prop_map(Step::Write),
        3 => file().prop_map(Step::Patch),
        2 => file().prop_map(Step::Begin),
        2 => Just(Step::Finish),
        3 => file().prop_map(Step::Read),
        3 => file().prop_map(Step::Unlink),
        5 => (file(), file()).prop_map(|(a, b)| Step::Rename(a, b)),
        2 => (dir(), dir()).prop_map(|(a, b)| Step::RenameDir(a, b)),
        1 => dir().prop_map(Step::MakeDir),
        1 => dir().prop_map(Step::RemoveDir),
        1 => file().prop_map(Step::Touch),
        5 => file().prop_map(Step::RemotePut),
        3 => file().prop_map(Step::RemoteDelete),
        1 => file().prop_map(Step::RemoteSame),
        5 => Just(Step::Sync),
        3 => Just(Step::Push),
        1 => Just(Step::LosePut),
        2 => any::<bool>().prop_map(Step::Online),
        2 => Just(Step::EvictAll),
        1 => Just(Step::Tidy),
        1 => Just(Step::Restore),
        2 => any::<bool>().prop_map(Step::Reopen),
        2 => (file(), between()).prop_map(|(p, b)| Step::PlainWrite(p, b)),
        1 => (file(), between()).prop_map(|(p, b)| Step::PlainDelete(p, b)),
        2 => Just(Step::Settle),
    ]
}

/// The same few cases each time, so that a failure means that something was changed; others, and
/// as many as asked for, with `LARDER_MODEL_CASES`.
fn cases(few: u32) -> ProptestConfig {
    let asked = std::env::var("LARDER_MODEL_CASES").ok();
    let asked = asked.and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(few),
        rng_seed: match asked {
            Some(_) => RngSeed::Random,
            None => RngSeed::Fixed(1),
        },
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn run(propagate: bool, steps: &[Step]) -> Result<(), String> {
    let mut world = World::new(propagate);
    for (n, step) in steps.iter().enumerate() {
        world
            .take(step)
            .map_err(|why| format!("step {n} {step:?}: {why}"))?;
    }
    world
        .take(&Step::Settle)
        .map_err(|why| format!("at the end: {why}"))
}

#[test]
fn p5_a_file_that_a_remote_makes_while_it_is_being_made_here_is_a_conflict() {
    let steps = [Step::RemotePut("d/x"), Step::Begin("d/x"), Step::Sync];
    run(false, &steps).unwrap();
}

#[test]
fn p4_an_unfinished_file_does_not_hide_what_a_remote_made_meanwhile() {
    let steps = [
        Step::Begin("a"),
        Step::RemotePut("a"),
        Step::Sync,
        Step::Reopen(false),
    ];
    run(false, &steps).unwrap();
}

#[test]
fn p5_a_renamed_file_keeps_its_bytes_when_its_old_name_gets_others() {
    let steps = [
        Step::RemotePut("d/x"),
        Step::Settle,
        Step::Read("d/x"),
        Step::RemotePut("d/x"),
        Step::Rename("d/x", "a"),
    ];
    run(false, &steps).unwrap();
    run(true, &steps).unwrap();
}

#[test]
fn p5_deleting_a_file_that_is_being_made_does_not_delete_what_a_remote_made_meanwhile() {
    let steps = [
        Step::Begin("a"),
        Step::RemotePut("a"),
        Step::Sync,
        Step::Unlink("a"),
    ];
    run(true, &steps).unwrap();
}

#[test]
fn p5_renaming_a_file_that_is_being_made_takes_nothing_that_a_remote_made_meanwhile() {
    let begun = |name| [Step::Begin(name), Step::RemotePut(name), Step::Sync].to_vec();
    let ends: [&[Step]; 3] = [
        &[
            Step::Rename("a", "b"),
            Step::Reopen(false),
            Step::Write("a"),
        ],
        &[Step::Rename("a", "d/x"), Step::Finish],
        &[Step::Rename("a", "d/x")],
    ];
    for end in ends {
        let steps = [begun("a"), end.to_vec()].concat();
        run(false, &steps).unwrap();
        run(true, &steps).unwrap();
    }
}

#[test]
fn p7_a_file_taken_out_of_the_folder_is_seen_again_if_it_did_go_up() {
    let steps = [
        Step::PlainWrite("e/x", Between::default()),
        Step::Read("e/x"),
        Step::LosePut,
        Step::Push,
        Step::PlainDelete("e/x", Between::default()),
    ];
    run(false, &steps).unwrap();
}

#[test]
fn p4_an_unfinished_file_does_not_stop_a_new_name_from_going_up() {
    let steps = [
        Step::Write("b"),
        Step::Push,
        Step::Rename("b", "f/z"),
        Step::Begin("f/z"),
        Step::Reopen(false),
    ];
    run(false, &steps).unwrap();
}

#[test]
fn p5_a_file_put_by_hand_on_a_version_that_nobody_saw_takes_nothing_of_it_along() {
    for between in all_between() {
        let put = [Step::RemotePut("b"), Step::PlainWrite("b", between)];
        for then in [Step::Rename("b", "d/x"), Step::Unlink("b")] {
            let steps = [&put[..], &[then]].concat();
            run(true, &steps).unwrap_or_else(|why| panic!("{steps:?}: {why}"));
        }
    }
}

/// All the ways from one life to the next.
fn all_between() -> impl Iterator<Item = Between> {
    [false, true].into_iter().flat_map(|killed| {
        [false, true].map(|hears_first| Between {
            killed,
            hears_first,
        })
    })
}

#[test]
fn p5_a_file_put_by_hand_where_an_unfinished_one_was_replaces_nothing_that_was_not_shown() {
    for between in all_between() {
        let steps = [
            Step::RemotePut("d/x"),
            Step::Begin("d/x"),
            Step::Sync,
            Step::PlainWrite("d/x", between),
        ];
        run(false, &steps).unwrap_or_else(|why| panic!("{between:?}: {why}"));
    }
}

#[test]
fn p5_a_file_put_by_hand_replaces_no_version_that_came_while_nothing_was_mounted() {
    let histories: [&[Step]; 3] = [
        &[],
        &[Step::RemotePut("d/x"), Step::Settle],
        &[Step::RemotePut("d/x"), Step::Settle, Step::Read("d/x")],
    ];
    for (history, between) in histories
        .iter()
        .flat_map(|h| all_between().map(move |b| (h, b)))
    {
        let then = [Step::RemotePut("d/x"), Step::PlainWrite("d/x", between)];
        let steps = [*history, &then].concat();
        run(false, &steps).unwrap_or_else(|why| panic!("{history:?} {between:?}: {why}"));
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn p5_no_write_and_no_version_is_lost(
        propagate: bool,
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        if let Err(why) = run(propagate, &steps) {
            prop_assert!(false, "{}", why);
        }
    }
}

/// What one of two mounts of one remote does.
fn shared_step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        6 => file().prop_map(Step::Write),
        2 => file().prop_map(Step::Patch),
        2 => file().prop_map(Step::Read),
        2 => file().prop_map(Step::Unlink),
        3 => (file(), file()).prop_map(|(a, b)| Step::Rename(a, b)),
        4 => Just(Step::Sync),
        4 => Just(Step::Push),
        1 => Just(Step::LosePut),
        1 => Just(Step::EvictAll),
        1 => any::<bool>().prop_map(Step::Reopen),
    ];
    (0..2usize, step)
}

/// Every content that was acknowledged anywhere is at the remote, was there, or was set aside.
fn run_shared(propagate: bool, steps: &[(usize, Step)]) -> Result<(), String> {
    let (runtime, memory) = (world::runtime(), larder::backends::memory::Memory::new());
    let mut worlds = [0, 1].map(|n| {
        let mut world = World::beside(runtime.clone(), memory.clone(), propagate);
        world.number_from(n * 10_000);
        world
    });
    let mut take = |at: usize, step: &Step| -> Result<(), String> {
        let before = worlds[at].at_remote();
        // What the neighbour wrote is another's for this one.
        let [a, b] = &mut worlds;
        let (this, other) = if at == 0 { (a, b) } else { (b, a) };
        this.others_are(&before, other);
        this.take(step)?;
        other.saw_uploaded(this);
        Ok(())
    };
    for (n, (at, step)) in steps.iter().enumerate() {
        take(*at, step).map_err(|why| format!("step {n}, mount {at}, {step:?}: {why}"))?;
    }
    for at in [0, 1, 0, 1] {
        take(at, &Step::Push).map_err(|why| format!("at the end, mount {at}: {why}"))?;
    }
    for at in [0, 1] {
        take(at, &Step::Settle).map_err(|why| format!("at the end, mount {at}: {why}"))?;
    }
    Ok(())
}

#[test]
fn p5_a_new_file_does_not_replace_what_came_under_a_name_that_was_left_with_changes() {
    let steps = [
        (0, Step::Write("f/z")),
        (0, Step::Push),
        (0, Step::Patch("f/z")),
        (1, Step::Sync),
        (1, Step::Rename("f/z", "e/x")),
        (1, Step::Patch("e/x")),
        (0, Step::Push),
        (1, Step::Sync),
        (1, Step::Write("f/z")),
    ];
    run_shared(false, &steps).unwrap();
    run_shared(true, &steps).unwrap();
}

#[test]
fn p5_a_copy_whose_answer_was_lost_is_not_made_anew_of_what_came_under_the_old_name() {
    let lost = [
        (0, Step::Write("a")),
        (0, Step::Push),
        (1, Step::Sync),
        (1, Step::LosePut),
        (1, Step::Rename("a", "b")),
        (1, Step::Push),
        (0, Step::Write("a")),
        (0, Step::Push),
    ];
    for then in [&[][..], &[(1, Step::Reopen(false))]] {
        let steps = [&lost[..], then].concat();
        run_shared(false, &steps).unwrap();
        run_shared(true, &steps).unwrap();
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn p5_two_mounts_lose_nothing_of_each_other(
        propagate: bool,
        steps in proptest::collection::vec(shared_step(), 1..40),
    ) {
        if let Err(why) = run_shared(propagate, &steps) {
            prop_assert!(false, "{}", why);
        }
    }
}
