//! `[events]`, `[limits]`, `[store]`, `[admin]` and `[log]`: what the operator turns.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::redis_url::Redis;
use super::section::Section;
use super::{DAY_S, YEAR_S};

/// `[limits]`: over each of them 503, and a counter. Those of a source are for addresses that are not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub held_calls: usize,
    pub transactions: usize,
    pub connections: usize,
    /// Header lines of one message.
    pub headers: usize,
    /// Pushes waiting for a provider or under way to it.
    pub push_queue: usize,
    /// Of one source; 0: none. What is over it has no answer.
    pub source_requests_per_s: u32,
    /// Accepted from one source.
    pub source_connections: usize,
    /// What the requests of one source may have us keep.
    pub source_bytes: usize,
    /// So many in a minute shut a source out; 0: never.
    pub auth_failures_per_min: u32,
    /// For so long.
    pub ban: Duration,
    /// Parts of the User-Agents of those who get no answer.
    pub scanners: Vec<Box<str>>,
}

/// What the tools of those who look for open systems call themselves.
const SCANNERS: [&str; 8] =
    ["friendly-scanner", "friendly-request", "sipvicious", "sundayddr", "sip-scan", "sipcli", "siparmyknife", "pplsip"];

impl Limits {
    pub(super) fn read(section: &Section<'_>) -> Self {
        const MOST: u32 = 100_000_000;
        Self {
            held_calls: section.count("held_calls", 100_000, 1..=MOST),
            transactions: section.count("transactions", 500_000, 1..=MOST),
            connections: section.count("connections", 100_000, 1..=MOST),
            headers: section.count("headers", 128, 16..=1024),
            push_queue: section.count("push_queue", 10_000, 1..=MOST),
            source_requests_per_s: section.integer("source_requests_per_s", 100, 0..=1_000_000),
            source_connections: section.count("source_connections", 200, 1..=MOST),
            source_bytes: section.count("source_bytes", 16 << 20, 1024..=1 << 31),
            auth_failures_per_min: section.integer("auth_failures_per_min", 20, 0..=1_000_000),
            ban: section.seconds("ban_s", 300, 1..=YEAR_S, ""),
            scanners: section.list("scanners", Some(&SCANNERS), scanner).unwrap_or_default(),
        }
    }
}

fn scanner(text: &str) -> Result<Box<str>, Cow<'static, str>> {
    // A part as short as that is in every other name.
    if text.len() < 3 { Err("is too short; use at least 3 characters of a User-Agent".into()) } else { Ok(text.into()) }
}

/// `[store]`: where bindings, buckets and held calls are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub kind: StoreKind,
    /// How long the hot path waits for it.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// Embedded, in `node.data_dir`.
    File,
    /// Redis or Valkey.
    Redis(Redis),
}

impl Store {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let kind = section.string("url", "file:");
        let kind = match kind {
            "file:" => StoreKind::File,
            url => match Redis::parse(url) {
                Some(Ok(redis)) => StoreKind::Redis(redis),
                // The URL may carry a password, so it is not repeated.
                Some(Err(wrong)) => {
                    section.wrong("url", wrong);
                    StoreKind::File
                }
                None => {
                    section.wrong("url", "is not a store; use \"file:\" (it lives in node.data_dir) or redis://HOST");
                    StoreKind::File
                }
            },
        };
        Self { kind, timeout: section.millis("timeout_ms", 500, 1..=60_000) }
    }
}

/// `[events]`: what happens, as it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events {
    /// Stream of the store's Redis; `None`: events are not relayed.
    pub redis_stream: Option<String>,
    /// Centrifugo's channel, and that of clients of `/connection/websocket`.
    pub channel: String,
    /// Token of these clients; `None`: `admin.token_file` applies.
    pub token: Option<Token>,
    /// Origins of further pages that may connect there (RFC 6454 §6.2), beside the admin listener's own host.
    pub origins: Vec<Box<str>>,
    /// Clients connected there at one time.
    pub connections_max: usize,
    /// Events kept for clients that reconnect.
    pub history_max: usize,
    /// Interval of pings to a client.
    pub ping: Duration,
}

