//! Whether an account is worth asking: a circuit breaker.
//!
//! ```text
//!            failures of several tokens   pause over
//!   Closed ────────────────────► Open ───────────────► one probe under way
//!      ▲                          ▲                        │    │
//!      └────── any success ───────┼──────── success ───────┘    │
//!                                 └─ failure, another pause ──┘
//! ```
//!
//! One phone must not close the account for the others: what a provider answers to its pushes opens nothing as long as
//! no other phone's fail, and it does not have each probe while others wait.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::TokenHash;

/// Longest pause, whatever the provider asks for: until its end nobody learns that all is well again.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Longest pause that the answer to a single probe can ask for.
const WISH_MAX: Duration = Duration::from_secs(60);
/// Longest pause that doubling comes to, if the first one is not longer. One push in this time is no load for a provider,
/// and calls wait for the end of its trouble.
const DOUBLED_MAX: Duration = Duration::from_secs(2);
/// Answers to so many different tokens at least are about the provider, and not about one of them.
const TOKENS_MIN: usize = 3;
/// How long the token of the last failure leaves the next probe to others that wait for it.
const YIELDS: Duration = Duration::from_secs(2);

/// When it opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row: of three different tokens at least, or so many without any answer.
    pub failures: u32,
    /// The first pause; doubled after each failed probe, up to two seconds if it is not longer itself.
    pub pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 10, pause: Duration::from_secs(1) }
    }
}

/// Of one account. It has no clock of its own.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
}

#[derive(Debug)]
enum State {
    Closed(Row),
    Open(Pause),
}

/// Failures since the last success.
#[derive(Debug, Default)]
struct Row {
    failures: u32,
    /// Those among them that no token has to do with.
    unreached: u32,
    /// The first different tokens among them.
    tokens: SmallVec<[TokenHash; TOKENS_MIN]>,
    /// The shortest pause that one of them was told: what one token is told is not for the others.
    wish: Option<Duration>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    is_probed: bool,
    failed_last: TokenHash,
    /// Two of the tokens that wait for the next probe, and how long they will. Beside whichever failed last, one is another.
    waiting: SmallVec<[(TokenHash, Instant); 2]>,
}

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The provider's answer to this token's push, which may be about the token alone.
    Answer,
    /// There was no answer, no connection or no access token: it would be so for any token.
    Unreached,
}

/// Leave to send one push. Whoever has it says what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    token: TokenHash,
    /// Whether it is the one push that shows whether the account works again.
    is_probe: bool,
}

impl Breaker {
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed(Row::default()) }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether several tokens have failed, and none has not.
    pub fn has_failed_several(&self) -> bool {
        match &self.state {
            State::Closed(row) => row.tokens.len() >= TOKENS_MIN,
            State::Open(_) => true,
        }
    }

    /// How long a push to `token`, which is wanted until then, has to wait at least; `None`: [`Breaker::admit`] would
    /// let it through. Zero: a probe is under way, and may end the pause at any moment.
    pub fn pause(&mut self, token: TokenHash, wanted_until: Instant, now: Instant) -> Option<Duration> {
        match &mut self.state {
            State::Closed(_) => None,
            State::Open(pause) => pause.left(token, wanted_until, now),
        }
    }

    /// As [`Breaker::pause`] says.
    pub fn admit(&mut self, token: TokenHash, wanted_until: Instant, now: Instant) -> Result<Pass, Duration> {
        if let Some(left) = self.pause(token, wanted_until, now) {
            return Err(left);
        }
        let is_probe = match &mut self.state {
            State::Closed(_) => false,
            State::Open(pause) => {
                pause.is_probed = true;
                pause.waiting.retain(|(waiting, _)| *waiting != token);
                true
            }
        };
        Ok(Pass { token, is_probe })
    }

    /// A push was not sent after all, or nothing was learnt by it.
    pub fn returned(&mut self, pass: Pass) {
        if let (State::Open(pause), true) = (&mut self.state, pass.is_probe) {
            pause.is_probed = false;
        }
    }

    pub fn succeeded(&mut self) {
        self.state = State::Closed(Row::default());
    }

    /// `after` is the provider's own wish.
    pub fn failed(&mut self, pass: Pass, cause: Cause, after: Option<Duration>, now: Instant) {
        match &mut self.state {
            State::Closed(row) => {
                row.add(pass.token, cause, after.unwrap_or_default());
                if row.is_enough(self.settings.failures) {
                    let length = self.settings.pause;
                    let until = now + row.wish.unwrap_or_default().max(length).min(PAUSE_MAX);
                    let (failed_last, waiting) = (pass.token, SmallVec::new());
                    self.state = State::Open(Pause { until, length, is_probed: false, failed_last, waiting });
                }
            }
            State::Open(pause) if pass.is_probe => {
                pause.length = pause.length.saturating_mul(2).min(DOUBLED_MAX.max(pause.length));
                let wish = match cause {
                    Cause::Answer => after.unwrap_or_default().min(WISH_MAX),
                    Cause::Unreached => after.unwrap_or_default(),
                };
                pause.until = now + wish.max(pause.length).min(PAUSE_MAX);
                pause.is_probed = false;
                pause.failed_last = pass.token;
            }
            // It was sent before the breaker opened, and tells nothing that is not known.
            State::Open(_) => {}
        }
    }
}

