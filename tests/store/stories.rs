//! What happened to calls, as it is kept beside the store.

use std::sync::Arc;
use std::time::Duration;

use sip_push_proxy::binding::Aor;
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::config::Redis;
use sip_push_proxy::metrics::Outcome;
use sip_push_proxy::store::{DiskStories, RedisStories};
use sip_push_proxy::timeline::{Call, Step, Timeline};
use tokio::runtime::Runtime;

use crate::server::{Server, join_cluster};

const TIMEOUT: Duration = Duration::from_secs(2);

/// A call for `user` that began at `at`.
fn call(call_ref: &str, user: &str, at: u64) -> Arc<Call> {
    let timeline = Timeline::new(1);
    timeline.begin(call_ref, call_ref, &Aor::new(user, "h"));
    timeline.record(call_ref, UnixMillis(at), Step::Received, None, "from 103", None);
    timeline.end(call_ref, Outcome::Answered);
    timeline.call(call_ref).unwrap()
}

fn refs(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| &*call.call_ref).collect()
}

/// Two nodes on one Redis: each finds what the other wrote, by its call_ref, by its user, and among the last ones.
#[track_caller]
fn are_found(url: &Redis) {
    let node = |name| RedisStories::new(url.clone(), TIMEOUT, name, 3, Duration::from_secs(100));
    let (mut one, mut two) = (node("one"), node("two"));
    Runtime::new().unwrap().block_on(async {
        let written: Vec<_> =
            (1..=5).map(|at| call(&format!("c{at}"), if at == 2 { "bob" } else { "alice" }, at)).collect();
        one.write(&written).await.unwrap();
        // What a node heard of a call later does not make it a later call.
        two.write(&[call("c3", "alice", 9)]).await.unwrap();
        let last = two.last(None, 9).await.unwrap();
        assert_eq!(refs(&last), ["c5", "c4", "c3", "c3"], "no more than there are to be listed");
        let nodes: Vec<_> = last.iter().map(|call| call.events[0].node.as_deref()).collect();
        assert_eq!((nodes[0], nodes[2].or(nodes[3])), (Some("one"), Some("one")));
        assert_eq!(refs(&two.last(Some(&Aor::new("bob", "h")), 9).await.unwrap()), ["c2"]);
        assert_eq!(refs(&two.last(Some(&Aor::new("alice", "h")), 1).await.unwrap()), ["c5"]);
        assert_eq!(one.call("c1").await.unwrap(), [Call::clone(&written[0])], "its own, of an earlier start");
        assert_eq!(two.call("c9").await.unwrap(), []);
    });
}

#[test]
fn are_found_by_each_node() {
    let server = Server::start();
    are_found(&server.url());
    let life = |key: &str| server.ask(&["TTL", key]).trim().parse::<i64>().unwrap();
    for key in ["spp:2:story:c1", "spp:2:stories", "spp:2:stories:bob@h"] {
        assert!((1..=100).contains(&life(key)), "{key}: {}", life(key));
    }
}

#[test]
fn are_found_on_a_cluster() {
    let servers: Vec<_> =
        (0..3).map(|_| Server::with(&["--save", "", "--appendonly", "no", "--cluster-enabled", "yes"])).collect();
    let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    join_cluster(&servers);
    are_found(&Redis::parse(&format!("redis+cluster://{}", addresses.join(","))).unwrap().unwrap());
}

#[test]
fn redis_that_is_away_is_an_error_and_then_found_again() {
    let mut server = Server::start();
    let mut stories = RedisStories::new(server.url(), Duration::from_millis(200), "one", 9, Duration::from_secs(100));
    let runtime = Runtime::new().unwrap();
    runtime.block_on(stories.write(&[call("a", "alice", 1)])).unwrap();
    server.kill();
    assert!(runtime.block_on(stories.last(None, 9)).is_err());
    server.run();
    runtime.block_on(stories.write(&[call("b", "alice", 2)])).unwrap();
    assert!(refs(&runtime.block_on(stories.last(None, 9)).unwrap()).contains(&"b"));
}

#[test]
fn of_a_node_alone_are_on_its_disk_until_they_are_old() {
    let folder = tempfile::tempdir().unwrap();
    let key = |call: &Arc<Call>| (call.call_ref.as_bytes().to_vec(), Some(Arc::clone(call)));
    let calls: Vec<_> = [("a", 1), ("b", 5), ("c", 3), ("d", 4)].map(|(name, at)| call(name, "alice", at)).into();
    let stories = DiskStories::open(folder.path()).unwrap();
    stories.write(calls.iter().map(key)).unwrap();
    stories.write([(b"d".to_vec(), None)]).unwrap();
    drop(stories);
    let stories = DiskStories::open(folder.path()).unwrap();
    assert_eq!(refs(&stories.load(UnixMillis(2), 9).unwrap()), ["c", "b"]);
    assert_eq!(refs(&stories.load(UnixMillis(0), 1).unwrap()), ["b"], "the older ones are forgotten");
    assert_eq!(refs(&stories.load(UnixMillis(0), 9).unwrap()), ["b"]);
}
