//! Many phones and calls at once, as `benches/wake.rs` has them: what must hold of every call, and that few are lost.

use std::ops::RangeInclusive;

use crate::sim::seed;
use crate::wake::{Day, PLANS, Plan, Size, Tally, Which};

const SIZE: Size = Size { phones: 150, calls: 150 };

/// One day of each seed.
fn days(plan: &Plan, seeds: RangeInclusive<u64>) -> Tally {
    let seeds = seed().map_or(seeds, |seed| seed..=seed);
    let mut sum = Tally::default();
    seeds.for_each(|seed| sum.add(Tally::of(seed, &Day::of(seed, SIZE, plan))));
    sum
}

fn plan(name: &str) -> &'static Plan {
    Plan::named(name).unwrap_or_else(|| panic!("{name}: there are {:?}", PLANS.map(|plan| plan.name)))
}

#[track_caller]
fn none(what: &str, calls: &[Which], plan: &Plan) {
    if let Some((seed, call)) = calls.first() {
        let trace = Day::trace(*seed, SIZE, plan, *call).join("\n");
        panic!("{what}, {}: {calls:?}\n{trace}", plan.name);
    }
}

/// What holds of each call, and that few are lost.
fn few_are_lost(name: &str, seeds: RangeInclusive<u64>) {
    let plan = plan(name);
    let mut tally = days(plan, seeds);
    let Tally { calls, deliverable, pushes, .. } = tally;
    assert!(deliverable > calls * 9 / 10, "{name}: {deliverable} of {calls} could be delivered");
    assert!(tally.share() > 98.0, "{name}: {:.1} %, lost: {:?}", tally.share(), tally.lost);
    let [iphones, others] = tally.shares();
    assert!(iphones > 92.0 && others > 98.0, "{name}: {iphones:.1} % of iPhones, {others:.1} % of others");
    assert!(pushes < calls * 3, "{name}: {pushes} pushes for {calls} calls");
    let (half, most) = (tally.rings(50), tally.rings(99));
    assert!(half.as_secs() < 10 && half < most, "{name}: {half:?} to ring, at most {most:?}");
    none("told twice", &tally.told_twice, plan);
    none("no final response", &tally.without_final, plan);
    none("missed, and never told", &tally.untold, plan);
}

#[test]
fn with_the_defaults_every_caller_gets_a_final_and_every_missed_call_is_told_once() {
    few_are_lost("default", 1..=2);
}

#[test]
fn so_it_is_with_a_long_wait() {
    few_are_lost("wait_60", 3..=3);
}

#[test]
fn phones_that_may_be_awake_are_probed() {
    few_are_lost("unreachable", 1..=1);
    few_are_lost("fresh_15", 2..=2);
}

#[test]
fn a_seed_is_the_same_day_each_time() {
    let day = |_| format!("{:?}", Tally::of(7, &Day::of(7, Size { phones: 40, calls: 40 }, plan("default"))));
    let [first, second] = [0, 1].map(day);
    assert_eq!(first, second);
}
