//! What the operator sees and does through the admin listener.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::reload::Asked;
use super::stories::Stories;
use crate::admin::{Held, Pushed, Pushing, Recall, Recalling, ReloadError, Reloading, Removing, Source};
use crate::binding::{Aor, Binding, DeviceId, Provider};
use crate::clock::UnixMillis;
use crate::config::Values;
use crate::driver::{self, Guidance, Shared, transport_drop};
use crate::events::What;
use crate::guard::{self, Ban};
use crate::metrics::Metrics;
use crate::proxy::Policy;
use crate::proxy::policy::Mode;
use crate::push::{self, Notice, NoticeKind, Outcome, Push, Pushers};
use crate::store::{Applied, BucketEntry, Change, HeldCall};
use crate::timeline::Why;
use crate::transport::DropReason;

/// The running server as the admin routes see it.
pub(super) struct Operator {
    shared: Arc<Shared>,
    guided: watch::Receiver<Guidance>,
    settings: watch::Receiver<Arc<Values>>,
    ask_reload: mpsc::Sender<Asked>,
    stories: Arc<Stories>,
    /// What the transport had dropped when the metrics were shown last.
    drops: Vec<AtomicU64>,
}

impl Operator {
    pub(super) fn new(
        shared: Arc<Shared>,
        guided: watch::Receiver<Guidance>,
        settings: watch::Receiver<Arc<Values>>,
        ask_reload: mpsc::Sender<Asked>,
        stories: Arc<Stories>,
    ) -> Self {
        let drops = DropReason::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Self { shared, guided, settings, ask_reload, stories, drops }
    }
}

impl Operator {
    /// Bindings of a user, by whichever of his names he is asked for; else those that an AOR had before it was his.
    fn lookup(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        let table = self.shared.store.table();
        let found = table.lookup(&self.canonical(aor)).into_vec();
        if found.is_empty() { table.lookup(aor).into_vec() } else { found }
    }

    fn canonical(&self, aor: &Aor) -> Aor {
        self.guided.borrow().policy.canonical(aor.clone())
    }
}

impl Source for Operator {
    fn bindings(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        self.lookup(aor)
    }

    fn page(&self, after: Option<&Aor>, part: &str, limit: usize) -> Vec<Arc<Binding>> {
        self.shared.store.table().page(after, part, limit)
    }

    fn admits(&self, binding: &Binding) -> Result<(), Why> {
        admits(&self.guided.borrow().policy, &self.shared, binding)?;
        self.shared.bars.read().check(binding)
    }

    fn holds_flow(&self, binding: &Binding) -> bool {
        self.shared.store.table().holds_flow(binding)
    }

    fn is_forgotten_upstream(&self, binding: &Binding, now: UnixMillis) -> bool {
        let is_relay = self.guided.borrow().policy.mode == Mode::Relay;
        is_relay && binding.is_forgotten_upstream(now)
    }

    fn next_reminder(&self, binding: &Binding) -> Option<UnixMillis> {
        self.shared.store.table().next_reminder(binding)
    }

    fn bucket(&self, device: &DeviceId) -> Vec<Arc<BucketEntry>> {
        self.shared.store.table().entries(device)
    }

    fn held(&self, limit: usize) -> (Vec<Held>, usize) {
        let table = self.shared.store.table();
        let held = |call: &Arc<HeldCall>| {
            let entries = call.devices.iter().flat_map(|device| table.entries(device));
            Held {
                entry: entries.into_iter().find(|entry| entry.call_ref == call.call_ref),
                node: table.owner(call.id),
                call: Arc::clone(call),
            }
        };
        (table.oldest_calls(limit).iter().map(held).collect(), table.calls_with_devices())
    }

    fn push_services(&self) -> BTreeMap<Provider, Vec<String>> {
        let pushers = self.guided.borrow().pushers.clone();
        let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
        services.extend(pushers.providers().into_iter().map(|provider| (provider, Vec::new())));
        for (provider, trouble) in pushers.troubles().into_iter().chain(pushers.alarms()) {
            services.entry(provider).or_default().push(trouble);
        }
        services
    }

