//! Draws calls as ladders in plain text: a lane for each actor, an arrow for each message. Pure.

use std::time::Duration;

/// No line is wider.
pub(super) const WIDTH: usize = 80;
/// Where the first and the last lane stand.
const FIRST: usize = 11;
const LAST: usize = 74;
/// Where notes begin: right of the first lane, so that it goes on beside them.
const NOTE: usize = FIRST + 3;
/// Lines of one note; what is longer ends in `…`.
const NOTE_LINES: usize = 3;

/// Who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Actor {
    Softswitch,
    Proxy,
    /// Numbered from 0 over the whole demo.
    Phone(u8),
    PushService,
}

/// What a piece of text is, from which its colour follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Faint,
    Strong,
    Request,
    Progress,
    Good,
    Bad,
    Push,
}

impl Tone {
    /// Select Graphic Rendition parameters (ECMA-48 §8.3.117), from the sixteen colours that every terminal's user
    /// has chosen to be readable.
    fn sgr(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Faint => "2",
            Self::Strong => "1",
            Self::Request => "36",
            Self::Progress => "33",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Push => "35",
        }
    }
}

/// One line of text in several tones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(char, Tone)>);

impl Line {
    pub(super) fn of(text: &str, tone: Tone) -> Self {
        Self(text.chars().map(|char| (char, tone)).collect())
    }

    /// Goes on in another tone.
    pub(super) fn then(mut self, text: &str, tone: Tone) -> Self {
        self.0.extend(text.chars().map(|char| (char, tone)));
        self
    }

    /// Writes over what stands at `column`.
    fn put(&mut self, column: usize, text: &str, tone: Tone) {
        for (column, char) in (column..).zip(text.chars()) {
            if self.0.len() <= column {
                self.0.resize(column + 1, (' ', Tone::Plain));
            }
            if let Some(cell) = self.0.get_mut(column) {
                *cell = (char, tone);
            }
        }
    }

    fn at(&self, column: usize) -> char {
        self.0.get(column).map_or(' ', |(char, _)| *char)
    }

    /// The text without spaces at its end; with escape sequences only in `colour`.
    pub(super) fn render(&self, colour: bool) -> String {
        let end = self.0.iter().rposition(|(char, _)| *char != ' ').map_or(0, |last| last + 1);
        let mut text = String::new();
        let mut tone = Tone::Plain;
        for (char, next) in self.0.iter().take(end) {
            // A space looks the same in every tone.
            if colour && *next != tone && *char != ' ' {
                tone = *next;
                text.push_str("\u{1b}[0;");
                text.push_str(tone.sgr());
                text.push('m');
            }
            text.push(*char);
        }
        if tone != Tone::Plain {
            text.push_str("\u{1b}[0m");
        }
        text
    }
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
        // The head, and a space on either side of the label.
        let room = (last + 1 - first).saturating_sub(3);
        let label = fitting(labels, room);
        let shaft_middle = if from < to { (first + last - 1).div_ceil(2) } else { (first + last + 1) / 2 };
        line.put(centred(&label, shaft_middle).saturating_sub(1), &format!(" {label} "), tone);
        line
    }

    /// Something that an actor does without a message.
    pub(super) fn deed(&self, at: Duration, actor: Actor, text: &str) -> Line {
        let mut line = self.lifelines();
        line.put(0, &format!("{:>5}", at.as_millis()), Tone::Faint);
        let column = self.column(actor).unwrap_or(FIRST);
        line.put(centred(text, column).saturating_sub(1), &format!(" {text} "), Tone::Progress);
        line
    }

    /// What stands in the message above.
    pub(super) fn note(&self, text: &str) -> Vec<Line> {
        let lines = wrapped(text, WIDTH - NOTE, NOTE_LINES);
        let note = |text: &String| {
            let mut line = self.lifelines();
            line.put(NOTE - 1, &format!(" {text} "), Tone::Faint);
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

/// The text, or its beginning and `…`.
pub(super) fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// Breaks a text that has hardly any spaces, such as JSON or a URI, after one of `,;` where there is one in the second half of a line.
fn wrapped(text: &str, width: usize, lines_max: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest: Vec<char> = text.chars().collect();
    while rest.len() > width && lines.len() + 1 < lines_max {
        let line = rest.get(..width).unwrap_or_default();
        let good = line.iter().rposition(|char| matches!(char, ',' | ';' | ' ')).filter(|at| *at >= width / 2);
        let tail = rest.split_off(good.map_or(width, |at| at + 1));
        lines.push(rest.into_iter().collect::<String>().trim_end().to_owned());
        rest = tail;
    }
    lines.push(shortened(&rest.into_iter().collect::<String>(), width));
    lines
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
        ];
        let expected = [
            "   ms softswitch          proxy            Alice's phone        push service",
            "   42      │────── INVITE ──────►│                    │                    │",
            "   42      │◄─── 100 Trying ─────│                    │                    │",
            "   42      │                    │────────────────── push ───────────────────►│",
            "   42      │                    │                    │◄───── wake up ──────│",
        ];
        for line in &drawn {
            println!("{line}");
        }
        assert_eq!(drawn.len(), expected.len());
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
    fn notes_are_broken_at_commas_and_end_in_time() {
        assert_eq!(wrapped(r#"{"a":1,"b":2}"#, 10, 3), [r#"{"a":1,"#, r#""b":2}"#]);
        assert_eq!(wrapped("aaaaaaaaaaaa", 5, 3), ["aaaaa", "aaaaa", "aa"]);
        assert_eq!(wrapped("aaaaaaaaaaaa", 5, 2), ["aaaaa", "aaaa…"]);
        assert_eq!(wrapped("", 5, 2), [""]);
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

    #[test]
    fn colours_are_written_only_where_they_are_wanted() {
        let line = Line::of("a b", Tone::Good).then(" c", Tone::Plain);
        assert_eq!(line.render(false), "a b c");
        assert_eq!(line.render(true), "\u{1b}[0;32ma b \u{1b}[0;0mc");
        assert_eq!(Line::of("x ", Tone::Bad).render(true), "\u{1b}[0;31mx\u{1b}[0m");
    }
}
