//! A SIP message as offsets over its bytes (RFC 3261 §7).

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::header::HeaderName;
use super::method::Method;
use super::name_addr::NameAddr;
use super::scan;
use super::via::Via;

/// The largest message, by the length field of UDP (RFC 3261 §18.1.1).
pub const MESSAGE_BYTES_MAX: usize = 65_535;

/// A message. Made by one scan without allocation (unless it has more than [`INLINE_FIELDS`] header lines).
///
/// The scan is lenient: it finds the lines and says nothing of what stands in them. What breaks framing itself is
/// kept as [`Message::defect`], so that a request can still be answered 400 to the right place.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Bytes,
    start_line: StartLine,
    fields: SmallVec<[Field; INLINE_FIELDS]>,
    body: u32,
    defect: Option<Defect>,
}

const INLINE_FIELDS: usize = 32;

#[derive(Debug, Clone)]
enum StartLine {
    Request { method: Method, method_end: u16, uri: (u16, u16) },
    Response { status: u16 },
}

/// One header field: a line with those that continue it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: HeaderName,
    start: u16,
    name_end: u16,
    value: (u16, u16),
    end: u16,
}

impl Field {
    /// The whole field with its line end.
    pub fn line(&self) -> Range<usize> {
        usize::from(self.start)..usize::from(self.end)
    }

    /// The value without surrounding white space.
    pub fn value(&self) -> Range<usize> {
        usize::from(self.value.0)..usize::from(self.value.1)
    }

    /// The name as written.
    pub fn name_span(&self) -> Range<usize> {
        usize::from(self.start)..usize::from(self.name_end)
    }
}

/// Why bytes are no SIP message at all. There is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSip {
    #[error("nothing but line ends")]
    Empty,
    #[error("larger than 65,535 bytes")]
    TooLarge,
    #[error("the first line is neither a Request-Line nor a Status-Line")]
    StartLine,
}

/// What is wrong with the form of a message that is recognisably SIP. A request gets 400 (505 for the version,
/// RFC 3261 §8.2), a response is dropped (§18.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    #[error("SIP version not supported")]
    Version,
    #[error("malformed Request-Line")]
    RequestLine,
    #[error("malformed header line")]
    HeaderLine,
    /// A NUL, a CR without LF or a LF without CR: another element might end a line there, and read another message
    /// than we do.
    #[error("control character in a line")]
    ControlCharacter,
    #[error("too many header lines")]
    TooManyHeaders,
    #[error("header section does not end")]
    HeadersUnfinished,
    #[error("malformed or repeated Content-Length")]
    ContentLength,
    #[error("body shorter than Content-Length")]
    BodyTooShort,
}

impl Message {
    /// Scans one datagram, or one frame of a stream. Bytes beyond Content-Length are cut off (RFC 3261 §18.3).
    pub fn parse(bytes: Bytes, headers_max: usize) -> Result<Self, NotSip> {
        let leading = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let mut bytes = bytes;
        if leading > 0 {
            bytes = bytes.slice(leading..);
        }
        if bytes.is_empty() {
            return Err(NotSip::Empty);
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(NotSip::TooLarge);
        }
        let (line, headers_start) = line_at(&bytes, 0);
        let mut defect = None;
        let mut ends = LineEnds::default();
        ends.see(&line, headers_start);
        let start_line = StartLine::parse(bytes.get(line).unwrap_or_default(), &mut defect)?;
        let mut message = Self { bytes, start_line, fields: SmallVec::new(), body: 0, defect };
        message.scan_headers(headers_start, headers_max, &mut ends);
        if !ends.are_plain(message.bytes.get(..message.body as usize).unwrap_or_default()) {
            message.found(Defect::ControlCharacter);
        }
        message.find_body();
        Ok(message)
    }

