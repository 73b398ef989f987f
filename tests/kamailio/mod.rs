//! A softswitch and a phone that were written by others: Kamailio as the registrar behind the proxy, and Linphone as the
//! app in front of it, with its push parameters (Debian's `kamailio` and `linphone-cli`).
//!
//! Linphone is not told anything by a push here; what a phone's system does with an app on a push is to start it, and so
//! does the test.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sip_push_proxy::sip::Transport::Udp;

use crate::peer::{Heard, eventually};
use crate::phone::{PASSWORD, Phone, Push};
use crate::sip::Sip;
use crate::sipp::free_port;
use crate::world::{Mode, World};

const TOKEN: &str = "linphone-token:APA91b";

/// A program of others, with what it says in a file. It is killed when this is dropped.
struct Foreign {
    child: Child,
    said: PathBuf,
}

#[expect(clippy::print_stderr, reason = "what it said explains a test that fails")]
impl Drop for Foreign {
    fn drop(&mut self) {
        // With the processes that it started; they may have ended by themselves.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.said).unwrap_or_default());
        }
    }
}

impl Foreign {
    fn start(command: &mut Command, said: PathBuf) -> Self {
        let output = File::create(&said).expect("a file");
        let errors = output.try_clone().expect("a file");
        let child = command.process_group(0).stdin(Stdio::piped()).stdout(output).stderr(errors).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?}, which tests/run installs: {error}")), said }
    }
}

/// This folder's file with what has to be put in.
fn written(folder: &Path, name: &str, replaced: &[(&str, &str)]) -> PathBuf {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kamailio").join(name);
    let mut text = std::fs::read_to_string(template).expect("a template");
    for (from, to) in replaced {
        text = text.replace(from, to);
    }
    let file = folder.join(name);
    std::fs::write(&file, text).expect("written");
    file
}

/// Where Debian has its modules, on whatever machine.
fn modules() -> String {
    let libraries = std::fs::read_dir("/usr/lib").expect("a Linux system").flatten();
    let mut folders = libraries.map(|entry| entry.path().join("kamailio/modules"));
    let folder = folders.find(|folder| folder.exists()).expect("kamailio, which tests/run installs");
    format!("{}/", folder.display())
}

/// Registrar for example.org at `port`, and the one that routes calls to what is registered.
fn kamailio(folder: &Path, port: &str) -> Foreign {
    let replaced = [("PORT", port), ("MODULES", &modules()), ("PASSWORD", PASSWORD)];
    let config = written(folder, "kamailio.cfg", &replaced);
    // In the foreground, with little memory, and with its sockets for control nowhere but here.
    let mut command = Command::new("kamailio");
    command.args(["-DD", "-E", "-m", "32", "-M", "4", "-f"]).arg(config).arg("-Y").arg(folder).current_dir(folder);
    Foreign::start(&mut command, folder.join("kamailio.log"))
}

/// The app, as its system starts it. It takes each call.
fn linphone(folder: &Path, proxy: SocketAddr) -> Foreign {
    std::fs::create_dir_all(folder.join(".local/share/linphone")).expect("a folder");
    let replaced = [("PROXY", &*proxy.to_string()), ("TOKEN", TOKEN), ("PASSWORD", PASSWORD)];
    let config = written(folder, "linphonerc", &replaced);
    let mut command = Command::new("linphonec");
    command.arg("-a").arg("-c").arg(config).env("HOME", folder).current_dir(folder);
    Foreign::start(&mut command, folder.join("linphone.log"))
}

#[test]
fn linphone_is_woken_for_a_call_to_its_alias() {
    linphone_is_woken_for_a_call_of_kamailio(Mode::Alias);
}

#[test]
fn linphone_is_woken_for_a_call_by_its_path() {
    linphone_is_woken_for_a_call_of_kamailio(Mode::Path);
}

#[track_caller]
fn linphone_is_woken_for_a_call_of_kamailio(mode: Mode) {
    let port = free_port("127.0.0.1");
    // Linphone takes the address that the way to the proxy begins at.
    let softswitch =
        format!("softswitch.uri = 'sip:127.0.0.1:{port}'\nsip.t1_ms = 500\nregister.phones_behind_trusted = true\n");
    let mut world = World::with(mode, Udp, &softswitch);
    let folder = world.folder.path().to_owned();
    let _kamailio = kamailio(&folder, &port);
    let proxy = world.sip(Udp);

    let mut app = Some(linphone(&folder, proxy));
    let aor = "alice@example.org";
    let binding = eventually("linphone to register", || world.admin.bindings(aor).into_iter().next());
    assert_eq!(binding["provider"], "fcm");
    assert!(binding["user_agent"].as_str().is_some_and(|name| name.contains("inphone")), "{binding}");

    for number in 1..=2 {
        // As a system ends an app: nobody is told.
        drop(app.take());
        let link = world.switch.peer.link_to(format!("127.0.0.1:{port}").parse().expect("an address"));
        let call = world.switch.call_by(link, aor, "");
        let push = crate::peer::RUNTIME.block_on(world.fcm.next());
        assert_eq!((&*push.token, &push.json()["message"]["data"]["type"]), (TOKEN, &"invite".into()));
        app = Some(linphone(&folder, proxy));
        let ok = world.switch.final_response();
        assert_eq!((ok.status(), ok.method()), (200, "INVITE"), "{ok:?}");
        assert!(ok.body.contains("m=audio"), "{ok:?}");
        call.confirm(&ok);
        call.bye(&ok);
        world.switch.response(200, "BYE");
        let story = world.admin.story(&call.call_id, "answered");
        for step in ["held", "push_sent", "registered", "forwarded", "answered"] {
            assert!(story.iter().any(|told| told == step), "{story:?}");
        }
        assert_eq!((world.pushes(), world.admin.bindings(aor).len()), (number, 1));
    }
    world.admin.expect_metric("calls_total{outcome=\"answered\"}", 2.0);
    world.stop();
}

