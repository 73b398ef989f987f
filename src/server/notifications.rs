//! Tokens that apps bind, and texts that back ends send, by the admin listener.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{Mutex, MutexGuard, watch};

use super::operator::{admits, push_one};
use super::words::{Titles, shortened};
use crate::admin::{Answering, Notifications, Pushed, Refusal, TextWish, Ticket, TokenWish};
use crate::binding::{Aor, Binding, DeviceId, Provider, PushTarget, PushToken, Tokens};
use crate::clock::UnixMillis;
use crate::config::{Config, Page};
use crate::driver::{self, Guidance, Shared};
use crate::proxy::Policy;
use crate::proxy::bars::Finding;
use crate::proxy::secret::Keys;
use crate::push::{self, Notice, NoticeKind, Outcome, Pushers};
use crate::sip::Uri;
use crate::sip::push_param::PushParams;
use crate::store::{Applied, Change, Message, MessageId, StoreError};
use crate::web;

/// What is left of a title and a text, in characters: phones show less, and the largest still fits into any push.
const TITLE_CHARS_MAX: usize = 100;
const TEXT_CHARS_MAX: usize = 200;
/// What chat systems call a user.
const RECIPIENT: &str = "recipient_id";
/// Longest name of an AOR that is bound.
const AOR_BYTES_MAX: usize = 512;
/// Locks for tokens: those of two tokens are mostly two.
const LOCKS: usize = 64;

/// The running server as apps and back ends see it.
pub(super) struct Tellers {
    shared: Arc<Shared>,
    guided: watch::Receiver<Guidance>,
    keys: Keys,
    web_keys: Arc<web::Keys>,
    /// That tickets are for.
    page: Option<Page>,
    titles: Titles,
    tokens_per_aor_max: usize,
    /// A token that is bound for two AORs at one moment is in one of them afterwards.
    locks: [Mutex<()>; LOCKS],
}

impl Tellers {
    pub(super) fn new(
        shared: Arc<Shared>,
        guided: watch::Receiver<Guidance>,
        config: &Config,
        secret: &[u8; 32],
        web_keys: Arc<web::Keys>,
    ) -> Self {
        Self {
            shared,
            guided,
            keys: Keys::new(secret),
            web_keys,
            page: config.push.webpush.as_ref().and_then(|webpush| webpush.page.clone()),
            titles: Titles::new(&config.notification.titles, &config.push.alert_language),
            tokens_per_aor_max: config.notification.tokens_per_aor_max,
            locks: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.guided.borrow().policy)
    }

    fn bound(&self, device: DeviceId) -> Option<Arc<Binding>> {
        self.shared.store.table().by_device(device).filter(|binding| binding.is_token_device())
    }

    /// The names that a token's device may have: hexadecimal tokens are one token in either case.
    fn names(&self, token: &str) -> [DeviceId; 2] {
        [token.to_owned(), token.to_ascii_lowercase()].map(|token| self.keys.token_device(&PushToken::new(token)))
    }

    /// The device of that name, if it has the token.
    fn bound_with(&self, device: DeviceId, token: &str) -> Option<Arc<Binding>> {
        let is_it = |target: &PushTarget| {
            let prid = target.prid.reveal();
            prid == token || is_apple(target.provider) && prid.eq_ignore_ascii_case(token)
        };
        self.bound(device).filter(|binding| binding.push.as_ref().is_some_and(is_it))
    }

