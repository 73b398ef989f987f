//! What the engine wants done, and what may come of it.

use std::sync::Arc;

use super::super::super::News;
use super::super::super::change::{Applied, HeldCallId, StoreError};
use super::super::journal::Late;
use super::super::record::{Field, Position, Record, Version};
use crate::binding::{Aor, DeviceId};

/// What is to be done outside. Each but the last four is answered by one call of the method of the same name.
#[derive(Debug)]
pub(in super::super) enum Effect {
    /// To [`Engine::wrote`].
    Write(Write),
    /// To [`Engine::fetched`].
    Fetch {
        aor: Aor,
        link: u64,
    },
    /// To [`Engine::scanned`].
    Scan {
        from: ScanPlace,
        with_rows: bool,
        link: u64,
    },
    /// To [`Engine::appended`].
    Append {
        aor: Aor,
        changes: Vec<Late>,
    },
    /// Redis has these: they are done with.
    Forget(Vec<Position>),
    Answer {
        number: u64,
        result: Result<Applied, StoreError>,
    },
    /// Whether memory is right about an AOR that was asked for.
    Looked {
        number: u64,
        is_known: bool,
    },
    /// Another node did something that concerns a call of this one.
    News(News),
}

/// A compare-and-set of one hash.
#[derive(Debug, Clone)]
pub(in super::super) struct Write {
    pub(in super::super) aor: Aor,
    pub(in super::super) link: u64,
    /// Version that it is made on.
    pub(in super::super) base: Version,
    pub(in super::super) version: Version,
    pub(in super::super) fields: Vec<Field>,
    pub(in super::super) run: u64,
    pub(in super::super) lifetime: Lifetime,
    /// What must be findable before the hash is written.
    pub(in super::super) found_by: Vec<Index>,
    /// What need not be findable once it is.
    pub(in super::super) gone: Vec<Index>,
    /// How often the same was tried before.
    pub(in super::super) attempt: u32,
}

/// Whether the hash is to go by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Lifetime {
    AsItIs,
    /// Nothing is left in it but its version, which late writes are still to meet.
    Ends,
    /// There is something in it again.
    Endless,
}

/// Keys beside the hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Index {
    Device(DeviceId),
    /// Of the calls that this node holds.
    Call(Arc<str>, HeldCallId),
}

/// What came of a write.
#[derive(Debug)]
pub(in super::super) enum Wrote {
    Done,
    /// The hash had another version: this is what it holds.
    Behind(Record),
    /// It may have been done, or be done later.
    Unknown(String),
    /// The hash has another version and cannot be read.
    Unreadable(String),
}

/// Why nothing was read.
#[derive(Debug)]
pub(in super::super) enum Unread {
    Away(String),
    Unreadable(String),
}

/// Where a scan is: each node of a Cluster is scanned in turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct ScanPlace {
    pub(in super::super) server: usize,
    pub(in super::super) cursor: u64,
}

/// One step of a scan.
#[derive(Debug, Default)]
pub(in super::super) struct Page {
    pub(in super::super) seen: Vec<(Aor, Seen)>,
    /// `None`: the scan is over.
    pub(in super::super) next: Option<ScanPlace>,
}

#[derive(Debug)]
pub(in super::super) enum Seen {
    Version(Version),
    Record(Record),
}
