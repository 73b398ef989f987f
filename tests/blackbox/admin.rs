//! The operator's view: HTTP by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::peer::{DEADLINE, eventually, eventually_is};

/// The admin listener of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Admin(pub(crate) SocketAddr);

impl Admin {
    fn request(self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.0).expect("the admin listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.0).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    pub(crate) fn get(self, path: &str) -> Value {
        let (status, body) = self.request("GET", path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    #[track_caller]
    pub(crate) fn post(self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.send("POST", path, "", body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// A request with a body, and further header lines.
    pub(crate) fn send(self, method: &str, path: &str, headers: &str, body: &Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.0).expect("the admin listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let body = body.to_string();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}", self.0);
        write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").expect("sent");
        read_answer(stream)
    }

    pub(crate) fn status(self, method: &str, path: &str) -> u16 {
        self.request(method, path).0
    }

    /// Of an answer that does not end.
    pub(crate) fn status_of_head(self, path: &str) -> u16 {
        let mut stream = TcpStream::connect(self.0).expect("the admin listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.0).expect("sent");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        String::from_utf8_lossy(&head).split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    pub(crate) fn delete(self, path: &str) -> u16 {
        self.request("DELETE", path).0
    }

    pub(crate) fn bindings(self, aor: &str) -> Vec<Value> {
        list(&self.get(&format!("/api/v1/bindings?aor={aor}")), "bindings")
    }

    /// Entries of all devices of the AOR.
    pub(crate) fn bucket(self, aor: &str) -> Vec<Value> {
        list(&self.get(&format!("/api/v1/buckets/{aor}")), "entries")
    }

    /// `call_ref` and `state` of each entry, once there are as many as expected.
    #[track_caller]
    pub(crate) fn expect_bucket(self, aor: &str, expected: &[(&str, &str)]) {
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        eventually_is(&format!("{expected:?} in the bucket"), || {
            let bucket = self.bucket(aor);
            let found: Vec<_> = bucket.iter().map(|entry| (text(entry, "call_ref"), text(entry, "state"))).collect();
            let is_so = found.iter().map(|(call, state)| (&**call, &**state)).eq(expected.iter().copied());
            if is_so { Ok(()) } else { Err(found) }
        });
    }

    /// Names of the steps of a call, once it has its outcome.
    #[track_caller]
    pub(crate) fn story(self, call_ref: &str, outcome: &str) -> Vec<String> {
        let call = eventually_is(&format!("outcome {outcome} of {call_ref}"), || {
            let (status, body) = self.request("GET", &format!("/api/v1/calls/{call_ref}"));
            let call: Value = serde_json::from_str(&body).unwrap_or_default();
            if status == 200 && call["outcome"] == outcome { Ok(call) } else { Err(call) }
        });
        list(&call, "steps").iter().map(|step| step["step"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Until the call has come as far as that.
    #[track_caller]
    pub(crate) fn expect_step(self, call_ref: &str, step: &str) {
        eventually(step, || {
            let (status, body) = self.request("GET", &format!("/api/v1/calls/{call_ref}"));
            let call: Value = serde_json::from_str(&body).unwrap_or_default();
            let is_so = status == 200 && list(&call, "steps").iter().any(|told| told["step"] == step);
            is_so.then_some(())
        });
    }

    /// The sample with this name and these labels, such as `sip_dropped_total{reason="not_sip"}`.
    pub(crate) fn metric(self, sample: &str) -> f64 {
        let (status, body) = self.request("GET", "/metrics");
        assert_eq!(status, 200);
        let start = format!("sip_push_proxy_{sample} ");
        let line = body.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {sample}"));
        line.parse().expect("a number")
    }

    #[track_caller]
    pub(crate) fn expect_metric(self, sample: &str, expected: f64) {
        eventually_is(&format!("{sample} {expected}"), || {
            let found = self.metric(sample);
            if found == expected { Ok(()) } else { Err(found) }
        });
    }

    /// `/readyz` comes to say this, and that calls may be sent here.
    #[track_caller]
    pub(crate) fn expect_ready(self, expected: &str) {
        eventually_is(&format!("readyz {expected}"), || {
            let (status, body) = self.request("GET", "/readyz");
            assert_eq!(status, 200, "{body}");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            if body["status"] == expected { Ok(()) } else { Err(body) }
        });
    }

    /// The server answers, here and by SIP.
    #[track_caller]
    pub(crate) fn expect_healthy(self) {
        assert_eq!(self.get("/healthz")["status"], "ok");
        assert_eq!(self.metric("sip_dropped_total{reason=\"fault\"}"), 0.0);
    }
}

fn read_answer(mut stream: TcpStream) -> (u16, Value) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).expect("JSON"))
}

fn list(answer: &Value, key: &str) -> Vec<Value> {
    answer[key].as_array().unwrap_or_else(|| panic!("no {key} in {answer}")).clone()
}
