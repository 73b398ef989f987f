//! One run: phones that wake and sleep, callers who come and give up, and what becomes of each call.

mod phones;
mod verdict;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::time::{Duration, Instant};

use sip_push_proxy::binding::Provider;
use sip_push_proxy::push::{Breaker, BreakerSettings, Notice, Push};
use sip_push_proxy::store::HeldCall;
use sip_push_proxy::timeline::{Reason, Step};

use self::phones::{Phone, prid, push_params};
use super::fate::{Fate, PushFate, WakeFate};
use super::plan::{Crash, Plan};
use super::{IDEAL_EVERY, SIGNALLING, WAIT_MAX};
use crate::agent::{Agent, Sent};
use crate::network::Network;
use crate::world::{SOFTSWITCH, World};

/// Phones register first, and sleep then, before any call comes.
const MORNING: Duration = Duration::from_secs(60);
/// All calls are over so long after the last one, and by then what may be late has come.
const EVENING: Duration = Duration::from_secs(400);
/// Then all phones come back, and have this long to be told what they missed.
const NIGHT: Duration = Duration::from_secs(200);
/// Who has heard the phone ring hangs up in the end.
const RINGS_FOR: Duration = Duration::from_secs(60);

/// How many phones there are, and how many calls come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) phones: usize,
    pub(crate) calls: usize,
}

/// What is to happen beside the network.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Call(usize),
    /// A push of an ideal proxy, which may be its first one alone, would be with the phone.
    Pushable(usize, Pushes),
    GivesUp(usize),
    HangsUp(usize),
    /// A push for a call reaches its phone.
    Rouses(usize),
    /// The phone of a call comes up for it.
    Wakes(usize),
    Moves(usize),
    Registers(usize),
    /// Whether the REGISTER with this number has brought anything.
    LooksAfter(usize, usize),
    Sleeps(usize),
    Dies,
    Starts,
    /// Another node takes over the calls of the one that died.
    TakesOver,
}

/// How often an ideal proxy pushes for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pushes {
    Once,
    EachSecond,
}

/// One call, and all that is seen of it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) call_ref: String,
    pub(super) phone: usize,
    /// Which request of the softswitch's it is.
    number: usize,
    pub(super) at: Instant,
    pub(super) gives_up: Instant,
    wake: WakeFate,
    /// When the phone would ring for an ideal proxy that pushes once, and for one that pushes each second.
    could_ring: [Option<Instant>; 2],
    /// When the caller cancelled.
    pub(super) cancelled: Option<Instant>,
    /// With whether they are of the phone alone.
    pub(super) steps: Vec<(Instant, Step, bool, Option<Reason>)>,
    /// Pushes for it that were taken.
    pub(super) pushes: Vec<(Instant, PushFate)>,
    /// When the phone was told of it as missed.
    told: Vec<Instant>,
}

pub(crate) struct Day {
    world: World,
    fate: Fate,
    size: Size,
    start: Instant,
    phones: Vec<Phone>,
    pub(super) calls: Vec<Call>,
    by_ref: BTreeMap<String, usize>,
    /// Of each process.
    breaker: BreakerSettings,
    outages: Vec<Range<Instant>>,
    repeats_apns: bool,
    crash: Crash,
    /// Calls of nodes that are gone.
    left: Vec<HeldCall>,
    pub(super) crashes: Vec<Range<Instant>>,
    acts: BinaryHeap<Reverse<(Instant, u64, Act)>>,
    planned: u64,
    seen_pushes: usize,
    seen_steps: usize,
}

impl Day {
    /// Lives through a whole day.
    pub(crate) fn of(seed: u64, size: Size, plan: &Plan) -> Self {
        Self::lived(seed, size, plan, 0)
    }

