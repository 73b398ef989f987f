//! The systemd unit.

use std::process::Command;

use sip_push_proxy::config::Config;
use tempfile::TempDir;

use crate::{packaging, read, run};

fn analyze(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
    command
}

#[test]
fn systemd_understands_the_unit() {
    // The program need not be installed here.
    let folder = TempDir::new().unwrap();
    let unit = read(packaging("sip-push-proxy.service"));
    let program = "/usr/bin/sip-push-proxy";
    assert!(unit.contains(program), "{unit}");
    let file = folder.path().join("sip-push-proxy.service");
    std::fs::write(&file, unit.replace(program, env!("CARGO_BIN_EXE_sip-push-proxy"))).unwrap();
    let told = run(analyze(&["verify", "--man=no"]).arg(&file));
    assert_eq!(told, "", "a key that systemd does not know is only a warning to it");
}

#[test]
fn the_unit_is_closed() {
    // In tenths: 10.0 is a service that may do everything.
    let threshold = "--threshold=20";
    run(analyze(&["security", "--offline=true", threshold]).arg(packaging("sip-push-proxy.service")));
}

/// The program asks for more when `node.drain_s` is longer than usual; the usual must need no asking.
#[test]
fn a_stop_has_time_to_drain() {
    let unit = read(packaging("sip-push-proxy.service"));
    let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s')).unwrap();
    let text = "sip.advertise = '192.0.2.10'\nsoftswitch.uri = 'sip:192.0.2.20'\n";
    let config = Config::parse(text, "config.toml".as_ref()).unwrap();
    assert!(seconds.parse::<u64>().unwrap() > config.node.drain.as_secs());
}
