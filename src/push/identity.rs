//! Names of pushes: the same for all attempts of one push, and for all pushes of one call to one device.

use super::{Notice, Push, payload};
use crate::binding::PushToken;

/// A UUID that only depends on what is told and whom: for services that look into what became of a push, and for those that
/// replace one that is not delivered yet by the next of the same name.
pub(super) fn of(push: &Push, token: &PushToken) -> String {
    let told = match &push.notice {
        Notice::Invite { call_ref, .. } => call_ref.to_string(),
        Notice::MissedCalls(calls) => calls.iter().map(|call| &*call.call_ref).collect::<Vec<_>>().join("\n"),
        Notice::Message | Notice::CallEnded { .. } | Notice::Register { .. } => push.date.0.to_string(),
        Notice::Test | Notice::Text { .. } => push.date.0.to_string(),
    };
    payload::uuid(&[push.notice.kind().name(), token.reveal(), &told].join("\n"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::binding::{Aor, Provider, PushTarget, Tokens};
    use crate::clock::UnixMillis;
    use crate::push::{Purpose, Ticket};

    fn name(notice: Notice, token: &str, date: u64) -> String {
        let (provider, prid) = (Provider::Fcm, PushToken::new(token));
        let push = Push {
            ticket: Ticket(date),
            aor: Aor::new("alice", "example.org"),
            target: PushTarget {
                provider,
                prid: prid.clone(),
                param: "".into(),
                tokens: Tokens::Single,
                others: Box::default(),
            },
            notice,
            date: UnixMillis(date),
            ttl: Duration::from_millis(date),
            language: None,
            is_repeat: date > 1,
            purpose: Purpose::default(),
        };
        of(&push, &prid)
    }

    fn invite(call_ref: &str) -> Notice {
        Notice::Invite { number: "103".into(), display_name: "".into(), call_ref: call_ref.into() }
    }

    #[test]
    fn a_call_has_one_name_at_each_device_whenever_it_is_pushed() {
        let first = name(invite("a"), "t", 1);
        // printf 'invite\nt\na' | sha256sum, with version 8 and variant
        assert_eq!(first, "dfadc312-3779-86ba-ba36-7f8ee7b6a86b");
        assert_eq!(name(invite("a"), "t", 2), first);
        let others = [name(invite("b"), "t", 1), name(invite("a"), "u", 1), name(Notice::Message, "t", 1)];
        assert!(!others.contains(&first));
        assert_ne!(name(Notice::Message, "t", 2), name(Notice::Message, "t", 1), "each message is one of its own");
    }
}
