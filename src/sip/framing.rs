//! Messages out of a byte stream (RFC 3261 §18.3), keep-alives between them (RFC 5626 §3.5.1), and what a datagram is.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

/// Longest method, or version of a response, before the first space. No registered method has half of it.
const FIRST_WORD_BYTES_MAX: usize = 64;

/// How much a stream may send before a message must be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramingLimits {
    /// Start line and header fields, with the empty line.
    pub head_bytes_max: usize,
    /// The whole message. RFC 3261 §18.1.1 asks for 65,535 on UDP; a stream gets no more.
    pub message_bytes_max: usize,
}

impl Default for FramingLimits {
    fn default() -> Self {
        Self { head_bytes_max: 32 * 1024, message_bytes_max: 65_535 }
    }
}

/// One thing that a stream said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole message: head, and as many bytes of body as its Content-Length says.
    Message(Bytes),
    /// A double CRLF, to be answered with a single one (RFC 5626 §3.5.1).
    Ping,
}

/// Why a stream cannot be read any further: where the next message begins is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct FramingError {
    pub kind: FramingErrorKind,
    /// What was read of the message's head, at most [`FramingLimits::head_bytes_max`]: enough to answer it, before the
    /// stream is closed. Empty for [`FramingErrorKind::NotSip`].
    pub head: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingErrorKind {
    /// HTTP, TLS, noise. Nothing to answer.
    #[error("the stream is not SIP")]
    NotSip,
    #[error("the head of the message is too large")]
    HeadTooLarge,
    #[error("the message is too large")]
    MessageTooLarge,
    /// A stream has no other way to tell where a body ends (RFC 3261 §18.3).
    #[error("Content-Length is missing")]
    MissingContentLength,
    /// Negative, empty or no number (RFC 4475 §3.1.2.3).
    #[error("Content-Length is not a number")]
    BadContentLength,
    /// Two that differ (RFC 4475 §3.3.9).
    #[error("two Content-Length fields differ")]
    ConflictingContentLength,
}

/// Cuts a stream into messages and keep-alives. After an error it stays silent: the stream has to be closed.
#[derive(Debug)]
pub struct Framer {
    limits: FramingLimits,
    buffer: BytesMut,
    /// Whether the buffer's allocation has held something before what it holds.
    is_reused: bool,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Between messages, or within a start line.
    StartLine,
    /// The start line is one of SIP; the end of the head is not within the first `scanned` bytes.
    Head {
        scanned: usize,
    },
    /// The head is complete, and with it the length of the message.
    Body {
        message_bytes: usize,
    },
    Failed,
}

impl Framer {
    pub fn new(limits: FramingLimits) -> Self {
        Self { limits, buffer: BytesMut::new(), is_reused: false, progress: Progress::StartLine }
    }

    /// Takes what the stream gave. [`Framer::next_frame`] is to be called until it has no more, before feeding again;
    /// then no more than one message and one feed is ever kept.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.progress != Progress::Failed {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Whether a message has begun and is not complete. Line ends alone are not a message.
    pub fn is_partial(&self) -> bool {
        !matches!(self.buffer.as_ref(), b"" | b"\r" | b"\r\n" | b"\r\n\r")
    }

