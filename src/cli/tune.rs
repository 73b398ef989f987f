//! What other settings of `[hold]` would have brought for the calls that the server remembers.
//!
//! Only what was measured is told: when phones came back, when they said something, when callers gave up. What nobody can
//! know, such as whether a caller would have waited longer, is said to be unknown.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::tables::{list, table, text};

/// Waits that are compared, in milliseconds; Timer C bounds them.
const WAITS: [i64; 9] = [5_000, 10_000, 15_000, 20_000, 28_000, 40_000, 60_000, 90_000, 170_000];
const PROBES: [i64; 6] = [200, 400, 800, 1_500, 3_000, 5_000];
const FRESH: [i64; 7] = [0, 5, 15, 30, 60, 120, 300];
/// A pushed phone that registered within this was awake: it had only to hear of the push.
const AWAKE: i64 = 2_000;
/// Fewer calls say nothing.
const CALLS_MIN: usize = 20;

/// What counts of a call. Times are milliseconds after the INVITE.
#[derive(Debug, Default, PartialEq, Eq)]
struct Story {
    outcome: String,
    /// Whether a push went out for it.
    was_pushed: bool,
    /// Provider by device.
    providers: BTreeMap<String, String>,
    /// When a pushed device came back first, within the wait or after it, and by which provider.
    back: Option<(i64, String)>,
    ended: Option<i64>,
    /// How many seconds before the INVITE a device registered that was reachable and pushed all the same.
    age: Option<i64>,
    /// How long devices that got the INVITE at once took to say something; `None`: they did not.
    answers: Vec<Option<i64>>,
}

/// For people, of `GET /api/v1/calls` and `GET /api/v1/config`.
pub(super) fn tell(calls: &Value, config: &Value) -> String {
    let stories: Vec<_> = list(calls, "calls").iter().filter_map(story).collect();
    let pushed: Vec<_> = stories.iter().filter(|story| story.was_pushed && story.ended.is_some()).collect();
    let mut told = format!("{} calls are remembered, {} of them were held for a push.\n", stories.len(), pushed.len());
    if pushed.len() < CALLS_MIN {
        told.push_str(&format!("Fewer than {CALLS_MIN} tell nothing about [hold]; ask again later.\n"));
        return told;
    }
    let setting = |key: &str| config.pointer(&format!("/values/hold.{key}")).and_then(Value::as_str);
    let number = |key: &str| setting(key).and_then(|text| text.parse::<i64>().ok());
    told.push_str(&wakes(&pushed));
    if let Some(now) = number("wait_s") {
        told.push_str(&waits(&pushed, now * 1000));
    }
    if let Some(now) = number("fresh_s") {
        told.push_str(&fresh(&pushed, now));
    }
    if let Some(now) = number("probe_ms") {
        told.push_str(&probes(&stories, now, setting("push_when") == Some("\"unreachable\"")));
    }
    told
}

fn story(call: &Value) -> Option<Story> {
    let steps = list(call, "steps");
    let at = |step: &Value| text(step, "at").parse::<Timestamp>().ok().map(|at| at.as_millisecond());
    let began = at(steps.iter().find(|step| text(step, "step") == "received")?)?;
    let mut story = Story { outcome: text(call, "outcome"), ..Story::default() };
    let mut forwarded: BTreeMap<String, i64> = BTreeMap::new();
    for step in steps {
        let (device, after) = (text(step, "device"), at(step)? - began);
        match &*text(step, "step") {
            "device_found" => {
                let detail = text(step, "detail");
                let age =
                    detail.split_once(", registered ").and_then(|(_, age)| age.strip_suffix(" s ago")?.parse().ok());
                story.age = story.age.into_iter().chain(age).min();
            }
            "push_sent" => {
                story.was_pushed = true;
                story.providers.insert(device, text(step, "detail"));
            }
            "registered" | "missed_reported" if story.back.is_none() => {
                let provider = story.providers.get(&device);
                story.back = provider.map(|provider| (after, provider.clone()));
            }
            "forwarded" if !story.providers.contains_key(&device) => {
                forwarded.insert(device, after);
            }
            "ringing" | "rejected" => {
                story.answers.extend(forwarded.remove(&device).map(|since| Some(after - since)));
            }
            "answered" | "cancelled" | "no_return" | "expired" if device.is_empty() => story.ended = Some(after),
            _ => {}
        }
    }
    story.answers.extend(forwarded.into_values().map(|_| None));
    Some(story)
}

fn wakes(pushed: &[&Story]) -> String {
    let mut by_provider: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for story in pushed {
        if let Some((after, provider)) = &story.back {
            by_provider.entry(provider).or_default().push(*after);
        }
    }
    let rows = by_provider.into_iter().map(|(provider, mut times)| {
        times.sort_unstable();
        let percentile = |percent: usize| times.get((times.len() - 1) * percent / 100).copied().unwrap_or_default();
        let shown = [percentile(50), percentile(90), percentile(99), percentile(100)].map(seconds);
        [provider.to_owned(), times.len().to_string()].into_iter().chain(shown).collect()
    });
    let head = ["PROVIDER", "CAME BACK", "50 %", "90 %", "99 %", "LATEST"];
    format!("\nFrom the INVITE to the phone's REGISTER:\n{}", table(&head, rows.collect(), "no phone came back"))
}

