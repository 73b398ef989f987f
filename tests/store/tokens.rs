//! Token devices: tokens that are bound beside any REGISTER, on each store.

use sip_push_proxy::binding::{App, Binding, SubscriptionKeys, Tokens};
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

on_each!(Memory as memory, Embedded as embedded, Redis as redis: [
    an_aor_takes_so_many_tokens_and_no_more,
    a_token_that_a_phone_registered_with_is_that_phones,
    a_phone_that_registers_with_a_token_has_its_entries_language_and_keys,
    a_token_that_moves_keeps_its_name_and_leaves_its_entries,
    a_token_that_moves_is_found_whichever_of_two_news_comes_first,
]);
