//! The table as its user sees it.

use std::collections::BTreeSet;
use std::time::Instant;

use super::test_support::{after, answer, flow, own_request, parse, request, sent, settings, trusted};
use super::*;
use crate::sip::{HeaderName, Transport};

fn transactions() -> Transactions {
    Transactions::new(settings(), 1)
}

fn destination(transport: Transport) -> Destination {
    Destination::Flow(flow(transport))
}

/// Lets time pass up to `until`, one deadline after the other.
fn run(transactions: &mut Transactions, until: Instant) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(at) = transactions.poll_timeout().filter(|at| *at <= until) {
        while let Some(event) = transactions.expire(at) {
            events.push(event);
        }
    }
    events
}

/// A server transaction that has just begun, with what was sent for it thrown away.
fn serve(transactions: &mut Transactions, request: &Message, transport: Transport) -> ServerId {
    let Incoming::Request(id) = transactions.receive_request(request, flow(transport), trusted, after(0)) else {
        panic!("not taken");
    };
    sent(transactions);
    id
}

/// A client transaction that has just begun, and its request, with what was sent for it thrown away.
fn call(transactions: &mut Transactions, method: &str, transport: Transport) -> (ClientId, Message) {
    let branch = transactions.new_branch(0);
    let request = own_request(method, branch);
    let id = transactions.send(request.clone(), branch, destination(transport), after(0)).unwrap();
    assert_eq!(sent(transactions), [method]);
    (id, request)
}

fn receive(transactions: &mut Transactions, request: &Message, status: u16, ms: u64) -> Option<Event> {
    transactions.receive_response(parse(answer(request, status)), after(ms))
}

fn is_over(transactions: &mut Transactions) -> bool {
    transactions.is_empty() && transactions.poll_timeout().is_none() && transactions.common.timers.is_empty()
}

#[test]
fn a_request_is_slow_when_timer_e_has_grown_to_t2() {
    let until = |t1: u64| Settings { t1: Duration::from_millis(t1), ..settings() }.until_t2().as_millis();
    assert_eq!([until(500), until(1000), until(3000), until(5000)], [3500, 3000, 3000, 5000]);
    assert!(until(0) >= 1);
}

#[test]
fn an_invite_gets_100_at_once_and_its_repetition_the_last_response() {
    let mut transactions = transactions();
    let invite = request("INVITE", "1");
    let Incoming::Request(id) = transactions.receive_request(&invite, flow(Transport::Udp), trusted, after(0)) else {
        panic!()
    };
    assert_eq!(sent(&mut transactions), ["100"]);
    assert_eq!(transactions.receive_request(&invite, flow(Transport::Udp), trusted, after(500)), Incoming::Absorbed);
    assert_eq!(sent(&mut transactions), ["100"]);
    transactions.respond(id, 182, answer(&invite, 182), after(600));
    transactions.receive_request(&invite, flow(Transport::Udp), trusted, after(1_500));
    assert_eq!(sent(&mut transactions), ["182", "182"]);
    assert_eq!((transactions.len(), transactions.poll_timeout()), (1, None), "a held call needs no timer");
}

#[test]
fn a_failure_is_repeated_until_the_ack() {
    let mut transactions = transactions();
    let invite = request("INVITE", "1");
    let id = serve(&mut transactions, &invite, Transport::Udp);
    transactions.respond(id, 480, answer(&invite, 480), after(0));
    run(&mut transactions, after(11_000));
    assert_eq!(sent(&mut transactions), ["480"; 5], "at 0, 0.5, 1.5, 3.5 and 7.5 s");
    let ack = request("ACK", "1");
    assert_eq!(transactions.receive_request(&ack, flow(Transport::Udp), trusted, after(11_000)), Incoming::Absorbed);
    assert_eq!(transactions.receive_request(&ack, flow(Transport::Udp), trusted, after(11_100)), Incoming::Absorbed);
    assert!(matches!(run(&mut transactions, after(16_000))[..], [Event::ServerEnded { server }] if server == id));
    assert!(sent(&mut transactions).is_empty() && is_over(&mut transactions));
}

