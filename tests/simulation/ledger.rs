//! What must hold in every run, whatever happens in it: checked on each message, push and step, and at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use sip_push_proxy::binding::DeviceId;
use sip_push_proxy::proxy::{CallStep, DropReason, Outcome};
use sip_push_proxy::push::{Notice, Push};
use sip_push_proxy::sip::{Destination, Flow, HeaderName, Message, Via};
use sip_push_proxy::store::EntryState;
use sip_push_proxy::timeline::{Reason, Step};

use crate::options::{SWITCH, socket};
use crate::storage::Storage;
use crate::text;

/// Names a request to the proxy: branch of its top Via, and method.
type Key = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Requests that came, as they came.
    requests: BTreeMap<Key, Arrived>,
    /// Responses that came, by the branch below ours, method, status and To tag.
    responses: BTreeMap<(String, String, u16, String), Vec<Message>>,
    /// Final responses that left, with their To tags.
    finals: BTreeMap<Key, BTreeSet<(u16, String)>>,
    /// When a phone got the last 2xx of a REGISTER.
    registered: BTreeMap<SocketAddr, u64>,
    /// When each INVITE last went to each phone, and by which branches.
    invited: BTreeMap<(String, SocketAddr), (u64, BTreeSet<String>)>,
    /// Calls that nobody may be pushed for any more.
    over: BTreeSet<String>,
    pushing: Option<(String, Option<DeviceId>)>,
    pub(crate) steps: Vec<CallStep>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) dropped: Vec<DropReason>,
    count: u64,
    /// Whether not all is looked at: requests come that nobody in the simulation sent, or the process is killed and does
    /// again what was not durable.
    pub(crate) is_lenient: bool,
}

#[derive(Debug)]
struct Arrived {
    at: u64,
    message: Message,
    flow: Flow,
}

/// Headers that a proxy changes in a request.
const OURS_IN_REQUESTS: [HeaderName; 5] =
    [HeaderName::Via, HeaderName::MaxForwards, HeaderName::Route, HeaderName::RecordRoute, HeaderName::ContentLength];
/// And besides in a REGISTER.
const OURS_IN_REGISTERS: [HeaderName; 4] =
    [HeaderName::Contact, HeaderName::Path, HeaderName::Supported, HeaderName::FeatureCaps];

impl Ledger {
    /// A message reaches the proxy.
    pub(crate) fn arrived(&mut self, message: &Message, flow: Flow) {
        self.count += 1;
        let method = text::text(message.method_text());
        if message.is_request() {
            let Some(branch) = text::branch(message, 0) else { return };
            if method == "CANCEL" {
                let is_pending = !self.finals.contains_key(&(branch.clone(), "INVITE".to_owned()));
                let invite = self.requests.get(&(branch.clone(), "INVITE".to_owned()));
                if let Some(invite) = invite.filter(|_| is_pending) {
                    self.over.insert(text::text(invite.message.call_id()));
                }
            }
            let arrived = Arrived { at: self.count, message: message.clone(), flow };
            self.requests.entry((branch, method)).or_insert(arrived);
        } else if let Some(below) = text::branch(message, 1) {
            let key = (below, method, message.status().unwrap(), text::to_tag(message));
            self.responses.entry(key).or_default().push(message.clone());
        }
    }

    /// A message leaves the proxy.
    pub(crate) fn left(&mut self, to: &Destination, message: &Message, storage: &Storage, always: bool) {
        self.count += 1;
        if self.is_lenient {
            return;
        }
        assert_eq!(sip_push_proxy::sip::validity::request_fault(message).filter(|_| message.is_request()), None);
        if message.is_request() {
            self.request_left(to, message, always);
        } else {
            self.response_left(to, message, storage);
        }
    }

    fn request_left(&mut self, to: &Destination, message: &Message, always: bool) {
        let top = message.top_via().expect("a Via");
        assert!(is_ours(&top), "our own Via is on top");
        let method = text::text(message.method_text());
        // The proxy's own BYE hangs up on a phone that picked up a call that was over when it came.
        let is_own = matches!(method.as_str(), "ACK" | "BYE") && text::branch(message, 1).is_none();
        let is_hop_by_hop = method == "CANCEL" || is_own;
        if is_hop_by_hop {
            return;
        }
        if method == "REGISTER" && text::branch(message, 1).is_none() {
            return Self::refresh_left(to, message);
        }
        let below = text::branch(message, 1).expect("what is forwarded has the sender's Via");
        let Arrived { at, message: came, flow } = &self.requests[&(below, method.clone())];
        assert_ne!(to, &Destination::Flow(*flow), "nothing goes back to where it came from");
        let is_of_phone = flow.remote.ip().to_string().starts_with("198.51.");
        assert!(!is_of_phone || is_softswitch(to), "a phone's request goes to the softswitch and nowhere else: {to:?}");
        let mut ours = OURS_IN_REQUESTS.to_vec();
        if method == "REGISTER" {
            ours.extend(OURS_IN_REGISTERS);
        }
        assert_eq!(untouched(message, &ours), untouched(came, &ours), "headers pass unchanged");
        assert_eq!(message.body(), came.body());
        let hops = came.number(HeaderName::MaxForwards).map_or(Some(70), |hops| hops.checked_sub(1));
        assert_eq!(message.number(HeaderName::MaxForwards), hops, "one hop less");
        let starts_call = method == "INVITE" && message.to_tag().is_none();
        if starts_call && to.remote() != socket(SWITCH) && flow.remote == socket(SWITCH) {
            let (at, branch) = (*at, text::branch(message, 0).unwrap());
            self.phone_is_called(to.remote(), text::text(message.call_id()), at, branch, always);
        }
    }

