//! The branches that we put into our Via (RFC 3261 §8.1.1.7, §16.6 step 8).

use std::fmt;

use crate::sip::via::MAGIC_COOKIE;

/// The branch of one forwarded request: the magic cookie, the worker that sent it (so that a response which arrives at
/// another worker can be handed over), a number nobody can guess, and the hash that tells a loop from a spiral
/// (RFC 3261 §16.6 step 8, RFC 5393 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Branch {
    worker: u8,
    number: u64,
    loop_hash: u64,
}

impl Branch {
    /// Bytes of the printed form, which is always as long.
    pub const LENGTH: usize = MAGIC_COOKIE.len() + 2 + 16 + 16;

    pub(super) fn new(worker: u8, number: u64, loop_hash: u64) -> Self {
        Self { worker, number, loop_hash }
    }

    /// Reads the printed form; `None` for anything that we did not print.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != Self::LENGTH {
            return None;
        }
        let digits = text.strip_prefix(MAGIC_COOKIE)?;
        let (worker, digits) = digits.split_at_checked(2)?;
        let (number, loop_hash) = digits.split_at_checked(16)?;
        Some(Self { worker: u8::try_from(hex(worker)?).ok()?, number: hex(number)?, loop_hash: hex(loop_hash)? })
    }

    /// The printed form.
    pub fn text(&self) -> [u8; Self::LENGTH] {
        let mut text = [0; Self::LENGTH];
        let digits =
            write_hex(u64::from(self.worker), 2).chain(write_hex(self.number, 16)).chain(write_hex(self.loop_hash, 16));
        for (place, byte) in text.iter_mut().zip(MAGIC_COOKIE.iter().copied().chain(digits)) {
            *place = byte;
        }
        text
    }

    /// Which worker made the `branch` parameter of a response's top Via.
    pub fn worker_of(branch: &[u8]) -> Option<u8> {
        Self::parse(branch).map(|branch| branch.worker)
    }

    /// The loop hash in the `branch` parameter of a Via of ours.
    pub fn loop_hash_of(branch: &[u8]) -> Option<u64> {
        Self::parse(branch).map(|branch| branch.loop_hash)
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

/// Lower-case hex digits only, as we print them.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

fn write_hex(number: u64, digits: u32) -> impl Iterator<Item = u8> {
    (0..digits).rev().map(move |place| match (number >> (4 * place) & 15) as u8 {
        value @ 0..=9 => b'0' + value,
        value => b'a' + value - 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_prints_at_fixed_length_and_reads_back() {
        for branch in [Branch::new(0, 0, 0), Branch::new(255, u64::MAX, 1), Branch::new(7, 0x0123_4567_89ab_cdef, 2)] {
            let text = branch.to_string();
            assert_eq!(text.len(), Branch::LENGTH);
            assert_eq!(Branch::parse(text.as_bytes()), Some(branch));
            assert_eq!(Branch::worker_of(text.as_bytes()), Some(branch.worker));
            assert_eq!(Branch::loop_hash_of(text.as_bytes()), Some(branch.loop_hash));
        }
        assert_eq!(Branch::new(7, 0xab, 2).to_string(), "z9hG4bK0700000000000000ab0000000000000002");
    }

    #[test]
    fn what_others_made_is_not_ours() {
        let ours = Branch::new(7, 8, 9).to_string();
        for text in ["", "z9hG4bK", "z9hG4bK776asdhds", &ours.to_uppercase(), &ours[1..], &format!("{ours}0")] {
            assert_eq!(Branch::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Branch::parse(ours.replace('8', "g").as_bytes()), None);
    }
}
