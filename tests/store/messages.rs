//! Texts that wait for a browser: fetched once, by one, and ended by time.

use std::time::Duration;

use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::store::{
    Applied, Change, MESSAGE_TTL, MESSAGES_MAX, Message, MessageId, RedisSettings, StoreError,
};

use crate::away::{Gate, is_drained, loaded};
use crate::rows::*;
use crate::server::{Server, wait_for};
use crate::subject::{Asker, Kind, Subject, on_each, settings};

const NONE: [u64; 0] = [];

/// Later texts are sent later.
fn text(number: u32) -> Change {
    let id = u64::from(number);
    let body = format!("text {number}").into();
    let message = Message { id: MessageId(id), title: "Title".into(), body, sent_at: UnixMillis(NOW.0 + id) };
    Change::Message { aor: aor(1), device: device(1), message }
}

fn pick_up() -> Change {
    Change::PickUp { aor: aor(1), device: device(1) }
}

#[track_caller]
fn numbers(applied: Result<Applied, StoreError>) -> Vec<u64> {
    let Ok(Applied::PickedUp(messages)) = applied else { panic!("{applied:?}") };
    messages.iter().map(|message| message.id.0).collect()
}

fn subscribed(kind: Kind) -> Subject {
    let mut subject = Subject::open(kind);
    subject.apply(register(vec![binding(1, 1)])).unwrap();
    subject
}

fn they_are_fetched_once_and_outlive_a_restart(kind: Kind) {
    let mut subject = subscribed(kind);
    for number in [1, 2, 2] {
        assert_eq!(subject.apply(text(number)), Ok(Applied::Done));
    }
    subject.restart(NOW);
    assert_eq!(numbers(subject.apply(pick_up())), [1, 2]);
    assert_eq!(numbers(subject.apply(pick_up())), NONE);
    subject.restart(NOW);
    assert_eq!(numbers(subject.apply(pick_up())), NONE);
}

fn the_oldest_go_for_the_newest(kind: Kind) {
    let mut subject = subscribed(kind);
    let max = u32::try_from(MESSAGES_MAX).unwrap();
    (0..max + 3).for_each(|number| assert_eq!(subject.apply(text(number)), Ok(Applied::Done)));
    assert_eq!(numbers(subject.apply(pick_up())), (3..u64::from(max) + 3).collect::<Vec<_>>());
}

fn they_end_with_time_and_with_their_device(kind: Kind) {
    let mut subject = subscribed(kind);
    subject.apply(text(1)).unwrap();
    subject.apply(text(2)).unwrap();
    subject.sweep(NOW.after(MESSAGE_TTL));
    subject.sweep(NOW.after(MESSAGE_TTL + Duration::from_millis(1)));
    assert_eq!(numbers(subject.apply(pick_up())), [2]);

    subject.apply(text(3)).unwrap();
    subject.apply(Change::Remove { aor: aor(1), device: device(1) }).unwrap();
    subject.apply(text(4)).unwrap();
    subject.apply(register(vec![binding(1, 1)])).unwrap();
    assert_eq!(numbers(subject.apply(pick_up())), NONE, "of another subscription");
}

on_each!(Memory as memory, Embedded as embedded, Redis as redis: [
    they_are_fetched_once_and_outlive_a_restart,
    the_oldest_go_for_the_newest,
    they_end_with_time_and_with_their_device,
]);

#[test]
fn of_two_nodes_that_ask_at_once_one_gets_it() {
    let server = Server::start();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let node = |place: usize| loaded(&settings(&server, &format!("node-{place}")), folders[place].path());
    let mut nodes = [node(0), node(1)];
    nodes[0].apply(register(vec![binding(1, 1)])).unwrap();
    wait_for("the device", || nodes[1].table().by_device(device(1)).is_some());
    for number in 0..50 {
        // By one node; the other has to ask Redis.
        nodes[number as usize % 2].apply(text(number)).unwrap();
        nodes.iter_mut().for_each(|node| assert!(node.submit(pick_up()).is_ok()));
        let got = nodes.each_mut().map(|node| numbers(node.reply().result));
        assert_eq!(got.concat(), [u64::from(number)]);
    }
}

/// What is asked while Redis is away: a refusal, and nothing is gone.
#[track_caller]
fn is_refused(node: &mut Asker) {
    assert_eq!(node.apply(pick_up()), Err(StoreError::Broken("Redis is away".to_owned())));
}

#[test]
fn while_redis_is_away_nothing_is_handed_over_or_lost() {
    let mut server = Server::durable();
    let folder = tempfile::tempdir().unwrap();
    let mut node = loaded(&settings(&server, "node-1"), folder.path());
    node.apply(register(vec![binding(1, 1)])).unwrap();
    node.apply(text(1)).unwrap();
    server.kill();
    wait_for("Redis away", || node.redis().is_degraded());
    is_refused(&mut node);
    assert_eq!(node.apply(text(2)), Ok(Applied::Done));
    is_refused(&mut node);
    server.run();
    wait_for("an empty journal", || is_drained(&node));
    assert_eq!(numbers(node.apply(pick_up())), [1, 2]);
    assert_eq!(numbers(node.apply(pick_up())), NONE);
}

#[test]
fn a_pick_up_whose_answer_is_lost_gives_the_texts_back() {
    let server = Server::start();
    let gate = Gate::before(server.port);
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server, "node-1");
    let timeout = Duration::from_millis(300);
    let mut node = loaded(&RedisSettings { url: gate.url(), timeout, ..settings }, folder.path());
    node.apply(register(vec![binding(1, 1)])).unwrap();
    node.apply(text(1)).unwrap();
    gate.mute();
    // Redis takes them out, and nobody hears.
    is_refused(&mut node);
    let key = "spp:2:{user000001@example.org}";
    wait_for("the end of the row", || server.ask(&["HEXISTS", key, &format!("m:{}", device(1))]) == "0");
    gate.open();
    wait_for("an empty journal", || is_drained(&node));
    assert_eq!(numbers(node.apply(pick_up())), [1]);
    assert_eq!(numbers(node.apply(pick_up())), NONE);
}
