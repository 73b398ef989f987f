//! The connection to Redis: one server, the master that Sentinels name, or a Cluster. Only commands that Valkey has too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::{ConnectionLike, MultiplexedConnection, SendError};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, RedisResult, Script, TlsMode, Value, cmd,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::schema;
use super::engine::{Index, Lifetime, Page, ScanPlace, Seen, Unread, Write, Wrote};
use super::record::{
    self, Beat, CHANNEL, HASHES, Identity, NODES, Notice, Record, SECRET, Version, aor_of_key, aor_of_member,
    call_member, calls_key, device_key, hash_key,
};
use super::task::now;
use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;
use crate::config::{Redis, RedisShape};

/// Keys that Redis looks at in one step of a scan.
const SCAN_COUNT: u32 = 500;
/// First pause before a write that met another version, doubled each time up to the last.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_DOUBLINGS_MAX: u32 = 5;
/// How long an empty hash is kept: longer than any write can be late, or any node away from the others.
const EMPTY_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Writes an AOR's hash if it has the version that the writer knows, else says what it holds.
///
/// KEYS: the hash. ARGV: base, version, lifetime, channel, notice, number of fields to set, these with their values,
/// fields to delete.
const WRITE: &str = "
local version = redis.call('HGET', KEYS[1], 'v') or '0-0'
if version ~= ARGV[1] then
  return redis.call('HGETALL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'v', ARGV[2])
local sets = tonumber(ARGV[6])
for i = 7, 6 + 2 * sets, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
for i = 7 + 2 * sets, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
if ARGV[3] == 'endless' then
  redis.call('PERSIST', KEYS[1])
elseif ARGV[3] ~= 'as it is' then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
";

/// What a connection says by itself.
#[derive(Debug)]
pub(super) enum Heard {
    Notice(Notice),
    /// The connection of this number is over.
    Lost(u64),
}

/// Signs of life.
#[derive(Debug)]
pub(super) struct Beats {
    /// Which start of this node's name gave the one before, if this connection gave one before.
    pub(super) replaced: Option<u64>,
    pub(super) all: Vec<(Arc<str>, Beat)>,
}

/// Where a connection's news go.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) news: mpsc::Sender<Heard>,
    /// Set when a notice found no room: what was missed has to be read.
    pub(super) has_missed: Arc<AtomicBool>,
}

/// What is needed to connect, again and again.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) url: Redis,
    /// Of each command, and of a connection attempt.
    pub(super) timeout: Duration,
    pub(super) identity: Identity,
}

impl Connector {
    /// Connects, listens for notices, and shows by a write that writes are taken.
    pub(super) async fn connect(&self, number: u64, listener: Listener) -> Result<Link, String> {
        let connect = async {
            let connection = self.open(number, listener).await?;
            let mut link = Link {
                connection,
                script: Script::new(WRITE),
                identity: self.identity.clone(),
                timeout: self.timeout,
                number,
                has_beaten: false,
            };
            link.subscribe().await?;
            link.load_script().await?;
            link.beat(now()).await?;
            Ok(link)
        };
        // A name to look up, a handshake, some commands: each may take its time.
        match tokio::time::timeout(self.timeout.saturating_mul(4), connect).await {
            Ok(result) => result.map_err(|error: RedisError| error.to_string()),
            Err(_) => Err("no connection in time".to_owned()),
        }
    }

