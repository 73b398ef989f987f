//! Files that `check` looks at more closely: who may read them, and for how long they are good.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::Values;

/// Keys that name a file with a secret in it.
const SECRETS: [&str; 8] = [
    "service_account",
    "key_file",
    "certificate_file",
    "vapid_key_file",
    "secret_file",
    "token_file",
    "capture_password_file",
    "users",
];

/// What should be otherwise, one line for each.
pub(super) fn notes(values: &Values, folder: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    for (key, file) in files(values, folder) {
        let Ok(mode) = fs::metadata(&file).map(|found| found.permissions().mode()) else { continue };
        if mode & 0o004 != 0 {
            notes.push(format!("{key}: everybody on this machine can read {0}; chmod o= {0}", file.display()));
        }
    }
    notes
}

/// Those that are set.
fn files(values: &Values, folder: &Path) -> Vec<(String, PathBuf)> {
    let is_secret = |key: &str| key.rsplit('.').next().is_some_and(|name| SECRETS.contains(&name));
    let file = |(key, value): (&str, String)| {
        let table: toml::Table = format!("file = {value}").parse().ok()?;
        let name = table.get("file")?.as_str().filter(|name| !name.is_empty())?;
        Some((key.to_owned(), folder.join(name)))
    };
    values.shown().filter(|(key, _)| is_secret(key)).filter_map(file).collect()
}
