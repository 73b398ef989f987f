//! What each key is set to, as text: to tell an operator which keys differ between two configurations.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};
use toml::de::DeValue;

/// Keys whose value may carry a password or a key in its URL.
const URLS: [&str; 3] = ["store.url", "push.callback.url", "push.https_proxy"];

/// What files held when they were read, by the keys that name them: good for nothing but to be compared.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<String, [u8; 32]>);

/// Short secrets can be guessed from their digests.
impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Files({})", self.0.len())
    }
}

/// The keys that hold, by name: those of the file, and the others with their defaults; and what the files that they name
/// held.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values {
    keys: BTreeMap<String, String>,
    files: Files,
}

/// Some of the values are secrets.
impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({} keys)", self.keys.len())
    }
}

/// A key that two configurations set to different values, or that names a file with another content. Values are as in TOML; `None`: not set, and without a default.
/// What a secret could be part of is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub key: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl Values {
    pub(super) fn set(&mut self, key: String, value: String) {
        self.keys.insert(key, value);
    }

    /// In the order of the keys' names.
    pub fn differences(&self, to: &Self) -> Vec<Difference> {
        let mut keys: Vec<_> = self.keys.keys().chain(to.keys.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let shown = |key: &str, value: Option<&String>| value.map(|value| shown(key, value));
        let difference = |key: &String| {
            let has_same_value = self.keys.get(key) == to.keys.get(key);
            let has_same_content = self.files.0.get(key) == to.files.0.get(key);
            if has_same_value && has_same_content {
                return None;
            }
            let (from, to) = (shown(key, self.keys.get(key)), shown(key, to.keys.get(key)));
            let to = if has_same_value { to.map(|file| format!("{file} (new content)")) } else { to };
            Some(Difference { key: key.clone(), from, to })
        };
        keys.into_iter().filter_map(difference).collect()
    }

    pub(super) fn set_content(&mut self, key: String, content: &[u8]) {
        self.files.0.insert(key, Sha256::digest(content).into());
    }

    /// Of the files that keys of a table name.
    pub(super) fn files_of(&self, table: &str) -> Files {
        let is_of_table = |key: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        let files = self.files.0.iter().filter(|(key, _)| is_of_table(key));
        Files(files.map(|(key, digest)| (key.clone(), *digest)).collect())
    }

    /// Names and values, in the order of the names. What a secret could be part of is left out.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String)> {
        self.keys.iter().map(|(key, value)| (&**key, shown(key, value)))
    }

    /// These, with those of `other` for the keys that `is_taken`.
    pub fn with(&self, other: &Self, is_taken: impl Fn(&str) -> bool) -> Self {
        let keys = merged(&self.keys, &other.keys, &is_taken);
        Self { keys, files: Files(merged(&self.files.0, &other.files.0, &is_taken)) }
    }
}

fn merged<V: Clone>(
    own: &BTreeMap<String, V>,
    other: &BTreeMap<String, V>,
    is_taken: &impl Fn(&str) -> bool,
) -> BTreeMap<String, V> {
    let kept = own.iter().filter(|(key, _)| !is_taken(key));
    let taken = other.iter().filter(|(key, _)| is_taken(key));
    kept.chain(taken).map(|(key, value)| (key.clone(), value.clone())).collect()
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

    #[test]
    fn another_content_of_the_same_file_is_a_difference() {
        let values = |content: &[u8]| {
            let mut values = Values::default();
            values.set("push.apns[0].key_file".to_owned(), "\"key.p8\"".to_owned());
            values.set_content("push.apns[0].key_file".to_owned(), content);
            values
        };
        let (old, new) = (values(b"old"), values(b"new"));
        assert_eq!(old.differences(&values(b"old")), []);
        let difference = Difference {
            key: "push.apns[0].key_file".to_owned(),
            from: Some("\"key.p8\"".to_owned()),
            to: Some("\"key.p8\" (new content)".to_owned()),
        };
        assert_eq!(old.differences(&new), [difference]);
        assert_eq!(old.with(&new, |key| key.starts_with("push.")), new);
        assert_eq!(old.with(&new, |_| false), old);
        assert_ne!(old.files_of("push"), new.files_of("push"));
        assert_eq!(old.files_of("store"), Files::default());
    }
}