    fn scan_headers(&mut self, mut at: usize, headers_max: usize, ends: &mut LineEnds) {
        loop {
            let start = at;
            let (mut line, next) = line_at(&self.bytes, at);
            at = next;
            ends.see(&line, next);
            if line.is_empty() {
                if next == start {
                    self.found(Defect::HeadersUnfinished);
                }
                self.body = next as u32;
                return;
            }
            while matches!(self.bytes.get(at), Some(b' ' | b'\t')) {
                let (continued, next) = line_at(&self.bytes, at);
                ends.see(&continued, next);
                line.end = continued.end;
                at = next;
            }
            if self.fields.len() == headers_max {
                self.found(Defect::TooManyHeaders);
                continue;
            }
            match Field::parse(&self.bytes, line, at) {
                Some(field) => self.fields.push(field),
                None => self.found(Defect::HeaderLine),
            }
        }
    }

    /// Applies Content-Length to what follows the headers.
    fn find_body(&mut self) {
        let mut length = None;
        for field in &self.fields {
            if field.name == HeaderName::ContentLength {
                let value = scan::number(self.slice(field.value()));
                if value.is_none() || length.is_some() {
                    self.defect.get_or_insert(Defect::ContentLength);
                    return;
                }
                length = value;
            }
        }
        let Some(length) = length else { return };
        let rest = self.bytes.len() - self.body as usize;
        match usize::try_from(length) {
            Ok(length) if length <= rest => self.bytes.truncate(self.body as usize + length),
            _ => self.found(Defect::BodyTooShort),
        }
    }

    /// The first defect found is the one told.
    fn found(&mut self, defect: Defect) {
        self.defect.get_or_insert(defect);
    }

    pub fn defect(&self) -> Option<Defect> {
        self.defect
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.body as usize..).unwrap_or_default()
    }

    /// Where the header section ends and the empty line before the body begins.
    pub fn headers_end(&self) -> usize {
        self.fields.last().map_or_else(|| line_at(&self.bytes, 0).1, |field| usize::from(field.end))
    }

    pub fn slice(&self, span: Range<usize>) -> &[u8] {
        self.bytes.get(span).unwrap_or_default()
    }

    /// Where `part`, which must be a slice of this message, stands in it.
    pub fn span_of(&self, part: &[u8]) -> Range<usize> {
        scan::span_in(&self.bytes, part)
    }

    pub fn is_request(&self) -> bool {
        matches!(self.start_line, StartLine::Request { .. })
    }

    /// A request's method, or the method that a response's CSeq names.
    pub fn method(&self) -> Method {
        match &self.start_line {
            StartLine::Request { method, .. } => *method,
            StartLine::Response { .. } => Method::of(self.method_text()),
        }
    }

    /// See [`Message::method`].
    pub fn method_text(&self) -> &[u8] {
        match &self.start_line {
            StartLine::Request { method_end, .. } => self.slice(0..usize::from(*method_end)),
            StartLine::Response { .. } => self.cseq().map_or(&[], |cseq| cseq.method),
        }
    }

    /// A response's status; `None` for a request.
    pub fn status(&self) -> Option<u16> {
        match self.start_line {
            StartLine::Request { .. } => None,
            StartLine::Response { status } => Some(status),
        }
    }

    /// A request's Request-URI; empty for a response.
    pub fn uri(&self) -> &[u8] {
        self.slice(self.uri_span())
    }

    pub fn uri_span(&self) -> Range<usize> {
        match &self.start_line {
            StartLine::Request { uri, .. } => usize::from(uri.0)..usize::from(uri.1),
            StartLine::Response { .. } => 0..0,
        }
    }

    /// All fields in order.
    pub fn all_fields(&self) -> &[Field] {
        &self.fields
    }

    /// The fields called `name`, in order.
    pub fn fields(&self, name: HeaderName) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| field.name == name)
    }

    /// The first field's value.
    pub fn first(&self, name: HeaderName) -> Option<&[u8]> {
        self.fields(name).next().map(|field| self.slice(field.value()))
    }

    /// The comma-separated values of all fields called `name`.
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.fields(name).flat_map(|field| scan::values(self.slice(field.value())))
    }

    /// Whether the list `name` has `option`, without regard to case (option tags, RFC 3261 §19.2).
    pub fn has_option(&self, name: HeaderName, option: &str) -> bool {
        self.values(name).any(|value| value.eq_ignore_ascii_case(option.as_bytes()))
    }

    /// A header that is one number.
    pub fn number(&self, name: HeaderName) -> Option<u64> {
        scan::number(self.first(name)?)
    }

    pub fn call_id(&self) -> &[u8] {
        self.first(HeaderName::CallId).unwrap_or_default()
    }

    pub fn from(&self) -> Option<NameAddr<'_>> {
        NameAddr::parse(self.first(HeaderName::From)?)
    }

    pub fn to(&self) -> Option<NameAddr<'_>> {
        NameAddr::parse(self.first(HeaderName::To)?)
    }

    pub fn from_tag(&self) -> Option<&[u8]> {
        self.from()?.param("tag")?
    }

    pub fn to_tag(&self) -> Option<&[u8]> {
        self.to()?.param("tag")?
    }

    pub fn cseq(&self) -> Option<CSeq<'_>> {
        let value = self.first(HeaderName::CSeq)?;
        let end = value.iter().position(|byte| scan::is_lws(*byte))?;
        let number = u32::try_from(scan::number(value.get(..end)?)?).ok()?;
        let method = scan::trim(value.get(end..)?);
        scan::is_token(method).then_some(CSeq { number, method })
    }

    pub fn top_via(&self) -> Option<Via<'_>> {
        Via::parse(self.values(HeaderName::Via).next()?)
    }
}

