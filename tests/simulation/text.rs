//! Messages as people in the simulation write and read them.

use std::net::SocketAddr;

use bytes::Bytes;
use sip_push_proxy::sip::{HeaderName, Message, NameAddr, Transport};

/// What every request of the simulation has; written by [`Draft::write`].
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) call_id: String,
    pub(crate) cseq: u32,
    pub(crate) max_forwards: u32,
    /// Whole lines without line end.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Draft {
    pub(crate) fn new(method: &str, uri: &str, from: &str, to: &str, call_id: &str, cseq: u32) -> Self {
        Self {
            method: method.into(),
            uri: uri.into(),
            from: from.into(),
            to: to.into(),
            call_id: call_id.into(),
            cseq,
            max_forwards: 70,
            headers: Vec::new(),
            body: String::new(),
        }
    }

    pub(crate) fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// The header lines in an odd spelling are there to be left alone.
    pub(crate) fn write(&self, transport: Transport, address: SocketAddr, branch: &str) -> Bytes {
        let Self { method, uri, from, to, call_id, cseq, max_forwards, headers, body } = self;
        let via = transport.via_name();
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{via} {address};rport;branch={branch}\r\n\
             Max-Forwards: {max_forwards}\r\nf: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             {headers}sUBJECT :  left   alone \r\nX-Folded: one,\r\n  two\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into()
    }
}

pub(crate) fn parse(bytes: Bytes) -> Message {
    Message::parse(bytes, 128).expect("SIP")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All values of a header.
pub(crate) fn values(message: &Message, name: HeaderName) -> Vec<String> {
    message.values(name).map(text).collect()
}

/// The first value of a header; empty without one.
pub(crate) fn first(message: &Message, name: HeaderName) -> String {
    message.first(name).map(text).unwrap_or_default()
}

/// The URI of the first Contact.
pub(crate) fn contact_uri(message: &Message) -> String {
    let contact = message.values(HeaderName::Contact).next().expect("a Contact");
    text(NameAddr::parse(contact).expect("an address").uri)
}

/// Branch of Via number `index`, from the top.
pub(crate) fn branch(message: &Message, index: usize) -> Option<String> {
    let via = message.values(HeaderName::Via).nth(index)?;
    sip_push_proxy::sip::Via::parse(via)?.branch().map(text)
}

pub(crate) fn to_tag(message: &Message) -> String {
    message.to_tag().map(text).unwrap_or_default()
}

/// `INVITE sip:…` or `180`, for a trace.
pub(crate) fn summary(message: &Message) -> String {
    match message.status() {
        Some(status) => format!("{status} ({})", text(message.method_text())),
        None => format!("{} {}", text(message.method_text()), text(message.uri())),
    }
}
