//! Anything at any time, as a seed has it: phones that come, go and move, calls that are answered, refused and given
//! up, over a bad network, with a store and a push service that fail. What must hold is in the ledger.

use std::time::Duration;

use sip_push_proxy::proxy::policy::{Mode, PushWhen, UpstreamContact};
use sip_push_proxy::push::{Outcome, Trouble};
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::EntryState;

use crate::agent::Answer;
use crate::network::Network;
use crate::options;
use crate::random::Random;
use crate::sim::{Phone, Request, Sim, ms, s, seed};

/// Runs, each with its own seed.
const RUNS: u64 = 300;

struct Run {
    chance: Random,
    sim: Sim,
    phones: Vec<Phone>,
    calls: Vec<Request>,
    is_smooth: bool,
}

#[test]
fn whatever_happens_the_ledger_is_right() {
    let runs = std::env::var("RUNS").map_or(RUNS, |runs| runs.parse().expect("RUNS is a number"));
    let seeds = seed().map_or(0..runs, |seed| seed..seed + 1);
    for seed in seeds {
        let mut run = Run::new(seed);
        for _ in 0..30 {
            run.act();
            let pause = run.chance.below(4000) as u64;
            run.sim.run_for(ms(pause));
        }
        run.ends();
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut chance = Random::new(seed ^ 0xc4a9_ce00);
        let mut policy = options::policy();
        policy.mode = *chance.choice(&[Mode::Relay, Mode::Relay, Mode::Local]);
        policy.upstream_contact = *chance.choice(&[UpstreamContact::Alias, UpstreamContact::Path]);
        policy.hold.push_when = *chance.choice(&[PushWhen::Always, PushWhen::Always, PushWhen::Unreachable]);
        policy.hold.fresh = *chance.choice(&[Duration::ZERO, Duration::ZERO, s(5)]);
        policy.hold.provisional = *chance.choice(&[182, 180, 0]);
        policy.hold.wait = *chance.choice(&[s(28), s(5), s(100)]);
        let sim = Sim::of(policy, 10_000, seed);
        let is_smooth = chance.below(4) == 0;
        if !is_smooth {
            let mut world = sim.world();
            world.network = Network::rough(&mut chance);
            world.storage.delay = ms(chance.below(400) as u64);
            world.storage.failures = chance.below(100);
            world.pushes.delay = ms(1 + chance.below(3000) as u64);
            world.pushes.failures = chance.below(300);
        }
        let count = 1 + chance.below(4);
        let phones = (0..count).map(|number| {
            let user = *chance.choice(&["alice", "bob"]);
            let transport = *chance.choice(&[Transport::Udp, Transport::Tcp]);
            let phone = sim.device(user, &format!("{user}{number}"), transport);
            let waking = *chance.choice(&[None, Some(ms(10)), Some(ms(300)), Some(s(4))]);
            let moves = chance.below(2) == 0;
            phone.change(|agent| {
                agent.wakes_after = waking;
                agent.moves_when_waking = moves;
            });
            phone
        });
        let phones = phones.collect();
        Self { chance, sim, phones, calls: Vec::new(), is_smooth }
    }

    /// One thing that somebody does.
    fn act(&mut self) {
        let phone = &self.phones[self.chance.below(self.phones.len())];
        let user = *self.chance.choice(&["alice", "bob"]);
        match self.chance.below(19) {
            0..=2 => {
                phone.is_back();
                let contact = self.sim.world().agents[phone.agent].contact();
                phone.sends_register(Some(contact));
            }
            3..=5 => phone.sleeps(),
            6 => {
                let asleep = !self.sim.world().agents[phone.agent].is_awake;
                if !asleep {
                    phone.moves();
                }
            }
            7..=10 => {
                let expires = *self.chance.choice(&["X-None: 1", "Expires: 3", "Expires: 120"]);
                let by_aor = self.chance.below(2) == 0;
                let switch = self.sim.switch();
                self.calls.push(match by_aor {
                    true => switch.asks("INVITE", &format!("sip:{user}@example.org"), |draft| draft.header(expires)),
                    false => switch.sends("INVITE", user, |draft| draft.header(expires)),
                });
            }
            11 => {
                let _ = self.sim.switch().sends("MESSAGE", user, |draft| draft);
            }
            12 | 13 => {
                if !self.calls.is_empty() {
                    let call = &self.calls[self.chance.below(self.calls.len())];
                    let reason =
                        *self.chance.choice(&["", "", "Reason: SIP;cause=200\r\n", "Reason: Q.850;cause=16\r\n"]);
                    call.cancels(reason);
                }
            }
            14 => {
                if let Some(call) = self.calls.iter().rev().find(|call| call.status() == Some(200)) {
                    let method = *self.chance.choice(&["BYE", "INFO", "INVITE"]);
                    call.sends(method);
                }
            }
            15 => {
                if !phone.got("INVITE").is_empty() {
                    let method = *self.chance.choice(&["BYE", "INFO"]);
                    phone.within_last(method);
                }
            }
            16 => {
                let call = phone.calls("carol");
                if self.chance.below(2) == 0 {
                    call.cancels("");
                }
            }
            17 => {
                let answers = [
                    Answer::Silent,
                    Answer::Trying,
                    Answer::Rings,
                    Answer::Answers(ms(1)),
                    Answer::Answers(s(2)),
                    Answer::Refuses(486),
                    Answer::Refuses(603),
                ];
                phone.does(*self.chance.choice(&answers));
            }
            _ => {
                let outcomes = [
                    Outcome::Limited,
                    Outcome::Refused { reason: "x".into() },
                    Outcome::TokenDead { since: None, reason: "x".into() },
                    Outcome::TryAgain { trouble: Trouble::Failing, after: Some(s(2)), reason: "x".into() },
                    Outcome::Skipped { after: s(3), reason: "x".into() },
                ];
                let token = self.sim.world().agents[phone.agent].name.clone();
                self.sim.push().next(&token, self.chance.choice(&outcomes).clone());
            }
        }
    }

    /// Everything gets well, all calls end, and all phones come back.
    fn ends(self) {
        let Self { sim, phones, is_smooth, .. } = self;
        {
            let mut world = sim.world();
            world.network = Network::calm();
            world.storage.delay = ms(1);
            world.storage.failures = 0;
            world.pushes.delay = ms(20);
            world.pushes.failures = 0;
            world.pushes.script.clear();
            world.agents.iter_mut().for_each(|agent| agent.wakes_after = None);
        }
        sim.run_for(s(400));
        let missed: Vec<(usize, String)> = (0..phones.len())
            .flat_map(|index| phones[index].bucket().into_iter().map(move |(call_ref, state)| (index, call_ref, state)))
            .filter(|(_, _, state)| *state == EntryState::Missed)
            .map(|(index, call_ref, _)| (index, call_ref))
            .collect();
        for phone in &phones {
            phone.is_back();
            phone.registers();
        }
        sim.run_for(s(100));
        let reported = sim.push().reported();
        for (index, call_ref) in missed {
            assert!(reported.contains(&call_ref), "{call_ref} was missed and is reported");
            assert_eq!(phones[index].bucket(), [], "nothing is left in the bucket");
        }
        if is_smooth {
            let world = sim.world();
            let mut once = world.pushes.reported.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), world.pushes.reported.len(), "each missed call is reported once");
        }
    }
}