    /// The same, with everything written down that concerns one call and its phone.
    pub(crate) fn trace(seed: u64, size: Size, plan: &Plan, call: usize) -> Vec<String> {
        let day = Self::lived(seed, size, plan, usize::MAX);
        let Some(traced) = day.calls.get(call) else { return Vec::new() };
        let agent = &day.world.agents[day.phones[traced.phone].agent];
        let (address, call_ref) = (format!("{}:", agent.address.ip()), &traced.call_ref);
        let token = format!("{:06x}0", traced.phone + 1);
        let names = [format!(" {} ", agent.name), token, address, format!(" {call_ref} ")];
        let (from, until) = (traced.at - Duration::from_secs(60), traced.at + Duration::from_secs(90));
        let began = day.start - MORNING;
        let ms = |line: &String| line.trim_start().split(' ').next()?.parse().ok().map(Duration::from_millis);
        let is_near = |line: &&String| ms(line).is_some_and(|at| (from..until).contains(&(began + at)));
        let is_its = |line: &&String| names.iter().any(|name| line.contains(name)) || line.contains("the process");
        let mut lines: Vec<_> = day.world.trace.iter().filter(is_near).filter(is_its).cloned().collect();
        lines.push(format!("{:?}", day.verdict(call)));
        lines
    }

    fn lived(seed: u64, size: Size, plan: &Plan, trace_max: usize) -> Self {
        let mut world = World::new(plan.policy(), 20_000, seed);
        world.trace_max = trace_max;
        world.ledger.is_lenient = true;
        world.network = Network::fair();
        world.pushes.delay = Duration::from_millis(150);
        world.pushes.breaker = Some(Breaker::new(plan.breaker));
        if !plan.repeats_apns {
            world.pushes.not_repeatable = vec![Provider::Apns];
        }
        let fate = Fate::new(seed, size.phones, size.calls);
        let start = world.now.instant + MORNING;
        let from_start = |range: &Range<Duration>| start + range.start..start + range.end;
        let outages: Vec<_> = fate.outages().iter().map(from_start).collect();
        world.pushes.outages = outages.clone();
        let crashes = fate.crashes().iter().map(from_start).collect();
        let mut day = Self {
            world,
            fate,
            size,
            start,
            phones: Vec::new(),
            calls: Vec::new(),
            by_ref: BTreeMap::new(),
            breaker: plan.breaker,
            outages,
            repeats_apns: plan.repeats_apns,
            crash: plan.crash,
            left: Vec::new(),
            crashes,
            acts: BinaryHeap::new(),
            planned: 0,
            seen_pushes: 0,
            seen_steps: 0,
        };
        day.begins();
        day.passes(start + fate.length() + EVENING);
        day.ends();
        day
    }

    fn begins(&mut self) {
        let begin = self.now();
        for phone in 0..self.size.phones {
            self.add_phone(phone);
            self.plan(begin + (MORNING / 2).mul_f64(phone as f64 / self.size.phones as f64), Act::Registers(phone));
        }
        for call in 0..self.size.calls {
            let fate = self.fate.call(call);
            self.plan(self.start + fate.at, Act::Call(call));
        }
        for crash in self.crashes.clone() {
            self.plan(crash.start, Act::Dies);
            self.plan(crash.end, Act::Starts);
        }
    }

    /// All phones come back, those with dead tokens with living ones.
    fn ends(&mut self) {
        let begin = self.now();
        for phone in 0..self.phones.len() {
            let is_iphone = self.fate.phone(phone).is_iphone;
            if self.phones[phone].has_dead_token {
                self.agent(phone).device.push = push_params(&prid(phone, 2, is_iphone), is_iphone);
            }
            self.phones[phone].awake_until = begin + NIGHT;
            self.agent(phone).is_awake = true;
            self.agent(phone).connection = None;
            self.plan(begin + Duration::from_millis(10 * phone as u64), Act::Registers(phone));
        }
        self.passes(begin + NIGHT);
    }

    fn now(&self) -> Instant {
        self.world.now.instant
    }

    fn plan(&mut self, at: Instant, act: Act) {
        self.planned += 1;
        self.acts.push(Reverse((at, self.planned, act)));
    }

    fn plan_after(&mut self, pause: Duration, act: Act) {
        self.plan(self.now() + pause, act);
    }