impl Row {
    fn add(&mut self, token: TokenHash, cause: Cause, after: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.unreached = self.unreached.saturating_add((cause == Cause::Unreached).into());
        self.wish = Some(self.wish.map_or(after, |wish| wish.min(after)));
        if self.tokens.len() < TOKENS_MIN && !self.tokens.contains(&token) {
            self.tokens.push(token);
        }
    }

    fn is_enough(&self, failures: u32) -> bool {
        self.unreached >= failures || self.failures >= failures && self.tokens.len() >= TOKENS_MIN
    }
}

impl Pause {
    fn left(&mut self, token: TokenHash, wanted_until: Instant, now: Instant) -> Option<Duration> {
        self.waiting.retain(|(_, until)| *until > now);
        let others_wait = self.waiting.iter().any(|(waiting, _)| *waiting != token);
        let yields = token == self.failed_last && others_wait;
        let left = match (self.is_probed, yields) {
            (true, _) => Duration::ZERO,
            (false, true) => (self.until + YIELDS).saturating_duration_since(now),
            (false, false) => self.until.saturating_duration_since(now),
        };
        if left.is_zero() && !self.is_probed {
            return None;
        }
        self.waiting.retain(|(waiting, _)| *waiting != token);
        if self.waiting.len() == 2 {
            self.waiting.remove(0);
        }
        self.waiting.push((token, wanted_until));
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::PushToken;
    use crate::push::clock;

    const S: Duration = Duration::from_secs(1);
    const SETTINGS: Settings = Settings { failures: 10, pause: Duration::from_secs(5) };
    /// How long calls wait in these tests.
    const WAIT: Duration = Duration::from_secs(28);

    fn token(number: u32) -> TokenHash {
        TokenHash::of(&PushToken::new(number.to_string()))
    }

    fn admit(breaker: &mut Breaker, number: u32, now: Instant) -> Result<Pass, Duration> {
        breaker.admit(token(number), now + WAIT, now)
    }

    fn is_probe(admitted: Result<Pass, Duration>) -> bool {
        admitted.is_ok_and(|pass| pass.is_probe)
    }

    /// Of token `number`, in the closed state.
    fn fail(breaker: &mut Breaker, number: u32, cause: Cause, now: Instant) {
        let pass = admit(breaker, number, now).unwrap();
        breaker.failed(pass, cause, None, now);
    }

    /// Opened by ten tokens; the last of them is 9.
    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(SETTINGS);
        for number in 0..10 {
            assert!(!breaker.is_open(), "after {number}");
            fail(&mut breaker, number, Cause::Answer, now);
        }
        assert!(breaker.is_open());
        breaker
    }

    #[test]
    fn opens_after_ten_failures_in_a_row() {
        let now = clock().instant;
        let mut breaker = Breaker::new(SETTINGS);
        (0..9).for_each(|number| fail(&mut breaker, number, Cause::Answer, now));
        breaker.succeeded();
        (0..9).for_each(|number| fail(&mut breaker, number, Cause::Answer, now));
        assert!(admit(&mut breaker, 1, now).is_ok());
        fail(&mut breaker, 9, Cause::Answer, now);
        assert_eq!(admit(&mut breaker, 1, now), Err(5 * S));
    }

    #[test]
    fn answers_to_fewer_than_three_tokens_never_open_it_and_silence_does() {
        let now = clock().instant;
        for failures in [1, 2, 10] {
            let mut breaker = Breaker::new(Settings { failures, ..SETTINGS });
            for number in 0..1000 {
                fail(&mut breaker, number % 2, Cause::Answer, now);
            }
            assert!(!breaker.is_open() && !breaker.has_failed_several());
            fail(&mut breaker, 2, Cause::Answer, now);
            assert!(breaker.is_open() && breaker.has_failed_several());

            let mut breaker = Breaker::new(Settings { failures, ..SETTINGS });
            (0..failures).for_each(|_| fail(&mut breaker, 7, Cause::Unreached, now));
            assert!(breaker.is_open(), "without an answer one token is enough");
        }
    }

    #[test]
    fn one_probe_decides() {
        let now = clock().instant;
        let mut breaker = open(now);
        assert_eq!(admit(&mut breaker, 1, now + 4 * S), Err(S));
        let probe = admit(&mut breaker, 1, now + 5 * S);
        assert!(is_probe(probe));
        assert_eq!(admit(&mut breaker, 2, now + 6 * S), Err(Duration::ZERO), "only one at a time");
        breaker.failed(probe.unwrap(), Cause::Answer, None, now + 6 * S);
        assert_eq!(admit(&mut breaker, 2, now + 10 * S), Err(S));
        assert!(is_probe(admit(&mut breaker, 2, now + 11 * S)));
        breaker.succeeded();
        assert!(!is_probe(admit(&mut breaker, 1, now + 11 * S)) && admit(&mut breaker, 1, now + 11 * S).is_ok());
    }

