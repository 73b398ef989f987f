//! A look at one header of a message that is not read yet: enough to say whose it is.

use super::scan;

/// The first value of a header, by its name or its compact form; empty where it has none. `None`: it is not in the head.
///
/// What is folded into several lines is read as far as its first line that says anything.
pub fn header<'a>(bytes: &'a [u8], name: &str, compact: u8) -> Option<&'a [u8]> {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let mut lines =
        bytes.get(start..)?.split(|byte| *byte == b'\n').skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    while let Some(line) = lines.next().filter(|line| !line.is_empty()) {
        let first = line.first().map(u8::to_ascii_lowercase);
        let may_be_it = first == Some(compact) || first == name.as_bytes().first().map(u8::to_ascii_lowercase);
        let Some((found, value)) = scan::split_once(line, b':').filter(|_| may_be_it) else { continue };
        let found = scan::trim(found);
        if found.eq_ignore_ascii_case(name.as_bytes()) || found.eq_ignore_ascii_case(&[compact]) {
            let value = scan::trim(value);
            if !value.is_empty() {
                return Some(value);
            }
            let folded = lines.next().filter(|next| next.first().is_some_and(|byte| scan::is_lws(*byte)));
            return Some(scan::trim(folded.unwrap_or_default()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_in_all_its_forms() {
        for line in ["Call-ID: x@y", "call-id :x@y ", "i: x@y", "I:x@y", "Call-ID:\r\n  x@y"] {
            let bytes = format!("\r\n\r\nOPTIONS sip:h SIP/2.0\r\nCSeq: 1 OPTIONS\r\n{line}\r\nTo: z\r\n\r\ni: no");
            assert_eq!(header(bytes.as_bytes(), "Call-ID", b'i'), Some(&b"x@y"[..]), "{line}");
            let bytes = bytes.replace("\r\n", "\n");
            assert_eq!(header(bytes.as_bytes(), "Call-ID", b'i'), Some(&b"x@y"[..]), "{line}");
        }
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for head in ["Call-IDs: x\r\nInfo: x\r\nX-Call-ID: x\r\n", ""] {
            let bytes = format!("i: sip:h SIP/2.0\r\n{head}\r\nCall-ID: x\r\n");
            assert_eq!(header(bytes.as_bytes(), "Call-ID", b'i'), None);
        }
        assert_eq!(header(b"", "Call-ID", b'i'), None);
        assert_eq!(header(b"\r\n\r\n", "Call-ID", b'i'), None);
        assert_eq!(header(b"x\r\nCall-ID:\r\nTo: y\r\n\r\n", "Call-ID", b'i'), Some(&b""[..]));
    }
}
