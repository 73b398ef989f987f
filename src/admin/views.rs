//! The JSON of what the operator sees. Push tokens appear only as the start of their hash.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Pushed;
use crate::binding::{Binding, DeviceId, Provider, PushTarget, PushToken, Tokens};
use crate::clock::UnixMillis;
use crate::config::Difference;
use crate::guard::Ban;
use crate::push::Outcome;
use crate::store::{BucketEntry, EntryState};
use crate::timeline::{Call, Event, Why};

/// A device's contact.
#[derive(Serialize)]
pub(super) struct BindingView {
    id: String,
    aor: String,
    /// Without the parameters that carry push tokens.
    contact: String,
    provider: Option<&'static str>,
    pn_param: Option<String>,
    tokens: Vec<TokenView>,
    /// Why the push parameters are not used, or why the device is not pushed by them.
    push_refused: Option<String>,
    /// What is wrong with one of its two tokens; it is pushed by the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    push_flaw: Option<String>,
    reachable: bool,
    flow: String,
    registered_at: String,
    expires_at: String,
    /// When the softswitch forgets the device, where that is not `expires_at`.
    upstream_expires_at: Option<String>,
    /// Why it is not refreshed.
    upstream_refused: Option<String>,
    /// Since when the softswitch does not know the device, and so sends it no call of its registrar's.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ended_at: Option<String>,
    /// When it is pushed so that it registers, should it not do so before (`push.refresh`).
    #[serde(skip_serializing_if = "Option::is_none")]
    register_push_at: Option<String>,
    instance: Option<String>,
    label: Option<String>,
    user_agent: Option<String>,
    /// The language of its user, where the owner of its token said it.
    locale: Option<String>,
    /// `register`, or `token_api` for a token that was bound beside any REGISTER.
    source: &'static str,
}

#[derive(Serialize)]
struct TokenView {
    /// `any`, or what an APNs token is for: `voip` or `remote`; of a service that is tried after the first one its name.
    r#for: &'static str,
    sha256: String,
}

impl BindingView {
    pub(super) fn new(binding: &Binding, admitted: Result<(), Why>, reachable: bool) -> Self {
        let (push, upstream) = (binding.push.as_ref(), binding.upstream.as_ref());
        let (push_refused, push_flaw) = match (&binding.push, binding.push_refused.as_deref().map(str::to_owned)) {
            (None, refused) => (refused, None),
            (Some(_), flaw) => (None, flaw),
        };
        Self {
            id: binding.device.to_string(),
            aor: binding.aor.to_string(),
            contact: without_push_parameters(&String::from_utf8_lossy(&binding.contact)),
            provider: push.map(|push| push.provider.name()),
            pn_param: push.map(|push| push.param.as_ref().to_owned()),
            tokens: push.map(tokens).unwrap_or_default(),
            push_flaw,
            push_refused: push_refused.or_else(|| admitted.err().map(|why| why.text().to_owned())),
            reachable,
            flow: if binding.is_token_device() { String::new() } else { binding.flow.to_string() },
            registered_at: binding.registered_at.to_rfc3339(),
            expires_at: binding.expires_at.to_rfc3339(),
            upstream_expires_at: upstream.map(|upstream| upstream.expires_at.to_rfc3339()),
            upstream_refused: upstream.and_then(|upstream| upstream.refused.as_deref()).map(str::to_owned),
            upstream_ended_at: None,
            register_push_at: None,
            instance: binding.instance.as_deref().map(str::to_owned),
            label: binding.label.as_deref().map(str::to_owned),
            user_agent: binding.app.user_agent.as_deref().map(str::to_owned),
            locale: binding.app.locale.as_deref().map(str::to_owned),
            source: if binding.is_token_device() { "token_api" } else { "register" },
        }
    }

    pub(super) fn forgotten(self, binding: &Binding, is_forgotten: bool) -> Self {
        let ended_at = is_forgotten.then(|| binding.known_upstream().1.to_rfc3339());
        Self { upstream_ended_at: ended_at, ..self }
    }

    /// A device that is not pushed is not reminded either.
    pub(super) fn reminded_at(self, at: Option<UnixMillis>) -> Self {
        let at = at.filter(|_| self.push_refused.is_none());
        Self { register_push_at: at.map(UnixMillis::to_rfc3339), ..self }
    }
}