    #[test]
    fn a_probe_that_was_not_sent_leaves_its_place_to_the_next() {
        let now = clock().instant;
        let mut breaker = open(now);
        let probe = admit(&mut breaker, 1, now + 5 * S).unwrap();
        breaker.returned(probe);
        assert!(is_probe(admit(&mut breaker, 1, now + 5 * S)));
    }

    #[test]
    fn the_token_that_failed_last_leaves_the_probe_to_others_that_wait() {
        let now = clock().instant;
        let mut breaker = open(now);
        // Somebody waits, so 9 is told to come a little later than everybody else.
        assert_eq!(admit(&mut breaker, 1, now), Err(5 * S));
        assert_eq!(admit(&mut breaker, 9, now), Err(7 * S));
        assert_eq!(admit(&mut breaker, 9, now + 6 * S), Err(S));
        let probe = admit(&mut breaker, 1, now + 6 * S);
        assert!(is_probe(probe));
        breaker.failed(probe.unwrap(), Cause::Answer, None, now + 6 * S);
        // 9 waits since, so it is the turn of 9 before that of 1.
        assert_eq!(admit(&mut breaker, 1, now + 6 * S), Err(7 * S));
        assert!(is_probe(admit(&mut breaker, 9, now + 11 * S)));
    }

    #[test]
    fn a_lone_phone_is_probed_at_last() {
        let now = clock().instant;
        let mut breaker = open(now);
        assert_eq!(admit(&mut breaker, 9, now), Err(5 * S));
        assert!(is_probe(admit(&mut breaker, 9, now + 5 * S)), "nobody else waits");

        let mut breaker = open(now);
        assert_eq!(admit(&mut breaker, 1, now), Err(5 * S));
        assert!(is_probe(admit(&mut breaker, 9, now + 7 * S)), "the other has not come");

        let mut breaker = open(now);
        assert_eq!(breaker.admit(token(1), now + S, now), Err(5 * S));
        assert!(is_probe(admit(&mut breaker, 9, now + 5 * S)), "the other's call is over");
    }

    #[test]
    fn late_failures_change_nothing_and_a_late_success_closes() {
        let now = clock().instant;
        let mut breaker = Breaker::new(SETTINGS);
        let late = admit(&mut breaker, 1, now).unwrap();
        (0..10).for_each(|number| fail(&mut breaker, number, Cause::Answer, now));
        breaker.failed(late, Cause::Answer, None, now + 4 * S);
        assert_eq!(breaker.pause(token(1), now + WAIT, now + 5 * S), None);
        breaker.succeeded();
        assert!(!breaker.is_open());
    }

    #[test]
    fn the_providers_own_pause_counts_up_to_a_limit() {
        let now = clock().instant;
        for (wish, pause) in [(1, 5), (60, 60), (100_000, 300)] {
            let mut breaker = Breaker::new(Settings { failures: 3, ..SETTINGS });
            for number in 0..3 {
                let pass = admit(&mut breaker, number, now).unwrap();
                breaker.failed(pass, Cause::Answer, Some(wish * S), now);
            }
            assert_eq!(admit(&mut breaker, 0, now), Err(pause * S), "{wish}");
        }
    }

    #[test]
    fn a_pause_that_one_token_is_told_is_not_for_the_others() {
        let now = clock().instant;
        let mut breaker = Breaker::new(Settings { failures: 3, ..SETTINGS });
        for (number, wish) in [(0, None), (1, None), (2, Some(300 * S))] {
            let pass = admit(&mut breaker, number, now).unwrap();
            breaker.failed(pass, Cause::Answer, wish, now);
        }
        assert_eq!(admit(&mut breaker, 0, now), Err(5 * S));
        let probe = admit(&mut breaker, 0, now + 5 * S).unwrap();
        breaker.failed(probe, Cause::Answer, Some(300 * S), now + 5 * S);
        assert_eq!(admit(&mut breaker, 1, now + 5 * S), Err(60 * S));
    }

    #[test]
    fn doubling_ends_soon() {
        for (first, pauses) in [(S / 2, [S / 2, S, 2 * S, 2 * S]), (5 * S, [5 * S; 4])] {
            let mut now = clock().instant;
            let mut breaker = Breaker::new(Settings { failures: 3, pause: first });
            (0..3).for_each(|number| fail(&mut breaker, number, Cause::Answer, now));
            for pause in pauses {
                assert_eq!(admit(&mut breaker, 1, now), Err(pause));
                now += pause;
                let probe = admit(&mut breaker, 1, now).unwrap();
                breaker.failed(probe, Cause::Answer, None, now);
            }
        }
    }
}
