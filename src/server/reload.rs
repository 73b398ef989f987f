//! SIGHUP and `POST /api/v1/reload`: the configuration is read again, and what can change while calls go on does.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Server, policy};
use crate::admin::{ReloadError, Reloaded};
use crate::config::{Auth, Config, Difference, Limits, Mode, Page, Problems, Register, Softswitch};
use crate::driver::{self, Guidance};
use crate::logging;
use crate::push::Pushers;

/// Somebody who waits for the end of a reload.
pub(super) type Asked = oneshot::Sender<Result<Reloaded, ReloadError>>;

impl Server {
    /// Reads the configuration and applies it. A wrong one changes nothing.
    pub(super) fn reload_from(&mut self, load: impl Fn() -> Result<Config, Problems>) -> Result<Reloaded, ReloadError> {
        let reloaded =
            load().map_err(|problems| ReloadError(problems.to_string())).and_then(|wanted| self.reload(wanted));
        match &reloaded {
            Ok(reloaded) => tell(reloaded),
            Err(ReloadError(why)) => tracing::error!("the configuration is wrong, nothing has changed:\n{why}"),
        }
        reloaded
    }

    /// Applies what can change at run time, and says what cannot.
    pub fn reload(&mut self, wanted: Config) -> Result<Reloaded, ReloadError> {
        let Some(runtime) = &self.runtime else { return Err(ReloadError("the server has stopped".to_owned())) };
        let next = changeable(&self.config, &wanted);
        // The pushing side starts with fresh limits and connections, so it is left alone where nothing concerns it.
        let pushers = if next.push == self.config.push {
            self.guidance.borrow().pushers.clone()
        } else {
            let pushers = Pushers::open(&policy::push_settings(&next), runtime.handle().clone())
                .map_err(|error| ReloadError(error.to_string()))?;
            pushers.warm_up();
            pushers
        };
        if next.log != self.config.log
            && let Err(error) = logging::reload(&next.log)
        {
            tracing::warn!(%error, "the log stays as it is");
        }
        let policy = Arc::new(policy::policy(&next, &self.listeners, self.refresh_from, self.secret, pushers.clone()));
        self.shared.store.table().remind_by(policy.push_refresh, driver::now().unix);
        let rules = Arc::new(policy::rules(&next));
        self.shared.door.guard.reload(Arc::clone(&rules));
        // Without workers there is nobody to guide.
        let _ = self.guidance.send(Guidance { policy, pushers, rules });
        // Whatever the operator has mended, here or elsewhere: one push each shows whether it works.
        self.shared.bars.write().lift_all(driver::now().unix);
        self.settings.send_replace(Arc::new(next.values.clone()));
        let reloaded = Reloaded { changed: changes(&self.config, &next), needs_restart: changes(&next, &wanted) };
        self.config = next;
        Ok(reloaded)
    }
}

fn tell(reloaded: &Reloaded) {
    let keys = |changes: &[Difference]| changes.iter().map(|change| &*change.key).collect::<Vec<_>>().join(", ");
    tracing::info!(changed = keys(&reloaded.changed), "the configuration is read again and in effect");
    if !reloaded.needs_restart.is_empty() {
        tracing::warn!(keys = keys(&reloaded.needs_restart), "these need a restart");
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
        limits: Limits {
            source_requests_per_s: wanted.limits.source_requests_per_s,
            auth_failures_per_min: wanted.limits.auth_failures_per_min,
            ban: wanted.limits.ban,
            scanners: wanted.limits.scanners.clone(),
            ..present.limits.clone()
        },
        softswitch: Softswitch { trusted: wanted.softswitch.trusted.clone(), ..present.softswitch.clone() },
        register: Register { mode: users, ..present.register.clone() },
        values: present.values.with(&wanted.values, is_changeable),
        ..present.clone()
    }
}

