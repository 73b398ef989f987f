//! Limits of each source (design: `[limits] source_…`): how many requests it may send, and how long it is shut out when
//! it tries passwords.
//!
//! Nothing of it is for the softswitch or other nodes of the same store: [`Guard::is_trusted`] goes before everything else.

mod bans;
mod rate;
mod source;

#[cfg(test)]
mod test_support;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aho_corasick::AhoCorasick;
use ipnet::IpNet;
use parking_lot::RwLock;

pub use bans::Ban;
pub use source::{NoSource, Source};

use crate::clock::Now;
use bans::Bans;
use rate::RateLimiter;

/// Of a User-Agent so much is looked at.
const USER_AGENT_BYTES: usize = 256;

/// What the operator decided. Replaced as a whole on reload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Nothing here holds for these.
    pub trusted: Vec<IpNet>,
    /// Of one source; 0: as many as it likes.
    pub requests_per_s: u32,
    /// So many in a minute are a ban; 0: never.
    pub auth_failures_per_min: u32,
    pub ban: Duration,
    pub scanners: Scanners,
}

impl Rules {
    fn is_trusted(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&peer))
    }
}

/// What the User-Agent of a scanner has in it, in any case.
#[derive(Debug, Clone, Default)]
pub struct Scanners {
    names: Vec<Box<str>>,
    /// Finds all of them at once; `None`: there are none.
    finder: Option<AhoCorasick>,
}

impl PartialEq for Scanners {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for Scanners {}

impl Scanners {
    /// More names than can be looked for are as good as none; the configuration bounds them.
    pub fn new(names: Vec<Box<str>>) -> Self {
        let finder =
            AhoCorasick::builder().ascii_case_insensitive(true).build(names.iter().map(|name| name.as_bytes()));
        Self { finder: finder.ok().filter(|_| !names.is_empty()), names }
    }

    pub fn is_one(&self, user_agent: &[u8]) -> bool {
        let user_agent = user_agent.get(..USER_AGENT_BYTES).unwrap_or(user_agent);
        self.finder.as_ref().is_some_and(|finder| finder.is_match(user_agent))
    }
}

/// Why a request, or a connection, is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Over [`Rules::requests_per_s`].
    Rate,
    Banned,
}

/// One for all workers.
#[derive(Debug)]
pub struct Guard {
    rules: RwLock<Arc<Rules>>,
    rate: RateLimiter,
    bans: Bans,
    nodes: RwLock<Vec<IpAddr>>,
    /// Mostly there are none.
    has_nodes: AtomicBool,
}

impl Guard {
    /// `keys` must be secret: they decide which sources share a place.
    pub fn new(rules: Arc<Rules>, keys: [u64; 2], now: Instant) -> Self {
        Self {
            rules: RwLock::new(rules),
            rate: RateLimiter::new(keys, now),
            bans: Bans::default(),
            nodes: RwLock::default(),
            has_nodes: AtomicBool::default(),
        }
    }

    /// Those in effect. Who asks often keeps them, and is told of others.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// Others from here on. Bans go on as they began.
    pub fn reload(&self, rules: Arc<Rules>) {
        *self.rules.write() = rules;
    }

    /// Where the other nodes of the same store are. To be called now and then.
    pub fn set_nodes(&self, nodes: Vec<IpAddr>) {
        self.has_nodes.store(!nodes.is_empty(), Ordering::Relaxed);
        *self.nodes.write() = nodes;
    }

    /// Whether another node is there.
    pub fn is_node(&self, peer: IpAddr) -> bool {
        self.has_nodes.load(Ordering::Relaxed) && self.nodes.read().contains(&peer.to_canonical())
    }

    /// Whether nothing here holds for what comes from there.
    pub fn is_trusted(&self, rules: &Rules, peer: IpAddr) -> bool {
        rules.is_trusted(peer.to_canonical()) || self.is_node(peer)
    }

    /// Whether a request of a source that is not trusted is looked at. A ban does not hold for a device that
    /// `is_registered` where the request comes from: it hits all who share an address, and phones that are well go on.
    pub fn admits(
        &self,
        rules: &Rules,
        source: Source,
        is_registered: impl FnOnce() -> bool,
        now: Instant,
    ) -> Result<(), Refused> {
        if !self.rate.admits(source, rules.requests_per_s, now) {
            Err(Refused::Rate)
        } else if self.bans.is_banned(source, now) && !is_registered() {
            Err(Refused::Banned)
        } else {
            Ok(())
        }
    }