#[test]
fn a_phone_that_changes_its_network_can_be_called_by_its_alias() {
    a_phone_that_changes_its_network_can_be_called(Mode::Alias);
}

#[test]
fn a_phone_that_changes_its_network_can_be_called_by_its_path() {
    a_phone_that_changes_its_network_can_be_called(Mode::Path);
}

/// It registers its new Contact and takes the old one out in one REGISTER, in either order.
#[track_caller]
fn a_phone_that_changes_its_network_can_be_called(mode: Mode) {
    let port = free_port("127.0.0.1");
    let mut world = World::with(mode, Udp, &format!("softswitch.uri = 'sip:127.0.0.1:{port}'\n"));
    let folder = world.folder.path().to_owned();
    let _kamailio = kamailio(&folder, &port);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    let line = |phone: &Phone, uri: &str, expires: &str| format!("Contact: <{uri}>{}{expires}\r\n", phone.instance);
    phone.wake(&world);
    let first = line(&phone, &phone.contact(), "");
    eventually("Kamailio to be there", || {
        phone.send_register_with(&first);
        let heard = phone.peer().hear(Duration::from_millis(500));
        heard.filter(|heard| matches!(heard, Heard::Message(answer, _) if answer.status() == 401)).map(drop)
    });
    for (number, is_old_first) in [(1, false), (2, true)] {
        phone.wake(&world);
        let old = phone.contact();
        phone.register_by_password(&line(&phone, &old, ""));
        phone.wake(&world);
        let mut contacts = [line(&phone, &phone.contact(), ""), line(&phone, &old, ";expires=0")];
        if is_old_first {
            contacts.reverse();
        }
        let accepted = phone.register_by_password(&contacts.concat());
        let (listed, address) = (accepted.headers("Contact").join(","), phone.peer().address.to_string());
        assert!(listed.contains(&address) && !listed.contains(&old), "{listed}");

        let link = world.switch.peer.link_to(format!("127.0.0.1:{port}").parse().expect("an address"));
        let call = world.switch.call_by(link, &phone.aor(), "");
        world.pushed_invite(&phone, 28);
        phone.register_by_password(&line(&phone, &phone.contact(), ""));
        let incoming = phone.invited();
        incoming.answer(200, "OK");
        let ok = world.switch.final_response();
        assert_eq!((ok.status(), ok.method()), (200, "INVITE"), "{ok:?}");
        call.confirm(&ok);
        incoming.confirmed();
        assert_eq!((world.pushes(), world.admin.bindings(&phone.aor()).len()), (number, 1));
    }
    world.stop();
}

/// Each start of the app is another port, and the phone has no instance that Kamailio would know it by.
#[test]
fn a_phone_that_starts_anew_is_one_contact_of_kamailio() {
    for mode in [Mode::Path, Mode::Alias] {
        let port = free_port("127.0.0.1");
        let softswitch =
            format!("softswitch.uri = 'sip:127.0.0.1:{port}'\nsip.t1_ms = 500\nregister.expires_upstream_s = 604800\n");
        let mut world = World::with(mode, Udp, &softswitch);
        let folder = world.folder.path().to_owned();
        let _kamailio = kamailio(&folder, &port);
        let mut phone = Phone::new("alice", Push::Fcm, Udp);
        phone.instance.clear();
        for _ in 0..4 {
            let ok = registers_at_kamailio(&world, &mut phone);
            assert_eq!(ok.headers("Contact").len(), 1, "{ok:?}");
            assert!(
                ok.header("Contact").contains("pn-prid") && ok.header("Contact").contains("expires=3600"),
                "{ok:?}"
            );
        }
        phone.sleep();
        let link = world.switch.peer.link_to(format!("127.0.0.1:{port}").parse().expect("an address"));
        let call = world.switch.call_by(link, &phone.aor(), "");
        world.pushed_invite(&phone, 28);
        registers_at_kamailio(&world, &mut phone);
        phone.invited().answer(486, "Busy Here");
        call.ack(&world.switch.final_response());
        let story = world.admin.story(&call.call_id, "rejected");
        assert!(!story.iter().any(|told| told == "device_skipped"), "{story:?}");
        assert_eq!(world.pushes(), 1);
        world.stop();
    }
}

#[track_caller]
fn registers_at_kamailio(world: &World, phone: &mut Phone) -> Sip {
    phone.wake(world);
    phone.credentials.clear();
    phone.send_register();
    let challenge = phone.peer().response(401, "REGISTER");
    phone.answer_challenge(&challenge);
    phone.send_register();
    phone.peer().response(200, "REGISTER")
}
