//! REGISTER (RFC 3261 §10, RFC 8599 §5.6.1): what its Contacts say, which devices they are, and what is kept of them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::contact::{FeatureCaps, params_without_expires};
use super::context::{Context, Purpose};
use super::event::{Contacts, Effect, Warning};
use super::former_contact::FormerContact;
use super::policy::Mode;
use super::{BUSY_RETRY_AFTER_S, Proxy, Reject};
use crate::binding::{Aor, App, Binding, DeviceId, Home, Provider, PushTarget, Upstream};
use crate::clock::Now;
use crate::push::NoticeKind;
use crate::sip::push_param::PushParams;
use crate::sip::{HeaderName, Message, NameAddr, Uri, scan};
use crate::store::{Applied, Change, Removal, StoreError};
use crate::transaction::ServerId;

/// Contacts in one REGISTER; more are refused.
const CONTACTS_MAX: usize = 10;
/// What a binding keeps of a REGISTER, which lives for ever, is bounded. A Contact with the endpoint of a browser's
/// subscription has about 700 bytes, one with both tokens of an iPhone 400.
const CONTACT_BYTES_MAX: usize = 4096;
const PATH_BYTES_MAX: usize = 2048;
const AOR_BYTES_MAX: usize = 512;
const CALL_ID_BYTES_MAX: usize = 512;
/// What is longer is cut: it is for people only.
const USER_AGENT_BYTES_MAX: usize = 256;

/// A REGISTER that is on its way: what will be saved when it is accepted.
#[derive(Debug)]
pub(super) struct Registration {
    pub aor: Aor,
    /// One of each device.
    pub contacts: Vec<RegisterContact>,
    pub former: Vec<FormerContact>,
    /// `Contact: *`: all bindings of the AOR end.
    pub is_star: bool,
    /// Whose flow the devices are on: this node's.
    pub home: Option<Home>,
    /// RFC 8599 §5.6.1.1.
    pub feature_caps: FeatureCaps,
    /// Contacts that it takes out at the softswitch, whose phone did not say so.
    pub earlier: Vec<Box<[u8]>>,
    /// Whether the softswitch has wanted to be asked for more, and was.
    pub has_been_brief: bool,
    /// The upstream 2xx, while the change is on its way to be durable; `None` in local mode.
    pub accepted: Option<Message>,
    /// What is being saved, and for how long each device was away before.
    pub put: Vec<(Arc<Binding>, Duration)>,
    /// What is wrong with push parameters, where that is new.
    pub warnings: Vec<Warning>,
}

/// One Contact of a REGISTER.
#[derive(Debug, Clone)]
pub(super) struct RegisterContact {
    pub device: DeviceId,
    /// Where its value and its URI stand in the request.
    pub value: Range<usize>,
    pub uri: Range<usize>,
    /// Header parameters but `expires`, each with its `;`.
    pub params: Box<[u8]>,
    /// Asked for by `expires` or Expires; `None`: the registrar decides.
    pub expires: Option<u32>,
    pub instance: Option<Box<str>>,
    pub reg_id: Option<u32>,
    pub label: Option<Box<str>>,
    pub push: Option<PushTarget>,
    pub push_refused: Option<Box<str>>,
    /// Whether it names its binding by more than an address, so that expires=0 ends that for good.
    pub names_device: bool,
    /// What the softswitch is asked for in its place, and what it has granted (`register.expires_upstream_s`).
    pub asked_upstream: Option<u32>,
    pub granted_upstream: Option<u32>,
    /// Other bindings of the same device under older names.
    pub replaced: Vec<DeviceId>,
}

impl Proxy {
    pub(super) fn register(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        if Uri::parse(context.request.uri()).is_err() {
            // A registrar has a domain (RFC 3261 §10.2).
            return self.reject(context, &Reject::of(416), now);
        }
        match self.read_registration(&context.request, contacts) {
            Ok(registration) if self.policy.mode == Mode::Relay => self.relay(context, registration, contacts, now),
            Ok(registration) => self.register_locally(context, registration, contacts, now),
            Err(reject) => self.reject(context, &reject, now),
        }
    }

