//! Everything around one server: softswitch, push services, and the configuration that knows them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sip_push_proxy::config::Config;
use sip_push_proxy::demo::Recorded;
use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::fcm_double::FcmDouble;
use sip_push_proxy::server::Server;
use sip_push_proxy::sip::Transport;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::page::Page;
use crate::peer::{DEADLINE, RUNTIME};
use crate::phone::{PASSWORD, Phone, Push};
use crate::program::Program;
use crate::redis_server;
use crate::switch::{Call, Switch};

/// The ways to stand (design: `register.mode`, `register.contact`, `register.auth`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Alias,
    Path,
    Digest,
    Open,
}

impl Mode {
    pub(crate) fn is_relay(self) -> bool {
        matches!(self, Self::Alias | Self::Path)
    }

    fn config(self) -> &'static str {
        match self {
            Self::Alias => "register.mode = 'relay'\nregister.contact = 'alias'\n",
            Self::Path => "register.mode = 'relay'\nregister.contact = 'path'\n",
            Self::Digest => "register.mode = 'local'\nregister.auth = 'digest'\nregister.users = 'users.toml'\n",
            Self::Open => "register.mode = 'local'\nregister.auth = 'none'\n",
        }
    }
}

/// Where a server keeps what it acknowledges (design: `store.url`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Embedded,
    Redis,
}

impl Store {
    /// What the environment variable `STORE` asks for: all tests can run on each store.
    fn of_environment() -> Self {
        match std::env::var("STORE").as_deref() {
            Err(_) | Ok("embedded") => Self::Embedded,
            Ok("redis") => Self::Redis,
            Ok(other) => panic!("STORE is embedded or redis, not {other}"),
        }
    }
}

/// The configuration for a server with these surroundings. `config` is TOML that stands for the keys that it names,
/// `table.key = value` on each line.
fn configuration(
    mode: Mode,
    switch: &Switch,
    fcm: &FcmDouble,
    [apns, sandbox]: [&ApnsDouble; 2],
    config: &str,
) -> String {
    let port = free_port();
    // Nothing is lost on loopback, and no push at its double, so that a repetition would only mean a test that stood still
    // for a moment.
    let standard = format!(
        "node.id = 'test'\nsip.listen = ['udp:127.0.0.1:{port}', 'tcp:127.0.0.1:{port}']\nsip.workers = 1\nsip.t1_ms = 5000\n\
         softswitch.uri = '{}'\nsoftswitch.trusted = ['127.0.0.1/32']\nadmin.listen = '127.0.0.1:0'\n{}\
         register.expires_min_s = 1\nregister.domains = ['example.org']\nlog.format = 'json'\npush.repeat_s = []\n",
        switch.uri(),
        mode.config(),
    );
    let providers = format!(
        "[[push.fcm]]\nservice_account = 'fcm.json'\nendpoint = '{}'\n[[push.apns]]\nkey_file = 'AuthKey.p8'\n\
         key_id = '{}'\nteam_id = '{}'\nendpoint = '{apns}'\nsandbox_endpoint = '{sandbox}'\n",
        fcm.url(),
        apns_double::KEY_ID,
        apns_double::TEAM_ID,
        apns = apns.url(),
        sandbox = sandbox.url(),
    );
    let mut merged = toml::Table::new();
    for part in [&standard, &providers, config] {
        merge(&mut merged, part.parse().expect("TOML"));
    }
    merged.to_string()
}

