//! When a device has its turns, and which of them it has had.

use std::collections::BTreeMap;

use super::*;
use crate::binding::{Aor, App, Provider, PushTarget, PushToken, Tokens, Upstream};
use crate::sip::{ConnectionId, Flow, Transport};

const RULE: ReminderRule = ReminderRule { before: Duration::from_secs(120), are_refreshed: false };
const START: u64 = 1_700_000_000;

fn at(seconds: u64) -> UnixMillis {
    UnixMillis((START + seconds) * 1000)
}

/// Registered at the start for so many seconds.
fn binding(number: u8, granted: u64) -> Binding {
    let mut device = [7; 10];
    (device[8], device[9]) = (number, 0);
    Binding {
        aor: Aor::new("alice", "example.org"),
        device: DeviceId(device),
        instance: None,
        reg_id: None,
        label: None,
        contact: (*b"sip:alice@198.51.100.1").into(),
        contact_params: [].into(),
        path: [].into(),
        flow: Flow {
            transport: Transport::Udp,
            listener: 0,
            connection: ConnectionId::NONE,
            remote: "198.51.100.1:5060".parse().unwrap(),
        },
        home: None,
        call_id: "c".into(),
        cseq: 1,
        registered_at: at(0),
        expires_at: at(granted),
        push: Some(PushTarget {
            provider: Provider::Fcm,
            prid: PushToken::new("x"),
            param: "".into(),
            tokens: Tokens::Single,
            others: Box::default(),
        }),
        push_refused: None,
        app: App::default(),
        upstream: None,
    }
}

fn plan(rule: ReminderRule, now: UnixMillis, bindings: &[Binding]) -> Plan {
    let plan = Plan::default();
    plan.follow(Some(rule), now, || bindings.iter().cloned().map(Arc::new).collect());
    plan
}

fn take(plan: &Plan, seconds: u64, bindings: &[Binding]) -> Vec<DeviceId> {
    let find = |device| bindings.iter().find(|binding| binding.device == device).cloned().map(Arc::new);
    plan.take(at(seconds), 100, find).iter().map(|binding| binding.device).collect()
}

#[test]
fn turns_are_in_the_last_fifth_of_the_time_that_ends_before_the_end() {
    for granted in [240, 241, 600, 3600, 86_400] {
        for number in [0, 1, 127, 255] {
            let Reminders { first, last, end } = Reminders::of(&binding(number, granted), RULE).unwrap();
            let (first, latest) = (first.unwrap(), granted - 120);
            let asleep = first.since(at(0));
            assert!(asleep >= Duration::from_millis(latest * 800) && asleep < Duration::from_millis(latest * 900));
            assert_eq!(last.since(first), Duration::from_millis(latest * 100), "{granted}");
            assert!(last <= at(latest) && end == at(granted));
        }
    }
}

#[test]
fn who_has_none() {
    let refused = |refused: Option<&str>| Binding {
        upstream: Some(Upstream { registered_at: at(0), expires_at: at(3600), refused: refused.map(Into::into) }),
        ..binding(1, 60)
    };
    let refreshed = ReminderRule { are_refreshed: true, ..RULE };
    for (binding, rule, has) in [
        (binding(1, 239), RULE, false),
        (binding(1, 0), ReminderRule { before: Duration::ZERO, ..RULE }, false),
        (Binding { push: None, ..binding(1, 3600) }, RULE, false),
        (Binding { contact: [].into(), ..binding(1, 3600) }, RULE, false),
        (binding(1, 3600), refreshed, false),
        (refused(None), refreshed, false),
        (refused(Some("403")), refreshed, true),
        (refused(None), RULE, true),
        (binding(1, u64::MAX / 4000), RULE, true),
        (binding(1, 3600), ReminderRule { before: Duration::MAX, ..RULE }, false),
    ] {
        assert_eq!(Reminders::of(&binding, rule).is_some(), has, "{binding:?} {rule:?}");
    }
}

#[test]
fn who_wakes_itself_has_a_last_turn_only() {
    for (params, wakes_itself) in [
        (&b";q=0.5;+sip.pnsreg"[..], true),
        (b";+SIP.PNSREG=\"121\"", true),
        (b";+sip.pnsx", false),
        (b";+sip.instance=\"<urn:x>\"", false),
    ] {
        let binding = Binding { contact_params: params.into(), ..binding(255, 3600) };
        let Reminders { first, last, .. } = Reminders::of(&binding, RULE).unwrap();
        assert_eq!(first.is_none(), wakes_itself);
        assert!(!wakes_itself || last >= at(3480) && last <= at(3540));
    }
}