    /// A REGISTER of the proxy's own: nothing of it is a phone's, and it tells nothing of push.
    fn refresh_left(to: &Destination, message: &Message) {
        assert!(is_softswitch(to), "only the softswitch is a registrar: {to:?}");
        assert!(text::first(message, HeaderName::CallId).ends_with("-refresh"), "a Call-ID of its own");
        assert!(!text::text(message.bytes()).contains("pn-"), "what wakes a phone stays here");
        assert_eq!(message.number(HeaderName::MaxForwards), Some(70));
    }

    /// A phone has answered its push by its connection, which is as good as a REGISTER.
    pub(crate) fn is_awake(&mut self, phone: SocketAddr) {
        self.count += 1;
        self.registered.insert(phone, self.count);
    }

    /// With `hold.push_when = "always"` and pushes, once for each REGISTER that was accepted after the INVITE came.
    fn phone_is_called(&mut self, phone: SocketAddr, call_id: String, came: u64, branch: String, always: bool) {
        let now = self.count;
        // What no push reaches is tried on its flow.
        let is_refused = |step: &CallStep| step.step == Step::PushRefused && *step.call_ref == *call_id;
        let is_pushable = !self.steps.iter().any(is_refused);
        let (last, branches) = self.invited.entry((call_id, phone)).or_default();
        if branches.insert(branch) && always && is_pushable {
            let registered = self.registered.get(&phone).copied().unwrap_or_default();
            assert!(registered > came, "the INVITE waits for a REGISTER that is newer");
            assert!(registered > *last, "the INVITE comes once for each wake");
            *last = now;
        }
    }

    fn response_left(&mut self, to: &Destination, message: &Message, storage: &Storage) {
        let Some(top) = message.top_via() else { return };
        assert!(!is_ours(&top), "our own Via has gone");
        let (method, status) = (text::text(message.method_text()), message.status().unwrap());
        let branch = text::text(top.branch().unwrap_or_default());
        let key = (branch.clone(), method.clone(), status, text::to_tag(message));
        if let Some(came) = self.responses.get(&key) {
            let mut ours = vec![HeaderName::Via, HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate];
            if method == "OPTIONS" {
                ours.extend([HeaderName::UserAgent, HeaderName::Other]);
            }
            if method == "REGISTER" {
                ours.extend(OURS_IN_REGISTERS);
            }
            let same =
                |came: &Message| untouched(message, &ours) == untouched(came, &ours) && message.body() == came.body();
            assert!(came.iter().any(same), "responses pass unchanged");
        }
        let mut is_new = false;
        if status >= 200 {
            let key = (branch.clone(), method.clone());
            let tags = self.finals.entry(key).or_default();
            let known = tags.len();
            tags.insert((status, text::to_tag(message)));
            let failures = tags.iter().filter(|(status, _)| *status >= 300).count();
            is_new = tags.len() > known;
            let is_single = tags.len() == 1 || (failures == 0 && method == "INVITE");
            assert!(is_single, "one final response for each request: {tags:?}");
        }
        if method == "INVITE" && (200..300).contains(&status) {
            self.over.insert(text::text(message.call_id()));
        }
        if method == "REGISTER" && status == 200 && is_new {
            self.registers(to.remote(), &(branch, method), storage);
        }
    }

    /// The binding is durable before its 2xx.
    fn registers(&mut self, phone: SocketAddr, request: &Key, storage: &Storage) {
        let register = &self.requests[request].message;
        self.registered.insert(phone, self.count);
        let expires = register.number(HeaderName::Expires);
        let contacts = text::values(register, HeaderName::Contact);
        if contacts.is_empty() || expires == Some(0) || contacts.iter().any(|contact| contact.contains("expires=0")) {
            return;
        }
        let (call_id, cseq) = (text::text(register.call_id()), register.cseq().unwrap().number);
        let is_it = |cseq_known: u32, call_id_known: &str| cseq_known >= cseq && call_id_known == call_id;
        let is_saved = storage.bindings().iter().any(|binding| is_it(binding.cseq, &binding.call_id));
        assert!(is_saved, "the binding is durable before the 2xx");
    }

