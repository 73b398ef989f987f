//! Load as a town makes it: phones register, 200 a second, and each fourth is called once it has, 50 calls a second.
//!
//! Most of those who are called come at their push, some only much later, and for some the caller gives up.
//! REGISTERs of phones that are not called yet come from one socket, as from behind one NAT; a phone that a push wakes
//! comes from a port of its own, which it has only while it is awake, as real ones do: so there are as many open files as
//! phones awake, whatever the size of the town. All ends repeat what is not answered (RFC 3261 §17.1).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sip_push_proxy::demo::Recorded;
use sip_push_proxy::sip::Transport::Udp;

use crate::crash::{PACE, become_user};
use crate::peer::{Heard, Link, Peer, eventually};
use crate::phone::{Phone, Push};
use crate::sip::{Sip, in_brackets, unique};
use crate::switch::{Call, Switch};
use crate::world::World;

const T1: Duration = Duration::from_millis(500);
/// When a phone takes its REGISTER for failed (RFC 3261 §17.1.2.2, Timer F).
const PATIENCE: Duration = Duration::from_secs(32);
/// More REGISTERs than any test needs.
const MAX: usize = 20_000;
/// How long the caller's end listens before it looks for something to do.
const GLANCE: Duration = Duration::from_millis(5);

/// What becomes of the phone of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    NotCalled,
    Comes,
    /// When the test says so.
    ComesLate,
    /// The caller gives up when the push is out.
    StaysAway,
}

impl Fate {
    fn of(number: usize) -> Self {
        match (number % 4, number / 4 % 10) {
            (0, 0) => Self::StaysAway,
            (0, 5) => Self::ComesLate,
            (0, _) => Self::Comes,
            _ => Self::NotCalled,
        }
    }
}

/// What the caller's end is asked to do.
enum Order {
    Call(usize),
    GiveUp(usize),
    /// Nothing more, once all calls are over.
    End,
}

/// What all ends share.
struct Town {
    server: SocketAddr,
    /// No further phones.
    is_over: AtomicBool,
    sent: AtomicUsize,
    orders: mpsc::Sender<Order>,
    pushes: Mutex<Pushes>,
}

#[derive(Default)]
struct Pushes {
    /// A provider's client may send one twice.
    woken: BTreeSet<usize>,
    late: Vec<usize>,
    is_late_awake: bool,
    phones: Vec<JoinHandle<()>>,
    /// Of other types than `invite`.
    others: Vec<String>,
}

/// Runs from [`Load::start`] to [`Load::stop`].
pub(crate) struct Load {
    town: Arc<Town>,
    registering: JoinHandle<Registered>,
    calling: JoinHandle<Called>,
}

struct Registered {
    aors: BTreeSet<String>,
    latencies: Vec<Duration>,
}

struct Called {
    answered: usize,
    missed: BTreeMap<usize, String>,
}

/// What came of it.
pub(crate) struct Outcome {
    /// All whose REGISTER was answered 200, and that is all.
    pub(crate) registered: BTreeSet<String>,
    /// From REGISTER to 200, in the order of the REGISTERs.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) answered: usize,
    /// Call-ID of the call that the phone of this number did not see.
    pub(crate) missed: BTreeMap<usize, String>,
}

impl Load {
    /// One for each world.
    pub(crate) fn start(world: &World) -> Self {
        let (orders, ordered) = mpsc::channel();
        let town = Arc::new(Town {
            server: world.sip(Udp),
            is_over: AtomicBool::default(),
            sent: AtomicUsize::default(),
            orders,
            pushes: Mutex::default(),
        });
        let here = Arc::clone(&town);
        world.fcm.observe(Box::new(move |push, _, _| here.pushed(push)));
        let mut switch = Switch::new(Udp);
        switch.connect(town.server);
        let (here, there) = (Arc::clone(&town), Arc::clone(&town));
        let registering = std::thread::spawn(move || here.register());
        let calling = std::thread::spawn(move || there.call(&switch, &ordered));
        Self { town, registering, calling }
    }

