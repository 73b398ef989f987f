//! Centrifugo's client protocol, version 2, in JSON (centrifugal.dev, "Client protocol"): commands, replies, pushes, error
//! codes and disconnect codes.
//!
//! A frame has one JSON object per line. An empty object is a ping from the server, or a client's pong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::events::{Entry, Position};

/// A ping.
pub(super) const PING: &str = "{}";

/// Why the server closes a connection. Clients reconnect by themselves unless the code is in 3500-3999 or 4500-4999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disconnect {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

impl Disconnect {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    /// The server is stopping.
    pub(super) const SHUTDOWN: Self = Self::new(3001, "shutdown");
    /// The system gives no random numbers.
    pub(super) const SERVER_ERROR: Self = Self::new(3004, "internal server error");
    /// The client cannot keep up.
    pub(super) const SLOW: Self = Self::new(3008, "slow");
    /// Events were lost before they could be sent.
    pub(super) const INSUFFICIENT_STATE: Self = Self::new(3010, "insufficient state");
    /// Evicted before it authenticated, to make room.
    pub(super) const FORCE_RECONNECT: Self = Self::new(3011, "force reconnect");
    /// A ping was not answered.
    pub(super) const NO_PONG: Self = Self::new(3012, "no pong");
    pub(super) const INVALID_TOKEN: Self = Self::new(3500, "invalid token");
    pub(super) const BAD_REQUEST: Self = Self::new(3501, "bad request");
    /// The client did not authenticate in time.
    pub(super) const STALE: Self = Self::new(3502, "stale");
    /// RFC 6455 §7.4.1. Centrifugo's clients do not reconnect after it.
    pub(super) const MESSAGE_TOO_BIG: Self = Self::new(1009, "message too big");
}

/// Why a command failed. The connection stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Error {
    code: u16,
    message: &'static str,
    /// Whether the client should retry.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    temporary: bool,
}

impl Error {
    const fn new(code: u16, message: &'static str) -> Self {
        Self { code, message, temporary: false }
    }

    pub(super) const UNKNOWN_CHANNEL: Self = Self::new(102, "unknown channel");
    pub(super) const ALREADY_SUBSCRIBED: Self = Self::new(105, "already subscribed");
    pub(super) const LIMIT_EXCEEDED: Self = Self { temporary: true, ..Self::new(106, "limit exceeded") };
    pub(super) const NOT_AVAILABLE: Self = Self::new(108, "not available");
}

/// Commands of the protocol that this server does not implement.
const NOT_HERE: [&str; 8] =
    ["unsubscribe", "publish", "presence", "presence_stats", "history", "rpc", "refresh", "sub_refresh"];

/// A command of a client.
#[derive(Debug)]
pub(super) enum Command {
    Pong,
    /// An asynchronous message, which has no reply.
    Send,
    Connect {
        id: u32,
        connect: Connect,
    },
    Ping {
        id: u32,
    },
    Subscribe {
        id: u32,
        channel: String,
    },
    /// One of [`NOT_HERE`].
    Other {
        id: u32,
    },
}

/// Body of a connect command. As in the original, null is the same as an absent field.
#[derive(Debug, Deserialize)]
pub(super) struct Connect {
    token: Option<String>,
    #[serde(default)]
    data: Value,
    subs: Option<BTreeMap<String, Since>>,
}

#[derive(Debug, Deserialize)]
struct Since {
    recover: Option<bool>,
    offset: Option<u64>,
    epoch: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Subscribe {
    channel: String,
}

impl Connect {
    /// The client's token: `data.settings.token`, else the protocol's own `token`.
    pub(super) fn token(&self) -> Option<&str> {
        self.data.pointer("/settings/token").and_then(Value::as_str).or(self.token.as_deref())
    }

