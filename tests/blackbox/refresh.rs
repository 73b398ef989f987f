//! `register.upstream_refresh` with the built program: phones sleep longer than the softswitch would know them.

use std::process::Command;

use sip_push_proxy::sip::Transport::{self, Tcp, Udp};

use crate::peer::{Link, eventually, eventually_is};
use crate::phone::{Phone, Push};
use crate::sip::{Sip, unique};
use crate::world::{Mode, World};

const REFRESH: &str = "register.upstream_refresh = true\nregister.refresh_from = 'udp:127.0.0.3:0'\n";
const BY_PASSWORD: &str = "register.upstream_refresh = true\nregister.refresh_user = 'push'\n\
                           register.refresh_password_file = 'refresh.txt'\n";

/// Registered for three seconds, and asleep; with the REGISTER that the softswitch got.
fn asleep_for_long(world: &mut World) -> (Phone, Sip) {
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.expires = None;
    phone.wake(world);
    let contact = format!("Contact: <{}>{};expires=3\r\n", phone.contact(), phone.instance);
    phone.send_register_with(&contact);
    let register = world.switch.accept_register(&phone.aor());
    phone.peer().response(200, "REGISTER");
    phone.sleep();
    (phone, register)
}

/// The softswitch gets a REGISTER that is not the phone's, and names the same Contact.
#[track_caller]
fn refresh(world: &World, phone: &Phone, register: &Sip) -> (Sip, Link) {
    let (refresh, link) = world.switch.peer.request("REGISTER");
    assert_eq!(refresh.headers("Via").len(), 1, "{refresh:?}");
    assert_eq!(refresh.contact(), register.contact());
    assert_eq!(refresh.headers("Path").len(), register.headers("Path").len());
    assert_eq!(refresh.header("To"), format!("<sip:{}>", phone.aor()));
    assert_eq!(refresh.header("Expires"), "3");
    assert_ne!(refresh.header("Call-ID"), register.header("Call-ID"));
    (refresh, link)
}

/// What the operator's command prints.
fn operator_asks(world: &World, arguments: &[&str]) -> String {
    let config = format!("[admin]\nlisten = '{}'\n", world.admin.0);
    let file = world.folder.path().join("client.toml");
    std::fs::write(&file, config + "[sip]\nadvertise = '127.0.0.1'\n[softswitch]\nuri = 'sip:127.0.0.1'\n")
        .expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sip-push-proxy"));
    let output = command.arg("--config").arg(&file).args(arguments).output();
    String::from_utf8_lossy(&output.expect("an answer").stdout).into_owned()
}

#[track_caller]
fn sleeping_phone_is_refreshed_and_called(mode: Mode, switch: Transport, times: u32) {
    let config = if switch == Udp { REFRESH } else { BY_PASSWORD };
    let mut world = World::with_program(mode, switch, config);
    let (mut phone, register) = asleep_for_long(&mut world);
    let mut known: Vec<Sip> = Vec::new();
    for time in 1..=times {
        let (refresh, link) = refresh(&world, &phone, &register);
        if let Some(last) = known.last() {
            let number = |register: &Sip| register.header("CSeq").split(' ').next().and_then(|cseq| cseq.parse().ok());
            assert_eq!(refresh.header("Call-ID"), last.header("Call-ID"));
            assert!(number(&refresh) > number(last) && number(&refresh) > Some(0u32), "{refresh:?} after {last:?}");
        }
        // An hour in the end, so that nothing comes between what follows.
        let contact = refresh.header("Contact");
        let granted = if time < times { "3" } else { "3600" };
        let contact = contact.replace(";expires=3", &format!(";expires={granted}"));
        link.send(refresh.answer(200, "OK", &unique("r"), &format!("Contact: {contact}\r\n")));
        known.push(refresh);
    }
    world.admin.expect_metric("upstream_refreshes_total{result=\"granted\"}", times.into());
    eventually_is("the softswitch's hour", || {
        let binding = world.admin.bindings(&phone.aor()).remove(0);
        let date = |key: &str| binding[key].as_str().and_then(|date| date.parse::<jiff::Timestamp>().ok());
        let is_longer = date("upstream_expires_at") > date("expires_at");
        if is_longer && binding["upstream_refused"].is_null() { Ok(()) } else { Err(binding) }
    });
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    phone.expires = Some(3600);
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(486, "Busy Here");
    let refused = world.switch.response(486, "INVITE");
    call.ack(&refused);
}

