//! One AOR as Redis has it: a hash, its fields, and the notice of a change to it (design: store).
//!
//! | key                    | type   | what                                                                            |
//! |------------------------|--------|---------------------------------------------------------------------------------|
//! | `spp:2:{user@domain}`  | hash   | all rows of the AOR, see below; with nothing left in it, it goes after a week   |
//! | `spp:2:device:DEVICE`  | string | the device's AOR: a hint for the time until everything is in memory             |
//! | `spp:2:calls:NODE`     | set    | 16 bytes of a held call's id and its AOR: what the node looks for when it starts |
//! | `spp:2:nodes`          | hash   | by node: version byte, its last sign of life ([`Beat`]); taken away when it stops   |
//! | `spp:2:secret`         | string | 32 random bytes that all nodes derive device names and flow tokens from          |
//!
//! | field of the hash  | value                                                                                   |
//! |--------------------|-----------------------------------------------------------------------------------------|
//! | `v`                | version: a number, larger with each change, and a stamp of its write: `NUMBER-STAMP`     |
//! | `w:NODE`           | the node's last change that is in here ([`Position`], 24 bytes)                          |
//! | `b:DEVICE`         | version byte, binding                                                                   |
//! | `e:DEVICE:CALLREF` | version byte, bucket entry                                                              |
//! | `k:DEVICE`         | version byte, open claim on the bucket                                                  |
//! | `h:DEVICE`         | version byte, the name that the device has now, while calls are settled under this one  |
//! | `m:DEVICE`         | version byte, texts that wait for the device                                            |
//! | `c:ID`             | version byte, owning node, its start, held call                                               |
//!
//! `2` in the keys is the schema's version. A program that reads another version uses other keys, so both can stand on
//! one Redis; an upgrade starts it empty beside the old one, or from what the nodes hold in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::bucket::Claim;
use super::super::change::{BucketEntry, HeldCall, HeldCallId};
use super::super::draft::{Key, Row, Value};
use super::super::schema;
use super::super::table::Held;
use crate::binding::{Aor, Binding, DeviceId, Home};
use crate::clock::UnixMillis;

/// Channel of the notices.
pub(super) const CHANNEL: &str = "spp:2:changes";
pub(super) const SECRET: &str = "spp:2:secret";
pub(super) const NODES: &str = "spp:2:nodes";
/// What every AOR's key begins with, as a pattern.
pub(super) const HASHES: &str = "spp:2:{*";
const HASH_START: &str = "spp:2:{";
const HASH_END: &str = "}";

/// The hash tag in braces puts all that is ever kept under an AOR's name on one node of a Cluster.
pub(super) fn hash_key(aor: &Aor) -> String {
    format!("{HASH_START}{aor}{HASH_END}")
}

pub(super) fn device_key(device: DeviceId) -> String {
    format!("spp:2:device:{device}")
}

pub(super) fn calls_key(node: &str) -> String {
    format!("spp:2:calls:{node}")
}

/// A node's sign of life, made anew several times in `node.lease_s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    /// Which start of the node.
    pub(super) run: u64,
    /// By the node's own clock. To others it means only that it is another beat than the one before.
    pub(super) at: UnixMillis,
    /// Where others reach it.
    pub(super) home: Option<Home>,
}

/// Whose hash a key is.
pub(super) fn aor_of_key(key: &[u8]) -> Option<Aor> {
    aor_of_text(std::str::from_utf8(key).ok()?.strip_prefix(HASH_START)?.strip_suffix(HASH_END)?)
}

pub(super) fn aor_of_text(text: &str) -> Option<Aor> {
    // The user part may contain an @ itself; the domain cannot.
    let (user, domain) = text.rsplit_once('@')?;
    Some(Aor::new(user, domain))
}

/// A member of a node's set of held calls.
pub(super) fn call_member(id: HeldCallId, aor: &Aor) -> Vec<u8> {
    [&id.0.to_be_bytes(), aor.as_str().as_bytes()].concat()
}

pub(super) fn aor_of_member(member: &[u8]) -> Option<Aor> {
    aor_of_text(std::str::from_utf8(member.get(16..)?).ok()?)
}