    /// What is done about one token is done one after the other.
    async fn turn(&self, device: DeviceId) -> Option<MutexGuard<'_, ()>> {
        let [first, ..] = device.0;
        match self.locks.get(usize::from(first) % LOCKS) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        }
    }

    /// Memory may lack what a large store has, for a while after a start.
    async fn know_device(&self, device: DeviceId) -> Result<(), Refusal> {
        if self.shared.store.knows_device(device).await { Ok(()) } else { Err(not_read()) }
    }

    async fn know_aor(&self, aor: &Aor) -> Result<(), Refusal> {
        if self.shared.store.knows(aor).await { Ok(()) } else { Err(not_read()) }
    }

    async fn bind_token(&self, wish: TokenWish) -> Result<DeviceId, Refusal> {
        let policy = self.policy();
        let aor = recipient(&policy, &wish.recipient, RECIPIENT)?;
        let (target, token) = target(&wish)?;
        policy.push.supports(&target, NoticeKind::Invite).map_err(|reason| Refusal::Conflict(reason.into()))?;
        let device = self.keys.token_device(&token);
        let _turn = self.turn(device).await;
        self.know_device(device).await?;
        self.know_aor(&aor).await?;
        if let Some(before) = self.bound(device).filter(|before| before.aor != aor) {
            self.change(Change::Remove { aor: before.aor.clone(), device }).await?;
        }
        let binding = Binding::of_token(aor.clone(), device, target, wish.locale, driver::now().unix);
        let change = Change::BindToken { binding: Box::new(binding), most: self.tokens_per_aor_max };
        match self.change(change).await? {
            Applied::Bound(Some(device)) => Ok(device),
            Applied::Bound(None) | Applied::Done | Applied::Claimed(_) | Applied::Ended(_) | Applied::PickedUp(_) => {
                let most = self.tokens_per_aor_max;
                let text =
                    format!("{aor} has {most} tokens already (notification.tokens_per_aor_max); delete one first");
                Err(Refusal::Conflict(text))
            }
        }
    }

    async fn unbind_token(&self, token: &str) -> Result<bool, Refusal> {
        let mut is_removed = false;
        for device in self.names(token) {
            let _turn = self.turn(device).await;
            self.know_device(device).await?;
            if let Some(bound) = self.bound_with(device, token) {
                let applied = self.change(Change::Remove { aor: bound.aor.clone(), device }).await?;
                is_removed |= applied == Applied::Ended(true);
            }
        }
        Ok(is_removed)
    }

    async fn send_text(&self, wish: TextWish) -> Result<Vec<Pushed>, Refusal> {
        let body = shortened(&wish.text, TEXT_CHARS_MAX);
        if body.is_empty() {
            return Err(Refusal::Bad(
                "\"message\" (or \"text\") is empty: write what the user is to be told".to_owned(),
            ));
        }
        let devices = self.devices_for(&wish).await?;
        let pushers = self.guided.borrow().pushers.clone();
        let sending = devices.iter().map(|binding| {
            let language = binding.app.locale.as_deref();
            let title = wish.title.as_deref().map(|title| shortened(title, TITLE_CHARS_MAX));
            let title = title.filter(|title| !title.is_empty()).unwrap_or_else(|| self.titles.of(language).into());
            let notice = Notice::Text { title, body: body.clone() };
            self.tell_one(&pushers, binding, notice)
        });
        Ok(join_all(sending).await)
    }

    async fn tell_one(&self, pushers: &Pushers, binding: &Binding, notice: Notice) -> Pushed {
        let sent_at = driver::now().unix;
        let admitted = admits(&self.policy(), &self.shared, binding);
        let count = |reply: &push::Reply| {
            for (provider, outcome, took) in reply.attempts() {
                let (kind, result) = (driver::push_kind(reply.notice), driver::push_result(outcome));
                self.shared.metrics.push(provider, kind, result, took);
            }
        };
        let pushed = push_one(pushers, binding, admitted, notice.clone(), sent_at, false, count).await;
        self.learn_from(binding, &pushed, sent_at).await;
        self.keep_for_browser(binding, notice, &pushed, sent_at).await;
        pushed
    }

    /// A text that a browser is woken for waits here until it is fetched: see [`Change::Message`].
    async fn keep_for_browser(&self, binding: &Binding, notice: Notice, pushed: &Pushed, sent_at: UnixMillis) {
        let is_accepted = matches!(pushed.answer, Some((Outcome::Accepted, _)));
        let Notice::Text { title, body } = notice else { return };
        if !is_accepted || pushed.provider != Some(Provider::WebPush) {
            return;
        }
        let message = Message { id: MessageId::of(&title, &body, sent_at), title, body, sent_at };
        let (aor, device) = (binding.aor.clone(), binding.device);
        if let Err(error) = self.change(Change::Message { aor, device, message }).await {
            tracing::warn!(%device, ?error, "a text cannot be fetched; its push was accepted");
        }
    }

    fn make_ticket(&self, text: &str) -> Result<Ticket, Refusal> {
        let aor = recipient(&self.policy(), text, "aor")?;
        let Some(page) = &self.page else {
            let text = "there is no page that tickets are for: set push.webpush.listen, and push.webpush.enabled";
            return Err(Refusal::Conflict(text.to_owned()));
        };
        let expires_at = driver::now().unix.after(page.ticket_life);
        let ticket = self.web_keys.ticket(&aor, expires_at);
        let ticket = ticket.ok_or_else(|| Refusal::Bad("\"aor\" is too long".to_owned()))?;
        Ok(Ticket { ticket, expires_in: page.ticket_life })
    }

    /// Devices of the recipient; or, where tokens are named, those that have them.
    async fn devices_for(&self, wish: &TextWish) -> Result<Vec<Arc<Binding>>, Refusal> {
        let policy = self.policy();
        let recipient = wish.recipient.as_deref().map(|text| recipient(&policy, text, RECIPIENT)).transpose();
        let aor = match recipient {
            Ok(aor) => aor,
            // The tokens say who is meant.
            Err(_) if !wish.tokens.is_empty() => None,
            Err(refusal) => return Err(refusal),
        };
        let mut devices = Vec::new();
        if let Some(aor) = &aor {
            self.know_aor(aor).await?;
            devices.extend(self.shared.store.table().lookup(aor));
        }
        if wish.tokens.is_empty() {
            return match aor {
                Some(_) => Ok(devices),
                None => Err(Refusal::Bad("\"recipient_id\" is needed: the user, as in alice@example.org".to_owned())),
            };
        }
        let tokens: Vec<_> = wish.tokens.iter().map(|token| PushToken::new(&**token)).collect();
        let has_one = |binding: &Arc<Binding>| {
            let push = binding.push.as_ref();
            push.is_some_and(|push| tokens.iter().any(|token| push.prid == *token || push.has_token(token)))
        };
        devices.retain(has_one);
        for (token, device) in wish.tokens.iter().flat_map(|token| self.names(token).map(|device| (token, device))) {
            self.know_device(device).await?;
            let is_known = devices.iter().any(|binding| binding.device == device);
            devices.extend(self.bound_with(device, token).filter(|_| !is_known));
        }
        Ok(devices)
    }

    /// What the provider says of a token counts here as it does for a call.
    async fn learn_from(&self, binding: &Binding, pushed: &Pushed, sent_at: UnixMillis) {
        let (Some((outcome, _)), Some(target)) = (&pushed.answer, &binding.push) else { return };
        if let Some(finding) = Finding::of(binding, NoticeKind::Text, outcome, sent_at) {
            self.shared.bars.write().learn(finding);
        }
        if let Outcome::TokenDead { since, .. } = outcome {
            let token = NoticeKind::Text.token(target).clone();
            let (aor, device, dead_since) = (binding.aor.clone(), binding.device, *since);
            let change = Change::TokenDead { aor, device, token, sent_at, dead_since };
            if let Err(error) = self.change(change).await {
                tracing::debug!(%device, ?error, "a dead token stays until the next push to it");
            }
        }
    }

    async fn change(&self, change: Change) -> Result<Applied, Refusal> {
        self.shared.change(change).await.map_err(|error: StoreError| Refusal::Busy(error.to_string()))
    }
}