/// A source that is shut out.
#[derive(Serialize)]
pub(super) struct BanView {
    source: String,
    reason: &'static str,
    since: String,
    until: String,
    failures: u32,
}

impl BanView {
    pub(super) fn new(ban: &Ban) -> Self {
        Self {
            source: ban.source.to_string(),
            reason: ban.reason,
            since: ban.since.to_rfc3339(),
            until: ban.until.to_rfc3339(),
            failures: ban.failures,
        }
    }
}

/// Those of the first service, and under its name each of the others.
fn tokens(push: &PushTarget) -> Vec<TokenView> {
    let others = push.others.iter();
    let others = others.map(|other| TokenView { r#for: other.provider.name(), sha256: short_hash(&other.prid) });
    own_tokens(push).into_iter().chain(others).collect()
}

fn own_tokens(push: &PushTarget) -> Vec<TokenView> {
    let view = |r#for, token: &PushToken| TokenView { r#for, sha256: short_hash(token) };
    match &push.tokens {
        Tokens::Single | Tokens::Subscription(_) => vec![view("any", &push.prid)],
        Tokens::Apple { voip, remote, .. } => {
            let voip = voip.iter().map(|token| view("voip", token));
            voip.chain(remote.iter().map(|token| view("remote", token))).collect()
        }
    }
}

/// Eight hexadecimal digits: enough to tell two tokens apart, not enough to use one.
fn short_hash(token: &PushToken) -> String {
    Sha256::digest(token.reveal()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// A Contact URI without `pn-…` parameters (RFC 8599 §14.1) and without anything that could hide one: a parameter
/// whose name is escaped, and URI headers.
fn without_push_parameters(contact: &str) -> String {
    let uri = contact.split('?').next().unwrap_or_default();
    let mut parts = uri.split(';');
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for parameter in parts {
        let name = parameter.split('=').next().unwrap_or_default();
        let is_push = name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("pn-"));
        if !is_push && !name.contains('%') {
            shown.push(';');
            shown.push_str(parameter);
        }
    }
    shown
}

/// A call and what happened to it.
#[derive(Serialize)]
pub(super) struct CallView<'c> {
    call_ref: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aor: Option<&'c str>,
    /// `null` while the call goes on.
    outcome: Option<&'static str>,
    steps: Vec<EventView<'c>>,
    /// Steps from the middle of a long story that are not kept.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u32,
}

#[derive(Serialize)]
struct EventView<'c> {
    at: String,
    step: &'static str,
    device: Option<String>,
    detail: &'c str,
    reason: &'c str,
    /// One of docs/reasons.md.
    code: Option<&'static str>,
    /// What the push service calls the push.
    #[serde(skip_serializing_if = "Option::is_none")]
    push_id: Option<&'c str>,
    /// Where another node saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'c str>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl<'c> CallView<'c> {
    pub(super) fn new(call: &'c Call) -> Self {
        let step = |event: &'c Event| EventView {
            at: event.at.to_rfc3339(),
            step: event.step.name(),
            device: event.device.map(|device| device.to_string()),
            detail: &event.detail,
            reason: event.why.as_ref().map_or("", Why::text),
            code: event.why.as_ref().map(|why| why.reason.code()),
            push_id: event.push_id.as_deref(),
            node: event.node.as_deref(),
        };
        Self {
            call_ref: &call.call_ref,
            aor: call.aor.as_ref().map(|aor| aor.as_str()),
            outcome: call.outcome.map(|outcome| outcome.name()),
            steps: call.events.iter().map(step).collect(),
            left_out: call.left_out,
        }
    }
}

/// A call in a device's push bucket.
#[derive(Serialize)]
pub(super) struct EntryView {
    call_ref: String,
    remote_uri: String,
    date: String,
    /// `live` or `missed`.
    state: &'static str,
    display_name: String,
    device: String,
}

