//! Push parameters of a Contact URI (RFC 8599 §8.7), in ECSS's, Linphone's and the pre-RFC spelling.

use std::borrow::Cow;

use super::scan;
use super::uri::Uri;
use crate::binding::{Provider, PushTarget, PushToken, Tokens};

/// Longest `pn-prid` that we keep, unescaped.
const PRID_BYTES_MAX: usize = 4096;

/// Longest `pn-param` that we keep, unescaped.
const PARAM_BYTES_MAX: usize = 512;

const UNKNOWN_PROVIDER: &str =
    "pn-provider is not one of fcm, apns, apns.dev, webpush, callback, rustore, hms, harmony";

/// What a Contact URI says about push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushParams {
    /// No `pn-provider`: an ordinary contact.
    Absent,
    /// `pn-provider` without `pn-prid`: asks what is supported (RFC 8599 §4.1.5). `None`: everything.
    Query(Option<Box<str>>),
    Target(PushTarget),
    /// One of Apple's two tokens is missing or malformed; the other one is of use.
    Half {
        target: PushTarget,
        reason: Box<str>,
    },
    /// Something is missing, malformed, or of a provider without a name here; the contact is an ordinary one.
    Refused {
        provider: Box<str>,
        reason: Box<str>,
    },
}

/// The values of one service's parameters, as they stand in the URI.
#[derive(Debug, Default, Clone, Copy)]
struct Service<'a> {
    provider: Option<&'a [u8]>,
    prid: Option<&'a [u8]>,
    param: Option<&'a [u8]>,
}

/// All that a URI says of push.
#[derive(Debug, Default)]
struct Found<'a> {
    services: [Service<'a>; 3],
    /// ECSS's `pn-params`.
    params: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    app_id: Option<&'a [u8]>,
    token: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn read(params: &'a [u8]) -> Self {
        let mut found = Self::default();
        for scan::Param { name, value } in scan::params(params) {
            if let Some(place) = found.place(name) {
                place.get_or_insert(value.unwrap_or_default());
            }
        }
        found
    }

    fn place(&mut self, name: &[u8]) -> Option<&mut Option<&'a [u8]>> {
        if name.eq_ignore_ascii_case(b"app-id") {
            return Some(&mut self.app_id);
        }
        let (start, name) = name.split_at_checked(3)?;
        if !start.eq_ignore_ascii_case(b"pn-") {
            return None;
        }
        // The parameters of a second and a third service have their rank behind their names.
        let (name, rank) = match name {
            [name @ .., b'-', b'2'] => (name, 1),
            [name @ .., b'-', b'3'] => (name, 2),
            _ => (name, 0),
        };
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        let service = self.services.get_mut(rank)?;
        match rank {
            _ if is(b"provider") => Some(&mut service.provider),
            _ if is(b"prid") => Some(&mut service.prid),
            _ if is(b"param") => Some(&mut service.param),
            0 if is(b"params") => Some(&mut self.params),
            0 if is(b"type") => Some(&mut self.kind),
            0 if is(b"tok") => Some(&mut self.token),
            _ => None,
        }
    }

    /// Of a Contact that names no push service: is there anything of push?
    fn incomplete(&self, behind: &[u8]) -> PushParams {
        let stray = |name: &str| scan::param(behind, name).is_some();
        if ["pn-provider", "pn-prid", "pn-type", "pn-tok"].into_iter().any(stray) {
            return refused("", "the push parameters stand behind the URI; they belong into it, before the \">\"");
        }
        if self.services[0].prid.is_some() {
            return refused("", "pn-prid without pn-provider");
        }
        if self.token.is_some() {
            return refused("", "pn-tok without pn-type");
        }
        PushParams::Absent
    }
}

impl PushParams {
    /// `behind` are the header parameters of the Contact, where none of them belongs.
    pub fn read(uri: &Uri<'_>, behind: &[u8]) -> Self {
        let found = Found::read(uri.params);
        let [first, others @ ..] = found.services;
        let first = Service { param: first.param.or(found.params), ..first };
        match (Self::of(first), found.kind) {
            (Some(first), _) => first.with_others(others.into_iter().filter_map(Self::of)),
            (None, Some(kind)) => {
                Self::legacy(&text(kind), &text(found.app_id.unwrap_or_default()), found.token.map(text))
            }
            (None, None) => found.incomplete(behind),
        }
    }