/// RFC 3261 §20.16. The number is below 2^31 by §8.1.1.5, but what fits into 32 bits is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CSeq<'a> {
    pub number: u32,
    pub method: &'a [u8],
}

impl StartLine {
    fn parse(line: &[u8], defect: &mut Option<Defect>) -> Result<Self, NotSip> {
        if line.len() > usize::from(u16::MAX) {
            return Err(NotSip::TooLarge);
        }
        let (first, rest) = scan::split_once(line, b' ').ok_or(NotSip::StartLine)?;
        if first.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/")) {
            return Self::parse_status(first, rest, defect);
        }
        if !scan::is_token(first) {
            return Err(NotSip::StartLine);
        }
        // The version is what follows the last space. Spaces at the line's end or within the URI are a fault
        // that still lets us answer 400 (RFC 4475 §3.1.2.7-3.1.2.10).
        let trimmed = rest.trim_ascii_end();
        let version_at = trimmed.iter().rposition(|byte| *byte == b' ').ok_or(NotSip::StartLine)?;
        let version = trimmed.get(version_at + 1..).unwrap_or_default();
        if !version.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/")) {
            return Err(NotSip::StartLine);
        }
        if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            *defect = Some(Defect::Version);
        }
        let uri = trimmed.get(..version_at).unwrap_or_default();
        if uri.is_empty() || uri.iter().any(|byte| scan::is_lws(*byte)) || trimmed.len() != rest.len() {
            defect.get_or_insert(Defect::RequestLine);
        }
        let start = first.len() + 1;
        Ok(Self::Request {
            method: Method::of(first),
            method_end: first.len() as u16,
            uri: (start as u16, (start + uri.len()) as u16),
        })
    }

    fn parse_status(version: &[u8], rest: &[u8], defect: &mut Option<Defect>) -> Result<Self, NotSip> {
        if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            *defect = Some(Defect::Version);
        }
        let code = rest.get(..3).ok_or(NotSip::StartLine)?;
        if !matches!(rest.get(3), None | Some(b' ')) {
            return Err(NotSip::StartLine);
        }
        let status = scan::number(code).filter(|status| (100..700).contains(status)).ok_or(NotSip::StartLine)?;
        Ok(Self::Response { status: status as u16 })
    }
}