impl EntryView {
    pub(super) fn new(device: DeviceId, entry: &BucketEntry) -> Self {
        Self {
            call_ref: entry.call_ref.as_ref().to_owned(),
            remote_uri: entry.remote_uri.as_ref().to_owned(),
            date: entry.invited_at.to_rfc3339(),
            state: match entry.state {
                EntryState::Live => "live",
                EntryState::Missed => "missed",
            },
            display_name: entry.display_name.as_ref().to_owned(),
            device: device.to_string(),
        }
    }
}

/// A key of the configuration that has another value now.
#[derive(Serialize)]
pub(super) struct DifferenceView<'d> {
    key: &'d str,
    from: Option<&'d str>,
    to: Option<&'d str>,
}

impl<'d> DifferenceView<'d> {
    pub(super) fn new(difference: &'d Difference) -> Self {
        let Difference { key, from, to } = difference;
        Self { key, from: from.as_deref(), to: to.as_deref() }
    }
}

/// A push that the operator asked for.
#[derive(Serialize)]
pub(super) struct PushedView<'p> {
    device: String,
    provider: Option<&'static str>,
    notice: &'static str,
    account: Option<&'p str>,
    token: Option<String>,
    url: Option<&'p str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'p str, &'p str>,
    body: Option<&'p str>,
    /// `not_sent`, or what came of it.
    result: &'static str,
    reason: Option<&'p str>,
    took_ms: Option<u128>,
}

impl<'p> PushedView<'p> {
    pub(super) fn new(pushed: &'p Pushed) -> Self {
        let preview = pushed.preview.as_ref();
        let said = pushed.answer.as_ref().and_then(|(outcome, _)| outcome.reason());
        let headers = preview.map(|preview| &*preview.headers).unwrap_or_default();
        Self {
            device: pushed.device.to_string(),
            provider: pushed.provider.map(Provider::name),
            notice: pushed.notice.name(),
            account: preview.ok().map(|preview| &*preview.account),
            token: preview.ok().map(|preview| preview.token.to_string()),
            url: preview.ok().map(|preview| &*preview.url),
            headers: headers.iter().map(|(name, value)| (&**name, &**value)).collect(),
            body: preview.ok().map(|preview| &*preview.body),
            result: pushed.answer.as_ref().map_or("not_sent", |(outcome, _)| outcome.name()),
            reason: said.or_else(|| preview.err().map(|reason| &**reason)),
            took_ms: pushed.answer.as_ref().map(|(_, took)| took.as_millis()),
        }
    }
}

/// What came of a text to one device.
#[derive(Serialize)]
pub(super) struct ToldView<'p> {
    id: String,
    provider: Option<&'static str>,
    /// Of its token.
    pub(super) sha256: Option<String>,
    /// `accepted` or `refused`.
    result: &'static str,
    pub(super) reason: Option<&'p str>,
}

impl<'p> ToldView<'p> {
    pub(super) fn new(pushed: &'p Pushed) -> Self {
        let preview = pushed.preview.as_ref();
        let outcome = pushed.answer.as_ref().map(|(outcome, _)| outcome);
        let is_accepted = outcome == Some(&Outcome::Accepted);
        let said = outcome.filter(|_| !is_accepted).map(|outcome| outcome.reason().unwrap_or_else(|| outcome.name()));
        Self {
            id: pushed.device.to_string(),
            provider: pushed.provider.map(Provider::name),
            sha256: preview.ok().map(|preview| preview.token.to_string()),
            result: if is_accepted { "accepted" } else { "refused" },
            reason: said.or_else(|| preview.err().map(|reason| &**reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_lose_their_push_parameters() {
        for (contact, expected) in [
            ("sip:alice@192.0.2.1:5060;transport=tcp", "sip:alice@192.0.2.1:5060;transport=tcp"),
            ("sip:a@h;pn-provider=fcm;pn-prid=SECRET;ob;pn-param=x", "sip:a@h;ob"),
            ("sip:a@h;PN-TOK=SECRET", "sip:a@h"),
            ("sip:a@h;%70n-prid=SECRET", "sip:a@h"),
            ("sip:a@h;ob?x=;pn-prid=SECRET", "sip:a@h;ob"),
            ("sip:a;pn-prid=SECRET@h;ob", "sip:a;ob"),
        ] {
            assert_eq!(without_push_parameters(contact), expected);
        }
    }
}
