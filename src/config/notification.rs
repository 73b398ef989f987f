//! `[notification]`: tokens that apps bind by HTTP, and texts that back ends have sent.

use super::operation::Token;
use super::section::Section;

/// Longest title, in characters: phones show less.
const TITLE_CHARS_MAX: usize = 100;

/// `[notification]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What requests to `/notification/…` must bear; `None`: what the rest of the admin listener asks for.
    pub token: Option<Token>,
    /// Secret of Usedesk's webhook, which needs no token then; `None`: the webhook's secret is not checked.
    pub secret: Option<Token>,
    /// Tokens of one AOR beside those that its phones register with.
    pub tokens_per_aor_max: usize,
    /// Beside those that are built in, and before them.
    pub titles: Vec<Title>,
}

/// `[[notification.title]]`: the title of a text in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    pub language: String,
    pub text: String,
}

impl Notification {
    /// `probe`: read an absent list of titles as one, to learn its keys.
    pub(super) fn read(section: &Section<'_>, probe: bool) -> Self {
        let token = section.path("token_file", "").and_then(|file| Token::read(section, "token_file", &file));
        let secret = section.path("secret_file", "");
        let secret = secret.and_then(|file| Token::read_foreign(section, "secret_file", &file));
        let tokens_per_aor_max = section.count("tokens_per_aor_max", 10, 1..=1000);
        let mut titles: Vec<Title> = Vec::new();
        for title in section.sections("title", probe) {
            let language = title.string("language", "en").to_owned();
            let text = title.string("text", "new message from support").to_owned();
            if language.is_empty() {
                title.wrong("language", "needed: a language such as \"en\", \"ru\" or \"zh\"");
            }
            if text.is_empty() || text.chars().count() > TITLE_CHARS_MAX {
                title.wrong("text", format_args!("needed: a title of 1 to {TITLE_CHARS_MAX} characters"));
            }
            if titles.iter().any(|other| other.language.eq_ignore_ascii_case(&language)) {
                title.wrong("language", format_args!("{language:?} has its title already; leave one out"));
            }
            titles.push(Title { language, text });
        }
        Self { token, secret, tokens_per_aor_max, titles }
    }
}
