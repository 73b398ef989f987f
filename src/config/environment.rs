//! Keys from the environment: `SIP_PUSH_PROXY__STORE__URL` stands for `store.url` and goes before the file, so that a
//! secret need not be written into one.
//!
//! Two underscores after the program's name and between table and key: with one, variables that Kubernetes sets for a
//! service of this name would be taken for keys.

use super::document::Key;
use super::nearest::nearest;
use super::problem::Problem;

const PREFIX: &str = "SIP_PUSH_PROXY__";

/// Names and values.
pub type Variables = Vec<(String, String)>;

/// The variable that stands for a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The variables as one TOML document, and what is wrong with them. Each of `keys` can be set but those of a list of
/// tables.
pub(super) fn document(variables: Variables, keys: &[Key]) -> (String, Vec<Problem>) {
    let (mut document, mut problems) = (String::new(), Vec::new());
    for (name, value) in variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        match keys.iter().find(|key| variable(&key.name) == name) {
            Some(key) if !key.is_in_list => document.push_str(&format!("{} = {}\n", key.name, literal(key, &value))),
            Some(key) => problems.push(wrong(&name, &key.name, "belongs to a list of tables: set it in the file")),
            None => {
                let variables: Vec<_> = keys.iter().map(|key| variable(&key.name)).collect();
                let near = nearest(&name, variables.iter().map(String::as_str));
                let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                problems.push(wrong(&name, "", &format!("stands for no key{near}")));
            }
        }
    }
    (document, problems)
}

/// The value as TOML: what is no text by the key's default is taken as it is written.
fn literal(key: &Key, value: &str) -> String {
    let is_text = match &key.default {
        Some(default) => default.is_str(),
        None => !value.trim_start().starts_with('['),
    };
    let is_toml = || format!("value = {value}").parse::<toml::Table>().is_ok_and(|table| table.len() == 1);
    if is_text || !is_toml() { toml::Value::from(value).to_string() } else { value.to_owned() }
}

/// A problem of a variable.
pub(super) fn wrong(variable: &str, key: &str, text: &str) -> Problem {
    Problem { file: variable.into(), place: None, key: key.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, default: Option<toml::Value>, is_in_list: bool) -> Key {
        Key { name: name.to_owned(), default, is_in_list }
    }

    #[test]
    fn each_kind_of_key_gets_its_literal() {
        let keys = [
            key("store.url", Some("file:".into()), false),
            key("hold.wait_s", Some(28.into()), false),
            key("softswitch.trusted", None, false),
            key("node.id", None, false),
            key("push.apns.key_id", None, true),
        ];
        for (name, value, expected) in [
            ("SIP_PUSH_PROXY__STORE__URL", "redis://:p\"w@h", "store.url = 'redis://:p\"w@h'\n"),
            ("SIP_PUSH_PROXY__STORE__URL", "28", "store.url = \"28\"\n"),
            ("SIP_PUSH_PROXY__HOLD__WAIT_S", "20", "hold.wait_s = 20\n"),
            ("SIP_PUSH_PROXY__HOLD__WAIT_S", "20\nx = 1", "hold.wait_s = \"\"\"\n20\nx = 1\"\"\"\n"),
            ("SIP_PUSH_PROXY__HOLD__WAIT_S", "soon", "hold.wait_s = \"soon\"\n"),
            ("SIP_PUSH_PROXY__SOFTSWITCH__TRUSTED", "[\"192.0.2.0/24\"]", "softswitch.trusted = [\"192.0.2.0/24\"]\n"),
            ("SIP_PUSH_PROXY__NODE__ID", "7", "node.id = \"7\"\n"),
            ("SIP_PUSH_PROXY_SERVICE_HOST", "10.0.0.1", ""),
            ("HOME", "/root", ""),
        ] {
            let told = document(vec![(name.to_owned(), value.to_owned())], &keys);
            assert_eq!(told, (expected.to_owned(), vec![]), "{name}={value}");
            let table: toml::Table = told.0.parse().unwrap();
            assert!(table.len() <= 1, "{table:?}");
        }
        for (name, expected) in [
            ("SIP_PUSH_PROXY__PUSH__APNS__KEY_ID", "push.apns.key_id: belongs to a list of tables: set it in the file"),
            ("SIP_PUSH_PROXY__HOLD__WAITS", "stands for no key; did you mean SIP_PUSH_PROXY__HOLD__WAIT_S?"),
        ] {
            let (toml, problems) = document(vec![(name.to_owned(), "1".to_owned())], &keys);
            assert_eq!(toml, "");
            assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [format!("{name}: {expected}")]);
        }
    }
}
