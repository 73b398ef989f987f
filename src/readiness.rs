//! Whether the server can do its work: what `/readyz` answers.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// What the server consists of, as far as it can fail by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Everything until the server has been built.
    Start,
    /// The listeners and workers.
    Sip,
    Store,
    Push,
    /// The server is about to stop: it takes no new calls.
    Drain,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Sip => "sip",
            Self::Store => "store",
            Self::Push => "push",
            Self::Drain => "drain",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// Works, but not as it should.
    Degraded(String),
    /// New work should go to another node.
    Failed(String),
}

/// The parts that are not well; shared between those who know and `/readyz`.
#[derive(Debug)]
pub struct Readiness {
    parts: Mutex<BTreeMap<Part, Condition>>,
}

/// What `/readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub is_ready: bool,
    /// `ready`, `degraded` or `not_ready`.
    pub status: &'static str,
    /// One for each part that is not well: `store: the disk is full`.
    pub reasons: Vec<String>,
}

impl Default for Readiness {
    /// Not ready: the server starts.
    fn default() -> Self {
        let starting = (Part::Start, Condition::Failed("the server starts".to_owned()));
        Self { parts: Mutex::new(BTreeMap::from([starting])) }
    }
}

impl Readiness {
    /// The part works.
    pub fn well(&self, part: Part) {
        self.parts.lock().remove(&part);
    }

    /// The part works, but not as it should.
    pub fn degraded(&self, part: Part, reason: impl Into<String>) {
        self.parts.lock().insert(part, Condition::Degraded(reason.into()));
    }

    /// The part does not work: new work should go to another node.
    pub fn failed(&self, part: Part, reason: impl Into<String>) {
        self.parts.lock().insert(part, Condition::Failed(reason.into()));
    }

    /// Whether the listeners and workers go on. When they do not, only a new start helps.
    pub fn is_alive(&self) -> bool {
        !matches!(self.parts.lock().get(&Part::Sip), Some(Condition::Failed(_)))
    }

    pub fn report(&self) -> Report {
        let parts = self.parts.lock();
        let is_ready = parts.values().all(|condition| matches!(condition, Condition::Degraded(_)));
        let status = match (is_ready, parts.is_empty()) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "not_ready",
        };
        let reasons = parts.iter().map(|(part, condition)| match condition {
            Condition::Degraded(reason) | Condition::Failed(reason) => format!("{}: {reason}", part.name()),
        });
        Report { is_ready, status, reasons: reasons.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_decides() {
        let readiness = Readiness::default();
        assert_eq!(readiness.report().status, "not_ready");
        readiness.well(Part::Start);
        assert_eq!(readiness.report(), Report { is_ready: true, status: "ready", reasons: Vec::new() });
        readiness.degraded(Part::Store, "Redis is away");
        assert!(readiness.report().is_ready);
        assert_eq!(readiness.report().status, "degraded");
        readiness.failed(Part::Drain, "the server stops");
        assert!(readiness.is_alive(), "it ends by itself");
        let report = readiness.report();
        assert_eq!((report.is_ready, report.status), (false, "not_ready"));
        assert_eq!(report.reasons, ["store: Redis is away", "drain: the server stops"]);
        readiness.failed(Part::Sip, "a worker does not go on");
        assert!(!readiness.is_alive());
    }
}
