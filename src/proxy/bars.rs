//! Devices that are not pushed for what their provider has said of their token, where that does not end the binding: so it
//! is until the device registers anew, the operator changes something, or a push to it is taken.

use std::collections::HashMap;

use crate::binding::{Binding, DeviceId};
use crate::clock::UnixMillis;
use crate::push::{NoticeKind, Outcome};
use crate::timeline::{Reason, Why};

/// Devices that are remembered; beyond it all are forgotten, and each is found out again by one push.
const DEVICES_MAX: usize = 100_000;

/// What a push has shown of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Its token does not do.
    Barred(Barred),
    /// Its token does.
    Works(DeviceId),
}

/// A device whose token does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barred {
    pub device: DeviceId,
    /// Of the REGISTER that brought the token.
    pub registered_at: UnixMillis,
    /// When the push was sent that has shown it.
    pub sent_at: UnixMillis,
    pub why: Why,
}

impl Finding {
    /// Of a push to the token that calls go to. What is said of another token of the device is no word on its calls, and
    /// what is said of an earlier registration is none on this one.
    pub fn of(binding: &Binding, notice: NoticeKind, outcome: &Outcome, sent_at: UnixMillis) -> Option<Self> {
        let target = binding.push.as_ref()?;
        if notice.token(target) != NoticeKind::Invite.token(target) || binding.registered_at > sent_at {
            return None;
        }
        let (reason, words) = match outcome {
            Outcome::Accepted => return Some(Self::Works(binding.device)),
            Outcome::Misfit { reason } => (Reason::TokenMisfit, reason),
            Outcome::Doubted { reason } => (Reason::DeathDoubted, reason),
            // The binding ends by the first; the others say nothing of the token.
            Outcome::TokenDead { .. }
            | Outcome::TryAgain { .. }
            | Outcome::Refused { .. }
            | Outcome::Locked { .. }
            | Outcome::Limited
            | Outcome::Skipped { .. }
            | Outcome::Withdrawn => return None,
        };
        let words = format!("{words}; not pushed before it registers anew, the server reloads, or `push` works");
        let (device, registered_at) = (binding.device, binding.registered_at);
        Some(Self::Barred(Barred { device, registered_at, sent_at, why: Why::new(reason, words) }))
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Bars {
    devices: HashMap<DeviceId, (UnixMillis, Why)>,
    /// What was sent earlier was sent with other settings.
    lifted_at: UnixMillis,
}

impl Bars {
    pub fn learn(&mut self, finding: Finding) {
        match finding {
            Finding::Works(device) => self.lift(device),
            Finding::Barred(Barred { sent_at, .. }) if sent_at < self.lifted_at => {}
            Finding::Barred(Barred { device, registered_at, why, .. }) => {
                if self.devices.len() >= DEVICES_MAX {
                    self.devices.clear();
                }
                self.devices.insert(device, (registered_at, why));
            }
        }
    }

    /// A push to it was taken.
    pub fn lift(&mut self, device: DeviceId) {
        self.devices.remove(&device);
    }

    /// The operator may have mended what was wrong.
    pub fn lift_all(&mut self, now: UnixMillis) {
        self.devices.clear();
        self.lifted_at = now;
    }

    /// Whether a device may be pushed; else why not.
    pub fn check(&self, binding: &Binding) -> Result<(), Why> {
        match self.devices.get(&binding.device) {
            Some((registered_at, why)) if *registered_at == binding.registered_at => Err(why.clone()),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Aor, Provider, PushTarget, PushToken, Tokens};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn later(ms: u64) -> UnixMillis {
        UnixMillis(NOW.0 + ms)
    }

    fn device(tokens: Tokens) -> Binding {
        let target = PushTarget {
            provider: Provider::Apns,
            prid: PushToken::new("aa"),
            param: "".into(),
            tokens,
            others: Box::default(),
        };
        Binding::of_token(Aor::new("alice", "example.org"), DeviceId([1; 10]), target, None, NOW)
    }

    fn misfit() -> Outcome {
        Outcome::Misfit { reason: "400 BadDeviceToken".into() }
    }

    fn barred(binding: &Binding, sent_at: UnixMillis) -> Finding {
        Finding::of(binding, NoticeKind::Invite, &misfit(), sent_at).unwrap()
    }

    #[test]
    fn a_device_is_barred_until_it_registers_or_a_push_is_taken_or_the_operator_reloads() {
        let binding = device(Tokens::Single);
        let mut bars = Bars::default();
        bars.learn(barred(&binding, later(1)));
        let why = bars.check(&binding).unwrap_err();
        assert!(why.reason == Reason::TokenMisfit && why.text().starts_with("400 BadDeviceToken; not pushed before"));
        assert_eq!(bars.check(&Binding { registered_at: later(5), ..binding.clone() }), Ok(()));
        bars.learn(Finding::of(&binding, NoticeKind::Text, &Outcome::Accepted, later(6)).unwrap());
        assert_eq!(bars.check(&binding), Ok(()));
        bars.learn(barred(&binding, later(7)));
        bars.lift_all(later(9));
        assert_eq!(bars.check(&binding), Ok(()));
        bars.learn(barred(&binding, later(8)));
        assert_eq!(bars.check(&binding), Ok(()), "it was sent with the settings of before");
        bars.learn(barred(&binding, later(10)));
        assert!(bars.check(&binding).is_err());
    }

    #[test]
    fn only_what_is_said_of_the_token_of_calls_and_of_this_registration_bars() {
        let remote = Tokens::Apple {
            team: "".into(),
            bundle: "".into(),
            voip: Some(PushToken::new("aa")),
            remote: Some(PushToken::new("bb")),
        };
        let binding = device(remote);
        let of = |notice, sent_at| Finding::of(&binding, notice, &misfit(), sent_at).is_some();
        assert!(of(NoticeKind::Invite, later(1)) && !of(NoticeKind::MissedCalls, later(1)));
        assert!(!of(NoticeKind::Invite, UnixMillis(NOW.0 - 1)));
        for outcome in [Outcome::TokenDead { since: None, reason: "410".into() }, Outcome::Limited, Outcome::busy()] {
            assert_eq!(Finding::of(&binding, NoticeKind::Invite, &outcome, later(1)), None);
        }
        let doubted = Outcome::Doubted { reason: "410".into() };
        let Some(Finding::Barred(barred)) = Finding::of(&binding, NoticeKind::Invite, &doubted, later(1)) else {
            panic!("should bar")
        };
        assert_eq!(barred.why.reason, Reason::DeathDoubted);
    }
}
