//! One mount that nobody else writes beside: whatever happens to its uploads and their answers,
//! every name shows what was written under it or moved to it, and nothing is a conflict.

use proptest::prelude::*;

use crate::world::{Step, World};
use crate::{between, cases};

/// The last one never leaves.
const FILES: [&str; 4] = ["a", "b", "d/x", "t.tmp"];

fn file() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&FILES[..])
}

/// A name that is written where it is shows what was not finished, too.
fn leaving() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&FILES[..3])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => file().prop_map(Step::Write),
        2 => file().prop_map(Step::Patch),
        2 => leaving().prop_map(Step::Begin),
        2 => Just(Step::Finish),
        1 => file().prop_map(Step::Read),
        1 => file().prop_map(Step::Unlink),
        8 => (file(), file()).prop_map(|(a, b)| Step::Rename(a, b)),
        4 => Just(Step::Sync),
        4 => Just(Step::Push),
        6 => (proptest::option::of(file()), any::<bool>()).prop_map(|(p, before)| Step::PushBut(p, before)),
        3 => Just(Step::Answer),
        1 => Just(Step::LosePut),
        1 => Just(Step::EvictAll),
        1 => Just(Step::Tidy),
        2 => any::<bool>().prop_map(Step::Reopen),
        1 => (file(), between()).prop_map(|(p, b)| Step::PlainWrite(p, b)),
        1 => Just(Step::Settle),
    ]
}

fn run(propagate: bool, steps: &[Step]) -> Result<(), String> {
    let mut world = World::new(propagate);
    world.is_alone();
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
fn p3_a_file_that_came_back_to_its_name_outlives_the_other_one() {
    let steps = [
        Step::Write("a"),
        Step::Push,
        Step::Rename("a", "b"),
        Step::Push,
        Step::Rename("b", "a"),
        Step::Push,
        Step::Write("b"),
        Step::Push,
    ];
    run(false, &steps).unwrap();
    run(true, &steps).unwrap();
}

#[test]
fn p3_a_file_that_came_back_to_its_name_does_not_become_what_it_replaced() {
    let steps = [
        Step::Write("a"),
        Step::Push,
        Step::Rename("a", "b"),
        Step::Write("a"),
        Step::PushBut(None, false),
        Step::Rename("b", "a"),
        Step::Sync,
    ];
    run(false, &steps).unwrap();
    run(true, &steps).unwrap();
}

#[test]
fn p3_a_file_put_by_under_a_name_that_stays_here_outlives_its_successor() {
    for read in [Step::Read("a"), Step::EvictAll] {
        let steps = [
            Step::Write("a"),
            Step::Push,
            read,
            Step::Rename("a", "t.tmp"),
            Step::Write("a"),
            Step::Push,
        ];
        run(false, &steps).unwrap();
        run(true, &steps).unwrap();
    }
}

#[test]
fn p5_what_is_sent_late_under_a_name_that_was_left_is_no_conflict_with_its_next_file() {
    let steps = [
        Step::Write("a"),
        Step::Push,
        Step::Write("a"),
        Step::PushBut(None, false),
        Step::Patch("a"),
        Step::Rename("a", "b"),
        Step::Begin("a"),
        Step::Answer,
        Step::Finish,
    ];
    run(false, &steps).unwrap();
    run(true, &steps).unwrap();
}

#[test]
fn p12_a_name_that_was_left_before_the_answer_came_does_not_come_back() {
    let left = [Step::Rename("a", "b"), Step::Unlink("a")];
    let ends = [Step::Answer, Step::Sync, Step::Reopen(false)];
    for (leave, end) in left.iter().flat_map(|l| ends.iter().map(move |e| (l, e))) {
        let steps = [
            Step::Write("a"),
            Step::Push,
            Step::Write("a"),
            Step::PushBut(None, false),
            leave.clone(),
            end.clone(),
        ];
        run(true, &steps).unwrap();
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn p3_what_one_mount_alone_does_is_what_it_shows(
        propagate: bool,
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        if let Err(why) = run(propagate, &steps) {
            prop_assert!(false, "{}", why);
        }
    }
}
