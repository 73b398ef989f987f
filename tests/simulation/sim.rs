//! The words that stories are told in.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sip_push_proxy::binding::{Aor, Binding, DeviceId, Provider};
use sip_push_proxy::proxy::secret::Keys;
use sip_push_proxy::proxy::{Input, Policy, policy};
use sip_push_proxy::push::{NoticeKind, Outcome};
use sip_push_proxy::sip::push_param::PushParams;
use sip_push_proxy::sip::{ConnectionId, Flow, Message, Transport};
use sip_push_proxy::store::{Change, EntryState, Ticket};

use crate::agent::{Agent, Answer, Registrar};
use crate::options;
pub(crate) use crate::request::Request;
use crate::text::Draft;
use crate::world::{SOFTSWITCH, World};

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// One run. When it is dropped, time goes on until nothing moves any more, and the ledger is closed.
pub(crate) struct Sim {
    world: Rc<RefCell<World>>,
}

/// The seed of this process, where one was given.
pub(crate) fn seed() -> Option<u64> {
    std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"))
}

impl Sim {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = options::policy();
        change(&mut policy);
        Self::of(policy, 10_000, seed().unwrap_or(1))
    }

    /// In local mode.
    pub(crate) fn local(change: impl FnOnce(&mut Policy)) -> Self {
        Self::with(|policy| {
            policy.mode = policy::Mode::Local;
            change(policy);
        })
    }

    pub(crate) fn of(policy: Policy, transactions_max: usize, seed: u64) -> Self {
        Self { world: Rc::new(RefCell::new(World::new(policy, transactions_max, seed))) }
    }

    pub(crate) fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    pub(crate) fn switch(&self) -> Switch {
        Switch { world: Rc::clone(&self.world) }
    }

    pub(crate) fn push(&self) -> PushDouble {
        PushDouble { world: Rc::clone(&self.world), seen: 0 }
    }

    /// A phone of its own user, with an FCM token.
    pub(crate) fn phone(&self, user: &str) -> Phone {
        self.device(user, user, Transport::Udp)
    }

    /// One of a user's phones.
    pub(crate) fn device(&self, user: &str, name: &str, transport: Transport) -> Phone {
        let mut world = self.world();
        let number = world.agents.len();
        let address = format!("198.51.{}.{}:{}", 100 + number / 256, number % 256, 40_000 + number);
        let seed = world.seed ^ (number as u64) << 8;
        let agent = world.add(Agent::new(name, user, &address, transport, seed));
        Phone { world: Rc::clone(&self.world), agent }
    }

    /// An app binds its token by another way than a REGISTER.
    pub(crate) fn binds_token(&self, user: &str, token: &str, locale: &str) -> Token {
        let world = &mut *self.world();
        let PushParams::Target(target) = PushParams::target(Provider::Fcm, token, "") else { panic!("a target") };
        let device = Keys::new(&world.policy.secret).token_device(&target.prid);
        let aor = Aor::new(user, "example.org");
        let binding = Binding::of_token(aor, device, target, Some(locale.into()), world.now.unix);
        let change = Change::BindToken { binding: Box::new(binding), most: 10 };
        world.storage.apply(Ticket(0), change, &mut world.random).result.expect("it is bound");
        Token { world: Rc::clone(&self.world), device }
    }

    /// The operator has the configuration read again: the one that stories begin with, but for `change`.
    pub(crate) fn reloads(&self, change: impl FnOnce(&mut Policy)) {
        let mut policy = options::policy();
        change(&mut policy);
        let (policy, world) = (Arc::new(policy), &mut *self.world());
        world.policy = Arc::clone(&policy);
        world.proxy.reload(policy);
    }

    pub(crate) fn run_for(&self, time: Duration) {
        self.world().run_for(time);
    }

    pub(crate) fn bindings(&self) -> Vec<Binding> {
        self.world().storage.bindings().iter().map(|binding| Binding::clone(binding)).collect()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let Ok(mut world) = self.world.try_borrow_mut() else { return };
        if std::thread::panicking() {
            return world.tell();
        }
        // Refreshes and reminders never end by themselves.
        (world.pace, world.reminders) = (None, None);
        world.run_for(s(1200));
        let world = &mut *world;
        let mut faults = world.ledger.faults(&world.storage);
        if !world.proxy.is_idle() {
            faults.push(format!("the proxy is not idle, {} held", world.proxy.held_calls()));
        }
        if !faults.is_empty() {
            world.tell();
            panic!("{faults:#?}");
        }
    }
}

