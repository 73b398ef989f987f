//! Bindings: one device's contact of an AOR, where it is reachable and how it is woken (RFC 3261 §10, RFC 8599).

use std::borrow::Borrow;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::clock::UnixMillis;
use crate::sip::flow::{ConnectionId, Flow, Transport};

/// An address of record, `user@domain`: the user unescaped, the domain in lower case (RFC 3261 §10.3 step 5).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Aor(Arc<str>);

impl Aor {
    pub fn new(user: &str, domain: &str) -> Self {
        Self(format!("{user}@{}", domain.to_ascii_lowercase()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the domain.
    pub fn user(&self) -> &str {
        self.0.rsplit_once('@').map_or(&*self.0, |(user, _)| user)
    }

    /// The part behind the user, in lower case.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl Borrow<str> for Aor {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aor({})", self.0)
    }
}

/// The name of a device of an AOR: opaque, unguessable, and the same for as long as the device is the same
/// (its `+sip.instance`, else its `label`, else its push token). Upstream it is the user part of the alias Contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceId(pub [u8; 10]);

impl DeviceId {
    const ALPHABET: &'static [u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    /// Characters of the printed form.
    pub const LENGTH: usize = 16;

    /// Reads the printed form; `None` for anything that we did not print.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != Self::LENGTH {
            return None;
        }
        let mut bits = 0u128;
        for byte in text {
            let digit = Self::ALPHABET.iter().position(|letter| letter == byte)?;
            bits = bits << 5 | digit as u128;
        }
        let mut id = [0; 10];
        id.copy_from_slice(bits.to_be_bytes().get(6..)?);
        Some(Self(id))
    }

    /// A device's own place within a span of time, so that what is due for many together does not happen together.
    pub fn place_in(self, span_ms: u64) -> u64 {
        let [.., high, low] = self.0;
        span_ms.saturating_mul(u16::from_be_bytes([high, low]).into()) / 0x1_0000
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = [0; 16];
        if let Some(low) = bits.get_mut(6..) {
            low.copy_from_slice(&self.0);
        }
        let bits = u128::from_be_bytes(bits);
        for place in (0..Self::LENGTH).rev() {
            let digit = (bits >> (5 * place)) as usize & 31;
            f.write_str(
                Self::ALPHABET
                    .get(digit)
                    .map_or("", |letter| std::str::from_utf8(std::slice::from_ref(letter)).unwrap_or_default()),
            )?;
        }
        Ok(())
    }
}

/// A push token (RFC 8599 calls it PRID). Whoever has it can wake the phone, so it never prints itself.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PushToken(Box<str>);

impl PushToken {
    pub fn new(token: impl Into<Box<str>>) -> Self {
        Self(token.into())
    }

    /// The token itself, for the provider's request only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PushToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PushToken(…)")
    }
}

/// The push services, by their `pn-provider` names (RFC 8599 §14.5 and field practice).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Provider {
    Fcm,
    Apns,
    /// APNs' sandbox, for apps in development.
    ApnsDev,
    WebPush,
    Callback,
    /// Phones with VK's store, which need nothing of Google's.
    RuStore,
    /// Huawei's phones with Android.
    Hms,
    /// Huawei's phones without Android.
    Harmony,
}

impl Provider {
    pub const ALL: [Self; 8] =
        [Self::Fcm, Self::Apns, Self::ApnsDev, Self::WebPush, Self::Callback, Self::RuStore, Self::Hms, Self::Harmony];

    /// As in `pn-provider` and `+sip.pns`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fcm => "fcm",
            Self::Apns => "apns",
            Self::ApnsDev => "apns.dev",
            Self::WebPush => "webpush",
            Self::Callback => "callback",
            Self::RuStore => "rustore",
            Self::Hms => "hms",
            Self::Harmony => "harmony",
        }
    }

    /// Also `huawei`, as apps call HMS.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let named = Self::ALL.into_iter().find(|provider| name.eq_ignore_ascii_case(provider.name().as_bytes()));
        named.or_else(|| name.eq_ignore_ascii_case(b"huawei").then_some(Self::Hms))
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What wakes one device: `pn-provider`, `pn-prid` and `pn-param` of its Contact, unescaped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "TargetRow")]
pub struct PushTarget {
    pub provider: Provider,
    /// `pn-prid` as it came.
    pub prid: PushToken,
    /// `pn-param` (ECSS: `pn-params`) as it came; empty when there was none.
    pub param: Box<str>,
    pub tokens: Tokens,
    /// By what the device is woken when the token is dead or its service fails, best first; these have none themselves.
    pub others: Box<[Self]>,
}

