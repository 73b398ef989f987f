//! SIP as a peer of the server reads and writes it: plain text, and nothing of the server's own parser (RFC 3261 §7).

use std::fmt;

/// A message as it came.
#[derive(Clone)]
pub(crate) struct Sip {
    pub(crate) start: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// All of it, byte for byte.
    pub(crate) text: String,
}

impl fmt::Debug for Sip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Sip {
    /// Of one whole message.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no empty line in {text:?}"));
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            match headers.last_mut().filter(|_| line.starts_with([' ', '\t'])) {
                Some((_, folded)) => *folded = format!("{folded} {}", line.trim()),
                None => {
                    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
                    headers.push((name.trim().to_owned(), value.trim().to_owned()));
                }
            }
        }
        Self { start, headers, body: body.to_owned(), text: text.clone() }
    }

    /// 0 for a request.
    pub(crate) fn status(&self) -> u16 {
        let status = self.start.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3));
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Of a request, or of the request that a response answers.
    pub(crate) fn method(&self) -> &str {
        if self.status() == 0 { self.word(0) } else { self.header("CSeq").split(' ').nth(1).unwrap_or_default() }
    }

    /// Request-URI.
    pub(crate) fn uri(&self) -> &str {
        self.word(1)
    }

    fn word(&self, number: usize) -> &str {
        self.start.split(' ').nth(number).unwrap_or_default()
    }

    /// The first header of this name; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers(name).first().copied().unwrap_or_default()
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// URI of the first Contact, without its angle brackets.
    pub(crate) fn contact(&self) -> &str {
        in_brackets(self.header("Contact"))
    }

    pub(crate) fn to_tag(&self) -> &str {
        self.header("To").split_once(";tag=").map(|(_, tag)| tag).unwrap_or_default()
    }

    /// The response to this request. `headers` are whole lines; the To gets a tag, unless it is a 100 or has one.
    pub(crate) fn answer(&self, status: u16, reason: &str, tag: &str, headers: &str) -> String {
        let mut text = format!("SIP/2.0 {status} {reason}\r\n");
        for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
            for value in self.headers(name) {
                let tag = if name == "To" && status > 100 && self.to_tag().is_empty() {
                    format!(";tag={tag}")
                } else {
                    String::new()
                };
                text.push_str(&format!("{name}: {value}{tag}\r\n"));
            }
        }
        format!("{text}{headers}Content-Length: 0\r\n\r\n")
    }
}

/// What stands between `<` and `>`; the whole text where they are missing.
pub(crate) fn in_brackets(value: &str) -> &str {
    value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(value, |(uri, _)| uri)
}

/// A word that no other message of any test has.
pub(crate) fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}{}x{}", NEXT.fetch_add(1, Ordering::Relaxed), std::process::id())
}
