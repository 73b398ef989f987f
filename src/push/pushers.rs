//! The sending side: which account a push goes by, how many go at once, and one reply for each.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::alert::Alerts;
use super::deaths::{Belief, Deaths};
use super::dial::{Hosts, HttpsProxy};
use super::gate::{Gate, Limits};
use super::project::Project;
use super::ranks::{Routed, Tried, Try};
use super::{
    Busy, NoticeKind, Outcome, Preview, Push, Reply, Sent, SettingsError, TokenHash, apns, callback, clock, fcm,
    harmony, hms, rustore, webpush,
};
use crate::binding::{Aor, Provider, PushTarget, PushToken, Tokens};

/// What pushes are sent with. An empty list of accounts switches their provider off.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For one attempt, including a renewal of credentials within it.
    pub timeout: Duration,
    /// Pushes of one AOR to one token in a minute; 0 for any number.
    pub per_token_per_min: u32,
    /// Tokens of one account that may die in a minute; what is over is not believed. 0 for any number.
    pub dead_per_min: usize,
    /// Pushes that may be under way at once, waiting ones included (`limits.push_queue`).
    pub queue: usize,
    /// Of each account.
    pub limits: Limits,
    /// For `https://` endpoints.
    pub https_proxy: Option<HttpsProxy>,
    pub hosts: Hosts,
    pub alerts: Alerts,
    pub fcm: Vec<fcm::Settings>,
    pub apns: Vec<apns::Settings>,
    /// `None` switches it off.
    pub callback: Option<callback::Settings>,
    /// `None` switches it off.
    pub webpush: Option<webpush::Settings>,
    pub rustore: Vec<rustore::Settings>,
    pub hms: Vec<hms::Settings>,
    pub harmony: Vec<harmony::Settings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            per_token_per_min: 30,
            dead_per_min: 30,
            queue: 10_000,
            limits: Limits::default(),
            https_proxy: None,
            hosts: Hosts::default(),
            alerts: Alerts::default(),
            fcm: Vec::new(),
            apns: Vec::new(),
            callback: None,
            webpush: None,
            rustore: Vec::new(),
            hms: Vec::new(),
            harmony: Vec::new(),
        }
    }
}

/// What all accounts have in common.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) timeout: Duration,
    pub(super) limits: Limits,
    pub(super) https_proxy: Option<HttpsProxy>,
    pub(super) hosts: Hosts,
    pub(super) alerts: Alerts,
}

impl Setup {
    fn of(settings: &Settings) -> Self {
        let Settings { timeout, limits, https_proxy, hosts, alerts, .. } = settings.clone();
        Self { timeout, limits, https_proxy, hosts, alerts }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::of(&Settings::default())
    }
}

/// Sends pushes. A clone is a handle to the same accounts, queue and limits.
///
/// Each push is a task of its own on the runtime given at the start, because an attempt lasts as long as its provider
/// takes and none may wait for another. This departs from the rule that only the outermost modules spawn; the tasks
/// are bounded by `queue`, and each ends by itself within its time to live and the time of one attempt.
#[derive(Clone)]
pub struct Pushers(Arc<Inner>);

struct Inner {
    runtime: Handle,
    timeout: Duration,
    queue: Arc<Semaphore>,
    limits: TokenLimits,
    dead_per_min: usize,
    /// Of accounts, by name, of which tokens have died. Here the verdicts of all workers come together.
    deaths: Mutex<BTreeMap<Box<str>, (Provider, Deaths)>>,
    fcm: Vec<fcm::Account>,
    apns: Vec<apns::Account>,
    callback: Option<callback::Account>,
    webpush: Option<webpush::Account>,
    rustore: Vec<rustore::Account>,
    hms: Vec<hms::Account>,
    harmony: Vec<harmony::Account>,
}

/// The way of one notice to one contact.
enum Route<'a> {
    Fcm { account: &'a fcm::Account, token: &'a PushToken },
    Apns { account: &'a apns::Account, delivery: apns::Delivery<'a> },
    Callback { account: &'a callback::Account, token: &'a PushToken },
    WebPush { account: &'a webpush::Account, subscription: webpush::Subscription<'a> },
    RuStore { account: &'a rustore::Account, token: &'a PushToken },
    Hms { account: &'a hms::Account, token: &'a PushToken },
    Harmony { account: &'a harmony::Account, token: &'a PushToken },
}

