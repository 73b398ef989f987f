//! The server's JSON as tables for people.

use serde_json::Value;

/// `degraded: store: Redis is away`.
pub(super) fn health(answer: &Value) -> String {
    let reasons: Vec<_> = list(answer, "reasons").iter().filter_map(Value::as_str).map(plain).collect();
    let status = text(answer, "status");
    if reasons.is_empty() { format!("{status}\n") } else { format!("{status}: {}\n", reasons.join("; ")) }
}

pub(super) fn bans(answer: &Value) -> String {
    let rows = list(answer, "bans").iter().map(|ban| {
        let failures = ban.get("failures").and_then(Value::as_u64).unwrap_or_default();
        let [source, since, until, reason] = ["source", "since", "until", "reason"].map(|key| text(ban, key));
        vec![source, since, until, failures.to_string(), reason]
    });
    table(&["SOURCE", "SINCE", "UNTIL", "FAILURES", "REASON"], rows.collect(), "nobody is banned")
}

pub(super) fn bindings(answer: &Value) -> String {
    let rows = list(answer, "bindings").iter().map(|binding| {
        let tokens = list(binding, "tokens").iter().map(|token| text(token, "sha256"));
        let is_token = text(binding, "source") == "token_api";
        let state = if binding.get("reachable") == Some(&Value::Bool(true)) { "awake" } else { "asleep" };
        vec![
            text(binding, "aor"),
            text(binding, "id"),
            state.to_owned(),
            text(binding, "provider"),
            tokens.collect::<Vec<_>>().join(" "),
            if is_token { "token API".to_owned() } else { text(binding, "flow") },
            text(binding, "registered_at"),
            [text(binding, "push_refused"), text(binding, "push_flaw")].concat(),
            upstream(binding),
        ]
    });
    let head =
        ["AOR", "ID", "STATE", "PUSH", "TOKEN", "FLOW", "REGISTERED", "WHY NOT PUSHED", "WHY NOT REFRESHED UPSTREAM"];
    table(&head, rows.collect(), "no bindings")
}

