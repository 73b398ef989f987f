//! One run: phones that wake and sleep, callers who come and give up, and what becomes of each call.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::time::{Duration, Instant};

use sip_push_proxy::binding::Provider;
use sip_push_proxy::push::{Breaker, BreakerSettings, Notice, Push};
use sip_push_proxy::sip::Transport;
use sip_push_proxy::timeline::{Reason, Step};

use super::fate::{Fate, PROMPT_MAX, PushFate, WakeFate};
use super::plan::Plan;
use super::{SIGNALLING, WAIT_MAX};
use crate::agent::{Agent, Answer, Sent};
use crate::network::Network;
use crate::text;
use crate::world::{SOFTSWITCH, World};

/// Phones register first, and sleep then, before any call comes.
const MORNING: Duration = Duration::from_secs(60);
/// All calls are over so long after the last one, and by then what may be late has come.
const EVENING: Duration = Duration::from_secs(400);
/// Then all phones come back, and have this long to be told what they missed.
const NIGHT: Duration = Duration::from_secs(200);
/// An app whose REGISTER brought nothing tries again after this.
const TRIES_AGAIN_TCP: Duration = Duration::from_secs(4);
const TRIES_AGAIN_UDP: Duration = Duration::from_secs(33);
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
    /// A push at the call's first moment would be with the phone.
    Pushable(usize),
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
}

#[derive(Debug)]
struct Phone {
    agent: usize,
    is_tcp: bool,
    closes: bool,
    never_sleeps: bool,
    has_dead_token: bool,
    /// When it will be up.
    waking: Option<Instant>,
    awake_until: Instant,
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
    /// When the phone would ring for a proxy that does all it could.
    could_ring: Option<Instant>,
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

    fn add_phone(&mut self, phone: usize) {
        let fate = self.fate.phone(phone);
        let name = format!("p{phone}");
        let address = format!("198.51.{}.{}:{}", 100 + phone / 250, 1 + phone % 250, 20_000 + phone);
        let transport = if fate.is_tcp { Transport::Tcp } else { Transport::Udp };
        let mut agent = Agent::new(&name, &name, &address, transport, self.world.seed ^ (phone as u64 + 1) << 20);
        agent.device.push = push_params(&prid(phone, 1, fate.is_iphone), fate.is_iphone);
        agent.answer = Answer::Answers(fate.picks_up_after);
        if fate.has_dead_token {
            self.world.pushes.dead.insert(prid(phone, 1, fate.is_iphone));
        }
        agent.answers_by_any_connection = true;
        let agent = self.world.add(agent);
        self.phones.push(Phone {
            agent,
            is_tcp: fate.is_tcp,
            closes: fate.closes,
            never_sleeps: fate.never_sleeps,
            has_dead_token: fate.has_dead_token,
            waking: None,
            awake_until: self.start - MORNING / 4,
        });
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
                Notice::Message | Notice::Test | Notice::Text { .. } => {}
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
        match fate {
            PushFate::Prompt(after) | PushFate::Late(after) => self.plan_after(after, Act::Rouses(call)),
            PushFate::Lost => {}
        }
    }

    fn note(&mut self, call: usize, what: &str) {
        let name = format!("p{}", self.calls[call].phone);
        self.world.note(|| format!("        {name} (call {call}): {what}"));
    }

    fn happens(&mut self, act: Act) {
        match act {
            Act::Call(call) => self.call_comes(call),
            Act::Pushable(call) => self.could_be_pushed(call),
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
                self.world.starts();
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
            could_ring: None,
            cancelled: None,
            steps: Vec::new(),
            pushes: Vec::new(),
            told: Vec::new(),
        });
        self.note(call, &format!("comes, its caller waits for {:?}", fate.patience));
        self.plan(now + fate.patience, Act::GivesUp(call));
        let taken = self.outages.iter().find(|outage| outage.contains(&now)).map_or(now, |outage| outage.end);
        self.plan(taken + PROMPT_MAX, Act::Pushable(call));
    }

    /// What an ideal proxy's push would bring.
    fn could_be_pushed(&mut self, call: usize) {
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
        self.calls[call].could_ring = comes.map(|comes| comes + SIGNALLING);
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

    fn rouses(&mut self, call: usize) {
        let (phone, latency) = (self.calls[call].phone, self.calls[call].wake.latency);
        if self.agent(phone).is_awake {
            let after = self.fate.reaction(call);
            self.plan_after(after, Act::Registers(phone));
            self.stays_awake(phone, after);
        } else if self.phones[phone].waking.is_none() {
            self.note(call, &format!("the push is there, and it wakes in {latency:?}"));
            self.phones[phone].waking = Some(self.now() + latency);
            self.plan_after(latency, Act::Wakes(call));
        }
    }

    fn wakes(&mut self, call: usize) {
        let (phone, wake) = (self.calls[call].phone, self.calls[call].wake);
        let now = self.now();
        self.phones[phone].waking = None;
        let is_tcp = self.phones[phone].is_tcp;
        let agent = self.agent(phone);
        agent.is_awake = true;
        agent.connection = None;
        if is_tcp {
            // A connection is made as soon as there is a network.
            self.plan(now + wake.network_after, Act::Registers(phone));
        } else {
            agent.network_from = Some(now + wake.network_after);
            if wake.has_other_port {
                self.world.agent_moves(self.phones[phone].agent);
            }
            self.registers(phone);
        }
        if let Some((moves, says)) = wake.moves {
            self.plan(now + wake.network_after + moves, Act::Moves(phone));
            self.plan(now + wake.network_after + moves + says, Act::Registers(phone));
        }
        self.stays_awake(phone, wake.stays_for);
    }

    fn stays_awake(&mut self, phone: usize, time: Duration) {
        let until = self.phones[phone].awake_until.max(self.now() + time);
        self.phones[phone].awake_until = until;
        self.plan(until, Act::Sleeps(phone));
    }

    fn registers(&mut self, phone: usize) {
        let connection = self.world.new_connection();
        let is_tcp = self.phones[phone].is_tcp;
        let agent = self.agent(phone);
        if !agent.is_awake {
            return;
        }
        if is_tcp && agent.connection.is_none() {
            agent.connection = Some(connection);
        }
        let contact = agent.contact();
        let draft = agent.register(Some(contact));
        let number = self.world.request(self.phones[phone].agent, draft);
        let pause = if is_tcp { TRIES_AGAIN_TCP } else { TRIES_AGAIN_UDP };
        self.plan_after(pause, Act::LooksAfter(phone, number));
        self.stays_awake(phone, Duration::from_secs(5));
    }

    fn looks_after(&mut self, phone: usize, number: usize) {
        let sent = &self.agent(phone).sent;
        let is_last = sent.len() == number + 1;
        if is_last && !sent[number].finals().contains(&200) {
            self.registers(phone);
        }
    }

    fn sleeps(&mut self, phone: usize) {
        let now = self.now();
        let Phone { awake_until, never_sleeps, closes, .. } = self.phones[phone];
        // It rings, or nobody has acknowledged its 200.
        let is_busy = |got: &crate::agent::Got| {
            let is_invite = got.message.method_text() == b"INVITE";
            let is_pending = got.status.is_some_and(|status| status < 300) && !got.acknowledged;
            is_invite && is_pending && now.saturating_duration_since(got.at) < RINGS_FOR
        };
        let agent = self.agent(phone);
        if never_sleeps || !agent.is_awake || now < awake_until {
            return;
        }
        if agent.got.iter().rev().take(4).any(is_busy) {
            return self.stays_awake(phone, Duration::from_secs(5));
        }
        agent.is_awake = false;
        if closes {
            agent.connection = None;
        }
    }
}