impl Pushers {
    /// Reads the credentials that `settings` name. Pushes run on `runtime`, whichever thread submits them.
    ///
    /// Nothing is sent yet; `check` opens and drops it to see whether the files are right.
    pub fn open(settings: &Settings, runtime: Handle) -> Result<Self, SettingsError> {
        if settings.timeout.is_zero() {
            return Err(SettingsError::value("push.timeout_ms", "must be more than 0"));
        }
        if settings.queue == 0 || settings.queue > Semaphore::MAX_PERMITS {
            return Err(SettingsError::value("limits.push_queue", "must be more than 0"));
        }
        let setup = Setup::of(settings);
        let fcm = numbered(&settings.fcm, "push.fcm")
            .map(|(table, settings_of)| fcm::Account::open(settings_of, &table, &setup));
        let apns = numbered(&settings.apns, "push.apns")
            .map(|(table, settings_of)| apns::Account::open(settings_of, &table, &setup, &runtime));
        let (fcm, apns) = (fcm.collect::<Result<_, _>>()?, apns.collect::<Result<_, _>>()?);
        let rustore = numbered(&settings.rustore, "push.rustore")
            .map(|(table, settings_of)| rustore::Account::open(settings_of, &table, &setup));
        let hms = numbered(&settings.hms, "push.hms")
            .map(|(table, settings_of)| hms::Account::open(settings_of, &table, &setup));
        let harmony = numbered(&settings.harmony, "push.harmony")
            .map(|(table, settings_of)| harmony::Account::open(settings_of, &table, &setup));
        let callback = settings.callback.as_ref().map(|settings_of| callback::Account::open(settings_of, &setup));
        let webpush = settings.webpush.as_ref().map(|settings_of| webpush::Account::open(settings_of, &setup));
        Ok(Self(Arc::new(Inner {
            runtime,
            timeout: settings.timeout,
            queue: Arc::new(Semaphore::new(settings.queue)),
            limits: TokenLimits::new(settings.per_token_per_min),
            dead_per_min: settings.dead_per_min,
            deaths: Mutex::default(),
            fcm,
            apns,
            callback: callback.transpose()?,
            webpush: webpush.transpose()?,
            rustore: rustore.collect::<Result<_, _>>()?,
            hms: hms.collect::<Result<_, _>>()?,
            harmony: harmony.collect::<Result<_, _>>()?,
        })))
    }

    /// Has connections and access tokens ready, so that the first call does not wait for them.
    pub fn warm_up(&self) {
        for account in &self.0.apns {
            account.warm_up();
        }
        let inner = Arc::clone(&self.0);
        self.0.runtime.spawn(async move {
            for account in &inner.fcm {
                let _ = tokio::time::timeout(inner.timeout, account.warm_up()).await;
            }
            for (_, project) in inner.projects() {
                project.warm_up().await;
            }
        });
    }

    /// Makes one attempt, and sends exactly one [`Reply`] for it.
    pub fn submit(&self, push: Push, reply_to: mpsc::Sender<Reply>) -> Result<(), Busy> {
        let place = Arc::clone(&self.0.queue).try_acquire_owned().map_err(|_| Busy)?;
        let inner = Arc::clone(&self.0);
        self.0.runtime.spawn(async move {
            let reply = inner.deliver(push).await;
            // Whoever asked may be gone; then nobody misses the reply.
            let _ = reply_to.send(reply).await;
            // A reply that is not taken yet counts as a push under way, so replies cannot pile up.
            drop(place);
        });
        Ok(())
    }

    /// Whether an invite can be pushed to a contact; else why not, in words for the operator.
    pub fn supports(&self, target: &PushTarget) -> Result<(), String> {
        self.supports_notice(target, NoticeKind::Invite)
    }

    /// Whether such a notice can be pushed to a contact: one with only a voip token takes invites and nothing else.
    pub fn supports_notice(&self, target: &PushTarget, kind: NoticeKind) -> Result<(), String> {
        self.0.first_route(target, kind).map(drop)
    }

