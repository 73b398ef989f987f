//! Words for a phone's user: a title in their language, and a text that is short enough to be shown.

use crate::config;

/// The title of a text, where the configuration has none for the language.
const TITLES: [(&str, &str); 6] = [
    ("en", "new message from support"),
    ("ru", "новое сообщение от поддержки"),
    ("zh", "来自客服的新消息"),
    ("de", "neue Nachricht vom Support"),
    ("fr", "nouveau message du support"),
    ("es", "nuevo mensaje de soporte"),
];

/// Titles by their languages.
#[derive(Debug)]
pub(super) struct Titles {
    /// Those that count before others of their language come first.
    by_language: Vec<(Box<str>, Box<str>)>,
    /// For users whose own language is not known, or has no title.
    standard: Box<str>,
}

impl Titles {
    pub(super) fn new(titles: &[config::Title], standard: &str) -> Self {
        let configured = titles.iter().map(|title| (&*title.language, &*title.text));
        let by_language = configured.chain(TITLES).map(|(language, text)| (language.into(), text.into())).collect();
        Self { by_language, standard: standard.into() }
    }

    /// In the language, in that without its region, in the standard one, in English.
    pub(super) fn of(&self, language: Option<&str>) -> &str {
        let find = |wanted: &str| {
            let found = self.by_language.iter().find(|(language, _)| language.eq_ignore_ascii_case(wanted));
            found.map(|(_, text)| &**text)
        };
        let find = |language: &str| find(language).or_else(|| find(language.split('-').next().unwrap_or_default()));
        language.and_then(find).or_else(|| find(&self.standard)).or_else(|| find("en")).unwrap_or_default()
    }
}

/// The beginning of a text on one line, at most `chars_max` characters of it: cut between words where that does not cost
/// much, and `…` for the rest.
pub(super) fn shortened(text: &str, chars_max: usize) -> Box<str> {
    let is_space = |letter: char| letter.is_whitespace() || letter.is_control();
    let words: Vec<&str> = text.split(is_space).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    if line.chars().count() <= chars_max {
        return line.into();
    }
    let end = line.char_indices().nth(chars_max.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let kept = line.get(..end).unwrap_or_default();
    let is_between = line.get(end..).is_some_and(|rest| rest.starts_with(' '));
    let whole = kept.rfind(' ').filter(|at| !is_between && *at >= end / 2).and_then(|at| kept.get(..at));
    format!("{}…", whole.unwrap_or(kept).trim_end()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_in_the_users_language_or_the_nearest_to_it() {
        let own = |language: &str, text: &str| config::Title { language: language.into(), text: text.into() };
        let titles = Titles::new(&[own("de", "Neues"), own("pt-BR", "nova mensagem")], "ru");
        for (language, expected) in [
            (Some("de"), "Neues"),
            (Some("DE-at"), "Neues"),
            (Some("en-GB"), "new message from support"),
            (Some("pt-br"), "nova mensagem"),
            (Some("pt"), "новое сообщение от поддержки"),
            (None, "новое сообщение от поддержки"),
        ] {
            assert_eq!(titles.of(language), expected, "{language:?}");
        }
        assert_eq!(Titles::new(&[], "xx").of(None), "new message from support");
    }

    #[test]
    fn a_text_is_cut_between_words_or_else_between_characters() {
        for (text, expected) in [
            ("short", "short"),
            ("  on\r\n two\tlines\u{7} ", "on two lines"),
            ("exactly twelve", "exactly…"),
            ("twelve chars", "twelve chars"),
            ("hello worlds end", "hello…"),
            ("thousands of", "thousands of"),
            ("сообщения нет", "сообщения…"),
            ("没有空格的很长的一段文字在这里", "没有空格的很长的一段文…"),
            ("a bcdefghijklmnop", "a bcdefghij…"),
        ] {
            let cut = shortened(text, 12);
            assert_eq!(&*cut, expected, "{text}");
            assert!(cut.chars().count() <= 12);
        }
    }
}
