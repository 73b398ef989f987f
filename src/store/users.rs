//! AORs by their user parts, for a proxy that is told no domains: a trunk that calls `sip:alice@PROXY` names a user and none of
//! her domains.

use std::sync::OnceLock;

use dashmap::DashMap;
use smallvec::SmallVec;

use crate::binding::Aor;

/// AORs of one user part that are looked at.
const AORS_MAX: usize = 16;

/// Nothing is kept, and nothing costs, until [`Users::begin`].
#[derive(Debug, Default)]
pub(super) struct Users(OnceLock<DashMap<Box<str>, SmallVec<[Aor; 1]>>>);

impl Users {
    /// Takes these, and from here on every AOR.
    pub(super) fn begin(&self, aors: impl Iterator<Item = Aor>) {
        self.0.get_or_init(DashMap::new);
        aors.for_each(|aor| self.insert(&aor));
    }

    pub(super) fn insert(&self, aor: &Aor) {
        let Some(users) = self.0.get() else { return };
        let mut aors = users.entry(aor.user().into()).or_default();
        if !aors.contains(aor) {
            aors.push(aor.clone());
        }
    }

    pub(super) fn remove(&self, aor: &Aor) {
        let Some(users) = self.0.get() else { return };
        if let Some(mut aors) = users.get_mut(aor.user()) {
            aors.retain(|known| known != aor);
        }
        users.remove_if(aor.user(), |_, aors| aors.is_empty());
    }

    pub(super) fn find(&self, user: &str) -> SmallVec<[Aor; 1]> {
        let found =
            self.0.get().and_then(|users| users.get(user).map(|aors| aors.iter().take(AORS_MAX).cloned().collect()));
        found.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_from_the_beginning_and_once() {
        let (one, two) = (Aor::new("alice", "one.example"), Aor::new("alice", "two.example"));
        let users = Users::default();
        users.insert(&one);
        assert!(users.find("alice").is_empty(), "not asked for");
        users.begin([one.clone()].into_iter());
        users.insert(&one);
        users.insert(&two);
        assert_eq!(users.find("alice").to_vec(), [one.clone(), two.clone()]);
        users.remove(&one);
        users.remove(&two);
        assert!(users.find("alice").is_empty() && users.0.get().is_some_and(DashMap::is_empty));
    }
}