#[test]
fn a_failure_without_ack_ends_after_timer_h() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut transactions = transactions();
        let invite = request("INVITE", "1");
        let id = serve(&mut transactions, &invite, transport);
        transactions.respond(id, 486, answer(&invite, 486), after(0));
        assert!(run(&mut transactions, after(31_999)).is_empty());
        assert!(matches!(run(&mut transactions, after(32_000))[..], [Event::ServerEnded { server }] if server == id));
        assert_eq!(sent(&mut transactions).len(), if transport == Transport::Udp { 11 } else { 1 });
        assert!(is_over(&mut transactions));
    }
}

#[test]
fn after_a_2xx_further_2xx_pass_and_repeated_invites_are_absorbed() {
    let mut transactions = transactions();
    let invite = request("INVITE", "1");
    let id = serve(&mut transactions, &invite, Transport::Udp);
    transactions.respond(id, 200, answer(&invite, 200), after(0));
    transactions.respond(id, 486, answer(&invite, 486), after(1));
    transactions.respond(id, 180, answer(&invite, 180), after(2));
    transactions.respond(id, 200, answer(&invite, 200), after(3));
    assert_eq!(transactions.receive_request(&invite, flow(Transport::Udp), trusted, after(500)), Incoming::Absorbed);
    assert_eq!(sent(&mut transactions), ["200", "200"]);
    let ack = request("ACK", "1");
    assert_eq!(transactions.receive_request(&ack, flow(Transport::Udp), trusted, after(600)), Incoming::Ack);
    assert!(matches!(run(&mut transactions, after(32_000))[..], [Event::ServerEnded { .. }]));
    assert!(is_over(&mut transactions));
}

#[test]
fn an_ack_of_nothing_known_is_the_users() {
    let ack = request("ACK", "1");
    assert_eq!(transactions().receive_request(&ack, flow(Transport::Udp), trusted, after(0)), Incoming::Ack);
}

/// RFC 4320 §4: no 100 of its own, no 408.
#[test]
fn a_non_invite_server_sends_only_what_it_is_given() {
    let mut transactions = transactions();
    let options = request("OPTIONS", "1");
    let id = serve(&mut transactions, &options, Transport::Udp);
    assert_eq!(transactions.receive_request(&options, flow(Transport::Udp), trusted, after(500)), Incoming::Absorbed);
    assert!(run(&mut transactions, after(100_000)).is_empty() && sent(&mut transactions).is_empty());
    transactions.respond(id, 200, answer(&options, 200), after(100_000));
    transactions.respond(id, 500, answer(&options, 500), after(100_001));
    assert_eq!(
        transactions.receive_request(&options, flow(Transport::Udp), trusted, after(100_500)),
        Incoming::Absorbed
    );
    assert_eq!(sent(&mut transactions), ["200", "200"]);
    assert!(run(&mut transactions, after(131_999)).is_empty());
    assert!(matches!(run(&mut transactions, after(132_000))[..], [Event::ServerEnded { .. }]));
    assert!(is_over(&mut transactions));
    transactions.respond(id, 200, answer(&options, 200), after(132_001));
    assert!(sent(&mut transactions).is_empty(), "a stale id");
    let again = transactions.receive_request(&options, flow(Transport::Udp), trusted, after(132_002));
    assert!(matches!(again, Incoming::Request(_)), "nothing remembers the old one");
}

