//! What each key is set to, as text: to tell an operator which keys differ between two configurations.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::DeValue;

/// Keys whose value may carry a password or a key in its URL.
const URLS: [&str; 3] = ["store.url", "push.callback.url", "push.https_proxy"];

/// The keys that hold, by name: those of the file, and the others with their defaults.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, String>);

/// Some of the values are secrets.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({} keys)", self.0.len())
    }
}

/// A key that two configurations set to different values. Values are as in TOML; `None`: not set, and without a default.
/// What a secret could be part of is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub key: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl Values {
    pub(super) fn set(&mut self, key: String, value: String) {
        self.0.insert(key, value);
    }

    /// In the order of the keys' names.
    pub fn differences(&self, to: &Self) -> Vec<Difference> {
        let mut keys: Vec<_> = self.0.keys().chain(to.0.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let differ = keys.into_iter().filter(|key| self.0.get(*key) != to.0.get(*key));
        let shown = |key: &str, value: Option<&String>| value.map(|value| shown(key, value));
        let difference = |key: &String| Difference {
            key: key.clone(),
            from: shown(key, self.0.get(key)),
            to: shown(key, to.0.get(key)),
        };
        differ.map(difference).collect()
    }

    /// Names and values, in the order of the names. What a secret could be part of is left out.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(key, value)| (&**key, shown(key, value)))
    }

    /// These, with those of `other` for the keys that `is_taken`.
    pub fn with(&self, other: &Self, is_taken: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|(key, _)| !is_taken(key));
        let taken = other.0.iter().filter(|(key, _)| is_taken(key));
        Self(kept.chain(taken).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

fn shown(key: &str, value: &str) -> String {
    if !URLS.contains(&key) {
        return value.to_owned();
    }
    let url = value.split('?').next().unwrap_or_default();
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            let (start, end) = (url.get(..scheme + 3).unwrap_or_default(), url.get(at..).unwrap_or_default());
            format!("{start}…{end}{}", if url.len() < value.len() { "?…\"" } else { "" })
        }
        _ if url.len() < value.len() => format!("{url}?…\""),
        _ => url.to_owned(),
    }
}

/// As in a file.
pub(super) fn literal(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => toml::Value::from(&**text).to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            format!("[{}]", items.iter().map(|item| literal(item.get_ref())).collect::<Vec<_>>().join(", "))
        }
        DeValue::Table(_) => "{…}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_are_not_shown() {
        for (key, value, expected) in [
            ("store.url", r#""redis://user:secret@h:6379/1""#, r#""redis://…@h:6379/1""#),
            ("store.url", r#""file:""#, r#""file:""#),
            ("push.callback.url", r#""https://h/push?key=secret""#, r#""https://h/push?…""#),
            ("push.callback.url", r#""https://me:secret@h/push?key=secret""#, r#""https://…@h/push?…""#),
            ("hold.wait_s", "28", "28"),
        ] {
            assert_eq!(shown(key, value), expected);
        }
    }
}