    fn remove(&self, aor: Aor, device: DeviceId) -> Removing<'_> {
        let bound = self.shared.store.table().by_device(device).map(|binding| binding.aor.clone());
        let aor = bound.filter(|bound| self.canonical(bound) == self.canonical(&aor)).unwrap_or(aor);
        Box::pin(async move {
            let change = Change::Remove { aor: aor.clone(), device };
            let is_removed = self.shared.change(change).await? == Applied::Ended(true);
            if is_removed {
                let reason = "the operator removed it";
                self.shared.events.publish(driver::now().unix, || What::ClientOffline { aor, device, reason });
            }
            Ok(is_removed)
        })
    }

    fn push(&self, aor: Aor, is_dry: bool) -> Pushing<'_> {
        let bindings = self.lookup(&aor);
        let pushers = self.guided.borrow().pushers.clone();
        let invite = Notice::Invite { number: "103".into(), display_name: "Ivan".into(), call_ref: "example".into() };
        let notice = if is_dry { invite } else { Notice::Test };
        Box::pin(async move {
            let mut pushed = Vec::with_capacity(bindings.len());
            for binding in &bindings {
                // A device that is barred is pushed all the same: that is how the operator sees that it works again.
                let admitted = admits(&self.guided.borrow().policy, &self.shared, binding);
                let one =
                    push_one(&pushers, binding, admitted, notice.clone(), driver::now().unix, is_dry, |_| {}).await;
                if matches!(one.answer, Some((Outcome::Accepted, _))) {
                    self.shared.bars.write().lift(binding.device);
                }
                pushed.push(one);
            }
            pushed
        })
    }

    fn reload(&self) -> Reloading<'_> {
        Box::pin(async move {
            let (asked, answer) = oneshot::channel();
            let busy = || ReloadError("another reload is under way, or the server is stopping".to_owned());
            self.ask_reload.try_send(asked).map_err(|_| busy())?;
            answer.await.map_err(|_| busy())?
        })
    }

    fn settings(&self) -> Arc<Values> {
        Arc::clone(&self.settings.borrow())
    }

    fn bans(&self) -> Vec<Ban> {
        self.shared.door.guard.bans(driver::now().instant)
    }

    fn lift(&self, source: guard::Source) -> bool {
        self.shared.door.guard.lift(source, driver::now().instant)
    }

    fn recall(&self, what: Recall) -> Recalling<'_> {
        let what = match what {
            Recall::Aor(aor, limit) => Recall::Aor(self.canonical(&aor), limit),
            Recall::Call(_) | Recall::Last(_) => what,
        };
        Box::pin(self.stories.recall(what))
    }

    fn measure(&self, metrics: &Metrics) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let table = self.shared.store.table();
        metrics.bindings.set(gauge(table.binding_count()));
        metrics.bucket_entries.set(gauge(table.entry_count()));
        metrics.held_calls.set(gauge(self.shared.held_calls()));
        metrics.store_up.set(i64::from(self.shared.store_is_up()));
        metrics.journal_entries.set(gauge(self.shared.store.journal_entries()));
        metrics.events_lost.set(i64::try_from(self.shared.events.lost()).unwrap_or(i64::MAX));
        metrics.nodes.set(gauge(self.shared.store.nodes()));
        metrics.bans.set(gauge(self.shared.door.guard.ban_count(driver::now().instant)));
        for (reason, shown) in DropReason::ALL.into_iter().zip(&self.drops) {
            let total = self.shared.connections.drops().total(reason);
            let new = total.saturating_sub(shown.swap(total, Ordering::Relaxed));
            if let Some(reason) = transport_drop(reason) {
                metrics.dropped_by(reason, new);
            }
        }
    }
}

/// How long a test push may be delivered, and waited for.
const TEST_TTL: Duration = Duration::from_secs(10);
/// How long a text may be delivered: who reads it a day later has seen it elsewhere.
const TEXT_TTL: Duration = Duration::from_secs(24 * 3600);

/// As the workers' proxies see it, from outside of them.
pub(super) fn admits(policy: &Policy, shared: &Shared, binding: &Binding) -> Result<(), Why> {
    policy.admits(binding, |most| shared.store.table().has_too_many_aors(binding, most))
}

/// One push to one device, or with `is_dry` what would be sent. Whatever comes of it, the binding stays as it is.
pub(super) async fn push_one(
    pushers: &Pushers,
    binding: &Binding,
    admitted: Result<(), Why>,
    notice: Notice,
    date: UnixMillis,
    is_dry: bool,
    count: impl FnOnce(&push::Reply),
) -> Pushed {
    let pushed = |notice, preview, answer| {
        let provider = binding.push.as_ref().map(|target| target.provider);
        Pushed { device: binding.device, provider, notice, preview, answer }
    };
    let Some(target) = binding.push.clone() else {
        let why = binding.push_refused.as_deref().unwrap_or("its contact has no push parameters");
        return pushed(notice.kind(), Err(why.to_owned()), None);
    };
    let kind = notice.kind();
    if let Err(why) = admitted {
        return pushed(kind, Err(why.text().to_owned()), None);
    }
    let ttl = if kind == NoticeKind::Text { TEXT_TTL } else { TEST_TTL };
    let push = Push::to(binding, target, notice, ttl, date);
    let preview = pushers.preview(&push);
    if is_dry || preview.is_err() {
        return pushed(kind, preview, None);
    }
    let (reply_to, mut replies) = mpsc::channel(1);
    let busy = || (Outcome::busy(), Duration::ZERO);
    let answer = match pushers.submit(push, reply_to) {
        Ok(()) => replies.recv().await.map_or_else(busy, |reply| {
            count(&reply);
            (reply.outcome, reply.took)
        }),
        Err(push::Busy) => busy(),
    };
    pushed(kind, preview, Some(answer))
}