/// What another `hold.wait_s` would have changed.
fn waits(pushed: &[&Story], now: i64) -> String {
    let row = |wait: i64| {
        let came = |story: &&&Story| story.back.as_ref().is_some_and(|(after, _)| *after <= wait);
        let lost = pushed.iter().filter(|story| story.outcome == "answered" && !came(story) && story.back.is_some());
        let saved = pushed.iter().filter(|story| story.outcome == "no_return").filter(came);
        let (saved, lost) = if wait == now { (0, 0) } else { (saved.count(), lost.count()) };
        let mark = if wait == now { " (now)" } else { "" };
        vec![format!("{}{mark}", wait / 1000), saved.to_string(), lost.to_string()]
    };
    let gave_up = pushed.iter().filter(|story| story.outcome == "cancelled").count();
    let never = pushed.iter().filter(|story| story.outcome == "no_return" && story.back.is_none()).count();
    let rows = with(now, &WAITS).into_iter().map(row).collect();
    format!(
        "\nhold.wait_s:\n{}Saved: the phone came later than it was waited for; whether its caller would have stayed is not \
         known.\nCallers gave up by themselves in {gave_up} calls, and {never} phones have not come at all.\n",
        table(&["WAIT_S", "CALLS SAVED", "CALLS LOST"], rows, "")
    )
}

/// What another `hold.fresh_s` would have changed: who registered within it gets the INVITE at once, and no push.
fn fresh(pushed: &[&Story], now: i64) -> String {
    let row = |fresh: i64| {
        let spared: Vec<_> = pushed.iter().filter(|story| story.age.is_some_and(|age| age < fresh)).collect();
        let mut sooner: Vec<_> = spared
            .iter()
            .filter_map(|story| story.back.as_ref().map(|(after, _)| *after).filter(|after| *after <= AWAKE))
            .collect();
        sooner.sort_unstable();
        let median = sooner.get(sooner.len() / 2).map_or_else(String::new, |after| seconds(*after));
        let mark = if fresh == now { " (now)" } else { "" };
        let lost = spared.len() - sooner.len();
        [format!("{fresh}{mark}"), spared.len().to_string(), sooner.len().to_string(), median, lost.to_string()]
            .to_vec()
    };
    let head = ["FRESH_S", "PUSHES SPARED", "RUNG SOONER", "BY", "CALLS LOST"];
    format!(
        "\nhold.fresh_s:\n{}Sooner: the phone was back within {} of its push, so it was awake. Lost: it took longer or did not \
         come, so it slept, and the INVITE alone would have reached nobody.\n",
        table(&head, with(now, &FRESH).into_iter().map(row).collect(), ""),
        seconds(AWAKE),
    )
}

/// How devices that got the INVITE without a push took it.
fn probes(stories: &[Story], now: i64, is_on: bool) -> String {
    let answers: Vec<_> = stories.iter().flat_map(|story| &story.answers).collect();
    let silent = answers.iter().filter(|answer| answer.is_none()).count();
    if answers.is_empty() {
        let why = if is_on { "" } else { " (push_when = \"always\" pushes each phone that can be pushed)" };
        return format!("\nhold.probe_ms: no phone got an INVITE without a push{why}.\n");
    }
    let row = |probe: i64| {
        let needless = answers.iter().filter(|answer| answer.is_some_and(|after| after > probe)).count();
        let mark = if probe == now && is_on { " (now)" } else { "" };
        vec![format!("{probe}{mark}"), needless.to_string(), seconds(probe * i64::try_from(silent).unwrap_or(i64::MAX))]
    };
    format!(
        "\nhold.probe_ms: {} phones got the INVITE at once, {silent} of them stayed silent.\n{}Needless: the phone was about \
         to answer. Waited: by callers of silent phones before their push, in all.\n",
        answers.len(),
        table(&["PROBE_MS", "NEEDLESS PUSHES", "WAITED"], with(now, &PROBES).into_iter().map(row).collect(), "")
    )
}

/// The settings that are compared, the present one among them, in order.
fn with(now: i64, others: &[i64]) -> BTreeSet<i64> {
    others.iter().copied().chain([now]).collect()
}

