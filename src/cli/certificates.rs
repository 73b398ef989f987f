//! Until when the certificates are good that the configuration names.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files;
use crate::config::Values;

/// A renewal takes days where people have to agree to it.
const SOON_S: i64 = 30 * 86_400;
const DAY_S: i64 = 86_400;

/// What `check` says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// It does not do now.
    Wrong(String),
    Note(String),
}

impl Finding {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Wrong(text) | Self::Note(text) => text,
        }
    }

    pub(super) fn wrong(&self) -> Option<&str> {
        match self {
            Self::Wrong(text) => Some(text),
            Self::Note(_) => None,
        }
    }
}

/// From when to when, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    from: i64,
    until: i64,
}

/// One for each file that has something to be said of.
pub(super) fn findings(values: &Values, folder: &Path, now: Timestamp) -> Vec<Finding> {
    let named = |name| files::named(values, folder, &[name]);
    let own = named("certificate_file").into_iter().filter_map(|(key, file)| own(&key, &file, now.as_second()));
    let roots = named("ca_file").into_iter().filter_map(|(key, file)| roots(&key, &file, now.as_second()));
    own.chain(roots).collect()
}

/// The certificate that this program shows: the first one in its file; those that follow are of its issuers.
fn own(key: &str, file: &PathBuf, now: i64) -> Option<Finding> {
    let Validity { from, until } = validities(file).into_iter().next()?;
    let file = file.display();
    if until < now {
        let since = date(until);
        return Some(Finding::Wrong(format!(
            "{key}: {file} has expired on {since}; put the renewed certificate there"
        )));
    }
    if from > now {
        return Some(Finding::Wrong(format!(
            "{key}: {file} is good from {} on; is this machine's clock right?",
            date(from)
        )));
    }
    (until - now < SOON_S).then(|| Finding::Note(format!("{key}: {file} {}; renew it", ends(until, now))))
}

/// Root certificates: one that is good may be enough.
fn roots(key: &str, file: &PathBuf, now: i64) -> Option<Finding> {
    let all = validities(file);
    let last = all.iter().filter(|one| one.from <= now).map(|one| one.until).max()?;
    let file = file.display();
    if last < now {
        return Some(Finding::Wrong(format!(
            "{key}: every certificate in {file} has expired, the last one on {}; put one there that is good",
            date(last)
        )));
    }
    (last - now < SOON_S).then(|| Finding::Note(format!("{key}: {file} {}; renew it", ends(last, now))))
}

/// Of each certificate in a file. What is none is told of where the file is read in earnest.
fn validities(file: &PathBuf) -> Vec<Validity> {
    let Ok(certificates) = CertificateDer::pem_file_iter(file) else { return Vec::new() };
    let validity = |der: CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let validity = certificate.validity();
        Some(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
    };
    certificates.filter_map(|der| validity(der.ok()?)).collect()
}

fn ends(until: i64, now: i64) -> String {
    format!("expires in {} days, on {}", (until - now) / DAY_S, date(until))
}

fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .map_or_else(|_| "a day far away".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// A certificate that is good from one day to another, counted from now.
    fn certificate(days: (i64, i64)) -> String {
        let at =
            |days: i64| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs((NOW + days * DAY_S) as u64);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["push.example".to_owned()]).unwrap();
        (parameters.not_before, parameters.not_after) = (at(days.0), at(days.1));
        parameters.self_signed(&key).unwrap().pem()
    }

    fn said(look: fn(&str, &PathBuf, i64) -> Option<Finding>, certificates: &[(i64, i64)]) -> Option<Finding> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.pem");
        std::fs::write(&file, certificates.iter().copied().map(certificate).collect::<String>()).unwrap();
        let place = format!("{}/", folder.path().display());
        look("key", &file, NOW).map(|finding| match finding {
            Finding::Wrong(text) => Finding::Wrong(text.replace(&place, "")),
            Finding::Note(text) => Finding::Note(text.replace(&place, "")),
        })
    }

    #[test]
    fn own_certificate_must_be_good_today() {
        let wrong = |text: &str| Some(Finding::Wrong(text.to_owned()));
        assert_eq!(said(own, &[(-400, 31)]), None);
        assert_eq!(
            said(own, &[(-400, 20)]),
            Some(Finding::Note("key: app.pem expires in 20 days, on 2027-02-04; renew it".to_owned()))
        );
        assert_eq!(
            said(own, &[(-400, -3)]),
            wrong("key: app.pem has expired on 2027-01-12; put the renewed certificate there")
        );
        assert_eq!(
            said(own, &[(2, 400)]),
            wrong("key: app.pem is good from 2027-01-17 on; is this machine's clock right?")
        );
        // An issuer's own is not looked at.
        assert_eq!(said(own, &[(-400, 400), (-400, -3)]), None);
        assert_eq!(said(own, &[]), None);
    }

    #[test]
    fn one_good_root_is_enough() {
        assert_eq!(said(roots, &[(-400, -3), (-400, 400)]), None);
        let Some(Finding::Note(note)) = said(roots, &[(-400, -3), (-400, 3)]) else { panic!("no note") };
        assert_eq!(note, "key: app.pem expires in 3 days, on 2027-01-18; renew it");
        let Some(Finding::Wrong(wrong)) = said(roots, &[(-400, -3), (-400, -9)]) else { panic!("nothing is wrong") };
        assert!(
            wrong.starts_with("key: every certificate in app.pem has expired, the last one on 2027-01-12;"),
            "{wrong}"
        );
    }
}