impl Field {
    /// `line` is the field without its last line end, `end` where the next one begins.
    fn parse(bytes: &[u8], line: Range<usize>, end: usize) -> Option<Self> {
        let text = bytes.get(line.clone())?;
        let colon = memchr::memchr(b':', text)?;
        let name = text.get(..colon)?.trim_ascii_end();
        if !scan::is_token(name) {
            return None;
        }
        let value = scan::span_in(bytes, scan::trim(text.get(colon + 1..)?));
        let value = if value.is_empty() { line.start + colon + 1..line.start + colon + 1 } else { value };
        Some(Self {
            name: HeaderName::of(name),
            start: line.start as u16,
            name_end: (line.start + name.len()) as u16,
            value: (value.start as u16, value.end as u16),
            end: end as u16,
        })
    }
}

/// The line that begins at `at` without its end, and where the next one begins. A lone LF ends a line, too; without
/// one the line reaches to the end.
fn line_at(bytes: &[u8], at: usize) -> (Range<usize>, usize) {
    let rest = bytes.get(at..).unwrap_or_default();
    match memchr::memchr(b'\n', rest) {
        Some(newline) => {
            let end = at + newline;
            let text_end = if newline > 0 && bytes.get(end - 1) == Some(&b'\r') { end - 1 } else { end };
            (at..text_end, end + 1)
        }
        None => (at..at + rest.len(), at + rest.len()),
    }
}

/// How the lines of a head end.
#[derive(Debug, Default)]
struct LineEnds {
    by_crlf: usize,
    by_lf_alone: usize,
}

impl LineEnds {
    /// A line, after which `next` begins. One that the message ends with has no end of its own.
    fn see(&mut self, line: &Range<usize>, next: usize) {
        match next - line.end {
            2 => self.by_crlf += 1,
            1 => self.by_lf_alone += 1,
            _ => {}
        }
    }

    /// Whether each line of `head` ends by CRLF, and has no CR, LF or NUL before.
    fn are_plain(&self, head: &[u8]) -> bool {
        self.by_lf_alone == 0
            && memchr::memchr_iter(b'\r', head).count() == self.by_crlf
            && (memchr::memchr(0, head).is_none() || has_only_quoted_pairs(head))
    }
}

