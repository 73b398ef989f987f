//! The story that the product is for: a call for a sleeping phone, from the REGISTER to the BYE (RFC 8599 §5.6.2).

use sip_push_proxy::sip::Transport::{self, Tcp, Udp};

use crate::phone::{Phone, Push};
use crate::switch::OFFER;
use crate::world::{Mode, World};

#[derive(Clone, Copy, PartialEq)]
enum HangsUp {
    Caller,
    Phone,
}

/// A phone registers, sleeps, is called and pushed, comes back from another port, answers; twice, and each side hangs
/// up once. Nobody gets a message more than that.
#[track_caller]
fn sleeping_phone_is_called(mode: Mode, switch: Transport, transport: Transport, push: Push) {
    let mut world = World::start(mode, switch);
    let mut phone = Phone::new("alice", push, transport);
    let accepted = phone.register(&mut world);
    assert_eq!(accepted.contact(), phone.contact());
    assert_eq!(accepted.headers("Feature-Caps"), [format!("*;+sip.pns=\"{}\"", push.provider())]);
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);

    for (number, hangs_up) in [(1, HangsUp::Phone), (2, HangsUp::Caller)] {
        phone.sleep();
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        world.admin.expect_bucket(&phone.aor(), &[(&call.call_id, "live")]);

        // The 2xx of its REGISTER comes before the INVITE, which `register` and `invited` see in this order.
        phone.register(&mut world);
        let incoming = phone.invited();
        assert_eq!(incoming.invite.uri(), phone.contact());
        assert_eq!(incoming.invite.header("Call-ID"), call.call_id);
        assert_eq!(incoming.invite.body, OFFER);
        incoming.answer(180, "Ringing");
        let ringing = world.switch.response(180, "INVITE");
        incoming.answer(200, "OK");
        let ok = world.switch.response(200, "INVITE");
        assert_eq!(ringing.to_tag(), ok.to_tag());
        call.confirm(&ok);
        incoming.confirmed();
        if hangs_up == HangsUp::Phone {
            incoming.bye();
            let (bye, link) = world.switch.peer.request("BYE");
            assert_eq!(bye.header("Call-ID"), call.call_id);
            link.send(bye.answer(200, "OK", "", ""));
            phone.peer().response(200, "BYE");
        } else {
            call.bye(&ok);
            incoming.hung_up();
            world.switch.response(200, "BYE");
        }
        world.admin.expect_bucket(&phone.aor(), &[]);
        // Its phone may be back before the provider's answer is.
        let mut story = world.admin.story(&call.call_id, "answered");
        story.retain(|step| step != "push_accepted");
        let expected =
            ["received", "device_found", "held", "push_sent", "registered", "forwarded", "ringing", "answered"];
        assert_eq!(story, expected);
        phone.expect_nothing_more(&world);
        world.switch.expect_nothing_more();
        assert_eq!(world.pushes(), number);
    }
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);
    world.admin.expect_metric("calls_total{outcome=\"answered\"}", 2.0);
    world.admin.expect_metric("held_calls", 0.0);
    world.admin.expect_healthy();
    world.stop();
}

macro_rules! sleeping_phone {
    ($($name:ident: $mode:ident, $switch:ident, $phone:ident, $push:ident;)+) => {
        $(#[test]
        fn $name() {
            sleeping_phone_is_called(Mode::$mode, $switch, $phone, Push::$push);
        })+
    };
}

sleeping_phone! {
    alias_udp_fcm: Alias, Udp, Udp, Fcm;
    alias_udp_apns: Alias, Udp, Udp, Apns;
    alias_tcp_fcm: Alias, Tcp, Tcp, Fcm;
    alias_tcp_apns: Alias, Tcp, Tcp, Apns;
    alias_mixed_fcm: Alias, Udp, Tcp, Fcm;
    alias_tcp_apns_dev: Alias, Tcp, Tcp, ApnsDev;
    alias_mixed_apns: Alias, Tcp, Udp, Apns;
    path_udp_fcm: Path, Udp, Udp, Fcm;
    path_udp_apns: Path, Udp, Udp, Apns;
    path_tcp_fcm: Path, Tcp, Tcp, Fcm;
    path_tcp_apns: Path, Tcp, Tcp, Apns;
    path_mixed_fcm: Path, Tcp, Udp, Fcm;
    path_mixed_apns: Path, Udp, Tcp, Apns;
    digest_udp_fcm: Digest, Udp, Udp, Fcm;
    digest_udp_apns: Digest, Udp, Udp, Apns;
    digest_tcp_fcm: Digest, Tcp, Tcp, Fcm;
    digest_tcp_apns: Digest, Tcp, Tcp, Apns;
    digest_mixed_fcm: Digest, Udp, Tcp, Fcm;
    open_udp_fcm: Open, Udp, Udp, Fcm;
    open_udp_apns: Open, Udp, Udp, Apns;
    open_tcp_fcm: Open, Tcp, Tcp, Fcm;
    open_tcp_apns: Open, Tcp, Tcp, Apns;
    open_mixed_apns: Open, Tcp, Udp, Apns;
}
