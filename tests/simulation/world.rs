//! All that is in one run, and the order in which it happens.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip_push_proxy::binding::{Binding, Home};
use sip_push_proxy::clock::{Now, UnixMillis};
use sip_push_proxy::driver::{Pace, Turn, is_ours_to_refresh};
use sip_push_proxy::proxy::bars::Bars;
use sip_push_proxy::proxy::{Effect, FetchTicket, Input, Policy, Proxy, RefreshResult, ResolveTicket, Warning};
use sip_push_proxy::push::{self, Outcome, Pass, Push};
use sip_push_proxy::sip::{ConnectionId, Destination, Flow, Message, Method, Transport};
use sip_push_proxy::store::{Change, HeldCall, LeftCall, Ticket};
use sip_push_proxy::transaction::SendTag;

use crate::agent::Agent;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::options::{PROXY, SWITCH, settings, socket};
use crate::push_service::PushService;
use crate::random::Random;
use crate::storage::{Storage, View};
use crate::text;

/// What is to happen at some time.
#[derive(Debug)]
pub(crate) enum Event {
    ToProxy {
        flow: Flow,
        bytes: Bytes,
    },
    ToAgent {
        agent: usize,
        at: SocketAddr,
        flow: Flow,
        bytes: Bytes,
    },
    SendFailed(SendTag),
    ConnectFailed(SendTag),
    Save(Ticket, Change),
    Push(Push, Outcome, Option<Pass>),
    Fetched(FetchTicket),
    Resolved(ResolveTicket, Vec<(Transport, SocketAddr)>),
    /// A phone answers an INVITE.
    Answer {
        agent: usize,
        got: usize,
    },
    /// A 2xx is sent again until it is acknowledged.
    Repeat {
        agent: usize,
        got: usize,
        pause: Duration,
    },
    /// A pushed phone comes up.
    Wake {
        agent: usize,
    },
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    pub(crate) now: Now,
    pub(crate) policy: Arc<Policy>,
    pub(crate) proxy: Proxy,
    pub(crate) network: Network,
    pub(crate) storage: Storage,
    pub(crate) pushes: PushService,
    /// Where the softswitch is when it goes by a name; the best address first.
    pub(crate) softswitch_at: Vec<&'static str>,
    /// Where devices are refreshed upstream: when each has its turn.
    pub(crate) pace: Option<Pace>,
    /// Where they are reminded to register.
    pub(crate) reminders: Option<Pace>,
    /// Other nodes that are there.
    pub(crate) nodes: Vec<Home>,
    /// Connections on which a sign of life is waited for.
    pub(crate) awaited: BTreeSet<ConnectionId>,
    /// What came of it.
    pub(crate) refreshed: Vec<RefreshResult>,
    /// What the operator was told.
    pub(crate) warnings: Vec<Warning>,
    /// Who failed to prove who they are, and how.
    pub(crate) auth_failures: Vec<(IpAddr, &'static str)>,
    /// The softswitch is the first.
    pub(crate) agents: Vec<Agent>,
    /// Those that may have something to send, or other timers than they had.
    stirred: BTreeSet<usize>,
    /// When the others have something to do next.
    due: BTreeSet<(Instant, usize)>,
    due_of: BTreeMap<usize, Instant>,
    /// Whether the process was killed and has not started again.
    pub(crate) is_down: bool,
    pub(crate) ledger: Ledger,
    /// Who is or was at an address.
    pub(crate) addresses: BTreeMap<SocketAddr, usize>,
    pub(crate) trace: Vec<String>,
    /// Lines of the trace; what comes later is not kept.
    pub(crate) trace_max: usize,
    /// Every message that left the proxy, in order.
    pub(crate) left: Vec<(Destination, Message)>,
    connections: u64,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    scheduled: u64,
}

/// Index of the softswitch.
pub(crate) const SOFTSWITCH: usize = 0;

fn start() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(|| {
        #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
        Instant::now()
    });
    *START
}

