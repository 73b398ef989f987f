//! Where `rsip` accepts a message or a header, we read the same in it.
//!
//! What `rsip` 0.4.0 gets wrong never meets a comparison:
//!
//! - it refuses, so there is nothing to compare: `&` or `:` in URI parameters of a Request-URI (RFC 8599), URI headers,
//!   unknown methods, schemes and transports, folded lines, white space before the colon, bytes outside UTF-8 in
//!   headers, empty lines before the message, a lone LF, IPv6 addresses, two Via in one header, quoted strings with
//!   `<`, `,` or `;`, quoted parameters;
//! - it does not know compact header names: then it has no such header, and nothing is compared;
//! - it reads on where we found a fault (a second To, a line that breaks off): only messages without one are compared;
//! - it ignores Content-Length: our body has to be where its body begins;
//! - it prints `transport=tcp` as `TCP`: URIs are compared by RFC 3261 §19.1.4;
//! - it counts lines beyond our limit of header lines, which is a fault;
//! - it cuts Contact URIs with RFC 8599 parameters and takes one of several Contacts: Contacts are not compared.

mod fixtures;
mod random;

use random::Random;
use rsip::SipMessage;
use rsip::headers::{ToTypedHeader, UntypedHeader};
use rsip::message::{HasHeaders, HeadersExt};
use sip_push_proxy::sip::validity::{request_fault, response_is_sound};
use sip_push_proxy::sip::{HeaderName, Message, Uri, scan};

const HEADERS_MAX: usize = 128;
const GENERATED: u64 = 5_000;

/// What one of the two parsers reads; `None` where it reads nothing.
#[derive(Debug, Default)]
struct Reading {
    method: Option<String>,
    uri: Option<String>,
    status: Option<u16>,
    call_id: Option<String>,
    cseq: Option<(u32, String)>,
    /// The inner one is `None` for a header without a tag.
    from_tag: Option<Option<String>>,
    to_tag: Option<Option<String>>,
    branch: Option<Option<String>>,
    headers: usize,
    body: Vec<u8>,
}

impl Reading {
    fn by_rsip(bytes: &[u8]) -> Option<Self> {
        let message = SipMessage::try_from(bytes).ok()?;
        let mut reading = match &message {
            SipMessage::Request(request) => Self {
                method: Some(request.method.to_string()),
                uri: Some(request.uri.to_string()),
                body: request.body.clone(),
                ..Self::default()
            },
            SipMessage::Response(response) => {
                Self { status: Some(response.status_code.code()), body: response.body.clone(), ..Self::default() }
            }
        };
        reading.headers = message.headers().iter().count();
        reading.call_id = message.call_id_header().ok().map(|header| header.value().to_owned());
        let cseq = message.cseq_header().ok().and_then(|header| header.typed().ok());
        reading.cseq = cseq.map(|cseq| (cseq.seq, cseq.method.to_string()));
        let text = |tag: Option<rsip::param::Tag>| tag.map(|tag| tag.value().to_owned());
        reading.from_tag = message.from_header().ok().and_then(|header| header.tag().ok()).map(text);
        reading.to_tag = message.to_header().ok().and_then(|header| header.tag().ok()).map(text);
        let via = message.via_header().ok().and_then(|header| header.typed().ok());
        reading.branch = via.map(|via| via.branch().map(|branch| branch.value().to_owned()));
        Some(reading)
    }

    fn by_us(message: &Message) -> Self {
        let text = |bytes: &[u8]| scan::text(bytes).into_string();
        let (method, uri) = match message.is_request() {
            true => (Some(text(message.method_text())), Some(text(message.uri()))),
            false => (None, None),
        };
        Self {
            method,
            uri,
            status: message.status(),
            call_id: message.first(HeaderName::CallId).map(text),
            cseq: message.cseq().map(|cseq| (cseq.number, text(cseq.method))),
            from_tag: message.from().map(|_| message.from_tag().map(text)),
            to_tag: message.to().map(|_| message.to_tag().map(text)),
            branch: message.top_via().map(|via| via.branch().map(text)),
            headers: message.all_fields().len(),
            body: message.body().to_vec(),
        }
    }

    /// Whether `self`, which is ours, says all that `theirs` says.
    fn agrees_with(&self, theirs: &Self) -> bool {
        self.method == theirs.method
            && same_uri(self.uri.as_deref(), theirs.uri.as_deref())
            && self.status == theirs.status
            && self.headers == theirs.headers
            && theirs.body.starts_with(&self.body)
            && includes(&self.call_id, &theirs.call_id)
            && includes(&self.cseq, &theirs.cseq)
            && includes(&self.from_tag, &theirs.from_tag)
            && includes(&self.to_tag, &theirs.to_tag)
            && includes(&self.branch, &theirs.branch)
    }
}

fn includes<T: PartialEq>(ours: &Option<T>, theirs: &Option<T>) -> bool {
    theirs.is_none() || ours == theirs
}

fn same_uri(ours: Option<&str>, theirs: Option<&str>) -> bool {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return ours == theirs };
    match (Uri::parse(ours.as_bytes()), Uri::parse(theirs.as_bytes())) {
        (Ok(ours), Ok(theirs)) => ours.is_same(&theirs),
        _ => false,
    }
}