#[test]
fn a_cancel_finds_its_invite_until_the_final_response() {
    let mut transactions = transactions();
    let (invite, cancel) = (request("INVITE", "1"), request("CANCEL", "1"));
    let id = serve(&mut transactions, &invite, Transport::Udp);
    let incoming = transactions.receive_request(&cancel, flow(Transport::Udp), trusted, after(10));
    let Incoming::Cancel { cancel: cancel_id, invite: Some(found) } = incoming else { panic!("{incoming:?}") };
    assert_eq!(found, id);
    transactions.respond(cancel_id, 200, answer(&cancel, 200), after(11));
    transactions.respond(id, 487, answer(&invite, 487), after(11));
    assert_eq!(transactions.receive_request(&cancel, flow(Transport::Udp), trusted, after(20)), Incoming::Absorbed);
    assert_eq!(sent(&mut transactions), ["200", "487", "200"]);

    let unknown = request("CANCEL", "2");
    let incoming = transactions.receive_request(&unknown, flow(Transport::Udp), trusted, after(30));
    assert!(matches!(incoming, Incoming::Cancel { invite: None, .. }), "{incoming:?}");
}

/// RFC 3261 §9.2: 200 all the same, with the To tag of the INVITE's response.
#[test]
fn a_cancel_after_the_final_response_changes_nothing() {
    let mut transactions = transactions();
    let invite = request("INVITE", "1");
    let id = serve(&mut transactions, &invite, Transport::Udp);
    transactions.respond(id, 200, answer(&invite, 200), after(0));
    sent(&mut transactions);
    let cancel = request("CANCEL", "1");
    assert_eq!(transactions.receive_request(&cancel, flow(Transport::Udp), trusted, after(10)), Incoming::Absorbed);
    let answer = parse(transactions.poll_send().unwrap().bytes);
    assert_eq!((answer.status(), answer.method(), answer.to_tag()), (Some(200), Method::CANCEL, Some(&b"t"[..])));
}

#[test]
fn a_full_table_takes_no_request_that_it_could_not_forward() {
    let mut transactions = Transactions::new(Settings { transactions_max: 3, ..settings() }, 1);
    serve(&mut transactions, &request("INVITE", "1"), Transport::Udp);
    let (_, _) = call(&mut transactions, "INVITE", Transport::Udp);
    let second = transactions.receive_request(&request("INVITE", "2"), flow(Transport::Udp), trusted, after(0));
    assert_eq!((second, transactions.len()), (Incoming::Full, 2));
    call(&mut transactions, "INVITE", Transport::Udp);
    let branch = transactions.new_branch(0);
    let fourth = transactions.send(own_request("BYE", branch), branch, destination(Transport::Udp), after(0));
    assert_eq!(fourth, Err(Full));
    let cancel = transactions.receive_request(&request("CANCEL", "1"), flow(Transport::Udp), trusted, after(0));
    assert!(matches!(cancel, Incoming::Cancel { invite: Some(_), .. }), "whoever gives up makes room");
}

#[test]
fn the_last_quarter_of_the_table_is_for_the_softswitch() {
    let mut transactions = Transactions::new(Settings { transactions_max: 8, ..settings() }, 1);
    let mut asks = |branch: &str, standing: Standing| {
        transactions.receive_request(&request("OPTIONS", branch), flow(Transport::Udp), || standing, after(0))
    };
    for branch in ["1", "2", "3", "4", "5"] {
        assert!(matches!(asks(branch, Standing::Unproven), Incoming::Request(_)), "{branch}");
    }
    assert_eq!((asks("6", Standing::Unproven), asks("6", Standing::Proven)), (Incoming::Full, Incoming::Full));
    assert_eq!(asks("1", Standing::Unproven), Incoming::Absorbed);
    for branch in ["6", "7"] {
        assert!(matches!(asks(branch, Standing::Trusted), Incoming::Request(_)), "{branch}");
    }
    assert_eq!(asks("8", Standing::Trusted), Incoming::Full);
    // What the softswitch has us keep does not shut others out.
    let mut transactions = Transactions::new(Settings { transactions_max: 8, ..settings() }, 1);
    let standings = [[Standing::Trusted; 5].as_slice(), &[Standing::Unproven, Standing::Proven]].concat();
    for (branch, standing) in ["1", "2", "3", "4", "5", "6", "7"].into_iter().zip(standings) {
        let request = request("OPTIONS", branch);
        let incoming = transactions.receive_request(&request, flow(Transport::Udp), || standing, after(0));
        assert!(matches!(incoming, Incoming::Request(_)), "{branch}: {incoming:?}");
    }
}

