//! Settings that are compared.

use std::time::Duration;

use sip_push_proxy::proxy::Policy;
use sip_push_proxy::proxy::policy::PushWhen;
use sip_push_proxy::push::BreakerSettings;

use crate::options;

/// One way to set the proxy.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// What differs from the defaults.
    change: fn(&mut Policy),
    /// Seconds after an accepted push at which it is repeated.
    repeat_s: &'static [u64],
    /// Whether pushes by APNs may be repeated.
    pub(super) repeats_apns: bool,
    pub(super) breaker: BreakerSettings,
    /// What happens when the process is killed.
    pub(super) crash: Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// It is started again.
    Restart,
    /// Another node on the same Redis has its address then, and its calls after `node.lease_s`, in seconds.
    NodeLoss(u64),
}

/// The defaults of `push.breaker_failures` and `push.breaker_pause_ms`.
const BREAKER: BreakerSettings = BreakerSettings { failures: 10, pause: Duration::from_secs(1) };

const DEFAULT: Plan = Plan {
    name: "default",
    change: |_| {},
    repeat_s: &[3, 8],
    repeats_apns: false,
    breaker: BREAKER,
    crash: Crash::Restart,
};

/// The defaults first.
pub(crate) const PLANS: [Plan; 11] = [
    DEFAULT,
    Plan { name: "no_repeats", repeat_s: &[], ..DEFAULT },
    Plan { name: "breaker_off", breaker: BreakerSettings { failures: u32::MAX, ..BREAKER }, ..DEFAULT },
    Plan { name: "breaker_pause_5", breaker: BreakerSettings { pause: Duration::from_secs(5), ..BREAKER }, ..DEFAULT },
    Plan { name: "node_loss", crash: Crash::NodeLoss(10), ..DEFAULT },
    Plan { name: "node_loss_lease_3", crash: Crash::NodeLoss(3), ..DEFAULT },
    Plan { name: "unreachable", change: |policy| policy.hold.push_when = PushWhen::Unreachable, ..DEFAULT },
    Plan { name: "fresh_15", change: |policy| policy.hold.fresh = Duration::from_secs(15), ..DEFAULT },
    Plan { name: "wait_60", change: |policy| policy.hold.wait = Duration::from_secs(60), ..DEFAULT },
    Plan {
        name: "extended_wait_60",
        change: |policy| policy.hold.wait = Duration::from_secs(60),
        repeats_apns: true,
        ..DEFAULT
    },
    Plan {
        name: "extended_1_3_8",
        change: |policy| policy.hold.wait = Duration::from_secs(60),
        repeats_apns: true,
        repeat_s: &[1, 3, 8],
        ..DEFAULT
    },
];

impl Plan {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        PLANS.iter().find(|plan| plan.name == name)
    }

    pub(super) fn policy(&self) -> Policy {
        let mut policy = options::policy();
        policy.push_repeat = self.repeat_s.iter().copied().map(Duration::from_secs).collect();
        (self.change)(&mut policy);
        policy
    }
}