impl Notifications for Tellers {
    fn bind(&self, wish: TokenWish) -> Answering<'_, DeviceId> {
        Box::pin(self.bind_token(wish))
    }

    fn unbind(&self, token: Box<str>) -> Answering<'_, bool> {
        Box::pin(async move { self.unbind_token(&token).await })
    }

    fn ticket(&self, aor: &str) -> Result<Ticket, Refusal> {
        self.make_ticket(aor)
    }

    fn tell(&self, wish: TextWish) -> Answering<'_, Vec<Pushed>> {
        Box::pin(self.send_text(wish))
    }
}

fn not_read() -> Refusal {
    Refusal::Busy("the store is being read; try again in a moment".to_owned())
}

/// `alice@example.org`, `sip:alice@example.org`, or `alice` where one domain alone is served.
fn recipient(policy: &Policy, text: &str, key: &str) -> Result<Aor, Refusal> {
    let bad = |what: &str| Err(Refusal::Bad(format!("{key:?} {what}; write a user as in alice@example.org")));
    let bare = text.strip_prefix("sip:").unwrap_or(text);
    let named = match (bare.contains('@'), &*policy.domains) {
        (true, _) => format!("sip:{bare}"),
        (false, [domain]) => format!("sip:{bare}@{domain}"),
        (false, _) => return bad("names no domain, and register.domains is not a single one"),
    };
    let Ok(uri) = Uri::parse(named.as_bytes()) else { return bad("is not an address of record") };
    let Some(aor) = policy.aor(&uri).filter(|aor| aor.as_str().len() <= AOR_BYTES_MAX) else {
        return bad("is not an address of record");
    };
    if policy.serves(uri.host) { Ok(aor) } else { bad("is of a domain that is not served (register.domains)") }
}