#[test]
fn a_turn_is_had_once_whatever_is_written_about_the_device_meanwhile() {
    let all = [binding(0, 3600)];
    let device = all[0].device;
    let plan = plan(RULE, at(0), &all);
    let is_written = || {
        plan.remove(&all[0]);
        plan.insert(&all[0]);
    };
    is_written();
    assert_eq!(plan.outlook(), Some((1, at(2784))));
    assert_eq!(take(&plan, 2783, &all), []);
    assert_eq!(take(&plan, 2785, &all), [device]);
    is_written();
    assert_eq!(plan.next(&all[0]), Some(at(3132)));
    assert_eq!(take(&plan, 3131, &all), []);
    assert_eq!(take(&plan, 3140, &all), [device]);
    is_written();
    assert_eq!((plan.outlook(), plan.next(&all[0])), (None, None));
    // Another registration has turns of its own.
    let again = Binding { registered_at: at(3200), expires_at: at(6800), ..all[0].clone() };
    plan.remove(&all[0]);
    plan.insert(&again);
    assert_eq!(plan.next(&again), Some(at(3200 + 2784)));
    plan.remove(&again);
    assert_eq!(plan.outlook(), None);
}

#[test]
fn one_that_waited_beyond_its_last_turn_is_taken_once_and_none_after_its_end() {
    let all = [binding(0, 3600)];
    let late = plan(RULE, at(0), &all);
    assert_eq!(take(&late, 3200, &all).len(), 1);
    assert_eq!(late.outlook(), None);
    let too_late = plan(RULE, at(0), &all);
    assert_eq!(take(&too_late, 3600, &all), []);
    assert_eq!(too_late.outlook(), None);
}

#[test]
fn a_new_run_leaves_out_what_the_one_before_it_has_seen_to() {
    let asleep = binding(0, 3600);
    // 2784 and 3132 are its turns. The other one tells how long somebody was there.
    let heard = |seconds| Binding { registered_at: at(seconds), ..binding(255, seconds + 86_400) };
    for (now, heard_at, next) in [
        (2000, 1900, Some(2784)),
        (2800, 2700, Some(3132)),
        (2800, 2799, Some(3132)),
        (3200, 3100, Some(3132)),
        (3200, 3150, None),
        (3200, 9999, Some(3132)),
    ] {
        let plan = plan(RULE, at(now), &[asleep.clone(), heard(heard_at)]);
        assert_eq!(plan.next(&asleep), next.map(at), "{now} {heard_at}");
    }
}

#[test]
fn another_rule_moves_the_turns_and_none_ends_them() {
    let all = [binding(0, 3600)];
    let plan = plan(RULE, at(0), &all);
    let follow = |rule| plan.follow(rule, at(1), || all.iter().cloned().map(Arc::new).collect());
    follow(Some(ReminderRule { before: Duration::from_secs(600), ..RULE }));
    assert_eq!(plan.next(&all[0]), Some(at(2400)));
    follow(None);
    assert_eq!((plan.outlook(), plan.next(&all[0])), (None, None));
}

#[test]
fn a_hundred_thousand_that_registered_within_a_minute_are_spread_over_minutes() {
    let mut all = BTreeMap::new();
    for number in 0..100_000_u64 {
        let mut device = [0; 10];
        // Names are drawn by chance.
        device[2..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let registered_at = UnixMillis(at(0).0 + number * 60_000 / 100_000);
        let expires_at = registered_at.after(Duration::from_secs(3600));
        let device = DeviceId(device);
        all.insert(device, Arc::new(Binding { device, registered_at, expires_at, ..binding(0, 0) }));
    }
    let plan = Plan::default();
    plan.follow(Some(RULE), at(61), || all.values().cloned().collect());
    let (mut first_turns, mut most) = (0, 0);
    for second in 2700..3200 {
        let taken = plan.take(at(second), usize::MAX, |device| all.get(&device).cloned()).len();
        (first_turns, most) = (first_turns + taken, most.max(taken));
    }
    assert!(first_turns >= 100_000 && most < 600, "{first_turns}, {most} in a second");
}
