//! Hostile input, one layer up from `mutation.rs`: whatever is recognisably SIP goes into the proxy core, which answers
//! or drops it, sends a bounded number of messages for each, and forgets it all in the end.

#![expect(clippy::unwrap_used, reason = "a number that is none fails the test")]

mod core;
mod fixtures;
mod mutator;
mod random;

use std::time::Duration;

use sip_push_proxy::proxy::Input;
use sip_push_proxy::proxy::policy::Mode;
use sip_push_proxy::sip::Message;

use crate::core::{Core, View, invite, phone, switch};
use crate::mutator::mutate;
use crate::random::Random;

const MUTATIONS_DEFAULT: u64 = 100_000;
const SEED_DEFAULT: u64 = 3261;
/// What one message may make the proxy send: an answer, and a copy for each device of a user.
const SENT_MAX: usize = 24;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn advance(core: &mut Core, by: Duration) {
    core.now = core.now.after(by);
    let view = View(core.memory.table(), core.now.unix);
    core.proxy.expire(&view, core.now);
    core.settle();
}

fn damaged_messages_do_no_harm(mode: Mode) {
    let (seed, mutations) = (setting("SEED", SEED_DEFAULT), setting("MUTATIONS", MUTATIONS_DEFAULT));
    let originals = fixtures::read("");
    let mut core = Core::new(20, |policy| policy.mode = mode);
    let mut answered = 0;
    for number in 0..mutations {
        let mut random = Random::new(seed.wrapping_add(number));
        let (original, damaged) = mutate(&mut random, &originals);
        if let Ok(message) = Message::parse(damaged.into(), 128) {
            let flow = if random.below(2) == 0 { switch() } else { phone(random.below(20) as u32) };
            core.input(Input::Received { flow, message });
            let sent = core.settle().len();
            assert!(sent <= SENT_MAX, "SEED={} {original}: {sent} messages", seed.wrapping_add(number));
            answered += u64::from(sent > 0);
        }
        if number % 64 == 0 {
            advance(&mut core, Duration::from_millis(random.below(40_000) as u64));
        }
    }
    assert!(mutations < 1000 || answered > mutations / 10, "only {answered} of {mutations} were answered");
    core.receive(switch(), invite(0, 0));
    assert!(!core.settle().is_empty(), "it answers no more");
    // Timer C of calls that rang is the longest that anything lasts; refused reports are tried again later than that.
    (0..200).for_each(|_| advance(&mut core, Duration::from_secs(60)));
    assert!(core.proxy.is_idle(), "something is left for ever");
}

#[test]
fn damaged_messages_do_a_registrar_no_harm() {
    damaged_messages_do_no_harm(Mode::Local);
}

#[test]
fn damaged_messages_do_a_relay_no_harm() {
    damaged_messages_do_no_harm(Mode::Relay);
}
