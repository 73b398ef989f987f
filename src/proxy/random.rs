//! Unguessable numbers from one seed: the same seed gives the same run.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// A keyed counter. The driver seeds it from the system, a test with a number of its own.
#[derive(Debug)]
pub(super) struct Random {
    key: (u64, u64),
    drawn: u64,
}

impl Random {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Self { key: (seed[0], seed[1]), drawn: 0 }
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(self.drawn);
        hasher.finish()
    }

    pub(super) fn draw_wide(&mut self) -> u128 {
        u128::from(self.draw()) << 64 | u128::from(self.draw())
    }

    /// A tag for From or To, globally unique and cryptographically random (RFC 3261 §19.3).
    pub(super) fn tag(&mut self) -> Box<str> {
        format!("{:016x}", self.draw()).into()
    }
}
