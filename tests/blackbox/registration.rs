//! What a REGISTER can ask for, and how a binding ends (RFC 3261 §10, RFC 8599 §4.1).

use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::held_call::asleep;
use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

const MODES: [Mode; 4] = [Mode::Alias, Mode::Path, Mode::Digest, Mode::Open];

fn with_params(params: &str) -> Phone {
    let mut phone = Phone::new("alice", Push::None, Udp);
    phone.params = Some(params.to_owned());
    phone
}

/// RFC 3263 §4.2.
#[test]
fn softswitch_may_be_known_by_a_name() {
    let mut world = World::with_program(Mode::Alias, Udp, "");
    world.rewrite_config("sip:127.0.0.1:", "sip:localhost:");
    world.program().kill();
    world.start_program();
    Phone::new("alice", Push::Fcm, Udp).register(&mut world);
}

#[test]
fn query_is_told_what_is_supported() {
    for mode in MODES {
        let mut world = World::start(mode, Udp);
        for (params, expected) in
            [(";pn-provider=fcm", &["*;+sip.pns=\"fcm\""][..]), (";pn-provider=webpush", &[]), ("", &[])]
        {
            let accepted = with_params(params).register(&mut world);
            assert_eq!(accepted.headers("Feature-Caps"), expected, "{mode:?} {params}");
        }
        let all = with_params(";pn-provider").register(&mut world);
        let all = all.headers("Feature-Caps");
        assert!(all.contains(&"*;+sip.pns=\"fcm\"") && all.contains(&"*;+sip.pns=\"apns\""), "{all:?}");
    }
}

#[test]
fn unusable_push_parameters_are_refused_only_where_configured() {
    let mut world = World::start(Mode::Alias, Udp);
    let accepted = with_params(";pn-provider=acme;pn-prid=x").register(&mut world);
    assert!(accepted.headers("Feature-Caps").is_empty());
    let bindings = world.admin.bindings("alice@example.org");
    assert!(bindings[0]["push_refused"].as_str().is_some_and(|reason| reason.contains("pn-provider")), "{bindings:?}");

    let world = World::with(Mode::Alias, Udp, "register.refuse_unsupported_pns = true");
    let mut phone = with_params(";pn-provider=acme;pn-prid=x");
    phone.wake(&world);
    phone.send_register();
    phone.peer().response(555, "REGISTER");
    assert!(world.admin.bindings("alice@example.org").is_empty());
}

#[test]
fn contact_that_no_account_is_for_says_so_when_it_registers() {
    let account = |team: &str| {
        format!(
            "{{ key_file = 'AuthKey.p8', key_id = 'ABC123DEFG', team_id = '{team}', endpoint = 'http://127.0.0.1:9', \
             sandbox_endpoint = 'http://127.0.0.1:9' }}"
        )
    };
    let accounts = format!("push.apns = [{}, {}]", account("DEF123GHIJ"), account("OTHER12345"));
    let mut world = World::with(Mode::Alias, Udp, &accounts);
    for (param, why) in [
        ("UNKNOWN123.org.example.phone.voip", "no [[push.apns]] for team \"UNKNOWN123\" and app \"org.example.phone\""),
        ("OTHER12345.org.example.phone.voip", ""),
    ] {
        let accepted = with_params(&format!(";pn-provider=apns;pn-param={param};pn-prid=aa11")).register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps").is_empty(), !why.is_empty(), "{param}");
        let bindings = world.admin.bindings("alice@example.org");
        let told: Vec<_> =
            bindings.iter().map(|binding| binding["push_refused"].as_str().unwrap_or_default()).collect();
        assert!(told.contains(&why), "{told:?}");
    }
}

