//! Draws calls as ladders in plain text: a lane for each actor, an arrow for each message. Pure.

use std::time::Duration;

use super::line::{Line, Tone, WIDTH, shortened, with_short_words, wrapped};

/// Where the first and the last lane stand.
const FIRST: usize = 11;
const LAST: usize = 74;
/// Where notes begin: right of the first lane, so that it goes on beside them.
const NOTE: usize = FIRST + 3;
/// Lines of one note; what is longer ends in `…`.
const NOTE_LINES: usize = 4;
/// Right of the time.
const TEXT: usize = 7;

/// Who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Actor {
    Softswitch,
    Proxy,
    /// Numbered from 0 over the whole demo.
    Phone(u8),
    PushService,
}

/// The lanes of one story.
#[derive(Debug)]
pub(super) struct Ladder(Vec<Lane>);

#[derive(Debug)]
struct Lane {
    actor: Actor,
    title: &'static str,
    column: usize,
    is_asleep: bool,
}

impl Ladder {
    /// Lanes from left to right, at equal distances.
    pub(super) fn new(actors: &[(Actor, &'static str)]) -> Self {
        let gaps = actors.len().saturating_sub(1).max(1);
        let column = |index: usize| FIRST + index * (LAST - FIRST) / gaps;
        let lanes = actors.iter().enumerate();
        Self(
            lanes
                .map(|(index, (actor, title))| Lane { actor: *actor, title, column: column(index), is_asleep: false })
                .collect(),
        )
    }

    /// The lifeline of who sleeps is dotted.
    pub(super) fn set_asleep(&mut self, actor: Actor, is_asleep: bool) {
        for lane in self.0.iter_mut().filter(|lane| lane.actor == actor) {
            lane.is_asleep = is_asleep;
        }
    }

    /// The lanes' titles.
    pub(super) fn heading(&self) -> Line {
        let mut line = Line::of("   ms", Tone::Faint);
        for lane in &self.0 {
            line.put(centred(lane.title, lane.column), lane.title, Tone::Strong);
        }
        line
    }

    /// A message from one lane to another, with the first of `labels` that fits between them.
    pub(super) fn arrow(&self, at: Duration, from: Actor, to: Actor, labels: &[String], tone: Tone) -> Line {
        let mut line = self.lifelines();
        line.put(0, &format!("{:>5}", at.as_millis()), Tone::Faint);
        let (Some(from), Some(to)) = (self.column(from), self.column(to)) else { return line };
        let (first, last) = (from.min(to) + 1, from.max(to) - 1);
        for column in first..=last {
            let shaft = if line.at(column) == ' ' { "─" } else { "┼" };
            line.put(column, shaft, tone);
        }
        let (head, point) = if from < to { (last, "►") } else { (first, "◄") };
        line.put(head, point, tone);
        // A space on either side of the label, and the head.
        let room = (last - first).saturating_sub(2);
        let label = fitting(labels, room);
        let shaft = if from < to { first } else { first + 1 };
        line.put(shaft + (room - label.chars().count()) / 2, &format!(" {label} "), tone);
        line
    }

    /// Something that an actor does without a message.
    pub(super) fn deed(&self, at: Duration, actor: Actor, text: &str) -> Line {
        let mut line = self.lifelines();
        line.put(0, &format!("{:>5}", at.as_millis()), Tone::Faint);
        let column = self.column(actor).unwrap_or(FIRST);
        line.put(centred(text, column).max(TEXT) - 1, &format!(" {text} "), Tone::Progress);
        line
    }

    /// What stands in the message above.
    pub(super) fn note(&self, text: &str) -> Vec<Line> {
        let lines = wrapped(&with_short_words(text), WIDTH - NOTE, NOTE_LINES);
        let note = |text: &String| {
            let mut line = self.lifelines();
            line.put(NOTE - 1, &format!(" {text} "), Tone::Plain);
            line
        };
        lines.iter().map(note).collect()
    }

    fn lifelines(&self) -> Line {
        let mut line = Line::default();
        for lane in &self.0 {
            line.put(lane.column, if lane.is_asleep { "┊" } else { "│" }, Tone::Faint);
        }
        line
    }

    fn column(&self, actor: Actor) -> Option<usize> {
        self.0.iter().find(|lane| lane.actor == actor).map(|lane| lane.column)
    }
}

/// The line above a story.
pub(super) fn title(number: usize, title: &str) -> Line {
    let begun = Line::of("── ", Tone::Faint).then(&format!("{number}  {title} "), Tone::Strong);
    let rest = WIDTH.saturating_sub(begun.len());
    begun.then(&"─".repeat(rest), Tone::Faint)
}

/// Where a text begins whose middle is at `column`; moved to the left where it would not fit into the line.
fn centred(text: &str, column: usize) -> usize {
    let length = text.chars().count();
    column.saturating_sub(length / 2).min(WIDTH.saturating_sub(length))
}

fn fitting(labels: &[String], room: usize) -> String {
    match labels.iter().find(|label| label.chars().count() <= room) {
        Some(label) => label.clone(),
        None => shortened(labels.last().map_or("", String::as_str), room),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder() -> Ladder {
        Ladder::new(&[
            (Actor::Softswitch, "softswitch"),
            (Actor::Proxy, "proxy"),
            (Actor::Phone(0), "Alice's phone"),
            (Actor::PushService, "push service"),
        ])
    }

    fn labels(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    fn plain(line: &Line) -> String {
        line.render(false)
    }

    #[test]
    fn arrows_point_from_lane_to_lane() {
        let ladder = ladder();
        let arrow = |from, to, label: &str| {
            plain(&ladder.arrow(Duration::from_millis(42), from, to, &labels(&[label]), Tone::Plain))
        };
        let drawn = [
            plain(&ladder.heading()),
            arrow(Actor::Softswitch, Actor::Proxy, "INVITE"),
            arrow(Actor::Proxy, Actor::Softswitch, "100 Trying"),
            arrow(Actor::Proxy, Actor::PushService, "push"),
            arrow(Actor::PushService, Actor::Phone(0), "wake up"),
            arrow(Actor::PushService, Actor::Softswitch, "what"),
        ];
        let expected = [
            "   ms softswitch              proxy            Alice's phone        push service",
            "   42      │───── INVITE ──────►│                    │                    │",
            "   42      │◄─── 100 Trying ────│                    │                    │",
            "   42      │                    │───────────────── push ─────────────────►│",
            "   42      │                    │                    │◄───── wake up ─────│",
            "   42      │◄───────────────────┼─────── what ───────┼────────────────────│",
        ];
        assert_eq!(drawn, expected);
    }

    #[test]
    fn who_sleeps_has_a_dotted_lifeline() {
        let mut ladder = ladder();
        ladder.set_asleep(Actor::Phone(0), true);
        let note = ladder.note("x");
        assert!(note.iter().all(|line| plain(line).contains('┊')));
        ladder.set_asleep(Actor::Phone(0), false);
        assert!(!ladder.note("x").iter().any(|line| plain(line).contains('┊')));
    }

    #[test]
    fn the_longest_label_that_fits_is_taken() {
        let long = labels(&["487 Request Terminated", "487 Terminated", "487"]);
        assert_eq!(fitting(&long, 30), "487 Request Terminated");
        assert_eq!(fitting(&long, 16), "487 Terminated");
        assert_eq!(fitting(&long, 3), "487");
        assert_eq!(fitting(&long, 2), "4…");
        assert_eq!(fitting(&[], 9), "");
    }

    #[test]
    fn long_labels_keep_the_head_of_their_arrow() {
        let ladder = ladder();
        for (from, to, point) in [(Actor::Softswitch, Actor::Proxy, '►'), (Actor::Proxy, Actor::Softswitch, '◄')] {
            for length in 0..30 {
                let arrow =
                    plain(&ladder.arrow(Duration::ZERO, from, to, &labels(&[&"x".repeat(length)]), Tone::Plain));
                assert!(arrow.contains(point), "{arrow}");
            }
        }
    }

    #[test]
    fn no_line_is_too_wide() {
        let ladder = ladder();
        let mut lines = ladder.note(&"é".repeat(500));
        lines.push(ladder.heading());
        lines.push(ladder.deed(Duration::from_secs(99), Actor::PushService, &"x".repeat(70)));
        for to in [Actor::Softswitch, Actor::Phone(0), Actor::PushService] {
            lines.push(ladder.arrow(Duration::ZERO, Actor::Proxy, to, &labels(&[&"x".repeat(200)]), Tone::Bad));
        }
        for line in lines {
            assert!(plain(&line).chars().count() <= WIDTH, "{}", plain(&line));
        }
    }
}
