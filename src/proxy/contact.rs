//! Contacts and Feature-Caps as text: what each side may see of them (RFC 8599 §4.1, §13).

use crate::binding::Provider;
use crate::sip::push_param::is_push_param;
use crate::sip::response::header;
use crate::sip::{Uri, scan};

/// Refresh before expiry that a device is asked for which can wake itself (RFC 8599 §8.4: more than 120).
const PNSREG_S: u32 = 121;

/// Header lines that say which pushes a phone can count on.
#[derive(Debug, Default)]
pub(super) struct FeatureCaps {
    /// Of the REGISTER that goes on to the registrar.
    pub onward: Vec<u8>,
    /// Of the 2xx. Whatever belongs to a push service stands in its own entry (RFC 8599 §5.4).
    pub accepted: Vec<u8>,
}

impl FeatureCaps {
    /// `*;+sip.pns="…"` (RFC 8599 §8.2) to both sides; the rest is for the phone alone (§8.3, §8.4).
    pub(super) fn announce(&mut self, provider: Provider, vapid_key: Option<&str>, wants_pnsreg: bool) {
        let mut value = format!("*;+sip.pns=\"{provider}\"");
        add_line(&mut self.onward, &value);
        if let Some(key) = vapid_key {
            value.push_str(&format!(";+sip.vapid=\"{key}\""));
        }
        if wants_pnsreg {
            value.push_str(&format!(";+sip.pnsreg=\"{PNSREG_S}\""));
        }
        add_line(&mut self.accepted, &value);
    }
}

fn add_line(lines: &mut Vec<u8>, value: &str) {
    let before = lines.len();
    header(lines, "Feature-Caps", value.as_bytes());
    let line = lines.split_off(before);
    if !lines.windows(line.len()).any(|known| known == line) {
        lines.extend(line);
    }
}

pub(super) fn params_without_expires(params: &[u8]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(params.len());
    for param in scan::params(params).filter(|param| !param.name.eq_ignore_ascii_case(b"expires")) {
        write_param(&mut out, &param);
    }
    out.into()
}

fn write_param(out: &mut Vec<u8>, param: &scan::Param<'_>) {
    out.push(b';');
    out.extend_from_slice(param.name);
    if let Some(value) = param.value {
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// What goes upstream with an alias. `reg-id` asks for flows that an alias does not have (RFC 5626 §6), and nothing
/// about push leaves.
pub(super) fn write_upstream_params(out: &mut Vec<u8>, params: &[u8], expires: Option<u32>) {
    for param in scan::params(params) {
        if !param.name.eq_ignore_ascii_case(b"reg-id") && !is_push_param(param.name) {
            write_param(out, &param);
        }
    }
    if let Some(expires) = expires {
        out.extend_from_slice(format!(";expires={expires}").as_bytes());
    }
}

/// `<uri>;params`.
pub(super) fn write_contact(out: &mut Vec<u8>, uri: &[u8], params: &[u8]) {
    out.push(b'<');
    out.extend_from_slice(uri);
    out.push(b'>');
    out.extend_from_slice(params);
}

/// A URI without anything that tells of push (RFC 8599 §4.1, §13).
pub(super) fn write_uri_without_push(out: &mut Vec<u8>, text: &[u8]) {
    let Some(params) = Uri::parse(text).ok().map(|uri| uri.params).filter(|params| !params.is_empty()) else {
        return out.extend_from_slice(text);
    };
    let span = scan::span_in(text, params);
    out.extend_from_slice(text.get(..span.start).unwrap_or_default());
    write_params_without_push(out, params);
    out.extend_from_slice(text.get(span.end..).unwrap_or_default());
}

/// Parameters of a URI or a header, without those that tell of push.
pub(super) fn write_params_without_push(out: &mut Vec<u8>, params: &[u8]) {
    for param in scan::params(params).filter(|param| !is_push_param(param.name)) {
        write_param(out, &param);
    }
}

/// What the registrar says of a phone's Contact beyond what the phone said itself: the instance and its GRUUs
/// (RFC 5627 §5.2), which are the phone's to use.
pub(super) fn write_gruu_params(out: &mut Vec<u8>, listed: &[u8], own: &[u8]) {
    const NAMES: [&str; 5] = ["+sip.instance", "reg-id", "pub-gruu", "temp-gruu", "temp-gruu-cookie"];
    for param in scan::params(listed) {
        let name = NAMES.iter().find(|name| param.name.eq_ignore_ascii_case(name.as_bytes()));
        if name.is_some_and(|name| scan::param(own, name).is_none()) {
            write_param(out, &param);
        }
    }
}
