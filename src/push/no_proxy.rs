//! `push.no_proxy`: hosts that are reached directly although there is a proxy.

use std::net::IpAddr;

use ipnet::IpNet;

/// One of the exceptions. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoProxy {
    Host(Box<str>),
    /// With all names below it.
    Domain(Box<str>),
    /// Of hosts that are named by their address; no name is looked up for it.
    Network(IpNet),
}

impl NoProxy {
    /// `push.example.org`, `.example.org`, `192.0.2.7` or `192.0.2.0/24`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(network) = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            return Some(Self::Network(network));
        }
        let name = text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        is_name.then(|| if text.starts_with('.') { Self::Domain(name.into()) } else { Self::Host(name.into()) })
    }

    /// `host`: as in a URL, an IPv6 address without its brackets.
    pub(super) fn covers(&self, host: &str) -> bool {
        match self {
            Self::Host(name) => host.eq_ignore_ascii_case(name),
            Self::Domain(name) => {
                let host = host.to_ascii_lowercase();
                host.strip_suffix(&**name).is_some_and(|start| start.is_empty() || start.ends_with('.'))
            }
            Self::Network(network) => host.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered() {
        for (exception, covered, not) in [
            (
                "push.example.org",
                &["push.example.org", "PUSH.example.org"][..],
                &["a.push.example.org", "example.org"][..],
            ),
            (".Example.org", &["example.org", "a.b.example.org"], &["badexample.org", "example.org.evil"]),
            ("192.0.2.7", &["192.0.2.7"], &["192.0.2.8", "a192.0.2.7"]),
            ("192.0.2.0/24", &["192.0.2.8"], &["192.0.3.8", "push.example.org"]),
            ("2001:db8::/32", &["2001:db8::1"], &["2001:db9::1", "192.0.2.8"]),
        ] {
            let parsed = NoProxy::parse(exception).unwrap();
            assert!(covered.iter().all(|host| parsed.covers(host)), "{exception}");
            assert!(!not.iter().any(|host| parsed.covers(host)), "{exception}");
        }
        for wrong in ["", ".", "*", "*.example.org", "https://example.org", "example.org:443", "192.0.2.0/33"] {
            assert_eq!(NoProxy::parse(wrong), None, "{wrong}");
        }
    }
}