    pub(crate) fn step(&mut self, step: CallStep) {
        if matches!(step.step, Step::PushSent | Step::PushRetried) {
            self.pushing = Some((step.call_ref.to_string(), step.device));
        }
        self.steps.push(step);
    }

    /// A push leaves the proxy, right after the step that tells of it.
    pub(crate) fn push(&mut self, push: &Push, storage: &Storage) {
        match &push.notice {
            _ if self.is_lenient => {}
            Notice::Invite { call_ref, .. } => {
                let told = self.pushing.take().or_else(|| self.paused(call_ref));
                let (call_ref, device) = told.expect("a step before the push");
                assert!(!self.over.contains(&call_ref), "no push after CANCEL or answer");
                let Some(device) = device.filter(|device| storage.table().by_device(*device).is_some()) else { return };
                let entries = storage.table().entries(&device);
                let is_live =
                    entries.iter().any(|entry| *entry.call_ref == *call_ref && entry.state == EntryState::Live);
                assert!(is_live, "the bucket entry is durable before the push");
            }
            Notice::CallEnded { call_ref, .. } => {
                assert!(self.is_over(call_ref), "a call that goes on is not over");
            }
            Notice::Register { .. } | Notice::Message | Notice::Test | Notice::Text { .. } => self.pushing = None,
            Notice::MissedCalls(entries) => {
                assert!(!entries.is_empty());
                let is_live = |call_ref: &str| !self.is_ended(call_ref);
                assert!(!entries.iter().any(|entry| is_live(&entry.call_ref)), "no live call is reported");
            }
        }
    }

    /// The call and device of a push that its provider's pause kept back: it is asked again without a word.
    fn paused(&self, call_ref: &str) -> Option<(String, Option<DeviceId>)> {
        let is_paused = |step: &&CallStep| step.why.as_ref().is_some_and(|why| why.reason == Reason::ProviderPaused);
        let paused = self.steps.iter().filter(|step| *step.call_ref == *call_ref).rfind(is_paused)?;
        Some((call_ref.to_owned(), paused.device))
    }

    /// Whether the story of a call has its end.
    fn is_over(&self, call_ref: &str) -> bool {
        let ends = [Step::Answered, Step::Rejected, Step::Cancelled, Step::NoReturn, Step::Expired, Step::Failed];
        let is_end = |step: &CallStep| step.device.is_none() && ends.contains(&step.step);
        self.steps.iter().any(|step| *step.call_ref == *call_ref && is_end(step))
    }

    fn is_ended(&self, call_ref: &str) -> bool {
        self.steps.iter().any(|step| *step.call_ref == *call_ref && step.step == Step::Missed)
    }

    /// What is wrong when all is over.
    pub(crate) fn faults(&self, storage: &Storage) -> Vec<String> {
        let mut faults = Vec::new();
        for ((branch, method), arrived) in self.requests.iter().filter(|_| !self.is_lenient) {
            let to_phones = arrived.flow.remote == socket(SWITCH);
            let must_end = method == "INVITE" || (method == "MESSAGE" && to_phones);
            if must_end && !self.finals.contains_key(&(branch.clone(), method.clone())) {
                faults.push(format!("no final response: {}", text::summary(&arrived.message)));
            }
        }
        let bindings = storage.bindings();
        let live = bindings.iter().flat_map(|binding| storage.table().entries(&binding.device));
        let live = live.filter(|entry| entry.state == EntryState::Live);
        faults.extend(live.map(|entry| format!("a live entry is left: {}", entry.call_ref)));
        if storage.table().call_count() > 0 {
            faults.push("a held call is left in the store".to_owned());
        }
        if !storage.watched.borrow().is_empty() {
            faults.push("a watch has not ended".to_owned());
        }
        faults
    }

    /// Steps of a call, in order.
    pub(crate) fn story(&self, call_ref: &str) -> Vec<Step> {
        self.steps.iter().filter(|step| *step.call_ref == *call_ref).map(|step| step.step).collect()
    }
}

/// It may have several addresses.
fn is_softswitch(to: &Destination) -> bool {
    to.remote().to_string().starts_with("192.0.2.2")
}

fn is_ours(via: &Via<'_>) -> bool {
    via.host == b"192.0.2.10"
}

/// The lines of all other headers, byte for byte.
fn untouched(message: &Message, ours: &[HeaderName]) -> Vec<String> {
    let others = message.all_fields().iter().filter(|field| !ours.contains(&field.name));
    others.map(|field| text::text(message.slice(field.line()))).collect()
}
