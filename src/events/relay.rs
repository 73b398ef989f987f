//! Events as entries of a Redis stream, in the form that Centrifugo's consumer takes: `method` and `payload`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Event, Events, Seen, Watcher};
use crate::config;
use crate::store::RedisStream;

/// Events of one pipeline.
const BATCH: usize = 256;
/// Pause before Redis is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Where events are relayed to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `store.url`.
    pub url: config::Redis,
    /// `store.timeout_ms`.
    pub timeout: Duration,
    /// `events.redis_stream`.
    pub stream: String,
    /// `events.channel`, which Centrifugo publishes to.
    pub channel: String,
    /// `node.id`: two nodes do not use the same key for two events.
    pub node: String,
}

/// Relays events until it is dropped.
#[derive(Debug)]
pub struct Relay {
    events: Arc<Events>,
    watcher: Watcher,
    stream: RedisStream,
    channel: String,
    /// What makes an event one, however often it is consumed.
    key: String,
    relayed: u64,
}

impl Relay {
    /// `run` is random for each start.
    pub fn new(settings: Settings, events: &Arc<Events>, run: u64) -> Self {
        let Settings { url, timeout, stream, channel, node } = settings;
        let watcher = events.watch();
        let stream = RedisStream::new(url, timeout, stream);
        Self { events: Arc::clone(events), watcher, stream, channel, key: format!("{node}-{run:x}"), relayed: 0 }
    }

    /// Works until there will be no more events.
    pub async fn run(mut self) {
        let mut is_away = false;
        while let Some(first) = self.watcher.next().await {
            let mut payloads = Vec::new();
            let mut next = Some(first);
            while let Some(seen) = next {
                match seen {
                    Seen::Event(event) => payloads.push(self.payload(&event)),
                    Seen::Missed(count) => tracing::warn!(count, "events came too fast for the stream"),
                }
                next = if payloads.len() < BATCH { self.watcher.take() } else { None };
            }
            let count = u64::try_from(payloads.len()).unwrap_or(u64::MAX);
            match self.stream.append(&payloads).await {
                Ok(()) if is_away => {
                    is_away = false;
                    tracing::info!("the stream of events takes entries again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(error, "the stream of events takes no entries; events are lost meanwhile");
                    }
                    self.events.lose(count);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn payload(&mut self, event: &Event) -> String {
        self.relayed += 1;
        let key = format!("{}-{}", self.key, self.relayed);
        json!({ "channel": self.channel, "data": { "payload": event.to_json() }, "idempotency_key": key }).to_string()
    }
}