#[test]
fn messages_in_files_are_read_alike() {
    let mut compared = 0;
    let fixtures = fixtures::read("");
    for fixture in &fixtures {
        let Ok(message) = Message::parse(fixture.bytes.clone(), HEADERS_MAX) else { continue };
        let is_sound =
            if message.is_request() { request_fault(&message).is_none() } else { response_is_sound(&message) };
        let Some(theirs) = Reading::by_rsip(&fixture.bytes).filter(|_| is_sound) else { continue };
        let ours = Reading::by_us(&message);
        assert!(ours.agrees_with(&theirs), "{}\nours   {ours:?}\ntheirs {theirs:?}", fixture.name);
        compared += 1;
    }
    assert!(compared * 2 > fixtures.len(), "only {compared} of {} messages were compared", fixtures.len());
}

/// These are of the kind that `rsip` reads whole, so nothing may be missing on either side.
#[test]
fn generated_messages_are_read_alike() {
    for seed in 0..GENERATED {
        let bytes = generate(&mut Random::new(seed));
        let shown = bytes.escape_ascii();
        let theirs = Reading::by_rsip(&bytes).unwrap_or_else(|| panic!("rsip refuses {seed}: {shown}"));
        let message = Message::parse(bytes.clone().into(), HEADERS_MAX).unwrap();
        let ours = Reading::by_us(&message);
        assert!(ours.agrees_with(&theirs), "{seed}: {shown}\nours   {ours:?}\ntheirs {theirs:?}");
        let is_whole = theirs.call_id.is_some() && theirs.cseq.is_some() && theirs.branch.is_some();
        assert!(is_whole && theirs.from_tag.is_some() && theirs.to_tag.is_some(), "{seed}: {theirs:?}");
        assert_eq!(ours.body, theirs.body, "{seed}");
    }
}

/// A well-formed message: known methods, one value a line, names in full, IPv4 or domain names.
fn generate(random: &mut Random) -> Vec<u8> {
    let method = *random.choice(&rsip::Method::all());
    let is_request = random.below(2) == 0;
    let start_line = if is_request {
        format!("{method} {} SIP/2.0", uri(random))
    } else {
        let statuses = [(100, "Trying"), (180, "Ringing"), (200, "OK"), (487, "Request Terminated"), (603, "No")];
        let (status, reason) = random.choice(&statuses);
        format!("SIP/2.0 {status} {reason}")
    };
    let mut lines = vec![
        format!("From: {};tag={}", address(random), word(random)),
        format!("Call-ID: {}@{}", word(random), host(random)),
        format!("CSeq: {} {method}", random.below(1 << 31)),
        format!("Max-Forwards: {}", random.below(256)),
    ];
    let to_tag = if random.below(2) == 0 { format!(";tag={}", word(random)) } else { String::new() };
    lines.push(format!("To: {}{to_tag}", address(random)));
    for _ in 0..random.below(4) {
        lines.push(format!("X-{}: {}", word(random), word(random)));
    }
    shuffle(random, &mut lines);
    for _ in 0..1 + random.below(3) {
        let transport = random.choice(&["UDP", "TCP", "TLS"]);
        let rport = random.choice(&["", ";rport", ";received=192.0.2.9;rport=5061"]);
        let via = format!("Via: SIP/2.0/{transport} {}{rport};branch=z9hG4bK{}", host(random), word(random));
        lines.insert(random.below(lines.len() + 1), via);
    }
    let body: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
    lines.insert(random.below(lines.len() + 1), format!("Content-Length: {}", body.len()));
    let mut bytes = format!("{start_line}\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

fn shuffle(random: &mut Random, lines: &mut [String]) {
    for last in (1..lines.len()).rev() {
        lines.swap(last, random.below(last + 1));
    }
}

fn word(random: &mut Random) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_~";
    (0..1 + random.below(12)).map(|_| char::from(*random.choice(LETTERS))).collect()
}

fn host(random: &mut Random) -> String {
    let label = format!("h{}", random.below(1000));
    match random.below(3) {
        0 => format!("192.0.2.{}", random.below(256)),
        1 => format!("{label}.example.org"),
        _ => format!("{label}.example.org:{}", 1 + random.below(65_535)),
    }
}

fn uri(random: &mut Random) -> String {
    let scheme = random.choice(&["sip", "sips"]);
    let user = match random.below(4) {
        0 => String::new(),
        1 => format!("+7495{}@", random.below(10_000_000)),
        2 => format!("{}:{}@", word(random), word(random)),
        _ => format!("{}%20{}@", word(random), word(random)),
    };
    let params = random.choice(&["", ";lr", ";transport=tcp", ";transport=UDP;ob", ";user=phone", ";x=y;lr;z"]);
    format!("{scheme}:{user}{}{params}", host(random))
}

fn address(random: &mut Random) -> String {
    let display = match random.below(4) {
        0 => String::new(),
        1 => format!("{} ", word(random)),
        2 => format!("\"{} {}\" ", word(random), word(random)),
        _ => "\"Иван Петров\" ".to_owned(),
    };
    format!("{display}<{}>", uri(random))
}
