//! `[hep]`: SIP messages and the steps of calls for a Homer.

use std::fmt;

use super::address::{self, Collector};
use super::section::Section;

/// `[hep]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hep {
    /// `None`: nothing is exported.
    pub server: Option<Collector>,
    /// By which a Homer tells its sources apart.
    pub capture_id: u32,
    /// `None`: the Homer asks for none.
    pub password: Option<CapturePassword>,
    /// Push tokens and what proves a password leave as they are.
    pub sends_secrets: bool,
}

/// What the Homer lets its sources send by.
#[derive(Clone, PartialEq, Eq)]
pub struct CapturePassword(Box<str>);

impl CapturePassword {
    /// The password itself, for packets only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CapturePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapturePassword(…)")
    }
}

impl Hep {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let server = section.optional("server").and_then(|text| section.parsed("server", text, address::collector));
        let capture_id = section.integer("capture_id", 2001, 0..=u32::MAX);
        let password = section.path("capture_password_file", "").and_then(|file| {
            let text = section.file_text("capture_password_file", &file)?;
            let password = text.trim();
            let is_password = (1..=128).contains(&password.len()) && !password.contains(['\r', '\n']);
            if !is_password {
                let text = "has no password: one line of 1 to 128 bytes is expected";
                section.wrong("capture_password_file", format_args!("{} {text}", file.display()));
            }
            is_password.then(|| CapturePassword(password.into()))
        });
        Self { server, capture_id, password, sends_secrets: section.boolean("send_secrets", false) }
    }
}
