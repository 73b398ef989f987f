//! What the log must not keep, however much of it is asked for: tokens, keys, passwords, and who calls whom.

use sip_push_proxy::demo::apns_double;
use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::held_call::give_up;
use crate::peer::eventually;
use crate::phone::{PASSWORD, Phone, Push};
use crate::world::{Mode, World};

#[test]
fn nothing_secret_and_nobody_by_name() {
    let config = "log.level = 'trace'\nhold.wait_s = 1\npush.per_token_per_min = 2\n";
    let mut world = World::with_program(Mode::Digest, Udp, config);
    let mut android = Phone::new("alice", Push::Fcm, Udp);
    let mut iphone = Phone::new("bob", Push::Apns, Tcp);
    android.register(&mut world);
    iphone.register(&mut world);
    // A stranger, and one who does not know the password.
    let mut mallory = Phone::new("mallory", Push::Fcm, Udp);
    mallory.wake(&world);
    mallory.send_register();
    mallory.peer().response(401, "REGISTER");
    android.sleep();
    iphone.sleep();
    // Answered by nobody, given up, refused by the providers in several ways.
    let no_return = world.call(&android);
    world.switch.queued();
    world.pushed(&android);
    no_return.ack(&world.switch.response(480, "INVITE"));
    world.apns.script(&iphone.token, [apns_double::Answer::Reason { status: 400, reason: "BadTopic" }]);
    let refused = world.call(&iphone);
    world.switch.queued();
    refused.ack(&world.switch.final_response());
    android.register(&mut world);
    let missed = world.pushed(&android);
    assert_eq!(missed.json()["message"]["data"]["type"], "missed_calls");
    android.sleep();
    let limited = world.call(&android);
    world.switch.queued();
    give_up(&world, &limited, "");
    world.command(&["push", &android.aor()]);
    world.command(&["bindings", "--json"]);

    let log = world.folder.path().join("log");
    let log = eventually("the last call in the log", || {
        let log = std::fs::read_to_string(&log).expect("a log");
        let is_whole = log.lines().any(|line| line.contains(&limited.call_id) && line.contains("\"cancelled\""));
        is_whole.then_some(log)
    });
    for told in [&*no_return.call_id, "push_sent", "BadTopic", "\"TRACE\"", "device"] {
        assert!(log.contains(told), "{told} is not in the log:\n{log}");
    }
    let key = std::fs::read_to_string(world.folder.path().join("AuthKey.p8")).expect("a key");
    let key = key.lines().nth(1).expect("its text");
    let secrets =
        [&android.token, &iphone.token, &iphone.remote_token, PASSWORD, key, "PRIVATE KEY", "Bearer", "ya29."];
    let persons = ["alice", "bob", "mallory", "103", "Ivan", "Digest"];
    for hidden in secrets.into_iter().chain(persons) {
        let line = log.lines().find(|line| says(line, hidden));
        assert_eq!(line, None, "{hidden} is in the log");
    }
}

/// Whether a line has this text, not as a part of a longer number or name.
fn says(line: &str, text: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    line.match_indices(text).any(|(at, _)| {
        let bytes = line.as_bytes();
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        !is_word(before) && !is_word(bytes.get(at + text.len()))
    })
}
