//! Token devices: tokens that are bound beside any REGISTER, on each store.

use std::time::Duration;

use sip_push_proxy::binding::{App, Binding, Provider, PushTarget, PushToken, SubscriptionKeys, Tokens};
use sip_push_proxy::store::{Applied, Change, Settlement};

use crate::rows::*;
use crate::subject::{Kind, Subject, on_each};

/// A token that was bound beside any REGISTER.
fn token_device(owner: u32, number: u32, locale: &str) -> Binding {
    let target = binding(owner, number).push.unwrap();
    Binding::of_token(aor(owner), device(number), target, Some(locale.into()), NOW)
}

fn bind(binding: Binding) -> Change {
    Change::BindToken { binding: Box::new(binding), most: 2 }
}

fn an_aor_takes_so_many_tokens_and_no_more(kind: Kind) {
    let mut phones = Subject::open(kind);
    phones.apply(register(vec![plain_binding(1, 9)])).unwrap();
    assert_eq!(phones.apply(bind(token_device(1, 1, "en"))).unwrap(), Applied::Bound(Some(device(1))));
    assert_eq!(phones.apply(bind(token_device(1, 2, "en"))).unwrap(), Applied::Bound(Some(device(2))));
    assert_eq!(phones.apply(bind(token_device(1, 3, "en"))).unwrap(), Applied::Bound(None));
    assert_eq!(
        phones.apply(bind(token_device(1, 1, "ru"))).unwrap(),
        Applied::Bound(Some(device(1))),
        "it has a place"
    );
    let table = phones.table();
    assert_eq!(table.lookup(&aor(1)).len(), 3);
    assert_eq!(table.by_device(device(1)).unwrap().app.locale.as_deref(), Some("ru"));
}

fn a_token_that_a_phone_registered_with_is_that_phones(kind: Kind) {
    let mut phones = Subject::open(kind);
    phones.apply(register(vec![binding(1, 1)])).unwrap();
    let same = Binding { device: device(7), ..token_device(1, 1, "de") };
    assert_eq!(phones.apply(bind(same)).unwrap(), Applied::Bound(Some(device(1))));
    let row = phones.table().lookup(&aor(1));
    let app = App { locale: Some("de".into()), ..binding(1, 1).app };
    assert_eq!(row.iter().map(|bound| Binding::clone(bound)).collect::<Vec<_>>(), [Binding { app, ..binding(1, 1) }]);
}

fn a_phone_that_registers_with_a_token_has_its_entries_language_and_keys(kind: Kind) {
    let mut phones = Subject::open(kind);
    let keys = Tokens::Subscription(SubscriptionKeys { p256dh: [4; 65], auth: [5; 16] });
    let mut token = Binding { device: device(7), ..token_device(1, 1, "de") };
    token.push.as_mut().unwrap().tokens = keys.clone();
    phones.apply(bind(token)).unwrap();
    phones.apply(hold(1, 1, &[7])).unwrap();
    phones.apply(register(vec![binding(1, 1)])).unwrap();
    let row = phones.table().lookup(&aor(1));
    assert_eq!(row.iter().map(|bound| bound.device).collect::<Vec<_>>(), [device(1)]);
    assert_eq!((row[0].app.locale.as_deref(), &row[0].push.as_ref().unwrap().tokens), (Some("de"), &keys));
    // What was live under the token's name is settled under it.
    phones.apply(settle(1, 1, &[(7, Settlement::Missed)], true)).unwrap();
    let applied = phones.apply(claim(1, 1)).unwrap();
    assert!(matches!(&applied, Applied::Claimed(entries) if entries.len() == 1), "{applied:?}");
}

fn a_token_that_moves_keeps_its_name_and_leaves_its_entries(kind: Kind) {
    let mut phones = Subject::open(kind);
    phones.apply(bind(token_device(1, 1, "de"))).unwrap();
    phones.apply(hold(1, 1, &[1])).unwrap();
    phones.apply(Change::Remove { aor: aor(1), device: device(1) }).unwrap();
    let target = binding(1, 1).push.unwrap();
    phones.apply(bind(Binding::of_token(aor(2), device(1), target, None, NOW))).unwrap();
    assert_eq!(phones.table().by_device(device(1)).unwrap().aor, aor(2));
    assert_eq!(phones.table().entries(&device(1)), []);
}

fn a_token_that_moves_is_found_whichever_of_two_news_comes_first(kind: Kind) {
    let mut phones = Subject::open(kind);
    phones.apply(bind(token_device(1, 1, "de"))).unwrap();
    let target = binding(1, 1).push.unwrap();
    phones.apply(bind(Binding::of_token(aor(2), device(1), target, None, NOW))).unwrap();
    for _ in 0..2 {
        phones.apply(Change::Remove { aor: aor(1), device: device(1) }).unwrap();
        assert_eq!(phones.table().by_device(device(1)).unwrap().aor, aor(2));
    }
}

