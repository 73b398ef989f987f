//! What the store keeps and how it is changed: the words between the core and any kind of store.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::messages::Message;
use crate::binding::{Aor, Binding, DeviceId, PushToken, Upstream};
use crate::clock::UnixMillis;
use crate::sip::flow::Flow;

/// One INVITE that a device was pushed for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketEntry {
    pub call_ref: Box<str>,
    /// The caller's bare number as ECSS shows it; `anonymous` when the caller hides it.
    pub remote_uri: Box<str>,
    pub display_name: Box<str>,
    pub anonymous: bool,
    pub invited_at: UnixMillis,
    pub state: EntryState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryState {
    /// Its call is still held or ringing.
    Live,
    /// Its call is over and the device never saw it: to be reported by a missed_calls push.
    Missed,
}

/// A call to phones as it must be known after a crash, to be taken up again or at least counted as missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldCall {
    pub id: HeldCallId,
    pub call_ref: Box<str>,
    pub aor: Aor,
    /// The INVITE byte for byte as it came, and the flow it came on.
    pub invite: Bytes,
    pub flow: Flow,
    /// Tag of our own provisional and final responses.
    pub to_tag: Box<str>,
    pub held_at: UnixMillis,
    /// When the wait ends.
    pub until: UnixMillis,
    pub devices: Vec<DeviceId>,
}

/// Names a held call across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldCallId(pub u128);

impl HeldCallId {
    /// `random` without its last octet, and the worker that holds the call: it is part of the branches of the call,
    /// which are to be the same after a restart.
    pub fn new(random: u128, worker: u8) -> Self {
        Self(random & !0xff | u128::from(worker))
    }

    pub fn worker(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

/// One atomic change: all of it or nothing, durable before it is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// An accepted REGISTER. Bindings in `put` replace those of the same device; those in `remove` end, and their
    /// bucket entries go to the device in `heir` (same phone under a new name) or, without one, stay for as long as they
    /// last: an app may clean up before it registers, and comes back under the same name. A token device
    /// with a token of one in `put` ends, too: that one is its heir. What is known of device or token and no REGISTER
    /// says is kept ([`Binding::learn_from`]).
    Register { aor: Aor, put: Vec<Binding>, remove: Vec<Removal> },
    /// The provider says that the token is dead. Ends the binding only if it still has this token and was not
    /// registered again after `sent_at`, nor after `dead_since` where the provider tells it. The remote one of two
    /// tokens goes alone: calls reach the device by the other. The bucket of a device that has a name beside its token
    /// stays, for when it comes back with another.
    TokenDead { aor: Aor, device: DeviceId, token: PushToken, sent_at: UnixMillis, dead_since: Option<UnixMillis> },
    /// An operator's command.
    Remove { aor: Aor, device: DeviceId },
    /// A call has begun: the call, for a later run to take it up, and a live entry in the bucket of each of its devices.
    /// Repeated with the same id it adds the devices and entries that are not there yet. A device without a binding
    /// gets no entry, for nobody would come for it, and one without push parameters neither, for it cannot be told.
    Hold { call: HeldCall, entry: BucketEntry },
    /// What became of a call for one or more of its devices, before or at its end. `ended` removes the held call.
    Settle { aor: Aor, id: HeldCallId, call_ref: Box<str>, devices: Vec<(DeviceId, Settlement)>, ended: bool },
    /// Takes all missed entries of a device for one missed_calls push; a second claim before the first is
    /// [`Change::Reported`] or [`Change::Release`]d gets nothing. Only entries of devices absent for as long as
    /// configured are claimed; the caller decides that.
    Claim { aor: Aor, device: DeviceId },
    /// The provider accepted the missed_calls push with these calls: they are done with.
    Reported { aor: Aor, device: DeviceId, call_refs: Vec<Box<str>> },
    /// The push of a claim failed for a passing reason: its entries may be claimed again.
    Release { aor: Aor, device: DeviceId },
    /// What the softswitch said when the device was refreshed in its sleep. Counts only for the registration that was
    /// refreshed: a device that has registered again since has asked for itself.
    Refreshed { aor: Aor, device: DeviceId, registered_at: UnixMillis, upstream: Upstream },
    /// A token device ([`Binding::of_token`]), or new words about it. Where a device of the AOR has registered with the
    /// token already, only locale and keys are for that one. With `most` token devices an AOR takes no more.
    BindToken { binding: Box<Binding>, most: usize },
    /// The push service has accepted the push of a text, which a device is to fetch. A device without a binding gets
    /// none: nobody would come for it.
    ///
    /// It is kept only then, so that nobody fetches what he was not called for. A crash between the two loses the text and
    /// not the push: the browser is woken, and finds nothing.
    Message { aor: Aor, device: DeviceId, message: Message },
    /// Takes all texts of a device to be handed over, once: whoever comes at the same time, to whichever node, gets none of
    /// them. While the store cannot be asked nothing is taken. Who asks and is gone before they are handed over loses
    /// them, and so does a crash then.
    PickUp { aor: Aor, device: DeviceId },
    /// The texts of a pick-up that nobody got, because Redis was away before it had answered. They are put back only if the
    /// pick-up with this number was done, as they may be another node's by now. The store alone makes it.
    GiveBack { aor: Aor, device: DeviceId, messages: Arc<[Message]>, pick_up: u64 },
}

impl Change {
    /// Whose rows it is about. A change is about one AOR.
    pub fn aor(&self) -> &Aor {
        match self {
            Self::Register { aor, .. }
            | Self::TokenDead { aor, .. }
            | Self::Remove { aor, .. }
            | Self::Settle { aor, .. }
            | Self::Claim { aor, .. }
            | Self::Reported { aor, .. }
            | Self::Release { aor, .. }
            | Self::Refreshed { aor, .. }
            | Self::Message { aor, .. }
            | Self::PickUp { aor, .. }
            | Self::GiveBack { aor, .. } => aor,
            Self::Hold { call, .. } => &call.aor,
            Self::BindToken { binding, .. } => &binding.aor,
        }
    }
}

/// The end of a binding by a REGISTER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    pub device: DeviceId,
    pub heir: Option<DeviceId>,
}

/// What becomes of a bucket entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settlement {
    /// Answered, seen by the device, or not a missed call: the entry goes.
    Seen,
    /// The call is over and the device never saw it.
    Missed,
}

/// Names a change to the one who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Sent once for each submitted change; for changes of the same AOR in the order of submission.
#[derive(Debug)]
pub struct Reply {
    pub ticket: Ticket,
    pub result: Result<Applied, StoreError>,
}

/// What a change found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// For [`Change::Claim`], oldest first; may be empty.
    Claimed(Vec<BucketEntry>),
    /// For [`Change::PickUp`], oldest first; may be empty.
    PickedUp(Arc<[Message]>),
    /// For [`Change::TokenDead`] and [`Change::Remove`]: whether a binding ended by it.
    Ended(bool),
    /// For [`Change::BindToken`]: the device that has the token; `None`: the AOR has as many as it may.
    Bound(Option<DeviceId>),
}

/// Why a change is not durable. Nothing of it is in effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store's queue is full")]
    Busy,
    #[error("the store cannot write: {0}")]
    Broken(String),
}
