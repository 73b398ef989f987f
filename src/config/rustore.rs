//! `[[push.rustore]]`: one project of the RuStore console.

use std::path::{Path, PathBuf};

use super::address;
use super::push::{FcmPayload, has_certificate};
use super::section::Section;

/// `[[push.rustore]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuStore {
    pub project_id: String,
    /// It was read and has a service token.
    pub token_file: PathBuf,
    /// Without a slash at its end.
    pub endpoint: String,
    /// An extra root certificate; it was read and is one.
    pub ca_file: Option<PathBuf>,
    /// Whether apps are told who calls, too.
    pub payload: FcmPayload,
}

impl RuStore {
    /// `None` when it is switched off or wrong.
    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        let enabled = section.boolean("enabled", true);
        let project_id = section.bare("project_id");
        let token_file = section.path("token_file", "rustore.token");
        let endpoint = section.string("endpoint", "https://vkpns.rustore.ru");
        let ca_file = section.path("ca_file", "");
        let payload = section.choice("payload", [("ecss", FcmPayload::Ecss), ("extended", FcmPayload::Extended)]);
        if !enabled {
            return None;
        }
        let project_id = project_id_of(section, project_id, "the RuStore console, under Push, Projects");
        let endpoint = section.parsed("endpoint", endpoint, address::service);
        let ca_file = ca_file.filter(|file| has_certificate(section, "ca_file", file));
        if token_file.is_none() {
            section.wrong("token_file", "needed: a file with the service token from the RuStore console");
        }
        let token_file = token_file.filter(|file| has_secret(section, "token_file", file));
        Some(Self { project_id: project_id?, token_file: token_file?, endpoint: endpoint?, ca_file, payload })
    }

    pub(super) fn check_unlike(&self, others: &[Self], section: &Section<'_>) {
        if others.iter().any(|other| other.project_id == self.project_id) {
            let id = &self.project_id;
            section.wrong("project_id", format_args!("project {id} has an account already; leave one out"));
        }
    }
}

/// A project's id becomes part of a path. `place`: where people find it.
pub(super) fn project_id_of(section: &Section<'_>, id: Option<&str>, place: &str) -> Option<String> {
    let Some(id) = id else {
        section.wrong("project_id", format_args!("needed: the project's id, as shown in {place}"));
        return None;
    };
    let is_id = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !is_id(id) {
        section.wrong("project_id", format_args!("{id:?} is not a project's id, as shown in {place}"));
    }
    is_id(id).then(|| id.to_owned())
}

/// Whether the file has a secret, on one line.
pub(super) fn has_secret(section: &Section<'_>, key: &str, file: &Path) -> bool {
    let Some(text) = section.file_text(key, file) else { return false };
    let secret = text.trim();
    let is_secret = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_secret {
        section.wrong(key, format_args!("{} has no secret: one line of it is expected", file.display()));
    }
    is_secret
}
