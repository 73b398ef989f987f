//! Files that the configuration names.

use std::path::{Path, PathBuf};

use crate::config::Values;

/// Those that are set by a key of one of these names.
pub(super) fn named(values: &Values, folder: &Path, names: &[&str]) -> Vec<(String, PathBuf)> {
    let is_meant = |key: &str| key.rsplit('.').next().is_some_and(|name| names.contains(&name));
    let file = |(key, value): (&str, String)| {
        let table: toml::Table = format!("file = {value}").parse().ok()?;
        let name = table.get("file")?.as_str().filter(|name| !name.is_empty())?;
        Some((key.to_owned(), folder.join(name)))
    };
    values.shown().filter(|(key, _)| is_meant(key)).filter_map(file).collect()
}