/// How a [`PushTarget`] is read.
#[derive(Deserialize)]
struct TargetRow {
    provider: Provider,
    prid: PushToken,
    param: Box<str>,
    tokens: TokensRow,
}

/// The first forms are those of [`Tokens`], as rows had them before there were others: such rows are read, and still
/// written, in every version.
#[derive(Deserialize)]
enum TokensRow {
    Single,
    Apple { team: Box<str>, bundle: Box<str>, voip: Option<PushToken>, remote: Option<PushToken> },
    Subscription(SubscriptionKeys),
    Ranked { tokens: Tokens, others: Box<[PushTarget]> },
}

impl From<TargetRow> for PushTarget {
    fn from(TargetRow { provider, prid, param, tokens }: TargetRow) -> Self {
        let (tokens, others) = match tokens {
            TokensRow::Single => (Tokens::Single, Box::default()),
            TokensRow::Apple { team, bundle, voip, remote } => {
                (Tokens::Apple { team, bundle, voip, remote }, Box::default())
            }
            TokensRow::Subscription(keys) => (Tokens::Subscription(keys), Box::default()),
            TokensRow::Ranked { tokens, others } => (tokens, others),
        };
        Self { provider, prid, param, tokens, others }
    }
}

/// How it is written: in the form that it is read in.
#[derive(Serialize)]
enum RankedRow<'a> {
    #[expect(dead_code, reason = "the places of the forms that `Tokens` writes itself")]
    Single,
    #[expect(dead_code, reason = "as above")]
    Apple,
    #[expect(dead_code, reason = "as above")]
    Subscription,
    Ranked {
        tokens: &'a Tokens,
        others: &'a [PushTarget],
    },
}

impl Serialize for PushTarget {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut row = to.serialize_struct("PushTarget", 4)?;
        row.serialize_field("provider", &self.provider)?;
        row.serialize_field("prid", &self.prid)?;
        row.serialize_field("param", &self.param)?;
        match &*self.others {
            [] => row.serialize_field("tokens", &self.tokens)?,
            others => row.serialize_field("tokens", &RankedRow::Ranked { tokens: &self.tokens, others })?,
        }
        row.end()
    }
}

impl PushTarget {
    /// This one and the others, in the order in which they are tried.
    pub fn ranked(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&*self.others)
    }

    /// The same services with one of them in front, if it is there.
    pub fn beginning_with(self, is_first: impl Fn(&Self) -> bool) -> Self {
        let Some(place) = self.others.iter().position(is_first) else { return self };
        let mut rest = self.others.into_vec();
        let mut first = rest.remove(place);
        rest.insert(0, Self { others: Box::default(), ..self });
        first.others = rest.into();
        first
    }

    /// Takes over the keys of those subscriptions of `known` that it has itself. `anew`: also in the place of others.
    pub fn learn_keys(&mut self, known: &Self, anew: bool) {
        let learn = |own: &mut Self| {
            let keyed = known.ranked().find(|known| known.keys().is_some() && own.is_same_param(known));
            if let Some(keyed) = keyed.filter(|_| anew || own.tokens == Tokens::Single) {
                own.tokens.clone_from(&keyed.tokens);
            }
        };
        learn(self);
        self.others.iter_mut().for_each(learn);
    }

    /// Takes that of Apple's two tokens which is missing from those that `known` has of the same app.
    fn fill_from(&mut self, known: &Self) {
        let fill = |own: &mut Self| {
            let same = known.ranked().filter(|known| known.provider == own.provider);
            same.for_each(|known| own.tokens.fill_from(&known.tokens));
        };
        fill(self);
        self.others.iter_mut().for_each(fill);
    }

    /// What a body for a browser is encrypted with; `None`: it is woken without one.
    pub fn keys(&self) -> Option<&SubscriptionKeys> {
        match &self.tokens {
            Tokens::Subscription(keys) => Some(keys),
            Tokens::Single | Tokens::Apple { .. } => None,
        }
    }

    /// Whether both come of the same `pn-*`, whatever else is known of the token.
    pub fn is_same_param(&self, other: &Self) -> bool {
        (self.provider, &self.prid, &self.param) == (other.provider, &other.prid, &other.param)
    }

    /// Whether a token of the other is one of these: a push to either reaches the same app on the same device.
    pub fn shares_token(&self, other: &Self) -> bool {
        let is_same = |own: &Self, other: &Self| {
            own.provider == other.provider && own.each().any(|token| other.each().any(|also| token == also))
        };
        self.ranked().any(|own| other.ranked().any(|other| is_same(own, other)))
    }

    /// Whether a push to this token would reach the app.
    pub fn has_token(&self, token: &PushToken) -> bool {
        self.ranked().flat_map(Self::each).any(|own| own == token)
    }

    /// All that a push can go to, but for the others.
    pub fn each(&self) -> impl Iterator<Item = &PushToken> {
        let (first, second) = match &self.tokens {
            Tokens::Single | Tokens::Subscription(_) => (Some(&self.prid), None),
            Tokens::Apple { voip, remote, .. } => (voip.as_ref(), remote.as_ref()),
        };
        first.into_iter().chain(second)
    }
}