/// Where a change stands among all changes of one node. An AOR's changes reach Redis in this order, so that the last
/// position in a hash tells of each change whether it is in there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in super::super) struct Position {
    /// Random, made with the node's journal: what a node of the same name and another journal did tells nothing.
    pub(in super::super) epoch: u64,
    /// Larger with each start on this journal.
    pub(in super::super) generation: u64,
    pub(in super::super) number: u64,
}

impl Position {
    fn to_bytes(self) -> Vec<u8> {
        [self.epoch, self.generation, self.number].iter().flat_map(|part| part.to_be_bytes()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.chunks_exact(8).filter_map(|part| part.try_into().ok().map(u64::from_be_bytes));
        let position = Self { epoch: parts.next()?, generation: parts.next()?, number: parts.next()? };
        (bytes.len() == 24).then_some(position)
    }

    /// Whether a change at `other` has been done once the one at `self` has.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self >= other
    }
}

/// Who this node is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) node: Arc<str>,
    /// Random for each start.
    pub(super) run: u64,
    /// Where others reach it.
    pub(super) home: Option<Home>,
}

/// Of an AOR's hash: no two writes of whatever nodes make the same, not even after Redis has lost one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    /// Larger with each write; 0: there is no hash.
    pub(super) number: u64,
    /// Of this write among all, by chance.
    pub(super) stamp: u64,
}

impl Version {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (number, stamp) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { number: number.parse().ok()?, stamp: u64::from_str_radix(stamp, 16).ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}", self.number, self.stamp)
    }
}

/// An AOR's hash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) version: Version,
    pub(super) rows: BTreeMap<Key, Value>,
    /// Of this node.
    pub(super) mark: Option<Position>,
}

impl Record {
    /// Reads the fields of a hash. The error names the field.
    pub(super) fn read<'f>(
        aor: &Aor,
        identity: &Identity,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Result<Self, String> {
        let mut record = Self::default();
        for (field, value) in fields {
            let wrong = |what: String| format!("field {}: {what}", field.escape_ascii());
            match field {
                b"v" => record.version = Version::parse(value).ok_or_else(|| wrong("is not a version".to_owned()))?,
                [b'w', b':', name @ ..] if name == identity.node.as_bytes() => {
                    let mark = Position::from_bytes(value).ok_or_else(|| wrong("is not a position".to_owned()))?;
                    record.mark = Some(mark);
                }
                [b'w', b':', ..] => {}
                _ => {
                    let (key, value) = row(aor, identity, field, value).map_err(wrong)?;
                    record.rows.extend(value.map(|value| (key, value)));
                }
            }
        }
        Ok(record)
    }

    pub(super) fn change(&mut self, rows: &[Row]) {
        for (key, value) in rows {
            match value {
                Some(value) => self.rows.insert(key.clone(), value.clone()),
                None => self.rows.remove(key),
            };
        }
    }
}

/// As this node sees it.
fn row(aor: &Aor, identity: &Identity, field: &[u8], value: &[u8]) -> Result<Row, String> {
    let (kind, name) = field.split_at_checked(2).ok_or("is not known")?;
    let device = || name.get(..DeviceId::LENGTH).and_then(DeviceId::parse).ok_or("names no device");
    match kind {
        b"b:" => {
            let binding: Binding = schema::decode(value)?;
            Ok((Key::Binding(aor.clone(), device()?), Some(Value::Binding(binding.into()))))
        }
        b"e:" => {
            let entry: BucketEntry = schema::decode(value)?;
            Ok((Key::Entry(device()?, entry.call_ref.clone()), Some(Value::Entry(entry.into()))))
        }
        b"k:" => Ok((Key::Claim(device()?), Some(Value::Claim(schema::decode::<Claim>(value)?)))),
        b"h:" => Ok((Key::Heir(device()?), Some(Value::Heir(schema::decode(value)?)))),
        b"m:" => Ok((Key::Messages(device()?), Some(Value::Messages(schema::decode(value)?)))),
        b"c:" => {
            let (owner, run, call): (Arc<str>, u64, HeldCall) = schema::decode(value)?;
            let owner = (owner != identity.node).then_some(owner);
            Ok((Key::Call(call.id), Some(Value::Call(Held { call: call.into(), owner, run }))))
        }
        _ => Err("is not known".to_owned()),
    }
}