impl Events {
    pub(super) fn read(section: &Section<'_>, store: &Store) -> Self {
        let redis_stream = section.optional("redis_stream").map(str::to_owned);
        if let Some(stream) = &redis_stream {
            if store.kind == StoreKind::File {
                section.wrong("redis_stream", "needs a Redis: set store.url to redis://HOST, or leave it empty");
            } else if stream.starts_with("spp:") {
                section.wrong(
                    "redis_stream",
                    format_args!("{stream:?} begins as the store's own keys do; use another name"),
                );
            }
        }
        let channel = section.string("channel", "push-proxy");
        if channel.is_empty() {
            section.wrong("channel", "is empty; write a name such as \"push-proxy\"");
        }
        Self {
            redis_stream,
            channel: channel.to_owned(),
            token: section.path("token_file", "").and_then(|file| Token::read(section, "token_file", &file)),
            origins: section.list("origins", Some(&[]), origin).unwrap_or_default(),
            connections_max: section.count("connections_max", 64, 1..=1000),
            history_max: section.count("history_max", 4096, 1..=1_000_000),
            ping: section.seconds("ping_s", 25, 1..=3600, ""),
        }
    }
}

fn origin(text: &str) -> Result<Box<str>, Cow<'static, str>> {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:[]".contains(&byte);
    if authority.is_some_and(|authority| !authority.is_empty() && authority.bytes().all(is_host)) {
        Ok(text.into())
    } else {
        Err("is not an origin; write it as a browser does, in small letters and without a path: https://panel.example.org"
            .into())
    }
}

/// `[admin]`: the operator's listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: SocketAddr,
    /// `None`: requests from this machine need none.
    pub token: Option<Token>,
    /// Calls whose steps are remembered, and for how long after the last one.
    pub calls_max: usize,
    pub calls_kept: Duration,
}

/// What a request to the admin listener must bear (RFC 6750 §2.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// The token itself, for the Authorization header only.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// From the file that a key names; tells what is wrong with it.
    pub(super) fn read(section: &Section<'_>, key: &str, file: &Path) -> Option<Self> {
        Self::of_length(section, key, file, 16)
    }

    /// A secret that another system generated, which may be shorter.
    pub(super) fn read_foreign(section: &Section<'_>, key: &str, file: &Path) -> Option<Self> {
        Self::of_length(section, key, file, 8)
    }

    fn of_length(section: &Section<'_>, key: &str, file: &Path, least: usize) -> Option<Self> {
        let text = section.file_text(key, file)?;
        let token = text.trim();
        let is_token = token.len() >= least && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_token {
            let text = format_args!("has no token: one line of at least {least} characters without spaces is expected");
            section.wrong(key, format_args!("{} {text}", file.display()));
        }
        is_token.then(|| Self(token.into()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Admin {
    pub(super) fn read(section: &Section<'_>) -> Self {
        const STANDARD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
        let listen = section.string("listen", "127.0.0.1:8080");
        let listen = section.parsed("listen", listen, |text| {
            text.parse().map_err(|_| "is not ADDRESS:PORT; write for example 127.0.0.1:8080 or [::1]:8080".into())
        });
        let file = section.path("token_file", "");
        if let (Some(listen), None) = (listen.filter(|listen: &SocketAddr| !listen.ip().is_loopback()), &file) {
            section.wrong(
                "token_file",
                format_args!(
                    "needed, because admin.listen is {listen}, which others can reach: a file with a secret of at \
                     least 16 characters"
                ),
            );
        }
        let token = file.and_then(|file| Token::read(section, "token_file", &file));
        Self {
            listen: listen.unwrap_or(STANDARD),
            token,
            calls_max: section.count("calls_max", 10_000, 1..=10_000_000),
            calls_kept: section.seconds("calls_kept_s", 7 * DAY_S, 60..=YEAR_S, ""),
        }
    }
}

/// `[log]`: what is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or directives such as `info,sip_push_proxy::push=debug`; a filter can be built from it.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Log {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let level = section.string("level", "info");
        if let Err(wrong) = Self::check_level(level) {
            section.wrong("level", wrong);
        }
        Self {
            level: level.to_owned(),
            format: section.choice("format", [("text", LogFormat::Text), ("json", LogFormat::Json)]),
        }
    }

    /// Whether it is a level or a list of directives; else what would be right.
    pub fn check_level(level: &str) -> Result<(), String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        // A single word that is no level would be taken as the name of a module, and everything else be silent.
        let is_word = level.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_level = LEVELS.iter().any(|name| name.eq_ignore_ascii_case(level));
        if EnvFilter::try_new(level).is_ok() && (is_level || !is_word) {
            return Ok(());
        }
        Err(format!(
            "{level:?} is not a level; use error, warn, info, debug or trace, or directives such as \
             \"info,sip_push_proxy::push=debug\""
        ))
    }
}
