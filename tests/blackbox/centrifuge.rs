//! Live events for the npm package centrifuge, as it is, in Node.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;
use sip_push_proxy::sip::Transport::Udp;

use crate::cable::Cable;
use crate::held_call::answered;
use crate::peer::DEADLINE;
use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

const TOKEN: &str = "a-token-of-the-panel";
/// A call that wakes its phone, but for the provider's answer, which may come before its phone, or after it.
const CALL: [&str; 8] = [
    "callReceived",
    "deviceFound",
    "callHeld",
    "pushSent",
    "clientOnline",
    "clientReturned",
    "callForwarded",
    "callAnswered",
];

/// A program that follows the events. It is killed when this is dropped.
struct Panel {
    child: Child,
    said: mpsc::Receiver<Value>,
    /// Of the last publication.
    offset: u64,
}

impl Drop for Panel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Panel {
    fn start(server: SocketAddr, token: &str) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new("node")
            .arg(here.join("tests/blackbox/centrifuge.js"))
            .args([&format!("ws://{server}/connection/websocket"), token])
            .env("NODE_PATH", here.join("target/centrifuge/node_modules"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node, which tests/run installs");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            let values = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            values.take_while(|value: &Value| sender.send(value.clone()).is_ok()).count()
        });
        Self { child, said, offset: 0 }
    }

    /// One that is connected and subscribed.
    fn connected(server: SocketAddr) -> Self {
        let panel = Self::start(server, TOKEN);
        panel.expect("connecting");
        panel.expect("connected");
        let subscribed = panel.expect("subscribed");
        assert_eq!((&subscribed["channel"], &subscribed["recoverable"]), (&"push-proxy".into(), &true.into()));
        assert_eq!((&subscribed["wasRecovering"], &subscribed["streamPosition"]["offset"]), (&false.into(), &0.into()));
        panel
    }

    /// What the package says next, which must be this.
    #[track_caller]
    fn expect(&self, what: &str) -> Value {
        let mut said = self.said.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no {what} in time"));
        assert_eq!(said["what"], what, "{said}");
        said["context"].take()
    }

    /// The name of the next event. None is missing before it, and none comes twice.
    #[track_caller]
    fn event(&mut self) -> String {
        let publication = self.expect("publication");
        assert_eq!(
            (&publication["channel"], publication["offset"].as_u64()),
            (&"push-proxy".into(), Some(self.offset + 1))
        );
        self.offset += 1;
        assert!(publication["data"]["at"].is_string(), "{publication}");
        publication["data"]["event"].as_str().expect("a name").to_owned()
    }

    #[track_caller]
    fn expect_events(&mut self, expected: &[&str]) {
        for expected in expected {
            let sure = std::iter::repeat_with(|| self.event()).find(|event| event != "pushAccepted");
            assert_eq!(sure.as_deref(), Some(*expected));
        }
    }

    /// It comes back after a break; whether without a gap. Where there is one, it goes on behind it.
    #[track_caller]
    fn comes_back(&mut self) -> bool {
        self.expect("connected");
        let subscribed = self.expect("subscribed");
        let offset = subscribed["streamPosition"]["offset"].as_u64().expect("a position");
        let is_whole = subscribed["recovered"].as_bool().expect("whether it has a gap");
        assert_eq!((&subscribed["wasRecovering"], is_whole && offset != self.offset), (&true.into(), false));
        self.offset = offset;
        is_whole
    }
}

fn start(config: &str) -> (World, Phone) {
    let config = format!("admin.token_file = 'token.txt'\n{config}");
    let world = World::with_files(Mode::Open, Udp, &config, &[("token.txt", TOKEN)]);
    (world, Phone::new("alice", Push::Fcm, Udp))
}

#[test]
fn the_package_gets_a_call_while_it_happens() {
    let (mut world, mut phone) = start("");
    let mut panel = Panel::connected(world.admin.0);
    phone.register(&mut world);
    panel.expect_events(&["clientOnline"]);
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    panel.expect_events(&CALL[..4]);
    phone.register(&mut world);
    answered(&world, &phone, &call);
    panel.expect_events(&CALL[4..]);
}

#[test]
fn the_package_resumes_after_a_break_without_a_gap() {
    let (mut world, mut phone) = start("");
    let cable = Cable::to(world.admin.0);
    let mut panel = Panel::connected(cable.address);
    phone.register(&mut world);
    panel.expect_events(&["clientOnline"]);
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    panel.expect_events(&CALL[..4]);
    cable.pull();
    while panel.said.recv_timeout(DEADLINE).expect("the break")["what"] != "connecting" {
        // Only what a provider's answer makes may come before it.
        panel.offset += 1;
    }
    phone.register(&mut world);
    answered(&world, &phone, &call);
    cable.put_into(world.admin.0);
    assert!(panel.comes_back(), "nothing is lost");
    panel.expect_events(&CALL[4..]);
    // And on it goes.
    phone.refresh(&mut world);
    panel.expect_events(&["clientOnline"]);
}

#[test]
fn the_package_resumes_after_a_long_break() {
    // The phone registers as fast as it can.
    let (mut world, mut phone) = start("limits.source_requests_per_s = 0\n");
    let cable = Cable::to(world.admin.0);
    let mut panel = Panel::connected(cable.address);
    cable.pull();
    panel.expect("connecting");
    phone.register(&mut world);
    for _ in 1..150 {
        phone.refresh(&mut world);
    }
    cable.put_into(world.admin.0);
    assert!(panel.comes_back(), "nothing is lost");
    panel.expect_events(&["clientOnline"; 150]);
}

#[test]
fn the_package_learns_that_it_has_missed_too_much() {
    let (mut world, mut phone) = start("events.history_max = 4\n");
    let cable = Cable::to(world.admin.0);
    let mut panel = Panel::connected(cable.address);
    cable.pull();
    panel.expect("connecting");
    phone.register(&mut world);
    for _ in 0..20 {
        phone.refresh(&mut world);
    }
    cable.put_into(world.admin.0);
    assert!(!panel.comes_back(), "only four are kept");
    phone.refresh(&mut world);
    panel.expect_events(&["clientOnline"]);
}

#[test]
fn the_package_stays_away_with_a_wrong_token() {
    let (world, _) = start("");
    let panel = Panel::start(world.admin.0, "another-token-of-a-panel");
    panel.expect("connecting");
    assert_eq!(panel.expect("disconnected")["code"], 3500);
}

#[test]
fn the_package_comes_back_to_a_server_that_starts_again() {
    let mut world = World::with_program(Mode::Open, Udp, "");
    let cable = Cable::to(world.admin.0);
    let mut panel = Panel::connected(cable.address);
    world.program().terminate();
    assert_eq!(panel.expect("connecting")["code"], 3001);
    assert!(world.program().exit_status().success());
    world.start_program();
    cable.put_into(world.admin.0);
    assert!(!panel.comes_back(), "another run has other events");
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    panel.expect_events(&["clientOnline"]);
}
