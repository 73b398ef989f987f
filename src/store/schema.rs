//! How rows look on disk: the keys and values of each keyspace, and the version of both.
//!
//! | keyspace   | key                                      | value                        |
//! |------------|------------------------------------------|------------------------------|
//! | `bindings` | AOR, then the device's 10 bytes          | version byte, [`Binding`]     |
//! | `entries`  | the device's 10 bytes, then the call_ref | version byte, [`BucketEntry`] |
//! | `calls`    | the held call's id, 16 bytes, big-endian | version byte, [`HeldCall`]    |
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
        Key::Claim(device) | Key::Heir(device) => device.0.to_vec(),
    }
}

/// Whose bucket an entry is in, from its key.
pub(super) fn device_of_entry(key: &[u8]) -> Option<DeviceId> {
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

    #[test]
    fn keys_of_long_texts_are_short_and_differ() {
        let long = "x".repeat(100_000);
        let device = DeviceId([7; 10]);
        let one = key(&Key::Entry(device, long.clone().into()));
        let other = key(&Key::Entry(device, (long + "y").into()));
        assert_eq!(one.len(), 10 + TEXT_BYTES_MAX);
        assert_ne!(one, other);
        assert_eq!(device_of_entry(&one), Some(device));
        assert_eq!(key(&Key::Entry(device, "x".repeat(511).into())).len(), 10 + 511);
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
