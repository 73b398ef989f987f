//! How much each source may have us keep: the bytes of its requests, as long as their server transactions live.

use std::collections::HashMap;

use crate::guard::Source;

/// What each source has taken. A source without a transaction is not known, so there are no more than transactions.
#[derive(Debug, Default)]
pub(super) struct Allowances {
    taken: HashMap<Source, usize>,
}

/// What one transaction has taken, to be given back with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) source: Source,
    pub(super) bytes: u32,
}

impl Allowances {
    /// Whether so much more stays within `bytes_max`. One request always does, however large it is.
    pub(super) fn has_room(&self, taken: Taken, bytes_max: usize) -> bool {
        self.taken.get(&taken.source).is_none_or(|bytes| bytes.saturating_add(size(taken)) <= bytes_max)
    }

    pub(super) fn take(&mut self, taken: Taken) {
        let bytes = self.taken.entry(taken.source).or_default();
        *bytes = bytes.saturating_add(size(taken));
    }

    pub(super) fn give_back(&mut self, taken: Taken) {
        if let Some(bytes) = self.taken.get_mut(&taken.source) {
            *bytes = bytes.saturating_sub(size(taken));
            if *bytes == 0 {
                self.taken.remove(&taken.source);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

fn size(taken: Taken) -> usize {
    usize::try_from(taken.bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let taken = |last: u8, bytes| Taken { source: Source::of([192, 0, 2, last].into()), bytes };
        let mut allowances = Allowances::default();
        assert!(allowances.has_room(taken(1, 2000), 1000), "the first");
        allowances.take(taken(1, 600));
        assert!(allowances.has_room(taken(1, 400), 1000) && !allowances.has_room(taken(1, 401), 1000));
        assert!(allowances.has_room(taken(2, 1000), 1000));
        allowances.take(taken(1, 400));
        assert!(!allowances.has_room(taken(1, 1), 1000));
        allowances.give_back(taken(1, 600));
        assert!(allowances.has_room(taken(1, 600), 1000));
        allowances.give_back(taken(1, 400));
        assert!(allowances.is_empty());
    }
}
