//! Tells the stories: what actors report becomes lines on standard output, in the order in which it happens.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ladder::{Actor, Ladder};
use super::line::{Line, Tone};
use crate::sip::response::reason_phrase;
use crate::sip::{HeaderName, Message, Method};

/// Shared by all actors.
#[derive(Clone)]
pub(super) struct Narrator(Arc<Mutex<Telling>>);

struct Telling {
    colour: bool,
    /// `None` between the stories, where messages are not told.
    ladder: Option<Ladder>,
    started: Instant,
    explains: bool,
}

impl Narrator {
    /// In colour only on a terminal whose user has nothing against it (<https://no-color.org>).
    pub(super) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let colour = std::io::stdout().is_terminal() && !unwanted && !is_dumb;
        Self(Arc::new(Mutex::new(Telling { colour, ladder: None, started: now(), explains: false })))
    }

    /// Begins a story, and its clock.
    pub(super) fn begin(&self, ladder: Ladder) {
        let mut telling = self.0.lock();
        telling.write(&ladder.heading());
        telling.ladder = Some(ladder);
        telling.started = now();
    }

    /// Whether REGISTERs are shown with their Contacts.
    pub(super) fn explain(&self, explains: bool) {
        self.0.lock().explains = explains;
    }

    /// The story is over.
    pub(super) fn end(&self) {
        self.0.lock().ladder = None;
    }

    pub(super) fn message(&self, from: Actor, to: Actor, message: &Message) {
        let mut telling = self.0.lock();
        telling.arrow(from, to, &labels(message), tone(message));
        for note in notes(from, message, telling.explains) {
            telling.note(&note);
        }
    }

    /// An arrow that is not a SIP message, and what it carries.
    pub(super) fn arrow(&self, from: Actor, to: Actor, label: &str, tone: Tone, notes: &[&str]) {
        let mut telling = self.0.lock();
        telling.arrow(from, to, &[label.to_owned()], tone);
        for note in notes {
            telling.note(note);
        }
    }

    /// Something that an actor does without a message.
    pub(super) fn deed(&self, actor: Actor, text: &str) {
        let telling = self.0.lock();
        if let Some(ladder) = &telling.ladder {
            telling.write(&ladder.deed(telling.elapsed(), actor, text));
        }
    }

    pub(super) fn set_asleep(&self, actor: Actor, is_asleep: bool) {
        if let Some(ladder) = &mut self.0.lock().ladder {
            ladder.set_asleep(actor, is_asleep);
        }
    }

    /// A line outside the ladder.
    pub(super) fn say(&self, line: &Line) {
        self.0.lock().write(line);
    }
}

impl Telling {
    fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.started)
    }

    fn arrow(&mut self, from: Actor, to: Actor, labels: &[String], tone: Tone) {
        if let Some(ladder) = &self.ladder {
            self.write(&ladder.arrow(self.elapsed(), from, to, labels, tone));
        }
    }

    fn note(&mut self, text: &str) {
        if let Some(ladder) = &self.ladder {
            for line in ladder.note(text) {
                self.write(&line);
            }
        }
    }

    fn write(&self, line: &Line) {
        // A reader that has seen enough is no fault.
        let _ = writeln!(std::io::stdout().lock(), "{}", line.render(self.colour));
    }
}

/// The present.
#[expect(clippy::disallowed_methods, reason = "the actors of the demo live in real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// What a message is called, from the most words to the fewest.
pub(super) fn labels(message: &Message) -> Vec<String> {
    let method = text(message.method_text());
    let Some(status) = message.status() else { return vec![method] };
    let reason = reason_phrase(status);
    let last_word = reason.rsplit(' ').next().unwrap_or_default();
    // A 200 alone would not say what is agreed to.
    match message.method() {
        Method::INVITE | Method::REGISTER => {
            vec![format!("{status} {reason}"), format!("{status} {last_word}"), status.to_string()]
        }
        Method::Known(_) | Method::Extension => {
            vec![format!("{status} {reason} ({method})"), format!("{status} ({method})"), status.to_string()]
        }
    }
}

fn tone(message: &Message) -> Tone {
    match message.status() {
        None => Tone::Request,
        Some(..=199) => Tone::Progress,
        Some(..=299) => Tone::Good,
        Some(_) => Tone::Bad,
    }
}

/// What is worth being seen of a message's headers.
fn notes(from: Actor, message: &Message, explains: bool) -> Vec<String> {
    let shown = |name: HeaderName| message.first(name).map(|value| format!("{}: {}", name.as_str(), text(value)));
    let is_register = message.method() == Method::REGISTER;
    // The second REGISTER, with credentials, has the same Contact.
    let is_first = is_register && message.is_request() && message.first(HeaderName::Authorization).is_none();
    let mut notes = Vec::new();
    if from == Actor::Softswitch && message.is_request() && message.method() == Method::INVITE {
        notes.push(format!("to {}", text(message.uri())));
    }
    if explains && is_first {
        notes.extend(shown(HeaderName::Contact));
    }
    if explains && is_register && message.status() == Some(200) {
        notes.extend(shown(HeaderName::FeatureCaps));
    }
    notes.extend(shown(HeaderName::Reason));
    notes
}

/// Bytes of a message, for people.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
