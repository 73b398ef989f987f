//! Watches the doubles of the push services, and hands each push to the story that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Recorded;
use super::apns_double::ApnsDouble;
use super::fcm_double::FcmDouble;
use super::ladder::Actor;
use super::line::Tone;
use super::narrator::{Narrator, now};
use super::peer::{Failure, PATIENCE};

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
    pub(super) fcm: Arc<FcmDouble>,
    pushes: mpsc::Receiver<Pushed>,
    /// Taken from the queue while another one was expected.
    others: Vec<Pushed>,
    count: Arc<AtomicUsize>,
    /// Ends with the desk.
    _watchers: JoinSet<()>,
}

impl PushDesk {
    pub(super) fn open(fcm: FcmDouble, apns: ApnsDouble, narrator: &Narrator) -> Self {
        let fcm = Arc::new(fcm);
        let (sender, pushes) = mpsc::channel(QUEUE);
        let count = Arc::new(AtomicUsize::new(0));
        let mut watchers = JoinSet::new();
        let watcher = |service| Watcher {
            service,
            narrator: narrator.clone(),
            pushes: sender.clone(),
            count: Arc::clone(&count),
        };
        let (accepts, refuses, apple) = (watcher("FCM"), watcher("FCM"), watcher("APNs"));
        let accepting = Arc::clone(&fcm);
        watchers.spawn(async move {
            loop {
                accepts.saw(accepting.next().await).await;
            }
        });
        let refusing = Arc::clone(&fcm);
        watchers.spawn(async move {
            loop {
                let refused = refusing.next_refused().await;
                refuses.saw_refused(refused.push, refused.status, &refused.answer).await;
            }
        });
        watchers.spawn(async move {
            loop {
                apple.saw(apns.next().await).await;
            }
        });
        Self { fcm, pushes, others: Vec::new(), count, _watchers: watchers }
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

/// Looks after one queue of one service.
struct Watcher {
    service: &'static str,
    narrator: Narrator,
    pushes: mpsc::Sender<Pushed>,
    count: Arc<AtomicUsize>,
}

impl Watcher {
    async fn saw(&self, push: Recorded) {
        self.told(&push);
        self.pass_on(push, true).await;
    }

    async fn saw_refused(&self, push: Recorded, status: u16, answer: &[u8]) {
        self.told(&push);
        let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
        let code = answer.pointer("/error/details/0/errorCode").and_then(Value::as_str).unwrap_or_default();
        self.narrator.arrow(Actor::PushService, Actor::Proxy, &format!("{status} {code}"), Tone::Bad, &[]);
        self.pass_on(push, false).await;
    }

    fn told(&self, push: &Recorded) {
        let label = format!("{} push: {}", self.service, kind(&push.json()));
        let body = String::from_utf8_lossy(&push.body);
        let headers =
            format!("apns-push-type: {}, apns-topic: {}", push.header("apns-push-type"), push.header("apns-topic"));
        let notes: &[&str] = if push.header("apns-push-type").is_empty() { &[&body] } else { &[&headers, &body] };
        self.narrator.arrow(Actor::Proxy, Actor::PushService, &label, Tone::Push, notes);
    }

    async fn pass_on(&self, push: Recorded, is_accepted: bool) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let body = push.json();
        let pushed = Pushed { token: push.token, kind: kind(&body), body, is_accepted, at: now() };
        // Without a desk nobody waits for it.
        let _ = self.pushes.send(pushed).await;
    }
}

/// Where each service's body says what the push is for.
fn kind(body: &Value) -> String {
    let kind = body.pointer("/message/data/type").or_else(|| body.pointer("/acme/type"));
    kind.and_then(Value::as_str).unwrap_or_default().to_owned()
}
