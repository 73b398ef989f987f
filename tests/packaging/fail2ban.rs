//! What fail2ban is given, tried on what the program really logs.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{packaging, run};

/// A server that bans whom it can at once, and its log.
struct Server {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(folder: &TempDir, format: &str) -> Self {
        let config = format!(
            "node.id = 'n'\nsip.listen = ['udp:127.0.0.1:0']\nsip.workers = 1\nadmin.listen = '127.0.0.1:0'\n\
             register.mode = 'local'\nregister.domains = ['example.org']\nregister.users = 'users.toml'\n\
             softswitch.trusted = ['192.0.2.20/32']\nlimits.auth_failures_per_min = 1\nlog.format = '{format}'\n"
        );
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        std::fs::write(folder.path().join("users.toml"), "[users]\n\"alice@example.org\" = \"correct horse\"\n")
            .unwrap();
        let mut serve = Command::new(env!("CARGO_BIN_EXE_sip-push-proxy"));
        let mut child =
            serve.arg("serve").current_dir(folder.path()).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// The log's lines up to one that has `mark`.
    fn lines_to(&mut self, mark: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "no {mark} in {lines:?}");
            lines.push(line.trim_end().to_owned());
            if line.contains(mark) {
                return lines;
            }
        }
    }
}

/// Registers with a wrong password from 127.0.0.9.
fn try_password(server: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let local = socket.local_addr().unwrap();
    let ask = |cseq: u32, credentials: &str| {
        let register = format!(
            "REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bK{cseq}\r\nMax-Forwards: 70\r\n\
             From: <sip:alice@example.org>;tag=t\r\nTo: <sip:alice@example.org>\r\nCall-ID: x\r\nCSeq: {cseq} REGISTER\r\n\
             Contact: <sip:alice@{local}>\r\n{credentials}Content-Length: 0\r\n\r\n"
        );
        socket.send_to(register.as_bytes(), server).unwrap();
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let challenge = ask(1, "");
    let nonce = challenge.split_once("nonce=\"").and_then(|(_, rest)| rest.split('"').next()).unwrap();
    let refused = ask(
        2,
        &format!(
            "Authorization: Digest username=\"alice\", realm=\"example.org\", nonce=\"{nonce}\", uri=\"sip:example.org\", \
             response=\"{}\", algorithm=SHA-256, cnonce=\"c0ffee\", qop=auth, nc=00000001\r\n",
            "0".repeat(64)
        ),
    );
    assert!(refused.starts_with("SIP/2.0 403 "), "{refused}");
}

/// The lines that lead to a ban: all of them, and the last.
fn log(format: &str) -> (Vec<String>, String) {
    let folder = TempDir::new().unwrap();
    let mut server = Server::start(&folder, format);
    let mut lines = server.lines_to("listening for SIP");
    let line = lines.last().unwrap();
    let address = line.split(['=', '"', ' ', ',']);
    let address = address.filter_map(|word| word.parse().ok()).next().unwrap();
    lines.extend(server.lines_to("ready"));
    try_password(address);
    lines.extend(server.lines_to("security"));
    let ban = lines.last().unwrap().clone();
    (lines, ban)
}

/// Which of the lines fail2ban takes for bans, and of whom.
fn matched(lines: &[String]) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("log");
    std::fs::write(&file, format!("{}\n", lines.join("\n"))).unwrap();
    let mut regex = Command::new("fail2ban-regex");
    regex.args(["--out", "ip"]).arg(&file).arg(packaging("fail2ban/filter.d/sip-push-proxy.conf"));
    run(&mut regex).lines().map(str::to_owned).collect()
}

#[test]
fn a_ban_in_the_log_is_seen_and_nothing_else() {
    for format in ["text", "json"] {
        let (lines, ban) = log(format);
        assert!(lines.len() > 3, "{lines:?}");
        assert_eq!(matched(&lines), ["127.0.0.9"], "{lines:#?}");
        // As journald hands it over, and as a syslog writes it.
        let journal = format!("2026-01-02T03:04:05.678901+00:00 host sip-push-proxy[123]: {ban}");
        let syslog = format!("Jan  2 03:04:05 host sip-push-proxy[123]: {ban}");
        assert_eq!(matched(&[journal, syslog]), ["127.0.0.9"; 2], "{ban}");
        let subscriber = ban.replace("127.0.0.9", "2001:db8:1:2::/64");
        assert_eq!(matched(&[subscriber]), ["2001:db8:1:2::/64"], "{ban}");
        // What somebody has had us write somewhere in another line.
        for forged in [
            format!("{}{ban}", lines[0]),
            format!("{ban} and so on"),
            ban.replace("WARN", "INFO"),
            ban.replace("banned", "not banned"),
            ban.replace("security", "sip_push_proxy::driver"),
        ] {
            assert_eq!(matched(std::slice::from_ref(&forged)), Vec::<String>::new(), "{forged}");
        }
    }
}

#[test]
fn fail2ban_takes_the_jail() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("fail2ban");
    run(Command::new("cp").arg("--recursive").arg("/etc/fail2ban").arg(&config));
    // The distribution's own jails watch logs that this machine need not have.
    for own in std::fs::read_dir(config.join("jail.d")).unwrap() {
        std::fs::remove_file(own.unwrap().path()).unwrap();
    }
    for part in ["filter.d", "jail.d"] {
        let file = format!("{part}/sip-push-proxy.conf");
        std::fs::copy(packaging(&format!("fail2ban/{file}")), config.join(&file)).unwrap();
    }
    let mut test = Command::new("fail2ban-client");
    let told = run(test.arg("-c").arg(&config).arg("--dump"));
    for part in ["'add', 'sip-push-proxy', 'systemd'", "'maxretry', 3", "_SYSTEMD_UNIT=sip-push-proxy.service"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}
