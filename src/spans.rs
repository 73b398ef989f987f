//! Traces for a collector of OpenTelemetry: of each call that has ended one, made from its story and posted as
//! OTLP/HTTP in JSON (OpenTelemetry Protocol, "OTLP/HTTP Request").
//!
//! A trace says when and what, and not who: no AOR, number, name, address or token leaves.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::binding::DeviceId;
use crate::clock::UnixMillis;
use crate::metrics::Outcome;
use crate::timeline::{Call, Event, Step, Why};

/// Calls that wait to be posted; more are lost.
const QUEUE: usize = 4096;
/// Calls of one request.
const BATCH: usize = 256;
/// How long the first call of a request waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// Of one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Kinds and codes of the protocol's own (opentelemetry/proto/trace/v1/trace.proto).
const KIND_INTERNAL: u8 = 1;
const KIND_SERVER: u8 = 2;
const KIND_CLIENT: u8 = 3;
const STATUS_ERROR: u8 = 2;

/// Where traces go, and as whose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `opentelemetry.endpoint`, without `/v1/traces`.
    pub endpoint: String,
    /// `opentelemetry.service_name`.
    pub service: String,
    /// `node.id`.
    pub node: String,
}

/// Takes calls that have ended.
#[derive(Debug, Clone)]
pub struct Traces(mpsc::Sender<Arc<Call>>);

impl Traces {
    pub fn new(settings: Settings) -> (Self, Exporter) {
        let (calls, waiting) = mpsc::channel(QUEUE);
        (Self(calls), Exporter { settings, waiting })
    }

    /// Never waits.
    pub fn take(&self, call: Arc<Call>) {
        if self.0.try_send(call).is_err() {
            tracing::debug!("a trace is lost: too many wait for opentelemetry.endpoint");
        }
    }
}

/// Posts what was taken.
#[derive(Debug)]
pub struct Exporter {
    settings: Settings,
    waiting: mpsc::Receiver<Arc<Call>>,
}

impl Exporter {
    /// Works until nobody can take calls any more.
    pub async fn run(mut self) {
        let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).no_proxy();
        let client = match client.build() {
            Ok(client) => client,
            Err(error) => return tracing::error!(%error, "no traces: no HTTP client"),
        };
        let url = format!("{}/v1/traces", self.settings.endpoint.trim_end_matches('/'));
        let mut is_away = false;
        while let Some(first) = self.waiting.recv().await {
            let mut calls = vec![first];
            let gather = async {
                while calls.len() < BATCH
                    && let Some(call) = self.waiting.recv().await
                {
                    calls.push(call);
                }
            };
            // What has come by then is enough.
            let _ = tokio::time::timeout(GATHER, gather).await;
            let posted = client.post(&url).json(&request(&calls, &self.settings)).send().await;
            match posted.and_then(reqwest::Response::error_for_status) {
                Ok(_) if is_away => {
                    is_away = false;
                    tracing::info!("opentelemetry.endpoint takes traces again");
                }
                Ok(_) => {}
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        let error = error.without_url();
                        tracing::warn!(%error, "opentelemetry.endpoint takes no traces; they are lost meanwhile");
                    }
                }
            }
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn request(calls: &[Arc<Call>], settings: &Settings) -> Value {
    let spans: Vec<_> = calls.iter().flat_map(|call| spans(call, &settings.node)).collect();
    let resource = [("service.name", &settings.service), ("service.instance.id", &settings.node)];
    let resource: Vec<_> = resource.map(|(key, value)| attribute(key, value)).into();
    let scope = json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": scope, "spans": spans }],
    }] })
}