#[test]
fn sleeping_phone_is_refreshed_and_called_by_its_alias() {
    sleeping_phone_is_refreshed_and_called(Mode::Alias, Udp, 2);
}

#[test]
fn sleeping_phone_is_refreshed_and_called_by_its_path() {
    sleeping_phone_is_refreshed_and_called(Mode::Path, Udp, 1);
}

#[test]
fn sleeping_phone_is_refreshed_by_tcp() {
    sleeping_phone_is_refreshed_and_called(Mode::Alias, Tcp, 1);
}

/// Whoever the softswitch trusts by the address of refreshes gets nothing of a phone's from there, and asks it nothing.
#[test]
fn refreshes_have_their_socket_to_themselves() {
    let mut world = World::with_program(Mode::Alias, Udp, REFRESH);
    let (phone, register) = asleep_for_long(&mut world);
    let (refreshed, link) = refresh(&world, &phone, &register);
    let Link::Udp(_, from) = &link else { panic!("by UDP") };
    assert_ne!(*from, world.sip(Udp));
    link.send(crate::peer::options(&world.switch.peer, *from));
    world.switch.answer_register(&refreshed, &link, &phone.aor());
    world.admin.expect_metric("upstream_refreshes_total{result=\"granted\"}", 1.0);
    world.admin.expect_metric("sip_dropped_total{reason=\"refresh_socket\"}", 1.0);
    // A stranger's REGISTER for the same user comes from elsewhere, and so does his call.
    let mut stranger = Phone::new("alice", Push::None, Udp);
    stranger.wake(&world);
    stranger.send_register();
    let (register, link) = world.switch.peer.request("REGISTER");
    let Link::Udp(_, by) = &link else { panic!("by UDP") };
    assert_eq!(*by, world.sip(Udp));
    link.send(register.answer(
        401,
        "Unauthorized",
        "r",
        "WWW-Authenticate: Digest realm=\"example.org\", nonce=\"n\"\r\n",
    ));
    stranger.peer().response(401, "REGISTER");
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);
    world.switch.expect_nothing_more();
}

#[test]
fn refresh_proves_itself_where_the_softswitch_asks() {
    let mut world = World::with_program(Mode::Alias, Udp, BY_PASSWORD);
    let (phone, register) = asleep_for_long(&mut world);
    let (challenged, link) = refresh(&world, &phone, &register);
    assert!(challenged.header("From").starts_with("<sip:push@example.org>"), "{challenged:?}");
    let challenge = "WWW-Authenticate: Digest realm=\"example.org\", nonce=\"n\", qop=\"auth\"\r\n";
    link.send(challenged.answer(401, "Unauthorized", "r", challenge));
    let (proven, link) = refresh(&world, &phone, &register);
    let credentials = proven.header("Authorization");
    assert!(credentials.starts_with("Digest username=\"push\", realm=\"example.org\", nonce=\"n\""), "{credentials}");
    world.switch.answer_register(&proven, &link, &phone.aor());
    world.admin.expect_metric("upstream_refreshes_total{result=\"granted\"}", 1.0);
}