    /// Everything that can be known before the registrar speaks.
    fn read_registration(&self, request: &Message, contacts: &dyn Contacts) -> Result<Registration, Reject> {
        let to = request.to().ok_or_else(|| Reject::of(400))?;
        let uri = to.parse_uri().map_err(|_| Reject::new(400, "Bad To"))?;
        if !self.policy.serves(uri.host) {
            return Err(Reject::new(403, "Domain Not Served"));
        }
        let aor = self.policy.aor(&uri).ok_or_else(|| Reject::new(400, "Bad Address Of Record"))?;
        let existing = contacts.of_aor(&aor);
        let values: Vec<&[u8]> = request.values(HeaderName::Contact).collect();
        if values.len() > CONTACTS_MAX {
            return Err(Reject::new(403, "Too Many Contacts"));
        }
        check_lengths(request, &values, &aor)?;
        let is_star = values.contains(&&b"*"[..]);
        if is_star && (values.len() > 1 || request.number(HeaderName::Expires) != Some(0)) {
            return Err(Reject::new(400, "Bad Contact"));
        }
        let mut registration = Registration {
            aor,
            contacts: Vec::new(),
            former: Vec::new(),
            is_star,
            home: self.policy.home,
            feature_caps: FeatureCaps::default(),
            earlier: Vec::new(),
            has_been_brief: false,
            accepted: None,
            put: Vec::new(),
            warnings: Vec::new(),
        };
        // A proxy nearer to the device takes care of its pushes (RFC 8599 §5.6.1.1).
        let is_pushed_elsewhere = request
            .values(HeaderName::FeatureCaps)
            .any(|value| scan::params(value).any(|param| param.name.eq_ignore_ascii_case(b"+sip.pns")));
        for value in values.into_iter().filter(|_| !is_star) {
            let contact = self.read_contact(request, value, &mut registration, &existing, is_pushed_elsewhere)?;
            registration.contacts.push(contact);
        }
        self.set_former_apart(request, &mut registration, contacts);
        Ok(registration)
    }

    fn read_contact(
        &self,
        request: &Message,
        value: &[u8],
        registration: &mut Registration,
        existing: &[Arc<Binding>],
        is_pushed_elsewhere: bool,
    ) -> Result<RegisterContact, Reject> {
        let bad = || Reject::new(400, "Bad Contact");
        let parsed = NameAddr::parse(value).ok_or_else(bad)?;
        let uri = parsed.parse_uri().map_err(|_| bad())?;
        let param = |name: &str| parsed.param(name).flatten();
        let expires = param("expires")
            .map(|expires| scan::number(expires).unwrap_or(3600))
            .or_else(|| request.number(HeaderName::Expires))
            .map(|expires| u32::try_from(expires).unwrap_or(u32::MAX));
        let params = if is_pushed_elsewhere { PushParams::Absent } else { PushParams::read(&uri, parsed.params) };
        let wants_pnsreg = parsed.param("+sip.pnsreg").is_some();
        let (push, push_refused) = self.accept_push(params, wants_pnsreg, &mut registration.feature_caps)?;
        let label = uri.param("label").or_else(|| parsed.param("label")).flatten();
        let mut contact = RegisterContact {
            device: DeviceId([0; 10]),
            value: request.span_of(value),
            uri: request.span_of(parsed.uri),
            params: params_without_expires(parsed.params),
            expires,
            instance: param("+sip.instance").map(|value| scan::text(&scan::unquote(value))),
            reg_id: param("reg-id").and_then(scan::number).and_then(|id| u32::try_from(id).ok()),
            label: label.map(|label| scan::text(&scan::unescape(&scan::unquote(label)))),
            push,
            push_refused,
            names_device: false,
            asked_upstream: None,
            granted_upstream: None,
            replaced: Vec::new(),
        };
        self.identify(&mut contact, &uri, &registration.aor, existing);
        Ok(contact)
    }