/// The softswitch.
pub(crate) struct Switch {
    world: Rc<RefCell<World>>,
}

impl Switch {
    fn request(&self, draft: impl FnOnce(&mut Agent) -> Draft) -> Request {
        let mut world = self.world.borrow_mut();
        let draft = draft(&mut world.agents[SOFTSWITCH]);
        let number = world.request(SOFTSWITCH, draft);
        Request { world: Rc::clone(&self.world), agent: SOFTSWITCH, number }
    }

    /// Calls the first contact that the user registered, as a registrar does.
    pub(crate) fn invites(&self, user: &str) -> Request {
        self.sends("INVITE", user, |draft| draft)
    }

    /// A request to the first contact that the user registered.
    pub(crate) fn sends(&self, method: &str, user: &str, change: impl FnOnce(Draft) -> Draft) -> Request {
        let aor = format!("sip:{user}@example.org");
        let contacts = self.world.borrow().agents[SOFTSWITCH].registered.get(&aor).cloned().unwrap_or_default();
        let (uri, path) = contacts.first().cloned().unwrap_or_else(|| (aor.clone(), None));
        self.request(|agent| {
            let mut draft = agent.request(method, &uri, &aor);
            draft.headers.extend(path.map(|path| format!("Route: {path}")));
            change(draft)
        })
    }

    /// A request with any Request-URI.
    pub(crate) fn asks(&self, method: &str, uri: &str, change: impl FnOnce(Draft) -> Draft) -> Request {
        self.request(|agent| change(agent.request(method, uri, "sip:somebody@example.org")))
    }

    pub(crate) fn registrar(&self, registrar: Registrar) {
        self.world.borrow_mut().agents[SOFTSWITCH].registrar = registrar;
    }

    pub(crate) fn answers(&self, answer: Answer) {
        self.world.borrow_mut().agents[SOFTSWITCH].answer = answer;
    }

    pub(crate) fn refuses_connections(&self) {
        self.world.borrow_mut().agents[SOFTSWITCH].accepts_connections = false;
    }

    pub(crate) fn takes_connections(&self) {
        self.world.borrow_mut().agents[SOFTSWITCH].accepts_connections = true;
    }

    /// Requests of a method that came.
    pub(crate) fn got(&self, method: &str) -> Vec<Message> {
        got(&self.world, SOFTSWITCH, method)
    }

    pub(crate) fn acks(&self) -> usize {
        self.world.borrow().agents[SOFTSWITCH].acks.len()
    }

    /// Contacts of a user, as the registrar has them.
    pub(crate) fn contacts(&self, user: &str) -> Vec<(String, Option<String>)> {
        let aor = format!("sip:{user}@example.org");
        self.world.borrow().agents[SOFTSWITCH].registered.get(&aor).cloned().unwrap_or_default()
    }

    /// A request within the dialog of the last INVITE that came.
    pub(crate) fn within_last(&self, method: &str) -> Request {
        within_last(&self.world, SOFTSWITCH, method)
    }
}

fn got(world: &RefCell<World>, agent: usize, method: &str) -> Vec<Message> {
    let world = world.borrow();
    let agent = &world.agents[agent];
    agent.got_of(method).into_iter().map(|got| agent.got[got].message.clone()).collect()
}

fn within_last(world: &Rc<RefCell<World>>, agent: usize, method: &str) -> Request {
    let mut borrowed = world.borrow_mut();
    let who = &mut borrowed.agents[agent];
    let last = *who.got_of("INVITE").last().expect("an INVITE came");
    let draft = who.within_got(last, method);
    let number = borrowed.request(agent, draft);
    Request { world: Rc::clone(world), agent, number }
}

