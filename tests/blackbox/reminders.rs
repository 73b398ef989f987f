//! `push.refresh`: a phone that sleeps is pushed so that it registers before the softswitch forgets it.

use sip_push_proxy::sip::Transport::Udp;

use crate::peer::{eventually, eventually_is};
use crate::phone::{Phone, Push};
use crate::world::{Mode, World, unix_seconds};

const REMINDERS: &str = "push.refresh = true\npush.refresh_before_s = 1\n";

/// Registered for so many seconds, and asleep.
fn asleep_for(world: &mut World, push: Push, seconds: u32) -> Phone {
    let mut phone = Phone::new("alice", push, Udp);
    phone.expires = None;
    phone.wake(world);
    let contact = format!("Contact: <{}>{};expires={seconds}\r\n", phone.contact(), phone.instance);
    phone.send_register_with(&contact);
    world.switch.accept_register(&phone.aor());
    phone.peer().response(200, "REGISTER");
    phone.sleep();
    phone
}

/// The push of a phone that is to register.
#[track_caller]
fn reminded(world: &World, phone: &Phone) {
    let told = world.pushed(phone);
    let body = told.json();
    let now = unix_seconds();
    if phone.push == Push::Fcm {
        let message = &body["message"];
        assert_eq!(
            (&message["token"], &message["data"]["type"]),
            (&(*phone.token).into(), &"register".into()),
            "{body}"
        );
        let date = message["data"]["date"].as_str().and_then(|date| date.parse::<u64>().ok());
        assert!(date.is_some_and(|date| date <= now && date + 60 > now), "{body}");
        // Which of the two it is, is a matter of how fast this is run.
        let priority = message["android"]["priority"].as_str();
        assert!(priority == Some("NORMAL") || priority == Some("HIGH"), "{body}");
    } else {
        assert_eq!(
            (&body["aps"], &body["acme"]["type"]),
            (&serde_json::json!({ "content-available": 1 }), &"register".into())
        );
        assert_eq!(told.token, phone.remote_token);
        let header = |name| told.headers.get(name).and_then(|value| value.to_str().ok());
        let headers = [header("apns-push-type"), header("apns-priority"), header("apns-topic")];
        assert_eq!(headers, [Some("background"), Some("5"), Some("org.example.phone")]);
    }
}

fn date(binding: &serde_json::Value, key: &str) -> Option<jiff::Timestamp> {
    binding[key].as_str()?.parse().ok()
}

#[test]
fn sleeping_phone_is_pushed_and_registers() {
    for push in [Push::Fcm, Push::Apns] {
        let mut world = World::with(Mode::Alias, Udp, REMINDERS);
        let mut phone = asleep_for(&mut world, push, 4);
        reminded(&world, &phone);
        phone.expires = Some(3600);
        phone.register(&mut world);
        eventually_is("the next time", || {
            let binding = world.admin.bindings(&phone.aor()).remove(0);
            let (pushed, ends) = (date(&binding, "register_push_at"), date(&binding, "expires_at"));
            if pushed.is_some() && pushed < ends { Ok(()) } else { Err(binding) }
        });
        let sample = format!("pushes_total{{provider=\"{}\",type=\"register\",result=\"accepted\"}}", push.provider());
        eventually("the pushes to be counted", || (world.admin.metric(&sample) >= 1.0).then_some(()));
        world.stop();
    }
}

/// The time runs on while the program does not.
#[test]
fn next_run_pushes_who_is_due() {
    let mut world = World::with_program(Mode::Alias, Udp, "push.refresh = true\npush.refresh_before_s = 5\n");
    let phone = asleep_for(&mut world, Push::Fcm, 12);
    world.program().kill();
    world.start_program();
    reminded(&world, &phone);
}

#[test]
fn reload_begins_and_ends_it() {
    let mut world = World::with_program(Mode::Alias, Udp, "push.refresh_before_s = 1\n");
    let phone = asleep_for(&mut world, Push::Fcm, 3600);
    let due = |world: &World| date(&world.admin.bindings(&phone.aor())[0], "register_push_at");
    assert_eq!(due(&world), None);
    world.rewrite_config("refresh_before_s", "refresh = true\nrefresh_before_s");
    assert_eq!(world.command(&["reload"]).1, Some(0));
    assert!(due(&world).is_some());
    world.rewrite_config("refresh = true\n", "");
    assert_eq!(world.command(&["reload"]).1, Some(0));
    assert_eq!(due(&world), None);
    // A phone that registers while it is on is pushed.
    world.rewrite_config("refresh_before_s", "refresh = true\nrefresh_before_s");
    assert_eq!(world.command(&["reload"]).1, Some(0));
    let soon = asleep_for(&mut world, Push::Fcm, 4);
    reminded(&world, &soon);
    world.program().kill();
}