    /// The position that the client wants to recover from.
    pub(super) fn position(&self, channel: &str) -> Option<Position> {
        let since = self.subs.as_ref()?.get(channel).filter(|since| since.recover == Some(true))?;
        Some(Position { epoch: since.epoch.clone().unwrap_or_default(), offset: since.offset.unwrap_or_default() })
    }
}

impl Command {
    /// Reads one line of a frame.
    pub(super) fn read(line: &str) -> Result<Self, Disconnect> {
        Self::parse(line).ok_or(Disconnect::BAD_REQUEST)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields: BTreeMap<&str, &RawValue> = serde_json::from_str(line).ok()?;
        let id = fields.remove("id").map_or(Some(0), |id| serde_json::from_str(id.get()).ok())?;
        let Some((method, body)) = fields.pop_first() else { return (id == 0).then_some(Self::Pong) };
        match method {
            _ if !fields.is_empty() => None,
            "send" => Some(Self::Send),
            _ if id == 0 => None,
            "connect" => Some(Self::Connect { id, connect: serde_json::from_str(body.get()).ok()? }),
            "ping" => Some(Self::Ping { id }),
            "subscribe" => {
                let Subscribe { channel } = serde_json::from_str(body.get()).ok()?;
                Some(Self::Subscribe { id, channel })
            }
            method => NOT_HERE.contains(&method).then_some(Self::Other { id }),
        }
    }
}

#[derive(Serialize)]
struct Reply<'a> {
    id: u32,
    #[serde(flatten)]
    answer: Answer<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer<'a> {
    Connect(Connected<'a>),
    Ping {},
    Error(Error),
}

#[derive(Serialize)]
struct Connected<'a> {
    client: &'a str,
    version: &'static str,
    /// Seconds.
    ping: u64,
    /// Whether clients must answer pings.
    pong: bool,
    subs: BTreeMap<&'a str, Subscribed<'a>>,
}

#[derive(Serialize)]
struct Subscribed<'a> {
    recoverable: bool,
    positioned: bool,
    epoch: &'a str,
    offset: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    was_recovering: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    recovered: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publications: Vec<Publication<'a>>,
}

#[derive(Serialize)]
struct Publication<'a> {
    data: &'a RawValue,
    offset: u64,
}

impl<'a> Publication<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self { data: &entry.data, offset: entry.offset }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Message<'a> {
    Push(Push<'a>),
}

#[derive(Serialize)]
struct Push<'a> {
    channel: &'a str,
    #[serde(rename = "pub")]
    publication: Publication<'a>,
}

/// An authenticated client.
pub(super) struct Client<'a> {
    pub(super) id: &'a str,
    pub(super) ping: Duration,
    pub(super) channel: &'a str,
}

/// Reply to connect: `client` is subscribed at `position`. `since` is the position that it wants to recover from; `missed` has
/// the first events after that, or `None` if recovery is impossible.
pub(super) fn connected(
    id: u32,
    client: &Client<'_>,
    position: &Position,
    since: Option<&Position>,
    missed: Option<&[Arc<Entry>]>,
) -> String {
    let missed = since.zip(missed);
    let subscribed = Subscribed {
        recoverable: true,
        positioned: true,
        epoch: &position.epoch,
        // Clients advance with each publication, so a recovery starts from the old position.
        offset: missed.map_or(position.offset, |(since, _)| since.offset),
        was_recovering: since.is_some(),
        recovered: missed.is_some(),
        publications: missed
            .map(|(_, missed)| missed)
            .unwrap_or_default()
            .iter()
            .map(|it| Publication::of(it))
            .collect(),
    };
    let connected = Connected {
        client: client.id,
        version: env!("CARGO_PKG_VERSION"),
        ping: client.ping.as_secs().max(1),
        pong: true,
        subs: BTreeMap::from([(client.channel, subscribed)]),
    };
    text(&Reply { id, answer: Answer::Connect(connected) })
}

pub(super) fn pong(id: u32) -> String {
    text(&Reply { id, answer: Answer::Ping {} })
}

pub(super) fn refusal(id: u32, error: Error) -> String {
    text(&Reply { id, answer: Answer::Error(error) })
}

pub(super) fn publication(channel: &str, entry: &Entry) -> String {
    text(&Message::Push(Push { channel, publication: Publication::of(entry) }))
}

