//! What systemd hears (sd_notify(3)): start, reload, stop, and a beat for as long as every worker goes on.

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tempfile::TempDir;

use crate::peer::DEADLINE;
use crate::program::{Log, Program};

/// systemd's end, and what it starts.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new(config: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE * 2)).expect("a deadline");
        let standard = "node.id = 'n'\nsip.listen = ['udp:127.0.0.1:0']\nsip.workers = 1\nlog.format = 'json'\n\
                        softswitch.uri = 'sip:192.0.2.20'\nadmin.listen = '127.0.0.1:0'\n";
        std::fs::write(folder.path().join("config.toml"), format!("{standard}{config}")).expect("written");
        Self { socket, folder }
    }

    fn start(&self) -> (Program, Log) {
        let notify = self.folder.path().join("notify");
        let environment = [("NOTIFY_SOCKET", notify.to_str().expect("a path")), ("WATCHDOG_USEC", "1000000")];
        Program::start_in(&self.folder.path().join("config.toml"), &environment)
    }

    /// The next message.
    fn hears(&self) -> std::io::Result<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The next message that begins so.
    #[track_caller]
    fn expects(&self, start: &str) -> String {
        loop {
            let message = self.hears().unwrap_or_else(|error| panic!("{start:?} was not heard: {error}"));
            if message.starts_with(start) {
                return message;
            }
        }
    }
}

#[test]
fn systemd_hears_of_start_reload_and_stop() {
    let manager = Manager::new("node.drain_s = 7\n");
    let (mut program, log) = manager.start();
    log.read_on();
    manager.expects("READY=1\n");
    manager.expects("WATCHDOG=1\n");
    program.hang_up();
    let reloading = manager.expects("RELOADING=1\n");
    let since = reloading.trim().strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::parse::<u64>);
    assert!(matches!(since, Some(Ok(1..))), "{reloading}");
    manager.expects("READY=1\n");
    program.terminate();
    // The drain, and some more for the store.
    assert_eq!(manager.expects("STOPPING=1\n"), "STOPPING=1\nEXTEND_TIMEOUT_USEC=22000000\n");
    assert_eq!(program.exit_status().code(), Some(0));
}

/// A log that nobody reads stops the worker in the middle of a turn; the rest of the program goes on.
#[test]
fn there_is_no_beat_while_a_worker_is_stuck() {
    let manager = Manager::new("log.level = 'trace'\n");
    let (program, log) = manager.start();
    manager.expects("STATUS=ready\n");
    manager.expects("WATCHDOG=1\n");

    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // Each of them is a line of the log, and the pipe takes 64 KiB.
    while !manager.hears().expect("a beat or a status").starts_with("STATUS=not_ready: sip: worker 0 does not go on\n")
    {
        for _ in 0..1000 {
            socket.send_to(b"hello", program.address("udp")).expect("sent");
        }
    }
    let admin = crate::admin::Admin(program.admin);
    assert_eq!((admin.status("GET", "/healthz"), admin.status("GET", "/readyz")), (503, 503));
    // Not to wait for something, but to hear nothing for two of systemd's intervals.
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a deadline");
    assert_eq!(manager.hears().ok(), None);

    manager.socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    log.read_on();
    manager.expects("STATUS=ready\n");
    manager.expects("WATCHDOG=1\n");
    assert_eq!(admin.status("GET", "/healthz"), 200);
}