    /// What push parameters come to: a target, or a reason why there is none.
    fn accept_push(
        &self,
        params: PushParams,
        wants_pnsreg: bool,
        feature_caps: &mut FeatureCaps,
    ) -> Result<(Option<PushTarget>, Option<Box<str>>), Reject> {
        let refuse = |reason: Box<str>| {
            if self.policy.registrar.refuse_unsupported_pns { Err(Reject::of(555)) } else { Ok((None, Some(reason))) }
        };
        let announce = |provider: Provider, feature_caps: &mut FeatureCaps| {
            let vapid_key = (provider == Provider::WebPush).then(|| self.policy.push.vapid_key()).flatten();
            feature_caps.announce(provider, vapid_key.as_deref(), wants_pnsreg);
        };
        let supports = |target: &PushTarget| self.policy.push.supports(target, NoticeKind::Invite);
        let accept = |target: PushTarget, flaw, feature_caps: &mut FeatureCaps| match supports(&target) {
            Ok(()) => {
                for each in target.ranked() {
                    let alone = PushTarget { others: Box::default(), ..each.clone() };
                    if supports(&alone).is_ok() {
                        announce(alone.provider, feature_caps);
                    }
                }
                Ok((Some(target), flaw))
            }
            Err(reason) => refuse(reason),
        };
        match params {
            PushParams::Absent => Ok((None, None)),
            PushParams::Query(asked) => {
                let providers = self.policy.push.providers();
                let asked_for =
                    |provider: &Provider| asked.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(provider.name()));
                let answer: Vec<_> = providers.into_iter().filter(asked_for).collect();
                if answer.is_empty() && asked.is_some() && self.policy.registrar.refuse_unsupported_pns {
                    return Err(Reject::of(555));
                }
                for provider in answer {
                    announce(provider, feature_caps);
                }
                Ok((None, None))
            }
            PushParams::Refused { reason, .. } => refuse(reason),
            PushParams::Target(target) => accept(target, None, feature_caps),
            PushParams::Half { target, reason } => accept(target, Some(reason), feature_caps),
        }
    }

    /// Finds which device a Contact is: the one that its instance, else its label, else its push token, else its
    /// address names; and the older names of the same device. A device keeps the first name that it got.
    fn identify(&self, contact: &mut RegisterContact, uri: &Uri<'_>, aor: &Aor, existing: &[Arc<Binding>]) {
        let by_instance = |binding: &&Arc<Binding>| {
            contact.instance.is_some() && binding.instance == contact.instance && binding.reg_id == contact.reg_id
        };
        let by_label = |binding: &&Arc<Binding>| contact.label.is_some() && binding.label == contact.label;
        let is_same_push = |(own, known): (&PushTarget, &PushTarget)| own.is_same_param(known);
        let by_push = |binding: &&Arc<Binding>| {
            !binding.is_token_device() && contact.push.as_ref().zip(binding.push.as_ref()).is_some_and(is_same_push)
        };
        let by_address = |binding: &&Arc<Binding>| Uri::parse(&binding.contact).is_ok_and(|known| known.is_same(uri));
        let strong: Vec<DeviceId> = [
            existing.iter().filter(by_instance).collect::<Vec<_>>(),
            existing.iter().filter(by_label).collect(),
            existing.iter().filter(by_push).collect(),
        ]
        .into_iter()
        .flatten()
        .map(|binding| binding.device)
        .collect();
        let is_anonymous = contact.instance.is_none() && contact.label.is_none() && contact.push.is_none();
        let by_address = existing.iter().find(by_address).filter(|_| is_anonymous).map(|binding| binding.device);
        contact.names_device = !strong.is_empty();
        contact.device = strong.first().copied().or(by_address).unwrap_or_else(|| self.new_device(contact, uri, aor));
        contact.replaced = strong.into_iter().filter(|device| *device != contact.device).collect();
    }

    fn new_device(&self, contact: &RegisterContact, uri: &Uri<'_>, aor: &Aor) -> DeviceId {
        let reg_id = contact.reg_id.unwrap_or(0).to_be_bytes();
        match (&contact.instance, &contact.label, &contact.push) {
            (Some(instance), _, _) => self.keys.device_id(aor, "instance", &[instance.as_bytes(), &reg_id]),
            (None, Some(label), _) => self.keys.device_id(aor, "label", &[label.as_bytes()]),
            (None, None, Some(push)) => {
                let mark = [push.provider.name().as_bytes(), push.prid.reveal().as_bytes(), push.param.as_bytes()];
                self.keys.device_id(aor, "push", &mark)
            }
            (None, None, None) => {
                let port = uri.port.unwrap_or(0).to_be_bytes();
                let mark = [uri.user.unwrap_or_default(), &uri.host.to_ascii_lowercase(), &port];
                self.keys.device_id(aor, "address", &mark)
            }
        }
    }

    /// `contacts_per_aor_max` is kept by refusing the newcomer: nobody is thrown out. Token devices have their own limit.
    pub(super) fn check_count(
        &self,
        registration: &Registration,
        contacts: &dyn Contacts,
        now: Now,
    ) -> Result<(), Reject> {
        let existing = contacts.of_aor(&registration.aor);
        let stays = |binding: &&Arc<Binding>| {
            !binding.is_over(now.unix)
                && !binding.is_token_device()
                && registration
                    .contacts
                    .iter()
                    .all(|contact| contact.device != binding.device && !contact.replaced.contains(&binding.device))
        };
        let added = registration.contacts.iter().filter(|contact| contact.expires != Some(0)).count();
        let is_new = registration.contacts.iter().any(|contact| {
            contact.expires != Some(0) && existing.iter().all(|binding| binding.device != contact.device)
        });
        let count = existing.iter().filter(stays).count() + added;
        if is_new && count > self.policy.registrar.contacts_per_aor_max {
            return Err(Reject::new(403, "Too Many Contacts"));
        }
        Ok(())
    }

    /// The bindings are durable, so the phone may be told; calls that wait for it go on.
    pub(super) fn registration_saved(
        &mut self,
        server: ServerId,
        result: Result<Applied, StoreError>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let mut woken = Vec::new();
        self.with_context(server, |proxy, context| {
            let Purpose::Registration(registration) = &mut context.purpose else { return };
            if result.is_err() {
                return proxy.reject(context, &Reject::busy(BUSY_RETRY_AFTER_S), now);
            }
            woken = std::mem::take(&mut registration.put);
            let warnings = std::mem::take(&mut registration.warnings);
            let accepted = registration.accepted.take();
            context.responses.is_final = true;
            let bytes = match accepted {
                Some(response) => proxy.relayed_2xx(context, &response, contacts),
                None => proxy.own_2xx(context, contacts, now),
            };
            proxy.transactions.respond(server, 200, bytes, now.instant);
            proxy.effects.extend(warnings.into_iter().map(Effect::Warning));
        });
        self.collect_sends();
        for (binding, absence) in woken {
            self.effects.push_back(Effect::Woken(Arc::clone(&binding)));
            self.wake(&binding, contacts, now);
            self.report_missed(&binding, absence, contacts, now);
        }
    }
}

