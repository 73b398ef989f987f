//! A real redis-server of a test's own, ended with it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sip_push_proxy::config::Redis;

const DEADLINE: Duration = Duration::from_secs(20);

/// Keeps what it acknowledged.
pub(crate) const DURABLE: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

/// A server on a port of its own; the same port after a restart.
pub(crate) struct Server {
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// One that forgets all when it ends.
    pub(crate) fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// One that forgets nothing that it acknowledged.
    pub(crate) fn durable() -> Self {
        Self::with(DURABLE)
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // The port may be taken between the look and the start.
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let mut server = Self { port: free_port(), folder, arguments: arguments.clone(), child: None };
            if server.try_run() {
                return server;
            }
        }
        panic!("redis-server does not start; the Debian package redis-server has it");
    }

    fn try_run(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let child = self.child.insert(child);
        let deadline = deadline();
        while child.try_wait().unwrap().is_none() {
            if is_answering(self.port) {
                return true;
            }
            assert!(!is_over(deadline), "redis-server does not answer");
            std::thread::yield_now();
        }
        false
    }

    /// Starts again what was killed.
    pub(crate) fn run(&mut self) {
        assert!(self.try_run(), "the port was taken meanwhile");
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> Redis {
        Redis::parse(&format!("redis://127.0.0.1:{}", self.port)).unwrap().unwrap()
    }

    /// What redis-cli prints for a command.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        ask(self.port, command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn ask(port: u16, command: &[&str]) -> String {
    let done = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output().unwrap();
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Servers with `--cluster-enabled yes` become one Cluster of masters, which share the slots.
pub(crate) fn join_cluster(servers: &[Server]) {
    let created = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(servers.iter().map(|server| format!("127.0.0.1:{}", server.port)))
        .args(["--cluster-yes"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(created.success());
    for server in servers {
        wait_for("the Cluster", || server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    }
}

/// A Sentinel that watches `master`, by its own file.
pub(crate) struct Sentinel {
    pub(crate) port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    pub(crate) fn watch(master: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let file: PathBuf = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .args(["--sentinel"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sentinel = Self { port, child, _folder: folder };
        wait_for("the Sentinel", || is_answering(port));
        sentinel
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    // A node of a Cluster also takes the port 10000 above.
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        if port < 55_000 {
            return port;
        }
    }
}

fn is_answering(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) else { return false };
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut answer = [0; 5];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG"
}

#[expect(clippy::disallowed_methods, reason = "a deadline of the test itself")]
pub(crate) fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

#[expect(clippy::disallowed_methods, reason = "a deadline of the test itself")]
pub(crate) fn is_over(deadline: Instant) -> bool {
    Instant::now() > deadline
}

/// Looks again and again until it is so, at most until the deadline.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = deadline();
    while !is_so() {
        assert!(!is_over(deadline), "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
