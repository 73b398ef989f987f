//! Phones that are woken otherwise than by FCM and APNs: by the operator's own gateway, by Web Push.

use std::future::Future;

use sip_push_proxy::demo::Recorded;
use sip_push_proxy::demo::callback_double::{self, CallbackDouble};
use sip_push_proxy::demo::webpush_double::{PUBLIC_KEY, WebPushDouble};
use sip_push_proxy::sip::Transport::Udp;
use tempfile::TempDir;

use crate::held_call::give_up;
use crate::peer::{DEADLINE, RUNTIME, eventually};
use crate::phone::{Phone, Push};
use crate::switch::Call;
use crate::world::{Mode, World};

pub(crate) const MODES: [Mode; 4] = [Mode::Alias, Mode::Path, Mode::Digest, Mode::Open];

#[track_caller]
pub(crate) fn next(push: impl Future<Output = Recorded>) -> Recorded {
    RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, push).await }).expect("no push")
}

pub(crate) fn phone(params: &str) -> Phone {
    let mut phone = Phone::new("alice", Push::None, Udp);
    phone.params = Some(params.to_owned());
    phone
}

/// Comes back after its push, and takes the call.
#[track_caller]
pub(crate) fn is_woken(world: &mut World, phone: &mut Phone, call: &Call) {
    phone.register(world);
    let incoming = phone.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
    let mut story = world.admin.story(&call.call_id, "answered");
    story.retain(|step| step != "push_accepted");
    assert_eq!(story, ["received", "device_found", "held", "push_sent", "registered", "forwarded", "answered"]);
}

/// A gateway, and the configuration that names it. The folder holds the secret.
fn callback() -> (CallbackDouble, TempDir, String) {
    let double = RUNTIME.block_on(CallbackDouble::start()).expect("a double");
    let folder = TempDir::new().expect("a folder");
    let secret = double.write_credentials(folder.path()).expect("written");
    let config =
        format!("push.callback.url = '{}'\npush.callback.secret_file = '{}'\n", double.url(), secret.display());
    (double, folder, config)
}

#[test]
fn callback_wakes_a_sleeping_phone_and_tells_it_of_missed_calls() {
    for mode in MODES {
        let (double, _folder, config) = callback();
        let mut world = World::with(mode, Udp, &config);
        let mut phone = phone(";pn-provider=callback;pn-prid=token-1;pn-param=:ANDROID");
        let accepted = phone.register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps"), ["*;+sip.pns=\"callback\""]);
        phone.sleep();

        let call = world.call(&phone);
        world.switch.queued();
        let push = next(double.next()).json();
        assert_eq!(push["user"]["user_id"], "alice", "{mode:?}");
        assert_eq!(
            push["device"],
            serde_json::json!([{"device_token": "token-1", "type": "ANDROID", "pn_param": ":ANDROID"}])
        );
        let told = &push["notification"];
        assert_eq!((told["type"].as_str(), told["number"].as_str()), (Some("invite"), Some("103")));
        assert_eq!((told["call_ref"].as_str(), told["display_name"].as_str()), (Some(&*call.call_id), Some("Ivan")));
        is_woken(&mut world, &mut phone, &call);

        phone.sleep();
        let missed = world.call(&phone);
        world.switch.queued();
        assert_eq!(next(double.next()).json()["notification"]["type"], "invite");
        give_up(&world, &missed, "");
        world.admin.expect_bucket(&phone.aor(), &[(&missed.call_id, "missed")]);
        phone.register(&mut world);
        let push = next(double.next()).json();
        assert_eq!(push["notification"]["type"], "missed_calls");
        assert_eq!(push["notification"]["calls"][0]["call_ref"], *missed.call_id);
        world.admin.expect_bucket(&phone.aor(), &[]);
        assert_eq!((double.requests(), world.pushes()), (3, 0));
        world.admin.expect_healthy();
        world.stop();
    }
}

