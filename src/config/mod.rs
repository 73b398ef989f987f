//! The configuration: TOML text → checked [`Config`]; every key's meaning, unit, default and limits.
//!
//! Each section is a struct of typed values beside the function that reads it. A key that is wrong does not stop the
//! reading: all problems are told at once, in the order of the file.

mod address;
mod calls;
mod document;
mod environment;
mod google;
mod hep;
mod huawei;
mod nearest;
mod network;
mod notification;
mod opentelemetry;
mod operation;
mod problem;
mod push;
mod redis_url;
mod rustore;
mod section;
mod users;
mod values;
mod webpush;

use std::path::Path;

pub use address::{AllowedHost, Collector, Host, HostPort, Listen, NextHop};
pub use calls::{Auth, CallsFrom, ContactForm, DigestAlgorithm, Hold, LateWake, MissedCalls, Mode, PushWhen, Register};
pub use document::Key;
use document::{Document, Source};
pub use environment::Variables;
pub use google::FcmCredential;
pub use hep::{CapturePassword, Hep};
pub use huawei::{Harmony, Hms};
pub use network::{Node, Sip, Softswitch};
pub use notification::{Notification, Title};
pub use opentelemetry::OpenTelemetry;
pub use operation::{Admin, Events, Limits, Log, LogFormat, Store, StoreKind, Token};
pub use problem::{Place, Problem, Problems};
pub use push::{
    Alert, Apns, ApnsCredential, ApnsExpiration, ApnsPayload, Callback, Fcm, FcmPayload, FcmProfile, HttpsProxy, Push,
};
pub use redis_url::{Redis, RedisShape};
pub use rustore::RuStore;
pub use users::{Credentials, Users};
pub use values::{Difference, Files, Values};
pub use webpush::{Page, WebPush};

const DAY_S: u32 = 86_400;
/// No time in the configuration is longer.
const YEAR_S: u32 = 365 * DAY_S;

/// Everything that can be configured, checked. Paths are resolved, files that must be there have been read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node: Node,
    pub sip: Sip,
    pub softswitch: Softswitch,
    pub register: Register,
    pub hold: Hold,
    pub missed_calls: MissedCalls,
    pub push: Push,
    pub notification: Notification,
    pub events: Events,
    pub hep: Hep,
    pub opentelemetry: OpenTelemetry,
    pub limits: Limits,
    pub store: Store,
    pub admin: Admin,
    pub log: Log,
    /// All of it key by key, for people.
    pub values: Values,
}

impl Config {
    /// Reads a file, and the files that it names.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        Self::read(&Source::open(file)?)
    }

    /// Reads a file, or without one the defaults; `variables` of the environment go before it.
    pub fn load_with(file: Option<&Path>, variables: Variables) -> Result<Self, Problems> {
        Self::read(&Source::of(file)?.with_environment(variables, &keys()))
    }

    /// As [`Config::load`], of a text; relative paths start at the folder of `file`.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Problems> {
        Self::read(&Source::new(file, text))
    }

    fn read(source: &Source) -> Result<Self, Problems> {
        let document = Document::parse(source)?;
        let config = Self::read_document(&document, false);
        document.finish(true)?;
        Ok(config)
    }

    fn read_document(document: &Document<'_>, probe: bool) -> Self {
        let register = Register::read(&document.section("register"));
        let is_relay = register.mode == Mode::Relay;
        let sip = Sip::read(&document.section("sip"));
        let softswitch = Softswitch::read(&document.section("softswitch"), is_relay, &sip);
        register.check_refresh_from(&document.section("register"), &sip, &softswitch);
        let store = Store::read(&document.section("store"));
        Self {
            node: Node::read(&document.section("node"), &sip, store.kind != StoreKind::File),
            softswitch,
            sip,
            register,
            hold: Hold::read(&document.section("hold")),
            missed_calls: MissedCalls::read(&document.section("missed_calls")),
            push: Push::read(&document.section("push"), probe),
            notification: Notification::read(&document.section("notification"), probe),
            limits: Limits::read(&document.section("limits")),
            events: Events::read(&document.section("events"), &store),
            hep: Hep::read(&document.section("hep")),
            opentelemetry: OpenTelemetry::read(&document.section("opentelemetry")),
            store,
            admin: Admin::read(&document.section("admin")),
            log: Log::read(&document.section("log")),
            values: document.values(),
        }
    }

    /// What is allowed but hardly meant; for `check` and the log at start.
    pub fn notes(&self) -> Vec<&'static str> {
        let mut notes = Vec::new();
        if self.push.is_off() {
            notes.push("no [[push.fcm]] and no [[push.apns]]: no phone can be woken");
        }
        if let Some(callback) = &self.push.callback {
            if callback.secret_file.is_none() {
                notes.push("push.callback.secret_file is empty: pushes are not signed");
            }
            if callback.is_in_the_clear() {
                notes.push("push.callback.url is not https: tokens and callers' numbers can be read on the way");
            }
        }
        if self.hep.server.is_some() && self.hep.sends_secrets {
            notes.push("hep.send_secrets is true: push tokens and Digest responses go to hep.server, in the clear");
        }
        if self.register.refresh_from.is_some() && !self.register.upstream_refresh {
            notes.push("register.refresh_from has no use: register.upstream_refresh is false");
        }
        if self.push.refresh && matches!(self.register.mode, Mode::Local(_)) {
            notes.push("push.refresh has no use: register.mode is \"local\", where no softswitch forgets a phone");
        }
        if self.register.phones_behind_trusted {
            notes.push(
                "register.phones_behind_trusted is true: who registers from an address of softswitch.trusted is taken for a \
                 phone there",
            );
        }
        if self.softswitch.trusted.is_empty() {
            notes.push("softswitch.trusted is empty: nobody may call phones");
        }
        if matches!(&self.register.mode, Mode::Local(Auth::None { open_networks }) if open_networks.is_empty()) {
            notes.push("register.open_networks is empty: nobody may register");
        }
        notes
    }
}

impl Admin {
    /// Reads only `[admin]` of a file, for a client of the admin listener: whatever else is wrong in the file, and
    /// whatever other files it names, does not concern it.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        Self::read_source(&Source::open(file)?)
    }

    /// As [`Config::load_with`].
    pub fn load_with(file: Option<&Path>, variables: Variables) -> Result<Self, Problems> {
        Self::read_source(&Source::of(file)?.with_environment(variables, &keys()))
    }

    fn read_source(source: &Source) -> Result<Self, Problems> {
        let document = Document::parse(source)?;
        let admin = Self::read(&document.section("admin"));
        document.finish(false)?;
        Ok(admin)
    }
}

/// Every key with its default, in the order in which they are read.
pub fn keys() -> Vec<Key> {
    let source = Source::new(Path::new("config.toml"), "");
    Document::parse(&source).map_or_else(
        |_| Vec::new(),
        |document| {
            Config::read_document(&document, true);
            document.keys()
        },
    )
}
