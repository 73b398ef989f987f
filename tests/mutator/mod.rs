//! Random damage to messages, decided by a seed.

use std::ops::Range;

use crate::fixtures::Fixture;
use crate::random::Random;

/// What parsers trip over.
const TEXTS: &[&[u8]] = &[
    b"\"",
    b"<",
    b">",
    b"\\",
    b"%",
    b"%0",
    b"%00",
    b";",
    b",",
    b":",
    b"@",
    b"?",
    b"&",
    b"=",
    b"[",
    b"]",
    b"*",
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n ",
    b"\r\n\r\n",
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"sip:",
    b";lr",
    b";rport",
    b";received=::1",
    b";tag=",
    b";branch=z9hG4bK",
    b";pn-provider=apns",
    b";pn-prid=",
    b"&AA:voip",
    b"%0d%0a",
    b"SIP/2.0",
    b"Content-Length: 1\r\n",
    b"v:a,b,c\r\n",
    b"\\\"",
    b"[::",
];

const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "+1",
    "00000000000000000000001",
    "255",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "99999999999999999999999999999999999999999999",
];

/// One to four kinds of damage to one of `originals`, and which one it was.
pub(crate) fn mutate<'a>(random: &mut Random, originals: &'a [Fixture]) -> (&'a str, Vec<u8>) {
    let original = random.choice(originals);
    let mut bytes = original.bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        match random.below(100) {
            0..20 => flip_bit(random, &mut bytes),
            20..45 => insert(random, &mut bytes, TEXTS),
            45..55 => drop(bytes.drain(range(random, bytes.len(), 40))),
            55..63 => duplicate(random, &mut bytes),
            63..70 => splice(random, &mut bytes, originals),
            70..74 => bytes.truncate(random.below(bytes.len() + 1)),
            74..84 => replace_number(random, &mut bytes),
            84..92 => repeat_line(random, &mut bytes),
            92..99 => fold(random, &mut bytes),
            _ => swell(random, &mut bytes),
        }
    }
    (&original.name, bytes)
}

/// A part of `length` bytes, at most `longest`.
fn range(random: &mut Random, length: usize, longest: usize) -> Range<usize> {
    let start = random.below(length + 1);
    start..start + random.below((length - start).min(longest) + 1)
}

fn flip_bit(random: &mut Random, bytes: &mut [u8]) {
    let at = random.below(bytes.len());
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn insert(random: &mut Random, bytes: &mut Vec<u8>, texts: &[&[u8]]) {
    let at = random.below(bytes.len() + 1);
    let text = random.choice(texts);
    bytes.splice(at..at, text.iter().copied());
}

fn duplicate(random: &mut Random, bytes: &mut Vec<u8>) {
    let part = bytes[range(random, bytes.len(), 60)].to_vec();
    let at = random.below(bytes.len() + 1);
    bytes.splice(at..at, part);
}

/// The beginning of one message and the end of another.
fn splice(random: &mut Random, bytes: &mut Vec<u8>, originals: &[Fixture]) {
    bytes.truncate(random.below(bytes.len() + 1));
    let other = &random.choice(originals).bytes;
    bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
}

/// Puts an extreme number in the place of one, or anywhere if there is none nearby.
fn replace_number(random: &mut Random, bytes: &mut Vec<u8>) {
    let from = random.below(bytes.len() + 1);
    let start = bytes[from..].iter().position(u8::is_ascii_digit).map_or(from, |at| from + at);
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = random.choice(NUMBERS);
    bytes.splice(start..start + digits, number.bytes());
}

/// Repeats one line, mostly once or twice.
fn repeat_line(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |newline| at + newline + 1);
    let times = if random.below(20) == 0 { 150 } else { 1 + random.below(3) };
    let line = bytes[start..end].repeat(times);
    bytes.splice(end..end, line);
}

fn fold(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    let fold = random.choice::<&[u8]>(&[b"\r\n ", b"\r\n\t", b"\n ", b" \r\n  "]).repeat(1 + random.below(40));
    bytes.splice(at..at, fold);
}

/// A short text so many times that the message is about as large as messages may be. Rare, as it takes long.
fn swell(random: &mut Random, bytes: &mut Vec<u8>) {
    if random.below(10) > 0 {
        return;
    }
    let at = random.below(bytes.len() + 1);
    let text = random.choice(TEXTS);
    let times = random.below(67_000 / text.len());
    bytes.splice(at..at, text.repeat(times));
}
