//! Every message under `sip-fixtures/` is read as its directory says (RFC 4475, RFC 5118 and the field).
//!
//! A file added there is tested without a change here. `sip-fixtures/README.md` tells what each directory means and
//! what may stand in a `.expect` file.

#![expect(clippy::unwrap_used, reason = "a message without what its `.expect` file asks for fails the test")]

mod fixtures;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use fixtures::Fixture;
use sip_push_proxy::sip::push_param::PushParams;
use sip_push_proxy::sip::uri::{UriError, is_dialled};
use sip_push_proxy::sip::validity::{request_fault, response_fault, response_is_sound};
use sip_push_proxy::sip::{Edits, HeaderName, Message, NameAddr, Uri, Via, repair, scan};

const HEADERS_MAX: usize = 128;

/// Answers that need no knowledge beyond the message; all others are the proxy's.
const STATUSES_OF_THE_MESSAGE: [u16; 4] = [400, 416, 501, 505];

fn parse(fixture: &Fixture) -> Option<Message> {
    Message::parse(fixture.bytes.clone(), HEADERS_MAX).ok()
}

/// Runs `check` over all messages below `directory` and tells of all that fail.
fn each(directory: &str, check: impl Fn(&Fixture) -> Result<(), String>) {
    let faults: Vec<_> = fixtures::read(directory)
        .iter()
        .filter_map(|fixture| check(fixture).err().map(|fault| format!("{}: {fault}", fixture.name)))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

#[test]
fn torture_messages_get_the_answer_of_their_directory() {
    each("torture", |fixture| {
        let directory = fixture.name.split('/').nth(1).unwrap();
        match directory {
            "valid" => sound(fixture),
            "drop" => dropped(fixture),
            "repaired" => repaired(fixture),
            status => refused(fixture, status.parse().map_err(|_| format!("{status}/ has no meaning"))?),
        }
    });
}

#[test]
fn messages_of_devices_and_calls_are_sound() {
    each("devices", sound);
    each("flows", sound);
}

fn sound(fixture: &Fixture) -> Result<(), String> {
    let message = parse(fixture).ok_or("is not SIP")?;
    let fault = if message.is_request() { request_fault(&message) } else { response_fault(&message) };
    ensure(fault.is_none(), &format!("{fault:?}"))?;
    structures_are_read(&message)
}

fn repaired(fixture: &Fixture) -> Result<(), String> {
    let message = parse(fixture).ok_or("is not SIP")?;
    ensure(request_fault(&message).is_some(), "needs no repair")?;
    let repaired = repair::display_names(&message).ok_or("is not repaired")?;
    ensure(request_fault(&repaired).is_none(), "is not sound afterwards")?;
    structures_are_read(&repaired)
}

fn dropped(fixture: &Fixture) -> Result<(), String> {
    let Some(message) = parse(fixture) else { return Ok(()) };
    if message.is_request() {
        return ensure(message.values(HeaderName::Via).next().is_none(), "is a request, which gets an answer");
    }
    ensure(!response_is_sound(&message), "is a sound response")
}

fn refused(fixture: &Fixture, status: u16) -> Result<(), String> {
    let message = parse(fixture).ok_or("is not SIP")?;
    ensure(message.is_request(), "is a response, which gets no answer")?;
    let found = request_fault(&message).map(|fault| fault.status);
    let expected = STATUSES_OF_THE_MESSAGE.contains(&status).then_some(status);
    ensure(found == expected, &format!("gets {found:?}, not {expected:?}"))
}

/// Each header that anybody routes by can be read.
fn structures_are_read(message: &Message) -> Result<(), String> {
    ensure(message.defect().is_none(), "has a defect")?;
    ensure(message.top_via().is_some(), "no top Via")?;
    ensure(message.from().is_some() && message.to().is_some(), "no From or To")?;
    ensure(message.cseq().is_some_and(|cseq| cseq.method == message.method_text()), "no CSeq")?;
    ensure(!message.call_id().is_empty(), "no Call-ID")?;
    ensure(message.is_request() == message.status().is_none(), "neither request nor response")?;
    let is_read = |uri: &[u8]| Uri::parse(uri).is_ok() || is_dialled(uri);
    ensure(!message.is_request() || is_read(message.uri()), "Request-URI not read")?;
    ensure(message.values(HeaderName::Via).all(|value| Via::parse(value).is_some()), "a Via not read")?;
    for name in [HeaderName::Route, HeaderName::RecordRoute] {
        let is_read = |value| NameAddr::parse(value).is_some_and(|route| route.parse_uri().is_ok());
        ensure(message.values(name).all(is_read), "a route not read")?;
    }
    let is_read = |value: &[u8]| {
        value == b"*" || NameAddr::parse(value).is_some_and(|contact| contact.parse_uri() != Err(UriError::Malformed))
    };
    ensure(message.values(HeaderName::Contact).all(is_read), "a Contact not read")
}

#[test]
fn what_is_not_edited_stays_byte_for_byte() {
    each("", |fixture| {
        let Some(message) = parse(fixture) else { return Ok(()) };
        let copy = Edits::new().apply(message.bytes());
        ensure(copy == message.bytes(), "changed without an edit")?;
        let leading = fixture.bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        ensure(fixture.bytes[leading..].starts_with(&copy), "is not what came in")?;
        if message.defect().is_none() { fields_tile(&message) } else { Ok(()) }
    });
}

/// The fields follow one another without a gap from the start line to the empty line.
fn fields_tile(message: &Message) -> Result<(), String> {
    let line_end = message.bytes().iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut at = line_end;
    for field in message.all_fields() {
        ensure(field.line().start == at, &format!("gap before byte {}", field.line().start))?;
        ensure(field.line().contains(&field.name_span().start), "name outside its line")?;
        at = field.line().end;
    }
    ensure(at == message.headers_end(), "headers do not end after the last field")?;
    let empty_line = &message.bytes()[at..message.bytes().len() - message.body().len()];
    ensure(matches!(empty_line, b"\r\n" | b"\n"), "no empty line before the body")
}

#[test]
fn a_header_added_on_top_leaves_the_rest_alone() {
    each("", |fixture| {
        let Some(message) = parse(fixture).filter(|message| message.defect().is_none()) else { return Ok(()) };
        let at = message.all_fields().first().ok_or("has no headers")?.line().start;
        let via = b"Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKown\r\n";
        let mut edits = Edits::new();
        edits.insert(at, |text| text.extend_from_slice(via));
        let forwarded = edits.apply(message.bytes());
        let expected = [&message.bytes()[..at], via, &message.bytes()[at..]].concat();
        ensure(forwarded == expected, "more was changed")?;
        let again = Message::parse(forwarded, HEADERS_MAX + 1).map_err(|error| error.to_string())?;
        let vias = |message: &Message| message.values(HeaderName::Via).count();
        ensure(vias(&again) == vias(&message) + 1, "the Via is not read")?;
        ensure(again.top_via().is_some_and(|via| via.branch() == Some(b"z9hG4bKown")), "it is not on top")?;
        ensure(again.body() == message.body(), "the body differs")?;
        ensure(again.call_id() == message.call_id() && again.cseq() == message.cseq(), "the transaction differs")
    });
}

#[test]
fn messages_of_one_flow_belong_together() {
    let mut flows: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for fixture in fixtures::read("flows") {
        let flow = fixture.name.rsplit_once('/').unwrap().0.to_owned();
        flows.entry(flow).or_default().push(parse(&fixture).unwrap());
    }
    for (flow, messages) in flows {
        let first = &messages[0];
        assert!(first.is_request() && messages.len() > 1, "{flow} is no exchange");
        for message in &messages {
            assert_eq!(message.call_id(), first.call_id(), "{flow}");
            assert_eq!(message.from_tag(), first.from_tag(), "{flow}");
        }
        for response in messages.iter().filter(|message| !message.is_request()) {
            let answers = |request: &&Message| {
                request.is_request()
                    && request.cseq() == response.cseq()
                    && request.top_via().unwrap().branch() == response.top_via().unwrap().branch()
            };
            assert_eq!(messages.iter().filter(answers).count(), 1, "{flow}: {:?}", response.status());
        }
    }
}

#[test]
fn expectations_hold() {
    each("", |fixture| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sip-fixtures").join(&fixture.name);
        let Ok(text) = fs::read_to_string(path.with_extension("expect")) else { return Ok(()) };
        let message = parse(fixture).ok_or("is not SIP")?;
        let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in text.lines() {
            let (key, value) = line.split_once(": ").ok_or_else(|| format!("{line:?} is no `key: value`"))?;
            expected.entry(key).or_default().push(value);
        }
        for (key, values) in expected {
            let found = observe(key, &message, &fixture.bytes).ok_or_else(|| format!("unknown key {key}"))?;
            ensure(found == values, &format!("{key} is {found:?}, not {values:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn every_expectation_has_its_message() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sip-fixtures");
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => directories.push(path),
                Some("expect") => assert!(path.with_extension("sip").exists(), "{} is alone", path.display()),
                Some("sip" | "md") => {}
                _ => panic!("{} is neither a message nor an expectation", path.display()),
            }
        }
    }
}

/// What a `.expect` file calls `key`; one text for each Contact where it is about Contacts.
fn observe(key: &str, message: &Message, file: &Bytes) -> Option<Vec<String>> {
    let uri = || Uri::parse(message.uri()).unwrap();
    let via = || message.top_via().unwrap();
    let contacts = || message.values(HeaderName::Contact).filter_map(NameAddr::parse);
    let one = |value: Option<&[u8]>| vec![value.map_or_else(|| "none".into(), |value| scan::text(value).into_string())];
    let number = |value: Option<u64>| vec![value.map_or_else(|| "none".into(), |value| value.to_string())];
    let count = |value: usize| vec![value.to_string()];
    Some(match key {
        "method" => one(Some(message.method_text())),
        "status" => number(message.status().map(u64::from)),
        "reason" => vec![request_fault(message)?.reason.to_owned()],
        "uri" => one(Some(message.uri())),
        "user" => one(uri().user_unescaped().as_deref()),
        "host" => one(Some(uri().host)),
        "port" => number(uri().port.map(u64::from)),
        "push-uri" => vec![describe(&PushParams::read(&uri(), b""))],
        "from-tag" => one(message.from_tag()),
        "to-tag" => one(message.to_tag()),
        "cseq" => message.cseq().map(|cseq| vec![format!("{} {}", cseq.number, scan::text(cseq.method))])?,
        "max-forwards" => number(message.number(HeaderName::MaxForwards)),
        "vias" => count(message.values(HeaderName::Via).count()),
        "branch" => one(via().branch()),
        "unique-branch" => one(via().unique_branch()),
        "via-host" => one(Some(via().host)),
        "via-port" => number(via().port.map(u64::from)),
        "received" => via().received().map(|ip| vec![ip.to_string()])?,
        "routes" => count(message.values(HeaderName::Route).count()),
        "contacts" => count(message.values(HeaderName::Contact).count()),
        "contact-uri" => contacts().map(|contact| scan::text(contact.uri).into_string()).collect(),
        "contact-params" => contacts().map(|contact| scan::text(contact.params).into_string()).collect(),
        "contact-user" => contacts()
            .map(|contact| scan::text(&contact.parse_uri().unwrap().user_unescaped().unwrap()).into_string())
            .collect(),
        "push" => contacts().map(|contact| describe_contact(&contact)).collect(),
        "body-bytes" => count(message.body().len()),
        "leading-bytes" => count(file.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()),
        "trailing-bytes" => count(file.len() - message.bytes().len()),
        _ => return None,
    })
}

fn describe_contact(contact: &NameAddr<'_>) -> String {
    contact.parse_uri().map_or_else(|_| "absent".into(), |uri| describe(&PushParams::read(&uri, contact.params)))
}

fn describe(push: &PushParams) -> String {
    match push {
        PushParams::Absent => "absent".into(),
        PushParams::Query(None) => "query *".into(),
        PushParams::Query(Some(provider)) => format!("query {provider}"),
        PushParams::Target(target) | PushParams::Half { target, .. } => {
            let param = if target.param.is_empty() { "-" } else { &target.param };
            format!("target {} {} {param}", target.provider, target.prid.reveal())
        }
        PushParams::Refused { .. } => "refused".into(),
    }
}