/// A call, and in it each push, each wake and each INVITE that a device got.
fn spans(call: &Call, node: &str) -> Vec<Value> {
    // A call_ref may come again; this is about the last time.
    let start = call.events.iter().rposition(|event| event.step == Step::Received).unwrap_or_default();
    let events = call.events.get(start..).unwrap_or_default();
    let (Some(first), Some(last)) = (events.first(), events.last()) else { return Vec::new() };
    let trace = hex::<16>(&[call.call_ref.as_bytes()]);
    let began = first.at.0.to_be_bytes();
    let id = |number: usize| hex::<8>(&[call.call_ref.as_bytes(), node.as_bytes(), &began, &number.to_be_bytes()]);
    let is_failure = !matches!(call.outcome, Some(Outcome::Answered | Outcome::Rejected | Outcome::Cancelled));
    let mut root = span("call", KIND_SERVER, (&trace, &id(0)), (first.at, last.at));
    root["attributes"] = json!([
        attribute("call.ref", &call.call_ref),
        attribute("call.outcome", call.outcome.map_or("", Outcome::name)),
    ]);
    root["events"] = events.iter().map(event).collect();
    root["status"] = if is_failure { json!({ "code": STATUS_ERROR }) } else { json!({}) };
    let children =
        events.iter().enumerate().filter_map(|(index, event)| Some((event, child(event, events.get(index..)?)?)));
    let children = children.enumerate().map(|(number, (event, (name, kind, end)))| {
        let mut span = span(name, kind, (&trace, &id(number + 1)), (event.at, end.at));
        span["parentSpanId"] = id(0).into();
        // Each key once.
        let mut known = attributes(end);
        let more = attributes(event).into_iter().filter(|one| known.iter().all(|other| other["key"] != one["key"]));
        known.extend(more.collect::<Vec<_>>());
        span["attributes"] = known.into();
        let has_failed = matches!(end.step, Step::PushRefused | Step::Failed | Step::NoReturn);
        span["status"] = if has_failed { json!({ "code": STATUS_ERROR }) } else { json!({}) };
        span
    });
    let mut spans: Vec<_> = children.collect();
    spans.insert(0, root);
    spans
}

/// What begins with a step of a device, and the step that ends it; `rest` begins with it.
fn child<'e>(event: &'e Event, rest: &'e [Event]) -> Option<(&'static str, u8, &'e Event)> {
    let (name, kind, ends): (_, _, &[Step]) = if is_push(event.step) {
        ("push", KIND_CLIENT, &[Step::PushAccepted, Step::PushRefused])
    } else if event.step == Step::PushAccepted {
        ("wake", KIND_INTERNAL, &[Step::Registered])
    } else if event.step == Step::Forwarded {
        ("invite", KIND_CLIENT, &[Step::Rejected, Step::Failed])
    } else {
        return None;
    };
    let is_of = |device: Option<DeviceId>| device.is_none() || device == event.device;
    // The end of the call ends everything, and is a step of no device.
    let is_end = |later: &&Event| is_of(later.device) && (ends.contains(&later.step) || later.device.is_none());
    Some((name, kind, rest.iter().skip(1).find(is_end)?))
}

fn is_push(step: Step) -> bool {
    matches!(step, Step::PushSent | Step::PushRetried)
}

fn span(name: &str, kind: u8, (trace, id): (&str, &str), (start, end): (UnixMillis, UnixMillis)) -> Value {
    json!({
        "traceId": trace, "spanId": id, "name": name, "kind": kind,
        "startTimeUnixNano": nanos(start), "endTimeUnixNano": nanos(end),
    })
}

fn event(event: &Event) -> Value {
    json!({ "timeUnixNano": nanos(event.at), "name": event.step.name(), "attributes": attributes(event) })
}

