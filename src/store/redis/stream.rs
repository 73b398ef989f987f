//! A Redis stream to add entries to, beside the store and on a connection of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::sync::mpsc;

use super::link::{Connection, Connector, Listener};
use super::record::Identity;
use crate::config::Redis;

/// Entries that are kept, about: whoever consumes the stream is behind by less, or has lost some.
const ENTRIES: usize = 10_000;

/// See the module's text. Connects when there is something to add.
pub struct RedisStream {
    connector: Connector,
    name: String,
    connection: Option<Connection>,
}

impl fmt::Debug for RedisStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl RedisStream {
    pub fn new(url: Redis, timeout: Duration, name: String) -> Self {
        let identity = Identity { node: "".into(), run: 0, home: None };
        Self { connector: Connector { url, timeout, identity }, name, connection: None }
    }

    /// Connects, if it has not.
    ///
    /// # Errors
    /// What Redis or the way to it says.
    pub async fn connect(&mut self) -> Result<(), String> {
        self.append(&[]).await
    }

    /// Adds an entry `method publish payload PAYLOAD` for each payload, in order.
    ///
    /// # Errors
    /// What Redis or the way to it says. Some entries may have been added; the next attempt connects anew.
    pub async fn append(&mut self, payloads: &[String]) -> Result<(), String> {
        let added = tokio::time::timeout(self.connector.timeout.saturating_mul(4), self.try_append(payloads)).await;
        let result = match added {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    async fn try_append(&mut self, payloads: &[String]) -> RedisResult<()> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none @ None => {
                // Nothing is subscribed to, so nothing is heard.
                let listener = Listener { news: mpsc::channel(1).0, has_missed: Arc::default() };
                none.insert(self.connector.open(0, listener).await?)
            }
        };
        if payloads.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for payload in payloads {
            let command = pipeline.cmd("XADD").arg(&self.name).arg("MAXLEN").arg("~").arg(ENTRIES).arg("*");
            command.arg("method").arg("publish").arg("payload").arg(payload).ignore();
        }
        match connection {
            Connection::Server(connection) => pipeline.query_async::<Value>(connection).await?,
            Connection::Cluster(connection) => pipeline.query_async::<Value>(connection).await?,
        };
        Ok(())
    }
}