#[test]
fn challenge_ends_it_and_the_operator_sees_why() {
    let mut world = World::with_program(Mode::Alias, Udp, REFRESH);
    let (mut phone, register) = asleep_for_long(&mut world);
    let (challenged, link) = refresh(&world, &phone, &register);
    let challenge = "WWW-Authenticate: Digest realm=\"example.org\", nonce=\"n\", qop=\"auth\"\r\n";
    link.send(challenged.answer(401, "Unauthorized", "r", challenge));
    let reason = "the softswitch asks for a password: 401 Unauthorized";
    eventually("the reason", || (world.admin.bindings(&phone.aor())[0]["upstream_refused"] == reason).then_some(()));
    world.admin.expect_metric("upstream_refreshes_total{result=\"challenged\"}", 1.0);
    let table = operator_asks(&world, &["bindings"]);
    assert!(table.contains("WHY NOT REFRESHED UPSTREAM") && table.contains(reason), "{table}");

    // Its next registration begins anew.
    phone.expires = Some(3600);
    phone.register(&mut world);
    assert!(world.admin.bindings(&phone.aor())[0]["upstream_refused"].is_null());
    world.switch.expect_nothing_more();
}

/// The time runs on while the program does not.
#[test]
fn next_run_refreshes_what_is_due() {
    let mut world = World::with_program(Mode::Alias, Udp, REFRESH);
    let (phone, register) = asleep_for_long(&mut world);
    world.program().kill();
    world.start_program();
    let (refreshed, link) = refresh(&world, &phone, &register);
    world.switch.answer_register(&refreshed, &link, &phone.aor());
    world.admin.expect_metric("upstream_refreshes_total{result=\"granted\"}", 1.0);
}

/// RFC 3263 §4.2.
#[test]
fn softswitch_that_is_known_by_a_name_is_found() {
    let mut world = World::with_program(Mode::Alias, Udp, REFRESH);
    world.rewrite_config("sip:127.0.0.1:", "sip:localhost:");
    world.program().kill();
    world.start_program();
    let (phone, register) = asleep_for_long(&mut world);
    let (refreshed, link) = refresh(&world, &phone, &register);
    world.switch.answer_register(&refreshed, &link, &phone.aor());
    world.admin.expect_metric("upstream_refreshes_total{result=\"granted\"}", 1.0);
}

/// Without refreshes: the phone asks for a second, the softswitch for an hour, and the operator sees when that is over.
#[test]
fn softswitch_is_asked_for_longer_than_the_phone_asks() {
    let mut world = World::with_program(Mode::Path, Udp, "register.expires_upstream_s = 3600\n");
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.expires = None;
    phone.wake(&world);
    let asks = |phone: &mut Phone| {
        let contact = format!("Contact: <{}>{};expires=1\r\n", phone.contact(), phone.instance);
        phone.send_register_with(&contact);
    };
    asks(&mut phone);
    let register = world.switch.accept_register(&phone.aor());
    assert!(register.header("Contact").ends_with(";expires=3600"), "{register:?}");
    let ok = phone.peer().response(200, "REGISTER");
    assert!(ok.header("Contact").ends_with(";expires=1"), "{ok:?}");
    eventually_is("it to be asleep, and known upstream", || {
        let binding = world.admin.bindings(&phone.aor()).remove(0);
        let is_known = binding.get("upstream_ended_at").is_none();
        if is_known && binding["reachable"] == false { Ok(()) } else { Err(binding) }
    });
    asks(&mut phone);
    let (register, link) = world.switch.peer.request("REGISTER");
    let contact = register.header("Contact").replace("expires=3600", "expires=1");
    link.send(register.answer(200, "OK", &unique("r"), &format!("Contact: {contact}\r\n")));
    phone.peer().response(200, "REGISTER");
    eventually_is("it to be forgotten upstream", || {
        let binding = world.admin.bindings(&phone.aor()).remove(0);
        if binding["upstream_ended_at"].is_string() { Ok(()) } else { Err(binding) }
    });
    let told = operator_asks(&world, &["why", &phone.aor()]);
    assert!(told.contains("The softswitch has forgotten") && told.contains("forgotten since"), "{told}");
}
