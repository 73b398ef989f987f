//! How rows look on disk: the keys and values of each keyspace, and the version of both.
//!
//! | keyspace   | key                                      | value                        |
//! |------------|------------------------------------------|------------------------------|
//! | `bindings` | AOR, then the device's 10 bytes          | version byte, [`Binding`]     |
//! | `entries`  | the device's 10 bytes, then the call_ref | version byte, [`BucketEntry`] |
//! | `calls`    | the held call's id, 16 bytes, big-endian | version byte, [`HeldCall`]    |
//! | `messages` | the device's 10 bytes                    | version byte, [`Messages`]    |
//! | `meta`     | `schema`                                 | version byte                 |
//! | `meta`     | `secret`                                 | 32 random bytes              |
//!
//! Values are encoded by postcard, field after field: any change of a field is a new version.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::bucket::Claim;
use super::change::{BucketEntry, HeldCall};
use super::draft::{Key, Value};
use super::messages::Messages;
use crate::binding::{Binding, DeviceId};

/// The version that this program reads and writes.
pub(super) const VERSION: u8 = 2;

/// Texts of peers stay below this length in keys; a longer one is its beginning and its hash, this long together. The
/// engine refuses keys of 64 KiB, which a peer could otherwise send.
const TEXT_BYTES_MAX: usize = 512;
const HASH_BYTES: usize = 32;

/// The key of a row inside its keyspace.
pub(super) fn key(key: &Key) -> Vec<u8> {
    match key {
        Key::Binding(aor, device) => [&*text(aor.as_str()), &device.0].concat(),
        Key::Entry(device, call_ref) => [&device.0, &*text(call_ref)].concat(),
        Key::Call(id) => id.0.to_be_bytes().to_vec(),
        Key::Claim(device) | Key::Heir(device) | Key::Messages(device) => device.0.to_vec(),
    }
}

/// Whose entry or texts a row has, from its key.
pub(super) fn device_of(key: &[u8]) -> Option<DeviceId> {
    key.first_chunk().copied().map(DeviceId)
}

/// The value of a row.
pub(super) fn value(value: &Value) -> Result<Vec<u8>, postcard::Error> {
    match value {
        Value::Binding(binding) => encode::<Binding>(binding),
        Value::Entry(entry) => encode::<BucketEntry>(entry),
        Value::Call(held) => encode::<HeldCall>(&held.call),
        Value::Claim(claim) => encode::<Claim>(claim),
        Value::Heir(heir) => encode::<DeviceId>(heir),
        Value::Messages(messages) => encode::<Messages>(messages),
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_io(value, vec![VERSION])
}

/// Reads a value back, to its last byte. The error says what is wrong.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, more)) => Err(format!("{} bytes too many", more.len())),
            Err(error) => Err(error.to_string()),
        },
        Some((version, _)) => Err(format!("version {version} of the value is unknown")),
        None => Err("the value is empty".to_owned()),
    }
}

/// A peer's text as it is in keys.
pub(super) fn text(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    match bytes.get(..TEXT_BYTES_MAX - HASH_BYTES) {
        Some(beginning) if bytes.len() >= TEXT_BYTES_MAX => [beginning, &*Sha256::digest(bytes)].concat(),
        _ => bytes.to_vec(),
    }
}

/// Whether a text from a key is only the beginning of a longer one.
pub(super) fn is_cut(text: &str) -> bool {
    text.len() >= TEXT_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{App, Provider, PushTarget, PushToken, SubscriptionKeys, Tokens};
    use crate::store::Change;

    #[test]
    fn keys_of_long_texts_are_short_and_differ() {
        let long = "x".repeat(100_000);
        let device = DeviceId([7; 10]);
        let one = key(&Key::Entry(device, long.clone().into()));
        let other = key(&Key::Entry(device, (long + "y").into()));
        assert_eq!(one.len(), 10 + TEXT_BYTES_MAX);
        assert_ne!(one, other);
        assert_eq!(device_of(&one), Some(device));
        assert_eq!(key(&Key::Entry(device, "x".repeat(511).into())).len(), 10 + 511);
    }

    /// A binding as it was written before there were locales and keys of subscriptions.
    const OLD: &[u8] = b"\x02\x03a@h\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\0\x0fsip:a@192.0.2.1\0\0\0\0\0\0\
        \xc0\0\x02\x01\xc4\x27\0\x01c\x01\xe8\x07\xd0\x0f\x01\0\x01t\0\0\0\x01\tphone/1.0\0";

    #[test]
    fn a_binding_of_an_earlier_version_is_read_and_written_as_it_was() {
        let binding: Binding = decode(OLD).unwrap();
        assert_eq!(binding.app, App { user_agent: Some("phone/1.0".into()), locale: None });
        assert_eq!(binding.push.as_ref().unwrap().tokens, Tokens::Single);
        assert_eq!(encode(&binding).unwrap(), OLD);

        // The same in the middle of a change, as a journal has it.
        let mute = Binding { app: App::default(), ..binding.clone() };
        let change = Change::Register { aor: binding.aor.clone(), put: vec![mute, binding], remove: vec![] };
        let row = OLD.strip_prefix(&[VERSION]).unwrap();
        let mute = row.strip_suffix(b"\x01\tphone/1.0\0").unwrap();
        let journal = [&[VERSION, 0][..], b"\x03a@h\x02", mute, b"\0\0", row, b"\0"].concat();
        assert_eq!(decode::<Change>(&journal).as_ref(), Ok(&change));
        assert_eq!(encode(&change).unwrap(), journal);
    }

    #[test]
    fn locale_and_keys_come_back() {
        let old: Binding = decode(OLD).unwrap();
        let mut p256dh = [9; 65];
        p256dh[64] = 1;
        let keys = Tokens::Subscription(SubscriptionKeys { p256dh, auth: [8; 16] });
        let push = old.push.clone().map(|push| PushTarget { tokens: keys, ..push });
        for user_agent in [None, Some("phone/1.0".into())] {
            let app = App { user_agent, locale: Some("zh-Hant-TW".into()) };
            let binding = Binding { app, push: push.clone(), ..old.clone() };
            assert_eq!(decode(&encode(&binding).unwrap()), Ok(binding));
        }
    }

    #[test]
    fn further_services_come_back_and_change_no_row_without_them() {
        let old: Binding = decode(OLD).unwrap();
        let first = old.push.clone().unwrap();
        assert!(first.others.is_empty());
        let apple =
            Tokens::Apple { team: "T".into(), bundle: "b".into(), voip: Some(PushToken::new("00ff")), remote: None };
        let iphone = PushTarget { provider: Provider::Apns, tokens: apple.clone(), ..first.clone() };
        let keys = Tokens::Subscription(SubscriptionKeys { p256dh: [9; 65], auth: [8; 16] });
        for tokens in [Tokens::Single, apple, keys] {
            let others = [iphone.clone(), PushTarget { provider: Provider::RuStore, ..first.clone() }].into();
            let push = Some(PushTarget { tokens, others, ..first.clone() });
            let binding = Binding { push, ..old.clone() };
            assert_eq!(decode(&encode(&binding).unwrap()), Ok(binding));
        }
    }

    #[test]
    fn values_that_are_not_ours_are_refused() {
        let good = encode(&"text".to_owned()).unwrap();
        assert_eq!(decode::<String>(&good), Ok("text".to_owned()));
        for bad in [&[][..], &[VERSION + 1, 0], &good[..good.len() - 1], &[&good[..], b"!"].concat()] {
            assert!(decode::<String>(bad).is_err(), "{bad:?}");
        }
    }
}