    /// The next frame; `None` until more is fed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FramingError> {
        self.advance().map_err(|kind| self.fail(kind))
    }

    fn advance(&mut self) -> Result<Option<Frame>, FramingErrorKind> {
        loop {
            match self.progress {
                Progress::StartLine => {
                    if self.skip_line_ends() {
                        return Ok(Some(Frame::Ping));
                    }
                    if !self.start_line_is_sip()? {
                        return Ok(None);
                    }
                    self.progress = Progress::Head { scanned: 0 };
                }
                Progress::Head { scanned } => {
                    let Some(head_bytes) = self.head_end(scanned)? else {
                        return Ok(None);
                    };
                    let message_bytes = self.message_bytes(head_bytes)?;
                    self.progress = Progress::Body { message_bytes };
                }
                Progress::Body { message_bytes } => {
                    if self.buffer.len() < message_bytes {
                        return Ok(None);
                    }
                    self.progress = Progress::StartLine;
                    return Ok(Some(Frame::Message(self.take(message_bytes))));
                }
                Progress::Failed => return Ok(None),
            }
        }
    }

    /// Drops line ends before a start line (RFC 3261 §7.5); true when a double CRLF was among them.
    fn skip_line_ends(&mut self) -> bool {
        loop {
            if self.buffer.starts_with(b"\r\n\r\n") {
                self.consume(4);
                return true;
            }
            match self.buffer.as_ref() {
                // Whether this is half a ping is seen with the next bytes.
                _ if !self.is_partial() => return false,
                [b'\r', b'\n', ..] => self.consume(2),
                [b'\n', ..] => self.consume(1),
                _ => return false,
            }
        }
    }

    /// Whether the start line is complete; an error as soon as it cannot become one of SIP.
    fn start_line_is_sip(&self) -> Result<bool, FramingErrorKind> {
        if !self.is_partial() {
            return Ok(false);
        }
        let start = self.buffer.get(..FIRST_WORD_BYTES_MAX).unwrap_or(&self.buffer);
        let first_word = start.split(|byte| *byte == b' ').next().unwrap_or_default();
        let is_word = first_word.iter().all(|byte| is_token(*byte) || *byte == b'/');
        if !is_word || first_word.is_empty() || first_word.len() == FIRST_WORD_BYTES_MAX {
            return Err(FramingErrorKind::NotSip);
        }
        let Some(end) = memmem::find(&self.buffer, b"\r\n") else {
            let is_too_long = self.buffer.len() > self.limits.head_bytes_max;
            return if is_too_long { Err(FramingErrorKind::HeadTooLarge) } else { Ok(false) };
        };
        let line = self.buffer.get(..end).unwrap_or_default();
        // Which version, and whether all else is right, is judged where an answer can be given.
        if line.windows(4).any(|window| window.eq_ignore_ascii_case(b"SIP/")) {
            Ok(true)
        } else {
            Err(FramingErrorKind::NotSip)
        }
    }

    /// Length of the head with its empty line, once it is there.
    fn head_end(&mut self, scanned: usize) -> Result<Option<usize>, FramingErrorKind> {
        let end = self
            .buffer
            .get(scanned..)
            .and_then(|rest| memmem::find(rest, b"\r\n\r\n"))
            .map(|position| scanned + position + 4);
        if end.unwrap_or(self.buffer.len()) > self.limits.head_bytes_max {
            return Err(FramingErrorKind::HeadTooLarge);
        }
        if end.is_none() {
            // The empty line may have begun within the last three bytes.
            self.progress = Progress::Head { scanned: self.buffer.len().saturating_sub(3) };
        }
        Ok(end)
    }

    /// Length of the message whose head is complete.
    fn message_bytes(&self, head_bytes: usize) -> Result<usize, FramingErrorKind> {
        let head = self.buffer.get(..head_bytes).unwrap_or_default();
        let body_bytes = content_length(head)?;
        let message_bytes = head_bytes.saturating_add(body_bytes);
        if message_bytes > self.limits.message_bytes_max {
            return Err(FramingErrorKind::MessageTooLarge);
        }
        Ok(message_bytes)
    }

    /// A message that had the buffer to itself leaves with it. Among others it is copied out, because a held call keeps
    /// its INVITE for half a minute and must not keep its neighbours.
    fn take(&mut self, message_bytes: usize) -> Bytes {
        if self.buffer.len() == message_bytes && !self.is_reused {
            return std::mem::take(&mut self.buffer).freeze();
        }
        let message = Bytes::copy_from_slice(self.buffer.get(..message_bytes).unwrap_or_default());
        self.consume(message.len());
        message
    }

    /// Drops the first bytes of the buffer, and its memory when nothing is left: most streams are silent most of the time.
    fn consume(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.is_reused = !self.buffer.is_empty();
        if !self.is_reused {
            self.buffer = BytesMut::new();
        }
    }

    fn fail(&mut self, kind: FramingErrorKind) -> FramingError {
        self.progress = Progress::Failed;
        let mut head = std::mem::take(&mut self.buffer);
        let head_end = memmem::find(&head, b"\r\n\r\n").map_or(head.len(), |position| position + 4);
        head.truncate(if kind == FramingErrorKind::NotSip { 0 } else { head_end.min(self.limits.head_bytes_max) });
        FramingError { kind, head: head.freeze() }
    }
}

/// The value of the head's Content-Length, in either of its names (RFC 3261 §20.14).
fn content_length(head: &[u8]) -> Result<usize, FramingErrorKind> {
    let mut found = None;
    for field in fields(head) {
        let Some(colon) = memchr::memchr(b':', field) else { continue };
        let (name, value) = field.split_at(colon);
        let name = name.trim_ascii_end();
        if !name.eq_ignore_ascii_case(b"Content-Length") && !name.eq_ignore_ascii_case(b"l") {
            continue;
        }
        let length = parse_length(value.get(1..).unwrap_or_default().trim_ascii())?;
        if found.is_some_and(|earlier| earlier != length) {
            return Err(FramingErrorKind::ConflictingContentLength);
        }
        found = Some(length);
    }
    found.ok_or(FramingErrorKind::MissingContentLength)
}

fn parse_length(digits: &[u8]) -> Result<usize, FramingErrorKind> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(FramingErrorKind::BadContentLength);
    }
    // Only a number beyond any message does not fit.
    let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
    number.ok_or(FramingErrorKind::MessageTooLarge)
}

