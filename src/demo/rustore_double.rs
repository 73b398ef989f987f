//! A double of RuStore's push service, over real HTTP on loopback.
//!
//! It is as strict as its documentation: path, service token, fields and their types are checked before a script has its
//! say.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::service_double::{Answer, Asked, Refusal, Service, ServiceDouble, is_duration, json_answer};

/// The project that the double serves.
pub const PROJECT_ID: &str = "demo-rustore";
/// Known to everybody who has the program: it opens nothing.
const SERVICE_TOKEN: &str = "throwaway-service-token";
const DATA_BYTES_MAX: usize = 4096;

/// On a free port of 127.0.0.1.
pub async fn start() -> io::Result<ServiceDouble> {
    ServiceDouble::start(Service { look: Box::new(look), accepted: json!({}) }).await
}

/// Writes the service token to `rustore.token` in `folder`.
pub fn write_credentials(folder: &Path) -> io::Result<PathBuf> {
    let file = folder.join("rustore.token");
    std::fs::write(&file, format!("{SERVICE_TOKEN}\n"))?;
    Ok(file)
}

/// A refusal, in the form of the service.
pub fn refusal(code: u16, status: &str, message: &str) -> Answer {
    Answer::Raw { status: code, headers: Vec::new(), body: error(code, status, message).to_string() }
}

fn error(code: u16, status: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "status": status}})
}

fn look(asked: &Asked) -> Result<String, Refusal> {
    let refused = |code, status, message: &str| Box::new(json_answer(code, &error(code, status, message)));
    let invalid = |message: &str| refused(400, "INVALID_ARGUMENT", message);
    if asked.bearer() != SERVICE_TOKEN || asked.path != format!("/v1/projects/{PROJECT_ID}/messages:send") {
        return Err(refused(403, "PERMISSION_DENIED", "the service token is not of this project"));
    }
    let request = asked.json();
    let message = request.get("message").and_then(Value::as_object).ok_or_else(|| invalid("no message"))?;
    let is_known = |key: &String| ["token", "data", "notification", "android"].contains(&key.as_str());
    if let Some(unknown) = message.keys().find(|key| !is_known(key)) {
        return Err(invalid(&format!("unknown field {unknown:?}")));
    }
    let mut bytes = 0;
    for (key, value) in message.get("data").and_then(Value::as_object).into_iter().flatten() {
        bytes += key.len() + value.as_str().ok_or_else(|| invalid("data is not map[string]string"))?.len();
    }
    if bytes > DATA_BYTES_MAX {
        return Err(refused(413, "INVALID_ARGUMENT", "the message is too large"));
    }
    let android = message.get("android").and_then(Value::as_object).into_iter().flatten();
    for (key, value) in android {
        if key == "ttl" && !is_duration(value) || !["ttl", "notification"].contains(&key.as_str()) {
            return Err(invalid(&format!("wrong android.{key}")));
        }
    }
    message.get("token").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| invalid("no token"))
}