/// Why the softswitch does not know a device, or is about to forget it.
fn upstream(binding: &Value) -> String {
    let (refused, ended) = (text(binding, "upstream_refused"), text(binding, "upstream_ended_at"));
    let ended = if ended.is_empty() { ended } else { format!("forgotten since {ended}") };
    [refused, ended].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

pub(super) fn calls(answer: &Value) -> String {
    let rows = list(answer, "calls").iter().map(|call| {
        let steps = list(call, "steps");
        let at = steps.first().map(|step| text(step, "at")).unwrap_or_default();
        let last = steps.last().map(|step| text(step, "step")).unwrap_or_default();
        vec![at, text(call, "call_ref"), outcome(call), last]
    });
    let told = table(&["BEGAN", "CALL_REF", "OUTCOME", "LAST STEP"], rows.collect(), "no calls");
    let partial = text(answer, "partial");
    if partial.is_empty() { told } else { format!("{told}These are calls {partial}.\n") }
}

pub(super) fn call(call: &Value) -> String {
    let steps = list(call, "steps");
    let mut columns = vec![
        ("AT", "at"),
        ("STEP", "step"),
        ("DEVICE", "device"),
        ("DETAIL", "detail"),
        ("CODE", "code"),
        ("REASON", "reason"),
    ];
    if steps.iter().any(|step| step.get("push_id").is_some()) {
        columns.push(("PUSH ID", "push_id"));
    }
    let rows = steps.iter().map(|step| columns.iter().map(|(_, key)| text(step, key)).collect());
    let head: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    format!("{}: {}\n{}", text(call, "call_ref"), outcome(call), table(&head, rows.collect(), "no steps"))
}

pub(super) fn bucket(answer: &Value) -> String {
    let rows = list(answer, "entries").iter().map(|entry| {
        ["date", "state", "remote_uri", "display_name", "device", "call_ref"].map(|key| text(entry, key)).to_vec()
    });
    table(&["DATE", "STATE", "FROM", "NAME", "DEVICE", "CALL_REF"], rows.collect(), "no calls in the bucket")
}

/// What a reload came to.
pub(super) fn changes(answer: &Value) -> String {
    let rows =
        [("changed", "in effect"), ("needs_restart", "needs a restart")].into_iter().flat_map(|(part, state)| {
            list(answer, part).iter().map(move |change| {
                let is_named = change.get("from") != Some(&Value::Null) || change.get("to") != Some(&Value::Null);
                let key = if is_named { text(change, "key") } else { format!("[{}], its files", text(change, "key")) };
                vec![key, text(change, "from"), text(change, "to"), state.to_owned()]
            })
        });
    table(&["KEY", "FROM", "TO", "STATE"], rows.collect(), "the configuration is the same")
}

/// What is in effect, as in the file.
pub(super) fn config(answer: &Value) -> String {
    let values = answer.get("values").and_then(Value::as_object);
    let line = |(key, value): (&String, &Value)| format!("{key} = {}\n", value.as_str().unwrap_or_default());
    values.into_iter().flatten().map(line).collect()
}

/// A line for each device; for a dry run what would be sent, too.
pub(super) fn pushes(answer: &Value, is_dry: bool) -> String {
    let pushes = list(answer, "pushes");
    let rows = pushes.iter().map(|push| {
        let took = push.get("took_ms").and_then(Value::as_u64).map(|took| format!("{took} ms")).unwrap_or_default();
        let words = match (is_dry, push.get("body")) {
            (true, Some(Value::String(_))) => "would be sent".to_owned(),
            (true, _) => "would not be sent".to_owned(),
            (false, _) => words(&text(push, "result")).to_owned(),
        };
        let [device, provider, account, token, reason] =
            ["device", "provider", "account", "token", "reason"].map(|key| text(push, key));
        vec![device, provider, account, token, words, reason, took]
    });
    let head = ["DEVICE", "PUSH", "ACCOUNT", "TOKEN", "RESULT", "REASON", "TOOK"];
    let mut shown = table(&head, rows.collect(), "no devices");
    for push in pushes.iter().filter(|push| is_dry && push.get("body").is_some_and(Value::is_string)) {
        shown.push_str(&format!("\n{}: POST {}\n", text(push, "device"), text(push, "url")));
        for (name, _) in push.get("headers").and_then(Value::as_object).into_iter().flatten() {
            let value = push.get("headers").map(|headers| text(headers, name)).unwrap_or_default();
            shown.push_str(&format!("  {name}: {value}\n"));
        }
        shown.push_str(&format!("  {}\n", text(push, "body")));
    }
    shown
}

/// Whether each device was pushed and its provider took it.
pub(super) fn all_accepted(answer: &Value) -> bool {
    let pushes = list(answer, "pushes");
    !pushes.is_empty() && pushes.iter().all(|push| text(push, "result") == "accepted")
}

/// What a result means.
fn words(result: &str) -> &str {
    match result {
        "accepted" => "accepted: a call would be pushed",
        "token_dead" => "dead token: the phone must register with another one",
        "try_again" => "the provider has trouble, or is not reached",
        "refused" => "refused for a fault of ours",
        "misfit" => "the token is another app's",
        "doubted" => "dead token, as too many others at once: it is not believed",
        "limited" => "too many pushes to this token in the last minute",
        "skipped" => "not tried: the account fails",
        "not_sent" => "not sent",
        other => other,
    }
}

fn outcome(call: &Value) -> String {
    call.get("outcome").and_then(Value::as_str).unwrap_or("goes on").to_owned()
}

pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What stands there.
pub(super) fn text(value: &Value, key: &str) -> String {
    plain(value.get(key).and_then(Value::as_str).unwrap_or_default())
}

/// Without control characters: names come from callers, and a terminal obeys them.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

/// Columns as wide as their widest cell; those that are empty in all rows are left out.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>, nothing: &str) -> String {
    if rows.is_empty() {
        return format!("{nothing}\n");
    }
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let width = |column: usize| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or_default();
    let columns: Vec<_> =
        (0..head.len()).map(|column| (column, width(column))).filter(|(_, width)| *width > 0).collect();
    let line = |cell: &dyn Fn(usize) -> String| {
        let mut line = String::new();
        for (column, width) in &columns {
            let text = cell(*column);
            let title = head.get(*column).map_or(0, |title| title.len());
            line.push_str(&format!("{text:<0$}  ", (*width).max(title)));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&|column| head.get(column).map(ToString::to_string).unwrap_or_default());
    rows.iter().for_each(|row| text.push_str(&line(&|column| cell(row, column))));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_fit_and_empty_ones_go() {
        let answer = json!({ "entries": [
            { "date": "2021", "state": "missed", "remote_uri": "103", "device": "abc", "call_ref": "x@y" },
            { "date": "2022", "state": "live", "remote_uri": "anonymous", "device": "abcdefgh", "call_ref": "z" },
        ]});
        assert_eq!(
            bucket(&answer),
            "DATE  STATE   FROM       DEVICE    CALL_REF\n\
             2021  missed  103        abc       x@y\n\
             2022  live    anonymous  abcdefgh  z\n"
        );
        assert_eq!(bucket(&json!({ "entries": [] })), "no calls in the bucket\n");
    }

    #[test]
    fn bans_are_told() {
        let answer = json!({ "bans": [
            { "source": "2001:db8::/64", "reason": "wrong password", "since": "A", "until": "B", "failures": 20 },
        ]});
        assert_eq!(
            bans(&answer),
            "SOURCE         SINCE  UNTIL  FAILURES  REASON\n\
             2001:db8::/64  A      B      20        wrong password\n"
        );
        assert_eq!(bans(&json!({ "bans": [] })), "nobody is banned\n");
    }

    #[test]
    fn terminals_are_not_commanded() {
        let call = json!({ "call_ref": "a\u{1b}[2Jb", "outcome": null, "steps": [] });
        assert_eq!(super::call(&call), "a[2Jb: goes on\nno steps\n");
    }
}
