//! The built program as a process of its own, to be killed or asked to stop.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, LineWriter};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::peer::eventually;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sip-push-proxy");

/// A running `sip-push-proxy serve`. It is killed when this is dropped.
pub(crate) struct Program {
    child: Child,
    addresses: HashMap<String, SocketAddr>,
    pub(crate) admin: SocketAddr,
    /// Where browsers subscribe, if they may.
    pub(crate) page: Option<SocketAddr>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Program {
    /// Returns when it says that it is ready.
    pub(crate) fn start(config: &Path) -> Self {
        let (program, log) = Self::start_in(config, &[]);
        log.read_on();
        program
    }

    /// With so many open files at most.
    pub(crate) fn start_with_files(config: &Path, files: u32) -> Self {
        let mut limited = Command::new("bash");
        limited.args(["-c", "ulimit -n $0; exec \"$@\"", &files.to_string(), PROGRAM]);
        let (program, log) = Self::start_by(&mut limited, config, &[]);
        log.read_on();
        program
    }

    /// With some more environment variables, and a log that is the caller's to read.
    pub(crate) fn start_in(config: &Path, environment: &[(&str, &str)]) -> (Self, Log) {
        Self::start_by(&mut Command::new(PROGRAM), config, environment)
    }

    fn start_by(command: &mut Command, config: &Path, environment: &[(&str, &str)]) -> (Self, Log) {
        let mut child = command
            .arg("serve")
            .arg("--config")
            .arg(config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut log = BufReader::new(child.stderr.take().expect("its log"));
        let (addresses, admin, page) = read_addresses(&mut log);
        let file = config.with_file_name("log");
        (Self { child, addresses, admin, page }, Log { text: log, file })
    }

    pub(crate) fn address(&self, transport: &str) -> SocketAddr {
        self.addresses[transport]
    }

    /// Without a warning: `kill -9`.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    /// How it ended.
    #[track_caller]
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        eventually("the program to end", || self.child.try_wait().expect("a child"))
    }

    /// Processor time that it has used, of all its threads.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        // The name, in parentheses, may contain anything; what follows it begins with field 3.
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |field: usize| fields[field - 3].parse::<u64>().expect("ticks");
        // USER_HZ is 100 on all architectures.
        Duration::from_millis((ticks(14) + ticks(15)) * 10)
    }
}

/// What a program has still to say. One whose log nobody reads comes to stand still.
pub(crate) struct Log {
    text: BufReader<ChildStderr>,
    /// Where it goes, beside the configuration.
    file: PathBuf,
}

impl Log {
    /// To its end.
    pub(crate) fn read_on(mut self) {
        let file = File::options().create(true).append(true).open(self.file).expect("a file");
        std::thread::spawn(move || std::io::copy(&mut self.text, &mut LineWriter::new(file)));
    }
}

/// From the log's lines up to `ready`: where the program listens.
fn read_addresses(log: &mut BufReader<ChildStderr>) -> (HashMap<String, SocketAddr>, SocketAddr, Option<SocketAddr>) {
    let (mut addresses, mut admin, mut page) = (HashMap::new(), None, None);
    let mut read = String::new();
    for line in log.lines() {
        let line = line.expect("a log in UTF-8");
        read.push_str(&line);
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        let address = || line["address"].as_str().and_then(|address| address.parse().ok());
        match line["message"].as_str() {
            Some("listening for SIP") => {
                let transport = line["transport"].as_str().unwrap_or_default().to_owned();
                addresses.insert(transport, address().expect("an address"));
            }
            Some("listening for the operator") => admin = address(),
            Some("listening for browsers") => page = address(),
            Some("ready") => return (addresses, admin.expect("an address"), page),
            Some(_) | None => {}
        }
    }
    panic!("the program did not start: {read}");
}