#[test]
fn same_device_has_one_binding_whatever_it_changes() {
    for mode in MODES {
        let mut world = World::start(mode, Udp);
        let mut phone = Phone::new("alice", Push::Fcm, Udp);
        let mut ids = Vec::new();
        for _ in 0..2 {
            for transport in [Udp, Tcp] {
                phone.transport = transport;
                phone.token = crate::sip::unique("new-token-");
                phone.register(&mut world);
                let bindings = world.admin.bindings(&phone.aor());
                assert_eq!(bindings.len(), 1);
                ids.push(bindings[0]["id"].clone());
            }
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{mode:?}: one name for ever");
        phone.sleep();
        world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
    }
}

#[test]
fn unregistration_ends_the_binding() {
    for mode in MODES {
        for how in ["same push parameters", "same instance", "*"] {
            let mut world = World::start(mode, Udp);
            let mut phone = Phone::new("alice", Push::Fcm, Udp);
            phone.register(&mut world);
            phone.expires = Some(0);
            match how {
                "same push parameters" => phone.instance = String::new(),
                "same instance" => phone.params = Some(String::new()),
                _ => {}
            }
            phone.wake(&world);
            if how == "*" {
                phone.send_register_with("Contact: *\r\n");
            } else {
                phone.send_register();
            }
            if mode == Mode::Digest {
                // The challenge is answered with a REGISTER of the same kind.
                let challenge = phone.peer().response(401, "REGISTER");
                phone.answer_challenge(&challenge);
                if how == "*" {
                    phone.send_register_with("Contact: *\r\n");
                } else {
                    phone.send_register();
                }
            }
            phone.accepted(&mut world);
            assert_eq!(world.admin.bindings(&phone.aor()).len(), 0, "{mode:?}, {how}");
            let call = world.call(&phone);
            world.switch.response(100, "INVITE");
            // Only a Path shows that there was somebody (RFC 3261 §21.4.5, §21.4.18).
            let refused = world.switch.response(if mode == Mode::Path { 430 } else { 404 }, "INVITE");
            call.ack(&refused);
            assert_eq!(world.pushes(), 0);
        }
    }
}

/// Expires ends that a phone is reachable, not that it can be woken.
#[test]
fn binding_outlives_its_expires() {
    let mut world = World::start(Mode::Open, Udp);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.expires = Some(1);
    phone.register(&mut world);
    phone.sleep();
    crate::peer::eventually("the registration to expire", || {
        let bindings = world.admin.bindings(&phone.aor());
        (bindings[0]["reachable"] == false).then_some(())
    });
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
}

#[test]
fn operator_removes_a_binding() {
    let mut world = World::start(Mode::Alias, Udp);
    let phone = asleep(&mut world, Push::Fcm);
    let id = world.admin.bindings(&phone.aor())[0]["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/bindings/{}/{id}", phone.aor());
    assert_eq!((world.admin.delete(&path), world.admin.delete(&path)), (200, 404));
    assert!(world.admin.bindings(&phone.aor()).is_empty());
}

#[test]
fn refused_registration_leaves_nothing() {
    let world = World::start(Mode::Alias, Udp);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.wake(&world);
    phone.send_register();
    let (register, link) = world.switch.peer.request("REGISTER");
    link.send(register.answer(403, "Forbidden", "r", ""));
    phone.peer().response(403, "REGISTER");
    assert!(world.admin.bindings(&phone.aor()).is_empty());
    phone.expect_nothing_more(&world);
}

#[test]
fn wrong_password_does_not_wake_a_call() {
    let mut world = World::start(Mode::Digest, Udp);
    let mut phone = asleep(&mut world, Push::Fcm);
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    phone.wake(&world);
    phone.send_register();
    let challenge = phone.peer().response(401, "REGISTER");
    phone.user = "bob".to_owned();
    phone.answer_challenge(&challenge);
    phone.user = "alice".to_owned();
    phone.send_register();
    phone.peer().response(403, "REGISTER");
    phone.expect_nothing_more(&world);
}

/// A phone reaches the softswitch and nothing else; no source but the softswitch reaches phones.
#[test]
fn stranger_calls_no_phone() {
    for (mode, expected) in [(Mode::Open, 403), (Mode::Digest, 403)] {
        let mut world = World::start(mode, Udp);
        let phone = asleep(&mut world, Push::Fcm);
        let mut stranger = Phone::new("mallory", Push::None, Udp);
        stranger.wake(&world);
        let call = world.switch.call_by(stranger.link().clone(), &phone.aor(), "");
        stranger.peer().response(100, "INVITE");
        let refused = stranger.peer().response(expected, "INVITE");
        call.ack(&refused);
        assert_eq!(world.pushes(), 0);
    }
}
