//! Who may read the files that secrets are in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::files;
use crate::config::Values;

/// Keys that name a file with a secret in it.
const SECRETS: [&str; 10] = [
    "service_account",
    "key_file",
    "certificate_file",
    "vapid_key_file",
    "secret_file",
    "client_secret_file",
    "token_file",
    "capture_password_file",
    "refresh_password_file",
    "users",
];

/// What should be otherwise, one line for each.
pub(super) fn notes(values: &Values, folder: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    for (key, file) in files::named(values, folder, &SECRETS) {
        let Ok(mode) = fs::metadata(&file).map(|found| found.permissions().mode()) else { continue };
        if mode & 0o004 != 0 {
            notes.push(format!("{key}: everybody on this machine can read {0}; chmod o= {0}", file.display()));
        }
    }
    notes
}
