//! Every torture message of `sip-fixtures/` at the proxy: refused with the status that its directory says, or not
//! answered at all.

use bytes::Bytes;
use sip_push_proxy::sip::{Message, Method};

use crate::fixtures;
use crate::sim::{Sim, ms};
use crate::text;

/// What leaves the proxy when `bytes` come from the softswitch.
fn answers(bytes: Bytes) -> Vec<Message> {
    let sim = Sim::new();
    // Whoever sent it is not there to go on with it.
    sim.world().ledger.is_lenient = true;
    sim.world().send_raw(crate::world::SOFTSWITCH, bytes);
    sim.run_for(ms(100));
    sim.world().left.iter().map(|(_, message)| message.clone()).collect()
}

#[test]
fn a_request_at_fault_is_refused_with_its_status() {
    for status in [400, 416, 420, 483, 501, 505] {
        for fixture in fixtures::read(&format!("torture/{status}")) {
            let name = &fixture.name;
            let request = Message::parse(fixture.bytes.clone(), 128).unwrap_or_else(|_| panic!("{name} is a message"));
            let answers = answers(fixture.bytes);
            let finals: Vec<_> = answers.iter().filter(|answer| answer.status() != Some(100)).collect();
            assert_eq!(finals.len(), 1, "{name}");
            assert_eq!(finals[0].status(), Some(status), "{name}");
            assert_eq!(finals[0].call_id(), request.call_id(), "{name}");
            assert_eq!(finals[0].from_tag(), request.from_tag(), "{name}");
            if request.to().is_some() {
                assert!(!text::to_tag(finals[0]).is_empty(), "{name}: a To tag");
            }
        }
    }
}

#[test]
fn what_is_no_message_or_a_stray_response_gets_no_answer() {
    for fixture in fixtures::read("torture/drop") {
        assert!(answers(fixture.bytes).is_empty(), "{}", fixture.name);
    }
}

#[test]
fn what_is_valid_is_refused_for_its_target_only() {
    for fixture in ["torture/valid", "torture/repaired"].into_iter().flat_map(fixtures::read) {
        for answer in answers(fixture.bytes) {
            if let Some(status) = answer.status() {
                // A REGISTER needs a SIP URI in To (RFC 4475 §3.3.4).
                let is_fine = matches!(status, 100 | 180 | 182 | 200 | 403 | 404 | 480 | 420)
                    || (status == 400 && answer.method() == Method::REGISTER);
                assert!(is_fine, "{}: {status}", fixture.name);
            }
        }
    }
}

#[test]
fn the_devices_of_the_fixtures_register() {
    for fixture in fixtures::read("devices") {
        let answers = answers(fixture.bytes);
        let statuses: Vec<_> = answers.iter().filter_map(Message::status).collect();
        assert!(statuses.iter().all(|status| matches!(status, 100 | 200 | 403)), "{}: {statuses:?}", fixture.name);
    }
}