/// A port for both transports that no system gives away by itself (Linux begins at 32768), so that a server which starts
/// again finds it free.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run at the same time begin at different places.
    let start = u16::try_from(std::process::id() % 16_000).unwrap_or_default();
    loop {
        let port = 16_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        let address = (Ipv4Addr::LOCALHOST, port);
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return port;
        }
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(more)) => merge(known, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A server with its surroundings.
pub(crate) struct World {
    pub(crate) mode: Mode,
    pub(crate) switch: Switch,
    pub(crate) fcm: FcmDouble,
    pub(crate) apns: ApnsDouble,
    /// For apps in development.
    pub(crate) sandbox: ApnsDouble,
    pub(crate) admin: Admin,
    /// UDP, TCP.
    addresses: [SocketAddr; 2],
    server: Running,
    redis: Option<redis_server::Server>,
    /// Its configuration and its data.
    pub(crate) folder: TempDir,
}

/// Another node of the same store.
pub(crate) struct Node {
    pub(crate) program: Program,
    pub(crate) admin: Admin,
    /// UDP, TCP.
    addresses: [SocketAddr; 2],
}

impl Node {
    pub(crate) fn sip(&self, transport: Transport) -> SocketAddr {
        self.addresses[usize::from(transport == Transport::Tcp)]
    }
}

enum Running {
    /// In this process.
    Here(Box<Server>),
    /// The built program.
    Program(Program),
    No,
}

impl World {
    pub(crate) fn start(mode: Mode, transport: Transport) -> Self {
        Self::with(mode, transport, "")
    }

    /// With a server in this process.
    pub(crate) fn with(mode: Mode, transport: Transport, config: &str) -> Self {
        Self::with_files(mode, transport, config, &[])
    }

    /// With files that the configuration names, by name and text.
    pub(crate) fn with_files(mode: Mode, transport: Transport, config: &str, files: &[(&str, &str)]) -> Self {
        let mut world = Self::prepare(Store::of_environment(), mode, transport, config);
        for (name, text) in files {
            std::fs::write(world.folder.path().join(name), text).expect("written");
        }
        let config = Config::load(&world.config_file()).expect("a good configuration");
        let server = Server::start(config).expect("a server");
        world.addresses = [Transport::Udp, Transport::Tcp].map(|each| server.sip_address(each).expect("listening"));
        world.admin = Admin(server.admin_address());
        world.server = Running::Here(Box::new(server));
        world.connect();
        world
    }

    /// With the built program, which can be killed.
    pub(crate) fn with_program(mode: Mode, transport: Transport, config: &str) -> Self {
        Self::with_program_on(Store::of_environment(), mode, transport, config)
    }

    /// With the built program and this store, whatever the environment asks for.
    pub(crate) fn with_program_on(store: Store, mode: Mode, transport: Transport, config: &str) -> Self {
        let mut world = Self::prepare(store, mode, transport, config);
        world.start_program();
        world
    }

    /// With the built program, which may have so many open files at most.
    pub(crate) fn with_files_max(mode: Mode, transport: Transport, files: u32) -> Self {
        let mut world = Self::prepare(Store::of_environment(), mode, transport, "");
        world.serve_by(Program::start_with_files(&world.config_file(), files));
        world
    }

    /// Everything but the server.
    fn prepare(store: Store, mode: Mode, transport: Transport, config: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let fcm = RUNTIME.block_on(FcmDouble::start()).expect("a double of FCM");
        let apns = RUNTIME.block_on(ApnsDouble::start()).expect("a double of APNs");
        let sandbox = RUNTIME.block_on(apns.start_sandbox()).expect("a double of its sandbox");
        fcm.write_credentials(folder.path()).expect("written");
        apns.write_credentials(folder.path()).expect("written");
        let users = ["alice", "bob"].map(|user| format!("\"{user}@example.org\" = \"{PASSWORD}\"\n")).concat();
        std::fs::write(folder.path().join("users.toml"), format!("[users]\n{users}")).expect("written");
        std::fs::write(folder.path().join("refresh.txt"), PASSWORD).expect("written");
        let switch = Switch::new(transport);
        let redis = (store == Store::Redis).then(redis_server::Server::durable);
        let url = redis.as_ref().map(|redis| format!("store.url = 'redis://127.0.0.1:{}'\n", redis.port));
        let config = configuration(mode, &switch, &fcm, [&apns, &sandbox], &(url.unwrap_or_default() + config));
        std::fs::write(folder.path().join("config.toml"), config).expect("written");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (admin, addresses, server) = (Admin(nowhere), [nowhere; 2], Running::No);
        Self { mode, switch, fcm, apns, sandbox, admin, addresses, server, redis, folder }
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Changes the file; the server has to be told.
    pub(crate) fn rewrite_config(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config_file()).expect("the configuration");
        assert!(text.contains(from), "{text}");
        std::fs::write(self.config_file(), text.replace(from, to)).expect("the configuration is written");
    }

    fn connect(&mut self) {
        let server = self.sip(self.switch.peer.transport);
        self.switch.connect(server);
    }

    /// Starts the program, once more with what an earlier run left.
    pub(crate) fn start_program(&mut self) {
        self.serve_by(Program::start(&self.config_file()));
    }

    fn serve_by(&mut self, program: Program) {
        self.addresses = [program.address("udp"), program.address("tcp")];
        self.admin = Admin(program.admin);
        self.server = Running::Program(program);
        self.connect();
    }

    /// Starts one more server on the same Redis. Its configuration is the first one's but for its name and its data.
    fn start_beside(&self, name: &str, config: &str) -> Program {
        let text = std::fs::read_to_string(self.config_file()).expect("the configuration");
        let mut merged: toml::Table = text.parse().expect("TOML");
        let own = format!(
            "node.id = '{name}'\nnode.data_dir = '{name}'\nsip.listen = ['udp:127.0.0.1:0', 'tcp:127.0.0.1:0']\n"
        );
        for part in [&own, config] {
            merge(&mut merged, part.parse().expect("TOML"));
        }
        let file = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, merged.to_string()).expect("written");
        Program::start(&file)
    }

    /// A server beside this one, which knows nothing but what it finds in the same Redis.
    pub(crate) fn stranger(&self) -> Program {
        self.start_beside("stranger", "")
    }

    /// Another node, when each knows of the other.
    pub(crate) fn another_node(&self, config: &str) -> Node {
        let program = self.start_beside("other", config);
        let addresses = [program.address("udp"), program.address("tcp")];
        let node = Node { admin: Admin(program.admin), program, addresses };
        for admin in [self.admin, node.admin] {
            admin.expect_metric("nodes", 2.0);
        }
        node
    }

    /// Phones that connect from here on reach the node with these addresses.
    pub(crate) fn phones_go_back(&mut self, addresses: [SocketAddr; 2]) {
        self.addresses = addresses;
    }

    /// Phones that connect from here on reach this node.
    pub(crate) fn phones_go_to(&mut self, node: &Node) {
        self.addresses = node.addresses;
    }

    #[track_caller]
    pub(crate) fn program(&mut self) -> &mut Program {
        match &mut self.server {
            Running::Program(program) => program,
            Running::Here(_) | Running::No => panic!("the program is not running"),
        }
    }

    /// The Redis of this world alone.
    #[track_caller]
    pub(crate) fn redis(&mut self) -> &mut redis_server::Server {
        self.redis.as_mut().expect("a world on Redis")
    }

    pub(crate) fn sip(&self, transport: Transport) -> SocketAddr {
        self.addresses[usize::from(transport == Transport::Tcp)]
    }

    /// Where browsers subscribe.
    #[track_caller]
    pub(crate) fn page(&self) -> Page {
        let address = match &self.server {
            Running::Here(server) => server.page_address(),
            Running::Program(program) => program.page,
            Running::No => None,
        };
        Page(address.expect("a page"))
    }

    pub(crate) fn call(&self, phone: &Phone) -> Call {
        self.switch.call(&phone.aor(), "")
    }

    /// The next push that the phone's provider accepted.
    #[track_caller]
    pub(crate) fn pushed(&self, phone: &Phone) -> Recorded {
        let next = async {
            match phone.push {
                Push::Apns => self.apns.next().await,
                Push::ApnsDev => self.sandbox.next().await,
                Push::Fcm | Push::None => self.fcm.next().await,
            }
        };
        let push = RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, next).await });
        push.unwrap_or_else(|_| panic!("no push within {DEADLINE:?}"))
    }

    /// The push of an INVITE from `"Ivan" <sip:103@…>`, byte for byte.
    #[track_caller]
    pub(crate) fn pushed_invite(&self, phone: &Phone, ttl_s: u64) {
        let push = self.pushed(phone);
        let date = check_date(&push);
        match phone.push {
            Push::Apns | Push::ApnsDev => {
                let expiration = (date + ttl_s).to_string();
                let headers = ["voip", "org.example.phone.voip", "10", &expiration, ""];
                let body = format!(
                    r#"{{"aps":{{"badge":"10"}},"acme":{{"badge":"10","type":"invite","date":{date},"number":"103","dispaly_name":"Ivan"}}}}"#
                );
                check_apns(&push, &phone.token, headers, &body);
            }
            Push::Fcm | Push::None => {
                let body = format!(
                    r#"{{"message":{{"token":"{}","data":{{"type":"invite","date":"{date}"}},"android":{{"priority":"HIGH","ttl":"{ttl_s}s"}}}}}}"#,
                    phone.token
                );
                check_fcm(&push, &body);
            }
        }
    }

    /// The push that tells of calls from 103 that nobody took, byte for byte. `dates` are theirs.
    #[track_caller]
    pub(crate) fn pushed_missed_calls(&self, phone: &Phone, dates: &[u64]) {
        let push = self.pushed(phone);
        let date = check_date(&push);
        let calls: Vec<_> = dates
            .iter()
            .enumerate()
            .map(|(id, date)| format!(r#"{{"id":{id},"remote_uri":"103","date":{date}}}"#))
            .collect();
        let (count, calls) = (dates.len(), calls.join(","));
        match phone.push {
            Push::Apns | Push::ApnsDev => {
                let expiration = (date + 120).to_string();
                let headers = ["alert", "org.example.phone", "10", &expiration, "missed_calls"];
                let body = format!(
                    r#"{{"aps":{{"alert":{{"loc-key":"MISSED_CALLS","loc-args":["{count}"]}},"badge":10,"sound":"default"}},"acme":{{"type":"missed_calls","date":{date},"calls":[{calls}]}}}}"#
                );
                check_apns(&push, &phone.remote_token, headers, &body);
            }
            Push::Fcm | Push::None => {
                let body = format!(
                    r#"{{"message":{{"token":"{}","data":{{"type":"missed_calls","date":"{date}","calls":"[{}]"}},"android":{{"priority":"HIGH"}}}}}}"#,
                    phone.token,
                    calls.replace('"', "\\\"")
                );
                check_fcm(&push, &body);
            }
        }
    }

    /// What one of the operator's commands prints, and its exit code.
    pub(crate) fn command(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let file = self.folder.path().join("operator.toml");
        std::fs::write(&file, format!("[admin]\nlisten = '{}'\n", self.admin.0)).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sip-push-proxy"));
        let done = command.args(arguments).arg("--config").arg(&file).output().expect("the command");
        (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.code())
    }

    /// How many pushes were tried, by any provider, accepted or not.
    pub(crate) fn pushes(&self) -> usize {
        self.fcm.requests() + self.apns.requests() + self.sandbox.requests()
    }

    /// Stops a server of this process, and waits until it has.
    pub(crate) fn stop(self) {
        if let Running::Here(server) = self.server {
            server.stop();
        }
    }
}

/// The date in a push, which must be the present.
#[track_caller]
pub(crate) fn check_date(push: &Recorded) -> u64 {
    let json = push.json();
    let date = &json["message"]["data"]["date"];
    let date = date.as_str().map_or_else(|| json["acme"]["date"].as_u64(), |date| date.parse().ok());
    let date = date.unwrap_or_else(|| panic!("no date in {json}"));
    assert!(date.abs_diff(unix_seconds()) <= DEADLINE.as_secs(), "{date} is not now");
    date
}

#[track_caller]
fn check_fcm(push: &Recorded, body: &str) {
    assert_eq!(push.path, "/v1/projects/demo-project/messages:send");
    assert_eq!(push.header("content-type"), "application/json");
    assert!(push.header("authorization").starts_with("Bearer "));
    assert_eq!(String::from_utf8_lossy(&push.body), body);
}

#[track_caller]
fn check_apns(push: &Recorded, token: &str, headers: [&str; 5], body: &str) {
    let names = ["apns-push-type", "apns-topic", "apns-priority", "apns-expiration", "apns-collapse-id"];
    assert_eq!(push.path, format!("/3/device/{token}"));
    assert_eq!(names.map(|name| push.header(name)), headers);
    assert_eq!(String::from_utf8_lossy(&push.body), body);
}

#[expect(clippy::disallowed_methods, reason = "dates in pushes are compared with the present")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A key that Apple has never heard of, as a file.
pub(crate) fn other_apns_key() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let other = RUNTIME.block_on(ApnsDouble::start()).expect("a double");
    std::fs::read(other.write_credentials(folder.path()).expect("written")).expect("the key")
}
