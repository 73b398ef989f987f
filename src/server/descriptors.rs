//! How many connections the system's limit of open files leaves room for (`RLIMIT_NOFILE`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the operator's listener, the store and the push services, whatever phones do.
const RESERVE: u64 = 256;
/// Where the limit is small, a quarter of it, and at least so many.
const RESERVE_MIN: u64 = 32;

/// Asks the system for as many open files as it gives, and says how many of `wanted` connections they are enough for.
pub(super) fn connections(wanted: usize) -> usize {
    let Some(files) = raise() else { return wanted };
    let room = usize::try_from(room_in(files)).unwrap_or(usize::MAX);
    if room >= wanted {
        return wanted;
    }
    tracing::warn!(
        open_files = files,
        connections = room,
        "limits.connections = {wanted} needs more open files than this process may have, so it serves fewer connections; \
         right would be LimitNOFILE={} in the unit (or ulimit -n)",
        u64::try_from(wanted).unwrap_or(u64::MAX).saturating_add(RESERVE),
    );
    room
}

/// The limit, as high as it may be set; `None`: there is none.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // Some systems have a limit of their own below the one that they name.
        Err(_) => current,
    }
}

fn room_in(files: u64) -> u64 {
    let reserve = (files / 4).clamp(RESERVE_MIN, RESERVE);
    files.saturating_sub(reserve).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_kept_for_everything_else() {
        for (files, room) in [(262_144, 261_888), (1024, 768), (256, 192), (64, 32), (40, 8), (8, 1)] {
            assert_eq!(room_in(files), room, "{files}");
        }
    }
}