/// The tokens in a `pn-prid`, told apart by what each may be used for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tokens {
    /// One token for everything: all services but Apple's. The PRID itself.
    Single,
    /// `pn-param=TEAM.bundle.voip&remote`, `pn-prid=T1:voip&T2:remote`, or only one of the two.
    Apple {
        /// Empty when pn-param does not name it.
        team: Box<str>,
        /// Empty when pn-param does not name it.
        bundle: Box<str>,
        voip: Option<PushToken>,
        remote: Option<PushToken>,
    },
    /// Web Push: the PRID, and the keys of the browser's subscription, which no REGISTER can carry.
    Subscription(SubscriptionKeys),
}

impl Tokens {
    /// Takes that of Apple's two tokens which is missing from those that the same app had before.
    fn fill_from(&mut self, earlier: &Self) {
        let (
            Self::Apple { team, bundle, voip, remote },
            Self::Apple { team: known_team, bundle: known_bundle, voip: known_voip, remote: known_remote },
        ) = (self, earlier)
        else {
            return;
        };
        if (&*team, &*bundle) == (known_team, known_bundle) {
            *voip = voip.take().or_else(|| known_voip.clone());
            *remote = remote.take().or_else(|| known_remote.clone());
        }
    }
}

/// The keys of a browser's subscription (RFC 8291 §3.1, §3.2). Whoever has them can write to the browser, so they never
/// print themselves.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SubscriptionKeys {
    /// A point on P-256, uncompressed.
    #[serde(with = "point")]
    pub p256dh: [u8; 65],
    /// The shared authentication secret.
    pub auth: [u8; 16],
}

impl fmt::Debug for SubscriptionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubscriptionKeys(…)")
    }
}

/// A point's 65 octets, which serde takes in parts only.
mod point {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(point: &[u8; 65], to: S) -> Result<S::Ok, S::Error> {
        let mut parts = [[0; 13]; 5];
        parts.as_flattened_mut().copy_from_slice(point);
        parts.serialize(to)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<[u8; 65], D::Error> {
        let parts = <[[u8; 13]; 5]>::deserialize(from)?;
        let mut point = [0; 65];
        point.copy_from_slice(parts.as_flattened());
        Ok(point)
    }
}

/// Where the other nodes of a store send what is for a flow of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Home {
    pub transport: Transport,
    pub address: SocketAddr,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.uri_name(), self.address)
    }
}

/// What the softswitch granted for a device that this proxy refreshes in its sleep (`register.upstream_refresh`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// When it was granted.
    pub registered_at: UnixMillis,
    /// When the softswitch forgets the device.
    pub expires_at: UnixMillis,
    /// Why it is not refreshed any more.
    pub refused: Option<Box<str>>,
}

/// What is known of the program on the device, and of whom it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AppRow", into = "AppRow")]
pub struct App {
    pub user_agent: Option<Box<str>>,
    /// The language of its user (BCP 47), as the owner of the push token said.
    pub locale: Option<Box<str>>,
}

/// How an [`App`] is written. Its first two forms are those of a lone user agent, as rows had it before there were
/// locales: such rows are read, and still written, in every version.
#[derive(Serialize, Deserialize)]
enum AppRow {
    Unknown,
    Agent(Box<str>),
    Local { user_agent: Option<Box<str>>, locale: Box<str> },
}

impl From<App> for AppRow {
    fn from(App { user_agent, locale }: App) -> Self {
        match (user_agent, locale) {
            (user_agent, Some(locale)) => Self::Local { user_agent, locale },
            (Some(user_agent), None) => Self::Agent(user_agent),
            (None, None) => Self::Unknown,
        }
    }
}