impl Registration {
    /// The change that this registration is, with the seconds granted to each contact; `None`: it stays as it was.
    pub(super) fn change(
        &mut self,
        request: &Message,
        flow: crate::sip::Flow,
        granted: &[Option<u32>],
        contacts: &dyn Contacts,
        now: Now,
    ) -> Change {
        let existing = contacts.of_aor(&self.aor);
        let mut remove: Vec<Removal> = Vec::new();
        if self.is_star {
            // A token that came by another way ends by that way.
            let registered = existing.iter().filter(|binding| !binding.is_token_device());
            remove.extend(registered.map(|binding| Removal { device: binding.device, heir: None }));
        }
        for (contact, granted) in self.contacts.iter().zip(granted) {
            let Some(granted) = granted else { continue };
            let known = existing.iter().find(|binding| binding.device == contact.device);
            let keeps = known.is_some_and(|known| known.push.is_some() && !contact.names_device);
            if *granted == 0 && !keeps {
                let names = std::iter::once(&contact.device).chain(&contact.replaced);
                remove.extend(names.map(|device| Removal { device: *device, heir: None }));
                continue;
            }
            let replaced = contact.replaced.iter();
            remove.extend(replaced.map(|device| Removal { device: *device, heir: Some(contact.device) }));
            let mut binding = new_binding(&self.aor, request, contact, (flow, self.home), *granted, now);
            if let Some(known) = known.filter(|_| *granted == 0) {
                // Gone from its address, but it named neither itself nor its token: it can still be pushed. The
                // softswitch was told that it is gone, too.
                let upstream = self.accepted.is_some().then(|| Upstream {
                    registered_at: now.unix,
                    expires_at: now.unix,
                    refused: Some("the phone has unregistered".into()),
                });
                binding = Binding { expires_at: now.unix, upstream, ..Binding::clone(known) };
            }
            let was_refused = known.and_then(|known| known.push_refused.as_deref());
            if let Some(reason) = binding.push_refused.as_deref().filter(|reason| was_refused != Some(reason)) {
                self.warnings.push(Warning::PushParameters {
                    aor: self.aor.clone(),
                    device: binding.device,
                    reason: reason.into(),
                    is_pushed: binding.push.is_some(),
                });
            }
            let absence = known.map_or(Duration::MAX, |known| now.unix.since(known.registered_at));
            self.put.push((Arc::new(binding), absence));
        }
        let put = self.put.iter().map(|(binding, _)| Binding::clone(binding)).collect();
        self.put.retain(|(binding, _)| binding.is_reachable(now.unix));
        Change::Register { aor: self.aor.clone(), put, remove }
    }
}

