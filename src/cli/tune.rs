//! What other settings of `[hold]` would have brought for the calls that the server remembers.
//!
//! A phone that was back and silent is neither saved nor lost by another setting: it counts apart. What callers would have
//! done who were sent away is an estimate, and is said to be one.

mod patience;
mod story;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::patience::Patience;
use self::story::Story;
use super::tables::{list, table};

/// Waits that are compared, in milliseconds; Timer C bounds them.
const WAITS: [i64; 9] = [5_000, 10_000, 15_000, 20_000, 28_000, 40_000, 60_000, 90_000, 170_000];
const PROBES: [i64; 6] = [200, 400, 800, 1_500, 3_000, 5_000];
const FRESH: [i64; 7] = [0, 5, 15, 30, 60, 120, 300];
/// A pushed phone that registered within this was awake: it had only to hear of the push.
const AWAKE: i64 = 2_000;
/// Fewer calls say nothing.
const CALLS_MIN: usize = 20;

/// For people, of `GET /api/v1/calls` and `GET /api/v1/config`.
pub(super) fn tell(calls: &Value, config: &Value) -> String {
    let stories: Vec<_> = list(calls, "calls").iter().filter_map(Story::read).collect();
    let pushed: Vec<_> = stories.iter().filter(|story| story.was_pushed() && story.ended.is_some()).collect();
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

/// How long phones took to wake, by provider, and how many did not.
#[derive(Default)]
struct Wakes {
    times: Vec<i64>,
    silent: usize,
    away: usize,
}

fn wakes(pushed: &[&Story]) -> String {
    let mut by_provider: BTreeMap<&str, Wakes> = BTreeMap::new();
    for device in pushed.iter().flat_map(|story| story.devices.values()) {
        let was_taken = device.accepted.is_some() || device.back.is_some();
        let Some(provider) = device.provider.as_deref().filter(|_| was_taken) else { continue };
        let wakes = by_provider.entry(provider).or_default();
        wakes.times.extend(device.wake());
        wakes.silent += usize::from(device.is_silent());
        wakes.away += usize::from(device.back.is_none());
    }
    let rows = by_provider.into_iter().map(|(provider, Wakes { mut times, silent, away })| {
        times.sort_unstable();
        let percentile = |percent: usize| {
            let time = times.get(times.len().saturating_sub(1) * percent / 100);
            time.map_or_else(String::new, |time| seconds(*time))
        };
        let shown = [percentile(50), percentile(90), percentile(99), percentile(100)];
        let counts = [times.len(), silent, away].map(|count| count.to_string());
        let [came, silent, away] = counts;
        [provider.to_owned(), came].into_iter().chain(shown).chain([silent, away]).collect()
    });
    let head = ["PROVIDER", "CAME BACK", "50 %", "90 %", "99 %", "LATEST", "SILENT", "NOT BACK"];
    format!(
        "\nFrom the push that the provider took to the phone's REGISTER:\n{}Silent: back in time for the INVITE, and no \
         response to it.\n",
        table(&head, rows.collect(), "no push was taken")
    )
}

/// What another `hold.wait_s` would have changed.
fn waits(pushed: &[&Story], now: i64) -> String {
    let callers = pushed.iter().map(|story| (story.waited(), story.gave_up().is_some()));
    let patience = Patience::seen(callers, now);
    let reached: Vec<_> = pushed.iter().filter_map(|story| story.reached()).collect();
    // Phones that came when their callers had been sent away: when, and how long after that.
    let late: Vec<_> = pushed
        .iter()
        .filter(|story| story.outcome == "no_return" && story.reached().is_none() && !story.was_silent())
        .filter_map(|story| Some((story.back()?, story.ended?)))
        .filter(|(back, ended)| back > ended)
        .collect();
    let row = |wait: i64| {
        let lost = reached.iter().filter(|back| wait < now && **back > wait).count();
        let in_time = late.iter().filter(|(back, _)| wait > now && *back <= wait);
        let saved: f64 = in_time.clone().map(|(back, ended)| patience.stay(back - ended)).sum();
        let all = in_time.count();
        let rang = count(reached.len() - lost) + saved;
        let mark = if wait == now { " (now)" } else { "" };
        let saved = if all == 0 { "0".to_owned() } else { format!("{saved:.1} of {all}") };
        let share = format!("{:.1} %", 100.0 * rang / count(pushed.len().max(1)));
        vec![format!("{}{mark}", wait / 1000), share, saved, lost.to_string()]
    };
    let gave_up = pushed.iter().filter(|story| story.gave_up().is_some()).count();
    let silent = pushed.iter().filter(|story| story.was_silent()).count();
    let never = pushed.iter().filter(|story| story.outcome == "no_return" && story.back().is_none()).count();
    let rows = with(now, &WAITS).into_iter().map(row).collect();
    format!(
        "\nhold.wait_s:\n{}Reached: a phone rang, answered or refused. Saved: of so many phones that came when the wait was \
         over, those whose callers would still have been there, if callers go on giving up as they do from {} on. Lost: the \
         phone was back later than that. No wait changes anything for {silent} calls whose phone was back and stayed \
         silent, {gave_up} whose callers gave up before, and {never} whose phones have not come at all.\n",
        table(&["WAIT_S", "REACHED", "CALLS SAVED", "CALLS LOST"], rows, ""),
        seconds(now / 2),
    )
}

/// What another `hold.fresh_s` would have changed: who registered within it gets the INVITE at once, and no push.
fn fresh(pushed: &[&Story], now: i64) -> String {
    let row = |fresh: i64| {
        let spared: Vec<_> = pushed.iter().filter(|story| story.age.is_some_and(|age| age < fresh)).collect();
        let reached: Vec<_> = spared.iter().filter_map(|story| story.reached()).collect();
        let mut sooner: Vec<_> = reached.iter().copied().filter(|after| *after <= AWAKE).collect();
        sooner.sort_unstable();
        let median = sooner.get(sooner.len() / 2).map_or_else(String::new, |after| seconds(*after));
        let mark = if fresh == now { " (now)" } else { "" };
        let slept = reached.len() - sooner.len();
        [format!("{fresh}{mark}"), spared.len().to_string(), sooner.len().to_string(), median, slept.to_string()]
            .to_vec()
    };
    let head = ["FRESH_S", "PUSHES SPARED", "RUNG SOONER", "BY", "SLEPT"];
    format!(
        "\nhold.fresh_s:\n{}Sooner: the phone was back within {} of its INVITE and rang, so it was awake. Slept: it rang, but \
         it took longer to come, so the INVITE alone would not have reached it.\n",
        table(&head, with(now, &FRESH).into_iter().map(row).collect(), ""),
        seconds(AWAKE),
    )
}

#[expect(clippy::cast_precision_loss, reason = "as many calls as are remembered")]
fn count(calls: usize) -> f64 {
    calls as f64
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
    use jiff::Timestamp;
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
        let mut steps = vec![
            (0, "received", "", ""),
            (1, "push_sent", "d", "fcm"),
            (100, "push_accepted", "d", "99 ms"),
            (back.max(100), step, "d", ""),
            (ended, end, "", ""),
        ];
        if outcome == "answered" {
            steps.extend([(back.max(100) + 1, "forwarded", "d", ""), (back.max(100) + 50, "ringing", "d", "180")]);
        }
        steps.sort_by_key(|step| step.0);
        call(outcome, &steps)
    }

    /// A phone that is back after `back`, and says nothing until the wait is over.
    fn silent(back: i64) -> Value {
        call(
            "no_return",
            &[
                (0, "received", "", ""),
                (1, "push_sent", "d", "fcm"),
                (100, "push_accepted", "d", "99 ms"),
                (back, "registered", "d", ""),
                (back + 1, "forwarded", "d", ""),
                (28_000, "no_return", "", ""),
            ],
        )
    }

    fn config(settings: &[(&str, &str)]) -> Value {
        let values: serde_json::Map<_, _> =
            settings.iter().map(|(key, value)| (format!("hold.{key}"), Value::from(*value))).collect();
        json!({ "values": values })
    }

    fn rows(told: &str, title: &str, count: usize) -> Vec<String> {
        lines(told, title).iter().take(count).map(|row| row.join(" ")).collect()
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
            &[
                (0, "received", "", ""),
                (1, "push_sent", "d", "fcm"),
                (100, "push_accepted", "d", ""),
                (28_000, "no_return", "", ""),
            ],
        ));
        calls.push(woken("cancelled", 9_000, "missed_reported", 4_000));
        let told = tell(&json!({ "calls": calls }), &config(&[("wait_s", "28"), ("probe_ms", "800")]));
        assert!(told.starts_with("24 calls are remembered, 24 of them were held for a push.\n"), "{told}");
        assert_eq!(lines(&told, "From the push")[0].join(" "), "fcm 23 9.9 s 17.9 s 34.9 s 3599.9 s 0 1", "{told}");
        let expected = [
            "5 25.0 % 0 14",
            "10 45.8 % 0 9",
            "15 66.7 % 0 4",
            "20 83.3 % 0 0",
            "28 (now) 83.3 % 0 0",
            "40 87.5 % 1.0 of 1 0",
            "60 87.5 % 1.0 of 1 0",
            "90 87.5 % 1.0 of 1 0",
            "170 87.5 % 1.0 of 1 0",
        ];
        assert_eq!(rows(&told, "hold.wait_s", expected.len()), expected, "{told}");
        let rest = "0 calls whose phone was back and stayed silent, 1 whose callers gave up before, and 1 whose phones";
        assert!(told.contains(rest), "{told}");
        assert!(told.contains("no phone got an INVITE without a push (push_when = \"always\""), "{told}");
    }

    #[test]
    fn no_wait_saves_or_loses_a_phone_that_was_back_and_silent() {
        let mut calls: Vec<_> = (0..20).map(|_| woken("answered", 3_000, "registered", 9_000)).collect();
        calls.extend([4_000, 12_000, 24_000].map(silent));
        let told = tell(&json!({ "calls": calls }), &config(&[("wait_s", "28")]));
        assert_eq!(lines(&told, "From the push")[0].join(" "), "fcm 23 2.9 s 2.9 s 11.9 s 23.9 s 3 0", "{told}");
        assert!(rows(&told, "hold.wait_s", 9).iter().all(|row| row.ends_with("87.0 % 0 0")), "{told}");
        assert!(told.contains("3 calls whose phone was back and stayed silent"), "{told}");
    }

    #[test]
    fn a_shorter_wait_loses_no_call_that_another_phone_took() {
        // One phone of the user is awake and rings; the other comes late.
        let two = || {
            call(
                "answered",
                &[
                    (0, "received", "", ""),
                    (0, "forwarded", "awake", ""),
                    (1, "push_sent", "d", "fcm"),
                    (50, "ringing", "awake", "180"),
                    (100, "push_accepted", "d", ""),
                    (12_000, "registered", "d", ""),
                    (12_001, "forwarded", "d", ""),
                    (12_050, "ringing", "d", "180"),
                    (14_000, "answered", "", ""),
                ],
            )
        };
        let calls: Vec<_> = (0..20).map(|_| two()).collect();
        let told = tell(&json!({ "calls": calls }), &config(&[("wait_s", "28")]));
        assert!(rows(&told, "hold.wait_s", 9).iter().all(|row| row.ends_with("100.0 % 0 0")), "{told}");
    }

    #[test]
    fn callers_who_were_sent_away_stay_as_others_did() {
        let mut calls: Vec<_> = (0..20).map(|_| woken("no_return", 38_000, "missed_reported", 28_000)).collect();
        // 20 callers wait for 14 s after half of the wait, and 20 give up after 7 s of it.
        calls.extend((0..20).map(|_| woken("cancelled", 60_000, "missed_reported", 21_000)));
        let told = tell(&json!({ "calls": calls }), &config(&[("wait_s", "28")]));
        // exp(-20 / 420 s * 10 s) of them are there 10 s later.
        assert_eq!(rows(&told, "hold.wait_s", 6)[5], "40 31.1 % 12.4 of 20 0", "{told}");
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
                    (back + 1, "forwarded", "d", ""),
                    (back + 900, "answered", "", ""),
                ],
            )
        };
        let mut calls: Vec<_> = (0..20).map(|_| woken("answered", 1_000, "registered", 2_000)).collect();
        calls.extend([fresh("3", 400), fresh("4", 600), fresh("10", 500), fresh("40", 9_000)]);
        // One that did not come would have been lost either way.
        let mut away = fresh("50", 1);
        away["steps"].as_array_mut().unwrap().truncate(3);
        away["steps"].as_array_mut().unwrap().push(json!({ "at": "2023-11-14T22:13:48Z", "step": "no_return" }));
        calls.push(away);
        let config = json!({ "values": { "hold.wait_s": "28", "hold.fresh_s": "20", "hold.push_when": "\"always\"" } });
        let told = tell(&json!({ "calls": calls }), &config);
        let rows: Vec<_> = lines(&told, "hold.fresh_s").iter().take(6).map(|row| row.join(" ")).collect();
        let expected =
            ["0 0 0 0", "5 2 2 0.6 s 0", "15 3 3 0.5 s 0", "20 (now) 3 3 0.5 s 0", "30 3 3 0.5 s 0", "60 5 3 0.5 s 1"];
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
