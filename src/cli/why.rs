//! Why a phone did or did not ring: a sentence from the steps of a call, or from what is known of a user.

use serde_json::Value;

use super::tables::{self, list, text};
use crate::timeline::Reason;

/// The last calls of a user that are told of.
pub(super) const CALLS: usize = 5;

/// For people: first the answer, then what it comes from.
pub(super) fn tell(answer: &Value) -> String {
    let server = of_server(answer.get("server").unwrap_or(&Value::Null));
    if answer.get("bindings").is_none() {
        return format!("{}\n{server}\n{}", of_call(answer), tables::call(answer));
    }
    let mut told = format!("{}\n{server}\n{}", of_user(answer), tables::bindings(answer));
    for call in list(answer, "calls") {
        told.push_str(&format!("\n{}\n{}", of_call(call), tables::call(call)));
    }
    told
}

/// What ails the server now; empty when nothing does.
fn of_server(readiness: &Value) -> String {
    let reasons = list(readiness, "reasons").iter().filter_map(Value::as_str);
    reasons.map(|reason| format!("The server is {}: {reason}.\n", text(readiness, "status"))).collect()
}

fn of_user(answer: &Value) -> String {
    let aor = text(answer, "aor");
    let bindings = list(answer, "bindings");
    if bindings.is_empty() {
        return format!(
            "{aor} has no device: no phone has registered, or all have ended. A call to it is answered 404."
        );
    }
    let is_awake = |binding: &&Value| binding.get("reachable") == Some(&Value::Bool(true));
    let is_pushed =
        |binding: &&Value| !text(binding, "provider").is_empty() && text(binding, "push_refused").is_empty();
    let awake = bindings.iter().filter(is_awake).count();
    let pushed = bindings.iter().filter(is_pushed).count();
    let mut told = format!("{aor} has {} device(s), {awake} awake, {pushed} that a push can wake.", bindings.len());
    for binding in bindings.iter().filter(|binding| !text(binding, "push_refused").is_empty()) {
        told.push_str(&format!("\n{} is not pushed: {}.", text(binding, "id"), text(binding, "push_refused")));
    }
    for binding in bindings.iter().filter(|binding| !text(binding, "push_flaw").is_empty()) {
        told.push_str(&format!("\n{} is pushed by one token: {}.", text(binding, "id"), text(binding, "push_flaw")));
    }
    for binding in bindings.iter().filter(|binding| !text(binding, "upstream_ended_at").is_empty()) {
        told.push_str(&format!(
            "\nThe softswitch has forgotten {} at {}: until the phone registers, calls come only if the softswitch routes them here \
             without looking it up (register.expires_upstream_s, register.upstream_refresh, push.refresh).",
            text(binding, "id"),
            text(binding, "upstream_ended_at"),
        ));
    }
    if list(answer, "calls").is_empty() {
        told.push_str("\nNo call for it is among the last ones.");
    }
    told
}