    /// Whether the app of a contact takes a second push of a call for the same call.
    pub fn repeats_calls(&self, target: &PushTarget) -> bool {
        let kind = NoticeKind::Invite;
        self.0.route(target, kind).is_ok_and(|route| route.repeats(kind))
    }

    /// What would be sent where; else why nothing would.
    pub fn preview(&self, push: &Push) -> Result<Preview, String> {
        let route = self.0.first_route(&push.target, push.notice.kind())?;
        let hash = TokenHash::of(route.token());
        Ok(match &route {
            Route::Fcm { account, .. } => account.preview(push, hash),
            Route::Apns { account, delivery } => account.preview(push, delivery, hash),
            Route::Callback { account, .. } => account.preview(push, hash),
            Route::WebPush { account, subscription } => account.preview(push, subscription, hash),
            Route::RuStore { account, .. } => account.preview(push, hash),
            Route::Hms { account, .. } => account.preview(push, hash),
            Route::Harmony { account, .. } => account.preview(push, hash),
        })
    }

    /// What an operator must know of accounts that do not work.
    pub fn troubles(&self) -> Vec<(Provider, String)> {
        let fcm = self.0.fcm.iter().map(|account| (Provider::Fcm, &account.gate));
        let apns = self.0.apns.iter().flat_map(apns::Account::gates);
        let callback = self.0.callback.iter().map(|account| (Provider::Callback, &account.gate));
        let webpush = self.0.webpush.iter().flat_map(webpush::Account::gates).map(|gate| (Provider::WebPush, gate));
        let projects = self.0.projects().map(|(provider, project)| (provider, &project.gate));
        fcm.chain(apns)
            .chain(callback)
            .chain(webpush)
            .chain(projects)
            .filter_map(|(provider, gate)| Some((provider, gate.trouble()?)))
            .collect()
    }

    /// Accounts of which so many tokens are called dead that it is not believed: `push.dead_per_min`.
    pub fn alarms(&self) -> Vec<(Provider, String)> {
        let now = clock().instant;
        let deaths = self.0.deaths.lock();
        let alarming = deaths.iter().filter(|(_, (_, deaths))| deaths.is_alarming(now));
        let most = self.0.dead_per_min;
        let text = |name: &str| {
            format!(
                "{name}: more than {most} tokens are called dead within a minute; their devices are kept and not pushed"
            )
        };
        alarming.map(|(name, (provider, _))| (*provider, text(name))).collect()
    }

    /// The key that browsers must subscribe for, for `+sip.vapid`; `None` when Web Push is off.
    pub fn vapid_key(&self) -> Option<&str> {
        self.0.webpush.as_ref().map(webpush::Account::public_key)
    }

    /// The providers that are switched on, for `+sip.pns`.
    pub fn providers(&self) -> Vec<Provider> {
        Provider::ALL.into_iter().filter(|provider| self.0.serves(*provider)).collect()
    }
}

impl Inner {
    /// Of the services that have one alike.
    fn projects(&self) -> impl Iterator<Item = (Provider, &Project)> {
        let rustore = self.rustore.iter().map(|account| (Provider::RuStore, &account.project));
        let hms = self.hms.iter().map(|account| (Provider::Hms, &account.project));
        let harmony = self.harmony.iter().map(|account| (Provider::Harmony, &account.project));
        rustore.chain(hms).chain(harmony)
    }

    fn serves(&self, provider: Provider) -> bool {
        match provider {
            Provider::Fcm => !self.fcm.is_empty(),
            Provider::Apns | Provider::ApnsDev => self.apns.iter().any(|account| account.serves(provider)),
            Provider::Callback => self.callback.is_some(),
            Provider::WebPush => self.webpush.is_some(),
            Provider::RuStore | Provider::Hms | Provider::Harmony => {
                self.projects().any(|(of_provider, _)| of_provider == provider)
            }
        }
    }