fn seconds(millis: i64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Steps as `(ms, step, device, detail)`.
    fn call(outcome: &str, steps: &[(i64, &str, &str, &str)]) -> Value {
        let step = |(at, step, device, detail): &(i64, &str, &str, &str)| {
            let at = Timestamp::from_millisecond(1_700_000_000_000 + at).unwrap().to_string();
            json!({ "at": at, "step": step, "device": device, "detail": detail })
        };
        json!({ "outcome": outcome, "steps": steps.iter().map(step).collect::<Vec<_>>() })
    }

    fn woken(outcome: &str, back: i64, step: &str, ended: i64) -> Value {
        let end = if outcome == "answered" { "answered" } else { outcome };
        let mut steps =
            vec![(0, "received", "", ""), (1, "push_sent", "d", "fcm"), (back, step, "d", ""), (ended, end, "", "")];
        steps.sort_by_key(|step| step.0);
        call(outcome, &steps)
    }

    fn lines(told: &str, title: &str) -> Vec<Vec<String>> {
        let part = told.split("\n\n").find(|part| part.starts_with(title)).unwrap();
        part.lines().skip(2).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn waits_are_compared_by_when_phones_came() {
        let mut calls: Vec<_> = (0..20).map(|number| woken("answered", 1_000 * number, "registered", 25_000)).collect();
        calls.push(woken("no_return", 35_000, "missed_reported", 28_000));
        calls.push(woken("no_return", 3_600_000, "missed_reported", 28_000));
        calls.push(call(
            "no_return",
            &[(0, "received", "", ""), (1, "push_sent", "d", "fcm"), (28_000, "no_return", "", "")],
        ));
        calls.push(woken("cancelled", 9_000, "missed_reported", 4_000));
        let config =
            json!({ "values": { "hold.wait_s": "28", "hold.probe_ms": "800", "hold.push_when": "\"always\"" } });
        let told = tell(&json!({ "calls": calls }), &config);
        assert!(told.starts_with("24 calls are remembered, 24 of them were held for a push.\n"), "{told}");
        assert_eq!(lines(&told, "From the INVITE")[0].join(" "), "fcm 22 10.0 s 18.0 s 35.0 s 3600.0 s", "{told}");
        let rows = lines(&told, "hold.wait_s");
        let expected =
            ["5 0 14", "10 0 9", "15 0 4", "20 0 0", "28 (now) 0 0", "40 1 0", "60 1 0", "90 1 0", "170 1 0"];
        let rows: Vec<_> = rows.iter().take(expected.len()).map(|row| row.join(" ")).collect();
        assert_eq!(rows, expected, "{told}");
        assert!(told.contains("gave up by themselves in 1 calls, and 1 phones have not come at all"), "{told}");
        assert!(told.contains("no phone got an INVITE without a push (push_when = \"always\""), "{told}");
    }

    #[test]
    fn fresh_registrations_are_compared_by_whether_phones_were_awake() {
        let fresh = |age: &str, back: i64| {
            let found = format!("fcm, registered {age} s ago");
            call(
                "answered",
                &[
                    (0, "received", "", ""),
                    (0, "device_found", "d", &found),
                    (1, "push_sent", "d", "fcm"),
                    (back, "registered", "d", ""),
                    (back + 900, "answered", "", ""),
                ],
            )
        };
        let mut calls: Vec<_> = (0..20).map(|_| woken("answered", 1_000, "registered", 2_000)).collect();
        calls.extend([fresh("3", 400), fresh("4", 600), fresh("10", 500), fresh("40", 9_000)]);
        let config = json!({ "values": { "hold.wait_s": "28", "hold.fresh_s": "20", "hold.push_when": "\"always\"" } });
        let told = tell(&json!({ "calls": calls }), &config);
        let rows: Vec<_> = lines(&told, "hold.fresh_s").iter().take(6).map(|row| row.join(" ")).collect();
        let expected =
            ["0 0 0 0", "5 2 2 0.6 s 0", "15 3 3 0.5 s 0", "20 (now) 3 3 0.5 s 0", "30 3 3 0.5 s 0", "60 4 3 0.5 s 1"];
        assert_eq!(rows, expected, "{told}");
    }

    #[test]
    fn probes_are_compared_by_when_phones_spoke() {
        let mut calls: Vec<_> = (0..20).map(|_| woken("answered", 1_000, "registered", 2_000)).collect();
        for after in [100, 300, 1_000] {
            calls.push(call(
                "answered",
                &[(0, "received", "", ""), (0, "forwarded", "d", ""), (after, "ringing", "d", "180")],
            ));
        }
        calls.push(call("no_return", &[(0, "received", "", ""), (0, "forwarded", "d", "")]));
        let config =
            json!({ "values": { "hold.wait_s": "28", "hold.probe_ms": "800", "hold.push_when": "\"unreachable\"" } });
        let told = tell(&json!({ "calls": calls }), &config);
        assert!(told.contains("hold.probe_ms: 4 phones got the INVITE at once, 1 of them stayed silent."), "{told}");
        let rows: Vec<_> = lines(&told, "hold.probe_ms").iter().take(3).map(|row| row.join(" ")).collect();
        assert_eq!(rows, ["200 2 0.2 s", "400 1 0.4 s", "800 (now) 1 0.8 s"], "{told}");
    }

    #[test]
    fn few_calls_tell_nothing() {
        let told = tell(&json!({ "calls": [woken("answered", 1, "registered", 2)] }), &json!({}));
        assert_eq!(
            told,
            "1 calls are remembered, 1 of them were held for a push.\nFewer than 20 tell nothing about [hold]; ask again later.\n"
        );
    }
}
