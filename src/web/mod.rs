//! The public listener of Web Push: a page at which browsers subscribe, its service worker, and what they fetch
//! (`[push.webpush] listen`). It is meant to stand behind the operator's HTTPS, at whatever path.

mod assets;
mod capability;
mod routes;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::binding::{Aor, PushTarget};
use crate::listener::{self, Limits};
use crate::store::{Message, StoreError};

pub use capability::{Keys, TicketError};

/// From the head of a request to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server lets browsers do.
pub trait Source: Send + Sync + 'static {
    /// The key to subscribe for; `None` while Web Push is off.
    fn vapid_key(&self) -> Option<String>;
    /// Binds a subscription to an AOR; the contact id.
    fn subscribe(&self, aor: Aor, target: PushTarget, locale: Option<Box<str>>) -> Answering<'_, String>;
    /// Puts a subscription in the place of the one of a contact id; the contact id of the new one.
    fn renew<'s>(&'s self, contact_id: &'s str, target: PushTarget) -> Answering<'s, String>;
    /// Ends a subscription.
    fn unsubscribe<'s>(&'s self, contact_id: &'s str) -> Answering<'s, ()>;
    /// Takes the texts that wait, oldest first.
    fn pick_up<'s>(&'s self, contact_id: &'s str) -> Answering<'s, Arc<[Message]>>;
    /// For whom a ticket is.
    fn read_ticket(&self, ticket: &str) -> Result<Aor, TicketError>;
}

/// The end of what a browser asked for.
pub type Answering<'s, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 's>>;

/// Why a browser does not get what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such subscription")]
    Unknown,
    #[error("this subscription cannot be used: {0}")]
    Unusable(&'static str),
    #[error("the user has too many subscriptions")]
    TooMany,
    #[error("too often")]
    TooOften,
    #[error("not at the moment: {0}")]
    Store(#[from] StoreError),
}

/// Serves `listener` until `stop` ends. Of all requests together at most `per_second` are answered.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>, per_second: u32, stop: impl Future<Output = ()>) {
    listener::serve("webpush", listener, routes::router(source, per_second), Limits::default(), stop).await;
}