#[test]
fn a_source_has_no_more_kept_than_it_may() {
    let size = request("OPTIONS", "1").bytes().len();
    let settings = Settings { source_bytes_max: 2 * size + size / 2, ..settings() };
    let mut transactions = Transactions::new(settings, 1);
    let other = Flow { remote: "192.0.2.7:5070".parse().unwrap(), ..flow(Transport::Udp) };
    let mut first = None;
    for branch in ["1", "2"] {
        let incoming = transactions.receive_request(
            &request("OPTIONS", branch),
            flow(Transport::Udp),
            || Standing::Proven,
            after(0),
        );
        let Incoming::Request(id) = incoming else { panic!("{incoming:?}") };
        first = first.or(Some(id));
    }
    let third = request("OPTIONS", "3");
    let mut again =
        |flow: Flow, standing: Standing, ms: u64| transactions.receive_request(&third, flow, || standing, after(ms));
    assert_eq!(again(flow(Transport::Udp), Standing::Unproven, 0), Incoming::SourceFull);
    assert!(matches!(again(other, Standing::Unproven, 0), Incoming::Request(_)));
    transactions.respond(first.unwrap(), 200, answer(&request("OPTIONS", "1"), 200), after(0));
    run(&mut transactions, after(40_000));
    let incoming = transactions.receive_request(
        &request("OPTIONS", "4"),
        flow(Transport::Udp),
        || Standing::Unproven,
        after(40_000),
    );
    assert!(matches!(incoming, Incoming::Request(_)), "{incoming:?}");
    let much = (5..50).map(|branch| request("OPTIONS", &branch.to_string()));
    for request in much {
        let incoming = transactions.receive_request(&request, flow(Transport::Udp), trusted, after(40_000));
        assert!(matches!(incoming, Incoming::Request(_)), "the softswitch has no such limit: {incoming:?}");
    }
}

#[test]
fn a_final_response_is_repeated_to_those_alone_who_are_where_they_say() {
    for (standing, expected) in [(Standing::Unproven, 1), (Standing::Proven, 11), (Standing::Trusted, 11)] {
        let mut transactions = transactions();
        let invite = request("INVITE", "1");
        let Incoming::Request(id) = transactions.receive_request(&invite, flow(Transport::Udp), || standing, after(0))
        else {
            panic!("not taken");
        };
        sent(&mut transactions);
        transactions.respond(id, 486, answer(&invite, 486), after(0));
        run(&mut transactions, after(31_999));
        assert_eq!(sent(&mut transactions), vec!["486"; expected], "{standing:?}");
        // What the client repeats is answered as ever, and absorbed for as long.
        let again = transactions.receive_request(&invite, flow(Transport::Udp), || standing, after(31_999));
        assert_eq!((again, &*sent(&mut transactions)), (Incoming::Absorbed, &["486".to_owned()][..]));
        run(&mut transactions, after(32_000));
        assert!(is_over(&mut transactions));
    }
}

#[test]
fn a_response_goes_to_the_source_with_rport_and_to_the_sent_by_port_without() {
    let with = request("OPTIONS", "1");
    assert_eq!(reply_destination(&with, flow(Transport::Udp)), destination(Transport::Udp));
    let without = parse(String::from_utf8(with.bytes().to_vec()).unwrap().replace(";rport", "").into());
    let Destination::Address { remote, .. } = reply_destination(&without, flow(Transport::Udp)) else { panic!() };
    assert_eq!(remote, "192.0.2.1:5060".parse().unwrap());
    assert_eq!(reply_destination(&without, flow(Transport::Tcp)), destination(Transport::Tcp));
}

