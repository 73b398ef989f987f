//! The figure: of the calls that could have been delivered to sleeping phones, how many are, with each of several settings.
//!
//! ```text
//! cargo bench --bench wake [-- --seeds N] [--calls N] [--phones N] [--policy NAME]... [--verbose]
//! cargo bench --bench wake -- --policy NAME --trace SEED:CALL
//! ```
//!
//! What counts as deliverable, and what phones, callers and push services are like, stands in `tests/simulation/wake`. The
//! same arguments print the same text.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that measures")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the simulation is written for tests")]
#![expect(dead_code, reason = "the simulation has what the stories of its tests need besides")]

#[path = "../tests/simulation/agent.rs"]
mod agent;
#[path = "../tests/simulation/deliver.rs"]
mod deliver;
#[path = "../tests/simulation/digest.rs"]
mod digest;
#[path = "../tests/simulation/ledger.rs"]
mod ledger;
#[path = "../tests/simulation/network.rs"]
mod network;
#[path = "../tests/simulation/options.rs"]
mod options;
#[path = "../tests/simulation/push_service.rs"]
mod push_service;
#[path = "../tests/random/mod.rs"]
mod random;
#[path = "../tests/simulation/storage.rs"]
mod storage;
#[path = "../tests/simulation/support.rs"]
mod support;
#[path = "../tests/simulation/text.rs"]
mod text;
#[path = "../tests/simulation/wake/mod.rs"]
mod wake;
#[path = "../tests/simulation/world.rs"]
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use wake::{Day, PLANS, Plan, Size, Tally, Which};

/// What is asked for.
struct Arguments {
    seeds: u64,
    size: Size,
    plans: Vec<&'static Plan>,
    trace: Option<(u64, usize)>,
    is_verbose: bool,
}

impl Arguments {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let size = Size { phones: 2_000, calls: 2_000 };
        let mut arguments = Self { seeds: 10, size, plans: Vec::new(), trace: None, is_verbose: false };
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--seeds" => arguments.seeds = number(&value()?)?,
                "--calls" => arguments.size.calls = number(&value()?)?,
                "--phones" => arguments.size.phones = number(&value()?)?,
                "--policy" => {
                    let name = value()?;
                    let names = PLANS.map(|plan| plan.name).join(", ");
                    arguments
                        .plans
                        .push(Plan::named(&name).ok_or_else(|| format!("{name}: no policy; there are {names}"))?);
                }
                "--trace" => {
                    let which = value()?;
                    let (seed, call) = which.split_once(':').ok_or_else(|| format!("{which}: should be SEED:CALL"))?;
                    arguments.trace = Some((number(seed)?, number(call)?));
                }
                "--verbose" => arguments.is_verbose = true,
                // What `cargo bench` says to every bench.
                "--bench" => {}
                _ => {
                    return Err(format!(
                        "{word}: unknown; there are --seeds, --calls, --phones, --policy, --trace, --verbose"
                    ));
                }
            }
        }
        if arguments.plans.is_empty() {
            arguments.plans = PLANS.iter().collect();
        }
        Ok(arguments)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text}: should be a number"))
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("wake: {wrong}");
            return ExitCode::from(2);
        }
    };
    if let (Some((seed, call)), Some(plan)) = (arguments.trace, arguments.plans.first()) {
        Day::trace(seed, arguments.size, plan, call).iter().for_each(|line| println!("{line}"));
        return ExitCode::SUCCESS;
    }
    let Size { phones, calls } = arguments.size;
    println!("{} seeds, each with {phones} phones and {calls} calls\n", arguments.seeds);
    println!(
        "{:<18}{:>8}{:>12}{:>11}{:>9}{:>9}{:>9}{:>13}{:>10}{:>10}{:>10}{:>8}{:>7}",
        "POLICY",
        "CALLS",
        "DELIVERABLE",
        "DELIVERED",
        "SHARE",
        "IPHONES",
        "OTHERS",
        "PUSHES/CALL",
        "RING 50 %",
        "99 %",
        "NO FINAL",
        "UNTOLD",
        "TWICE"
    );
    let mut tallies = tallies(&arguments);
    for (plan, tally) in arguments.plans.iter().zip(&mut tallies) {
        let shares = tally.shares().map(|share| format!("{share:.2} %"));
        let rings = [50, 99].map(|percent| format!("{:.1} s", tally.rings(percent).as_secs_f64()));
        println!(
            "{:<18}{:>8}{:>12}{:>11}{:>9}{:>9}{:>9}{:>13.2}{:>10}{:>10}{:>10}{:>8}{:>7}",
            plan.name,
            tally.calls,
            tally.deliverable,
            tally.delivered,
            format!("{:.2} %", tally.share()),
            shares[0],
            shares[1],
            tally.pushes as f64 / tally.calls.max(1) as f64,
            rings[0],
            rings[1],
            tally.without_final.len(),
            tally.untold.len() + tally.untold_of_dead_token.len(),
            tally.told_twice.len()
        );
    }
    for (plan, tally) in arguments.plans.iter().zip(&tallies) {
        tell_faults(plan, tally, arguments.is_verbose);
    }
    ExitCode::SUCCESS
}

/// Why calls were lost, and which had what must not happen.
fn tell_faults(plan: &Plan, tally: &Tally, is_verbose: bool) {
    println!("\n{}: {} calls could have been delivered and were not", plan.name, tally.deliverable - tally.delivered);
    let causes = tally.lost.iter().map(|(cause, calls)| (cause.to_string(), calls));
    let faults = [
        ("NO FINAL response for the caller", &tally.without_final),
        ("NEVER TOLD to the phone, which did not get it", &tally.untold),
        ("NEVER TOLD to the phone, which has come back with another token", &tally.untold_of_dead_token),
        ("TOLD TWICE to the phone", &tally.told_twice),
    ];
    let faults =
        faults.into_iter().filter(|(_, calls)| !calls.is_empty()).map(|(what, calls)| (what.to_owned(), calls));
    let mut lines: Vec<_> = causes.collect();
    lines.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.len()));
    lines.extend(faults);
    for (what, calls) in lines {
        println!("{:>8}  {what}: {}", calls.len(), names(calls, if is_verbose { usize::MAX } else { 3 }));
    }
}

/// Up to `most` calls, as `--trace` takes them.
fn names(calls: &[Which], most: usize) -> String {
    let named: Vec<_> = calls.iter().take(most).map(|(seed, call)| format!("{seed}:{call}")).collect();
    named.join(" ") + if calls.len() > most { " …" } else { "" }
}

/// One for each plan. Days are independent of each other, so that each processor takes the next one.
fn tallies(arguments: &Arguments) -> Vec<Tally> {
    let days: Vec<_> =
        (0..arguments.plans.len()).flat_map(|plan| (1..=arguments.seeds).map(move |seed| (plan, seed))).collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<Option<Tally>> = days.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads {
            let (sender, next, days) = (sender.clone(), &next, &days);
            scope.spawn(move || {
                while let Some((plan, seed)) = days.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let number = days.iter().position(|day| day == &(*plan, *seed)).unwrap_or_default();
                    let day = Day::of(*seed, arguments.size, arguments.plans[*plan]);
                    let _ = sender.send((number, Tally::of(*seed, &day)));
                }
            });
        }
        drop(sender);
        for (number, tally) in receiver {
            done[number] = Some(tally);
        }
    });
    let mut tallies: Vec<_> = arguments.plans.iter().map(|_| Tally::default()).collect();
    for ((plan, _), tally) in days.iter().zip(done) {
        tallies[*plan].add(tally.unwrap_or_default());
    }
    tallies
}
