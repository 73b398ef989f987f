//! Sees what the doubles of the push services get, and hands each push to the story that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::mpsc;

use super::Recorded;
use super::apns_double::ApnsDouble;
use super::callback_double::CallbackDouble;
use super::fcm_double::FcmDouble;
use super::ladder::Actor;
use super::line::Tone;
use super::narrator::{Narrator, now};
use super::peer::{Failure, PATIENCE};
use super::service_double::ServiceDouble;
use super::webpush_double::WebPushDouble;

/// Pushes that no story has asked for yet.
const QUEUE: usize = 64;

/// A push as its service got it.
#[derive(Debug)]
pub(super) struct Pushed {
    pub(super) token: String,
    /// `invite` or `missed_calls`.
    pub(super) kind: String,
    pub(super) body: Value,
    pub(super) is_accepted: bool,
    pub(super) at: Instant,
}

/// All push services of the demo.
pub(super) struct PushDesk {
    pub(super) fcm: FcmDouble,
    /// They serve until they are dropped.
    _others: ([ApnsDouble; 2], WebPushDouble, CallbackDouble, ServiceDouble),
    pushes: mpsc::Receiver<Pushed>,
    /// Taken from the queue while another one was expected.
    others: Vec<Pushed>,
    count: Arc<AtomicUsize>,
}

impl PushDesk {
    pub(super) fn open(
        fcm: FcmDouble,
        others: ([ApnsDouble; 2], WebPushDouble, CallbackDouble, ServiceDouble),
        narrator: &Narrator,
    ) -> Self {
        let (sender, pushes) = mpsc::channel(QUEUE);
        let count = Arc::new(AtomicUsize::new(0));
        let window = |service| {
            let window =
                Window { service, narrator: narrator.clone(), pushes: sender.clone(), count: Arc::clone(&count) };
            Box::new(move |push: &Recorded, status, answer: &[u8]| window.takes(push, status, answer))
        };
        let ([apns, sandbox], webpush, callback, rustore) = &others;
        fcm.observe(window("FCM"));
        apns.observe(window("APNs"));
        sandbox.observe(window("sandbox"));
        webpush.observe(window("Web"));
        callback.observe(window("callback"));
        rustore.observe(window("RuStore"));
        Self { fcm, _others: others, pushes, others: Vec::new(), count }
    }

    /// Pushes that came so far, accepted or not.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The next push of this kind to this token.
    pub(super) async fn expect(&mut self, kind: &str, token: &str) -> Result<Pushed, Failure> {
        let is_it = |push: &Pushed| push.kind == kind && push.token == token;
        if let Some(index) = self.others.iter().position(is_it) {
            return Ok(self.others.swap_remove(index));
        }
        let search = async {
            while let Some(push) = self.pushes.recv().await {
                if is_it(&push) {
                    return Some(push);
                }
                self.others.push(push);
            }
            None
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(Some(push)) => Ok(push),
            Ok(None) | Err(_) => Err(self.unexpected(format!("a push of type {kind} to {token}"))),
        }
    }

    /// Nothing must have been pushed but what was expected.
    pub(super) fn expect_no_more(&mut self) -> Result<(), Failure> {
        self.others.extend(self.pushes.try_recv());
        if self.others.is_empty() { Ok(()) } else { Err(self.unexpected("no more pushes".to_owned())) }
    }

    fn unexpected(&self, expected: String) -> Failure {
        let others: Vec<_> = self.others.iter().map(|push| format!("{} to {}", push.kind, push.token)).collect();
        let came = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
        Failure::Unexpected { who: "the push service".to_owned(), expected, came: format!("{came} came") }
    }
}

/// Where the pushes of one service come in.
struct Window {
    service: &'static str,
    narrator: Narrator,
    pushes: mpsc::Sender<Pushed>,
    count: Arc<AtomicUsize>,
}

impl Window {
    /// Draws a push, and its answer where that is a refusal, before the answer goes out: what the proxy does then
    /// comes after it in the ladder, too.
    fn takes(&self, push: &Recorded, status: u16, answer: &[u8]) {
        let at = now();
        let body = push.json();
        let kind = kind(push, &body);
        let label = format!("{} push: {kind}", self.service);
        let text = String::from_utf8_lossy(&push.body);
        let headers = headers(push);
        let notes: Vec<&str> = [headers.as_str(), &text].into_iter().filter(|note| !note.is_empty()).collect();
        self.narrator.arrow(Actor::Proxy, Actor::PushService, &label, Tone::Push, &notes);
        if status != 200 {
            let refusal = format!("{status} {}", reason(answer));
            self.narrator.arrow(Actor::PushService, Actor::Proxy, &refusal, Tone::Bad, &[]);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let pushed = Pushed { token: push.token.clone(), kind, body, is_accepted: status == 200, at };
        // Full, or nobody listens any more: an expectation that misses it will say so.
        let _ = self.pushes.try_send(pushed);
    }
}

/// Where each service's refusal says why.
fn reason(answer: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let reason = answer.pointer("/error/details/0/errorCode").or_else(|| answer.get("reason"));
    reason.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Where each service's body says what the push is for. Web Push has none.
fn kind(push: &Recorded, body: &Value) -> String {
    let pointers = ["/message/data/type", "/acme/type", "/notification/type"];
    let said = pointers.iter().find_map(|pointer| body.pointer(pointer)).and_then(Value::as_str);
    let untold = || if push.header("topic") == "missed_calls" { "missed_calls" } else { "invite" };
    said.unwrap_or_else(untold).to_owned()
}

/// Those that tell something, as the service got them.
fn headers(push: &Recorded) -> String {
    let told = ["apns-push-type", "apns-topic", "ttl", "urgency", "x-signature"];
    let told = told.map(|name| (name, push.header(name))).into_iter().filter(|(_, value)| !value.is_empty());
    told.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
}
