//! What a seed has in store for each phone, call and push. Each is drawn by its own name, so that it is the same whatever
//! the proxy does.

use std::ops::Range;
use std::time::Duration;

use crate::random::Random;

/// Calls in a second, of all callers.
const CALLS_PER_S: u64 = 5;
/// The 99th percentile of a normal distribution.
const Z99: f64 = 2.326_347_9;

/// Draws of one seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    seed: u64,
    phones: usize,
    calls: usize,
}

/// What a phone is like.
#[derive(Debug)]
pub(super) struct PhoneFate {
    pub(super) is_iphone: bool,
    pub(super) is_tcp: bool,
    /// Whether its system closes the connection when the app goes to sleep, so that it is seen.
    pub(super) closes: bool,
    /// Whether its app is always in front.
    pub(super) never_sleeps: bool,
    pub(super) has_dead_token: bool,
    /// How long its user takes to pick up.
    pub(super) picks_up_after: Duration,
}

#[derive(Debug)]
pub(super) struct CallFate {
    /// After the first call could have come.
    pub(super) at: Duration,
    pub(super) phone: usize,
    /// How long its caller waits for the phone to ring.
    pub(super) patience: Duration,
    /// Of the phone, if it has to be woken for this call.
    pub(super) wake: WakeFate,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct WakeFate {
    /// From the push at the phone to its first REGISTER.
    pub(super) latency: Duration,
    /// From there until it has a network.
    pub(super) network_after: Duration,
    /// From there until it has another address, and from there until it says so.
    pub(super) moves: Option<(Duration, Duration)>,
    /// Whether the NAT has given it another port since it slept.
    pub(super) has_other_port: bool,
    /// How long it stays awake when nothing more happens.
    pub(super) stays_for: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PushFate {
    /// It is with the phone after this.
    Prompt(Duration),
    Late(Duration),
    Lost,
}

impl PushFate {
    /// From the push service to the phone, unless it is lost.
    pub(super) fn transit(self) -> Option<Duration> {
        match self {
            Self::Prompt(after) | Self::Late(after) => Some(after),
            Self::Lost => None,
        }
    }
}

impl WakeFate {
    /// From its first REGISTER to one that gets through from where it stays.
    pub(super) fn settles_after(&self) -> Duration {
        // Timer E (RFC 3261 §17.1.2.2) repeats it.
        let repeats = [0, 500, 1_500, 3_500].map(Duration::from_millis);
        let gets_through = repeats.into_iter().find(|at| *at >= self.network_after).unwrap_or(self.network_after);
        let says = self.moves.map_or(Duration::ZERO, |(moves, says)| self.network_after + moves + says);
        gets_through.max(says)
    }
}

impl Fate {
    pub(super) fn new(seed: u64, phones: usize, calls: usize) -> Self {
        Self { seed, phones, calls }
    }

    fn dice(&self, what: u64, one: usize, other: usize) -> Dice {
        let place = (what << 56) ^ ((one as u64) << 24) ^ other as u64;
        Dice(Random::new(self.seed.wrapping_mul(0xd134_2543_de82_ef95) ^ place.wrapping_mul(0xaf25_1af3_b0f0_25b5)))
    }

    pub(super) fn phone(&self, phone: usize) -> PhoneFate {
        let mut dice = self.dice(1, phone, 0);
        let has_dead_token = dice.percent(1);
        PhoneFate {
            is_iphone: dice.percent(50),
            is_tcp: dice.percent(40),
            closes: dice.percent(50),
            // An app that runs replaces a dead token at once.
            never_sleeps: dice.percent(10) && !has_dead_token,
            has_dead_token,
            picks_up_after: dice.between(1_000, 8_000),
        }
    }

    pub(super) fn call(&self, call: usize) -> CallFate {
        let mut dice = self.dice(2, call, 0);
        let spacing = 1_000 / CALLS_PER_S;
        CallFate {
            at: Duration::from_millis(call as u64 * spacing) + dice.between(0, spacing),
            patience: dice.log_normal(25.0, 100.0),
            phone: self.called(call),
            wake: self.wake(call),
        }
    }

    /// Whom a call is for: anybody, or somebody who was called a moment ago.
    fn called(&self, call: usize) -> usize {
        let mut dice = self.dice(3, call, 0);
        let ago = 10 + dice.below(150);
        match dice.percent(15) && ago <= call {
            true => self.called(call - ago),
            false => dice.below(self.phones),
        }
    }

    fn wake(&self, call: usize) -> WakeFate {
        let mut dice = self.dice(4, call, 0);
        WakeFate {
            latency: dice.log_normal(3.0, 20.0),
            network_after: if dice.percent(10) { dice.between(100, 3_000) } else { Duration::ZERO },
            moves: dice.percent(3).then(|| (dice.between(20, 800), dice.between(200, 1_500))),
            has_other_port: dice.percent(30),
            stays_for: dice.log_normal(20.0, 90.0),
        }
    }

    /// Of the push number `attempt` of a call.
    pub(super) fn push(&self, call: usize, attempt: usize) -> PushFate {
        let mut dice = self.dice(5, call, attempt);
        let transit = dice.between(50, 300);
        match dice.below(100) {
            0..=1 => PushFate::Lost,
            2..=6 => PushFate::Late(dice.between(5_000, 45_000)),
            _ => PushFate::Prompt(transit),
        }
    }

    /// From a push at a phone that is awake to its REGISTER.
    pub(super) fn reaction(&self, call: usize) -> Duration {
        self.dice(6, call, 0).between(50, 600)
    }

    /// When the last call comes.
    pub(super) fn length(&self) -> Duration {
        Duration::from_millis(self.calls as u64 * 1_000 / CALLS_PER_S)
    }

    /// When the push services answer 503 to everything.
    pub(super) fn outages(&self) -> Vec<Range<Duration>> {
        let lengths = [500, 1_500, 4_000, 8_000];
        self.moments(7, (self.calls / 250).max(1), |dice| Duration::from_millis(*dice.0.choice(&lengths)))
    }

    /// When the process is killed, and when it is there again.
    pub(super) fn crashes(&self) -> Vec<Range<Duration>> {
        self.moments(8, (self.calls / 500).max(1), |dice| dice.between(300, 2_500))
    }

    fn moments(&self, what: u64, count: usize, mut length: impl FnMut(&mut Dice) -> Duration) -> Vec<Range<Duration>> {
        let moments = (0..count).map(|number| {
            let mut dice = self.dice(what, number, 0);
            let share = self.length() / u32::try_from(count).unwrap_or(u32::MAX);
            let at = share * u32::try_from(number).unwrap_or(u32::MAX) + share.mul_f64(0.1 + 0.6 * dice.unit());
            at..at + length(&mut dice)
        });
        moments.collect()
    }
}

struct Dice(Random);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0.below(limit)
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Above 0, up to 1.
    fn unit(&mut self) -> f64 {
        const STEPS: u32 = 1 << 30;
        f64::from(u32::try_from(self.below(STEPS as usize) + 1).unwrap_or(STEPS)) / f64::from(STEPS)
    }

    /// In milliseconds.
    fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below((most - least + 1) as usize) as u64)
    }

    /// By its median and its 99th percentile, in seconds.
    fn log_normal(&mut self, median: f64, p99: f64) -> Duration {
        let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
        let normal = radius * angle.cos();
        // Whole milliseconds, so that the last bit of a logarithm changes nothing.
        Duration::from_millis((1_000.0 * median * (normal * (p99 / median).ln() / Z99).exp()) as u64)
    }
}