    /// `None` where the service is not named.
    fn of(service: Service<'_>) -> Option<Self> {
        let param = text(service.param.unwrap_or_default());
        Some(Self::standard(text(service.provider?), service.prid.map(text), &param))
    }

    /// Differs from RFC 8599 §4.1: one Contact may name several services, because a phone is one device with one flow,
    /// whatever it is woken by. What is of a service without a name here is left out where another one is left.
    fn with_others(self, others: impl Iterator<Item = Self>) -> Self {
        if !matches!(self, Self::Target(_) | Self::Half { .. } | Self::Refused { .. }) {
            return self;
        }
        let is_unknown =
            |params: &Self| matches!(params, Self::Refused { reason, .. } if **reason == *UNKNOWN_PROVIDER);
        let (mut targets, mut flaw, mut refusal) = (Vec::new(), None, None);
        for params in std::iter::once(self).chain(others) {
            match params {
                Self::Target(target) => targets.push(target),
                Self::Half { target, reason } => {
                    targets.push(target);
                    flaw = flaw.or(Some(reason));
                }
                Self::Query(_) => return refused("", "pn-provider-2 or -3 without its pn-prid"),
                params @ (Self::Refused { .. } | Self::Absent) => {
                    if !is_unknown(&params) {
                        return params;
                    }
                    refusal = refusal.or(Some(params));
                }
            }
        }
        let mut targets = targets.into_iter();
        match targets.next() {
            Some(first) => Self::flawed(PushTarget { others: targets.collect(), ..first }, flaw),
            None => refusal.unwrap_or(Self::Absent),
        }
    }

    /// RFC 8599 §4.1, with ECSS's `pn-params` already taken for `pn-param`.
    fn standard(provider: Cow<'_, str>, prid: Option<Cow<'_, str>>, param: &str) -> Self {
        let Some(prid) = prid else {
            return Self::Query((!provider.is_empty()).then(|| provider.into()));
        };
        let known = match Provider::parse(provider.as_bytes()) {
            Some(known) => known,
            None if provider.eq_ignore_ascii_case("firebase") || provider.eq_ignore_ascii_case("android") => {
                Provider::Fcm
            }
            None => return refused(&provider, UNKNOWN_PROVIDER),
        };
        Self::target(known, &prid, param)
    }

    /// `pn-type`, `app-id`, `pn-tok`, as apps sent them before RFC 8599.
    fn legacy(kind: &str, app_id: &str, token: Option<Cow<'_, str>>) -> Self {
        let Some(token) = token else {
            return refused(kind, "pn-type without pn-tok");
        };
        match kind {
            "android" | "firebase" | "google" => Self::target(Provider::Fcm, &token, app_id),
            "apple" => {
                let (provider, app) = match (app_id.strip_suffix(".dev"), app_id.strip_suffix(".prod")) {
                    (Some(app), _) => (Provider::ApnsDev, app),
                    (None, Some(app)) => (Provider::Apns, app),
                    (None, None) => (Provider::Apns, app_id),
                };
                let (bundle, is_voip) = match app.strip_suffix(".voip") {
                    Some(bundle) => (bundle, true),
                    None => (app, false),
                };
                let device_token = match apple_token(&token) {
                    Ok(token) => Some(token),
                    Err(reason) => return refused(provider.name(), reason),
                };
                let (voip, remote) = if is_voip { (device_token, None) } else { (None, device_token) };
                let target = PushTarget {
                    provider,
                    prid: PushToken::new(&*token),
                    param: app_id.into(),
                    tokens: Tokens::Apple { team: "".into(), bundle: bundle.into(), voip, remote },
                    others: Box::default(),
                };
                Self::checked(target, None)
            }
            _ => refused(kind, "pn-type is not one of apple, firebase, android, google"),
        }
    }