    /// REGISTERs so far, without repetitions.
    pub(crate) fn sent(&self) -> usize {
        self.town.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been sent.
    #[track_caller]
    pub(crate) fn go_on(&self, more: usize) {
        let enough = self.sent() + more;
        while self.sent() < enough {
            let next = enough.min(self.sent() + 200);
            eventually("REGISTERs to be sent", || (self.sent() >= next).then_some(()));
        }
    }

    /// Phones come that were pushed long ago, and from now on all as soon as they are pushed.
    pub(crate) fn wake_late(&self) {
        self.town.wake_late();
    }

    /// Phones that are to come late stay away again.
    pub(crate) fn let_sleep(&self) {
        self.town.pushes.lock().expect("no end has failed").is_late_awake = false;
    }

    /// Returns when all that began has come to its end, which each end sees to and fails without.
    #[track_caller]
    pub(crate) fn stop(self) -> Outcome {
        self.town.is_over.store(true, Ordering::Relaxed);
        let registered = self.registering.join().expect("phones that register");
        self.town.wake_late();
        self.town.orders.send(Order::End).expect("a caller");
        let called = self.calling.join().expect("calls that end");
        let (phones, others) = {
            let mut pushes = self.town.pushes.lock().expect("no end has failed");
            (std::mem::take(&mut pushes.phones), std::mem::take(&mut pushes.others))
        };
        assert_eq!(phones.len(), called.answered, "whoever comes is called, and its call answered");
        phones.into_iter().for_each(|phone| phone.join().expect("a phone that takes its call"));
        assert_eq!(others, Vec::<String>::new(), "nobody has missed anything yet");
        let Registered { aors, latencies } = registered;
        Outcome { registered: aors, latencies, answered: called.answered, missed: called.missed }
    }
}

impl Town {
    /// The end of all phones that register for the first time.
    fn register(&self) -> Registered {
        let mut phone = Phone::new("nobody", Push::Fcm, Udp);
        phone.wake_at(self.server);
        let begun = now();
        let mut sent: Vec<Instant> = Vec::new();
        let mut latencies = BTreeMap::new();
        let mut unanswered: BTreeMap<usize, Repetition> = BTreeMap::new();
        let mut due = begun;
        loop {
            let is_over = self.is_over.load(Ordering::Relaxed) || sent.len() == MAX;
            if is_over && unanswered.is_empty() {
                let aors = latencies.keys().map(|number| format!("user{number}@example.org")).collect();
                return Registered { aors, latencies: latencies.into_values().collect() };
            }
            if !is_over && due <= now() {
                let number = sent.len() + 1;
                become_user(&mut phone, number);
                let text = phone.own_register();
                sent.push(now());
                phone.link().send(&text);
                unanswered.insert(number, Repetition::new(text));
                self.sent.store(number, Ordering::Relaxed);
                // What was late is made up for, but not all at once.
                due = (due + PACE).max(now().checked_sub(10 * PACE).unwrap_or(due));
            }
            unanswered.values_mut().for_each(|repetition| repetition.repeat(phone.link()));
            let wait = if is_over { GLANCE } else { due.saturating_duration_since(now()).min(GLANCE) };
            let Some(message) = heard(phone.peer(), wait) else { continue };
            assert_eq!((message.status(), message.method()), (200, "REGISTER"), "{message:?}");
            let user = in_brackets(message.header("To")).trim_start_matches("sip:user");
            let number = user.trim_end_matches("@example.org").parse().expect("a phone of ours");
            if unanswered.remove(&number).is_some() {
                latencies.insert(number, now() - sent[number - 1]);
                if Fate::of(number) != Fate::NotCalled {
                    self.orders.send(Order::Call(number)).expect("a caller");
                }
            }
        }
    }

    /// The end of the callers.
    fn call(&self, switch: &Switch, orders: &mpsc::Receiver<Order>) -> Called {
        let mut called = Called { answered: 0, missed: BTreeMap::new() };
        let mut calls: HashMap<String, (usize, Call)> = HashMap::new();
        let mut call_ids: BTreeMap<usize, String> = BTreeMap::new();
        // Those that nobody has answered anything to, and those that are not over.
        let (mut unheard, mut open): (BTreeMap<usize, Repetition>, BTreeSet<usize>) = Default::default();
        let mut is_over = false;
        let mut last = now();
        loop {
            for order in orders.try_iter() {
                match order {
                    Order::Call(number) => {
                        let call = switch.call(&format!("user{number}@example.org"), "");
                        unheard.insert(number, Repetition::new(call.invite.clone()));
                        open.insert(number);
                        call_ids.insert(number, call.call_id.clone());
                        calls.insert(call.call_id.clone(), (number, call));
                    }
                    Order::GiveUp(number) => calls[&call_ids[&number]].1.cancel(""),
                    Order::End => is_over = true,
                }
            }
            if is_over && open.is_empty() {
                return called;
            }
            unheard.values_mut().for_each(|repetition| repetition.repeat(switch.link()));
            let Some(response) = heard(&switch.peer, GLANCE) else {
                assert!(now() - last < 2 * PATIENCE, "calls of {open:?} are not over");
                continue;
            };
            last = now();
            let (number, call) = &calls[response.header("Call-ID")];
            unheard.remove(number);
            match (response.status(), response.method()) {
                (100 | 182, "INVITE") | (200, "CANCEL") => {}
                (200, "INVITE") if Fate::of(*number) != Fate::StaysAway => {
                    call.confirm(&response);
                    called.answered += usize::from(open.remove(number));
                }
                (487, "INVITE") if Fate::of(*number) == Fate::StaysAway => {
                    call.ack(&response);
                    open.remove(number);
                    called.missed.insert(*number, call.call_id.clone());
                }
                _ => panic!("call of {number}, which {:?}: {response:?}", Fate::of(*number)),
            }
        }
    }