    fn agent(&mut self, phone: usize) -> &mut Agent {
        &mut self.world.agents[self.phones[phone].agent]
    }

    fn passes(&mut self, end: Instant) {
        loop {
            let next = self.acts.peek().map_or(end, |Reverse((at, ..))| end.min(*at));
            if self.world.step(next) {
                self.watch();
                continue;
            }
            self.world.run_for(next.saturating_duration_since(self.now()));
            if next >= end {
                return;
            }
            if let Some(Reverse((_, _, act))) = self.acts.pop() {
                self.happens(act);
            }
        }
    }

    /// What the proxy has done in the last step.
    fn watch(&mut self) {
        let now = self.now();
        for step in &self.world.ledger.steps[self.seen_steps..] {
            if let Some(call) = self.by_ref.get(&*step.call_ref) {
                let (is_of_phone, reason) = (step.device.is_some(), step.why.as_ref().map(|why| why.reason));
                self.calls[*call].steps.push((now, step.step, is_of_phone, reason));
            }
        }
        self.seen_steps = self.world.ledger.steps.len();
        for index in self.seen_pushes..self.world.pushes.taken.len() {
            let Push { notice, .. } = self.world.pushes.taken[index].clone();
            match notice {
                Notice::Invite { call_ref, .. } => self.push_taken(&call_ref),
                Notice::MissedCalls(entries) => {
                    for call in entries.iter().filter_map(|entry| self.by_ref.get(&*entry.call_ref)) {
                        self.calls[*call].told.push(now);
                    }
                }
                Notice::Message | Notice::CallEnded { .. } | Notice::Register { .. } => {}
                Notice::Test | Notice::Text { .. } => {}
            }
        }
        self.seen_pushes = self.world.pushes.taken.len();
    }

    fn push_taken(&mut self, call_ref: &str) {
        let Some(call) = self.by_ref.get(call_ref).copied() else { return };
        let now = self.now();
        let fate = self.fate.push(call, self.calls[call].pushes.len());
        self.calls[call].pushes.push((now, fate));
        self.note(call, &format!("the push will be {fate:?}"));
        if let Some(transit) = fate.transit() {
            self.plan_after(transit, Act::Rouses(call));
        }
    }

    fn note(&mut self, call: usize, what: &str) {
        let name = format!("p{}", self.calls[call].phone);
        self.world.note(|| format!("        {name} (call {call}): {what}"));
    }

    fn happens(&mut self, act: Act) {
        match act {
            Act::Call(call) => self.call_comes(call),
            Act::Pushable(call, pushes) => self.could_be_pushed(call, pushes),
            Act::GivesUp(call) => self.gives_up(call),
            Act::HangsUp(call) => self.hangs_up(call),
            Act::Rouses(call) => self.rouses(call),
            Act::Wakes(call) => self.wakes(call),
            Act::Moves(phone) => {
                if self.agent(phone).is_awake {
                    self.world.agent_moves(self.phones[phone].agent);
                }
            }
            Act::Registers(phone) => self.registers(phone),
            Act::LooksAfter(phone, number) => self.looks_after(phone, number),
            Act::Sleeps(phone) => self.sleeps(phone),
            Act::Dies => {
                self.world.note(|| "        the process is killed".to_owned());
                self.world.dies();
                self.world.pushes.breaker = Some(Breaker::new(self.breaker));
                // Its connections are closed, as far as anybody is there to see it.
                for phone in 0..self.phones.len() {
                    if self.phones[phone].is_tcp && self.agent(phone).connection.take().is_some() {
                        let after = self.fate.reaction(phone) * 4;
                        self.plan_after(after, Act::Registers(phone));
                    }
                }
            }
            Act::Starts => {
                self.world.note(|| "        the process is there again".to_owned());
                match self.crash {
                    Crash::Restart => self.world.starts(),
                    Crash::NodeLoss(lease_s) => {
                        self.left = self.world.goes_on_elsewhere();
                        self.plan_after(Duration::from_secs(lease_s), Act::TakesOver);
                    }
                }
            }
            Act::TakesOver => {
                self.world.note(|| "        the process has the calls of the one that is gone".to_owned());
                let left = std::mem::take(&mut self.left);
                self.world.takes_over(left);
            }
        }
    }