/// The header fields after the start line, each with its folded lines (RFC 3261 §7.3.1).
fn fields(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = memmem::find(head, b"\r\n").and_then(|end| head.get(end + 2..)).unwrap_or_default();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_end = |position: &usize| {
            rest.get(..*position).is_some_and(|line| line.ends_with(b"\r"))
                && !matches!(rest.get(position + 1), Some(b' ' | b'\t'))
        };
        let end = memchr::memchr_iter(b'\n', rest).find(is_end);
        let (field, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.get(1..).unwrap_or_default();
        Some(field)
    })
}

/// A character of a token (RFC 3261 §25.1).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// What a datagram is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramKind {
    /// Something to parse. It may still be no SIP.
    Sip,
    /// Nothing but line ends, NULs and spaces: it kept a NAT open, and has done its work by arriving.
    KeepAlive,
    /// STUN on the SIP port (RFC 5626 §8), see [`super::stun`].
    Stun,
}

/// Tells SIP from what phones send between messages.
pub fn classify(datagram: &[u8]) -> DatagramKind {
    if super::stun::is_stun(datagram) {
        DatagramKind::Stun
    } else if datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0 | b' ' | b'\t')) {
        DatagramKind::KeepAlive
    } else {
        DatagramKind::Sip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP c\r\nl: 0\r\n\r\n";
    const RESPONSE: &[u8] = b"SIP/2.0 200 OK\r\nCONTENT-length \t:\r\n 4\r\nX: y\r\n\r\nbody";

    fn frames(stream: &[u8], pieces: impl IntoIterator<Item = usize>) -> (Vec<Frame>, Option<FramingError>) {
        let mut framer = Framer::new(FramingLimits { head_bytes_max: 200, message_bytes_max: 300 });
        let mut frames = Vec::new();
        let mut rest = stream;
        for piece in pieces {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            rest = later;
            framer.feed(now);
            loop {
                match framer.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        assert!(rest.is_empty(), "the pieces are the whole stream");
        (frames, None)
    }

    fn whole(stream: &[u8]) -> (Vec<Frame>, Option<FramingError>) {
        frames(stream, [stream.len()])
    }

    fn refused(stream: &[u8]) -> FramingErrorKind {
        whole(stream).1.expect("an error").kind
    }

    fn message(bytes: &[u8]) -> Frame {
        Frame::Message(Bytes::copy_from_slice(bytes))
    }

    /// xorshift64*: a run is repeated by its seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
        }
    }

    #[test]
    fn cuts_messages_and_pings_out_of_a_stream() {
        let stream =
            [b"\r\n", OPTIONS, RESPONSE, b"\r\n\r\n", OPTIONS, b"\r\n", RESPONSE, b"\r\n\r\n\r\n\r\n"].concat();
        let expected = [
            message(OPTIONS),
            message(RESPONSE),
            Frame::Ping,
            message(OPTIONS),
            message(RESPONSE),
            Frame::Ping,
            Frame::Ping,
        ];
        assert_eq!(whole(&stream), (expected.to_vec(), None));
    }

    #[test]
    fn torn_anywhere_a_stream_means_the_same() {
        let streams = [
            [OPTIONS, b"\r\n\r\n", RESPONSE, b"\r\n", OPTIONS].concat(),
            [RESPONSE, b"\r\n\r\n\r\n", OPTIONS].concat(),
            [OPTIONS, b"GET / HTTP/1.1\r\n\r\n"].concat(),
            [OPTIONS, b"INVITE sip:a SIP/2.0\r\nl: 1\r\nl: 2\r\n\r\n"].concat(),
            [OPTIONS, b"\r\n\r\n\x16\x03\x01"].concat(),
        ];
        for stream in streams {
            let (expected, error) = whole(&stream);
            let kind = error.map(|error| error.kind);
            let check = |pieces: Vec<usize>| {
                let (found, error) = frames(&stream, pieces.clone());
                assert_eq!((&found, error.map(|error| error.kind)), (&expected, kind), "torn as {pieces:?}");
            };
            for first in 0..=stream.len() {
                check(vec![first, stream.len() - first]);
            }
            check(vec![1; stream.len()]);
            for seed in 1..200 {
                let mut random = Random(seed);
                let mut pieces: Vec<usize> = (0..20).map(|_| random.below(9)).collect();
                pieces.push(stream.len());
                check(pieces);
            }
        }
    }

    #[test]
    fn noise_neither_panics_nor_grows() {
        for seed in 1..300 {
            let mut random = Random(seed);
            let mut stream = [OPTIONS, RESPONSE, OPTIONS].concat();
            for _ in 0..random.below(6) {
                let place = random.below(stream.len());
                stream[place] = u8::try_from(random.below(256)).unwrap();
            }
            let mut framer = Framer::new(FramingLimits { head_bytes_max: 200, message_bytes_max: 300 });
            for byte in stream {
                framer.feed(&[byte]);
                while let Ok(Some(_)) = framer.next_frame() {}
                assert!(framer.buffer.len() <= 300, "seed {seed}");
            }
        }
    }

    #[test]
    fn content_length_in_its_forms() {
        for field in ["Content-Length: 4", "l:4", "L :\t4 ", "content-LENGTH:\r\n\t4", "l: 4\r\nContent-Length: 04"] {
            let stream = format!("MESSAGE sip:a SIP/2.0\r\nX: l: 9\r\n{field}\r\nY:\r\n\r\nbody");
            assert_eq!(whole(stream.as_bytes()), (vec![message(stream.as_bytes())], None), "{field}");
        }
    }

    #[test]
    fn content_length_that_ends_the_stream() {
        for (field, kind) in [
            ("X: 1", FramingErrorKind::MissingContentLength),
            ("l:", FramingErrorKind::BadContentLength),
            ("l: -999", FramingErrorKind::BadContentLength),
            ("l: +4", FramingErrorKind::BadContentLength),
            ("l: 4 4", FramingErrorKind::BadContentLength),
            ("l: 4\r\nContent-Length: 5", FramingErrorKind::ConflictingContentLength),
            ("l: 1000", FramingErrorKind::MessageTooLarge),
            ("l: 99999999999999999999999999", FramingErrorKind::MessageTooLarge),
        ] {
            let head = format!("MESSAGE sip:a SIP/2.0\r\n{field}\r\n\r\n");
            let (frames, error) = whole(format!("{head}body").as_bytes());
            assert_eq!(frames, []);
            assert_eq!(error, Some(FramingError { kind, head: Bytes::from(head) }), "{field}");
        }
    }

    #[test]
    fn what_is_not_sip() {
        for stream in
            ["GET / HTTP/1.1\r\n", "\x16\x03\x01", "QUIT\r\n", " OPTIONS sip:a SIP/2.0\r\n", "\r\r\n", "\u{e4}"]
        {
            assert_eq!(refused(stream.as_bytes()), FramingErrorKind::NotSip, "{stream:?}");
        }
        assert_eq!(refused("A".repeat(FIRST_WORD_BYTES_MAX).as_bytes()), FramingErrorKind::NotSip);
        assert_eq!(whole(b"invite_x sip:a sip/7.0\r\n"), (vec![], None));
    }

    #[test]
    fn heads_have_a_limit() {
        let endless_uri = format!("INVITE sip:{}", "a".repeat(200));
        let endless_head = format!("INVITE sip:a SIP/2.0\r\nX: {}", "a".repeat(200));
        for stream in [endless_uri, endless_head] {
            let error = whole(stream.as_bytes()).1.expect("an error");
            assert_eq!((error.kind, error.head.len()), (FramingErrorKind::HeadTooLarge, 200));
        }
    }

    #[test]
    fn after_an_error_nothing_is_kept() {
        let mut framer = Framer::new(FramingLimits::default());
        framer.feed(b"\0");
        assert!(framer.next_frame().is_err());
        framer.feed(OPTIONS);
        assert_eq!(framer.next_frame(), Ok(None));
        assert!(framer.buffer.is_empty());
    }

    #[test]
    fn only_a_message_is_partial() {
        let mut framer = Framer::new(FramingLimits::default());
        for (bytes, is_partial) in [(&b"\r\n"[..], false), (b"\r", false), (b"\n", false), (b"O", true)] {
            framer.feed(bytes);
            while let Ok(Some(_)) = framer.next_frame() {}
            assert_eq!(framer.is_partial(), is_partial, "{bytes:?}");
        }
    }

    #[test]
    fn a_kept_message_does_not_keep_its_neighbours() {
        let mut framer = Framer::new(FramingLimits::default());
        framer.feed(&OPTIONS.repeat(100));
        let mut count = 0;
        while let Ok(Some(Frame::Message(message))) = framer.next_frame() {
            count += 1;
            let own = message.try_into_mut().expect("nobody else has it");
            assert_eq!(own.capacity(), OPTIONS.len(), "nothing but its size");
        }
        assert_eq!(count, 100);
        assert_eq!(framer.buffer.capacity(), 0, "a silent stream keeps nothing");
    }

    #[test]
    fn datagrams_are_told_apart() {
        assert_eq!(classify(b""), DatagramKind::KeepAlive);
        assert_eq!(classify(b"\r\n\r\n"), DatagramKind::KeepAlive);
        assert_eq!(classify(&[0; 4]), DatagramKind::KeepAlive);
        assert_eq!(classify(OPTIONS), DatagramKind::Sip);
        assert_eq!(classify(b"noise"), DatagramKind::Sip);
        assert_eq!(classify(b"\x00\x01\x00\x00\x21\x12\xa4\x42............"), DatagramKind::Stun);
    }
}
