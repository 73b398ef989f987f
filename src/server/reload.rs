//! SIGHUP: the configuration is read again, and what can change while calls go on does.

use std::sync::Arc;

use super::{Server, policy};
use crate::config::{Auth, Config, Mode, Page, Problems, Register, Softswitch};
use crate::driver::Guidance;
use crate::logging;
use crate::push::Pushers;

impl Server {
    /// Reads the configuration and applies it. A wrong one changes nothing.
    pub(super) fn reload_from(&mut self, load: impl Fn() -> Result<Config, Problems>) {
        match load() {
            Ok(wanted) => self.reload(wanted),
            Err(problems) => tracing::error!("the configuration is wrong, nothing has changed:\n{problems}"),
        }
    }

    /// Applies what can change at run time, and says what cannot.
    pub fn reload(&mut self, wanted: Config) {
        let Some(runtime) = &self.runtime else { return };
        let next = changeable(&self.config, &wanted);
        // The pushing side starts with fresh limits and connections, so it is left alone where nothing concerns it.
        let pushers = if next.push == self.config.push {
            self.guidance.borrow().pushers.clone()
        } else {
            match Pushers::open(&policy::push_settings(&next), runtime.handle().clone()) {
                Ok(pushers) => {
                    pushers.warm_up();
                    pushers
                }
                Err(error) => return tracing::error!(%error, "credentials are wrong, nothing has changed"),
            }
        };
        if next.log != self.config.log
            && let Err(error) = logging::reload(&next.log)
        {
            tracing::warn!(%error, "the log stays as it is");
        }
        let policy = Arc::new(policy::policy(&next, &self.listeners, self.secret, pushers.clone()));
        // Without workers there is nobody to guide.
        let _ = self.guidance.send(Guidance { policy, pushers });
        self.config = next;
        let left = sections_that_differ(&self.config, &wanted);
        if left.is_empty() {
            tracing::info!("the configuration is read again and in effect");
        } else {
            tracing::warn!(
                sections = left.join(", "),
                "the configuration is read again; changes of these sections need a restart"
            );
        }
    }
}

/// Where it listens for browsers, a server does to its end.
fn page(config: &Config) -> Option<&Page> {
    config.push.webpush.as_ref().and_then(|webpush| webpush.page.as_ref())
}

/// The present configuration with those parts of the wanted one that can change at run time.
fn changeable(present: &Config, wanted: &Config) -> Config {
    let users = match (&present.register.mode, &wanted.register.mode) {
        (Mode::Local(Auth::Digest(_)), Mode::Local(Auth::Digest(users))) => Mode::Local(Auth::Digest(users.clone())),
        (mode @ (Mode::Relay | Mode::Local(_)), _) => mode.clone(),
    };
    let mut push = wanted.push.clone();
    if let Some(webpush) = &mut push.webpush {
        webpush.page = page(present).cloned();
    }
    Config {
        hold: wanted.hold.clone(),
        missed_calls: wanted.missed_calls.clone(),
        push,
        log: wanted.log.clone(),
        softswitch: Softswitch { trusted: wanted.softswitch.trusted.clone(), ..present.softswitch.clone() },
        register: Register { mode: users, ..present.register.clone() },
        ..present.clone()
    }
}

fn sections_that_differ(present: &Config, wanted: &Config) -> Vec<&'static str> {
    let sections = [
        ("node", present.node == wanted.node),
        ("push.webpush.listen", page(present) == page(wanted)),
        ("sip", present.sip == wanted.sip),
        ("softswitch", present.softswitch == wanted.softswitch),
        ("register", present.register == wanted.register),
        ("notification", present.notification == wanted.notification),
        ("events", present.events == wanted.events),
        ("limits", present.limits == wanted.limits),
        ("store", present.store == wanted.store),
        ("admin", present.admin == wanted.admin),
    ];
    sections.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let base = "[sip]\nadvertise = \"192.0.2.10\"\n[softswitch]\nuri = \"sip:192.0.2.20\"\n";
        Config::parse(&format!("{base}{text}"), Path::new("config.toml")).unwrap()
    }

    #[test]
    fn only_what_can_change_does() {
        let present = config("");
        let wanted = config("[hold]\nwait_s = 5\n[node]\ndrain_s = 1\n[limits]\nheaders = 64\n");
        let next = changeable(&present, &wanted);
        assert_eq!(next.hold, wanted.hold);
        assert_eq!(next.limits, present.limits);
        assert_eq!(sections_that_differ(&next, &wanted), ["node", "limits"]);
    }
}