    /// The end of the push service.
    fn pushed(self: &Arc<Self>, push: &Recorded) {
        let Some(number) = push.token.strip_prefix("token-").and_then(|number| number.parse().ok()) else { return };
        let json = push.json();
        let kind = json["message"]["data"]["type"].as_str().unwrap_or_default();
        let mut pushes = self.pushes.lock().expect("no end has failed");
        if kind != "invite" {
            return pushes.others.push(format!("{kind} to {number}"));
        }
        if !pushes.woken.insert(number) {
            return;
        }
        match Fate::of(number) {
            Fate::ComesLate if !pushes.is_late_awake => pushes.late.push(number),
            Fate::Comes | Fate::ComesLate => {
                let phone = self.wake(number);
                pushes.phones.push(phone);
            }
            Fate::StaysAway => self.orders.send(Order::GiveUp(number)).expect("a caller"),
            Fate::NotCalled => panic!("{number} was pushed and not called"),
        }
    }

    fn wake_late(&self) {
        let mut pushes = self.pushes.lock().expect("no end has failed");
        pushes.is_late_awake = true;
        for number in std::mem::take(&mut pushes.late) {
            pushes.phones.push(self.wake(number));
        }
    }

    /// The phone comes and takes its call, however busy the machine is.
    fn wake(&self, number: usize) -> JoinHandle<()> {
        let server = self.server;
        std::thread::spawn(move || {
            let mut phone = Phone::new("nobody", Push::Fcm, Udp);
            become_user(&mut phone, number);
            phone.wake_at(server);
            let register = phone.own_register();
            let accepted = ask(&phone, phone.link(), &register, |message, _| {
                let is_answer = message.status() > 0 && message.method() == "REGISTER";
                is_answer.then(|| message.status())
            });
            assert_eq!(accepted, 200);
            // What is repeated from here on are answers that had been on their way.
            let (invite, link) = ask(&phone, phone.link(), "", |message, link| {
                (message.method() == "INVITE").then_some((message, link))
            });
            assert_eq!(in_brackets(invite.header("To")), format!("sip:{}", phone.aor()));
            let contact = format!("Contact: <sip:{}@{}>\r\n", phone.user, phone.peer().address);
            let ok = invite.answer(200, "OK", &unique("uas"), &contact);
            ask(&phone, &link, &ok, |message, _| (message.method() == "ACK").then_some(()));
        })
    }
}

/// Sends this, again after each T1, until what is wanted has come. Nothing is sent when it is empty.
#[track_caller]
fn ask<T>(phone: &Phone, link: &Link, text: &str, wanted: impl Fn(Sip, Link) -> Option<T>) -> T {
    let begun = now();
    while now() - begun < PATIENCE {
        if !text.is_empty() {
            link.send(text);
        }
        let sent = now();
        while let Some(left) = T1.checked_sub(now() - sent) {
            if let Some(Heard::Message(message, link)) = phone.peer().hear(left)
                && let Some(found) = wanted(message, link)
            {
                return found;
            }
        }
    }
    panic!("{} waited in vain", phone.user);
}

/// A request that is sent again as long as it has no answer (RFC 3261 §17.1.1.2, §17.1.2.2).
struct Repetition {
    text: String,
    begun: Instant,
    due: Instant,
    interval: Duration,
}

impl Repetition {
    fn new(text: String) -> Self {
        Self { text, begun: now(), due: now() + T1, interval: T1 }
    }

    #[track_caller]
    fn repeat(&mut self, link: &Link) {
        if now() < self.due {
            return;
        }
        assert!(now() - self.begun < PATIENCE, "not answered: {}", self.text);
        link.send(&self.text);
        self.interval = (2 * self.interval).min(8 * T1);
        self.due += self.interval;
    }
}

fn heard(peer: &Peer, wait: Duration) -> Option<Sip> {
    match peer.hear(wait) {
        Some(Heard::Message(message, _)) => Some(message),
        Some(Heard::Closed) | None => None,
    }
}

#[expect(clippy::disallowed_methods, reason = "paces of phones and how long they wait")]
fn now() -> Instant {
    Instant::now()
}
