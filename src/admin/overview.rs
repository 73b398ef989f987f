//! What is going on: the calls that are held, and the last hour in numbers.

use axum::Json;
use axum::extract::State as Shared;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use super::routes::{PageQuery, now, with_page};
use super::{Held, State};
use crate::binding::Provider;
use crate::clock::UnixMillis;
use crate::summary::{Pushes, Refusal, Summary};

/// A call that waits for a phone.
#[derive(Serialize)]
struct HeldView<'h> {
    call_ref: &'h str,
    aor: &'h str,
    /// As the phone would see it; `null` where a phone has seen the call already.
    remote_uri: Option<&'h str>,
    display_name: Option<&'h str>,
    devices: Vec<String>,
    held_at: String,
    /// When the wait ends.
    until: String,
    /// Until then; 0 for one that rings longer than a phone was waited for.
    left_ms: u128,
    /// The node that holds it; `null`: this one.
    node: Option<&'h str>,
}

impl<'h> HeldView<'h> {
    fn new(held: &'h Held, now: UnixMillis) -> Self {
        let Held { call, entry, node } = held;
        Self {
            call_ref: &call.call_ref,
            aor: call.aor.as_str(),
            remote_uri: entry.as_deref().map(|entry| &*entry.remote_uri),
            display_name: entry.as_deref().map(|entry| &*entry.display_name),
            devices: call.devices.iter().map(ToString::to_string).collect(),
            held_at: call.held_at.to_rfc3339(),
            until: call.until.to_rfc3339(),
            left_ms: call.until.since(now).as_millis(),
            node: node.as_deref(),
        }
    }
}

/// Calls that are held, by this node and others of its store, those first that wait longest; `total` counts them all.
pub(super) async fn held(Shared(state): Shared<State>, page: PageQuery) -> Response {
    with_page(page, |page| {
        let (held, total) = state.source.held(page.limit());
        let now = now();
        json!({ "held": held.iter().map(|held| HeldView::new(held, now)).collect::<Vec<_>>(), "total": total })
    })
}

/// What came of the pushes of one kind of push service.
#[derive(Serialize)]
struct ProviderView<'p> {
    provider: &'static str,
    enabled: bool,
    /// What is wrong with its accounts, in words.
    troubles: Vec<String>,
    accepted: u64,
    refused: u64,
    last_refusal: Option<RefusalView<'p>>,
    /// Phones that woke, and in which time after their push was accepted.
    wakes: u64,
    wake_p50_ms: Option<u128>,
    wake_p90_ms: Option<u128>,
    wake_p99_ms: Option<u128>,
}

#[derive(Serialize)]
struct RefusalView<'p> {
    at: String,
    result: &'static str,
    reason: &'p str,
}

impl<'p> ProviderView<'p> {
    fn new(provider: Provider, troubles: Option<Vec<String>>, pushes: &Pushes, refusal: Option<&'p Refusal>) -> Self {
        let wake_ms = |percent| pushes.wake_time(percent).map(|time| time.as_millis());
        Self {
            provider: provider.name(),
            enabled: troubles.is_some(),
            troubles: troubles.unwrap_or_default(),
            accepted: pushes.accepted,
            refused: pushes.refused,
            last_refusal: refusal.map(|refusal| RefusalView {
                at: refusal.at.to_rfc3339(),
                result: refusal.result.name(),
                reason: &refusal.reason,
            }),
            wakes: pushes.wakes(),
            wake_p50_ms: wake_ms(50),
            wake_p90_ms: wake_ms(90),
            wake_p99_ms: wake_ms(99),
        }
    }
}

/// The last hour of this node: calls that were held and have ended, by how far they came, and its push services; and what
/// the store has and how it does.
pub(super) async fn summary(Shared(state): Shared<State>) -> Json<Value> {
    let hour = state.summary.hour(now());
    let mut services = state.source.push_services();
    let providers = hour.providers.iter().filter_map(|(provider, pushes, refusal)| {
        let troubles = services.remove(provider);
        // One that is neither used nor was is no news.
        let is_known = troubles.is_some() || refusal.is_some() || *pushes != Pushes::default();
        is_known.then(|| ProviderView::new(*provider, troubles, pushes, refusal.as_ref()))
    });
    let providers: Vec<_> = providers.collect();
    let metrics = &state.metrics;
    state.source.measure(metrics);
    Json(json!({
        "span_s": Summary::SPAN.as_secs(),
        "calls": {
            "held": hour.calls.held,
            "push_accepted": hour.calls.push_accepted,
            "woken": hour.calls.woken,
            "answered": hour.calls.answered,
        },
        "providers": providers,
        "store": {
            "up": metrics.store_up.get() == 1,
            "journal_entries": metrics.journal_entries.get(),
            "nodes": metrics.nodes.get(),
            "bindings": metrics.bindings.get(),
            "bucket_entries": metrics.bucket_entries.get(),
        },
    }))
}