/// One field to be written, or to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Field {
    pub(super) name: Box<[u8]>,
    pub(super) value: Option<Box<[u8]>>,
}

/// Rows as fields of the hash.
pub(super) fn fields(node: &str, rows: &[Row]) -> Result<Vec<Field>, String> {
    rows.iter().map(|(key, value)| field(node, key, value.as_ref()).map_err(|error| error.to_string())).collect()
}

/// That this node's changes up to `mark` are in.
pub(super) fn mark_field(node: &str, mark: Position) -> Field {
    Field { name: format!("w:{node}").into_bytes().into(), value: Some(mark.to_bytes().into()) }
}

fn field(node: &str, key: &Key, value: Option<&Value>) -> Result<Field, postcard::Error> {
    let name = match key {
        Key::Binding(_, device) => format!("b:{device}").into_bytes(),
        Key::Entry(device, call_ref) => [format!("e:{device}:").as_bytes(), &*schema::text(call_ref)].concat(),
        Key::Call(id) => format!("c:{:032x}", id.0).into_bytes(),
        Key::Claim(device) => format!("k:{device}").into_bytes(),
        Key::Heir(device) => format!("h:{device}").into_bytes(),
        Key::Messages(device) => format!("m:{device}").into_bytes(),
    };
    let value = match value {
        None => None,
        Some(Value::Call(held)) => {
            Some(schema::encode(&(held.owner.as_deref().unwrap_or(node), held.run, &*held.call))?)
        }
        Some(value) => Some(schema::value(value)?),
    };
    Ok(Field { name: name.into(), value: value.map(Into::into) })
}

/// What a node tells the others of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// The run of the node that made it: one's own are no news.
    pub(super) run: u64,
    pub(super) aor: Aor,
    /// Version that it was made on.
    pub(super) base: Version,
    pub(super) version: Version,
    pub(super) fields: Vec<Field>,
}

impl Notice {
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        schema::encode(self).map_err(|error| error.to_string())
    }

    pub(super) fn from_bytes(bytes: &Bytes) -> Result<Self, String> {
        schema::decode(bytes)
    }

    /// The rows that changed, as this node sees them.
    pub(super) fn rows(&self, identity: &Identity) -> Result<Vec<Row>, String> {
        let is_row = |field: &&Field| !field.name.starts_with(b"w:");
        self.fields
            .iter()
            .filter(is_row)
            .map(|field| match &field.value {
                Some(value) => row(&self.aor, identity, &field.name, value),
                None => gone(&self.aor, &field.name).map(|key| (key, None)),
            })
            .collect()
    }
}

/// Which row a field was. Of a call_ref that was too long for a field only the field is known.
fn gone(aor: &Aor, field: &[u8]) -> Result<Key, String> {
    let (kind, name) = field.split_at_checked(2).ok_or("is not known")?;
    let (device, rest) = name.split_at_checked(DeviceId::LENGTH).ok_or("names no device")?;
    let device_id = || DeviceId::parse(device).ok_or("names no device");
    match kind {
        b"b:" => Ok(Key::Binding(aor.clone(), device_id()?)),
        b"e:" => {
            let call_ref = rest.strip_prefix(b":").and_then(|text| std::str::from_utf8(text).ok());
            let call_ref = call_ref.filter(|text| !schema::is_cut(text)).ok_or("has no whole call_ref")?;
            Ok(Key::Entry(device_id()?, call_ref.into()))
        }
        b"k:" => Ok(Key::Claim(device_id()?)),
        b"h:" => Ok(Key::Heir(device_id()?)),
        b"m:" => Ok(Key::Messages(device_id()?)),
        b"c:" => {
            let id = std::str::from_utf8(name).ok().and_then(|text| u128::from_str_radix(text, 16).ok());
            Ok(Key::Call(HeldCallId(id.ok_or("names no call")?)))
        }
        _ => Err("is not known".to_owned()),
    }
}
