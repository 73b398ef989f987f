//! Traces: what a collector of OpenTelemetry is posted of a call (OTLP/HTTP in JSON).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;
use sip_push_proxy::sip::Transport::Udp;

use crate::held_call::{answered, asleep};
use crate::peer::{RUNTIME, eventually};
use crate::phone::Push;
use crate::world::{Mode, World};

/// A collector, which keeps what it is posted.
#[derive(Clone, Default)]
struct Collector {
    posted: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    refuses: Arc<Mutex<u32>>,
}

impl Collector {
    fn start(&self) -> String {
        let take = async |State(collector): State<Self>, headers: HeaderMap, body: Bytes| {
            let mut refuses = collector.refuses.lock();
            if *refuses > 0 {
                *refuses -= 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            collector.posted.lock().push((headers, String::from_utf8_lossy(&body).into_owned()));
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(self.clone());
        let listener = RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a listener");
        let address = listener.local_addr().expect("its address");
        RUNTIME.spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// The spans of a call, when they have come.
    fn spans(&self, call_ref: &str) -> Vec<Value> {
        let is_of = |span: &Value| span["attributes"][0]["value"]["stringValue"] == call_ref;
        eventually("a trace", || {
            let posted = self.posted.lock();
            let bodies = posted.iter().map(|(_, body)| serde_json::from_str::<Value>(body).expect("JSON"));
            let spans: Vec<_> = bodies
                .flat_map(|body| {
                    body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default()
                })
                .collect();
            let trace = spans.iter().find(|span| is_of(span))?["traceId"].clone();
            Some(spans.into_iter().filter(|span| span["traceId"] == trace).collect())
        })
    }
}

#[test]
fn call_is_a_trace_that_names_nobody() {
    let collector = Collector::default();
    // What is lost is lost; the next one comes.
    *collector.refuses.lock() = 1;
    let config = format!("opentelemetry.endpoint = '{}'\n", collector.start());
    let mut world = World::with(Mode::Open, Udp, &config);
    let mut phone = asleep(&mut world, Push::Fcm);
    for _ in 0..2 {
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        // The double's answer may be slower than the phone.
        eventually("the word on the push", || {
            let story = world.admin.get(&format!("/api/v1/calls/{}", call.call_id)).to_string();
            story.contains("push_accepted").then_some(())
        });
        phone.register(&mut world);
        answered(&world, &phone, &call);
        phone.sleep();
        if *collector.refuses.lock() > 0 {
            eventually("the first post", || (*collector.refuses.lock() == 0).then_some(()));
            continue;
        }
        let spans = collector.spans(&call.call_id);
        let names: Vec<_> = spans.iter().map(|span| span["name"].as_str().expect("a name")).collect();
        assert_eq!(names, ["call", "push", "wake", "invite"]);
        let time = |span: &Value, key: &str| span[key].as_str().expect("a time").parse::<u64>().expect("nanoseconds");
        for span in &spans[1..] {
            assert_eq!(span["parentSpanId"], spans[0]["spanId"]);
            assert!(time(span, "startTimeUnixNano") >= time(&spans[0], "startTimeUnixNano"), "{span}");
            assert!(time(span, "endTimeUnixNano") >= time(span, "startTimeUnixNano"), "{span}");
        }
    }
    let posted = collector.posted.lock();
    for (headers, body) in posted.iter() {
        assert_eq!(headers["content-type"], "application/json");
        for secret in [&*phone.token, "alice", "Ivan"] {
            assert!(!body.contains(secret), "{secret} is in {body}");
        }
    }
}

#[test]
fn calls_go_on_without_the_collector() {
    let mut world = World::with(Mode::Open, Udp, "opentelemetry.endpoint = 'http://127.0.0.1:9'\n");
    let mut phone = asleep(&mut world, Push::Fcm);
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    phone.register(&mut world);
    answered(&world, &phone, &call);
    world.admin.expect_healthy();
}