fn check_lengths(request: &Message, contacts: &[&[u8]], aor: &Aor) -> Result<(), Reject> {
    let path: usize = request.fields(HeaderName::Path).map(|field| field.value().len()).sum();
    let too_long = [
        (contacts.iter().any(|contact| contact.len() > CONTACT_BYTES_MAX), "Contact Too Long"),
        (path > PATH_BYTES_MAX, "Path Too Long"),
        (aor.as_str().len() > AOR_BYTES_MAX, "Address Of Record Too Long"),
        (request.call_id().len() > CALL_ID_BYTES_MAX, "Call-ID Too Long"),
    ];
    match too_long.into_iter().find(|(is_too_long, _)| *is_too_long) {
        Some((_, reason)) => Err(Reject::new(400, reason)),
        None => Ok(()),
    }
}

fn user_agent(value: &[u8]) -> Box<str> {
    scan::text(value.get(..USER_AGENT_BYTES_MAX).unwrap_or(value))
}

fn new_binding(
    aor: &Aor,
    request: &Message,
    contact: &RegisterContact,
    (flow, home): (crate::sip::Flow, Option<Home>),
    granted: u32,
    now: Now,
) -> Binding {
    let paths: Vec<&[u8]> = request.values(HeaderName::Path).collect();
    Binding {
        aor: aor.clone(),
        device: contact.device,
        instance: contact.instance.clone(),
        reg_id: contact.reg_id,
        label: contact.label.clone(),
        contact: request.slice(contact.uri.clone()).into(),
        contact_params: contact.params.clone(),
        path: paths.join(&b", "[..]).into(),
        flow,
        home,
        call_id: scan::text(request.call_id()),
        cseq: request.cseq().map_or(0, |cseq| cseq.number),
        registered_at: now.unix,
        expires_at: now.unix.after(Duration::from_secs(granted.into())),
        push: contact.push.clone(),
        push_refused: contact.push_refused.clone(),
        app: App { user_agent: request.first(HeaderName::UserAgent).map(user_agent), locale: None },
        upstream: contact.granted_upstream.map(|seconds| Upstream {
            registered_at: now.unix,
            expires_at: now.unix.after(Duration::from_secs(seconds.into())),
            refused: None,
        }),
    }
}
