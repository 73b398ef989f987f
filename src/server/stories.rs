//! Keeps the stories of calls in the store, a moment after they happened: for the time after a restart, and for the
//! operators of other nodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::admin::{Recall, Recalled};
use crate::clock::UnixMillis;
use crate::config::{Config, StoreKind};
use crate::driver;
use crate::store::{DiskStories, RedisStories};
use crate::timeline::{Call, Timeline};

/// How often what has changed is written.
const EVERY: Duration = Duration::from_secs(1);
/// Calls that are written at once; more wait.
const BATCH: usize = 2000;

/// See the module's text.
pub(super) struct Stories {
    timeline: Arc<Timeline>,
    place: Place,
}

enum Place {
    Disk(Arc<DiskStories>),
    /// One connection to write and one to read.
    Redis(Box<(Mutex<RedisStories>, Mutex<RedisStories>)>),
    /// They could not be opened.
    Nowhere,
}

impl Stories {
    /// Reads into the timeline what an earlier start has left.
    pub(super) fn open(config: &Config, timeline: &Arc<Timeline>) -> Self {
        let place = match &config.store.kind {
            StoreKind::File => match open_disk(config, timeline) {
                Ok(disk) => Place::Disk(Arc::new(disk)),
                Err(error) => {
                    let folder = config.node.data_dir.join("stories");
                    tracing::warn!(
                        ?folder,
                        error,
                        "what happened to calls is remembered until the end of this process only"
                    );
                    Place::Nowhere
                }
            },
            StoreKind::Redis(url) => {
                let admin = &config.admin;
                let open = || {
                    RedisStories::new(
                        url.clone(),
                        config.store.timeout,
                        &config.node.id,
                        admin.calls_max,
                        admin.calls_kept,
                    )
                };
                Place::Redis(Box::new((Mutex::new(open()), Mutex::new(open()))))
            }
        };
        Self { timeline: Arc::clone(timeline), place }
    }

    /// Writes until it is dropped.
    pub(super) async fn keep(&self) {
        let mut is_away = false;
        loop {
            tokio::time::sleep(EVERY).await;
            match self.write().await {
                Ok(()) if is_away => {
                    is_away = false;
                    tracing::info!("what happened to calls is kept in the store again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(error, "what happened to calls is not kept in the store; it is tried again");
                    }
                }
            }
        }
    }

    /// Writes all that has changed. What could not be written stays to be.
    pub(super) async fn write(&self) -> Result<(), String> {
        loop {
            let changed = self.timeline.take_changed(BATCH);
            if changed.is_empty() {
                return Ok(());
            }
            let call_refs: Vec<_> = changed.iter().map(|(call_ref, _)| Arc::clone(call_ref)).collect();
            let written = match &self.place {
                Place::Disk(disk) => {
                    let disk = Arc::clone(disk);
                    let rows = changed.into_iter().map(|(call_ref, call)| (call_ref.as_bytes().to_vec(), call));
                    let rows: Vec<_> = rows.collect();
                    let write = tokio::task::spawn_blocking(move || disk.write(rows)).await;
                    write.unwrap_or_else(|_| Err("the writer was stopped".to_owned()))
                }
                Place::Redis(redis) => {
                    let calls: Vec<_> = changed.into_iter().filter_map(|(_, call)| call).collect();
                    redis.0.lock().await.write(&calls).await
                }
                Place::Nowhere => Ok(()),
            };
            if written.is_err() {
                self.timeline.change_again(call_refs);
                return written;
            }
        }
    }

    /// What this node remembers, with what the store has of it from other nodes and earlier starts; newest first.
    pub(super) async fn recall(&self, what: Recall) -> Recalled {
        let own = match &what {
            Recall::Call(call_ref) => self.timeline.call(call_ref).into_iter().collect(),
            Recall::Aor(aor, limit) => self.timeline.calls_for(aor, *limit),
            Recall::Last(limit) => self.timeline.calls(*limit),
        };
        let Place::Redis(redis) = &self.place else { return Recalled { calls: own, partial: None } };
        let (read, limit) = {
            let mut redis = redis.1.lock().await;
            match &what {
                Recall::Call(call_ref) => (redis.call(call_ref).await, 1),
                Recall::Aor(aor, limit) => (redis.last(Some(aor), *limit).await, *limit),
                Recall::Last(limit) => (redis.last(None, *limit).await, *limit),
            }
        };
        match read {
            Ok(read) => Recalled { calls: self.join(own, read, limit), partial: None },
            Err(error) => Recalled { calls: own, partial: Some(format!("of this node alone; Redis: {error}")) },
        }
    }

    /// One story for each call. Of this node's part, memory has the last word.
    fn join(&self, own: Vec<Arc<Call>>, read: Vec<Call>, limit: usize) -> Vec<Arc<Call>> {
        let mut calls: HashMap<_, _> = own.into_iter().map(|call| (Arc::clone(&call.call_ref), call)).collect();
        for part in read {
            let is_own = part.events.iter().all(|event| event.node.is_none());
            if is_own && self.timeline.call(&part.call_ref).is_some() {
                continue;
            }
            let whole = match calls.remove(&part.call_ref).or_else(|| self.timeline.call(&part.call_ref)) {
                Some(call) => Call::clone(&call).with(part),
                None => part,
            };
            calls.insert(Arc::clone(&whole.call_ref), Arc::new(whole));
        }
        let mut calls: Vec<_> = calls.into_values().collect();
        let began = |call: &Arc<Call>| call.events.first().map_or(UnixMillis(0), |event| event.at);
        calls.sort_by_key(|call| std::cmp::Reverse(began(call)));
        calls.truncate(limit);
        calls
    }
}

fn open_disk(config: &Config, timeline: &Timeline) -> Result<DiskStories, String> {
    let disk = DiskStories::open(&config.node.data_dir)?;
    let kept = u64::try_from(config.admin.calls_kept.as_millis()).unwrap_or(u64::MAX);
    let since = UnixMillis(driver::now().unix.0.saturating_sub(kept));
    disk.load(since, config.admin.calls_max)?.into_iter().for_each(|call| timeline.put(call));
    Ok(disk)
}