    /// What the values of `pn-provider`, `pn-prid` and `pn-param` come to, unescaped.
    pub fn target(provider: Provider, prid: &str, param: &str) -> Self {
        if provider == Provider::WebPush && !param.is_empty() {
            return refused(provider.name(), "pn-param must not be used with webpush (RFC 8599 §12)");
        }
        let mut flaw = None;
        let tokens = match provider {
            Provider::Apns | Provider::ApnsDev => match apple_tokens(prid, param) {
                Ok((tokens, found)) => {
                    flaw = found;
                    tokens
                }
                Err(reason) => return refused(provider.name(), reason),
            },
            Provider::Fcm
            | Provider::WebPush
            | Provider::Callback
            | Provider::RuStore
            | Provider::Hms
            | Provider::Harmony => Tokens::Single,
        };
        let (prid, param) = (PushToken::new(prid), param.into());
        let target = PushTarget { provider, prid, param, tokens, others: Box::default() };
        Self::checked(target, flaw.map(Box::from))
    }

    /// A target, and what is wrong with one of its tokens.
    fn flawed(target: PushTarget, flaw: Option<Box<str>>) -> Self {
        match flaw {
            Some(reason) => Self::Half { target, reason },
            None => Self::Target(target),
        }
    }

    fn checked(target: PushTarget, flaw: Option<Box<str>>) -> Self {
        let prid = target.prid.reveal();
        let name = target.provider.name();
        if prid.is_empty() {
            return refused(name, "pn-prid is empty");
        }
        if prid.len() > PRID_BYTES_MAX {
            return refused(name, "pn-prid is longer than 4096 bytes");
        }
        if !prid.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refused(name, "pn-prid has a character that no push token has");
        }
        // It names a topic or a project, which are put into headers and paths at the provider.
        if target.param.len() > PARAM_BYTES_MAX {
            return refused(name, "pn-param is longer than 512 bytes");
        }
        if !target.param.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refused(name, "pn-param has a character that no topic or project has");
        }
        Self::flawed(target, flaw)
    }
}

/// Splits `TEAM.bundle.services` and `token:service&token:service` (RFC 8599 §10 and field practice: a VoIP and a
/// remote token in one contact, in either order). Libraries send the second one cut short, or without its service, while
/// iOS has yet to give it; one that is of use is used, and what is wrong with the other is told.
fn apple_tokens(prid: &str, param: &str) -> Result<(Tokens, Option<&'static str>), &'static str> {
    let (team, rest) = param.split_once('.').unwrap_or(("", param));
    let (bundle, services) = match rest.rsplit_once('.') {
        Some((bundle, last)) if last.split('&').all(|service| matches!(service, "voip" | "remote")) => (bundle, last),
        Some(_) | None => (rest, "remote"),
    };
    let is_named = |service: &str| services.split('&').any(|named| named == service);
    let (mut voip, mut remote, mut bare, mut flaw) = (None, None, None, None);
    for part in prid.split('&') {
        let (token, service) = match part.split_once(':') {
            Some((token, service)) => (token, service),
            None if !services.contains('&') => (part, services),
            None => {
                bare = bare.or(Some(part));
                continue;
            }
        };
        let place = match service {
            "voip" if is_named(service) => &mut voip,
            "remote" if is_named(service) => &mut remote,
            _ => {
                flaw = Some("pn-prid names a service that pn-param does not");
                continue;
            }
        };
        match apple_token(token) {
            Ok(_) if place.is_some() => return Err("pn-prid names a service twice"),
            Ok(token) => *place = Some(token),
            Err(wrong) => flaw = Some(wrong),
        }
    }
    // A token without its service is for the one that is left.
    match (bare.map(apple_token), &mut voip, &mut remote) {
        (None, _, _) => {}
        (Some(Ok(token)), Some(_), place @ None) | (Some(Ok(token)), place @ None, Some(_)) => *place = Some(token),
        (Some(Ok(_)), Some(_), Some(_)) => flaw = Some("pn-prid has a token too many"),
        (Some(Ok(_)), None, None) => {
            flaw = flaw.or(Some("pn-prid does not say for which service its token is, and pn-param names two"));
        }
        (Some(Err(wrong)), _, _) => flaw = Some(wrong),
    }
    if services.contains('&') && voip.is_some() != remote.is_some() {
        flaw = flaw.or(Some("pn-param names two services, and pn-prid has a token for one"));
    }
    if voip.is_none() && remote.is_none() {
        return Err(flaw.unwrap_or("pn-prid has no token"));
    }
    Ok((Tokens::Apple { team: team.into(), bundle: bundle.into(), voip, remote }, flaw))
}

/// A device token in lower case, as hexadecimal tokens are one token in either case. It becomes part of a path at the
/// provider, so nothing but digits may stand in it.
fn apple_token(token: &str) -> Result<PushToken, &'static str> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("the push token is not a hexadecimal device token");
    }
    Ok(PushToken::new(token.to_ascii_lowercase()))
}