    pub fn is_banned(&self, source: Source, now: Instant) -> bool {
        self.bans.is_banned(source, now)
    }

    /// Somebody failed to prove who they are. The ban that this leads to, told once.
    pub fn auth_failed(&self, rules: &Rules, peer: IpAddr, reason: &'static str, now: Now) -> Option<Ban> {
        if rules.auth_failures_per_min == 0 || self.is_trusted(rules, peer) {
            return None;
        }
        self.bans.failed(Source::of(peer), reason, rules.auth_failures_per_min, rules.ban, now)
    }

    /// So many of those failures were no guesses.
    pub fn auth_proven(&self, peer: IpAddr, failures: u32) {
        self.bans.take_back(Source::of(peer), failures);
    }

    /// Those that hold, the oldest first.
    pub fn bans(&self, now: Instant) -> Vec<Ban> {
        self.bans.list(now)
    }

    pub fn ban_count(&self, now: Instant) -> usize {
        self.bans.len(now)
    }

    /// Ends a ban; false when there is none.
    pub fn lift(&self, source: Source, now: Instant) -> bool {
        self.bans.remove(source, now)
    }

    /// Forgets bans that are over. To be called now and then.
    pub fn expire(&self, now: Instant) {
        self.bans.expire(now);
    }
}

#[cfg(test)]
mod tests {
    use super::test_support::{after, source};
    use super::*;

    fn rules() -> Rules {
        Rules {
            trusted: vec!["192.0.2.0/24".parse().unwrap()],
            requests_per_s: 10,
            auth_failures_per_min: 2,
            ban: Duration::from_secs(300),
            scanners: Scanners::new(vec!["friendly-scanner".into(), "SIPVicious".into()]),
        }
    }

    fn guard() -> Guard {
        Guard::new(Arc::new(rules()), [1, 2], after(0).instant)
    }

    #[test]
    fn a_ban_is_for_those_who_are_not_registered() {
        let (guard, rules) = (guard(), rules());
        let peer = "198.51.100.7".parse().unwrap();
        let admits = |is_registered| guard.admits(&rules, Source::of(peer), || is_registered, after(2).instant);
        assert_eq!(guard.auth_failed(&rules, peer, "wrong password", after(0)), None);
        assert_eq!(admits(false), Ok(()));
        assert!(guard.auth_failed(&rules, peer, "wrong password", after(1)).is_some());
        assert_eq!((admits(false), admits(true)), (Err(Refused::Banned), Ok(())));
        assert!(guard.is_banned(Source::of(peer), after(2).instant));
        assert!(guard.lift(Source::of(peer), after(2).instant));
        assert_eq!(admits(false), Ok(()));
    }

    #[test]
    fn the_rate_holds_for_registered_devices_too() {
        let (guard, rules) = (guard(), rules());
        let admitted = (0..20).filter(|_| guard.admits(&rules, source(1), || true, after(0).instant).is_ok());
        assert_eq!(admitted.count(), 10);
        assert_eq!(guard.admits(&rules, source(1), || true, after(0).instant), Err(Refused::Rate));
        assert_eq!(guard.admits(&rules, source(2), || false, after(0).instant), Ok(()));
    }

    #[test]
    fn the_softswitch_and_other_nodes_are_never_banned() {
        let (guard, rules) = (guard(), rules());
        let fails = |peer: &str| guard.auth_failed(&rules, peer.parse().unwrap(), "wrong password", after(0));
        assert!((0..10).all(|_| fails("192.0.2.20").is_none() && fails("::ffff:192.0.2.20").is_none()));
        guard.set_nodes(vec!["198.51.100.7".parse().unwrap()]);
        assert!((0..10).all(|_| fails("198.51.100.7").is_none()));
        guard.set_nodes(Vec::new());
        let never = Rules { auth_failures_per_min: 0, ..rules.clone() };
        let peer = "198.51.100.7".parse().unwrap();
        assert!((0..10).all(|_| guard.auth_failed(&never, peer, "wrong password", after(0)).is_none()));
        assert_eq!(guard.ban_count(after(0).instant), 0);
    }

    #[test]
    fn scanners_are_known_by_a_part_of_their_name() {
        let rules = rules();
        for (user_agent, expected) in [
            ("friendly-scanner", true),
            ("sipvicious/0.3", true),
            ("The Friendly-Scanner 2", true),
            ("friendly", false),
            ("", false),
        ] {
            assert_eq!(rules.scanners.is_one(user_agent.as_bytes()), expected, "{user_agent}");
        }
        assert!(!Rules::default().scanners.is_one(b"friendly-scanner"));
    }
}