#[test]
fn a_response_whose_connection_is_gone_is_tried_by_the_via_once() {
    let mut transactions = transactions();
    let options = request("OPTIONS", "1");
    let id = serve(&mut transactions, &options, Transport::Tcp);
    transactions.respond(id, 100, answer(&options, 100), after(0));
    transactions.respond(id, 200, answer(&options, 200), after(0));
    let (first, second) = (transactions.poll_send().unwrap(), transactions.poll_send().unwrap());
    assert_eq!(first.destination, destination(Transport::Tcp));
    assert!(transactions.send_failed(first.tag, after(1)).is_none());
    assert!(transactions.send_failed(second.tag, after(1)).is_none(), "the same failure again");
    let again = transactions.poll_send().unwrap();
    assert_eq!(parse(again.bytes).status(), Some(200));
    let fallback =
        Destination::Address { transport: Transport::Tcp, listener: 0, remote: "192.0.2.1:5060".parse().unwrap() };
    assert_eq!(again.destination, fallback);
    let ended = transactions.send_failed(again.tag, after(2));
    assert!(matches!(ended, Some(Event::ServerEnded { server }) if server == id));
    assert!(transactions.poll_send().is_none() && is_over(&mut transactions));
}

#[test]
fn a_datagram_has_no_other_way() {
    let mut transactions = transactions();
    let options = request("OPTIONS", "1");
    let id = serve(&mut transactions, &options, Transport::Udp);
    transactions.respond(id, 200, answer(&options, 200), after(0));
    let tag = transactions.poll_send().unwrap().tag;
    assert!(matches!(transactions.send_failed(tag, after(1)), Some(Event::ServerEnded { server }) if server == id));
    assert!(transactions.poll_send().is_none() && is_over(&mut transactions));
}

#[test]
fn a_held_call_outlives_the_callers_connection() {
    let mut transactions = transactions();
    let invite = request("INVITE", "1");
    let Incoming::Request(id) = transactions.receive_request(&invite, flow(Transport::Tcp), trusted, after(0)) else {
        panic!()
    };
    for _ in 0..2 {
        let outgoing = transactions.poll_send().unwrap();
        assert!(transactions.send_failed(outgoing.tag, after(1)).is_none());
    }
    transactions.respond(id, 480, answer(&invite, 480), after(2));
    let final_response = transactions.poll_send().unwrap();
    assert!(matches!(final_response.destination, Destination::Address { .. }));
}

#[test]
fn an_invite_is_sent_again_until_timer_b() {
    for (transport, copies) in [(Transport::Udp, 6), (Transport::Tcp, 0)] {
        let mut transactions = transactions();
        let (id, _) = call(&mut transactions, "INVITE", transport);
        assert!(run(&mut transactions, after(31_999)).is_empty());
        assert_eq!(sent(&mut transactions), vec!["INVITE"; copies], "0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s");
        assert!(matches!(run(&mut transactions, after(32_000))[..], [Event::Timeout { client }] if client == id));
        assert!(is_over(&mut transactions));
    }
}

#[test]
fn a_non_invite_is_sent_again_at_t2_once_it_is_being_worked_on() {
    let mut transactions = transactions();
    let (id, request) = call(&mut transactions, "REGISTER", Transport::Udp);
    assert!(matches!(receive(&mut transactions, &request, 100, 100), Some(Event::Response { .. })));
    assert!(run(&mut transactions, after(31_999)).is_empty());
    assert_eq!(sent(&mut transactions), ["REGISTER"; 8], "0.5 s, then every 4 s");
    assert!(matches!(run(&mut transactions, after(32_000))[..], [Event::Timeout { client }] if client == id));
    assert!(is_over(&mut transactions));
}