fn refused(provider: &str, reason: &str) -> PushParams {
    PushParams::Refused { provider: provider.into(), reason: reason.into() }
}

/// A parameter's value, unescaped (RFC 8599 §8.7 allows `%HH`).
fn text(value: &[u8]) -> Cow<'_, str> {
    match scan::unescape(value) {
        Cow::Borrowed(value) => String::from_utf8_lossy(value),
        Cow::Owned(value) => Cow::Owned(String::from_utf8_lossy(&value).into_owned()),
    }
}

/// Whether a URI parameter tells of push, so that it must not reach anybody but us and the device
/// (RFC 8599 §4.1, §13).
pub fn is_push_param(name: &[u8]) -> bool {
    name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"pn-")) || name.eq_ignore_ascii_case(b"app-id")
}

/// Whether a text may have such a parameter: a quick look that spares most Contacts a closer one.
pub fn names_push(text: &[u8]) -> bool {
    memchr::memchr_iter(b';', text).any(|at| {
        text.get(at + 1..).is_some_and(|rest| {
            let begins = |name: &[u8]| rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
            begins(b"pn-") || begins(b"app-id")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(params: &str) -> PushParams {
        PushParams::read(&Uri::parse(format!("sip:a@h{params}").as_bytes()).unwrap(), b"")
    }

    fn target(params: &str) -> PushTarget {
        let PushParams::Target(target) = read(params) else { panic!("{params} is no push target") };
        target
    }

    fn refusal(params: &str) -> String {
        let PushParams::Refused { reason, .. } = read(params) else { panic!("{params} is not refused") };
        reason.into()
    }

    #[test]
    fn fcm_tokens_are_kept_whole() {
        let fcm = target(";pn-provider=FCM;pn-param=my-project;pn-prid=ab:CD%26e");
        assert_eq!((fcm.provider, fcm.prid.reveal(), &*fcm.param), (Provider::Fcm, "ab:CD&e", "my-project"));
        assert_eq!(target(";pn-provider=fcm;pn-params=1;pn-prid=x").param.as_ref(), "1");
        assert_eq!(target(";pn-provider=fcm;pn-prid=x").tokens, Tokens::Single);
    }

    #[test]
    fn several_services_keep_their_order() {
        let ranked = |params: &str| {
            let target = target(params);
            let named = target.ranked().map(|target| format!("{} {}", target.provider, target.prid.reveal()));
            named.collect::<Vec<_>>().join(", ")
        };
        let fcm = ";pn-provider=fcm;pn-param=p;pn-prid=a";
        assert_eq!(ranked(fcm), "fcm a");
        assert_eq!(ranked(&format!("{fcm};pn-provider-2=rustore;pn-prid-2=b")), "fcm a, rustore b");
        let three = ";pn-prid-3=00FF;pn-param-3=T.org.app.voip;pn-provider-3=apns;pn-provider-2=hms;pn-prid-2=b%20";
        assert_eq!(refusal(&format!("{fcm}{three}")), "pn-prid has a character that no push token has");
        let three = three.replace("%20", "");
        assert_eq!(ranked(&format!("{fcm}{three}")), "fcm a, hms b, apns 00FF");
        let of_apple = &target(&format!("{fcm}{three}")).others[1];
        assert!(matches!(&of_apple.tokens, Tokens::Apple { voip: Some(_), .. }) && of_apple.others.is_empty());

        // What is not known here is left to others who know it.
        assert_eq!(ranked(";pn-provider=honor;pn-prid=x;pn-provider-2=hms;pn-prid-2=b"), "hms b");
        assert_eq!(ranked(&format!("{fcm};pn-provider-3=honor;pn-prid-3=x")), "fcm a");
        assert_eq!(refusal(";pn-provider=honor;pn-prid=x;pn-provider-2=oppo;pn-prid-2=b"), UNKNOWN_PROVIDER);
        assert_eq!(refusal(&format!("{fcm};pn-provider-2=hms")), "pn-provider-2 or -3 without its pn-prid");
        assert_eq!(
            refusal(&format!("{fcm};pn-provider-2=apns;pn-prid-2=x")),
            "the push token is not a hexadecimal device token"
        );
        assert_eq!(read(";pn-provider;pn-provider-2=fcm;pn-prid-2=a"), PushParams::Query(None));

        // A flaw of one is told, and all are used.
        let apple =
            |rank: &str| format!(";pn-provider{rank}=apns;pn-param{rank}=T.b.voip&remote;pn-prid{rank}=aa:voip");
        let of_fcm = ";pn-provider-2=fcm;pn-prid-2=a";
        for (params, order) in [
            (apple("") + of_fcm, "apns, fcm"),
            (format!("{fcm}{}", apple("-2")), "fcm, apns"),
            (format!("{}{of_fcm};pn-provider-3=honor;pn-prid-3=x", apple("")), "apns, fcm"),
            (format!(";pn-provider=honor;pn-prid=x{}", apple("-2")), "apns"),
        ] {
            let PushParams::Half { target, reason } = read(&params) else { panic!("{params}") };
            let providers = target.ranked().map(|target| target.provider.name()).collect::<Vec<_>>().join(", ");
            assert_eq!((&*providers, reason.contains("a token for one")), (order, true), "{params}: {reason}");
        }
    }

    #[test]
    fn subscription_of_web_push_is_unescaped() {
        let web = target(";pn-provider=webpush;pn-prid=https://push.example.org/s/1%3Fa%3Db%3Bc%2Cd");
        assert_eq!((web.provider, web.prid.reveal()), (Provider::WebPush, "https://push.example.org/s/1?a=b;c,d"));
    }

    #[test]
    fn apple_tokens_are_told_apart_in_either_order() {
        for (param, prid) in [("voip&remote", "AA:voip&BB:remote"), ("remote&voip", "BB:remote&AA:voip")] {
            let both = target(&format!(";pn-provider=apns;pn-param=TEAM.org.app.{param};pn-prid={prid}"));
            assert_eq!(
                both.tokens,
                Tokens::Apple {
                    team: "TEAM".into(),
                    bundle: "org.app".into(),
                    voip: Some(PushToken::new("aa")),
                    remote: Some(PushToken::new("bb")),
                }
            );
        }
        let Tokens::Apple { voip, remote, .. } =
            target(";pn-provider=apns;pn-param=DEF123GHIJ.com.example.yourexampleapp.voip;pn-prid=00fc13adff78512")
                .tokens
        else {
            panic!("not Apple's")
        };
        assert!(voip.is_some() && remote.is_none());
        let Tokens::Apple { voip, remote, bundle, .. } =
            target(";pn-provider=apns.dev;pn-param=DEF123GHIJ.com.example.app;pn-prid=00fc").tokens
        else {
            panic!("not Apple's")
        };
        assert!(voip.is_none() && remote.is_some());
        assert_eq!(&*bundle, "com.example.app");
    }

    #[test]
    fn one_bad_apple_token_of_two_leaves_the_other_in_use() {
        let param = ";pn-provider=apns;pn-param=T.b.voip&remote;pn-prid=";
        for (prid, voip, remote, flaw) in [
            ("aa:voip&", Some("aa"), None, "not a hexadecimal"),
            ("aa:voip&bb", Some("aa"), Some("bb"), ""),
            ("bb&aa:voip", Some("aa"), Some("bb"), ""),
            ("aa&bb:remote", Some("aa"), Some("bb"), ""),
            ("aa:voip&xyz:remote", Some("aa"), None, "not a hexadecimal"),
            ("xyz:voip&bb:remote", None, Some("bb"), "not a hexadecimal"),
            ("aa:voip", Some("aa"), None, "a token for one"),
            ("aa:voip&bb:other", Some("aa"), None, "a service that pn-param does not"),
            ("aa:voip&bb:remote&cc", Some("aa"), Some("bb"), "a token too many"),
        ] {
            let read = read(&format!("{param}{prid}"));
            let (target, reason) = match &read {
                PushParams::Target(target) => (target.clone(), ""),
                PushParams::Half { target, reason } => (target.clone(), &**reason),
                PushParams::Absent | PushParams::Query(_) | PushParams::Refused { .. } => panic!("{prid}: {read:?}"),
            };
            let token = |token: Option<&str>| token.map(PushToken::new);
            let Tokens::Apple { voip: found_voip, remote: found_remote, .. } = target.tokens else { panic!("{prid}") };
            assert_eq!((found_voip, found_remote), (token(voip), token(remote)), "{prid}");
            assert!(reason.contains(flaw) && reason.is_empty() == flaw.is_empty(), "{prid}: {reason}");
        }
        assert!(refusal(&format!("{param}aa&bb")).contains("which service"));
        assert!(refusal(&format!("{param}aa:voip&bb:voip")).contains("twice"));
    }

    #[test]
    fn parameters_that_stand_behind_the_uri_are_told() {
        let uri = Uri::parse(b"sip:a@h;transport=TCP").unwrap();
        for behind in ["pn-tok=aa;pn-type=apple;app-id=b", "reg-id=1;PN-Prid=x", "pn-provider=fcm"] {
            let PushParams::Refused { reason, .. } = PushParams::read(&uri, behind.as_bytes()) else {
                panic!("{behind}")
            };
            assert!(reason.contains("behind the URI"), "{reason}");
        }
        assert_eq!(PushParams::read(&uri, b"reg-id=1;+sip.pnsreg=\"121\""), PushParams::Absent);
        assert!(refusal(";pn-prid=x").contains("without pn-provider"));
        assert!(refusal(";pn-tok=x").contains("without pn-type"));
    }

    #[test]
    fn legacy_parameters_are_understood() {
        let apple = target(";pn-type=apple;app-id=org.linphone.phone.voip.dev;pn-tok=00ff");
        assert_eq!(apple.provider, Provider::ApnsDev);
        assert!(matches!(apple.tokens, Tokens::Apple { voip: Some(_), remote: None, .. }));
        assert_eq!(target(";pn-type=firebase;app-id=929724111839;pn-tok=a:b").prid.reveal(), "a:b");
    }

    #[test]
    fn query_absent_and_refused_are_three_things() {
        assert_eq!(read(""), PushParams::Absent);
        assert_eq!(read(";pn-provider"), PushParams::Query(None));
        assert_eq!(read(";pn-provider=acme"), PushParams::Query(Some("acme".into())));
        assert!(refusal(";pn-provider=acme;pn-prid=x").contains("not one of"));
        assert!(refusal(";pn-provider=apns;pn-param=T.b.voip&remote;pn-prid=aa").contains("which service"));
        assert!(refusal(";pn-provider=apns;pn-param=T.b.voip;pn-prid=xyz").contains("hexadecimal"));
        assert!(refusal(";pn-provider=fcm;pn-prid=").contains("empty"));
        assert!(refusal(";pn-provider=webpush;pn-param=x;pn-prid=a").contains("must not be used"));
        assert!(refusal(";pn-provider=fcm;pn-prid=a%00b").contains("character"));
        assert!(refusal(";pn-provider=fcm;pn-param=p%0d%0aX:1;pn-prid=a").contains("pn-param has a character"));
        assert!(
            refusal(&format!(";pn-provider=fcm;pn-param={};pn-prid=a", "p".repeat(513))).contains("pn-param is lo")
        );
    }

    #[test]
    fn apple_tokens_are_hexadecimal_in_every_spelling() {
        let both = ["pn-provider=apns;pn-param=T.b.voip;pn-prid=", "pn-type=apple;app-id=b.voip.prod;pn-tok="];
        for token in ["../../x", "", "00fg"] {
            for start in both {
                assert!(refusal(&format!(";{start}{token}")).contains("hexadecimal"), "{start}{token}");
            }
        }
        for start in both {
            let Tokens::Apple { voip, .. } = target(&format!(";{start}00FF")).tokens else { panic!("not Apple's") };
            assert_eq!(voip.unwrap().reveal(), "00ff");
        }
    }
}
