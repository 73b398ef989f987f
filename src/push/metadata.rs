//! Access tokens of the service account that a machine, a container or a pod of Google's cloud runs as (Google, "About VM
//! metadata"): no key is needed.

use reqwest::Url;

use super::Verdict;
use super::client::Client;
use super::http::{self, Answer};
use super::oauth::{AccessToken, Failure, SCOPE, granted};
use crate::clock::Now;

/// The metadata server of the machine.
pub(super) struct MetadataServer {
    url: Url,
}

impl MetadataServer {
    /// `endpoint` is its address.
    pub(super) fn new(mut endpoint: Url) -> Self {
        let path = ["computeMetadata", "v1", "instance", "service-accounts", "default", "token"];
        if let Ok(mut segments) = endpoint.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        endpoint.query_pairs_mut().append_pair("scopes", SCOPE);
        Self { url: endpoint }
    }

    pub(super) async fn request(&self, client: &Client, now: Now) -> Result<AccessToken, Failure> {
        // Without the header it answers nobody, so that no page can have a browser ask it.
        match client.answer(client.get(self.url.clone()).header("Metadata-Flavor", "Google")).await {
            Ok(Answer { status: 404, .. }) => {
                let reason = "metadata server: 404; this machine runs as no service account";
                Err(Failure(Verdict::Locked(reason.into())))
            }
            Ok(answer) => granted(&answer, now),
            Err(error) => Err(Failure(http::no_answer(error))),
        }
    }
}
