//! The demo as a newcomer runs it: everything goes as told, and its output can be read anywhere.

use std::process::Command;

use tempfile::TempDir;

#[test]
fn every_story_goes_as_told() {
    // The demo must need nothing of the folder that it is started in, and leave nothing behind.
    let folder = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sip-push-proxy"))
        .arg("demo")
        .current_dir(folder.path())
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(!told.contains('\u{1b}'), "escape sequences, although nobody sees colours in a pipe");
    assert!(told.lines().all(|line| line.chars().count() <= 80), "{told}");

    // In this order: title, messages, outcome; then the table.
    let expected = [
        "1  A phone registers",
        "pn-provider=fcm",
        "401 Unauthorized",
        "asleep",
        "✓ registered",
        "2  A call wakes it",
        "FCM push: invite",
        r#""type":"invite""#,
        "REGISTER",
        "180 Ringing",
        "BYE",
        "✓ answered",
        "3  The caller gives up",
        "CANCEL",
        "487",
        "FCM push: missed_calls",
        "1 missed call",
        "✓ no phone rings",
        "4  Two devices ring",
        "apns-push-type: voip",
        "Call completed elsewhere",
        "✓ one call",
        "5  The app is gone",
        "404 UNREGISTERED",
        "480",
        "404 Not Found",
        "push_refused",
        "✓ the caller knew",
        "6  A browser is woken",
        "Web push: invite",
        "urgency: high",
        "✓ a web page rings",
        "7  An own gateway",
        "callback push: invite",
        "x-signature: sha256=",
        r#""user_id":"erin""#,
        "✓ any push service",
        "8  An app in development",
        "sandbox push: invite",
        "apns-push-type: voip",
        "✓ developers",
        "9  A phone without Google",
        "RuStore push: invite",
        "✓ no call depends",
        "wake-up, ms",
        "480 at once",
        "sip-push-proxy serve",
    ];
    let mut rest = told.as_str();
    for text in expected {
        let Some((_, after)) = rest.split_once(text) else {
            panic!("{text:?} is missing, or comes too early:\n{told}")
        };
        rest = after;
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left behind");
}
