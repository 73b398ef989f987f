//! One user in several domains (`register.domain_aliases`), as the operator asks for them.

use sip_push_proxy::sip::Transport::Udp;

use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

const ALIASES: &str = "register.domains = ['example.org', 'example.net']\nregister.domain_aliases = true";

#[test]
fn the_operator_may_name_any_of_them() {
    let mut world = World::with(Mode::Alias, Udp, ALIASES);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.wake(&world);
    let register = phone.own_register().replace("sip:alice@example.org", "sip:alice@example.net");
    phone.link().send(register);
    world.switch.accept_register("alice@example.net");
    phone.peer().response(200, "REGISTER");
    phone.sleep();
    world.switch.forgets("alice@example.net");
    let call = world.switch.call("alice@example.net", "");
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    call.cancel("");
    world.switch.response(200, "CANCEL");
    let ended = world.switch.response(487, "INVITE");
    call.ack(&ended);
    for aor in ["alice@example.org", "alice@EXAMPLE.net", "sip:alice@example.net"] {
        let bindings = world.admin.bindings(aor);
        assert_eq!(bindings.len(), 1, "{aor}");
        assert_eq!(bindings[0]["aor"], "alice@example.org");
        let calls = world.admin.get(&format!("/api/v1/calls?aor={aor}"));
        assert_eq!(calls["calls"].as_array().map(Vec::len), Some(1), "{aor}");
        world.admin.expect_bucket(aor, &[(&call.call_id, "missed")]);
        let (why, code) = world.command(&["why", aor]);
        assert!(code == Some(0) && why.contains(&call.call_id), "{why}");
    }
    let id = world.admin.bindings("alice@example.org")[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(world.admin.delete(&format!("/api/v1/bindings/alice@example.net/{id}")), 200);
    assert!(world.admin.bindings("alice@example.org").is_empty());
}