    pub(super) async fn open(&self, number: u64, listener: Listener) -> RedisResult<Connection> {
        let listener = move |push: PushInfo| listen(push, number, &listener);
        let config = || {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.timeout))
                .set_response_timeout(Some(self.timeout))
        };
        match &self.url.shape {
            RedisShape::Server => {
                let server = self.servers().into_iter().next();
                let server = server.ok_or_else(|| RedisError::from((ErrorKind::InvalidClientConfig, "no server")))?;
                let client = Client::open(server)?;
                let config = config().set_push_sender(listener);
                Ok(Connection::Server(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            RedisShape::Sentinel { master } => {
                let sentinels = self.addresses();
                let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
                    .set_client_to_redis_db(self.url.database)
                    .set_client_to_redis_protocol(ProtocolVersion::RESP3);
                if let Some(user) = &self.url.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = &self.url.password {
                    builder = builder.set_client_to_redis_password(password);
                }
                if self.url.tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure);
                }
                let mut client = builder.build()?;
                let config = config().set_push_sender(listener);
                Ok(Connection::Server(client.get_async_connection_with_config(&config).await?))
            }
            RedisShape::Cluster => {
                let client = ClusterClientBuilder::new(self.servers())
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(self.timeout)
                    .response_timeout(self.timeout)
                    .push_sender(listener)
                    .build()?;
                Ok(Connection::Cluster(client.get_async_connection().await?))
            }
        }
    }

    fn addresses(&self) -> Vec<ConnectionAddr> {
        let address = |(host, port): &(String, u16)| {
            if self.url.tls {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host.clone(), *port)
            }
        };
        self.url.servers.iter().map(address).collect()
    }

    fn servers(&self) -> Vec<ConnectionInfo> {
        let mut entry = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_db(self.url.database);
        if let Some(user) = &self.url.user {
            entry = entry.set_username(user);
        }
        if let Some(password) = &self.url.password {
            entry = entry.set_password(password);
        }
        let info = |address: ConnectionAddr| Ok(address.into_connection_info()?.set_redis_settings(entry.clone()));
        self.addresses().into_iter().filter_map(|address| RedisResult::ok(info(address))).collect()
    }
}

fn listen(push: PushInfo, number: u64, listener: &Listener) -> Result<(), SendError> {
    let mut data = push.data.into_iter();
    let said = match (&push.kind, data.next(), data.next()) {
        (PushKind::Disconnection, _, _) => Heard::Lost(number),
        (PushKind::Message, Some(_), Some(Value::BulkString(payload))) => {
            match Notice::from_bytes(&Bytes::from(payload)) {
                Ok(notice) => Heard::Notice(notice),
                Err(error) => {
                    tracing::error!(error, "a notice of another node cannot be read");
                    return Ok(());
                }
            }
        }
        _ => return Ok(()),
    };
    if listener.news.try_send(said).is_err() {
        listener.has_missed.store(true, Ordering::Relaxed);
    }
    Ok(())
}

#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection in use; its clones share it.
#[derive(Clone)]
pub(super) struct Link {
    connection: Connection,
    script: Script,
    identity: Identity,
    timeout: Duration,
    number: u64,
    /// Whether the present sign of life of this node's name should be this start's.
    has_beaten: bool,
}

