//! A double of the Push Kit of HarmonyOS, over real HTTP on loopback.
//!
//! It is as strict as its original: the signed token, the path, the type of the message and what that type must have are
//! checked before a script has its say.

use std::io;
use std::path::{Path, PathBuf};

use ring::signature::{KeyPair, RSA_PSS_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::double::{Jwt, strict_jwt, unix_seconds};
use super::service_double::{Answer, Asked, Refusal, Service, ServiceDouble, json_answer};

/// Made for doubles and known to everybody who has the program: it opens nothing.
const THROWAWAY_KEY: &str = include_str!("throwaway_rsa.pem");
/// The project that the double serves.
pub const PROJECT_ID: &str = "388421841221000002";
const KEY_ID: &str = "throwaway0000000000000000000000000000000";
const SUB_ACCOUNT: &str = "100000000";
/// What tokens must be for; nothing is asked there.
const AUDIENCE: &str = "https://oauth-login.cloud.huawei.com/oauth2/v3/token";
const BODY_BYTES_MAX: usize = 4096;

/// On a free port of 127.0.0.1.
pub async fn start() -> io::Result<ServiceDouble> {
    let accepted = json!({"code": "80000000", "msg": "Success", "requestId": "157440955549500001002006"});
    ServiceDouble::start(Service { look: Box::new(look), accepted }).await
}

/// Writes a service account's key file to `harmony.json` in `folder`.
pub fn write_credentials(folder: &Path) -> io::Result<PathBuf> {
    let account = json!({
        "project_id": PROJECT_ID,
        "key_id": KEY_ID,
        "private_key": THROWAWAY_KEY,
        "sub_account": SUB_ACCOUNT,
        "auth_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/authorize",
        "token_uri": AUDIENCE,
    });
    let file = folder.join("harmony.json");
    std::fs::write(&file, format!("{account:#}\n"))?;
    Ok(file)
}

/// All tokens of the push are refused, for this reason.
pub fn illegal_token(why: &str, token: &str) -> Answer {
    let message = json!({"failure": 1, "illegalTokens": {why: [token]}}).to_string();
    Answer::Raw { status: 200, headers: Vec::new(), body: said("80300007", &message).to_string() }
}

fn said(code: &str, message: &str) -> Value {
    json!({"code": code, "msg": message, "requestId": "157440955549500001002006"})
}

fn look(asked: &Asked) -> Result<String, Refusal> {
    let refused = |status, code, message: &str| Box::new(json_answer(status, &said(code, message)));
    if let Some(problem) = token_problem(asked.bearer()) {
        return Err(refused(401, "80200001", problem));
    }
    if asked.path != format!("/v3/{PROJECT_ID}/messages:send") {
        return Err(refused(401, "80200001", "Authentication Error."));
    }
    let request = asked.json();
    let wrong = |what: &str| refused(400, "80100003", &format!("Illegal payload, {what}."));
    let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let push_type = asked.headers.get("push-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match push_type {
        "10" | "6" => drop(text("/payload/extraData").ok_or_else(|| wrong("extraData is required"))?),
        "0" => {
            for field in ["category", "title", "body"] {
                let pointer = format!("/payload/notification/{field}");
                text(&pointer).ok_or_else(|| wrong(&format!("{field} is required")))?;
            }
            let action = request.pointer("/payload/notification/clickAction/actionType");
            action.and_then(Value::as_u64).ok_or_else(|| wrong("clickAction is required"))?;
        }
        _ => return Err(wrong("push-type is invalid")),
    }
    let ttl = request.pointer("/pushOptions/ttl");
    if ttl.is_some_and(|ttl| !ttl.as_u64().is_some_and(|ttl| (1..=1_296_000).contains(&ttl))) {
        return Err(wrong("ttl is invalid"));
    }
    let tokens = request.pointer("/target/token").and_then(Value::as_array);
    let [Value::String(token)] = tokens.map_or(&[][..], Vec::as_slice) else {
        return Err(refused(400, "80300010", "token count should within 1 and 1000"));
    };
    if asked.body.len().saturating_sub(token.len()) > BODY_BYTES_MAX {
        return Err(refused(400, "80300008", "Push message size is too long."));
    }
    Ok(token.clone())
}

/// What is wrong with the token that authorizes a push.
fn token_problem(token: &str) -> Option<&'static str> {
    let Some(Jwt { header, claims, input, signature }) = strict_jwt(token) else {
        return Some("Authorization is no JWT.");
    };
    if header != json!({"kid": KEY_ID, "typ": "JWT", "alg": "PS256"}) {
        return Some("The JWT's header is wrong.");
    }
    if claims["iss"] != SUB_ACCOUNT || claims["aud"] != AUDIENCE {
        return Some("The JWT's iss or aud is wrong.");
    }
    let (now, time) = (unix_seconds(), |name: &str| claims.get(name).and_then(Value::as_u64).unwrap_or_default());
    if time("iat") > now + 60 || time("exp") <= now || time("exp").saturating_sub(time("iat")) > 86_400 {
        return Some("The JWT's iat or exp is wrong.");
    }
    let key = PrivatePkcs8KeyDer::from_pem_slice(THROWAWAY_KEY.as_bytes()).ok()?;
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok()?;
    let verified =
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key.public_key()).verify(input.as_bytes(), &signature);
    verified.is_err().then_some("The JWT's signature is wrong.")
}
