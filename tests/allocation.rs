//! Reading a message costs no memory: parse, views and the check of its validity allocate nothing.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be read fails the test")]

mod fixtures;

use std::hint::black_box;

use bytes::Bytes;
use sip_push_proxy::sip::validity::request_fault;
use sip_push_proxy::sip::{Edits, HeaderName, Message, NameAddr, Uri};

fn fixture(directory: &str, name: &str) -> Bytes {
    fixtures::read(directory).into_iter().find(|fixture| fixture.name.ends_with(name)).unwrap().bytes
}

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn an_invite_and_a_register_are_read_without_allocation() {
    for bytes in [fixture("flows/call", "1-invite"), fixture("devices", "linphone-ios-two-tokens")] {
        let mut message = None;
        let parsing = allocations(|| message = Message::parse(bytes, 128).ok());
        let message = message.unwrap();
        let viewing = allocations(|| {
            black_box((message.method(), message.cseq(), message.call_id(), message.from_tag(), message.to_tag()));
            black_box((message.top_via().unwrap().unique_branch(), Uri::parse(message.uri()).unwrap().host));
            for contact in message.values(HeaderName::Contact).filter_map(NameAddr::parse) {
                black_box(contact.parse_uri().unwrap().param("pn-prid"));
            }
        });
        let judging = allocations(|| assert_eq!(request_fault(&message), None));
        assert_eq!((parsing, viewing, judging), (0, 0, 0));
    }
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(black_box(Edits::new().apply(b"x")))) > 0);
}