#[test]
fn a_failure_is_acknowledged_each_time_and_told_once() {
    let mut transactions = transactions();
    let (id, invite) = call(&mut transactions, "INVITE", Transport::Udp);
    assert!(matches!(receive(&mut transactions, &invite, 180, 10), Some(Event::Response { .. })));
    assert!(
        matches!(receive(&mut transactions, &invite, 486, 20), Some(Event::Response { client, .. }) if client == id)
    );
    assert!(receive(&mut transactions, &invite, 486, 520).is_none());
    let acks: Vec<_> = std::iter::from_fn(|| transactions.poll_send()).collect();
    assert_eq!((acks.len(), acks[0].bytes == acks[1].bytes), (2, true));
    let ack = parse(acks[0].bytes.clone());
    assert_eq!((ack.method(), ack.to_tag()), (Method::ACK, Some(&b"t"[..])));
    assert_eq!(ack.top_via().unwrap().branch(), invite.top_via().unwrap().branch());
    assert!(matches!(run(&mut transactions, after(32_020))[..], [Event::ClientEnded { client }] if client == id));
    assert!(is_over(&mut transactions) && transactions.stray() == 0);
    receive(&mut transactions, &invite, 486, 32_021);
    assert_eq!(transactions.stray(), 1);
}

#[test]
fn every_2xx_is_told() {
    let mut transactions = transactions();
    let (id, invite) = call(&mut transactions, "INVITE", Transport::Tcp);
    for ms in [10, 510, 1_510] {
        let event = receive(&mut transactions, &invite, 200, ms);
        assert!(matches!(event, Some(Event::Response { client, .. }) if client == id));
    }
    assert!(sent(&mut transactions).is_empty(), "the ACK is the user's");
    assert!(matches!(run(&mut transactions, after(32_010))[..], [Event::ClientEnded { .. }]));
    assert!(is_over(&mut transactions));
}

#[test]
fn a_cancel_waits_for_a_provisional_response() {
    let mut transactions = transactions();
    let (id, invite) = call(&mut transactions, "INVITE", Transport::Udp);
    transactions.cancel(id, b"Reason: SIP;cause=200\r\n", after(10));
    assert!(sent(&mut transactions).is_empty());
    assert!(receive(&mut transactions, &invite, 100, 20).is_some());
    transactions.cancel(id, b"", after(30));
    let cancel = transactions.poll_send().unwrap();
    assert_eq!(cancel.destination, destination(Transport::Udp));
    let cancel = parse(cancel.bytes);
    assert_eq!((cancel.method(), cancel.first(HeaderName::Reason)), (Method::CANCEL, Some(&b"SIP;cause=200"[..])));
    assert!(transactions.poll_send().is_none(), "one CANCEL is enough");

    assert!(receive(&mut transactions, &cancel, 200, 40).is_none(), "of no interest to the user");
    assert!(matches!(receive(&mut transactions, &invite, 487, 50), Some(Event::Response { .. })));
    assert_eq!(sent(&mut transactions), ["ACK"]);
    assert!(matches!(run(&mut transactions, after(40_000))[..], [Event::ClientEnded { client }] if client == id));
    assert!(is_over(&mut transactions) && transactions.stray() == 0);
}

/// RFC 3261 §9.1: who does not answer a CANCEL is given up after 64·T1.
#[test]
fn a_cancelled_invite_does_not_wait_for_ever() {
    let mut transactions = transactions();
    let (id, invite) = call(&mut transactions, "INVITE", Transport::Tcp);
    receive(&mut transactions, &invite, 180, 10);
    assert_eq!(transactions.poll_timeout(), None, "an INVITE in Proceeding waits for its user");
    transactions.cancel(id, b"", after(60_000));
    assert_eq!(sent(&mut transactions), ["CANCEL"]);
    assert!(run(&mut transactions, after(91_999)).is_empty());
    assert!(matches!(run(&mut transactions, after(92_000))[..], [Event::Timeout { client }] if client == id));
    assert!(is_over(&mut transactions));
}

#[test]
fn a_cancel_after_the_final_response_is_not_sent() {
    let mut transactions = transactions();
    for status in [200, 486] {
        let (id, invite) = call(&mut transactions, "INVITE", Transport::Udp);
        receive(&mut transactions, &invite, status, 10);
        sent(&mut transactions);
        transactions.cancel(id, b"", after(20));
        assert!(sent(&mut transactions).is_empty());
    }
}