fn a_token_is_of_the_users_that_registered_with_it_last(kind: Kind) {
    let mut phones = Subject::open(kind);
    let fcm = |text: u32| binding(1, text).push.unwrap();
    let at = |owner: u32, number: u32, push: &PushTarget, seconds: u64| {
        let registered_at = NOW.after(Duration::from_secs(seconds));
        register(vec![Binding { push: Some(push.clone()), registered_at, ..binding(owner, number) }])
    };
    // Those of which two other users have the token, and registered with it later.
    let over = |phones: &Subject| {
        let table = phones.table();
        let all = table.page(None, "", 99);
        let over = all.iter().filter(|binding| table.has_too_many_aors(binding, 2));
        over.map(|binding| binding.cseq).collect::<Vec<_>>()
    };
    for owner in 1..=3 {
        phones.apply(at(owner, owner, &fcm(1), owner.into())).unwrap();
    }
    assert_eq!(over(&phones), [1]);
    phones.apply(at(3, 33, &fcm(1), 4)).unwrap();
    assert_eq!(over(&phones), [1], "a user counts once");
    phones.apply(at(4, 4, &PushTarget { provider: Provider::Apns, ..fcm(1) }, 5)).unwrap();
    assert_eq!(over(&phones), [1], "it is another service's token");
    phones.apply(at(1, 1, &fcm(1), 6)).unwrap();
    assert_eq!(over(&phones), [2]);
    phones.restart(NOW);
    assert_eq!(over(&phones), [2], "and after a restart");
    phones.apply(at(3, 3, &fcm(7), 7)).unwrap();
    assert_eq!(over(&phones), [2], "one of its phones has it still");
    phones.apply(at(3, 33, &fcm(7), 8)).unwrap();
    assert!(over(&phones).is_empty());
    phones.apply(at(5, 5, &fcm(1), 9)).unwrap();
    assert_eq!(over(&phones), [2]);
    phones.apply(unregister(1, 1, None)).unwrap();
    assert!(over(&phones).is_empty());
    phones.apply(at(6, 6, &fcm(1), 10)).unwrap();
    assert_eq!(over(&phones), [2]);
    phones.apply(register(vec![plain_binding(6, 6)])).unwrap();
    assert!(over(&phones).is_empty());
}

fn either_token_of_an_apple_device_may_be_of_others(kind: Kind) {
    let mut phones = Subject::open(kind);
    let apple = |owner: u32, voip: &str, remote: &str| {
        let token = |text: &str| (!text.is_empty()).then(|| PushToken::new(text));
        let tokens = Tokens::Apple { team: "".into(), bundle: "".into(), voip: token(voip), remote: token(remote) };
        let prid = PushToken::new(format!("{voip}:voip&{remote}:remote"));
        let push =
            Some(PushTarget { provider: Provider::Apns, prid, param: "".into(), tokens, others: Box::default() });
        let registered_at = NOW.after(Duration::from_secs(owner.into()));
        register(vec![Binding { push, registered_at, ..binding(owner, owner) }])
    };
    phones.apply(apple(1, "aa", "bb")).unwrap();
    phones.apply(apple(2, "aa", "")).unwrap();
    let is_over = |phones: &Subject, number| {
        let table = phones.table();
        table.has_too_many_aors(&table.by_device(device(number)).unwrap(), 2)
    };
    assert!(!is_over(&phones, 1));
    phones.apply(apple(3, "cc", "bb")).unwrap();
    assert!(is_over(&phones, 1) && !is_over(&phones, 2) && !is_over(&phones, 3));
}

fn a_token_of_a_further_service_counts_like_that_of_the_first(kind: Kind) {
    let mut phones = Subject::open(kind);
    let fcm = |number: u32| binding(number, number).push.unwrap();
    let with_other = |owner: u32| {
        let other = PushTarget { provider: Provider::RuStore, ..fcm(9) };
        let push = Some(PushTarget { others: [other].into(), ..fcm(owner) });
        let registered_at = NOW.after(Duration::from_secs(owner.into()));
        register(vec![Binding { push, registered_at, ..binding(owner, owner) }])
    };
    let is_over = |phones: &Subject, number| {
        let table = phones.table();
        table.has_too_many_aors(&table.by_device(device(number)).unwrap(), 2)
    };
    for owner in 1..=3 {
        phones.apply(with_other(owner)).unwrap();
    }
    assert!(is_over(&phones, 1) && !is_over(&phones, 2) && !is_over(&phones, 3));
    phones.restart(NOW);
    assert!(is_over(&phones, 1), "and after a restart");
    let push = Some(fcm(3));
    phones
        .apply(register(vec![Binding { push, registered_at: NOW.after(Duration::from_secs(9)), ..binding(3, 3) }]))
        .unwrap();
    assert!(!is_over(&phones, 1), "it has left its other service");
}

fn a_token_that_moves_stays_counted(kind: Kind) {
    let mut phones = Subject::open(kind);
    phones.apply(register(vec![Binding { push: binding(1, 1).push, ..binding(3, 3) }])).unwrap();
    phones.apply(bind(token_device(1, 1, "de"))).unwrap();
    phones.apply(bind(Binding { aor: aor(2), ..token_device(1, 1, "de") })).unwrap();
    phones.apply(Change::Remove { aor: aor(1), device: device(1) }).unwrap();
    let table = phones.table();
    assert!(table.has_too_many_aors(&table.by_device(device(3)).unwrap(), 1));
    phones.apply(Change::Remove { aor: aor(2), device: device(1) }).unwrap();
    let table = phones.table();
    assert!(!table.has_too_many_aors(&table.by_device(device(3)).unwrap(), 1));
}

on_each!(Memory as memory, Embedded as embedded, Redis as redis: [
    an_aor_takes_so_many_tokens_and_no_more,
    a_token_that_a_phone_registered_with_is_that_phones,
    a_phone_that_registers_with_a_token_has_its_entries_language_and_keys,
    a_token_that_moves_keeps_its_name_and_leaves_its_entries,
    a_token_that_moves_is_found_whichever_of_two_news_comes_first,
    a_token_is_of_the_users_that_registered_with_it_last,
    either_token_of_an_apple_device_may_be_of_others,
    a_token_of_a_further_service_counts_like_that_of_the_first,
    a_token_that_moves_stays_counted,
]);
