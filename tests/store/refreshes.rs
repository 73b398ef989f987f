//! When devices are due to be refreshed upstream.

use std::time::Duration;

use sip_push_proxy::binding::{Binding, DeviceId, Upstream};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::store::{Change, Memory};

use crate::rows::*;

fn minutes(minutes: u64) -> UnixMillis {
    NOW.after(Duration::from_secs(60 * minutes))
}

fn upstream(registered_at: UnixMillis, refused: Option<&str>) -> Upstream {
    Upstream { registered_at, expires_at: registered_at.after(HOUR), refused: refused.map(Into::into) }
}

fn refreshed(number: u32, upstream: Upstream) -> Change {
    Change::Refreshed { aor: aor(number), device: device(number), registered_at: NOW, upstream }
}

fn begun(bindings: Vec<Binding>) -> Memory {
    let store = Memory::new(LIMITS);
    store.table().begin_refreshes();
    bindings.into_iter().for_each(|binding| drop(store.apply(register(vec![binding]))));
    store
}

fn taken(store: &Memory, now: UnixMillis) -> Vec<u32> {
    store.table().take_refreshes(now, 100).iter().map(|binding| binding.cseq).collect()
}

/// The names of devices are as good as random.
#[test]
fn those_that_registered_together_are_due_one_after_the_other() {
    let place = |place: u16| {
        let mut id = [0; 10];
        id[8..].copy_from_slice(&place.to_be_bytes());
        Binding { device: DeviceId(id), ..binding(1, 1) }.refresh_due().unwrap().since(NOW)
    };
    let minute = Duration::from_secs(60);
    assert_eq!((place(0), place(0x8000)), (48 * minute, 51 * minute));
    assert!(place(0xffff) > place(0xfffe) && place(0xffff) < 54 * minute);
}

#[test]
fn what_is_due_is_taken_in_order_and_no_more_than_asked_for() {
    let earlier = Binding { registered_at: UnixMillis(NOW.0 - 1000), ..binding(2, 2) };
    let store = begun(vec![binding(1, 1), earlier, plain_binding(3, 3)]);
    assert_eq!(store.table().refresh_outlook(), Some((2, UnixMillis(minutes(48).0 - 200))));
    assert!(taken(&store, UnixMillis(minutes(48).0 - 201)).is_empty());
    assert_eq!(store.table().take_refreshes(minutes(48), 1).len(), 1);
    assert_eq!(taken(&store, minutes(48)), [1]);
}

#[test]
fn what_came_to_nothing_comes_again_later_and_later() {
    let store = begun(vec![binding(1, 1)]);
    let due = minutes(48);
    let mut pauses = Vec::new();
    let mut now = due;
    for _ in 0..10 {
        assert_eq!(taken(&store, now), [1]);
        assert!(taken(&store, now).is_empty());
        let (_, next) = store.table().refresh_outlook().unwrap();
        pauses.push(next.since(now).as_secs());
        now = next;
    }
    assert_eq!(pauses, [5, 5, 10, 20, 40, 80, 160, 320, 600, 600]);
}

#[test]
fn a_refresh_and_a_registration_begin_anew_and_a_refusal_is_the_end() {
    let store = begun(vec![binding(1, 1)]);
    assert_eq!(taken(&store, minutes(48)), [1]);
    store.apply(refreshed(1, upstream(minutes(48), None)));
    assert_eq!(store.table().refresh_outlook(), Some((1, minutes(96))));
    assert_eq!(taken(&store, minutes(96)), [1]);
    store.apply(refreshed(1, upstream(minutes(96), Some("403 Forbidden"))));
    assert_eq!(store.table().refresh_outlook(), None);
    let again = Binding { registered_at: minutes(100), expires_at: minutes(160), ..binding(1, 1) };
    store.apply(register(vec![again]));
    assert_eq!(store.table().refresh_outlook(), Some((1, minutes(148))));
    store.apply(unregister(1, 1, None));
    assert_eq!(store.table().refresh_outlook(), None);
}

#[test]
fn nothing_is_kept_before_it_begins_and_then_everything() {
    let store = Memory::new(LIMITS);
    store.apply(register(vec![binding(1, 1)]));
    assert_eq!(store.table().refresh_outlook(), None);
    assert!(taken(&store, minutes(60)).is_empty());
    store.table().begin_refreshes();
    store.apply(register(vec![binding(2, 2)]));
    assert_eq!(store.table().refresh_outlook(), Some((2, minutes(48))));
}