fn attributes(event: &Event) -> Vec<Value> {
    let mut attributes = Vec::new();
    attributes.extend(event.device.map(|device| attribute("device.id", &device.to_string())));
    // Details of other steps say who calls whom, or where a phone is.
    if is_push(event.step) {
        attributes.push(attribute("push.provider", &event.detail));
    } else if matches!(event.step, Step::Ringing | Step::Rejected) && event.device.is_some() {
        attributes.push(attribute("sip.status", &event.detail));
    }
    if let Some(why) = &event.why {
        attributes.extend([attribute("reason.code", why.reason.code()), attribute("reason", Why::text(why))]);
    }
    attributes
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// As the protocol's JSON has 64-bit integers.
fn nanos(at: UnixMillis) -> String {
    format!("{}000000", at.0)
}

/// The start of a hash: two nodes that see parts of one call name its trace alike.
fn hex<const BYTES: usize>(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Reason, Timeline};

    const DEVICE: Option<DeviceId> = Some(DeviceId([7; 10]));

    fn story() -> Arc<Call> {
        let timeline = Timeline::new(1);
        let why = Why::new(Reason::ProviderFailing, "503");
        for (at, step, device, detail, why) in [
            (1, Step::Received, None, "from 103", None),
            (2, Step::PushSent, DEVICE, "fcm", None),
            (5, Step::PushRefused, DEVICE, "3 ms", Some(&why)),
            (6, Step::PushRetried, DEVICE, "fcm", None),
            (9, Step::PushAccepted, DEVICE, "3 ms", None),
            (50, Step::Registered, DEVICE, "udp 192.0.2.9:5060", None),
            (51, Step::Forwarded, DEVICE, "udp 192.0.2.9:5060", None),
            (70, Step::Ringing, DEVICE, "180", None),
            (90, Step::Answered, None, "after 89 ms", None),
        ] {
            timeline.record("x", UnixMillis(at), step, device, detail, why);
        }
        timeline.end("x", Outcome::Answered);
        timeline.call("x").unwrap()
    }

    #[test]
    fn a_call_is_a_trace_with_its_pushes_wakes_and_invites() {
        let spans = spans(&story(), "node-1");
        let shown: Vec<_> = spans
            .iter()
            .map(|span| {
                let time = |key: &str| span[key].as_str().unwrap().strip_suffix("000000").unwrap().parse().unwrap();
                let (start, end): (u64, u64) = (time("startTimeUnixNano"), time("endTimeUnixNano"));
                (span["name"].as_str().unwrap(), start, end, span["status"]["code"].as_u64())
            })
            .collect();
        let expected = [
            ("call", 1, 90, None),
            ("push", 2, 5, Some(2)),
            ("push", 6, 9, None),
            ("wake", 9, 50, None),
            ("invite", 51, 90, None),
        ];
        assert_eq!(shown, expected);
        let root = &spans[0]["spanId"];
        assert!(spans[1..].iter().all(|span| span["parentSpanId"] == *root && span["traceId"] == spans[0]["traceId"]));
        let keys = |span: &Value| -> Vec<String> {
            span["attributes"].as_array().unwrap().iter().map(|one| one["key"].to_string()).collect()
        };
        assert_eq!(keys(&spans[1]), [r#""device.id""#, r#""reason.code""#, r#""reason""#, r#""push.provider""#]);
        let ids: std::collections::BTreeSet<_> = spans.iter().map(|span| span["spanId"].to_string()).collect();
        assert_eq!(ids.len(), spans.len());
        assert_eq!(spans[0]["events"].as_array().unwrap().len(), 9);
    }

    #[test]
    fn nothing_says_who_and_where() {
        let settings = Settings { endpoint: String::new(), service: "spp".to_owned(), node: "node-1".to_owned() };
        let text = request(&[story()], &settings).to_string();
        assert!(!text.contains("from 103") && !text.contains("192.0.2.9"), "{text}");
        assert!(text.contains(r#""key":"reason.code","value":{"stringValue":"provider_failing"}"#), "{text}");
    }

    #[test]
    fn two_nodes_name_a_trace_alike_and_their_spans_not() {
        let [one, two] = ["one", "two"].map(|node| spans(&story(), node));
        assert_eq!(one[0]["traceId"], two[0]["traceId"]);
        assert_ne!(one[0]["spanId"], two[0]["spanId"]);
        assert_eq!((one[0]["traceId"].as_str().unwrap().len(), one[0]["spanId"].as_str().unwrap().len()), (32, 16));
    }
}
