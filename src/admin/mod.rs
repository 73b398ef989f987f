//! The operator's listener: health, metrics, what the server knows of bindings, calls and buckets, and a page that shows it.

mod centrifuge;
mod console;
mod exposition;
mod guard;
mod live;
mod notification;
mod overview;
mod routes;
mod usedesk;
mod views;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::binding::{Aor, Binding, DeviceId, Provider};
use crate::clock::UnixMillis;
use crate::config::{Difference, Token, Values};
use crate::events::Events;
use crate::guard::Ban;
use crate::listener;
pub use crate::listener::Limits;
use crate::metrics::Metrics;
use crate::push::{NoticeKind, Outcome, Preview};
use crate::readiness::Readiness;
use crate::store::{BucketEntry, HeldCall, StoreError};
use crate::summary::Summary;
use crate::timeline::{Call, Why};

pub use centrifuge::{Live, LiveSettings};
pub use notification::{Answering, Notifications, Refusal, TextWish, Ticket, TokenWish};

/// What the server lets the operator see and do.
pub trait Source: Send + Sync + 'static {
    /// Bindings of an AOR; empty for an unknown one.
    fn bindings(&self, aor: &Aor) -> Vec<Arc<Binding>>;
    /// Bindings of the first `limit` AORs after `after` that have `part` in them, ordered by AOR.
    fn page(&self, after: Option<&Aor>, part: &str, limit: usize) -> Vec<Arc<Binding>>;
    /// Whether a device may be pushed, as far as its user and the other users of its token go; else why not.
    fn admits(&self, binding: &Binding) -> Result<(), Why>;
    /// Whether no other device has registered by the flow of a binding since.
    fn holds_flow(&self, _binding: &Binding) -> bool {
        true
    }
    /// Whether the registration at the softswitch, by which it finds the device, has run out.
    fn is_forgotten_upstream(&self, _binding: &Binding, _now: UnixMillis) -> bool {
        false
    }
    /// When a device is pushed so that it registers, should it not do so before; `None` where it is not.
    fn next_reminder(&self, _binding: &Binding) -> Option<UnixMillis> {
        None
    }
    /// A device's push bucket, oldest first.
    fn bucket(&self, device: &DeviceId) -> Vec<Arc<BucketEntry>>;
    /// Up to `limit` calls that are held, oldest first, and how many there are.
    fn held(&self, limit: usize) -> (Vec<Held>, usize);
    /// The push services that are switched on, and what is wrong with each.
    fn push_services(&self) -> BTreeMap<Provider, Vec<String>>;
    /// Ends a binding; `false` when it is not there.
    fn remove(&self, aor: Aor, device: DeviceId) -> Removing<'_>;
    /// Sends a harmless push to each device of an AOR, or with `is_dry` says what an invite would be sent where.
    fn push(&self, aor: Aor, is_dry: bool) -> Pushing<'_>;
    /// Reads the configuration again and applies what can change at run time.
    fn reload(&self) -> Reloading<'_>;
    /// The configuration that is in effect.
    fn settings(&self) -> Arc<Values>;
    /// Sources that are shut out, the oldest ban first.
    fn bans(&self) -> Vec<Ban>;
    /// Ends a ban; `false` when there is none.
    fn lift(&self, source: crate::guard::Source) -> bool;
    /// What happened to calls, newest first: of all nodes where they share a store.
    fn recall(&self, what: Recall) -> Recalling<'_>;
    /// Sets the gauges, right before the metrics are shown.
    fn measure(&self, metrics: &Metrics);
}

/// Which calls are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recall {
    /// By its call_ref.
    Call(String),
    /// The last ones for a user.
    Aor(Aor, usize),
    /// The last ones.
    Last(usize),
}

/// What is known of calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recalled {
    /// Newest first.
    pub calls: Vec<Arc<Call>>,
    /// Why this node alone was asked, where there are others.
    pub partial: Option<String>,
}

/// The end of [`Source::recall`].
pub type Recalling<'s> = Pin<Box<dyn Future<Output = Recalled> + Send + 's>>;

/// The end of [`Source::remove`].
pub type Removing<'s> = Pin<Box<dyn Future<Output = Result<bool, StoreError>> + Send + 's>>;

/// The end of [`Source::reload`].
pub type Reloading<'s> = Pin<Box<dyn Future<Output = Result<Reloaded, ReloadError>> + Send + 's>>;

/// What came of reading the configuration again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// What is in effect now. A section by its name alone: what stands in the files that it names.
    pub changed: Vec<Difference>,
    /// What the file says and only a restart brings.
    pub needs_restart: Vec<Difference>,
}

/// Why nothing has changed, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReloadError(pub String);

/// The end of [`Source::push`]: one for each device.
pub type Pushing<'s> = Pin<Box<dyn Future<Output = Vec<Pushed>> + Send + 's>>;

/// A call that waits for a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub call: Arc<HeldCall>,
    /// The call in the bucket of a device that has not seen it, which tells the caller.
    pub entry: Option<Arc<BucketEntry>>,
    /// The node that holds it; `None`: this one.
    pub node: Option<Arc<str>>,
}

/// A push that an operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub device: DeviceId,
    /// `None` for a device without push parameters that can be used.
    pub provider: Option<Provider>,
    pub notice: NoticeKind,
    /// What is sent where, or why nothing is.
    pub preview: Result<Preview, String>,
    /// The provider's answer, and how long it took; `None` where nothing was sent.
    pub answer: Option<(Outcome, Duration)>,
}

/// What the routes answer from.
#[derive(Clone)]
pub struct State {
    pub source: Arc<dyn Source>,
    pub summary: Arc<Summary>,
    pub events: Arc<Events>,
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub notifications: Arc<dyn Notifications>,
    /// Of `/notification/…` alone; `None`: `token` is for that, too.
    pub notification_token: Option<Token>,
    /// Secret of Usedesk's webhook, in place of a token; `None`: not checked.
    pub webhook_secret: Option<Token>,
    /// `None`: only requests from this machine are answered, without a token.
    pub token: Option<Token>,
}

/// Answered when all connections are busy with others.
const HEALTH: &[&str] = &["/healthz", "/readyz", "/metrics"];

/// Serves `listener` until `stop` ends.
pub async fn serve(listener: TcpListener, state: State, limits: Limits, stop: impl Future<Output = ()>) {
    let limits = Limits { reserved: HEALTH, ..limits };
    let live = Arc::clone(&state.live);
    listener::serve("admin", listener, routes::router(state), limits, stop).await;
    live.shut_down().await;
}