#[test]
fn resend_sends_at_once_and_starts_the_repetitions_again() {
    let mut transactions = transactions();
    let (id, invite) = call(&mut transactions, "INVITE", Transport::Udp);
    run(&mut transactions, after(8_000));
    sent(&mut transactions);
    transactions.resend(id, after(8_000));
    assert_eq!(sent(&mut transactions), ["INVITE"]);
    assert_eq!(transactions.poll_timeout(), Some(after(8_500)));
    receive(&mut transactions, &invite, 180, 8_100);
    transactions.resend(id, after(8_200));
    let (stream, _) = call(&mut transactions, "INVITE", Transport::Tcp);
    transactions.resend(stream, after(8_200));
    assert!(sent(&mut transactions).is_empty());
}

#[test]
fn what_is_abandoned_is_silent() {
    let mut transactions = transactions();
    let (id, invite) = call(&mut transactions, "INVITE", Transport::Udp);
    transactions.abandon(id);
    assert!(is_over(&mut transactions));
    assert!(receive(&mut transactions, &invite, 200, 10).is_none());
    assert_eq!(transactions.stray(), 1);
    transactions.cancel(id, b"", after(20));
    transactions.resend(id, after(20));
    transactions.abandon(id);
    assert!(sent(&mut transactions).is_empty());
}

#[test]
fn a_request_that_cannot_be_sent_fails() {
    for method in ["INVITE", "REGISTER"] {
        let mut transactions = transactions();
        let branch = transactions.new_branch(0);
        let request = own_request(method, branch);
        let id = transactions.send(request.clone(), branch, destination(Transport::Tcp), after(0)).unwrap();
        let tag = transactions.poll_send().unwrap().tag;
        let failed = transactions.send_failed(tag, after(1));
        assert!(matches!(failed, Some(Event::SendFailed { client }) if client == id), "{method}");
        assert!(transactions.send_failed(tag, after(2)).is_none() && is_over(&mut transactions));
    }
}

#[test]
fn hostile_requests_and_responses_do_no_harm() {
    let mut transactions = transactions();
    for text in ["INVITE x SIP/2.0\n\n", "ACK x SIP/2.0\n\n", "CANCEL x SIP/2.0\n\n", "OPTIONS x SIP/2.0\nVia: ,\n\n"] {
        let request = test_support::message(text);
        transactions.receive_request(&request, flow(Transport::Udp), trusted, after(0));
        transactions.receive_request(&request, flow(Transport::Tcp), trusted, after(0));
    }
    for text in ["SIP/2.0 200 OK\n\n", "SIP/2.0 200 OK\nVia: SIP/2.0/UDP h;branch=z9hG4bK\nCSeq: 1 INVITE\n\n"] {
        assert!(transactions.receive_response(test_support::message(text), after(0)).is_none());
    }
    sent(&mut transactions);
    let (id, _) = call(&mut transactions, "INVITE", Transport::Udp);
    transactions.cancel(id, b"", after(0));
    run(&mut transactions, after(100_000));
    assert_eq!(transactions.stray(), 2);
}

#[test]
fn branches_are_all_different_and_say_whose_they_are() {
    let mut transactions = transactions();
    let branches: Vec<_> = (0..1_000).map(|_| transactions.new_branch(5)).collect();
    let texts: BTreeSet<_> = branches.iter().map(Branch::to_string).collect();
    assert_eq!(texts.len(), branches.len());
    assert!(texts.iter().all(|text| Branch::worker_of(text.as_bytes()) == Some(settings().worker)));
    assert_ne!(Transactions::new(settings(), 2).new_branch(5), branches[0], "the seed makes the difference");
    assert_eq!(Transactions::new(settings(), 1).new_branch(5), branches[0]);
}
