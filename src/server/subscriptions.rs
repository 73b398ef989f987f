//! What browsers do at the public listener of Web Push, on the running server.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::watch;

use super::notifications::Tellers;
use crate::admin::{self, Notifications, TokenWish};
use crate::binding::{Aor, Binding, DeviceId, Provider, PushTarget};
use crate::driver::{self, Guidance, Shared};
use crate::push::NoticeKind;
use crate::store::{Applied, Change, Message, StoreError};
use crate::web::{Answering, Keys, Refusal, Source, TicketError};

/// Pick-ups of one browser in a minute: each may ask the store.
const PICK_UPS_PER_MIN: NonZeroU32 = NonZeroU32::new(60).unwrap();
/// Browsers that asked for nothing for a minute are forgotten once in so many pick-ups.
const SWEEP_EVERY: u32 = 4096;

/// The running server as browsers see it.
pub(super) struct Subscriptions {
    shared: Arc<Shared>,
    guided: watch::Receiver<Guidance>,
    tellers: Arc<Tellers>,
    keys: Arc<Keys>,
    pick_ups: DefaultKeyedRateLimiter<DeviceId>,
    picked_up: AtomicU32,
}

impl Subscriptions {
    pub(super) fn new(
        shared: Arc<Shared>,
        guided: watch::Receiver<Guidance>,
        tellers: Arc<Tellers>,
        keys: Arc<Keys>,
    ) -> Self {
        let pick_ups = RateLimiter::keyed(Quota::per_minute(PICK_UPS_PER_MIN));
        Self { shared, guided, tellers, keys, pick_ups, picked_up: AtomicU32::new(0) }
    }

    /// Whose contact id it is.
    async fn known(&self, contact_id: &str) -> Result<Arc<Binding>, Refusal> {
        let store = &self.shared.store;
        let device = Keys::device_of(contact_id).ok_or(Refusal::Unknown)?;
        if !store.knows_device(device).await {
            return Err(StoreError::Busy.into());
        }
        let is_it = |binding: &Arc<Binding>| {
            let is_browser = binding.push.as_ref().is_some_and(|push| push.provider == Provider::WebPush);
            is_browser && self.keys.is_contact_id(contact_id, &binding.aor, device)
        };
        store.table().by_device(device).filter(is_it).ok_or(Refusal::Unknown)
    }

    async fn bind(&self, aor: Aor, target: PushTarget, locale: Option<Box<str>>) -> Result<String, Refusal> {
        let policy = Arc::clone(&self.guided.borrow().policy);
        policy.push.supports(&target, NoticeKind::Invite).map_err(|reason| {
            tracing::debug!(%aor, %reason, "a subscription was refused");
            Refusal::Unusable("its push service or its keys are not for use here")
        })?;
        let wish = TokenWish {
            recipient: aor.as_str().into(),
            token: target.prid.reveal().into(),
            token_type: None,
            kind: Provider::WebPush.name().into(),
            param: "".into(),
            locale,
            keys: target.keys().cloned(),
        };
        let device = self.tellers.bind(wish).await.map_err(|refusal| match refusal {
            admin::Refusal::Bad(_) | admin::Refusal::TooLarge | admin::Refusal::Forbidden(_) => {
                Refusal::Unusable("its user or its endpoint is none")
            }
            admin::Refusal::Conflict(_) => Refusal::TooMany,
            admin::Refusal::Busy(_) => StoreError::Busy.into(),
        })?;
        Ok(self.keys.contact_id(&aor, device))
    }

    /// For the same user, in the same language. The old one ends last, unless there is no room for both.
    async fn rebind(&self, contact_id: &str, target: PushTarget) -> Result<String, Refusal> {
        let binding = self.known(contact_id).await?;
        self.admit(binding.device)?;
        let bound = || self.bind(binding.aor.clone(), target.clone(), binding.app.locale.clone());
        let renewed = match bound().await {
            Err(Refusal::TooMany) => {
                self.unbind(contact_id).await?;
                return bound().await;
            }
            renewed => renewed?,
        };
        if renewed != contact_id {
            self.unbind(contact_id).await?;
        }
        Ok(renewed)
    }

    async fn unbind(&self, contact_id: &str) -> Result<(), Refusal> {
        let binding = self.known(contact_id).await?;
        let endpoint = binding.push.as_ref().map(|push| push.prid.reveal().into()).unwrap_or_default();
        // One that has registered by SIP stays registered.
        self.tellers.unbind(endpoint).await.map(drop).map_err(|_| StoreError::Busy.into())
    }

    async fn fetch(&self, contact_id: &str) -> Result<Arc<[Message]>, Refusal> {
        let binding = self.known(contact_id).await?;
        self.admit(binding.device)?;
        let change = Change::PickUp { aor: binding.aor.clone(), device: binding.device };
        match self.shared.change(change).await? {
            Applied::PickedUp(messages) => Ok(messages),
            Applied::Done | Applied::Claimed(_) | Applied::Ended(_) | Applied::Bound(_) => Ok([].into()),
        }
    }

    fn admit(&self, device: DeviceId) -> Result<(), Refusal> {
        if self.picked_up.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.pick_ups.retain_recent();
        }
        self.pick_ups.check_key(&device).map_err(|_| Refusal::TooOften)
    }
}

impl Source for Subscriptions {
    fn vapid_key(&self) -> Option<String> {
        self.guided.borrow().pushers.vapid_key().map(str::to_owned)
    }

    fn read_ticket(&self, ticket: &str) -> Result<Aor, TicketError> {
        self.keys.read_ticket(ticket, driver::now().unix)
    }

    fn subscribe(&self, aor: Aor, target: PushTarget, locale: Option<Box<str>>) -> Answering<'_, String> {
        Box::pin(self.bind(aor, target, locale))
    }

    fn renew<'s>(&'s self, contact_id: &'s str, target: PushTarget) -> Answering<'s, String> {
        Box::pin(self.rebind(contact_id, target))
    }

    fn unsubscribe<'s>(&'s self, contact_id: &'s str) -> Answering<'s, ()> {
        Box::pin(self.unbind(contact_id))
    }

    fn pick_up<'s>(&'s self, contact_id: &'s str) -> Answering<'s, Arc<[Message]>> {
        Box::pin(self.fetch(contact_id))
    }
}