impl Link {
    /// Of this connection among all.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// One compare-and-set, and what belongs to it.
    pub(super) async fn write(&mut self, write: &Write) -> Wrote {
        if write.attempt > 0 {
            tokio::time::sleep(pause(write.attempt)).await;
        }
        let timeout = self.timeout;
        let answer = async {
            for index in &write.found_by {
                self.index(&write.aor, index).await?;
            }
            self.run_script(write).await
        };
        let answer = match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Unread::Away(error))) => return Wrote::Unknown(error),
            Ok(Err(Unread::Unreadable(error))) => return Wrote::Unreadable(error),
            Err(_) => return Wrote::Unknown("no answer in time".to_owned()),
        };
        if let Value::Int(_) = answer {
            return Wrote::Done;
        }
        match read(&write.aor, &self.identity, answer) {
            Ok(record) => Wrote::Behind(record),
            Err(error) => Wrote::Unreadable(error),
        }
    }

    async fn run_script(&mut self, write: &Write) -> Result<Value, Unread> {
        let Write { aor, base, version, fields, run, lifetime, .. } = write;
        let notice = Notice { run: *run, aor: aor.clone(), base: *base, version: *version, fields: fields.clone() };
        let notice = notice.to_bytes().map_err(Unread::Unreadable)?;
        let lifetime = match lifetime {
            Lifetime::AsItIs => "as it is".to_owned(),
            Lifetime::Ends => EMPTY_KEPT.as_secs().to_string(),
            Lifetime::Endless => "endless".to_owned(),
        };
        let (sets, deletes): (Vec<_>, Vec<_>) = fields.iter().partition(|field| field.value.is_some());
        let mut call = self.script.prepare_invoke();
        call.key(hash_key(aor))
            .arg(base.to_string())
            .arg(version.to_string())
            .arg(lifetime)
            .arg(CHANNEL)
            .arg(notice)
            .arg(sets.len());
        for field in sets {
            call.arg(&*field.name).arg(field.value.as_deref().unwrap_or_default());
        }
        for field in deletes {
            call.arg(&*field.name);
        }
        match &mut self.connection {
            Connection::Server(connection) => call.invoke_async(connection).await,
            Connection::Cluster(connection) => call.invoke_async(connection).await,
        }
        .map_err(|error| unread(&error))
    }

    async fn index(&mut self, aor: &Aor, index: &Index) -> Result<(), Unread> {
        let command = match index {
            Index::Device(device) => Cmd::new().arg("SET").arg(device_key(*device)).arg(aor.as_str()).take(),
            Index::Call(node, id) => Cmd::new().arg("SADD").arg(calls_key(node)).arg(call_member(*id, aor)).take(),
        };
        self.query::<Value>(&command).await.map(|_| ()).map_err(|error| unread(&error))
    }

    /// What is left behind when this does not come through does no harm.
    pub(super) async fn unindex(&mut self, write: &Write) {
        for index in &write.gone {
            let command = match index {
                Index::Device(device) => Cmd::new().arg("DEL").arg(device_key(*device)).take(),
                Index::Call(node, id) => {
                    Cmd::new().arg("SREM").arg(calls_key(node)).arg(call_member(*id, &write.aor)).take()
                }
            };
            if let Err(error) = self.query::<Value>(&command).await {
                tracing::debug!(%error, "an index entry stays");
            }
        }
    }

    /// An AOR's hash as it is.
    pub(super) async fn fetch(&mut self, aor: &Aor) -> Result<Record, Unread> {
        let command = cmd("HGETALL").arg(hash_key(aor)).take();
        let value = self.query::<Value>(&command).await.map_err(|error| unread(&error))?;
        read(aor, &self.identity, value).map_err(Unread::Unreadable)
    }

    /// One step of a scan through all hashes.
    pub(super) async fn scan(&mut self, from: ScanPlace, with_rows: bool) -> Result<Page, String> {
        let said = |error: RedisError| error.to_string();
        let command = cmd("SCAN").arg(from.cursor).arg("MATCH").arg(HASHES).arg("COUNT").arg(SCAN_COUNT).take();
        let ((cursor, keys), servers): ((u64, Vec<Vec<u8>>), usize) = match &mut self.connection {
            Connection::Server(connection) => (command.query_async(connection).await.map_err(said)?, 1),
            Connection::Cluster(connection) => {
                let masters = masters(connection).await.map_err(said)?;
                let Some((host, port)) = masters.get(from.server).cloned() else { return Ok(Page::default()) };
                let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress { host, port });
                let page = connection.route_command(command, route).await.map_err(said)?;
                (redis::from_redis_value(page).map_err(|error| error.to_string())?, masters.len())
            }
        };
        let aors: Vec<_> = keys.iter().filter_map(|key| aor_of_key(key)).collect();
        let next = match cursor {
            0 if from.server + 1 < servers => Some(ScanPlace { server: from.server + 1, cursor: 0 }),
            0 => None,
            cursor => Some(ScanPlace { server: from.server, cursor }),
        };
        let command = |aor: &Aor| match with_rows {
            true => cmd("HGETALL").arg(hash_key(aor)).take(),
            false => cmd("HGET").arg(hash_key(aor)).arg("v").take(),
        };
        let values = self.query_each(aors.iter().map(command).collect()).await.map_err(said)?;
        let mut seen = Vec::with_capacity(aors.len());
        for (aor, value) in aors.into_iter().zip(values) {
            let found = if with_rows {
                read(&aor, &self.identity, value).map(Seen::Record)
            } else {
                let text = redis::from_redis_value::<Option<Vec<u8>>>(value).map_err(|error| error.to_string());
                text.and_then(|text| match text {
                    None => Ok(Seen::Version(Version::default())),
                    Some(text) => {
                        Version::parse(&text).map(Seen::Version).ok_or_else(|| "v is not a version".to_owned())
                    }
                })
            };
            match found {
                Ok(found) => seen.push((aor, found)),
                Err(error) => tracing::error!(error, "a row in Redis cannot be read; its AOR is left alone"),
            }
        }
        Ok(Page { seen, next })
    }

    /// Which AOR a device is of, as far as the index tells.
    pub(super) async fn aor_of(&mut self, device: DeviceId) -> Result<Option<Aor>, String> {
        let command = cmd("GET").arg(device_key(device)).take();
        let text: Option<String> = self.query(&command).await.map_err(|error| error.to_string())?;
        Ok(text.and_then(|text| record::aor_of_text(&text)))
    }

    /// AORs of which this node held calls.
    pub(super) async fn own_calls(&mut self) -> Result<Vec<Aor>, String> {
        let command = cmd("SMEMBERS").arg(calls_key(&self.identity.node)).take();
        let members: Vec<Vec<u8>> = self.query(&command).await.map_err(|error| error.to_string())?;
        let mut aors: Vec<_> = members.iter().filter_map(|member| aor_of_member(member)).collect();
        aors.sort_unstable();
        aors.dedup();
        Ok(aors)
    }

    /// The secret that all nodes share; `ours` if there is none yet.
    pub(super) async fn secret(&mut self, ours: &[u8; 32]) -> Result<[u8; 32], String> {
        let said = |error: RedisError| error.to_string();
        self.query::<Value>(&cmd("SET").arg(SECRET).arg(&ours[..]).arg("NX").take()).await.map_err(said)?;
        let secret: Vec<u8> = self.query(&cmd("GET").arg(SECRET).take()).await.map_err(said)?;
        secret.try_into().map_err(|_| format!("{SECRET} is not 32 bytes long"))
    }

    /// Shows that this node lives and that writes are taken, and looks who else lives.
    pub(super) async fn beat(&mut self, at: UnixMillis) -> RedisResult<Beats> {
        let Identity { node, run, home } = self.identity.clone();
        let beat = schema::encode(&Beat { run, at, home })
            .map_err(|_| RedisError::from((ErrorKind::UnexpectedReturnType, "a beat cannot be written")))?;
        let own = cmd("HGET").arg(NODES).arg(&*node).take();
        let replaced: Option<Vec<u8>> = self.query(&own).await?;
        self.query::<Value>(&cmd("HSET").arg(NODES).arg(&*node).arg(beat).take()).await?;
        let all: Vec<(String, Vec<u8>)> = self.query(&cmd("HGETALL").arg(NODES).take()).await?;
        let replaced = replaced.filter(|_| self.has_beaten).and_then(|bytes| schema::decode::<Beat>(&bytes).ok());
        self.has_beaten = true;
        let read = |(name, bytes): (String, Vec<u8>)| Some((name.into(), schema::decode(&bytes).ok()?));
        let beats = Beats { replaced: replaced.map(|beat| beat.run), all: all.into_iter().filter_map(read).collect() };
        if let Connection::Cluster(connection) = &mut self.connection {
            // One slot tells nothing of the others' nodes.
            let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, Some(ResponsePolicy::AllSucceeded)));
            connection.route_command(cmd("PING"), all).await?;
        }
        Ok(beats)
    }

    /// Says that this node does not live any more.
    pub(super) async fn leave(&mut self) {
        // Otherwise its lease runs out.
        let _ = self.query::<Value>(&cmd("HDEL").arg(NODES).arg(&*self.identity.node).take()).await;
    }

    /// A Redis that has just started has no scripts, and the first writes after a connection come all at once: each
    /// would be refused, load the script and try again.
    async fn load_script(&mut self) -> RedisResult<()> {
        let script = self.script.prepare_invoke();
        match &mut self.connection {
            Connection::Server(connection) => script.load_async(connection).await,
            Connection::Cluster(connection) => script.load_async(connection).await,
        }
        .map(|_| ())
    }

    async fn subscribe(&mut self) -> RedisResult<()> {
        match &mut self.connection {
            Connection::Server(connection) => connection.subscribe(CHANNEL).await,
            Connection::Cluster(connection) => connection.subscribe(CHANNEL).await,
        }
    }

    async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        let timeout = self.timeout;
        let answer = async {
            match &mut self.connection {
                Connection::Server(connection) => command.query_async(connection).await,
                Connection::Cluster(connection) => command.query_async(connection).await,
            }
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err((ErrorKind::Io, "no answer in time").into()),
        }
    }

    /// The answers in the order of the commands, which may be for different nodes of a Cluster.
    async fn query_each(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        if let Connection::Server(connection) = &mut self.connection {
            let mut pipeline = redis::pipe();
            let count = commands.len();
            commands.into_iter().for_each(|command| {
                pipeline.add_command(command);
            });
            return connection.req_packed_commands(&pipeline, 0, count).await;
        }
        let mut queries = JoinSet::new();
        for (place, command) in commands.into_iter().enumerate() {
            let mut link = self.clone();
            queries.spawn(async move { (place, link.query::<Value>(&command).await) });
        }
        let mut answers = Vec::with_capacity(queries.len());
        while let Some(answer) = queries.join_next().await {
            let (place, value) = answer.map_err(|_| RedisError::from((ErrorKind::Io, "a query was dropped")))?;
            answers.push((place, value?));
        }
        answers.sort_unstable_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, value)| value).collect())
    }
}

