//! SIGHUP and the commands about the configuration: what is in effect, what changes while the server goes on, and what
//! other settings would have brought.

use sip_push_proxy::sip::Transport::Udp;

use crate::phone::Push;
use crate::world::{Mode, World};

/// Calls a sleeping phone until the answer is `status`.
#[track_caller]
fn calls_end_with(world: &World, phone: &crate::phone::Phone, status: u16) {
    crate::peer::eventually("calls to end as configured", || {
        let call = world.call(phone);
        world.switch.queued();
        let (answer, _) = world.switch.peer.receive();
        call.ack(&answer);
        (answer.status() == status).then_some(())
    });
}

#[test]
fn hang_up_signal_reloads_and_a_wrong_file_changes_nothing() {
    let mut world = World::with_program(Mode::Alias, Udp, "hold.wait_s = 1\nhold.no_return_status = 480");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    calls_end_with(&world, &phone, 480);
    world.rewrite_config("no_return_status = 480", "no_return_status = 404");
    world.program().hang_up();
    calls_end_with(&world, &phone, 404);
    world.rewrite_config("no_return_status = 404", "no_return_status = 7");
    world.program().hang_up();
    calls_end_with(&world, &phone, 404);
}

#[test]
fn operator_is_told_what_a_reload_has_changed_and_what_needs_a_restart() {
    let mut world = World::with_program(Mode::Alias, Udp, "hold.wait_s = 1\nhold.no_return_status = 480");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    assert_eq!(world.command(&["reload"]), ("the configuration is the same\n".to_owned(), Some(0)));
    world.rewrite_config("no_return_status = 480", "no_return_status = 404");
    world.rewrite_config("t1_ms = 5000", "t1_ms = 4000");
    let (told, code) = world.command(&["reload"]);
    let rows: Vec<Vec<_>> = told.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["hold.no_return_status", "480", "404", "in", "effect"].as_slice(),
        &["sip.t1_ms", "5000", "4000", "needs", "a", "restart"],
    ];
    assert_eq!((rows, code), (expected.map(<[_]>::to_vec).to_vec(), Some(0)), "{told}");
    calls_end_with(&world, &phone, 404);
    // What needs a restart is told each time, until there is one.
    let (told, _) = world.command(&["reload", "--json"]);
    assert_eq!(
        told.parse::<serde_json::Value>().expect("JSON"),
        serde_json::json!({
            "changed": [],
            "needs_restart": [{ "key": "sip.t1_ms", "from": "5000", "to": "4000" }]
        })
    );
    world.rewrite_config("no_return_status = 404", "no_return_status = 7");
    assert_eq!(world.command(&["reload"]), (String::new(), Some(1)));
    calls_end_with(&world, &phone, 404);
}

#[test]
fn a_user_who_is_taken_out_of_the_file_is_not_called_before_it_is_put_back() {
    let mut world = World::with_program(Mode::Digest, Udp, "");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    let file = world.folder.path().join("users.toml");
    let users = std::fs::read_to_string(&file).expect("the users");
    let without = users.lines().filter(|line| !line.contains("alice")).collect::<Vec<_>>().join("\n");
    std::fs::write(&file, without).expect("written");
    assert_eq!(world.command(&["reload"]).1, Some(0));
    let call = world.call(&phone);
    let answer = world.switch.refused(404);
    call.ack(&answer);
    assert_eq!(world.pushes(), 0);
    let bindings = world.admin.bindings(&phone.aor());
    let why = "the user is not among those of register.users";
    assert_eq!(bindings.iter().map(|binding| &binding["push_refused"]).collect::<Vec<_>>(), [why]);
    let (told, code) = world.command(&["why", &phone.aor()]);
    assert!(code == Some(0) && told.contains(&format!("is not pushed: {why}")), "{told}");
    let (told, _) = world.command(&["push", &phone.aor(), "--dry-run"]);
    assert!(told.contains(why), "{told}");
    std::fs::write(&file, users).expect("written");
    assert_eq!(world.command(&["reload"]).1, Some(0));
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    crate::held_call::give_up(&world, &call, "");
}

#[test]
fn a_token_of_too_many_users_says_so() {
    let mut world = World::with_program(Mode::Alias, Udp, "push.aors_per_token_max = 1\nhold.wait_s = 1");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    let mut other = crate::phone::Phone::new("bob", Push::Fcm, Udp);
    other.token = phone.token.clone();
    other.register(&mut world);
    let refused = |world: &World, aor: &str| world.admin.bindings(aor)[0]["push_refused"].clone();
    let why = "the token is of more users than it may serve, and the others registered later";
    assert_eq!(refused(&world, &phone.aor()), why);
    assert_eq!(refused(&world, &other.aor()), serde_json::Value::Null);
    world.rewrite_config("aors_per_token_max = 1", "aors_per_token_max = 2");
    assert_eq!(world.command(&["reload"]).1, Some(0));
    assert_eq!(refused(&world, &phone.aor()), serde_json::Value::Null);
}