    /// By the best of the contact's services that there is an account for; else why there is none for the first.
    fn first_route<'a>(&'a self, target: &'a PushTarget, kind: NoticeKind) -> Result<Route<'a>, String> {
        let mut routes = target.ranked().map(|target| self.route(target, kind));
        let first = routes.next().unwrap_or_else(|| Err("contact has no token".to_owned()));
        first.or_else(|why| routes.find_map(Result::ok).ok_or(why))
    }

    fn route<'a>(&'a self, target: &'a PushTarget, kind: NoticeKind) -> Result<Route<'a>, String> {
        let provider = target.provider;
        let is_off = || format!("provider {provider} is switched off");
        if !self.serves(provider) {
            return Err(is_off());
        }
        match provider {
            Provider::Fcm => {
                let account = of_project(&self.fcm, "push.fcm", &target.param, fcm::Account::is_named)?;
                Ok(Route::Fcm { account, token: token(target)? })
            }
            Provider::Apns | Provider::ApnsDev => {
                let (team, bundle) = match &target.tokens {
                    Tokens::Apple { team, bundle, .. } => (&**team, &**bundle),
                    Tokens::Single | Tokens::Subscription(_) => ("", ""),
                };
                let account = apns_account(&self.apns, team, bundle)?;
                let delivery = account.delivery(provider, &target.tokens, kind)?;
                Ok(Route::Apns { account, delivery })
            }
            Provider::Callback => {
                let account = self.callback.as_ref().ok_or_else(is_off)?;
                Ok(Route::Callback { account, token: token(target)? })
            }
            // A browser has to show something for each push (Push API, userVisibleOnly).
            Provider::WebPush if kind == NoticeKind::Test => {
                Err("Web Push knows no push that its user does not see, so it is not tested".to_owned())
            }
            Provider::WebPush if kind == NoticeKind::CallEnded => {
                Err("Web Push knows no push that its user does not see, so it ends no call".to_owned())
            }
            Provider::WebPush if kind == NoticeKind::Register => {
                Err("Web Push knows no push that its user does not see, so nobody is asked to register".to_owned())
            }
            Provider::WebPush => {
                let account = self.webpush.as_ref().ok_or_else(is_off)?;
                let subscription = account.subscription(target)?;
                Ok(Route::WebPush { account, subscription })
            }
            Provider::RuStore => {
                let is_named = |account: &rustore::Account, param: &str| account.project.is_named(param);
                let account = of_project(&self.rustore, "push.rustore", &target.param, is_named)?;
                Ok(Route::RuStore { account, token: token(target)? })
            }
            Provider::Hms => {
                let is_named = |account: &hms::Account, param: &str| account.project.is_named(param);
                let account = of_project(&self.hms, "push.hms", &target.param, is_named)?;
                Ok(Route::Hms { account, token: token(target)? })
            }
            Provider::Harmony => {
                harmony::check(kind)?;
                let is_named = |account: &harmony::Account, param: &str| account.project.is_named(param);
                let account = of_project(&self.harmony, "push.harmony", &target.param, is_named)?;
                Ok(Route::Harmony { account, token: token(target)? })
            }
        }
    }

    /// By the best of the contact's services; by the next one when that does not take it.
    async fn deliver(&self, push: Push) -> Reply {
        let submitted = clock().instant;
        let (ticket, notice) = (push.ticket, push.notice.kind());
        let mut tried = Tried::default();
        for target in push.target.ranked() {
            let begun = clock().instant;
            let attempt = Push {
                target: PushTarget { others: Box::default(), ..target.clone() },
                ttl: push.ttl.saturating_sub(begun.saturating_duration_since(submitted)),
                ..push.clone()
            };
            let is_first = tried.is_empty();
            if !is_first && attempt.ttl.is_zero() {
                break;
            }
            let provider = target.provider;
            let (sent, route) = self.attempt(attempt).await;
            let (token, outcome, push_id) = (TokenHash::of(&target.prid), &sent.outcome, &sent.push_id);
            tracing::debug!(ticket = ticket.0, %provider, %notice, %token, ?outcome, push_id, "push");
            if !is_first && sent.outcome == Outcome::Accepted {
                tracing::info!(ticket = ticket.0, %provider, %token, reason = tried.reasons(), "pushed by another service");
            }
            let took = clock().instant.saturating_duration_since(begun);
            if tried.add(Try { provider, token, route, took, sent }) {
                break;
            }
        }
        let (decisive, replaced) = tried.result(&push.target);
        let Try { provider, token, route, sent, took: _ } = decisive;
        let Sent { outcome, left_out, push_id, sign: _ } = sent;
        let (repeatable, took) = (route == Routed::Repeatable, clock().instant.saturating_duration_since(submitted));
        if left_out > 0 && outcome == Outcome::Accepted {
            tracing::info!(ticket = ticket.0, %token, left_out, "missed calls left out of a push that was full");
        }
        Reply { ticket, provider, token, notice, outcome, push_id, repeatable, left_out, took, replaced }
    }