/// What became of a call, and the step that decided it.
fn of_call(call: &Value) -> String {
    let steps = list(call, "steps");
    // The end of the call itself is a step without a device.
    let last = |names: &[&str]| {
        let of_device = |step: &&Value| names.contains(&&*text(step, "step")) && !text(step, "device").is_empty();
        steps.iter().rev().find(of_device)
    };
    let has = |name: &str| steps.iter().any(|step| text(step, "step") == name);
    let reason = |step: &Value| {
        let reason = text(step, "reason");
        if reason.is_empty() { text(step, "detail") } else { reason }
    };
    let outcome = call.get("outcome").and_then(Value::as_str);
    let what = match outcome {
        None => "It goes on".to_owned(),
        Some("answered") => "It rang and was answered".to_owned(),
        Some("rejected") => match last(&["rejected"]) {
            Some(step) => format!("The phone {} rejected it with {}", text(step, "device"), reason(step)),
            None => "A phone rejected it".to_owned(),
        },
        Some("cancelled") if has("ringing") => "The caller gave up while it rang".to_owned(),
        Some("cancelled") if has("forwarded") => "The caller gave up before the phone said anything".to_owned(),
        Some("cancelled") => "The caller gave up before the phone had come back".to_owned(),
        Some("no_return") if has("forwarded") => "The phone came back, but did not answer the INVITE".to_owned(),
        Some("no_return") => "The phone did not come back in time".to_owned(),
        Some("expired") => "The INVITE's own Expires ran out before the phone had come back".to_owned(),
        Some("push_failed") => "No device could be woken".to_owned(),
        Some("overload") => "It was refused: the server, or its store, had no room for it".to_owned(),
        Some(other) => format!("It ended as {other}"),
    };
    // What an operator would ask next: how far the push came.
    let reached = match outcome {
        Some("answered" | "rejected" | "overload") => None,
        _ => last(&["push_accepted", "push_refused", "push_sent", "push_retried", "failed"])
            .or_else(|| last(&["device_skipped"])),
    };
    let pushed = reached.map(|step| match &*text(step, "step") {
        "push_accepted" => match text(step, "push_id") {
            id if id.is_empty() => format!("its provider took the push after {}", text(step, "detail")),
            id => format!("its provider took the push after {}, as {id}", text(step, "detail")),
        },
        "push_refused" => format!("the push was refused: {}", reason(step)),
        "device_skipped" => format!("a device was left out: {}", reason(step)),
        "failed" => reason(step),
        _ => "the provider has not answered the push".to_owned(),
    });
    let about = match (call.get("aor").and_then(Value::as_str), text(call, "call_ref")) {
        (Some(aor), call_ref) => format!("Call {call_ref} to {aor}: "),
        (None, call_ref) => format!("Call {call_ref}: "),
    };
    let pushed = pushed.filter(|pushed| !pushed.is_empty()).map(|pushed| format!("; {pushed}")).unwrap_or_default();
    // The device's step tells more than the call's end, if it has a reason.
    let code = |step: &Value| Reason::parse(&text(step, "code"));
    let remedy = reached.and_then(code).or_else(|| steps.iter().rev().find_map(code)).map_or("", Reason::remedy);
    let remedy = if remedy.is_empty() { String::new() } else { format!("\nWhat to do: {remedy}.") };
    format!("{about}{what}{pushed}.{remedy}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(outcome: Value, steps: &[(&str, &str, &str)]) -> Value {
        let step = |(step, detail, reason): &(&str, &str, &str)| json!({ "at": "t", "step": step, "device": "d", "detail": detail, "reason": reason });
        json!({ "call_ref": "x", "aor": "a@h", "outcome": outcome, "steps": steps.iter().map(step).collect::<Vec<_>>() })
    }

    #[test]
    fn each_reason_has_its_sentence() {
        let pushed = ("push_accepted", "40 ms", "");
        for (outcome, steps, expected) in [
            ("answered", vec![pushed, ("ringing", "180", "")], "It rang and was answered."),
            ("rejected", vec![pushed, ("rejected", "486", "")], "The phone d rejected it with 486."),
            (
                "cancelled",
                vec![pushed],
                "The caller gave up before the phone had come back; its provider took the push after 40 ms.",
            ),
            ("cancelled", vec![("forwarded", "", ""), ("ringing", "180", "")], "The caller gave up while it rang."),
            ("no_return", vec![pushed], "The phone did not come back in time; its provider took the push after 40 ms."),
            (
                "no_return",
                vec![("push_sent", "fcm", "")],
                "The phone did not come back in time; the provider has not answered the push.",
            ),
            (
                "push_failed",
                vec![("push_refused", "3 ms", "404 UNREGISTERED")],
                "No device could be woken; the push was refused: 404 UNREGISTERED.",
            ),
            (
                "push_failed",
                vec![("device_skipped", "", "provider fcm is switched off")],
                "No device could be woken; a device was left out: provider fcm is switched off.",
            ),
            ("overload", vec![], "It was refused: the server, or its store, had no room for it."),
            ("expired", vec![], "The INVITE's own Expires ran out before the phone had come back."),
        ] {
            assert_eq!(of_call(&call(outcome.into(), &steps)), format!("Call x to a@h: {expected}"));
        }
        assert_eq!(
            of_call(&call(Value::Null, &[pushed])),
            "Call x to a@h: It goes on; its provider took the push after 40 ms."
        );
    }

    #[test]
    fn what_to_do_comes_from_the_step_that_decided() {
        let step = |step: &str, device: Value, code: &str| json!({ "step": step, "device": device, "detail": "", "reason": "r", "code": code });
        let end = step("no_return", Value::Null, "not_back_in_time");
        let story = |steps: &[Value]| of_call(&json!({ "call_ref": "x", "outcome": "no_return", "steps": steps }));
        let told = story(&[step("push_refused", "d".into(), "token_dead"), end.clone()]);
        assert!(told.ends_with(&format!("\nWhat to do: {}.", Reason::TokenDead.remedy())), "{told}");
        let told = story(&[step("push_accepted", "d".into(), ""), end]);
        assert!(told.ends_with(&format!("\nWhat to do: {}.", Reason::NotBackInTime.remedy())), "{told}");
        let told = story(&[step("cancelled", Value::Null, "caller_gave_up")]);
        assert!(!told.contains("What to do"), "{told}");
    }

    #[test]
    fn user_without_a_device_and_one_that_is_not_pushed() {
        let nobody = json!({ "aor": "a@h", "bindings": [], "calls": [] });
        assert!(of_user(&nobody).contains("has no device"));
        let binding = json!({ "id": "d", "reachable": false, "provider": "fcm", "push_refused": "pn-prid is empty" });
        let told = of_user(&json!({ "aor": "a@h", "bindings": [binding], "calls": [] }));
        assert!(told.starts_with("a@h has 1 device(s), 0 awake, 0 that a push can wake."), "{told}");
        assert!(told.contains("d is not pushed: pn-prid is empty."), "{told}");
    }
}
