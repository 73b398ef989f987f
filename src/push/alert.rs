//! Texts of alerts in the languages of their readers, with the plural forms that each needs (Unicode CLDR, "Language
//! Plural Rules", cardinal numbers).

use crate::store::BucketEntry;

/// The texts of one language: a `[[push.alert]]` table. `{count}` stands for the number of calls, `{caller}` for who
/// called last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// As in BCP 47: `ru`, `zh`, `pt-BR`.
    pub language: Box<str>,
    pub title: Box<str>,
    /// By the plural forms of the language; an empty one is as `other`.
    pub one: Box<str>,
    pub few: Box<str>,
    pub many: Box<str>,
    pub other: Box<str>,
    /// For `{caller}` when the last one hides.
    pub anonymous: Box<str>,
}

/// All texts, and the language of phones whose own is not known or has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alerts {
    pub language: Box<str>,
    pub texts: Vec<Text>,
}

/// A grammatical number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plural {
    One,
    Few,
    Many,
    Other,
}

impl Alerts {
    /// The text for a phone: in its language, in that without its region, in the standard one. `None` leaves the text to
    /// the app.
    pub(super) fn text(&self, language: Option<&str>) -> Option<&Text> {
        let of = |wanted: &str| self.texts.iter().find(|text| text.language.eq_ignore_ascii_case(wanted));
        language.and_then(|language| of(language).or_else(|| of(primary(language)))).or_else(|| of(&self.language))
    }
}

impl Text {
    /// For services that leave no text to the app, where none is configured.
    pub(super) fn english() -> Self {
        Self {
            language: "en".into(),
            title: "Missed calls".into(),
            one: "{count} missed call".into(),
            few: "".into(),
            many: "".into(),
            other: "{count} missed calls".into(),
            anonymous: "unknown".into(),
        }
    }

    /// The body for these calls, oldest first; `count` counts those that are left out, too.
    pub(super) fn body(&self, calls: &[BucketEntry], count: usize) -> String {
        let form = match plural(&self.language, count) {
            Plural::One => &self.one,
            Plural::Few => &self.few,
            Plural::Many => &self.many,
            Plural::Other => &self.other,
        };
        let form = if form.is_empty() { &self.other } else { form };
        let caller = match calls.last() {
            Some(call) if call.anonymous => &*self.anonymous,
            Some(call) if !call.display_name.is_empty() => &*call.display_name,
            Some(call) => &*call.remote_uri,
            None => "",
        };
        // A name may have braces of its own, so it goes in last.
        form.replace("{count}", &count.to_string()).replace("{caller}", super::payload::shortened(caller))
    }
}

fn primary(language: &str) -> &str {
    language.split(['-', '_']).next().unwrap_or(language)
}

fn plural(language: &str, count: usize) -> Plural {
    let (tens, ones) = (count % 100, count % 10);
    let is_teen = (11..=14).contains(&tens);
    match primary(language).to_ascii_lowercase().as_str() {
        "ru" | "uk" | "be" => match ones {
            1 if tens != 11 => Plural::One,
            2..=4 if !is_teen => Plural::Few,
            _ => Plural::Many,
        },
        "sr" | "hr" | "bs" => match ones {
            1 if tens != 11 => Plural::One,
            2..=4 if !is_teen => Plural::Few,
            _ => Plural::Other,
        },
        "pl" => match ones {
            _ if count == 1 => Plural::One,
            2..=4 if !is_teen => Plural::Few,
            _ => Plural::Many,
        },
        "cs" | "sk" => match count {
            1 => Plural::One,
            2..=4 => Plural::Few,
            _ => Plural::Other,
        },
        "lt" => match ones {
            1 if !(11..=19).contains(&tens) => Plural::One,
            2..=9 if !(11..=19).contains(&tens) => Plural::Few,
            _ => Plural::Other,
        },
        "fr" | "pt" | "hy" if count < 2 => Plural::One,
        "zh" | "ja" | "ko" | "vi" | "th" | "id" | "ms" | "my" | "lo" | "km" => Plural::Other,
        _ if count == 1 => Plural::One,
        _ => Plural::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::store::EntryState;

    fn text(language: &str) -> Text {
        Text {
            language: language.into(),
            title: "t".into(),
            one: "{count} one".into(),
            few: "{count} few".into(),
            many: "{count} many".into(),
            other: "{count} other".into(),
            anonymous: "somebody".into(),
        }
    }

    #[test]
    fn plural_forms() {
        let forms = |language: &str, counts: &[usize]| -> Vec<String> {
            counts.iter().map(|count| text(language).body(&[], *count).replace(' ', "")).collect()
        };
        assert_eq!(forms("en", &[1, 2, 11, 21, 101]), ["1one", "2other", "11other", "21other", "101other"]);
        assert_eq!(
            forms("ru", &[1, 2, 4, 5, 11, 12, 14, 20]),
            ["1one", "2few", "4few", "5many", "11many", "12many", "14many", "20many"]
        );
        assert_eq!(
            forms("ru-RU", &[21, 22, 25, 101, 111, 112, 122]),
            ["21one", "22few", "25many", "101one", "111many", "112many", "122few"]
        );
        assert_eq!(forms("zh", &[1, 2, 5]), ["1other", "2other", "5other"]);
        assert_eq!(forms("zh-Hans", &[1]), ["1other"]);
        assert_eq!(forms("pl", &[1, 2, 5, 12, 21, 22]), ["1one", "2few", "5many", "12many", "21many", "22few"]);
        assert_eq!(forms("fr", &[0, 1, 2]), ["0one", "1one", "2other"]);
        assert_eq!(forms("cs", &[1, 4, 5]), ["1one", "4few", "5other"]);
    }

    #[test]
    fn a_form_that_is_missing_is_as_other() {
        let text = Text { one: "".into(), ..text("en") };
        assert_eq!(text.body(&[], 1), "1 other");
    }

    #[test]
    fn texts_are_chosen_by_language() {
        let alerts = Alerts { language: "en".into(), texts: vec![text("en"), text("pt"), text("pt-BR")] };
        let chosen = |language| alerts.text(language).map(|text| text.language.to_string());
        assert_eq!(chosen(None).as_deref(), Some("en"));
        assert_eq!(chosen(Some("pt-br")).as_deref(), Some("pt-BR"));
        assert_eq!(chosen(Some("pt-PT")).as_deref(), Some("pt"));
        assert_eq!(chosen(Some("de")).as_deref(), Some("en"));
        assert!(Alerts::default().text(Some("en")).is_none());
    }

    #[test]
    fn the_last_caller_is_named_unless_anonymous() {
        let call = |number: &str, name: &str, anonymous| BucketEntry {
            call_ref: "1".into(),
            remote_uri: number.into(),
            display_name: name.into(),
            anonymous,
            invited_at: UnixMillis(0),
            state: EntryState::Missed,
        };
        let text = Text { one: "{caller} called, {count} time".into(), ..text("en") };
        assert_eq!(text.body(&[call("103", "", false)], 1), "103 called, 1 time");
        assert_eq!(text.body(&[call("1", "A", false), call("103", "{count}", false)], 1), "{count} called, 1 time");
        assert_eq!(text.body(&[call("103", "Ivan", true)], 1), "somebody called, 1 time");
    }
}