    /// What came of it.
    async fn attempt(&self, push: Push) -> (Sent, Routed) {
        let (target, notice) = (push.target.clone(), push.notice.kind());
        match self.route(&target, notice) {
            Err(reason) => (Sent::unsent(Outcome::refused(reason)), Routed::Nowhere),
            Ok(route) => {
                let sent = self.pass(push, &route).await;
                let outcome = self.doubt(target.provider, route.gate().name(), sent.outcome);
                let routed = if route.repeats(notice) { Routed::Repeatable } else { Routed::Once };
                (Sent { outcome, ..sent }, routed)
            }
        }
    }

    /// What is not sent because its account is in trouble does not count as a push of its token, and a repetition belongs
    /// to the push that it repeats.
    async fn pass(&self, push: Push, route: &Route<'_>) -> Sent {
        let (gate, token) = (route.gate(), TokenHash::of(route.token()));
        if let Some(refusal) = gate.refusal(&push, token) {
            return Sent::unsent(refusal);
        }
        if !push.is_repeat && !self.limits.admit(&push.aor, route.token()) {
            return Sent::unsent(Outcome::Limited);
        }
        let send = async |push: Push| route.send(&push).await;
        gate.pass(push, token, self.timeout, send).await
    }

    /// Does not believe that a token is dead where too many are said to be.
    fn doubt(&self, provider: Provider, account: &str, outcome: Outcome) -> Outcome {
        let Outcome::TokenDead { reason, .. } = &outcome else { return outcome };
        let now = clock().instant;
        let belief = {
            let mut deaths = self.deaths.lock();
            let (_, of_account) = deaths.entry(account.into()).or_insert_with(|| (provider, Deaths::default()));
            of_account.died(self.dead_per_min, now)
        };
        let Belief::Doubted { is_news } = belief else { return outcome };
        if is_news {
            let most = self.dead_per_min;
            tracing::error!(
                account,
                %reason,
                most,
                "more tokens are called dead within a minute than push.dead_per_min; their devices are kept and not pushed"
            );
        }
        Outcome::Doubted {
            reason: format!("{reason}, as of too many others within a minute (push.dead_per_min)").into(),
        }
    }
}

impl Route<'_> {
    fn token(&self) -> &PushToken {
        match self {
            Self::Fcm { token, .. }
            | Self::Callback { token, .. }
            | Self::RuStore { token, .. }
            | Self::Hms { token, .. }
            | Self::Harmony { token, .. } => token,
            Self::Apns { delivery, .. } => delivery.token,
            Self::WebPush { subscription, .. } => subscription.token,
        }
    }

    fn gate(&self) -> &Gate {
        match self {
            Self::Fcm { account, .. } => &account.gate,
            Self::Apns { delivery, .. } => delivery.gate(),
            Self::Callback { account, .. } => &account.gate,
            Self::WebPush { subscription, .. } => &subscription.service.gate,
            Self::RuStore { account, .. } => &account.project.gate,
            Self::Hms { account, .. } => &account.project.gate,
            Self::Harmony { account, .. } => &account.project.gate,
        }
    }

    /// Whether apps take a second push like this for one of the same call. Only those of calls are repeated.
    fn repeats(&self, kind: NoticeKind) -> bool {
        kind == NoticeKind::Invite
            && match self {
                Self::Fcm { .. }
                | Self::Callback { .. }
                | Self::WebPush { .. }
                | Self::RuStore { .. }
                | Self::Hms { .. }
                | Self::Harmony { .. } => true,
                Self::Apns { account, delivery } => account.repeats(delivery),
            }
    }

    async fn send(&self, push: &Push) -> Sent {
        match self {
            Self::Fcm { account, token } => account.send(push, token).await,
            Self::Apns { account, delivery } => account.send(push, delivery).await,
            Self::Callback { account, token } => account.send(push, token).await,
            Self::WebPush { account, subscription } => account.send(push, subscription).await,
            Self::RuStore { account, token } => account.send(push, token).await,
            Self::Hms { account, token } => account.send(push, token).await,
            Self::Harmony { account, token } => account.send(push, token).await,
        }
    }
}

