//! APNs provider tokens: the JWT that a team signs its pushes with
//! (Apple, "Establishing a token-based connection to APNs").

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use serde::Serialize;

use super::jwt::{SigningError, SigningKey};
use crate::clock::Now;

/// Apple refuses tokens older than an hour.
const RENEW_AFTER: Duration = Duration::from_secs(45 * 60);
/// Apple refuses teams that make tokens more often than this.
const RENEW_PAUSE: Duration = Duration::from_secs(20 * 60);

/// One team's token, shared by all its pushes and connections.
#[derive(Debug)]
pub(super) struct ProviderTokens {
    key: SigningKey,
    key_id: Box<str>,
    team_id: Box<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<ProviderToken>>,
    /// When Apple's word, not the token's age, made us renew it.
    forced_at: Option<Instant>,
}

/// The value of an `authorization` header.
#[derive(Debug)]
pub(super) struct ProviderToken {
    pub(super) authorization: HeaderValue,
    made_at: Instant,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
}

impl ProviderTokens {
    pub(super) fn new(key: SigningKey, key_id: &str, team_id: &str) -> Self {
        Self { key, key_id: key_id.into(), team_id: team_id.into(), state: Mutex::default() }
    }

    pub(super) fn current(&self, now: Now) -> Result<Arc<ProviderToken>, SigningError> {
        let mut state = self.state.lock();
        if let Some(token) = &state.token
            && now.instant.saturating_duration_since(token.made_at) < RENEW_AFTER
        {
            return Ok(Arc::clone(token));
        }
        self.renew(&mut state, now)
    }

    /// After Apple refused `stale` for its age. `None` when that happened within the last 20 minutes already: then
    /// the clock or the key is wrong, and more tokens would only make Apple angry.
    pub(super) fn replace(&self, stale: &ProviderToken, now: Now) -> Option<Arc<ProviderToken>> {
        let mut state = self.state.lock();
        if let Some(token) = &state.token
            && token.authorization != stale.authorization
        {
            return Some(Arc::clone(token));
        }
        if state.forced_at.is_some_and(|at| now.instant.saturating_duration_since(at) < RENEW_PAUSE) {
            return None;
        }
        state.forced_at = Some(now.instant);
        self.renew(&mut state, now).ok()
    }

    fn renew(&self, state: &mut State, now: Now) -> Result<Arc<ProviderToken>, SigningError> {
        let header = Header { alg: "ES256", kid: &self.key_id };
        let claims = Claims { iss: &self.team_id, iat: now.unix.seconds() };
        let jwt = self.key.sign(&header, &claims)?;
        let mut authorization = HeaderValue::try_from(format!("bearer {jwt}")).map_err(|_| SigningError)?;
        authorization.set_sensitive(true);
        let token = Arc::new(ProviderToken { authorization, made_at: now.instant });
        state.token = Some(Arc::clone(&token));
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    };

    use super::*;
    use crate::push::clock;

    fn tokens() -> (ProviderTokens, Vec<u8>) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let public = key.public_key().as_ref().to_vec();
        (ProviderTokens::new(SigningKey::Es256(Box::new(key)), "ABC123DEFG", "DEF123GHIJ"), public)
    }

    #[test]
    fn token_is_what_apple_documents() {
        let (tokens, public) = tokens();
        let now = clock();
        let token = tokens.current(now).unwrap();
        let jwt = token.authorization.to_str().unwrap().strip_prefix("bearer ").unwrap();
        let (input, signature) = jwt.rsplit_once('.').unwrap();
        let (header, claims) = input.split_once('.').unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(header).unwrap(), br#"{"alg":"ES256","kid":"ABC123DEFG"}"#);
        assert_eq!(
            URL_SAFE_NO_PAD.decode(claims).unwrap(),
            format!(r#"{{"iss":"DEF123GHIJ","iat":{}}}"#, now.unix.seconds()).as_bytes()
        );
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public)
            .verify(input.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
            .unwrap();
    }

    #[test]
    fn token_is_shared_for_45_minutes() {
        let (tokens, _) = tokens();
        let now = clock();
        let first = tokens.current(now).unwrap();
        let later = tokens.current(now.after(RENEW_AFTER - Duration::from_secs(1))).unwrap();
        assert!(Arc::ptr_eq(&first, &later));
        let renewed = tokens.current(now.after(RENEW_AFTER)).unwrap();
        assert_ne!(first.authorization, renewed.authorization);
    }

    #[test]
    fn token_is_replaced_once_in_20_minutes_when_apple_wants_it() {
        let (tokens, _) = tokens();
        let now = clock();
        let first = tokens.current(now).unwrap();
        let second = tokens.replace(&first, now).unwrap();
        assert_ne!(first.authorization, second.authorization);
        // Another push that was refused with the first one gets the second one.
        assert!(Arc::ptr_eq(&tokens.replace(&first, now).unwrap(), &second));
        assert!(tokens.replace(&second, now.after(RENEW_PAUSE - Duration::from_secs(1))).is_none());
        assert!(tokens.replace(&second, now.after(RENEW_PAUSE)).is_some());
    }
}
