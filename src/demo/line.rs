//! Text in several tones, and how it is made short enough. Pure.

/// No line is wider.
pub(super) const WIDTH: usize = 80;
/// Longer words in notes are shown by their beginning: they are tokens.
const WORD: usize = 28;
const WORD_SHOWN: usize = 14;

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
    pub(super) fn put(&mut self, column: usize, text: &str, tone: Tone) {
        for (column, char) in (column..).zip(text.chars()) {
            if self.0.len() <= column {
                self.0.resize(column + 1, (' ', Tone::Plain));
            }
            if let Some(cell) = self.0.get_mut(column) {
                *cell = (char, tone);
            }
        }
    }

    pub(super) fn at(&self, column: usize) -> char {
        self.0.get(column).map_or(' ', |(char, _)| *char)
    }

    /// In characters.
    pub(super) fn len(&self) -> usize {
        self.0.len()
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

/// The text, or its beginning and `…`.
pub(super) fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['…']).collect()
}

/// Tokens, which nobody reads to their end, by their beginning.
pub(super) fn with_short_words(text: &str) -> String {
    let is_token = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
    let mut out = String::new();
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let end = rest.find(|char| !is_token(char)).unwrap_or(rest.len()).max(char.len_utf8());
        let (word, tail) = rest.split_at(end);
        match word.get(..WORD_SHOWN).filter(|_| word.len() > WORD) {
            Some(beginning) => out.extend([beginning, "…"]),
            None => out.push_str(word),
        }
        rest = tail;
    }
    out
}

/// Breaks a text that has hardly any spaces, such as JSON or a URI, after one of `,;` where there is one in the second half of a line.
pub(super) fn wrapped(text: &str, width: usize, lines_max: usize) -> Vec<String> {
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

    #[test]
    fn tokens_are_shown_by_their_beginning() {
        let token = "APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx";
        assert_eq!(with_short_words(&format!("\"é:{token}\",\"short\"")), "\"é:APA91bHun4MxP5…\",\"short\"");
    }

    #[test]
    fn notes_are_broken_at_commas_and_end_in_time() {
        assert_eq!(wrapped(r#"{"a":1,"b":2}"#, 10, 3), [r#"{"a":1,"#, r#""b":2}"#]);
        assert_eq!(wrapped("aaaaaaaaaaaa", 5, 3), ["aaaaa", "aaaaa", "aa"]);
        assert_eq!(wrapped("aaaaaaaaaaaa", 5, 2), ["aaaaa", "aaaa…"]);
        assert_eq!(wrapped("", 5, 2), [""]);
    }

    #[test]
    fn colours_are_written_only_where_they_are_wanted() {
        let line = Line::of("a b", Tone::Good).then(" c", Tone::Plain);
        assert_eq!(line.render(false), "a b c");
        assert_eq!(line.render(true), "\u{1b}[0;32ma b \u{1b}[0;0mc");
        assert_eq!(Line::of("x ", Tone::Bad).render(true), "\u{1b}[0;31mx\u{1b}[0m");
    }
}