impl From<AppRow> for App {
    fn from(row: AppRow) -> Self {
        match row {
            AppRow::Unknown => Self::default(),
            AppRow::Agent(user_agent) => Self { user_agent: Some(user_agent), locale: None },
            AppRow::Local { user_agent, locale } => Self { user_agent, locale: Some(locale) },
        }
    }
}

/// One device's contact of an AOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub aor: Aor,
    pub device: DeviceId,
    /// `+sip.instance` and `reg-id` (RFC 5626 §4.2).
    pub instance: Option<Box<str>>,
    pub reg_id: Option<u32>,
    /// ECSS's name of the device.
    pub label: Option<Box<str>>,
    /// The Contact URI byte for byte, without angle brackets.
    pub contact: Box<[u8]>,
    /// The Contact's header parameters without `expires`, each with its `;`, to be shown again in a 2xx.
    pub contact_params: Box<[u8]>,
    /// Path values of the REGISTER between the device and us, to be preloaded as Route (RFC 3327 §5.2).
    pub path: Box<[u8]>,
    /// Where the last accepted REGISTER came from.
    pub flow: Flow,
    /// The node that has the flow; `None` where a store has one node only.
    pub home: Option<Home>,
    pub call_id: Box<str>,
    pub cseq: u32,
    pub registered_at: UnixMillis,
    /// End of reachability by the granted Expires. A binding with a push target outlives it.
    pub expires_at: UnixMillis,
    pub push: Option<PushTarget>,
    /// Why push parameters of this contact are not used, for the operator; beside a push target, what is wrong with one of
    /// its two tokens.
    pub push_refused: Option<Box<str>>,
    pub app: App,
    /// `None`: the softswitch has granted what the device itself asked for last, until `expires_at`.
    pub upstream: Option<Upstream>,
}

impl Binding {
    /// A token that its owner has bound to an AOR beside any REGISTER: a device without a contact, which is never
    /// reachable and gets no request. Phones of the AOR that register without a token come for it.
    pub fn of_token(aor: Aor, device: DeviceId, target: PushTarget, locale: Option<Box<str>>, now: UnixMillis) -> Self {
        Self {
            aor,
            device,
            instance: None,
            reg_id: None,
            label: None,
            contact: [].into(),
            contact_params: [].into(),
            path: [].into(),
            flow: Flow {
                transport: Transport::Udp,
                listener: 0,
                connection: ConnectionId::NONE,
                remote: (Ipv4Addr::UNSPECIFIED, 0).into(),
            },
            home: None,
            call_id: "".into(),
            cseq: 0,
            registered_at: now,
            expires_at: UnixMillis(0),
            push: Some(target),
            push_refused: None,
            app: App { user_agent: None, locale },
            upstream: None,
        }
    }

    /// Whether it is one of those ([`Binding::of_token`]).
    pub fn is_token_device(&self) -> bool {
        self.contact.is_empty() && self.push.is_some()
    }

    /// Whether a push to one reaches the app of the other.
    pub fn shares_token(&self, other: &Self) -> bool {
        self.push.as_ref().zip(other.push.as_ref()).is_some_and(|(own, other)| own.shares_token(other))
    }

    /// Whether a REGISTER of this device says that the phone of a token device is back: the phone itself has no token to
    /// say, or the same one.
    pub fn comes_for(&self, token_device: &Self) -> bool {
        let is_it = !self.is_token_device() && token_device.is_token_device() && self.aor == token_device.aor;
        is_it && (self.push.is_none() || self.shares_token(token_device))
    }

    /// Keeps what a REGISTER cannot say, or says badly, and an earlier binding of the device, or of its token, knew: the
    /// language, the keys of a subscription, and one of Apple's two tokens.
    pub fn learn_from(&mut self, earlier: &Self) {
        if self.app.locale.is_none() {
            self.app.locale.clone_from(&earlier.app.locale);
        }
        if let (Some(own), Some(earlier)) = (&mut self.push, &earlier.push) {
            own.learn_keys(earlier, false);
        }
        if let (Some(own), Some(earlier), Some(_)) = (&mut self.push, &earlier.push, &self.push_refused) {
            own.fill_from(earlier);
        }
    }

