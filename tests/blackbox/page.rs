//! The public listener of Web Push: HTTP by hand, as browsers would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use sip_push_proxy::binding::SubscriptionKeys;

use crate::admin::Admin;
use crate::peer::DEADLINE;

/// Where browsers subscribe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page(pub(crate) SocketAddr);

/// What a browser is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Page {
    pub(crate) fn ask(self, method: &str, path: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.0).expect("the page");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.0);
        let length = body.len();
        let more = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        // One that is refused may be answered before it is read.
        let _ = stream.write_all(format!("{head}{more}").as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn get(self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// Subscribes by a ticket; the contact id.
    #[track_caller]
    pub(crate) fn subscribe(self, ticket: &str, endpoint: &str, keys: &SubscriptionKeys) -> String {
        let answer = self.ask("POST", "/subscriptions", &wish(ticket, endpoint, keys).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["contact_id"].as_str().expect("a contact id").to_owned()
    }

    /// Takes the texts that wait.
    #[track_caller]
    pub(crate) fn pick_up(self, contact_id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/messages/{contact_id}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["messages"].as_array().expect("messages").clone()
    }
}

/// A ticket as the operator's back end gets it.
pub(crate) fn ticket(admin: Admin, aor: &str) -> String {
    let made = admin.post("/api/v1/webpush/tickets", &json!({ "aor": aor }));
    made["ticket"].as_str().expect("a ticket").to_owned()
}

/// What a page posts.
pub(crate) fn wish(ticket: &str, endpoint: &str, keys: &SubscriptionKeys) -> Value {
    use base64::Engine as _;
    let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let keys = json!({ "p256dh": text(&keys.p256dh), "auth": text(&keys.auth) });
    let subscription = json!({ "endpoint": endpoint, "expirationTime": null, "keys": keys });
    json!({ "ticket": ticket, "subscription": subscription, "locale": "de-DE" })
}