/// Of the keys above, as they are named in the file.
fn is_changeable(key: &str) -> bool {
    const OF_GUARD: [&str; 4] =
        ["limits.source_requests_per_s", "limits.auth_failures_per_min", "limits.ban_s", "limits.scanners"];
    const OF_PAGE: [&str; 3] = ["push.webpush.listen", "push.webpush.ticket_expires_s", "push.webpush.requests_per_s"];
    ["hold.", "missed_calls.", "push.", "log."].iter().any(|table| key.starts_with(table)) && !OF_PAGE.contains(&key)
        || matches!(key, "softswitch.trusted" | "register.users")
        || OF_GUARD.contains(&key)
}

/// The keys that differ, and the sections where only what their files say does.
fn changes(from: &Config, to: &Config) -> Vec<Difference> {
    let mut changes = from.values.differences(&to.values);
    for (section, is_same) in [
        ("node", from.node == to.node),
        ("sip", from.sip == to.sip),
        ("softswitch", from.softswitch == to.softswitch),
        ("register", from.register == to.register),
        ("push", from.push == to.push),
        ("notification", from.notification == to.notification),
        ("events", from.events == to.events),
        ("hep", from.hep == to.hep),
        ("opentelemetry", from.opentelemetry == to.opentelemetry),
        ("store", from.store == to.store),
        ("admin", from.admin == to.admin),
    ] {
        let is_told = changes.iter().any(|change| change.key.split('.').next() == Some(section));
        if !is_same && !is_told {
            changes.push(Difference { key: section.to_owned(), from: None, to: None });
        }
    }
    changes
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
        let wanted =
            config("[hold]\nwait_s = 5\n[node]\ndrain_s = 1\n[limits]\nheaders = 64\n[hep]\nserver = \"udp:h\"\n");
        let next = changeable(&present, &wanted);
        assert_eq!(next.hold, wanted.hold);
        assert_eq!(next.limits, present.limits);
        let keys = |changes: Vec<Difference>| changes.into_iter().map(|change| change.key).collect::<Vec<_>>();
        assert_eq!(keys(changes(&present, &next)), ["hold.wait_s"]);
        assert_eq!(keys(changes(&next, &wanted)), ["hep.server", "limits.headers", "node.drain_s"]);
    }

    #[test]
    fn limits_per_source_change_but_for_what_is_built_at_the_start() {
        let present = config("");
        let wanted = config(
            "[limits]\nsource_requests_per_s = 7\nsource_connections = 8\nsource_bytes = 70000\n\
             auth_failures_per_min = 9\nban_s = 10\nscanners = [\"nmap\"]\n",
        );
        let next = changeable(&present, &wanted);
        let keys = |changes: Vec<Difference>| changes.into_iter().map(|change| change.key).collect::<Vec<_>>();
        let in_effect =
            ["limits.auth_failures_per_min", "limits.ban_s", "limits.scanners", "limits.source_requests_per_s"];
        assert_eq!(keys(changes(&present, &next)), in_effect);
        assert_eq!(keys(changes(&next, &wanted)), ["limits.source_bytes", "limits.source_connections"]);
        let rules = policy::rules(&next);
        assert_eq!((rules.requests_per_s, rules.auth_failures_per_min, rules.ban.as_secs()), (7, 9, 10));
        assert!(rules.scanners.is_one(b"Nmap NSE") && !rules.scanners.is_one(b"friendly-scanner"));
    }

    #[test]
    fn where_browsers_subscribe_does_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("vapid.pem");
        std::fs::write(&key, include_str!("../demo/throwaway_vapid.pem")).unwrap();
        let webpush = |keys: &str| {
            config(&format!("[push.webpush]\nenabled = true\nvapid_key_file = \"{}\"\n{keys}", key.display()))
        };
        let present = webpush("listen = \"127.0.0.1:8081\"\n");
        let wanted = webpush("listen = \"127.0.0.1:8082\"\npayload = \"ecss\"\n");
        let next = changeable(&present, &wanted);
        assert_eq!(page(&next), page(&present));
        let keys = |changes: Vec<Difference>| changes.into_iter().map(|change| change.key).collect::<Vec<_>>();
        assert_eq!(keys(changes(&present, &next)), ["push.webpush.payload"]);
        assert_eq!(keys(changes(&next, &wanted)), ["push.webpush.listen"]);
    }
}
