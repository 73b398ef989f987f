//! `[opentelemetry]`: traces of calls.

use super::address;
use super::section::Section;

/// `[opentelemetry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTelemetry {
    /// `None`: nothing is exported.
    pub endpoint: Option<String>,
    /// As whose the collector shows them.
    pub service_name: String,
}

impl OpenTelemetry {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let endpoint = section.optional("endpoint");
        let endpoint =
            endpoint.and_then(|url| address::url(url).map_err(|error| section.wrong("endpoint", error)).ok());
        Self { endpoint, service_name: section.string("service_name", "sip-push-proxy").to_owned() }
    }
}