/// A phone.
pub(crate) struct Phone {
    world: Rc<RefCell<World>>,
    pub(crate) agent: usize,
}

impl Phone {
    pub(crate) fn change(&self, change: impl FnOnce(&mut Agent)) -> &Self {
        change(&mut self.world.borrow_mut().agents[self.agent]);
        self
    }

    /// Registers, and is accepted.
    pub(crate) fn registers(&self) -> Request {
        let register = self.tries_to_register();
        assert_eq!(register.status(), Some(200));
        register
    }

    /// Registers, and waits for what comes.
    pub(crate) fn tries_to_register(&self) -> Request {
        self.change(|agent| agent.is_awake = true);
        let contact = self.world.borrow().agents[self.agent].contact();
        self.registers_as(Some(contact))
    }

    /// A REGISTER with that Contact, or none. The answer is the one to the last attempt.
    pub(crate) fn registers_as(&self, contact: Option<String>) -> Request {
        let mut request = self.sends_register(contact);
        let is_final = |request: &Request| request.status().is_some() || request.sent().failed;
        for _ in 0..4000 {
            if is_final(&request) {
                break;
            }
            self.world.borrow_mut().run_for(ms(10));
        }
        request.number = self.world.borrow().agents[self.agent].sent.len() - 1;
        self.world.borrow_mut().run_for(ms(20));
        request
    }

    /// The Contact that it registers by.
    pub(crate) fn contact_of(&self, sim: &Sim) -> String {
        sim.world().agents[self.agent].contact()
    }

    pub(crate) fn sends_register(&self, contact: Option<String>) -> Request {
        let mut world = self.world.borrow_mut();
        let draft = world.agents[self.agent].register(contact);
        let number = world.request(self.agent, draft);
        Request { world: Rc::clone(&self.world), agent: self.agent, number }
    }

    pub(crate) fn sleeps(&self) {
        self.change(|agent| {
            agent.is_awake = false;
            agent.connection = None;
        });
    }

    /// Falls asleep, and the proxy hears that its connection has ended.
    pub(crate) fn closes(&self) {
        self.sleeps();
        let mut world = self.world.borrow_mut();
        let address = world.agents[self.agent].address;
        let bindings = world.storage.bindings();
        let flow = bindings.iter().map(|binding| binding.flow).find(|flow| flow.remote == address);
        let flow = flow.expect("it has registered");
        world.storage.closed.insert(flow.connection.0);
        world.input(Input::Closed { flow });
    }

    /// Comes up again without saying so.
    pub(crate) fn is_back(&self) {
        let mut world = self.world.borrow_mut();
        let connection = world.new_connection();
        let agent = &mut world.agents[self.agent];
        agent.is_awake = true;
        agent.connection = (agent.transport == Transport::Tcp).then_some(connection);
    }

    pub(crate) fn wakes_on_push(&self, after: Duration) -> &Self {
        self.change(|agent| agent.wakes_after = Some(after))
    }

    /// Sends a line end by its connection, as apps do to keep it open.
    pub(crate) fn keeps_alive(&self) {
        let world = &mut *self.world.borrow_mut();
        let agent = &world.agents[self.agent];
        let connection = ConnectionId(agent.connection.expect("a connection"));
        let flow = Flow { transport: Transport::Tcp, listener: 1, connection, remote: agent.address };
        world.hears(flow);
    }

    pub(crate) fn moves(&self) {
        self.world.borrow_mut().agent_moves(self.agent);
    }

    pub(crate) fn does(&self, answer: Answer) -> &Self {
        self.change(|agent| agent.answer = answer)
    }

    /// INVITEs that came, without repetitions.
    pub(crate) fn expects_invites(&self, count: usize) {
        assert_eq!(self.got("INVITE").len(), count, "INVITEs");
    }

    pub(crate) fn got(&self, method: &str) -> Vec<Message> {
        got(&self.world, self.agent, method)
    }

