//! Which push services the simulated operator has switched on.

use std::collections::BTreeSet;

use sip_push_proxy::binding::{Provider, PushTarget};
use sip_push_proxy::proxy::PushSupport;

/// FCM, APNs and its sandbox are switched on, but for params that say otherwise.
#[derive(Debug, Default)]
pub(crate) struct Support {
    pub(crate) off: BTreeSet<Provider>,
}

impl PushSupport for Support {
    fn supports(&self, target: &PushTarget) -> Result<(), Box<str>> {
        match self.providers().contains(&target.provider) {
            true => Ok(()),
            false => Err("the provider is switched off".into()),
        }
    }

    fn providers(&self) -> Vec<Provider> {
        let on = [Provider::Fcm, Provider::Apns, Provider::ApnsDev];
        on.into_iter().filter(|provider| !self.off.contains(provider)).collect()
    }
}