    fn call_comes(&mut self, call: usize) {
        let fate = self.fate.call(call);
        let aor = format!("sip:p{}@example.org", fate.phone);
        let switch = &mut self.world.agents[SOFTSWITCH];
        let contact = switch.registered.get(&aor).and_then(|row| row.first()).map(|(uri, _)| uri.clone());
        let draft = switch.request("INVITE", contact.as_ref().unwrap_or(&aor), &aor);
        let call_ref = draft.call_id.clone();
        let number = self.world.request(SOFTSWITCH, draft);
        let now = self.now();
        self.by_ref.insert(call_ref.clone(), call);
        self.calls.push(Call {
            call_ref,
            phone: fate.phone,
            number,
            at: now,
            gives_up: now + fate.patience,
            wake: fate.wake,
            could_ring: [None; 2],
            cancelled: None,
            steps: Vec::new(),
            pushes: Vec::new(),
            told: Vec::new(),
        });
        self.note(call, &format!("comes, its caller waits for {:?}", fate.patience));
        self.plan(now + fate.patience, Act::GivesUp(call));
        for pushes in [Pushes::Once, Pushes::EachSecond] {
            if let Some(at) = self.ideal_push(call, pushes) {
                self.plan(at, Act::Pushable(call, pushes));
            }
        }
    }

    /// When the first push of an ideal proxy would be with the phone.
    fn ideal_push(&self, number: usize, pushes: Pushes) -> Option<Instant> {
        let call = &self.calls[number];
        let until = call.gives_up.min(call.at + WAIT_MAX);
        let moments = (0..).map(|round| self.takes_at(call) + IDEAL_EVERY * round).take_while(|at| *at < until);
        let is_taken = |at: &Instant| !self.outages.iter().any(|outage| outage.contains(at));
        let most = if pushes == Pushes::Once { 1 } else { usize::MAX };
        let taken = moments.filter(is_taken).take(most).enumerate();
        taken.filter_map(|(attempt, at)| Some(at + self.fate.push(number, attempt).transit()?)).min()
    }

    /// What an ideal proxy's push would bring.
    fn could_be_pushed(&mut self, call: usize, pushes: Pushes) {
        let (now, wake) = (self.now(), self.calls[call].wake);
        let phone = &self.phones[self.calls[call].phone];
        let comes = match (self.world.agents[phone.agent].is_awake, phone.has_dead_token) {
            (true, _) => Some(now + self.fate.reaction(call)),
            (false, true) => None,
            (false, false) => {
                // Nothing makes it faster once it is waking.
                let up = phone.waking.unwrap_or(now + wake.latency);
                Some(up + wake.settles_after())
            }
        };
        self.calls[call].could_ring[pushes as usize] = comes.map(|comes| comes + SIGNALLING);
    }

    fn gives_up(&mut self, call: usize) {
        match self.sent(call).responses.iter().filter_map(sip_push_proxy::sip::Message::status).any(is_heard) {
            true => self.plan_after(RINGS_FOR, Act::HangsUp(call)),
            false => self.hangs_up(call),
        }
    }

    fn hangs_up(&mut self, call: usize) {
        if !self.sent(call).finals().is_empty() {
            return;
        }
        self.note(call, "the caller gives up");
        self.calls[call].cancelled = Some(self.now());
        let client = self.sent(call).client;
        let now = self.now();
        self.world.stir(SOFTSWITCH);
        self.world.agents[SOFTSWITCH].transactions.cancel(client, b"", now);
    }

    fn sent(&self, call: usize) -> &Sent {
        &self.world.agents[SOFTSWITCH].sent[self.calls[call].number]
    }
}

/// Whether a caller hears by this response that somebody is there.
fn is_heard(status: u16) -> bool {
    matches!(status, 180 | 183 | 200..=299)
}