    /// Whether this binding may still be called by a flow that `last` has registered by after it: lines of one phone, or
    /// accounts of one app, have the same instance or the same token. A device without push parameters could not be
    /// reached otherwise; one that has some is asleep when its NAT has given the port to another phone.
    pub fn shares_flow_with(&self, last: &Self) -> bool {
        if self.push.is_none() || self.shares_token(last) {
            return true;
        }
        match (&self.instance, &last.instance) {
            (Some(own), Some(other)) => own == other,
            (None, _) | (_, None) => last.push.is_none(),
        }
    }

    /// Whether the device may still be expected on its flow.
    pub fn is_reachable(&self, now: UnixMillis) -> bool {
        now < self.expires_at
    }

    /// Whether the device has a name that a new token does not change.
    pub fn has_own_name(&self) -> bool {
        self.instance.is_some() || self.label.is_some()
    }

    /// Whether both come of the same REGISTER, whatever has been noted since.
    pub fn is_same_registration(&self, other: &Self) -> bool {
        (self.registered_at, self.cseq, &self.call_id) == (other.registered_at, other.cseq, &other.call_id)
    }

    /// Since when the softswitch knows the device, and until when.
    pub fn known_upstream(&self) -> (UnixMillis, UnixMillis) {
        match &self.upstream {
            Some(upstream) => (upstream.registered_at, upstream.expires_at),
            None => (self.registered_at, self.expires_at),
        }
    }

    /// Whether the softswitch, which has granted it a time, does not know the device any more.
    pub fn is_forgotten_upstream(&self, now: UnixMillis) -> bool {
        !self.is_token_device() && self.known_upstream().1 <= now
    }

    /// When the softswitch is to hear of the device again, lest it forget it: between 80 and 90 % of the time it
    /// granted, so that a device that is awake comes first; where in between is the device's own, so that those that
    /// registered together are not refreshed together. `None`: never, because nothing could wake it, because the
    /// softswitch has never heard of it, or does not want it.
    pub fn refresh_due(&self) -> Option<UnixMillis> {
        let is_unknown_there = self.push.is_none() || self.is_token_device();
        if is_unknown_there || self.upstream.as_ref().is_some_and(|upstream| upstream.refused.is_some()) {
            return None;
        }
        let (since, until) = self.known_upstream();
        let tenth = until.0.saturating_sub(since.0) / 10;
        Some(UnixMillis(since.0 + tenth * 8 + self.device.place_in(tenth)))
    }

    /// Whether nothing is left to keep: no push target and its Expires is over (design: life of a binding).
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.push.is_none() && !self.is_reachable(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_id_prints_and_parses() {
        for id in [[0; 10], [255; 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] {
            let text = DeviceId(id).to_string();
            assert_eq!(text.len(), DeviceId::LENGTH);
            assert_eq!(DeviceId::parse(text.as_bytes()), Some(DeviceId(id)));
        }
        assert_eq!(DeviceId::parse(b"ABCDEFGHIJKLMNOP"), None);
        assert_eq!(DeviceId::parse(b"short"), None);
    }

    #[test]
    fn tokens_and_keys_do_not_print_themselves() {
        assert!(!format!("{:?}", PushToken::new("secret")).contains("secret"));
        let keys = SubscriptionKeys { p256dh: [77; 65], auth: [77; 16] };
        assert!(!format!("{:?}", Tokens::Subscription(keys)).contains("77"));
    }

    #[test]
    fn the_missing_one_of_apples_tokens_is_filled_in_whatever_its_rank() {
        let prid = |text: &str| PushToken::new(text);
        let apple = |provider, remote: Option<&str>| {
            let (team, bundle, remote) = ("T".into(), "b".into(), remote.map(prid));
            let tokens = Tokens::Apple { team, bundle, voip: Some(prid("aa")), remote };
            PushTarget { provider, prid: prid("aa"), param: "".into(), tokens, others: Box::default() }
        };
        let (provider, tokens) = (Provider::Fcm, Tokens::Single);
        let fcm = PushTarget { provider, prid: prid("f"), param: "".into(), tokens, others: Box::default() };
        let known = PushTarget { others: [fcm.clone()].into(), ..apple(Provider::Apns, Some("bb")) };
        let mut own = PushTarget { others: [apple(Provider::Apns, None)].into(), ..fcm.clone() };
        own.fill_from(&known);
        assert_eq!(own, PushTarget { others: [apple(Provider::Apns, Some("bb"))].into(), ..fcm });
        let mut of_sandbox = apple(Provider::ApnsDev, None);
        of_sandbox.fill_from(&known);
        assert_eq!(of_sandbox, apple(Provider::ApnsDev, None));
    }
}