fn text(message: &impl Serialize) -> String {
    // Serializing strings and numbers to memory cannot fail.
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Aor, DeviceId};
    use crate::clock::UnixMillis;
    use crate::events::{Events, History, What};

    #[test]
    fn commands_are_read_or_are_bad_requests() {
        for (line, expected) in [
            ("{}", "Pong"),
            (r#"{"id":2,"ping":{}}"#, "Ping { id: 2 }"),
            (r#"{"id":2,"subscribe":{"channel":"a","recover":true}}"#, r#"Subscribe { id: 2, channel: "a" }"#),
            (r#"{"send":{"data":[1]}}"#, "Send"),
            (r#"{"id":3,"history":{"channel":"a"}}"#, "Other { id: 3 }"),
        ] {
            assert_eq!(format!("{:?}", Command::read(line).unwrap()), expected, "{line}");
        }
        for line in [
            "",
            "{",
            "[]",
            "1",
            "null",
            r#"{"id":1}"#,
            r#"{"connect":{}}"#,
            r#"{"id":-1,"connect":{}}"#,
            r#"{"id":"1","connect":{}}"#,
            r#"{"id":1,"connect":7}"#,
            r#"{"id":1,"connect":{"subs":7}}"#,
            r#"{"id":1,"subscribe":{}}"#,
            r#"{"id":1,"ping":{},"connect":{}}"#,
            r#"{"id":1,"fetch":{}}"#,
            r#"{"id":1,"method":1,"params":{}}"#,
            "{} {}",
        ] {
            assert_eq!(Command::read(line).unwrap_err(), Disconnect::BAD_REQUEST, "{line}");
        }
    }

    fn connect(body: &str) -> Connect {
        let Command::Connect { id: 1, connect } = Command::read(&format!("{{\"id\":1,\"connect\":{body}}}")).unwrap()
        else {
            panic!("{body}")
        };
        connect
    }

    #[test]
    fn a_client_says_who_it_is_and_where_it_was() {
        for (body, expected) in [
            (r#"{"data":{"application":"notifications","settings":{"token":"t"}},"name":"js"}"#, Some("t")),
            (r#"{"token":"u"}"#, Some("u")),
            (r#"{"token":"u","data":{"settings":{"token":"t"}}}"#, Some("t")),
            (r#"{"data":{"settings":{"token":7}}}"#, None),
            (r#"{"data":"settings"}"#, None),
            (r#"{"token":null,"data":null,"subs":null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(connect(body).token(), expected, "{body}");
        }
        let here = connect(r#"{"subs":{"a":{"recover":true,"epoch":"x","offset":7},"b":{"epoch":"x","offset":7}}}"#);
        assert_eq!(here.position("a"), Some(Position { epoch: "x".into(), offset: 7 }));
        assert_eq!((here.position("b"), here.position("c")), (None, None));
    }

    #[test]
    fn replies_are_those_of_the_protocol() {
        assert_eq!(pong(3), r#"{"id":3,"ping":{}}"#);
        let full = refusal(1, Error::LIMIT_EXCEEDED);
        assert_eq!(full, r#"{"id":1,"error":{"code":106,"message":"limit exceeded","temporary":true}}"#);
        let elsewhere = refusal(4, Error::UNKNOWN_CHANNEL);
        assert_eq!(elsewhere, r#"{"id":4,"error":{"code":102,"message":"unknown channel"}}"#);
    }

    #[tokio::test]
    async fn what_was_missed_follows_the_position_that_it_was_missed_since() {
        let events = Arc::new(Events::default());
        let history = Arc::new(History::new(Arc::clone(&events), 8, 0xab));
        let client = Client { id: "c", ping: Duration::from_secs(25), channel: "calls" };
        let mut first = history.join(None);
        tokio::spawn(first.recorder.take().unwrap().run());
        let version = env!("CARGO_PKG_VERSION");
        let head = format!(r#"{{"id":1,"connect":{{"client":"c","version":"{version}","ping":25,"pong":true,"subs":"#);
        let place =
            |offset| format!(r#"{{"calls":{{"recoverable":true,"positioned":true,"epoch":"ab-1","offset":{offset}"#);
        assert_eq!(connected(1, &client, &first.position, None, None), format!("{head}{}}}}}}}}}", place(0)));

        let online = || What::ClientOnline { aor: Aor::new("a", "h"), device: DeviceId([0; 10]) };
        (1..=2).for_each(|at| events.publish(UnixMillis(at), online));
        let entries = [first.entries.recv().await.unwrap(), first.entries.recv().await.unwrap()];
        let missed = entries.each_ref().map(|entry| format!(r#"{{"data":{},"offset":{}}}"#, entry.data, entry.offset));
        assert_eq!(
            publication("calls", &entries[1]),
            format!(r#"{{"push":{{"channel":"calls","pub":{}}}}}"#, missed[1])
        );
        let again = history.join(Some(&first.position));
        let rest = format!(r#","was_recovering":true,"recovered":true,"publications":[{}]}}}}}}}}"#, missed.join(","));
        assert_eq!(
            connected(1, &client, &again.position, Some(&first.position), again.missed.as_deref()),
            format!("{head}{}{rest}", place(0))
        );

        let lost = Position { epoch: "other".into(), offset: 1 };
        let again = history.join(Some(&lost));
        let rest = r#","was_recovering":true}}}}"#;
        assert_eq!(
            connected(1, &client, &again.position, Some(&lost), again.missed.as_deref()),
            format!("{head}{}{rest}", place(2))
        );
    }
}