/// Whether each NUL is a quoted-pair in a quoted string, the one place that the grammar has for it (RFC 3261 §25.1,
/// RFC 4475 §3.1.1.2).
fn has_only_quoted_pairs(text: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    text.iter().all(|byte| {
        let was_escaped = std::mem::take(&mut escaped);
        match byte {
            // A quote that was not closed ends with its line.
            b'\n' => quoted = false,
            0 => return was_escaped,
            b'\\' if quoted && !was_escaped => escaped = true,
            b'"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.replace('\n', "\r\n").as_bytes()), 128).unwrap()
    }

    #[test]
    fn lines_that_others_might_end_elsewhere_are_a_defect() {
        let defect = |line: &str| {
            let text = format!("OPTIONS sip:a@h SIP/2.0\r\n{line}\r\nTo: <sip:a@h>\r\n\r\n\r\0\n");
            Message::parse(text.into(), 128).unwrap().defect()
        };
        for line in [
            "Subject: a\r b",
            "Subject: a\nTo: b",
            "X-A: a\0b",
            "f: \"\\\\\0\" <sip:a@h>",
            "Subject: \\\0",
            "f: \"\0\"<sip:a@h>",
        ] {
            assert_eq!(defect(line), Some(Defect::ControlCharacter), "{line:?}");
        }
        for line in ["Subject: a\r\n b", "f: \"a\\\0b\" <sip:a@h>", "Subject: \u{7}"] {
            assert_eq!(defect(line), None, "{line:?}");
        }
        for text in ["OPTIONS sip:a@h SIP/2.0\nTo: <sip:a@h>\r\n\r\n", "OPTIONS sip:a@h\0 SIP/2.0\r\n\r\n"] {
            let defect = Message::parse(text.into(), 128).unwrap().defect();
            assert_eq!(defect, Some(Defect::ControlCharacter), "{text:?}");
        }
    }

    #[test]
    fn folded_compact_and_oddly_spaced_fields_are_found() {
        let message = parse(
            "INVITE sip:a@h;pn-param=T.b.voip&remote SIP/2.0\nv: SIP/2.0/UDP h\n ;branch=z9hG4bKx\nTo  :  <sip:a@h>\nf: <sip:b@h>;tag=1\ni:c\nCSeq: 1 \n INVITE\nSubject:\nl: 2\n\nhixx",
        );
        assert_eq!(message.method(), Method::INVITE);
        assert_eq!(message.uri(), b"sip:a@h;pn-param=T.b.voip&remote");
        assert_eq!(message.top_via().unwrap().branch(), Some(&b"z9hG4bKx"[..]));
        assert_eq!(message.first(HeaderName::To), Some(&b"<sip:a@h>"[..]));
        assert_eq!(message.from_tag(), Some(&b"1"[..]));
        assert_eq!(message.cseq(), Some(CSeq { number: 1, method: b"INVITE" }));
        assert_eq!(message.body(), b"hi");
        assert_eq!(message.defect(), None);
        assert_eq!(message.slice(message.headers_end()..message.bytes().len()), b"\r\nhi");
    }

    #[test]
    fn defects_are_kept_so_that_the_request_can_be_answered() {
        let defect = |text: &str| parse(text).defect();
        assert_eq!(defect("OPTIONS sip:h SIP/7.0\nVia: x\n\n"), Some(Defect::Version));
        assert_eq!(defect("OPTIONS sip:h ; x SIP/2.0\nVia: x\n\n"), Some(Defect::RequestLine));
        assert_eq!(defect("OPTIONS sip:h SIP/2.0 \nVia: x\n\n"), Some(Defect::RequestLine));
        assert_eq!(defect("OPTIONS sip:h SIP/2.0\nnonsense\n\n"), Some(Defect::HeaderLine));
        assert_eq!(defect("OPTIONS sip:h SIP/2.0\nl: 5\n\nhi"), Some(Defect::BodyTooShort));
        assert_eq!(defect("OPTIONS sip:h SIP/2.0\nl: -5\n\nhi"), Some(Defect::ContentLength));
        assert_eq!(defect("OPTIONS sip:h SIP/2.0\nl: 2\nl: 2\n\nhi"), Some(Defect::ContentLength));
        assert_eq!(defect("OPTIONS sip:h SIP/2.0\nVia: x"), Some(Defect::HeadersUnfinished));
    }

    #[test]
    fn what_is_not_sip_is_told() {
        let not_sip = |text: &[u8]| Message::parse(Bytes::copy_from_slice(text), 128).unwrap_err();
        assert_eq!(not_sip(b"\r\n\r\n"), NotSip::Empty);
        assert_eq!(not_sip(b"GET / HTTP/1.1\r\n\r\n"), NotSip::StartLine);
        assert_eq!(not_sip(b"SIP/2.0 4294967301 better not break the receiver\r\n\r\n"), NotSip::StartLine);
        assert_eq!(not_sip(&[b'a'; 70_000]), NotSip::TooLarge);
    }

    #[test]
    fn header_lines_are_limited() {
        let text = format!("OPTIONS sip:h SIP/2.0\r\n{}\r\n", "X: 1\r\n".repeat(200));
        let message = Message::parse(text.into(), 128).unwrap();
        assert_eq!(message.defect(), Some(Defect::TooManyHeaders));
        assert_eq!(message.all_fields().len(), 128);
    }
}
