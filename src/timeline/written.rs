//! A call's story as it is kept in a store, and what several nodes' parts of one come to.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Call, Event, Reason, Step, Why};
use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;
use crate::metrics::Outcome;

/// By names, not numbers: another version of the program may read it. What it does not know it leaves out.
#[derive(Serialize, Deserialize)]
struct Written<'c> {
    call_ref: Cow<'c, str>,
    call_id: Option<Cow<'c, str>>,
    aor: Option<Cow<'c, str>>,
    outcome: Option<Cow<'c, str>>,
    left_out: u32,
    steps: Vec<WrittenStep<'c>>,
}

#[derive(Serialize, Deserialize)]
struct WrittenStep<'c> {
    at: u64,
    step: Cow<'c, str>,
    device: Option<String>,
    detail: Cow<'c, str>,
    code: Option<Cow<'c, str>>,
    words: Cow<'c, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    push_id: Option<Cow<'c, str>>,
}

impl Call {
    /// As it is kept in a store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let step = |event: &'_ Event| WrittenStep {
            at: event.at.0,
            step: event.step.name().into(),
            device: event.device.map(|device| device.to_string()),
            detail: event.detail.to_string().into(),
            code: event.why.as_ref().map(|why| why.reason.code().into()),
            words: event.why.as_ref().map_or_else(Cow::default, |why| why.words.clone()),
            push_id: event.push_id.as_deref().map(|id| id.to_owned().into()),
        };
        let written = Written {
            call_ref: (&*self.call_ref).into(),
            call_id: self.call_id.as_deref().map(Cow::from),
            aor: self.aor.as_ref().map(|aor| aor.as_str().into()),
            outcome: self.outcome.map(|outcome| outcome.name().into()),
            left_out: self.left_out,
            steps: self.events.iter().map(step).collect(),
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// `node`: whose part of the story it is; `None`: this one's. `None` for what is no story.
    pub fn from_bytes(bytes: &[u8], node: Option<&Arc<str>>) -> Option<Self> {
        let written: Written<'_> = serde_json::from_slice(bytes).ok()?;
        let event = |step: WrittenStep<'_>| {
            let reason = step.code.and_then(|code| Reason::parse(&code));
            Some(Event {
                at: UnixMillis(step.at),
                step: Step::parse(&step.step)?,
                device: step.device.and_then(|device| DeviceId::parse(device.as_bytes())),
                detail: step.detail.into(),
                why: reason.map(|reason| Why::new(reason, step.words.into_owned())),
                push_id: step.push_id.map(Into::into),
                node: node.cloned(),
            })
        };
        let aor = |aor: Cow<'_, str>| aor.rsplit_once('@').map(|(user, domain)| Aor::new(user, domain));
        let outcome = |name: Cow<'_, str>| Outcome::ALL.iter().copied().find(|outcome| outcome.name() == name);
        Some(Self {
            call_ref: written.call_ref.into(),
            call_id: written.call_id.map(Into::into),
            aor: written.aor.and_then(aor),
            outcome: written.outcome.and_then(outcome),
            events: written.steps.into_iter().filter_map(event).collect(),
            left_out: written.left_out,
        })
    }

    /// What two nodes know of one call. The end is that of the one that heard of the call last.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let last = |call: &Self| call.events.last().map(|event| event.at);
        let (mut early, late) = if last(&self) <= last(&other) { (self, other) } else { (other, self) };
        early.events.extend(late.events);
        early.events.sort_by_key(|event| event.at);
        early.outcome = late.outcome.or(early.outcome);
        early.aor = late.aor.or(early.aor);
        early.call_id = late.call_id.or(early.call_id);
        early.left_out = early.left_out.saturating_add(late.left_out);
        early
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Detail, Timeline};
    use super::*;

    fn story(steps: &[(u64, Step)], outcome: Option<Outcome>) -> Call {
        let timeline = Timeline::new(1);
        timeline.begin("x", "y", &Aor::new("alice", "h"));
        for (at, step) in steps {
            let why = Why::new(Reason::TokenDead, "410");
            let told = Detail { text: "3 ms", push_id: Some("projects/p/messages/0:1") };
            timeline.record("x", UnixMillis(*at), *step, Some(DeviceId([7; 10])), told, Some(&why));
        }
        outcome.inspect(|outcome| timeline.end("x", *outcome));
        Call::clone(&timeline.call("x").unwrap())
    }

    #[test]
    fn a_story_is_read_as_it_was_written() {
        let story = story(&[(1, Step::Received), (2, Step::PushRefused)], Some(Outcome::PushFailed));
        assert_eq!(Call::from_bytes(&story.to_bytes(), None), Some(story.clone()));
        let node: Arc<str> = "two".into();
        let theirs = Call::from_bytes(&story.to_bytes(), Some(&node)).unwrap();
        assert!(theirs.events.iter().all(|event| event.node.as_deref() == Some("two")));
        assert_eq!(Call::from_bytes(b"{", None), None);
    }

    #[test]
    fn a_story_without_names_of_pushes_is_read() {
        let whole = story(&[(1, Step::PushAccepted)], None);
        let written = String::from_utf8(whole.to_bytes()).unwrap();
        let earlier = written.replace(r#","push_id":"projects/p/messages/0:1""#, "");
        assert_ne!(earlier, written);
        let mut expected = whole;
        expected.events[0].push_id = None;
        assert_eq!(Call::from_bytes(earlier.as_bytes(), None), Some(expected));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let text = String::from_utf8(story(&[(1, Step::Received), (2, Step::Held)], None).to_bytes()).unwrap();
        let newer =
            text.replace("\"held\"", "\"hummed\"").replace("token_dead", "token_shy").replace("null", "\"odd\"");
        let read = Call::from_bytes(newer.as_bytes(), None).unwrap();
        assert_eq!((read.events.len(), &read.events[0].why, read.outcome), (1, &None, None));
    }

    #[test]
    fn parts_of_two_nodes_are_one_story() {
        let one = story(&[(1, Step::Received), (2, Step::Held), (9, Step::Failed)], None);
        let two = story(&[(5, Step::Received), (8, Step::Answered)], Some(Outcome::Answered));
        for whole in [one.clone().with(two.clone()), two.with(one)] {
            assert_eq!(whole.events.iter().map(|event| event.at.0).collect::<Vec<_>>(), [1, 2, 5, 8, 9]);
            assert_eq!(whole.outcome, Some(Outcome::Answered));
        }
    }
}