/// A token of a phone; it has one at a time.
fn prid(phone: usize, number: usize, is_iphone: bool) -> String {
    let token = format!("{:06x}{number:02x}", phone + 1);
    if is_iphone { format!("{token}a0:voip&{token}b0:remote") } else { token }
}

/// Parameters of a Contact by which a phone is pushed.
fn push_params(prid: &str, is_iphone: bool) -> String {
    match is_iphone {
        true => format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.voip&remote;pn-prid={prid}"),
        false => format!(";pn-provider=fcm;pn-param=project;pn-prid={prid}"),
    }
}

/// Whether a caller hears by this response that somebody is there.
fn is_heard(status: u16) -> bool {
    matches!(status, 180 | 183 | 200..=299)
}

/// What became of one call.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) is_deliverable: bool,
    /// From the INVITE to the phone.
    pub(super) rang_after: Option<Duration>,
    pub(super) has_final: bool,
    /// Whether the phone, which was bound when the call came, neither got it nor was told of it.
    pub(super) is_untold: bool,
    /// Whether the phone had a dead token then, and has come back with another.
    pub(super) had_dead_token: bool,
    /// Whether it was told more than once, and no crash is the reason.
    pub(super) is_told_twice: bool,
}

impl Day {
    pub(super) fn verdict(&self, number: usize) -> Verdict {
        let call = &self.calls[number];
        let finals = self.sent(number).finals();
        let seen = self.seen_at(call);
        let rang = seen.filter(|at| call.cancelled.is_none_or(|cancelled| *at <= cancelled));
        let latest = call.gives_up.min(call.at + WAIT_MAX);
        let could_ring = call.could_ring.is_some_and(|could_ring| could_ring <= latest);
        let crashed = |at: Instant| {
            self.crashes.iter().any(|crash| at <= crash.start && crash.start <= at + Duration::from_secs(1))
        };
        Verdict {
            is_deliverable: could_ring || rang.is_some(),
            rang_after: rang.map(|rang| rang - call.at),
            has_final: !finals.is_empty(),
            is_untold: seen.is_none() && call.told.is_empty() && !self.is_unbound(number),
            had_dead_token: self.phones[call.phone].has_dead_token,
            is_told_twice: call.told.len() > 1 && !call.told.iter().any(|at| crashed(*at)),
        }
    }

    /// Whether its phone was not bound any more.
    pub(super) fn is_unbound(&self, number: usize) -> bool {
        self.sent(number).finals().contains(&404)
    }

    /// When the INVITE was with the phone.
    pub(super) fn seen_at(&self, call: &Call) -> Option<Instant> {
        let got = self.world.agents[self.phones[call.phone].agent].got.iter();
        let mut of_call = got
            .filter(|got| got.message.method_text() == b"INVITE" && text::text(got.message.call_id()) == call.call_ref);
        of_call.next().map(|got| got.at)
    }

    /// INVITE pushes that were sent, whatever came of them.
    pub(super) fn pushes(&self) -> usize {
        self.world.pushes.sent.iter().filter(|push| matches!(push.notice, Notice::Invite { .. })).count()
    }

    /// When the call is waited for no longer.
    pub(super) fn wait_ends(&self, call: &Call) -> Instant {
        call.at + self.world.policy.hold.wait
    }

    /// When the push services would have taken a push for this call.
    pub(super) fn takes_at(&self, call: &Call) -> Instant {
        self.outages.iter().find(|outage| outage.contains(&call.at)).map_or(call.at, |outage| outage.end)
    }
}
