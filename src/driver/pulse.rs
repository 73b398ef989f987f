//! Whether a worker still takes its turns.

use std::sync::atomic::{AtomicU32, Ordering};

/// Asked now and then by somebody else, answered by each turn of the worker.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Questions since the last answer.
    unanswered: AtomicU32,
}

impl Pulse {
    /// Asks once more; gives how many questions before this one have no answer. A worker that sleeps has to be woken.
    pub(super) fn ask(&self) -> u32 {
        self.unanswered.fetch_add(1, Ordering::Relaxed)
    }

    /// A turn is over.
    pub(super) fn answer(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_for_all_questions() {
        let pulse = Pulse::default();
        assert_eq!([pulse.ask(), pulse.ask(), pulse.ask()], [0, 1, 2]);
        pulse.answer();
        assert_eq!([pulse.ask(), pulse.ask()], [0, 1]);
    }
}
