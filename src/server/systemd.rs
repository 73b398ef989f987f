//! What systemd is told of the server (sd_notify(3)). Where nobody listens, all of it does nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::readiness::Report;

/// Beats in the time after which systemd takes a silent server for dead: one may be late.
const BEATS_PER_LIFE: u32 = 3;
/// What a drain may take beyond `node.drain_s`: the store writes what it has accepted.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// It listens, and its store is open.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is about to be read again; [`ready`] when it has been.
pub(super) fn reloading() {
    // systemd 253 and later wants to know the time of it, to tell one reload from the next.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// Held calls go on for `drain` at most. More than TimeoutStopSec= is granted, so that `node.drain_s` alone decides.
pub(super) fn stopping(drain: Duration) {
    let needed = u32::try_from((drain + STOP_MARGIN).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(needed)]);
}

/// Status text and heartbeat, as the server is found at each look.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// `None`: systemd does not listen for it.
    every: Option<Duration>,
    next: Option<Instant>,
    told: Option<Report>,
}

impl Heartbeat {
    /// As often as the unit's WatchdogSec= asks for.
    pub(super) fn new() -> Self {
        Self { every: sd_notify::watchdog_enabled().map(|life| life / BEATS_PER_LIFE), next: None, told: None }
    }

    /// Tells how the server is, when that has changed. There is a beat only while it `lives`.
    pub(super) fn look(&mut self, report: Report, lives: bool, now: Instant) {
        if self.told.as_ref() != Some(&report) {
            tell(&[NotifyState::Status(&status(&report))]);
            self.told = Some(report);
        }
        if let Some(every) = self.every
            && lives
            && self.next.is_none_or(|next| next <= now)
        {
            tell(&[NotifyState::Watchdog]);
            self.next = Some(now + every);
        }
    }
}

/// In one line: the next one would be another message to systemd, and providers have their words in this.
fn status(report: &Report) -> String {
    let text = if report.reasons.is_empty() {
        report.status.to_owned()
    } else {
        format!("{}: {}", report.status, report.reasons.join("; "))
    };
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_line() {
        let mut report = Report { is_ready: true, status: "ready", reasons: Vec::new() };
        assert_eq!(status(&report), "ready");
        report.status = "degraded";
        report.reasons = vec!["store: Redis is away".to_owned(), "push: a\nWATCHDOG=1".to_owned()];
        assert_eq!(status(&report), "degraded: store: Redis is away; push: a WATCHDOG=1");
    }
}
