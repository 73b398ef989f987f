//! Changed copies of a message: a list of cuts and insertions, written out once.
//!
//! What no edit touches is copied in one piece, so forwarded headers keep their order, spelling and spacing
//! (RFC 3261 §16.6 step 1).

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

/// Edits of one source. Positions are those of the source, whatever was edited before.
#[derive(Debug, Default)]
pub struct Edits {
    edits: SmallVec<[Edit; 16]>,
    /// The new text of all edits, one after the other.
    text: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Edit {
    removed: Range<usize>,
    /// In `text`.
    inserted: Range<usize>,
}

impl Edits {
    pub fn new() -> Self {
        Self { edits: SmallVec::new(), text: Vec::with_capacity(512) }
    }

    /// Puts what `write` writes in the place of `span`. Edits at one position come out in the order they were made.
    pub fn replace(&mut self, span: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        write(&mut self.text);
        self.edits.push(Edit { removed: span, inserted: start..self.text.len() });
    }

    pub fn insert(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.replace(at..at, write);
    }

    pub fn remove(&mut self, span: Range<usize>) {
        self.replace(span, |_| {});
    }

    /// The edited copy. Of edits that overlap, the later one inserts its text but cuts only what is still there.
    pub fn apply(mut self, source: &[u8]) -> Bytes {
        self.edits.sort_by_key(|edit| (edit.removed.start, edit.removed.end));
        let mut copy = Vec::with_capacity(source.len() + self.text.len());
        let mut done = 0;
        for edit in &self.edits {
            copy.extend_from_slice(source.get(done..edit.removed.start).unwrap_or_default());
            copy.extend_from_slice(self.text.get(edit.inserted.clone()).unwrap_or_default());
            done = done.max(edit.removed.end);
        }
        copy.extend_from_slice(source.get(done..).unwrap_or_default());
        copy.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_apply_in_place_order_whatever_order_they_were_made_in() {
        let mut edits = Edits::new();
        edits.replace(6..11, |text| text.extend_from_slice(b"there"));
        edits.insert(0, |text| text.extend_from_slice(b"<"));
        edits.insert(0, |text| text.extend_from_slice(b"1>"));
        edits.remove(5..6);
        assert_eq!(&edits.apply(b"hello world!")[..], b"<1>hellothere!");
    }

    #[test]
    fn no_edit_is_a_plain_copy() {
        assert_eq!(&Edits::new().apply(b"abc")[..], b"abc");
    }
}
