//! Which push services the simulated operator has switched on.

use std::collections::BTreeSet;

use sip_push_proxy::binding::{Provider, PushTarget, Tokens};
use sip_push_proxy::proxy::PushSupport;
use sip_push_proxy::push::NoticeKind;

/// FCM, APNs and its sandbox are switched on, but for params that say otherwise.
#[derive(Debug, Default)]
pub(crate) struct Support {
    pub(crate) off: BTreeSet<Provider>,
    /// Whether apps know a call again that they have been pushed.
    pub(crate) knows_calls_again: bool,
}

impl PushSupport for Support {
    fn supports(&self, target: &PushTarget, kind: NoticeKind) -> Result<(), Box<str>> {
        let is_on = |target: &&PushTarget| self.providers().contains(&target.provider);
        let takes = |target: &PushTarget| {
            kind == NoticeKind::Invite || !matches!(target.tokens, Tokens::Apple { remote: None, .. })
        };
        match target.ranked().find(is_on) {
            None => Err("the provider is switched off".into()),
            Some(_) if !target.ranked().filter(is_on).any(takes) => Err("a voip token takes calls only".into()),
            Some(_) => Ok(()),
        }
    }

    fn knows_calls_again(&self, _target: &PushTarget) -> bool {
        self.knows_calls_again
    }

    fn providers(&self) -> Vec<Provider> {
        let on = [Provider::Fcm, Provider::Apns, Provider::ApnsDev];
        on.into_iter().filter(|provider| !self.off.contains(provider)).collect()
    }
}
