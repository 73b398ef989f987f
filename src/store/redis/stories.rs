//! What happened to calls, for all nodes of one Redis, beside the store and on a connection of its own. Nothing depends on
//! it but what operators see.
//!
//! | key                        | type       | what                                                                  |
//! |----------------------------|------------|-----------------------------------------------------------------------|
//! | `spp:2:story:CALL_REF`     | hash       | by node: its part of the call's story                                 |
//! | `spp:2:stories`            | sorted set | the last calls, by when they began                                    |
//! | `spp:2:stories:AOR`        | sorted set | the last calls for a user, by when they began                         |
//!
//! All of them go after `admin.calls_kept_s`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use redis::{Cmd, RedisResult, Value, cmd, from_redis_value};
use tokio::sync::mpsc;

use super::link::{Connection, Connector, Listener};
use super::record::Identity;
use crate::binding::Aor;
use crate::config::Redis;
use crate::timeline::Call;

const ALL: &str = "spp:2:stories";
/// Calls of one user that are found by their AOR.
const CALLS_PER_AOR: usize = 200;
/// Stories read at once.
const BATCH: usize = 500;

/// Stories of calls on Redis; see the module's text. Connects when there is something to do.
pub struct RedisStories {
    connector: Connector,
    node: Arc<str>,
    calls_max: usize,
    kept: Duration,
    connection: Option<Connection>,
}

impl fmt::Debug for RedisStories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStories").field("node", &self.node).finish_non_exhaustive()
    }
}

impl RedisStories {
    /// `node` is this one; `calls_max` are listed, and each is `kept` for so long after its last step.
    pub fn new(url: Redis, timeout: Duration, node: &str, calls_max: usize, kept: Duration) -> Self {
        let identity = Identity { node: "".into(), run: 0, home: None };
        let connector = Connector { url, timeout, identity };
        Self { connector, node: node.into(), calls_max, kept, connection: None }
    }

    /// Writes this node's part of each story.
    ///
    /// # Errors
    /// What Redis or the way to it says. Some may have been written.
    pub async fn write(&mut self, calls: &[Arc<Call>]) -> Result<(), String> {
        let kept = self.kept.as_secs();
        let mut commands = Vec::with_capacity(calls.len() * 2);
        for call in calls {
            let (key, began) = (story_key(&call.call_ref), call.events.first().map_or(0, |event| event.at.0));
            commands.push(cmd("HSET").arg(&key).arg(&*self.node).arg(call.to_bytes()).take());
            commands.push(cmd("EXPIRE").arg(&key).arg(kept).take());
            let lists = call.aor.as_ref().map(|aor| (aor_key(aor), CALLS_PER_AOR));
            for (list, most) in lists.into_iter().chain([(ALL.to_owned(), self.calls_max)]) {
                // When a call began does not change with what another node heard of it later.
                commands.push(cmd("ZADD").arg(&list).arg("LT").arg(began).arg(&*call.call_ref).take());
                let first_too_many = -i64::try_from(most).unwrap_or(i64::MAX) - 1;
                commands.push(cmd("ZREMRANGEBYRANK").arg(&list).arg(0).arg(first_too_many).take());
                commands.push(cmd("EXPIRE").arg(&list).arg(kept).take());
            }
        }
        self.ask(commands).await.map(drop)
    }

    /// The parts of one call's story that other nodes have, and this one's of an earlier start.
    ///
    /// # Errors
    /// What Redis or the way to it says.
    pub async fn call(&mut self, call_ref: &str) -> Result<Vec<Call>, String> {
        self.read(&[call_ref.to_owned()]).await
    }

    /// The parts of the last calls, newest first; only of calls for `aor`, if it is given.
    ///
    /// # Errors
    /// What Redis or the way to it says.
    pub async fn last(&mut self, aor: Option<&Aor>, limit: usize) -> Result<Vec<Call>, String> {
        let list = aor.map_or_else(|| ALL.to_owned(), aor_key);
        let range = cmd("ZREVRANGE").arg(list).arg(0).arg(limit.saturating_sub(1)).take();
        let found = self.ask(vec![range]).await?.into_iter().next().unwrap_or(Value::Nil);
        let call_refs: Vec<String> = from_redis_value(found).map_err(|error| error.to_string())?;
        let mut calls = Vec::new();
        for batch in call_refs.chunks(BATCH) {
            calls.append(&mut self.read(batch).await?);
        }
        Ok(calls)
    }

    async fn read(&mut self, call_refs: &[String]) -> Result<Vec<Call>, String> {
        let read = call_refs.iter().map(|call_ref| cmd("HGETALL").arg(story_key(call_ref)).take()).collect();
        let mut calls = Vec::new();
        for parts in self.ask(read).await? {
            let parts: Vec<(String, Vec<u8>)> = from_redis_value(parts).map_err(|error| error.to_string())?;
            for (node, bytes) in parts {
                let node: Arc<str> = node.into();
                calls.extend(Call::from_bytes(&bytes, Some(&node).filter(|node| **node != self.node)));
            }
        }
        Ok(calls)
    }

    async fn ask(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, String> {
        let answered = tokio::time::timeout(self.connector.timeout.saturating_mul(4), self.try_ask(commands)).await;
        let result = match answered {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    async fn try_ask(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none @ None => {
                // Nothing is subscribed to, so nothing is heard.
                let listener = Listener { news: mpsc::channel(1).0, has_missed: Arc::default() };
                none.insert(self.connector.open(0, listener).await?)
            }
        };
        match connection {
            Connection::Server(connection) => {
                let mut pipeline = redis::pipe();
                for command in commands {
                    pipeline.add_command(command);
                }
                pipeline.query_async(connection).await
            }
            // Each has its own place in a Cluster.
            Connection::Cluster(connection) => {
                let each = commands.into_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { command.query_async(&mut connection).await }
                });
                future::try_join_all(each).await
            }
        }
    }
}

fn story_key(call_ref: &str) -> String {
    format!("spp:2:story:{call_ref}")
}

fn aor_key(aor: &Aor) -> String {
    format!("{ALL}:{aor}")
}