/// Addresses of a Cluster's masters, always in the same order.
async fn masters(connection: &mut ClusterConnection) -> RedisResult<Vec<(String, u16)>> {
    let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
    let nodes = connection.route_command(cmd("CLUSTER").arg("NODES").take(), any).await?;
    let nodes: String = redis::from_redis_value(nodes)?;
    let master = |line: &str| {
        let mut words = line.split(' ');
        let (_, address, flags) = (words.next()?, words.next()?, words.next()?);
        let is_master = flags.split(',').any(|flag| flag == "master");
        let has_slots = words.nth(5).is_some();
        let (host, port) = address.split('@').next()?.rsplit_once(':')?;
        (is_master && has_slots).then_some((host.to_owned(), port.parse().ok()?))
    };
    let mut masters: Vec<_> = nodes.lines().filter_map(master).collect();
    masters.sort_unstable();
    Ok(masters)
}

/// Whether it is the one key that is wrong, or Redis.
fn unread(error: &RedisError) -> Unread {
    let text = error.to_string();
    if text.contains("WRONGTYPE") { Unread::Unreadable(text) } else { Unread::Away(text) }
}

fn read(aor: &Aor, identity: &Identity, value: Value) -> Result<Record, String> {
    let fields: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(value).map_err(|error| error.to_string())?;
    Record::read(aor, identity, fields.iter().map(|(field, value)| (&**field, &**value)))
}

/// Between half and all of a time that doubles, so that nodes that meet do not meet again.
fn pause(attempt: u32) -> Duration {
    let longest = PAUSE.saturating_mul(1 << attempt.min(PAUSE_DOUBLINGS_MAX));
    let share = getrandom::u32().unwrap_or_default() % 512 + 512;
    longest.saturating_mul(share) / 1024
}
