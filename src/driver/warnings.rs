//! What keeps phones from being called and is for the operator, or the app's author, to mend. What comes for each phone is
//! told once a minute.

use std::time::{Duration, Instant};

use crate::proxy::Warning;

/// Of each kind.
const EVERY: Duration = Duration::from_secs(60);

/// When each kind was told of last.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    register_from_trusted: Option<Instant>,
    contact_not_listed: Option<Instant>,
    brief_upstream: Option<Instant>,
    strange_switch: Option<Instant>,
    ambiguous_user: Option<Instant>,
}

impl Warnings {
    pub(super) fn tell(&mut self, warning: &Warning, now: Instant) {
        match warning {
            Warning::RegisterFromTrusted { source } => {
                if is_due(&mut self.register_from_trusted, now) {
                    tracing::warn!(
                        %source,
                        "a REGISTER from an address of softswitch.trusted is refused: trust the softswitch's own address \
                         alone, or set register.phones_behind_trusted = true where phones share it"
                    );
                }
            }
            Warning::StrangeSwitch { source, is_loop } => {
                if is_due(&mut self.strange_switch, now) {
                    tracing::warn!(
                        %source,
                        is_loop,
                        "a call from an address that is not in softswitch.trusted is taken for a phone's and rings nobody: if the \
                         address is the softswitch's, add it to softswitch.trusted"
                    );
                }
            }
            Warning::AmbiguousUser { user } => {
                if is_due(&mut self.ambiguous_user, now) {
                    tracing::warn!(
                        user,
                        "the softswitch calls a user by this server's address, and there are several of that name: name the \
                         domain that is meant in register.domains, or have the softswitch call user@domain"
                    );
                }
            }
            Warning::BriefUpstream { asked, least } => {
                if is_due(&mut self.brief_upstream, now) {
                    tracing::warn!(
                        asked,
                        least,
                        "the softswitch takes no registration for less: asked for that from now on; raise \
                         register.expires_upstream_s"
                    );
                }
            }
            // Of a device only when it is another fault than at its last REGISTER.
            Warning::PushParameters { aor, device, reason, is_pushed } => tracing::info!(
                %aor,
                %device,
                reason,
                "{}",
                if *is_pushed {
                    "a phone has registered with one good push token of two"
                } else {
                    "a phone has registered that cannot be pushed"
                }
            ),
            Warning::ContactNotListed { aor } => {
                tracing::debug!(%aor, "not in the softswitch's 2xx");
                if is_due(&mut self.contact_not_listed, now) {
                    tracing::warn!(
                        "the softswitch's 2xx to a REGISTER does not list the phone's Contact (RFC 3261 section 10.3), so \
                         the phone is not bound and cannot be called"
                    );
                }
            }
        }
    }
}

fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= EVERY);
    if is_due {
        *told = Some(now);
    }
    is_due
}
