//! Several engines, one Redis, and everything in between going wrong: answers lost, writes done twice or late,
//! connections that break, nodes that die between any two steps, a Redis that forgets. A seed decides all of it.
//!
//! In the end everything works again, and then: what was acknowledged is there, and nothing older than it; no missed
//! call was claimed by two at a time; no text was handed over twice, and none is lost; all nodes and Redis have the same rows; each change was answered once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::super::super::News;
use super::super::super::change::HeldCall;
use super::super::super::change::{Applied, BucketEntry, EntryState, HeldCallId, Removal, Settlement};
use super::super::super::draft::Key;
use super::super::super::messages::MessageId;
use super::super::record::Field;
use super::*;
use crate::binding::{App, Binding, DeviceId, Provider, PushTarget, PushToken, Tokens};
use crate::sip::flow::{ConnectionId, Flow, Transport};

mod texts;

use texts::Texts;

const LIMITS: Limits = Limits { entries_per_device: 50, entry_ttl: Duration::from_secs(1 << 40), queue: 1000 };
const START: u64 = 1_000_000;
const NODES: usize = 3;
/// Looks at a silent node.
const PATIENCE: u32 = 3;
const AORS: u64 = 2;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

type Hash = BTreeMap<Box<[u8]>, Box<[u8]>>;

#[derive(Default)]
struct Server {
    hashes: BTreeMap<Aor, Hash>,
    beats: BTreeMap<Arc<str>, Beat>,
}

impl Server {
    fn read(&self, aor: &Aor, identity: &Identity) -> Record {
        let fields = self.hashes.get(aor).into_iter().flatten().map(|(name, value)| (&**name, &**value));
        Record::read(aor, identity, fields).unwrap()
    }

    /// As the script does. On success also what the other nodes are told.
    fn write(&mut self, write: &Write, identity: &Identity) -> (Wrote, Option<Notice>) {
        let record = self.read(&write.aor, identity);
        if record.version != write.base {
            return (Wrote::Behind(record), None);
        }
        let hash = self.hashes.entry(write.aor.clone()).or_default();
        hash.insert((*b"v").into(), write.version.to_string().into_bytes().into());
        for Field { name, value } in &write.fields {
            match value {
                Some(value) => hash.insert(name.clone(), value.clone()),
                None => hash.remove(name),
            };
        }
        let Write { aor, base, version, fields, run, .. } = write.clone();
        (Wrote::Done, Some(Notice { run, aor, base, version, fields }))
    }
}

enum Request {
    Write(Write),
    Written(Aor, u64, Wrote),
    Fetch(Aor, u64),
    Fetched(Aor, u64, Record),
    Scan(bool, u64),
    Append(Aor, Vec<Late>),
}

struct Node {
    engine: Engine,
    identity: Identity,
    generation: u64,
    requests: Vec<Request>,
    notices: VecDeque<Notice>,
    journal: BTreeMap<Position, Late>,
    /// Taken out of the journal, without a sync.
    forgotten: BTreeMap<Position, Late>,
    /// Changes without an answer, by their number.
    asked: BTreeMap<u64, Asked>,
    is_open: bool,
    /// Until it is loaded: devices that Redis had when it started and that nobody ended since.
    found: Vec<DeviceId>,
    /// Held calls that its proxy takes care of.
    calls: BTreeMap<HeldCallId, HeldCall>,
}

/// What a change was for, to know what its answer promises.
#[derive(Clone)]
enum Asked {
    /// The device is bound at least as new as this.
    Bound(DeviceId, u32),
    /// The device is bound no more; or may be, because nobody could know of it.
    Ended(DeviceId, bool),
    Claim(DeviceId),
    /// Not waited for by the next change of its device.
    Reported(Vec<Box<str>>),
    Held(DeviceId, HeldCall),
    Other(DeviceId),
    Text(MessageId),
    PickUp,
}

impl Asked {
    /// Which device's next change waits for the answer.
    fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Bound(device, _)
            | Self::Ended(device, _)
            | Self::Claim(device)
            | Self::Held(device, _)
            | Self::Other(device) => Some(*device),
            Self::Reported(_) | Self::Text(_) | Self::PickUp => None,
        }
    }
}

/// A missed_calls push that is with the provider.
struct Report {
    node: usize,
    device: DeviceId,
    call_refs: Vec<Box<str>>,
}