#[test]
fn callback_is_tried_again_and_its_word_on_a_token_counts() {
    let (double, _folder, config) = callback();
    let mut world = World::with(Mode::Alias, Udp, &config);
    let answer =
        |status, body: &str| callback_double::Answer::Raw { status, headers: Vec::new(), body: body.to_owned() };

    let mut phone = phone(";pn-provider=callback;pn-prid=token-1");
    phone.register(&mut world);
    phone.sleep();
    double.script("token-1", [answer(503, "")]);
    let call = world.call(&phone);
    world.switch.queued();
    next(double.next());
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(486, "Busy Here");
    incoming.confirmed();
    call.ack(&world.switch.response(486, "INVITE"));
    assert!(world.admin.story(&call.call_id, "rejected").contains(&"push_retried".to_owned()));

    phone.sleep();
    double.script("token-1", [answer(410, r#"{"error":"uninstalled"}"#)]);
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    world.admin.story(&call.call_id, "push_failed");
    let told = world.admin.get(&format!("/api/v1/calls/{}", call.call_id)).to_string();
    assert!(told.contains("410: uninstalled") && !told.contains("token-1"), "{told}");
    eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
    world.stop();
}

/// A push service, and the configuration that allows it. The folder holds the key.
pub(crate) fn webpush() -> (WebPushDouble, TempDir, String) {
    let double = RUNTIME.block_on(WebPushDouble::start()).expect("a double");
    let folder = TempDir::new().expect("a folder");
    let key = double.write_credentials(folder.path()).expect("written");
    let config = format!(
        "push.webpush.enabled = true\npush.webpush.vapid_key_file = '{}'\npush.webpush.allowed_hosts = ['{}']\n",
        key.display(),
        double.host()
    );
    (double, folder, config)
}

/// As a browser has to escape it (RFC 8599 §8.7), and somewhat more.
fn escaped(uri: &str) -> String {
    uri.replace('%', "%25").replace('?', "%3F").replace('=', "%3D").replace('/', "%2F")
}

#[test]
fn web_push_wakes_a_sleeping_browser_and_tells_it_of_missed_calls() {
    for mode in MODES {
        let (double, _folder, config) = webpush();
        let mut world = World::with(mode, Udp, &config);
        // It asks for the key, subscribes, and registers with the subscription.
        let caps = format!("*;+sip.pns=\"webpush\";+sip.vapid=\"{PUBLIC_KEY}\"");
        let mut phone = phone(";pn-provider=webpush");
        let accepted = phone.register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps"), [caps.as_str()]);
        let uri = double.subscription("gAAAAABh-1");
        phone.params = Some(format!(";pn-provider=webpush;pn-prid={}", escaped(&uri)));
        phone.instance.push_str(";+sip.pnsreg");
        let accepted = phone.register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps"), [format!("{caps};+sip.pnsreg=\"121\"")]);
        phone.sleep();

        let call = world.call(&phone);
        world.switch.queued();
        let push = next(double.next());
        assert_eq!((push.token.as_str(), push.body.len()), ("gAAAAABh-1", 0), "{mode:?}");
        assert_eq!((push.header("ttl"), push.header("urgency")), ("28", "high"));
        is_woken(&mut world, &mut phone, &call);

        phone.sleep();
        let missed = world.call(&phone);
        world.switch.queued();
        next(double.next());
        give_up(&world, &missed, "");
        world.admin.expect_bucket(&phone.aor(), &[(&missed.call_id, "missed")]);
        phone.register(&mut world);
        let push = next(double.next());
        assert_eq!((push.header("ttl"), push.header("topic")), ("86400", "missed_calls"));
        world.admin.expect_bucket(&phone.aor(), &[]);
        assert_eq!((double.requests(), world.pushes()), (3, 0));
        world.admin.expect_healthy();
        world.stop();
    }
}

#[test]
fn softswitch_hears_of_the_push_service_but_not_of_its_key() {
    let (double, _folder, config) = webpush();
    let world = World::with(Mode::Alias, Udp, &config);
    let mut phone = phone(&format!(";pn-provider=webpush;pn-prid={}", escaped(&double.subscription("a"))));
    phone.instance.push_str(";+sip.pnsreg");
    phone.wake(&world);
    phone.send_register();
    let (register, _) = world.switch.peer.request("REGISTER");
    assert_eq!(register.headers("Feature-Caps"), ["*;+sip.pns=\"webpush\""]);
    world.stop();
}

#[test]
fn web_push_to_elsewhere_is_refused_when_it_registers() {
    let (double, _folder, config) = webpush();
    let mut world = World::with(Mode::Alias, Udp, &config);
    for (params, why) in [
        (";pn-prid=https%3A%2F%2Fpush.example.org%2Fa", "allowed_hosts does not have \"https://push.example.org\""),
        (";pn-prid=http%3A%2F%2F127.0.0.1%3A9%2Fa", "allowed_hosts does not have \"http://127.0.0.1:9\""),
        (";pn-prid=no-uri", "pn-prid is not the URI of a push subscription"),
        (";pn-param=x;pn-prid=a", "pn-param must not be used with webpush"),
    ] {
        let mut phone = phone(&format!(";pn-provider=webpush{params}"));
        let accepted = phone.register(&mut world);
        assert!(accepted.headers("Feature-Caps").is_empty(), "{params}");
        let bindings = world.admin.bindings(&phone.aor());
        let told = bindings.iter().filter_map(|binding| binding["push_refused"].as_str()).collect::<Vec<_>>();
        assert!(told.iter().any(|told| told.contains(why)), "{told:?}");
    }
    assert_eq!(double.requests(), 0);
    world.stop();
}

#[test]
fn subscription_that_has_ended_ends_the_binding() {
    let (double, _folder, config) = webpush();
    let mut world = World::with(Mode::Alias, Udp, &config);
    let mut phone = phone(&format!(";pn-provider=webpush;pn-prid={}", escaped(&double.subscription("a"))));
    phone.register(&mut world);
    phone.sleep();
    double.script("a", [callback_double::Answer::Raw { status: 410, headers: Vec::new(), body: String::new() }]);
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    world.admin.story(&call.call_id, "push_failed");
    eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
    world.stop();
}

/// A server of UnifiedPush answers so for a topic that nobody has subscribed to lately.
#[test]
fn a_topic_without_a_subscriber_is_tried_again_and_nobody_elses_matter() {
    let (double, _folder, config) = webpush();
    let mut world = World::with(Mode::Alias, Udp, &format!("push.breaker_failures = 1\n{config}"));
    let params = |token: &str| format!(";pn-provider=webpush;pn-prid={}", escaped(&double.subscription(token)));
    let mut phone = phone(&params("upAbCdEfGhIjKlMn"));
    phone.register(&mut world);
    phone.sleep();
    let body = r#"{"code":50701,"http":507,"error":"cannot publish to UnifiedPush topic without previously active subscriber"}"#;
    let answer = || callback_double::Answer::Raw { status: 507, headers: Vec::new(), body: body.to_owned() };
    double.script("upAbCdEfGhIjKlMn", [answer(), answer()]);
    let call = world.call(&phone);
    world.switch.queued();
    next(double.next());
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
    let told = world.admin.story(&call.call_id, "answered");
    assert_eq!(told.iter().filter(|step| *step == "push_retried").count(), 2, "{told:?}");
    world.admin.expect_healthy();
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);
    world.stop();
}
