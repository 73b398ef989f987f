//! Phones that have nothing of Google's or Apple's are woken by the services that they have.

use sip_push_proxy::demo::rustore_double::{self, refusal};
use sip_push_proxy::demo::service_double::ServiceDouble;
use sip_push_proxy::sip::Transport::Udp;
use tempfile::TempDir;

use crate::gateways::{MODES, is_woken, next, phone};
use crate::held_call::give_up;
use crate::peer::{RUNTIME, eventually};
use crate::phone::Phone;
use crate::world::{Mode, World};

/// A call is held and ends with its push; what the operator is told of it.
#[track_caller]
fn fails(world: &World, phone: &Phone) -> String {
    let call = world.call(phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    world.admin.story(&call.call_id, "push_failed");
    world.admin.get(&format!("/api/v1/calls/{}", call.call_id)).to_string()
}

/// A call that nobody takes, and the number of its caller; its phone learns of it when it is back.
#[track_caller]
fn is_missed(world: &mut World, phone: &mut Phone, pushed: impl FnOnce()) {
    phone.sleep();
    let missed = world.call(phone);
    world.switch.queued();
    pushed();
    give_up(world, &missed, "");
    world.admin.expect_bucket(&phone.aor(), &[(&missed.call_id, "missed")]);
    phone.register(world);
}

/// RuStore, and the configuration that names it. The folder holds the service token.
fn rustore() -> (ServiceDouble, TempDir, String) {
    let double = RUNTIME.block_on(rustore_double::start()).expect("a double");
    let folder = TempDir::new().expect("a folder");
    let token_file = rustore_double::write_credentials(folder.path()).expect("written");
    let config = format!(
        "[[push.rustore]]\nproject_id = '{}'\ntoken_file = '{}'\nendpoint = '{}'\n",
        rustore_double::PROJECT_ID,
        token_file.display(),
        double.url()
    );
    (double, folder, config)
}

#[test]
fn rustore_wakes_a_sleeping_phone_and_tells_it_of_missed_calls() {
    for mode in MODES {
        let (double, _folder, config) = rustore();
        let mut world = World::with(mode, Udp, &config);
        let mut phone = phone(";pn-provider=rustore;pn-prid=token-1");
        let accepted = phone.register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps"), ["*;+sip.pns=\"rustore\""]);
        phone.sleep();
        let call = world.call(&phone);
        world.switch.queued();
        let push = next(double.next());
        assert_eq!(push.header("authorization"), "Bearer throwaway-service-token", "{mode:?}");
        let body = push.json();
        let (data, date) = (&body["message"]["data"], &body["message"]["data"]["date"]);
        assert_eq!(*data, serde_json::json!({"type": "invite", "date": date}));
        assert_eq!(body["message"]["token"], "token-1");
        assert_eq!(body["message"]["android"], serde_json::json!({"ttl": "28s"}));
        is_woken(&mut world, &mut phone, &call);

        is_missed(&mut world, &mut phone, || drop(next(double.next())));
        let told = next(double.next()).json()["message"]["data"].clone();
        assert_eq!(told["type"], "missed_calls");
        assert!(told["calls"].as_str().is_some_and(|calls| calls.contains(r#""remote_uri":"103""#)), "{told}");
        world.admin.expect_bucket(&phone.aor(), &[]);
        assert_eq!((double.requests(), world.pushes()), (3, 0));
        world.admin.expect_healthy();
        world.stop();
    }
}

#[test]
fn a_wrong_service_token_costs_no_binding_and_a_token_that_is_gone_does() {
    let (double, _folder, config) = rustore();
    let mut world = World::with(Mode::Alias, Udp, &config);
    let mut phone = phone(";pn-provider=rustore;pn-prid=token-1;pn-param=demo-rustore");
    phone.register(&mut world);
    phone.sleep();
    double.script("token-1", [refusal(403, "PERMISSION_DENIED", "bad key")]);
    let told = fails(&world, &phone);
    assert!(told.contains("403 PERMISSION_DENIED: bad key") && told.contains("credentials_refused"), "{told}");
    // Nothing was ever taken: the settings may be another project's.
    double.script("token-1", [refusal(404, "NOT_FOUND", "Requested entity was not found.")]);
    assert!(fails(&world, &phone).contains("404 NOT_FOUND; no push of this account was taken so far"));
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);

    phone.register(&mut world);
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    next(double.next());
    is_woken(&mut world, &mut phone, &call);
    phone.sleep();
    double.script("token-1", [refusal(404, "NOT_FOUND", "Requested entity was not found.")]);
    let told = fails(&world, &phone);
    assert!(told.contains("404 NOT_FOUND") && !told.contains("token-1"), "{told}");
    eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
    world.stop();
}
