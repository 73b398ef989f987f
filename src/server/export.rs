//! The exports that are configured: by HEP, and of traces.

use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::config::{CapturePassword, Config, Host};
use crate::hep::{Agent, Settings, Tap};
use crate::metrics::Metrics;
use crate::spans::{self, Traces};

/// Starts to send what workers leave in the tap; `None`: nothing is exported.
pub(super) fn start(config: &Config, metrics: &Arc<Metrics>, runtime: &Runtime) -> Option<Tap> {
    let (tap, exporter) = Tap::new(settings(config)?, Arc::clone(metrics));
    runtime.spawn(exporter.run());
    Some(tap)
}

/// Starts to post the traces of calls that workers say have ended; `None`: nothing is exported.
pub(super) fn start_traces(config: &Config, runtime: &Runtime) -> Option<Traces> {
    let (traces, exporter) = Traces::new(spans::Settings {
        endpoint: config.opentelemetry.endpoint.clone()?,
        service: config.opentelemetry.service_name.clone(),
        node: config.node.id.clone(),
    });
    runtime.spawn(exporter.run());
    Some(traces)
}

fn settings(config: &Config) -> Option<Settings> {
    let collector = config.hep.server.as_ref()?;
    Some(Settings {
        transport: collector.transport,
        host: match &collector.address.host {
            Host::Ip(ip) => ip.to_string().into(),
            Host::Name(name) => name.clone(),
        },
        port: collector.port(),
        agent: Agent {
            capture_id: config.hep.capture_id,
            password: config.hep.password.as_ref().map(CapturePassword::reveal).unwrap_or_default().into(),
            node: config.node.id.as_str().into(),
        },
        sends_secrets: config.hep.sends_secrets,
    })
}
