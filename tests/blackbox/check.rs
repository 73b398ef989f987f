//! `check --online`: what the configuration names is asked, and nobody hears of it.

use std::path::Path;
use std::process::{Command, Output};

use sip_push_proxy::demo::{apns_double, fcm_double};
use sip_push_proxy::sip::Transport::Udp;

use crate::world::{Mode, World};

/// A token of the right form that nobody has.
pub(crate) const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn check(config: &Path, with: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sip-push-proxy"));
    command.arg("check").args(with).arg("--config").arg(config).output().expect("the command")
}

/// What `check --online` says of each, while the softswitch answers OPTIONS.
pub(crate) fn answers(world: &World) -> (String, Option<i32>) {
    let config = world.config_file();
    let checking = std::thread::spawn(move || check(&config, &["--online"]));
    let (options, link) = world.switch.peer.request("OPTIONS");
    link.send(options.answer(200, "OK", "o", ""));
    let done = checking.join().expect("it ran");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let said: Vec<_> = said.lines().filter(|line| line.to_lowercase().contains("well:")).collect();
    (said.join("\n"), done.status.code())
}

#[test]
fn what_is_well_and_what_is_not() {
    let world = World::start(Mode::Alias, Udp);
    world.fcm.script(NOBODY, [fcm_double::Answer::InvalidToken]);
    for environment in [&world.apns, &world.sandbox] {
        environment.script(NOBODY, [apns_double::Answer::Reason { status: 400, reason: "BadDeviceToken" }]);
    }
    let (said, code) = answers(&world);
    let expected = [
        "it answers OPTIONS with 200 OK",
        "fcm project demo-project: it takes our credentials (",
        "apns team DEF123GHIJ: it takes our credentials (400 BadDeviceToken",
    ];
    // The store is one of them where it is Redis.
    let lines: Vec<_> = said.lines().filter(|line| !line.contains(" store: it takes us")).collect();
    assert_eq!((lines.len(), code), (expected.len(), Some(0)), "{said}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.trim().starts_with("well: ") && line.contains(expected), "{line}");
    }
    // Asked, and nothing that a phone could show.
    assert!(world.pushes() > 0);
    world
        .apns
        .script(NOBODY, [(); 3].map(|()| apns_double::Answer::Reason { status: 403, reason: "InvalidProviderToken" }));
    let (said, code) = answers(&world);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("NOT WELL:   apns team DEF123GHIJ: 403 InvalidProviderToken"), "{said}");
    world.fcm.refuse_grants(Some(fcm_double::WRONG_SIGNATURE));
    let (said, _) = answers(&world);
    let told = "NOT WELL:   fcm project demo-project: token endpoint: 400 invalid_grant: Invalid JWT Signature: the key was \
                deleted, or is not this account's; fetch a new one in the Google Cloud console";
    assert!(said.contains(told), "{said}");
}

#[test]
fn keys_that_everybody_can_read_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::start(Mode::Alias, Udp);
    let key = world.folder.path().join("AuthKey.p8");
    for (mode, is_told) in [(0o600, false), (0o640, false), (0o644, true)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("changed");
        let done = check(&world.config_file(), &[]);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(said.contains("push.apns[0].key_file: everybody on this machine can read "), is_told, "{said}");
    }
}

#[test]
fn certificate_that_has_expired_is_an_error_and_one_that_soon_will_is_told() {
    let day = std::time::Duration::from_secs(86_400);
    let world = World::start(Mode::Alias, Udp);
    let ca = world.folder.path().join("roots.pem");
    let config = world.folder.path().join("certificates.toml");
    let text = std::fs::read_to_string(world.config_file()).expect("the configuration");
    let text = text.replacen("[[push.apns]]\n", "[[push.apns]]\nca_file = \"roots.pem\"\n", 1);
    let lines: Vec<_> = text.lines().collect();
    // The doubles' own root stands further down.
    let mut seen = false;
    let kept = lines.into_iter().filter(|line| !(line.starts_with("ca_file") && std::mem::replace(&mut seen, true)));
    std::fs::write(&config, kept.collect::<Vec<_>>().join("\n")).expect("written");
    #[expect(clippy::disallowed_methods, reason = "certificates are good or not today")]
    let now = std::time::SystemTime::now();
    let written = |until: std::time::SystemTime| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(["push.example".to_owned()]).expect("parameters");
        (parameters.not_before, parameters.not_after) = ((now - day * 300).into(), until.into());
        std::fs::write(&ca, parameters.self_signed(&key).expect("signed").pem()).expect("written");
        let done = check(&config, &[]);
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let (code, said) = written(now + day * 100);
    assert!(code == Some(0) && !said.contains("roots.pem"), "{said}");
    let (code, said) = written(now + day * 10);
    assert!(
        code == Some(0) && said.contains("note:       push.apns[0].ca_file:") && said.contains("expires in "),
        "{said}"
    );
    let (code, said) = written(now - day);
    assert!(code == Some(2) && said.contains("push.apns[0].ca_file: every certificate in"), "{said}");
}