/// What wakes the device, by the same rules as at REGISTER, and the token that names it.
fn target(wish: &TokenWish) -> Result<(PushTarget, PushToken), Refusal> {
    let provider = provider(wish)?;
    let mut target = match PushParams::target(provider, &wish.token, &wish.param) {
        PushParams::Target(target) | PushParams::Half { target, .. } => target,
        PushParams::Refused { reason, .. } => return Err(Refusal::Bad(in_own_words(&reason))),
        PushParams::Absent | PushParams::Query(_) => return Err(Refusal::Bad("there is no token".to_owned())),
    };
    if let Some(keys) = &wish.keys {
        if provider != Provider::WebPush {
            return Err(Refusal::Bad("\"keys\" are for \"recipient_type\": \"webpush\" only".to_owned()));
        }
        target.tokens = Tokens::Subscription(keys.clone());
    }
    let prid = target.prid.reveal();
    let token = if is_apple(provider) { PushToken::new(prid.to_ascii_lowercase()) } else { target.prid.clone() };
    Ok((target, token))
}

/// The push service of a token. Chat systems have names of their own for some.
fn provider(wish: &TokenWish) -> Result<Provider, Refusal> {
    let Some(name) = wish.token_type.as_deref() else {
        // Systems without a notion of push services put the kind of their user here.
        return Ok(Provider::parse(wish.kind.as_bytes()).unwrap_or(Provider::Fcm));
    };
    Provider::parse(name.as_bytes()).ok_or_else(|| {
        Refusal::Bad("\"token_type\" is no push service; write \"FCM\", \"HUAWEI\", or a pn-provider".to_owned())
    })
}

fn is_apple(provider: Provider) -> bool {
    matches!(provider, Provider::Apns | Provider::ApnsDev)
}

/// A reason that speaks of a Contact's parameters, for somebody who has sent a JSON.
fn in_own_words(reason: &str) -> String {
    reason.replace("pn-prid", "\"token\"").replace("pn-param", "\"param\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(kind: &str, token: &str, param: &str) -> TokenWish {
        TokenWish {
            recipient: "alice".into(),
            token: token.into(),
            token_type: None,
            kind: kind.into(),
            param: param.into(),
            locale: None,
            keys: None,
        }
    }

    #[test]
    fn a_type_that_names_no_provider_is_fcm() {
        for (kind, provider) in [
            ("", Provider::Fcm),
            ("USEDESK_CHAT", Provider::Fcm),
            ("webpush", Provider::WebPush),
            ("Callback", Provider::Callback),
            ("RuStore", Provider::RuStore),
            ("HUAWEI", Provider::Hms),
        ] {
            assert_eq!(target(&wish(kind, "token", "")).unwrap().0.provider, provider, "{kind}");
        }
    }

    #[test]
    fn a_token_type_goes_before_the_kind() {
        let typed = |token_type: &str, kind| {
            let wish = TokenWish { token_type: Some(token_type.into()), ..wish(kind, "00ff", "") };
            target(&wish).map(|(target, _)| target.provider)
        };
        for (token_type, kind, provider) in [
            ("FCM", "USEDESK_CHAT", Provider::Fcm),
            ("fcm", "webpush", Provider::Fcm),
            ("apns", "USEDESK_CHAT", Provider::Apns),
            ("HUAWEI", "USEDESK_CHAT", Provider::Hms),
        ] {
            assert_eq!(typed(token_type, kind), Ok(provider), "{token_type}");
        }
        assert!(matches!(typed("USEDESK_CHAT", ""), Err(Refusal::Bad(_))));
    }

    #[test]
    fn an_apns_token_is_one_in_either_case() {
        let (upper, name) = target(&wish("apns", "00FFAB", "TEAM.org.example.app")).unwrap();
        let (lower, same) = target(&wish("apns", "00ffab", "TEAM.org.example.app")).unwrap();
        assert!(upper.shares_token(&lower));
        assert_eq!(name, same);
        let Err(Refusal::Bad(reason)) = target(&wish("apns", "no token", "")) else { panic!("it is refused") };
        assert_eq!(reason, "the push token is not a hexadecimal device token");
        let Err(Refusal::Bad(reason)) = target(&wish("fcm", "", "")) else { panic!("it is refused") };
        assert_eq!(reason, "\"token\" is empty");
    }
}
