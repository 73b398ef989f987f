//! Access tokens that this program signs itself, with a service account's key of Huawei (HarmonyOS, "Generating an
//! authentication token based on a service account"): no token endpoint is asked.

use std::time::Duration;

use serde::Serialize;

use super::Verdict;
use super::jwt::SigningKey;
use super::oauth::{AccessToken, Failure};
use crate::clock::Now;

/// Huawei takes a day at most.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Who signs.
pub(super) struct SelfSigned {
    pub(super) key: SigningKey,
    pub(super) key_id: Box<str>,
    pub(super) sub_account: Box<str>,
    /// `aud` of the tokens.
    pub(super) audience: Box<str>,
}

#[derive(Serialize)]
struct Header<'a> {
    kid: &'a str,
    typ: &'static str,
    alg: &'static str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

impl SelfSigned {
    pub(super) fn sign(&self, now: Now) -> Result<AccessToken, Failure> {
        let iat = now.unix.seconds();
        let claims =
            Claims { iss: &self.sub_account, aud: &self.audience, iat, exp: iat.saturating_add(LIFETIME.as_secs()) };
        let header = Header { kid: &self.key_id, typ: "JWT", alg: "PS256" };
        let locked = |error: String| Failure(Verdict::Locked(error.into()));
        let jwt = self.key.sign(&header, &claims).map_err(|error| locked(error.to_string()))?;
        AccessToken::new(&jwt, LIFETIME, now).ok_or_else(|| locked("the token is no header".to_owned()))
    }
}