/// `push.fcm[0]`, `push.fcm[1]` …
fn numbered<'a, T>(tables: &'a [T], name: &'static str) -> impl Iterator<Item = (String, &'a T)> {
    tables.iter().enumerate().map(move |(number, table)| (format!("{name}[{number}]"), table))
}

/// The contact's only token.
fn token(target: &PushTarget) -> Result<&PushToken, String> {
    match target.prid.reveal() {
        "" => Err("contact has no token".to_owned()),
        _ => Ok(&target.prid),
    }
}

/// The account that the contact names, or the only one there is; else why there is none.
fn of_project<'a, A>(
    accounts: &'a [A],
    table: &str,
    param: &str,
    is_named: impl Fn(&A, &str) -> bool,
) -> Result<&'a A, String> {
    if let [only] = accounts {
        return Ok(only);
    }
    match accounts.iter().find(|account| is_named(account, param)) {
        Some(account) => Ok(account),
        None if param.is_empty() => Err(format!("pn-param names no project, and there are several [[{table}]]")),
        None => Err(format!("no [[{table}]] for project {param:?}")),
    }
}

/// The same by team and app. Where several accounts are of the team, the one for the app comes before that for all.
fn apns_account<'a>(accounts: &'a [apns::Account], team: &str, bundle: &str) -> Result<&'a apns::Account, String> {
    if let [only] = accounts {
        return Ok(only);
    }
    let one = |wanted: &dyn Fn(&apns::Account) -> bool| {
        let mut found = accounts.iter().filter(|account| wanted(account));
        found.next().filter(|_| found.next().is_none())
    };
    let is_of_team = |account: &apns::Account| team.is_empty() || account.is_of_team(team);
    let is_for_app = |account: &apns::Account| !bundle.is_empty() && account.topic() == bundle;
    let named = |account: &apns::Account| !team.is_empty() && account.has_team() && account.is_of_team(team);
    one(&|account| is_for_app(account) && is_of_team(account))
        .or_else(|| one(&named))
        .or_else(|| one(&|account| named(account) && account.topic().is_empty()))
        .ok_or_else(|| match team {
            "" => format!("pn-param names no team, and there are several [[push.apns]] (app {bundle:?})"),
            team => format!("no [[push.apns]] for team {team:?} and app {bundle:?}"),
        })
}

/// `push.per_token_per_min`: the whole number at once, then one at a time as the minute passes. Each AOR with a token has
/// its own: who has got hold of another user's token cannot use up what that user's calls need.
struct TokenLimits {
    limiter: Option<DefaultKeyedRateLimiter<(Aor, TokenHash)>>,
    asked: AtomicU32,
}

impl TokenLimits {
    /// Tokens that were not pushed for a minute are forgotten once in so many pushes, so what is remembered is this
    /// many tokens and those of the last minute.
    const SWEEP_EVERY: u32 = 4096;

    fn new(per_min: u32) -> Self {
        let limiter = NonZeroU32::new(per_min).map(|per_min| RateLimiter::keyed(Quota::per_minute(per_min)));
        Self { limiter, asked: AtomicU32::new(0) }
    }

    fn admit(&self, aor: &Aor, token: &PushToken) -> bool {
        let Some(limiter) = &self.limiter else {
            return true;
        };
        if self.asked.fetch_add(1, Ordering::Relaxed) % Self::SWEEP_EVERY == Self::SWEEP_EVERY - 1 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        limiter.check_key(&(aor.clone(), TokenHash::of(token))).is_ok()
    }
}