/// Either of these. After both at once, what only the two knew is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disaster {
    NodeDies,
    RedisForgets,
}

struct World {
    disaster: Disaster,
    random: Random,
    seed: u64,
    server: Server,
    nodes: Vec<Node>,
    /// Writes of broken connections that Redis still has before it.
    late: Vec<(usize, Write)>,
    clock: u64,
    next: u32,
    /// Newest acknowledged registration of each device; `None`: ended.
    promised: BTreeMap<DeviceId, Option<u32>>,
    /// Devices that something is under way for: the next change waits for its answer.
    busy: BTreeSet<DeviceId>,
    /// No two of them have a call in common.
    reports: Vec<Report>,
    /// Calls that devices were told of.
    told: BTreeSet<Box<str>>,
    texts: Texts,
}

fn aor(number: u64) -> Aor {
    Aor::new(&format!("user{number}"), "example.org")
}

fn device(aor: u64, number: u8) -> DeviceId {
    DeviceId([u8::try_from(aor).unwrap(), number, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn aor_of(device: DeviceId) -> Aor {
    aor(device.0[0].into())
}

fn binding(device: DeviceId, cseq: u32, at: u64) -> Binding {
    Binding {
        aor: aor_of(device),
        device,
        instance: None,
        reg_id: None,
        label: None,
        contact: (*b"sip:a@192.0.2.1").into(),
        contact_params: [].into(),
        path: [].into(),
        flow: Flow {
            transport: Transport::Udp,
            listener: 0,
            connection: ConnectionId::NONE,
            remote: ([192, 0, 2, 1], 5060).into(),
        },
        home: None,
        call_id: "c".into(),
        cseq,
        registered_at: UnixMillis(at),
        expires_at: UnixMillis(at),
        push: Some(PushTarget {
            provider: Provider::Fcm,
            prid: PushToken::new("t"),
            param: "".into(),
            tokens: Tokens::Single,
            others: Box::default(),
        }),
        push_refused: None,
        app: App::default(),
        upstream: None,
    }
}

impl Node {
    fn start(table: Arc<Table>, name: usize, generation: u64, journal: Vec<Late>) -> Self {
        // As far apart as random numbers.
        let run = (u64::try_from(name).unwrap() * 1000 + generation) << 32;
        let identity = Identity { node: format!("node-{name}").into(), run, home: None };
        let position = Position { epoch: u64::try_from(name).unwrap(), generation, number: 0 };
        let kept = journal.iter().map(|late| (late.position, late.clone())).collect();
        Self {
            engine: Engine::new(table, LIMITS, identity.clone(), position, journal, PATIENCE),
            identity,
            generation,
            requests: vec![],
            notices: VecDeque::new(),
            journal: kept,
            forgotten: BTreeMap::new(),
            asked: BTreeMap::new(),
            is_open: generation == 1,
            found: vec![],
            calls: BTreeMap::new(),
        }
    }
}

impl World {
    fn new(seed: u64, disaster: Disaster) -> Self {
        let nodes = (0..NODES).map(|name| Node::start(Arc::default(), name, 1, vec![])).collect();
        let (next, clock) = (1, START);
        let random = Random(seed);
        Self {
            disaster,
            random,
            seed,
            server: Server::default(),
            nodes,
            late: vec![],
            clock,
            next,
            promised: BTreeMap::new(),
            busy: BTreeSet::new(),
            reports: vec![],
            told: BTreeSet::new(),
            texts: Texts::default(),
        }
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(self.clock)
    }

    fn step(&mut self) {
        self.clock += 1;
        let node = self.random.below(NODES);
        match self.random.below(100) {
            0..=24 => self.ask(node),
            25..=29 => self.ask_for_text(node),
            30..=34 => self.report(),
            35..=89 => self.progress(node),
            90..=91 => self.connect(node),
            92 => self.disconnect(node),
            93..=95 => self.look(node),
            96 => match self.disaster {
                Disaster::NodeDies => self.crash(node),
                Disaster::RedisForgets => self.forget(),
            },
            _ => self.do_late(),
        }
        (0..NODES).for_each(|node| self.perform(node));
        if self.disaster == Disaster::NodeDies && self.nodes.iter().any(|it| !it.found.is_empty()) {
            self.check_loaded();
        }
    }

    /// A node that says that memory has all has what Redis had when it started, and still has.
    fn check_loaded(&mut self) {
        let bound = self.bound();
        for node in &mut self.nodes {
            node.found.retain(|device| bound.contains(device));
            if node.engine.is_loaded() {
                for device in std::mem::take(&mut node.found) {
                    let is_there = node.engine.table.by_device(device).is_some();
                    assert!(is_there, "seed {}: {device} is not in memory", self.seed);
                }
            }
        }
    }

    /// The bindings that Redis has.
    fn bound(&self) -> Vec<DeviceId> {
        let read = |number| self.server.read(&aor(number), &self.nodes[0].identity).rows;
        let device = |key| match key {
            Key::Binding(_, device) => Some(device),
            Key::Entry(..) | Key::Call(_) | Key::Claim(_) | Key::Heir(_) | Key::Messages(_) => None,
        };
        (0..AORS).flat_map(read).filter_map(|(key, _)| device(key)).collect()
    }

    /// Somebody wants something of a node.
    fn ask(&mut self, node: usize) {
        if !self.nodes[node].is_open {
            return;
        }
        let aor_number = u64::try_from(self.random.below(usize::try_from(AORS).unwrap())).unwrap();
        let device = device(aor_number, u8::try_from(self.random.below(3)).unwrap());
        if self.busy.contains(&device) {
            return;
        }
        self.next += 1;
        let (number, now) = (self.next, self.now());
        let call_ref: Box<str> = format!("call-{number}").into();
        let (change, asked) = match self.random.below(6) {
            0 | 1 => {
                let put = vec![binding(device, number, self.clock)];
                (Change::Register { aor: aor_of(device), put, remove: vec![] }, Asked::Bound(device, number))
            }
            2 => {
                self.nodes.iter_mut().for_each(|it| it.found.retain(|other| *other != device));
                let remove = vec![Removal { device, heir: None }];
                (
                    Change::Register { aor: aor_of(device), put: vec![], remove },
                    Asked::Ended(device, self.is_hidden(node, device)),
                )
            }
            3 => {
                let entry = BucketEntry {
                    call_ref: call_ref.clone(),
                    remote_uri: "".into(),
                    display_name: "".into(),
                    anonymous: false,
                    invited_at: now,
                    state: EntryState::Live,
                };
                let call = HeldCall {
                    id: HeldCallId(number.into()),
                    call_ref,
                    aor: aor_of(device),
                    invite: bytes::Bytes::new(),
                    flow: binding(device, 0, 0).flow,
                    to_tag: "".into(),
                    held_at: now,
                    until: now,
                    devices: vec![device],
                };
                (Change::Hold { call: call.clone(), entry }, Asked::Held(device, call))
            }
            4 => {
                let calls = &mut self.nodes[node].calls;
                let Some(id) = calls.values().find(|call| call.devices == [device]).map(|call| call.id) else { return };
                let call_ref = calls.remove(&id).unwrap().call_ref;
                let devices = vec![(device, Settlement::Missed)];
                (Change::Settle { aor: aor_of(device), id, call_ref, devices, ended: true }, Asked::Other(device))
            }
            _ => (Change::Claim { aor: aor_of(device), device }, Asked::Claim(device)),
        };
        self.busy.insert(device);
        let asker = self.nodes.get_mut(node).unwrap();
        let ticket = asker.engine.submit(change, now);
        asker.asked.insert(ticket, asked);
    }

    /// Whether a REGISTER of the device may be on its way that this node cannot know of: in another node's journal, or
    /// one that nobody was answered and that Redis does late. It binds the device again once it arrives.
    fn is_hidden(&self, node: usize, device: DeviceId) -> bool {
        let aor = aor_of(device);
        let is_journaled = |it: &Node| it.journal.values().any(|late| *late.change.aor() == aor);
        let mut others = self.nodes.iter().enumerate().filter(|(name, _)| *name != node);
        others.any(|(_, it)| is_journaled(it)) || self.late.iter().any(|(_, write)| write.aor == aor)
    }

    /// One thing that is under way comes a step further.
    fn progress(&mut self, node: usize) {
        let now = self.now();
        let it = &mut self.nodes[node];
        if !it.notices.is_empty() && self.random.once_in(3) {
            let notice = it.notices.pop_front().unwrap();
            return it.engine.notice(&notice, now);
        }
        if it.requests.is_empty() {
            return;
        }
        let place = self.random.below(it.requests.len());
        match it.requests.remove(place) {
            Request::Write(write) => {
                let outcome = self.write(node, &write);
                // A Cluster's client repeats what it had no answer to.
                let outcome = if self.random.once_in(10) { self.write(node, &write) } else { outcome };
                self.nodes[node].requests.push(Request::Written(write.aor, write.link, outcome));
            }
            Request::Written(aor, link, outcome) => self.nodes[node].engine.wrote(&aor, link, outcome, now),
            Request::Fetch(aor, link) => {
                let record = self.server.read(&aor, &it.identity);
                it.requests.push(Request::Fetched(aor, link, record));
            }
            Request::Fetched(aor, link, record) => it.engine.fetched(&aor, link, Ok(record), now),
            Request::Scan(with_rows, link) => {
                let see = |aor: &Aor| {
                    let record = self.server.read(aor, &it.identity);
                    (aor.clone(), if with_rows { Seen::Record(record) } else { Seen::Version(record.version) })
                };
                let seen = self.server.hashes.keys().map(see).collect();
                it.engine.scanned_page(link, Ok(Page { seen, next: None }), now);
            }
            Request::Append(aor, changes) => {
                it.journal.extend(changes.into_iter().map(|late| (late.position, late)));
                it.engine.appended(&aor, Ok(()), now);
            }
        }
    }

    fn write(&mut self, node: usize, write: &Write) -> Wrote {
        let (outcome, notice) = self.server.write(write, &self.nodes[node].identity);
        if let Some(notice) = notice {
            let listeners = self.nodes.iter_mut().filter(|node| node.engine.is_up());
            listeners.for_each(|node| node.notices.push_back(notice.clone()));
        }
        outcome
    }

    fn do_late(&mut self) {
        if !self.late.is_empty() {
            let place = self.random.below(self.late.len());
            let (node, write) = self.late.remove(place);
            self.write(node, &write);
        }
    }

    /// A sign of life, and a look at those of the others. One that does not look for long is taken for gone.
    fn look(&mut self, node: usize) {
        let now = self.now();
        let it = &mut self.nodes[node];
        if it.engine.is_up() {
            let beat = Beat { run: it.identity.run, at: now, home: None };
            self.server.beats.insert(Arc::clone(&it.identity.node), beat);
            let beats = self.server.beats.iter().map(|(name, beat)| (Arc::clone(name), beat.clone())).collect();
            it.engine.looked_at_nodes(beats, now);
        }
    }

    fn connect(&mut self, node: usize) {
        let now = self.now();
        self.nodes[node].engine.connected(now);
    }

    fn disconnect(&mut self, node: usize) {
        let now = self.now();
        self.drop_requests(node, false);
        self.nodes[node].engine.disconnected(now);
    }

    /// What is with Redis is without an answer, and Redis may still do it.
    fn drop_requests(&mut self, node: usize, is_crash: bool) {
        let now = self.now();
        self.nodes[node].notices.clear();
        let (appends, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.nodes[node].requests)
            .into_iter()
            .partition(|request| matches!(request, Request::Append(..)) && !is_crash);
        self.nodes[node].requests = appends;
        for request in others {
            let gone = || "gone".to_owned();
            let may_be_late = self.random.once_in(2);
            let engine = &mut self.nodes[node].engine;
            match request {
                Request::Write(write) => {
                    engine.wrote(&write.aor, write.link, Wrote::Unknown(gone()), now);
                    if may_be_late {
                        self.late.push((node, write));
                    }
                }
                Request::Written(aor, link, _) => engine.wrote(&aor, link, Wrote::Unknown(gone()), now),
                Request::Fetch(aor, link) | Request::Fetched(aor, link, _) => {
                    engine.fetched(&aor, link, Err(Unread::Away(gone())), now);
                }
                Request::Scan(_, link) => engine.scanned_page(link, Err(gone()), now),
                // The disk may have it, though nobody was told.
                Request::Append(_, changes) if may_be_late => {
                    self.nodes[node].journal.extend(changes.into_iter().map(|late| (late.position, late)));
                }
                Request::Append(..) => {}
            }
        }
    }

    /// Redis dies and comes back without anything.
    fn forget(&mut self) {
        (0..NODES).for_each(|node| self.forget_texts_under_way(node));
        self.server.hashes.clear();
        self.server.beats.clear();
        self.late.clear();
        for node in 0..NODES {
            self.disconnect(node);
            self.late.clear();
            self.perform(node);
        }
    }

    fn crash(&mut self, node: usize) {
        self.forget_texts_under_way(node);
        // What the last moments would have asked for does not happen.
        self.drop_requests(node, true);
        let random = &mut self.random;
        let it = &mut self.nodes[node];
        let mut journal = std::mem::take(&mut it.journal);
        journal.extend(std::mem::take(&mut it.forgotten).into_iter().filter(|_| random.once_in(2)));
        for asked in std::mem::take(&mut it.asked).into_values() {
            asked.device().map(|device| self.busy.remove(&device));
            // Whether it was done is open.
            if let Asked::Bound(device, _) | Asked::Ended(device, _) = asked {
                self.promised.remove(&device);
            }
        }
        self.reports.retain(|report| report.node != node);
        let generation = it.generation + 1;
        let stays = |device: &DeviceId| matches!(self.promised.get(device), Some(Some(_)));
        let found = self.bound().into_iter().filter(stays).collect();
        let it = &mut self.nodes[node];
        *it = Node { found, ..Node::start(Arc::default(), node, generation, journal.into_values().collect()) };
        self.connect(node);
        let now = self.now();
        self.nodes[node].engine.look_first((0..AORS).map(aor).collect(), now);
    }

    /// The provider takes a push, or does not.
    fn report(&mut self) {
        if self.reports.is_empty() {
            return;
        }
        let place = self.random.below(self.reports.len());
        let Report { node, device, call_refs } = self.reports.remove(place);
        let (change, asked) = if self.random.once_in(2) {
            let change = Change::Reported { aor: aor_of(device), device, call_refs: call_refs.clone() };
            (change, Asked::Reported(call_refs))
        } else {
            (Change::Release { aor: aor_of(device), device }, Asked::Reported(vec![]))
        };
        let now = self.now();
        let number = self.nodes[node].engine.submit(change, now);
        self.nodes[node].asked.insert(number, asked);
    }

    fn perform(&mut self, node: usize) {
        self.perform_effects(node);
        let (now, is_impatient) = (self.now(), self.random.once_in(30));
        let it = &mut self.nodes[node];
        // The store opens when it has seen its own calls, or has waited long enough for Redis.
        if !it.is_open && (is_impatient || it.engine.lanes.is_empty()) {
            it.is_open = true;
            it.engine.opened(now);
            self.perform_effects(node);
        }
        let it = &mut self.nodes[node];
        if it.is_open {
            let left = it.engine.take_leftovers();
            for LeftCall { call, .. } in left {
                let id = call.id;
                assert!(it.calls.insert(id, call).is_none(), "seed {}: {id:?} is given out twice", self.seed);
            }
        }
    }

    fn perform_effects(&mut self, node: usize) {
        while let Some(effect) = self.nodes[node].engine.poll_effect() {
            let it = &mut self.nodes[node];
            match effect {
                Effect::Write(write) => it.requests.push(Request::Write(write)),
                Effect::Fetch { aor, link } => it.requests.push(Request::Fetch(aor, link)),
                Effect::Scan { with_rows, link, .. } => it.requests.push(Request::Scan(with_rows, link)),
                Effect::Append { aor, changes } => it.requests.push(Request::Append(aor, changes)),
                Effect::Forget(positions) => {
                    for position in positions {
                        let late = it.journal.remove(&position);
                        it.forgotten.extend(late.map(|late| (position, late)));
                    }
                }
                Effect::Answer { number, result } => self.answered(node, number, result),
                Effect::News(News::TakenOver { id, .. }) => {
                    it.calls.remove(&id);
                }
                Effect::Looked { .. } | Effect::News(News::Woken(_)) => {}
            }
        }
    }

    fn answered(&mut self, node: usize, number: u64, result: Result<Applied, StoreError>) {
        // What the engine asked of itself is nobody's.
        let Some(asked) = self.nodes[node].asked.remove(&number) else { return };
        let seed = self.seed;
        if matches!(asked, Asked::PickUp) {
            return self.picked_up(result);
        }
        let applied = result.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        asked.device().map(|device| self.busy.remove(&device));
        match asked {
            Asked::Bound(device, cseq) => {
                self.promised.insert(device, Some(cseq));
            }
            Asked::Ended(device, was_hidden) => {
                if was_hidden || self.is_hidden(node, device) {
                    self.promised.remove(&device);
                } else {
                    self.promised.insert(device, None);
                }
            }
            Asked::Claim(device) => {
                let Applied::Claimed(entries) = applied else { panic!("seed {seed}: {applied:?}") };
                let call_refs: Vec<_> = entries.into_iter().map(|entry| entry.call_ref).collect();
                // What Redis forgot comes back from nodes that had not heard of its end.
                let remembered = call_refs.iter().filter(|_| self.disaster == Disaster::NodeDies);
                for call_ref in remembered {
                    let is_with_another = self.reports.iter().any(|report| report.call_refs.contains(call_ref));
                    assert!(!is_with_another, "seed {seed}: {call_ref} is claimed twice");
                    assert!(!self.told.contains(call_ref), "seed {seed}: {call_ref} is reported twice");
                }
                if !call_refs.is_empty() {
                    self.reports.push(Report { node, device, call_refs });
                }
            }
            Asked::Reported(call_refs) => self.told.extend(call_refs),
            Asked::Held(_, call) => {
                // Another node may have taken it over before this one was told that it is held.
                if self.nodes[node].engine.is_holding(call.id) {
                    self.nodes[node].calls.insert(call.id, call);
                }
            }
            Asked::Text(id) => self.text_is_kept(id),
            Asked::Other(_) | Asked::PickUp => {}
        }
    }

    /// Everything works, until nothing is left to do.
    fn settle(&mut self) {
        let seed = self.seed;
        while !self.reports.is_empty() {
            self.report();
        }
        for _ in 0..3 {
            while !self.late.is_empty() {
                self.do_late();
            }
            for node in 0..NODES {
                self.disconnect(node);
                self.perform(node);
                self.connect(node);
                self.perform(node);
            }
            let mut steps = 0;
            while self.nodes.iter().any(|node| !node.requests.is_empty() || !node.notices.is_empty()) {
                for node in 0..NODES {
                    self.clock += 1;
                    self.progress(node);
                    self.perform(node);
                }
                steps += 1;
                assert!(steps < 100_000, "seed {seed}: it never ends");
            }
        }
    }

    fn check(&self) {
        let seed = self.seed;
        for node in &self.nodes {
            let engine = &node.engine;
            assert!(node.asked.is_empty(), "seed {seed}: changes without an answer");
            assert_eq!((engine.pending, engine.flights, engine.lanes.len()), (0, 0, 0), "seed {seed}");
            assert_eq!((engine.journaled(), node.journal.len()), (0, 0), "seed {seed}: the journal is not empty");
            for number in 0..AORS {
                let rows = self.server.read(&aor(number), &node.identity).rows;
                assert_eq!(engine.rows(&aor(number)), rows, "seed {seed}: {} and Redis differ", node.identity.node);
            }
        }
        if self.disaster == Disaster::NodeDies {
            self.check_calls();
        }
        self.check_texts();
        let table = &self.nodes[0].engine.table;
        for (device, promised) in &self.promised {
            if promised.is_none() && self.disaster == Disaster::RedisForgets {
                continue;
            }
            let found = table.by_device(*device).map(|binding| binding.cseq);
            assert_eq!(found, *promised, "seed {seed}: {device} is not as acknowledged");
        }
    }
}

impl World {
    /// Each held call is taken care of by one node.
    fn check_calls(&self) {
        let seed = self.seed;
        let held: BTreeSet<_> = self.nodes[0].engine.table.calls().iter().map(|call| call.id).collect();
        let mut cared_for = BTreeSet::new();
        for node in &self.nodes {
            for id in node.calls.keys() {
                assert!(cared_for.insert(*id), "seed {seed}: two nodes take care of {id:?}");
                assert!(node.engine.is_holding(*id), "seed {seed}: {} does not have {id:?}", node.identity.node);
            }
        }
        assert_eq!(cared_for, held, "seed {seed}: calls that are held and those that somebody takes care of");
    }
}

fn check_seeds(disaster: Disaster) {
    for seed in 0..150 {
        let mut world = World::new(seed, disaster);
        (0..NODES).for_each(|node| world.connect(node));
        world.subscribe();
        let steps = 200 + world.random.below(800);
        for _ in 0..steps {
            world.step();
        }
        world.settle();
        world.check();
    }
}

#[test]
fn nodes_die_and_what_was_acknowledged_is_there() {
    check_seeds(Disaster::NodeDies);
}

#[test]
fn redis_forgets_and_what_was_acknowledged_is_there() {
    check_seeds(Disaster::RedisForgets);
}