#[test]
fn log_level_changes_while_the_server_runs() {
    let world = World::with_program(Mode::Alias, Udp, "");
    let told = "the log's level is sip_push_proxy=debug until the next reload\n";
    assert_eq!(world.command(&["log", "sip_push_proxy=debug"]), (told.to_owned(), Some(0)));
    assert_eq!(world.command(&["log", "loud"]), (String::new(), Some(1)));
}

#[test]
fn settings_are_those_in_effect_and_show_no_secret() {
    let world = World::with_program(Mode::Alias, Udp, "push.https_proxy = 'http://me:pa55word@127.0.0.1:9'");
    let (told, code) = world.command(&["settings"]);
    assert_eq!(code, Some(0));
    for line in ["hold.wait_s = 28", "node.id = \"test\"", "push.https_proxy = \"http://…@127.0.0.1:9\""] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
    assert!(!told.contains("pa55word"), "{told}");
}

#[test]
fn advice_comes_of_the_calls_that_are_remembered() {
    let mut world = World::with(Mode::Alias, Udp, "push.per_token_per_min = 1000");
    let mut phone = crate::held_call::asleep(&mut world, Push::Fcm);
    let tune = |world: &World| world.command(&["tune"]);
    assert!(tune(&world).0.starts_with("0 calls are remembered"), "{:?}", tune(&world));
    for _ in 0..20 {
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed(&phone);
        phone.register(&mut world);
        crate::held_call::answered(&world, &phone, &call);
        phone.sleep();
        world.admin.story(&call.call_id, "answered");
    }
    let (told, code) = tune(&world);
    assert_eq!(code, Some(0));
    assert!(told.starts_with("20 calls are remembered, 20 of them were held for a push."), "{told}");
    let fcm: Vec<_> = told.lines().find(|line| line.starts_with("fcm")).expect("its line").split_whitespace().collect();
    assert_eq!(fcm[1], "20", "{told}");
    assert!(told.contains("28 (now)"), "{told}");
}

#[test]
fn a_key_replaced_at_the_same_path_is_read() {
    let mut world = World::with_program(Mode::Alias, Udp, "push.breaker_failures = 1000");
    let phone = crate::held_call::asleep(&mut world, Push::Apns);
    let is_pushed = |world: &World| {
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        crate::held_call::give_up(world, &call, "");
    };
    is_pushed(&world);
    let connections = world.apns.connections();
    assert_eq!(world.command(&["reload"]).0, "the configuration is the same\n");
    is_pushed(&world);
    assert_eq!(world.apns.connections(), connections, "what is as it was is left alone");

    let file = world.folder.path().join("AuthKey.p8");
    let good = std::fs::read(&file).expect("the key");
    let reload = |world: &World, key: &[u8]| {
        std::fs::write(&file, key).expect("written");
        world.command(&["reload"])
    };
    let other = crate::world::other_apns_key();
    let (told, code) = reload(&world, &other);
    assert_eq!(code, Some(0), "{told}");
    let row = told.lines().find(|line| line.starts_with("push.apns[0].key_file ")).unwrap_or_default();
    assert!(row.contains("new content") && row.ends_with("in effect"), "{told}");
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));

    assert_eq!(reload(&world, b"no key"), (String::new(), Some(1)));
    assert_eq!(reload(&world, &good).1, Some(0));
    is_pushed(&world);
    assert_eq!(world.command(&["reload"]).0, "the configuration is the same\n");
}

#[test]
fn a_phone_that_was_barred_for_a_wrong_setting_is_pushed_after_a_reload() {
    let mut world = World::with_program(Mode::Alias, Udp, "");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    world.fcm.script(&phone.token, [sip_push_proxy::demo::fcm_double::Answer::SenderIdMismatch]);
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    let why = |world: &World| world.admin.bindings(&phone.aor())[0]["push_refused"].clone();
    assert!(why(&world).as_str().is_some_and(|why| why.starts_with("403 SENDER_ID_MISMATCH")), "{}", why(&world));
    assert_eq!(world.command(&["reload"]).1, Some(0));
    assert_eq!(why(&world), serde_json::Value::Null);
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
}
