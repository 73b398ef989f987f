//! What counts of a call for advice on `[hold]`, read from the steps of its timeline.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::tables::{list, text};

/// One call. Times are milliseconds after the INVITE.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) outcome: String,
    pub(super) ended: Option<i64>,
    pub(super) devices: BTreeMap<String, Device>,
    /// How many seconds before the INVITE a device registered that was reachable and pushed all the same.
    pub(super) age: Option<i64>,
    /// How long devices that got the INVITE at once took to say something; `None`: they did not.
    pub(super) answers: Vec<Option<i64>>,
}

/// One phone of a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// By which it was pushed; `None`: it was not.
    pub(super) provider: Option<String>,
    /// When the first push was sent.
    sent: Option<i64>,
    /// When its provider took the first push.
    pub(super) accepted: Option<i64>,
    /// When it came back first after a push, within the call or later.
    pub(super) back: Option<i64>,
    /// When it got the INVITE last.
    forwarded: Option<i64>,
    /// When it said something to it first, other than that it is there.
    spoke: Option<i64>,
}

impl Device {
    /// From the push that its provider took to the phone's REGISTER. A phone can be quicker than the provider's answer; then the
    /// time since it was sent counts.
    pub(super) fn wake(&self) -> Option<i64> {
        let back = self.back?;
        let taken = self.accepted.filter(|accepted| *accepted <= back).or(self.sent)?;
        Some(back - taken)
    }

    /// Since when it could be heard: since it was back, or from the start if it was awake.
    fn reached(&self) -> Option<i64> {
        let spoke = self.spoke?;
        Some(self.back.filter(|back| *back <= spoke).unwrap_or_default())
    }

    /// Whether it was back in time to get the INVITE, and said nothing to it.
    pub(super) fn is_silent(&self) -> bool {
        let got_it = self.back.zip(self.forwarded).is_some_and(|(back, forwarded)| back <= forwarded);
        got_it && self.spoke.is_none()
    }
}

impl Story {
    /// `None` where the call's beginning is not told.
    pub(super) fn read(call: &Value) -> Option<Self> {
        let steps = list(call, "steps");
        let at = |step: &Value| text(step, "at").parse::<Timestamp>().ok().map(|at| at.as_millisecond());
        let began = at(steps.iter().find(|step| text(step, "step") == "received")?)?;
        let mut story = Self { outcome: text(call, "outcome"), ..Self::default() };
        let mut at_once: BTreeMap<String, i64> = BTreeMap::new();
        for step in steps {
            let (name, after) = (text(step, "device"), at(step)? - began);
            let kind = text(step, "step");
            if name.is_empty() {
                match &*kind {
                    "answered" => {
                        story.answered(after);
                        story.ended = Some(after);
                    }
                    "cancelled" | "no_return" | "expired" | "rejected" | "failed" => story.ended = Some(after),
                    _ => {}
                }
                continue;
            }
            let device = story.devices.entry(name.clone()).or_default();
            match &*kind {
                "device_found" => {
                    let detail = text(step, "detail");
                    let age = detail.split_once(", registered ").and_then(|(_, age)| age.strip_suffix(" s ago"));
                    story.age = story.age.into_iter().chain(age.and_then(|age| age.parse().ok())).min();
                }
                "push_sent" => {
                    device.provider = Some(text(step, "detail"));
                    device.sent = device.sent.or(Some(after));
                }
                "push_accepted" => device.accepted = device.accepted.or(Some(after)),
                "registered" | "missed_reported" if device.provider.is_some() => {
                    device.back = device.back.or(Some(after));
                }
                "forwarded" => {
                    device.forwarded = Some(after);
                    if device.provider.is_none() {
                        at_once.insert(name, after);
                    }
                }
                "ringing" | "rejected" => {
                    device.spoke = device.spoke.or(Some(after));
                    story.answers.extend(at_once.remove(&name).map(|since| Some(after - since)));
                }
                _ => {}
            }
        }
        story.answers.extend(at_once.into_values().map(|_| None));
        Some(story)
    }

    /// A phone that picks up without ringing is not named: it is the one that got the INVITE last.
    fn answered(&mut self, at: i64) {
        if self.devices.values().all(|device| device.spoke.is_none())
            && let Some(last) = self.devices.values_mut().max_by_key(|device| device.forwarded)
            && last.forwarded.is_some()
        {
            last.spoke = Some(at);
        }
    }

    /// Whether a push went out for it.
    pub(super) fn was_pushed(&self) -> bool {
        self.devices.values().any(|device| device.provider.is_some())
    }

    /// When the phone was there that rang, answered or refused first; `None`: none did.
    pub(super) fn reached(&self) -> Option<i64> {
        self.devices.values().filter_map(Device::reached).min()
    }

    /// When a pushed phone was back first.
    pub(super) fn back(&self) -> Option<i64> {
        self.devices.values().filter_map(|device| device.back).min()
    }

    /// Whether phones were back in time, and nobody heard of them.
    pub(super) fn was_silent(&self) -> bool {
        self.reached().is_none() && self.devices.values().any(Device::is_silent)
    }

    /// When its caller gave up, having heard no phone.
    pub(super) fn gave_up(&self) -> Option<i64> {
        self.ended.filter(|_| self.outcome == "cancelled" && self.reached().is_none())
    }

    /// How long its caller has waited for a phone for sure.
    pub(super) fn waited(&self) -> i64 {
        self.reached().or(self.ended).unwrap_or_default()
    }
}