impl World {
    pub(crate) fn new(policy: Policy, transactions_max: usize, seed: u64) -> Self {
        let policy = Arc::new(policy);
        let settings = sip_push_proxy::transaction::Settings { transactions_max, ..settings() };
        let mut world = Self {
            seed,
            random: Random::new(seed),
            now: Now { instant: start(), unix: UnixMillis(1_700_000_000_000) },
            proxy: Proxy::new(Arc::clone(&policy), settings, [seed, !seed]),
            policy,
            network: Network::calm(),
            storage: Storage::new(),
            pushes: PushService::new(),
            softswitch_at: vec![SWITCH],
            pace: None,
            reminders: None,
            nodes: Vec::new(),
            awaited: BTreeSet::new(),
            refreshed: Vec::new(),
            warnings: Vec::new(),
            auth_failures: Vec::new(),
            agents: Vec::new(),
            stirred: BTreeSet::new(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            is_down: false,
            ledger: Ledger::default(),
            addresses: BTreeMap::new(),
            trace: Vec::new(),
            trace_max: 20_000,
            left: Vec::new(),
            connections: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
        };
        world.add(Agent::new("switch", "switch", SWITCH, Transport::Udp, seed ^ 0x5717));
        world
    }

    pub(crate) fn add(&mut self, mut agent: Agent) -> usize {
        let index = self.agents.len();
        if agent.transport == Transport::Tcp {
            agent.connection = Some(self.new_connection());
        }
        self.addresses.insert(agent.address, index);
        self.agents.push(agent);
        index
    }

    pub(crate) fn new_connection(&mut self) -> u64 {
        self.connections += 1;
        self.connections
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.trace.len() < self.trace_max {
            let ms = self.now.instant.saturating_duration_since(start()).as_millis();
            self.trace.push(format!("{ms:>8} {}", what()));
        }
    }

    /// What led to a failure.
    #[expect(clippy::print_stderr, reason = "how a test tells of itself")]
    pub(crate) fn tell(&mut self) {
        let from = self.trace.len().saturating_sub(2000);
        eprintln!("{}\nSEED={}", self.trace[from..].join("\n"), self.seed);
    }

    pub(crate) fn schedule(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled)));
        self.events.insert(self.scheduled, event);
    }

    pub(crate) fn schedule_after(&mut self, pause: Duration, event: Event) {
        self.schedule(self.now.instant + pause, event);
    }

    /// Lets time pass, all that happens in it included.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now.instant + time;
        while self.step(end) {}
        self.advance(end);
    }

    /// The next thing up to `end`; false when there is none.
    pub(crate) fn step(&mut self, end: Instant) -> bool {
        self.drain();
        self.settle();
        let event = self.queue.peek().map(|Reverse((at, _))| *at);
        let timer = self.proxy.poll_timeout();
        let agents = self.due.first().map(|(at, _)| *at);
        let paces = self.pace.iter().chain(&self.reminders).map(Pace::poll_timeout);
        let Some(next) = [event, timer, agents].into_iter().flatten().chain(paces).min().filter(|next| *next <= end)
        else {
            return false;
        };
        self.advance(next);
        if timer.is_some_and(|due| due <= next) {
            let view = View { storage: &self.storage, now: self.now.unix };
            self.proxy.expire(&view, self.now);
        }
        self.refresh();
        let late: BTreeSet<usize> = self.due.range(..=(next, usize::MAX)).map(|(_, agent)| *agent).collect();
        for agent in late {
            self.stir(agent);
            self.agent_expires(agent);
        }
        if event.is_some_and(|due| due <= next)
            && let Some(Reverse((_, number))) = self.queue.pop()
            && let Some(event) = self.events.remove(&number)
        {
            self.happen(event);
        }
        self.drain();
        true
    }

    /// An agent is about to have something to send, or another timer.
    pub(crate) fn stir(&mut self, agent: usize) {
        self.stirred.insert(agent);
    }

    fn settle(&mut self) {
        for agent in std::mem::take(&mut self.stirred) {
            if let Some(due) = self.due_of.remove(&agent) {
                self.due.remove(&(due, agent));
            }
            if let Some(due) = self.agents[agent].transactions.poll_timeout() {
                self.due_of.insert(agent, due);
                self.due.insert((due, agent));
            }
        }
    }

    fn advance(&mut self, to: Instant) {
        if to > self.now.instant {
            self.now = self.now.after(to - self.now.instant);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToProxy { flow, bytes } => self.reaches_proxy(flow, bytes),
            Event::ToAgent { agent, at, flow, bytes } => self.reaches_agent(agent, at, flow, bytes),
            Event::SendFailed(tag) => self.input(Input::SendFailed { tag }),
            Event::ConnectFailed(tag) => self.input(Input::ConnectFailed { tag }),
            Event::Save(ticket, change) => {
                let reply = self.storage.apply(ticket, change, &mut self.random);
                self.input(Input::Saved(reply));
            }
            Event::Push(push, outcome, pass) => self.pushed(push, outcome, pass),
            Event::Fetched(ticket) => {
                let is_known = !self.storage.is_away;
                self.storage.is_cold = !is_known;
                self.input(Input::Fetched { ticket, is_known });
            }
            Event::Resolved(ticket, addresses) => self.input(Input::Resolved { ticket, addresses }),
            Event::Answer { agent, got } => self.agent_answers(agent, got),
            Event::Repeat { agent, got, pause } => self.agent_repeats(agent, got, pause),
            Event::Wake { agent } => self.agent_wakes(agent),
        }
    }

    /// As the first worker of a node does.
    fn refresh(&mut self) {
        let (own, others) = (self.policy.home, &self.nodes[..]);
        let is_ours = |binding: &Binding| is_ours_to_refresh(binding, own, others);
        let (table, now) = (self.storage.table(), self.now);
        let room = self.proxy.refresh_room();
        let due = self.pace.as_mut().map(|pace| pace.take(table, is_ours, room, now)).unwrap_or_default();
        let room = self.proxy.reminder_room();
        let sleeping = self.reminders.as_mut().map(|pace| pace.take(table, is_ours, room, now)).unwrap_or_default();
        due.into_iter().for_each(|binding| self.input(Input::Refresh(binding)));
        sleeping.into_iter().for_each(|binding| self.input(Input::Remind(binding)));
    }

    /// The operator's other wishes.
    pub(crate) fn policy_with(&mut self, change: impl FnOnce(&mut Policy)) {
        let mut policy = crate::options::policy();
        policy.mode = self.policy.mode;
        change(&mut policy);
        self.policy = Arc::new(policy);
        self.proxy.reload(Arc::clone(&self.policy));
    }

    /// A new process in the place of one that was killed.
    pub(crate) fn restart(&mut self) {
        self.dies();
        self.starts();
    }

    /// `kill -9`: what the process was asked and had not answered nobody answers any more.
    pub(crate) fn dies(&mut self) {
        let seed = self.random.below(usize::MAX) as u64;
        let was_asked = |event: &Event| {
            matches!(
                event,
                Event::Save(..)
                    | Event::Push(..)
                    | Event::Fetched(_)
                    | Event::Resolved(..)
                    | Event::SendFailed(_)
                    | Event::ConnectFailed(_)
            )
        };
        self.events.retain(|_, event| !was_asked(event));
        self.proxy = Proxy::new(Arc::clone(&self.policy), settings(), [seed, !seed]);
        self.storage.bars = Bars::default();
        self.storage.watched.borrow_mut().clear();
        self.storage.gone_connections = self.connections;
        self.is_down = true;
    }

    /// A process that finds what the one before it made durable.
    pub(crate) fn starts(&mut self) {
        self.is_down = false;
        if self.pace.is_some() {
            self.begin_refreshes();
        }
        if self.reminders.is_some() {
            self.begin_reminders();
        }
        for call in self.storage.restart(self.now.unix) {
            self.input(Input::Resume(Box::new(LeftCall { call, from: None })));
        }
    }

    /// Another node of the same store has the address of the one that died, but not its calls yet: those are returned.
    pub(crate) fn goes_on_elsewhere(&mut self) -> Vec<HeldCall> {
        self.is_down = false;
        self.storage.restart(self.now.unix)
    }

    /// `node.lease_s` is over. What was settled since is no call any more.
    pub(crate) fn takes_over(&mut self, calls: Vec<HeldCall>) {
        for call in calls {
            if self.storage.is_held(&call) {
                self.input(Input::Resume(Box::new(LeftCall { call, from: Some("node-a".into()) })));
            }
        }
    }

    pub(crate) fn begin_refreshes(&mut self) {
        self.storage.table().begin_refreshes();
        self.pace = Some(Pace::new(Turn::Refresh, self.now.instant));
    }

    /// By the policy's rule; as a process does at its start.
    pub(crate) fn begin_reminders(&mut self) {
        let table = self.storage.table();
        table.remind_by(None, self.now.unix);
        table.remind_by(self.policy.push_refresh, self.now.unix);
        self.reminders = Some(Pace::new(Turn::Reminder, self.now.instant));
    }

    fn reaches_proxy(&mut self, flow: Flow, bytes: Bytes) {
        if self.is_down {
            return;
        }
        let Ok(message) = Message::parse(bytes, 128) else { return };
        self.note(|| format!("{} > proxy  {}", flow, text::summary(&message)));
        self.ledger.arrived(&message, flow);
        let is_sign = message.is_request() && message.method() != Method::REGISTER;
        self.input(Input::Received { flow, message });
        if is_sign {
            self.hears(flow);
        }
    }

    /// Something came by a connection.
    pub(crate) fn hears(&mut self, flow: Flow) {
        if self.awaited.remove(&flow.connection) {
            self.note(|| format!("{flow} > proxy  is awake"));
            self.ledger.is_awake(flow.remote);
            self.input(Input::Heard { flow });
        }
    }

    pub(crate) fn input(&mut self, input: Input) {
        let view = View { storage: &self.storage, now: self.now.unix };
        self.proxy.handle(input, &view, self.now);
        self.drain();
    }

    fn pushed(&mut self, push: Push, outcome: Outcome, pass: Option<Pass>) {
        self.pushes.answered(&outcome, pass, self.now.instant);
        let (ticket, provider, notice) = (push.ticket, push.target.provider, push.notice.kind());
        let token = push::TokenHash::of(&push.target.prid);
        if outcome == Outcome::Accepted {
            self.pushes.accepted(&push);
            self.wake_by(&push);
        }
        let took = self.pushes.delay;
        let repeatable = !self.pushes.not_repeatable.contains(&provider);
        self.input(Input::Pushed(push::Reply {
            ticket,
            provider,
            token,
            notice,
            outcome,
            push_id: None,
            repeatable,
            left_out: 0,
            took,
            replaced: Vec::new(),
        }));
    }

    /// Performs what the proxy wants done, and sends what the agents want sent.
    fn drain(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(effect) = self.proxy.poll_effect() {
                is_quiet = false;
                self.perform(effect);
            }
            for agent in self.stirred.clone() {
                while let Some(outgoing) = self.agents[agent].transactions.poll_send() {
                    is_quiet = false;
                    self.agent_sends(agent, outgoing.destination, outgoing.bytes);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send { destination, bytes, tag } => self.send(destination, bytes, tag),
            Effect::Save { ticket, change } => {
                let due = self.storage.due(self.now.instant, &mut self.random);
                self.schedule(due, Event::Save(ticket, change));
            }
            Effect::Push(push) => {
                self.note(|| format!("push {} to {}", push.notice.kind(), push.target.prid.reveal()));
                self.ledger.push(&push, &self.storage);
                let roll = self.random.below(1000);
                let (push, outcome, pass) = self.pushes.deliver(push, roll, self.now.instant);
                self.schedule_after(self.pushes.delay, Event::Push(push, outcome, pass));
            }
            Effect::Step(step) => {
                self.note(|| format!("step {:?} {} {:?} {:?}", step.step, step.call_ref, step.device, step.why));
                self.ledger.step(step);
            }
            Effect::Await { flow } => {
                self.awaited.insert(flow.connection);
            }
            Effect::CallBegan { .. } => {}
            Effect::CallEnded { outcome, .. } => self.ledger.outcomes.push(outcome),
            Effect::Refreshed { result, reason, .. } => {
                self.note(|| format!("refresh {} {reason}", result.name()));
                self.refreshed.push(result);
            }
            Effect::AuthFailed { source, reason } => self.auth_failures.push((source, reason)),
            Effect::AuthProven { source, failures } => {
                let mut left = failures;
                self.auth_failures.retain(|(failed, _)| {
                    let is_taken_back = *failed == source && left > 0;
                    left -= u32::from(is_taken_back);
                    !is_taken_back
                });
            }
            Effect::Warning(warning) => {
                self.note(|| format!("{warning:?}"));
                self.warnings.push(warning);
            }
            Effect::Dropped(reason) => self.ledger.dropped.push(reason),
            Effect::Fault(fault) => panic!("the core's own fault: {fault}"),
            Effect::Fetch { ticket, .. } => self.schedule_after(Duration::from_millis(5), Event::Fetched(ticket)),
            Effect::Resolve { ticket, .. } => {
                let addresses = self.softswitch_at.iter().map(|address| (Transport::Udp, socket(address))).collect();
                self.schedule_after(Duration::from_millis(1), Event::Resolved(ticket, addresses));
            }
            Effect::Found(finding) => self.storage.bars.learn(finding),
            Effect::Woken(_) | Effect::WakeSeen { .. } => {}
        }
    }

    fn send(&mut self, destination: Destination, bytes: Bytes, tag: Option<SendTag>) {
        let message = text::parse(bytes.clone());
        self.note(|| {
            format!("proxy > {:?} {}  {}", destination.transport(), destination.remote(), text::summary(&message))
        });
        let remote = destination.remote();
        let agent = self.addresses.get(&remote).copied();
        let has_push = agent.is_some_and(|agent| !self.agents[agent].device.push.is_empty());
        let is_always = has_push
            && self.policy.hold.push_when == sip_push_proxy::proxy::policy::PushWhen::Always
            && self.policy.hold.fresh.is_zero();
        self.ledger.left(&destination, &message, &self.storage, is_always);
        self.left.push((destination, message));
        let connection = match destination {
            Destination::Flow(flow) => Some(flow.connection.0),
            Destination::Address { .. } => None,
        };
        let (transport, inward) = (destination.transport(), false);
        if transport == Transport::Tcp && !self.is_open(agent, connection) {
            match (tag, connection) {
                (None, _) => {}
                (Some(tag), Some(_)) => self.schedule_after(Duration::from_millis(1), Event::SendFailed(tag)),
                // Something swallows the attempt.
                (Some(tag), None) => self.schedule_after(Duration::from_secs(4), Event::ConnectFailed(tag)),
            }
            return;
        }
        let Some(agent) = agent else { return };
        let connection = connection.or(self.agents[agent].connection).unwrap_or(u64::MAX);
        let number = if transport == Transport::Tcp { connection } else { 0 };
        let flow = Flow { transport, listener: 0, connection: ConnectionId(number), remote: socket(PROXY) };
        for at in self.network.arrivals(transport, number, inward, self.now.instant, &mut self.random) {
            self.schedule(at, Event::ToAgent { agent, at: remote, flow, bytes: bytes.clone() });
        }
    }

    /// Whether something sent by TCP arrives. The softswitch takes connections, phones only have those they made.
    fn is_open(&self, agent: Option<usize>, connection: Option<u64>) -> bool {
        let Some(agent) = agent.map(|index| &self.agents[index]) else { return false };
        match connection {
            Some(u64::MAX) | None => agent.accepts_connections && agent.name == "switch",
            Some(connection) => agent.connection == Some(connection),
        }
    }

    pub(crate) fn agent_sends(&mut self, agent: usize, destination: Destination, bytes: Bytes) {
        let (address, is_awake) = (self.agents[agent].address, self.agents[agent].is_awake);
        let has_network = self.agents[agent].network_from.is_none_or(|from| from <= self.now.instant);
        if !is_awake || !has_network {
            return;
        }
        let transport = destination.transport();
        let mut connection = match destination {
            Destination::Flow(flow) => flow.connection,
            Destination::Address { .. } => ConnectionId::NONE,
        };
        if let (true, Some(present)) = (self.agents[agent].answers_by_any_connection, self.agents[agent].connection) {
            connection = ConnectionId(present);
        }
        let is_gone = transport == Transport::Tcp
            && connection.0 != u64::MAX
            && self.agents[agent].connection != Some(connection.0);
        if is_gone {
            return;
        }
        let listener = u8::from(transport == Transport::Tcp);
        let flow = Flow { transport, listener, connection, remote: address };
        for at in self.network.arrivals(transport, connection.0, true, self.now.instant, &mut self.random) {
            self.schedule(at, Event::ToProxy { flow, bytes: bytes.clone() });
        }
    }
}
