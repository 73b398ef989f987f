//! SIPVicious as the foreign attacker: the scanner, the extension finder and the password cracker that most floods come of.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use sip_push_proxy::sip::Transport::Udp;

use crate::doors::a_call_goes_through;
use crate::held_call::asleep;
use crate::phone::{PASSWORD, Push};
use crate::switch::Switch;
use crate::world::{Mode, World};

/// Its programs attack from 127.0.0.1, so the softswitch is elsewhere.
const SWITCH_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));

fn attacked(config: &str) -> World {
    let mut world = World::with(Mode::Digest, Udp, &format!("softswitch.trusted = ['{SWITCH_IP}/32']\n{config}"));
    world.switch = Switch::at(Udp, SWITCH_IP);
    world.switch.connect(world.sip(Udp));
    world
}

/// What one of its programs says of the server. One that gets no answers any more may wait for them without end.
fn says(world: &World, program: &str, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sipvicious/bin").join(program);
    let server = world.sip(Udp);
    let mut command = Command::new("timeout");
    command.args(["--signal=INT", "--kill-after=5", "20"]).arg(path);
    command.arg(format!("-p{}", server.port())).args(arguments).arg(server.ip().to_string());
    let done = command.current_dir(world.folder.path()).output().expect("sipvicious, which tests/run installs");
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

#[track_caller]
fn finds_nothing(said: &str) {
    assert!(said.contains("found nothing"), "{said}");
}

#[test]
fn scanner_that_says_its_name_learns_nothing() {
    let mut world = attacked("");
    finds_nothing(&says(&world, "sipvicious_svmap", &[]));
    world.admin.expect_metric("sip_dropped_total{reason=\"scanner\"}", 1.0);
    let mut phone = asleep(&mut world, Push::Fcm);
    a_call_goes_through(&mut world, &mut phone);
    world.stop();
}

#[test]
fn attacker_by_another_name_finds_no_user_and_no_password_and_is_shut_out() {
    let mut world = attacked("limits.scanners = []");
    let passwords = (0..500).map(|number| format!("wrong {number}\n")).collect::<String>() + PASSWORD;
    std::fs::write(world.folder.path().join("passwords"), passwords + "\n").expect("written");
    std::fs::write(world.folder.path().join("users"), "alice\nbob\ncarol\ndave\n").expect("written");
    let patience = "--maximumtime=2";
    let said = says(&world, "sipvicious_svwar", &["-dusers", "-mREGISTER", "--force", patience]);
    finds_nothing(&said);
    let said = says(&world, "sipvicious_svcrack", &["-ualice", "-dpasswords", patience]);
    assert!(!said.contains(PASSWORD), "{said}");
    assert_eq!(world.admin.metric("bans"), 1.0);
    let bans = world.admin.get("/api/v1/bans");
    assert_eq!((&bans["bans"][0]["source"], &bans["bans"][0]["failures"]), (&"127.0.0.1".into(), &20.into()), "{bans}");
    let mut phone = asleep(&mut world, Push::Fcm);
    a_call_goes_through(&mut world, &mut phone);
    world.stop();
}