    pub(crate) fn acks(&self) -> usize {
        self.world.borrow().agents[self.agent].acks.len()
    }

    /// Picks up, or hangs up before.
    pub(crate) fn picks_up(&self) {
        let mut world = self.world.borrow_mut();
        let got = *world.agents[self.agent].got_of("INVITE").last().expect("an INVITE came");
        world.agent_answers(self.agent, got);
    }

    /// A request within the dialog of the last INVITE that came.
    pub(crate) fn within_last(&self, method: &str) -> Request {
        within_last(&self.world, self.agent, method)
    }

    pub(crate) fn asks(&self, method: &str, uri: &str, change: impl FnOnce(Draft) -> Draft) -> Request {
        let mut world = self.world.borrow_mut();
        let draft = change(world.agents[self.agent].request(method, uri, uri));
        let number = world.request(self.agent, draft);
        Request { world: Rc::clone(&self.world), agent: self.agent, number }
    }

    pub(crate) fn calls(&self, user: &str) -> Request {
        self.asks("INVITE", &format!("sip:{user}@example.org"), |draft| draft)
    }

    /// Bucket entries of the phone's device, with their states.
    pub(crate) fn bucket(&self) -> Vec<(String, EntryState)> {
        let world = self.world.borrow();
        let token = &world.agents[self.agent].device.push;
        let has_token =
            |binding: &Binding| binding.push.as_ref().is_some_and(|push| token.ends_with(push.prid.reveal()));
        let bindings = world.storage.bindings();
        let Some(binding) = bindings.iter().find(|binding| has_token(binding)) else { return Vec::new() };
        let entries = world.storage.table().entries(&binding.device);
        entries.iter().map(|entry| (entry.call_ref.to_string(), entry.state)).collect()
    }

    pub(crate) fn name(&self) -> String {
        self.world.borrow().agents[self.agent].name.clone()
    }

    /// What it asks for.
    pub(crate) fn expires(&self) -> Option<u32> {
        self.world.borrow().agents[self.agent].device.expires
    }

    pub(crate) fn bindings(&self) -> usize {
        let world = self.world.borrow();
        world.storage.table().lookup(&Aor::new(&world.agents[self.agent].device.user, "example.org")).len()
    }
}

/// A token that was bound beside any REGISTER.
pub(crate) struct Token {
    world: Rc<RefCell<World>>,
    device: DeviceId,
}

impl Token {
    /// Entries of its bucket, with their states.
    pub(crate) fn bucket(&self) -> Vec<(String, EntryState)> {
        let entries = self.world.borrow().storage.table().entries(&self.device);
        entries.iter().map(|entry| (entry.call_ref.to_string(), entry.state)).collect()
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.world.borrow().storage.table().by_device(self.device).is_some()
    }
}

/// The push service.
pub(crate) struct PushDouble {
    world: Rc<RefCell<World>>,
    seen: usize,
}

impl PushDouble {
    /// So many pushes since the last time that was asked.
    pub(crate) fn expects(&mut self, count: usize) {
        let sent = self.world.borrow().pushes.sent.len();
        assert_eq!(sent - self.seen, count, "pushes");
        self.seen = sent;
    }

    pub(crate) fn kinds(&self) -> Vec<NoticeKind> {
        self.world.borrow().pushes.sent.iter().map(|push| push.notice.kind()).collect()
    }

    /// Call_refs in accepted missed_calls pushes.
    pub(crate) fn reported(&self) -> Vec<String> {
        self.world.borrow().pushes.reported.iter().map(|(_, call_ref)| call_ref.clone()).collect()
    }

    /// What becomes of the next push to a phone's token.
    pub(crate) fn next(&self, phone: &str, outcome: Outcome) {
        let mut world = self.world.borrow_mut();
        world.pushes.script.entry(format!("token-{phone}")).or_default().push_back(outcome);
    }

    pub(crate) fn takes(&self, delay: Duration) {
        self.world.borrow_mut().pushes.delay = delay;
    }
}
