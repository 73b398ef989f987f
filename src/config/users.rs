//! The users file: who may register in local mode, kept as what Digest needs (RFC 7616 §3.4.2, RFC 8760 §2.4).

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use md5::Md5;
use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::address;
use super::document::{Document, Source};
use super::problem::Problems;

/// Users by their AOR.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users {
    by_aor: HashMap<Box<str>, Credentials>,
}

/// What proves a user: H(user:realm:password), where the realm is the user's domain in lower case.
///
/// A user has at least one of the two; one without a form cannot answer a challenge of that algorithm.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub md5: Option<[u8; 16]>,
    pub sha256: Option<[u8; 32]>,
    /// The user name that Digest is computed with, where that is not the user of the AOR.
    pub auth_username: Option<Box<str>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Of a user whose password is known.
    pub fn of_password(user: &str, realm: &str, password: &str) -> Self {
        let a1 = format!("{user}:{realm}:{password}");
        Self { md5: Some(Md5::digest(&a1).into()), sha256: Some(Sha256::digest(&a1).into()), auth_username: None }
    }
}

impl Users {
    /// Reads the text of a users' file; `file` is only for the problems.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Problems> {
        Self::read(&Source::new(file, text))
    }

    /// Credentials of `user@domain`: the user unescaped, the domain in any case.
    pub fn find(&self, user: &str, domain: &str) -> Option<&Credentials> {
        self.by_aor.get(format!("{user}@{}", domain.to_ascii_lowercase()).as_str())
    }

    /// Every account, `user@domain`, with its credentials.
    #[expect(clippy::disallowed_methods, reason = "goes into another map, where order is nothing")]
    pub fn all(&self) -> impl Iterator<Item = (&str, &Credentials)> {
        self.by_aor.iter().map(|(aor, credentials)| (&**aor, credentials))
    }

    pub fn len(&self) -> usize {
        self.by_aor.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_aor.is_empty()
    }

    /// Reads `[users]` with `"user@domain" = "password"` or `{ md5 = "<HA1>", sha256 = "<HA1>" }`, where a table may also
    /// say `password` instead of the hashes, and `auth_username`.
    pub(super) fn read(source: &Source) -> Result<Self, Problems> {
        let document = Document::parse(source)?;
        let mut users = Self::default();
        let table = document.free_table("users");
        if table.is_none_or(DeTable::is_empty) {
            let text = "no user is here; write [users] and lines such as \"alice@example.org\" = \"password\"";
            document.wrong(None, "users".to_owned(), text);
        }
        let mut entries: Vec<_> = table.into_iter().flatten().collect();
        entries.sort_by_key(|(aor, _)| aor.span().start);
        for (aor, value) in entries {
            let key = format!("users.{:?}", aor.get_ref());
            let wrong = |text: String| document.wrong(Some(aor.span().start), key.clone(), text);
            match entry(aor.get_ref(), value.get_ref()) {
                Ok((aor, credentials)) => {
                    if users.by_aor.insert(aor, credentials).is_some() {
                        wrong("stands here twice; domains are the same in capitals".to_owned());
                    }
                }
                Err(text) => wrong(text),
            }
        }
        document.finish(true)?;
        Ok(users)
    }
}

fn entry(aor: &str, value: &DeValue<'_>) -> Result<(Box<str>, Credentials), String> {
    let parts = aor.rsplit_once('@').filter(|(user, _)| !user.is_empty() && !user.contains([':', '@', ' ']));
    let parts = parts.and_then(|(user, domain)| Some((user, address::aor_domain(domain).ok()?)));
    let (user, domain) = parts.ok_or("is not user@domain, such as \"alice@example.org\"")?;
    let credentials = match value {
        DeValue::String(password) if password.is_empty() => return Err("the password is empty".to_owned()),
        DeValue::String(password) => Credentials::of_password(user, &domain, password),
        DeValue::Table(forms) => table(forms, user, &domain)?,
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) => {
            return Err("a password in quotes or { md5 = \"<HA1>\" } is expected".to_owned());
        }
    };
    Ok((format!("{user}@{domain}").into(), credentials))
}

fn table(forms: &DeTable<'_>, user: &str, domain: &str) -> Result<Credentials, String> {
    let mut credentials = Credentials { md5: None, sha256: None, auth_username: None };
    let mut password = None;
    for (name, value) in forms {
        let text = value.get_ref().as_str().unwrap_or_default();
        match name.get_ref().as_ref() {
            "md5" => credentials.md5 = Some(hex(text).ok_or("md5 is not 32 hexadecimal digits")?),
            "sha256" => credentials.sha256 = Some(hex(text).ok_or("sha256 is not 64 hexadecimal digits")?),
            "password" if !text.is_empty() => password = Some(text),
            "password" => return Err("the password is empty".to_owned()),
            "auth_username" if !text.is_empty() && !text.contains([':', '"', ' ']) => {
                credentials.auth_username = Some(text.into());
            }
            "auth_username" => return Err("auth_username is no user name".to_owned()),
            other => return Err(format!("`{other}` is not known; use password, md5, sha256 and auth_username")),
        }
    }
    match (password, credentials.md5.is_some() || credentials.sha256.is_some()) {
        (Some(_), true) => Err("a password and its hashes; use either".to_owned()),
        (None, false) => Err("neither md5 nor sha256 is given".to_owned()),
        (None, true) => Ok(credentials),
        (Some(password), false) => {
            let user = credentials.auth_username.as_deref().unwrap_or(user);
            let hashes = Credentials::of_password(user, domain, password);
            Ok(Credentials { auth_username: credentials.auth_username, ..hashes })
        }
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
