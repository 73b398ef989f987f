//! What Prometheus is told: counters, gauges and histograms under the names that operators rely on.
//!
//! Every series exists from the start, so that a rate can be taken of it, and every count is one atomic addition:
//! the values of all labels are closed sets, their handles stand in arrays.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::binding::Provider;
use crate::sip::flow::Transport;

/// An enum whose variants are all values of a label.
macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$meaning])* $variant,)+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// As in the label.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

label!(
    /// `calls_total{outcome}`: how a call through the proxy ended.
    Outcome {
        Answered = "answered",
        Rejected = "rejected",
        Cancelled = "cancelled",
        /// The wait ended and no phone had woken.
        NoReturn = "no_return",
        /// No phone could be woken.
        PushFailed = "push_failed",
        /// The INVITE's Expires ran out.
        Expired = "expired",
        /// Over a limit.
        Overload = "overload",
    }
);

label!(
    /// Which way a message went.
    Direction { In = "in", Out = "out", }
);

label!(
    /// What a message is: a request by its method, a response by its class.
    Kind {
        Invite = "INVITE", Ack = "ACK", Bye = "BYE", Cancel = "CANCEL", Register = "REGISTER", Options = "OPTIONS",
        Message = "MESSAGE", Info = "INFO", Prack = "PRACK", Update = "UPDATE", Refer = "REFER",
        Subscribe = "SUBSCRIBE", Notify = "NOTIFY", Publish = "PUBLISH",
        /// A request with any other method.
        Other = "other",
        Status1xx = "1xx", Status2xx = "2xx", Status3xx = "3xx", Status4xx = "4xx", Status5xx = "5xx",
        Status6xx = "6xx",
    }
);

impl Kind {
    /// Of a request.
    pub fn of_method(method: &[u8]) -> Self {
        match method {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"BYE" => Self::Bye,
            b"CANCEL" => Self::Cancel,
            b"REGISTER" => Self::Register,
            b"OPTIONS" => Self::Options,
            b"MESSAGE" => Self::Message,
            b"INFO" => Self::Info,
            b"PRACK" => Self::Prack,
            b"UPDATE" => Self::Update,
            b"REFER" => Self::Refer,
            b"SUBSCRIBE" => Self::Subscribe,
            b"NOTIFY" => Self::Notify,
            b"PUBLISH" => Self::Publish,
            _ => Self::Other,
        }
    }

    /// Of a response.
    pub fn of_status(status: u16) -> Self {
        match status {
            ..200 => Self::Status1xx,
            200..300 => Self::Status2xx,
            300..400 => Self::Status3xx,
            400..500 => Self::Status4xx,
            500..600 => Self::Status5xx,
            600.. => Self::Status6xx,
        }
    }
}

label!(
    /// `sip_dropped_total{reason}`: what was neither answered nor delivered, or was turned away before it was looked at.
    DropReason {
        /// A datagram found the socket's send buffer full.
        UdpBufferFull = "udp_buffer_full",
        /// The system refused a datagram: too large, or no route.
        UdpSendError = "udp_send_error",
        /// Over `limits.connections`.
        ConnectionLimit = "connection_limit",
        /// Over `limits.source_connections`.
        SourceLimit = "source_limit",
        /// Over `limits.source_requests_per_s`.
        SourceRate = "source_rate",
        /// Over `limits.source_bytes` (503).
        SourceBytes = "source_bytes",
        /// From a source that is shut out for a while.
        Banned = "banned",
        /// A request of one of `limits.scanners`.
        Scanner = "scanner",
        /// A connection could not be opened.
        ConnectFailed = "connect_failed",
        /// A message was for a connection, or by a listener, that is not there.
        NotConnected = "not_connected",
        /// A peer that does not read let its queue run full, or a worker's queue was full.
        QueueFull = "queue_full",
        /// A stream that is not SIP.
        NotSip = "not_sip",
        /// A stream of SIP that cannot be framed (RFC 3261 §18.3).
        BadFraming = "bad_framing",
        /// A message that was not complete in time, or a connection that never said anything.
        PartialTimeout = "partial_timeout",
        /// A peer that did not take a single byte for too long.
        WriteTimeout = "write_timeout",
        /// A call from an address that is not in `softswitch.trusted`, to a device as only the softswitch can name it.
        StrangeSwitch = "strange_switch",
        /// Anything but a response at the socket of `register.refresh_from`.
        RefreshSocket = "refresh_socket",
        /// A message that cannot be parsed and is not answered.
        Unparsable = "unparsable",
        /// More bytes than a message may have (513).
        TooLarge = "too_large",
        /// Over `limits.headers` (400).
        TooManyHeaders = "too_many_headers",
        /// Over `limits.transactions` or `limits.held_calls` (503).
        Overload = "overload",
        /// A response that belongs to nothing, or is not ours to forward (RFC 3261 §16.7 step 3).
        StrayResponse = "stray_response",
        /// A fault of our own ended its transaction.
        Fault = "fault",
    }
);

label!(
    /// What a push tells.
    PushKind { Invite = "invite", Message = "message", MissedCalls = "missed_calls", CallEnded = "call_ended", Register = "register", Test = "test", Text = "text", }
);

label!(
    /// What came of a push.
    PushResult {
        Accepted = "accepted",
        TokenDead = "token_dead",
        TryAgain = "try_again",
        Refused = "refused",
        /// Over `push.per_token_per_min`.
        Limited = "limited",
        /// Over `limits.push_queue`.
        Busy = "busy",
        /// The account fails, and is asked only now and then.
        Skipped = "skipped",
        /// The call was over before its turn came.
        Withdrawn = "withdrawn",
    }
);

label!(
    /// `upstream_refreshes_total{result}`: what came of a sleeping device's REGISTER upstream.
    RefreshResult {
        Granted = "granted",
        /// The softswitch wants the phone itself (401, 407).
        Challenged = "challenged",
        /// Any other refusal that is meant to last.
        Refused = "refused",
        /// No answer, or one that will pass.
        TryAgain = "try_again",
    }
);

label!(
    /// `hep_packets_total{result}`: what came of a packet for `hep.server`.
    HepResult {
        Sent = "sent",
        /// Sent with as much of the message as a packet can hold.
        Cut = "cut",
        /// The queue was full, or the collector away.
        Dropped = "dropped",
    }
);

label!(
    /// What the store was asked for.
    StoreOp {
        Register = "register",
        TokenDead = "token_dead",
        Remove = "remove",
        Hold = "hold",
        Settle = "settle",
        Claim = "claim",
        Reported = "reported",
        Release = "release",
        Refreshed = "refreshed",
        BindToken = "bind_token",
        Message = "message",
        PickUp = "pick_up",
    }
);

/// Seconds, from a provider that is near to one that hangs until `push.timeout_ms`.
const PUSH_BUCKETS: [f64; 9] = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Seconds, from a phone that was not asleep to the longest wait.
const WAKE_BUCKETS: [f64; 11] = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0, 170.0];
/// Seconds, from memory to a disk in trouble.
const STORE_BUCKETS: [f64; 9] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 0.5, 2.0];

/// Every series, and the text that Prometheus reads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Bindings in the table.
    pub bindings: Gauge,
    /// Calls that wait for a phone.
    pub held_calls: Gauge,
    /// Entries in all push buckets.
    pub bucket_entries: Gauge,
    /// 1: the store takes changes; 0: it does not.
    pub store_up: Gauge,
    /// Changes that wait for the store to come back.
    pub journal_entries: Gauge,
    /// Nodes that work on the store, this one among them.
    pub nodes: Gauge,
    /// Live events that went by a watcher, or that the stream did not take.
    pub events_lost: Gauge,
    /// Clients that follow live events by `/connection/websocket`.
    pub events_clients: Gauge,
    /// Sources that are shut out.
    pub bans: Gauge,
    accounts_failing: Vec<Gauge>,
    accounts_doubted: Vec<Gauge>,
    calls: Vec<Counter>,
    pushes: Vec<Counter>,
    messages: Vec<Counter>,
    dropped: Vec<Counter>,
    refreshes: Vec<Counter>,
    hep_packets: Vec<Counter>,
    push_seconds: Vec<Histogram>,
    wake_seconds: Vec<Histogram>,
    store_seconds: Vec<Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPush {
    provider: &'static str,
    r#type: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProvider {
    provider: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMessage {
    direction: &'static str,
    transport: &'static str,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOp {
    op: &'static str,
}

const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Tcp];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sip_push_proxy");
        Self {
            bindings: gauge(&mut registry, "bindings", "Bindings: devices that can be called"),
            held_calls: gauge(&mut registry, "held_calls", "Calls that wait for a phone to wake"),
            calls: calls(&mut registry),
            pushes: pushes(&mut registry),
            push_seconds: by_provider(&mut registry, "push_seconds", "From a push to its answer", &PUSH_BUCKETS),
            wake_seconds: by_provider(
                &mut registry,
                "wake_seconds",
                "From an accepted push to the phone's accepted REGISTER",
                &WAKE_BUCKETS,
            ),
            messages: messages(&mut registry),
            dropped: dropped(&mut registry),
            refreshes: refreshes(&mut registry),
            hep_packets: hep_packets(&mut registry),
            bucket_entries: gauge(&mut registry, "bucket_entries", "Calls in the push buckets"),
            store_up: gauge(&mut registry, "store_up", "Whether the store takes changes"),
            store_seconds: store_seconds(&mut registry),
            journal_entries: gauge(&mut registry, "journal_entries", "Changes that wait for the store to come back"),
            nodes: gauge(&mut registry, "nodes", "Nodes that work on the store"),
            events_lost: gauge(&mut registry, "events_lost", "Live events that a watcher or the stream missed"),
            events_clients: gauge(&mut registry, "events_clients", "Clients of /connection/websocket"),
            bans: gauge(&mut registry, "bans", "Sources that are shut out for a while"),
            accounts_failing: accounts(
                &mut registry,
                "push_accounts_failing",
                "Accounts that their provider fails or refuses",
            ),
            accounts_doubted: accounts(
                &mut registry,
                "push_accounts_doubted",
                "Accounts of which too many tokens are called dead at once, so that no binding ends",
            ),
            registry,
        }
    }

    /// The providers of all accounts that do not work.
    pub fn push_accounts_failing(&self, providers: impl Iterator<Item = Provider>) {
        count_providers(&self.accounts_failing, providers);
    }

    /// The providers of all accounts whose word on dead tokens is not believed.
    pub fn push_accounts_doubted(&self, providers: impl Iterator<Item = Provider>) {
        count_providers(&self.accounts_doubted, providers);
    }

    /// A call ended.
    pub fn call(&self, outcome: Outcome) {
        count(&self.calls, outcome as usize, 1);
    }

    /// A message came in or went out.
    pub fn message(&self, direction: Direction, transport: Transport, kind: Kind) {
        let row = direction as usize * TRANSPORTS.len() + transport as usize;
        count(&self.messages, row * Kind::ALL.len() + kind as usize, 1);
    }

    pub fn dropped(&self, reason: DropReason) {
        self.dropped_by(reason, 1);
    }

    /// Several at once.
    pub fn dropped_by(&self, reason: DropReason, number: u64) {
        count(&self.dropped, reason as usize, number);
    }

    /// A refresh upstream came to this.
    pub fn refresh(&self, result: RefreshResult) {
        count(&self.refreshes, result as usize, 1);
    }

    /// A packet for `hep.server` came to this.
    pub fn hep_packet(&self, result: HepResult) {
        self.hep_packets(result, 1);
    }

    /// Several at once.
    pub fn hep_packets(&self, result: HepResult, number: u64) {
        count(&self.hep_packets, result as usize, number);
    }

    /// An attempt to push ended after `took`.
    pub fn push(&self, provider: Provider, kind: PushKind, result: PushResult, took: Duration) {
        let row = provider as usize * PushKind::ALL.len() + kind as usize;
        count(&self.pushes, row * PushResult::ALL.len() + result as usize, 1);
        let was_asked =
            !matches!(result, PushResult::Limited | PushResult::Busy | PushResult::Skipped | PushResult::Withdrawn);
        if was_asked {
            observe(&self.push_seconds, provider as usize, took);
        }
    }

    /// A phone registered `after` the push that was to wake it had been accepted.
    pub fn wake(&self, provider: Provider, after: Duration) {
        observe(&self.wake_seconds, provider as usize, after);
    }

    /// The store answered after `took`.
    pub fn store(&self, op: StoreOp, took: Duration) {
        observe(&self.store_seconds, op as usize, took);
    }

    /// All of it in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn count(counters: &[Counter], index: usize, number: u64) {
    if let Some(counter) = counters.get(index) {
        counter.inc_by(number);
    }
}

fn observe(histograms: &[Histogram], index: usize, time: Duration) {
    if let Some(histogram) = histograms.get(index) {
        histogram.observe(time.as_secs_f64());
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn count_providers(gauges: &[Gauge], providers: impl Iterator<Item = Provider>) {
    let mut counts = [0; Provider::ALL.len()];
    for provider in providers {
        if let Some(count) = counts.get_mut(provider as usize) {
            *count += 1;
        }
    }
    for (gauge, count) in gauges.iter().zip(counts) {
        gauge.set(count);
    }
}

fn accounts(registry: &mut Registry, name: &str, help: &str) -> Vec<Gauge> {
    let family = Family::<OfProvider, Gauge>::default();
    registry.register(name, help, family.clone());
    let labels = Provider::ALL.iter().map(|provider| OfProvider { provider: provider.name() });
    labels.map(|label| family.get_or_create_owned(&label)).collect()
}

fn calls(registry: &mut Registry) -> Vec<Counter> {
    let family = Family::<OfOutcome, Counter>::default();
    // The library adds `_total` to the names of counters.
    registry.register("calls", "Calls that ended, by outcome", family.clone());
    let labels = Outcome::ALL.iter().map(|outcome| OfOutcome { outcome: outcome.name() });
    labels.map(|label| family.get_or_create_owned(&label)).collect()
}

fn pushes(registry: &mut Registry) -> Vec<Counter> {
    let family = Family::<OfPush, Counter>::default();
    registry.register("pushes", "Attempts to push", family.clone());
    let mut counters = Vec::new();
    for provider in Provider::ALL {
        for kind in PushKind::ALL {
            for result in PushResult::ALL {
                let label = OfPush { provider: provider.name(), r#type: kind.name(), result: result.name() };
                counters.push(family.get_or_create_owned(&label));
            }
        }
    }
    counters
}

fn messages(registry: &mut Registry) -> Vec<Counter> {
    let family = Family::<OfMessage, Counter>::default();
    registry.register("sip_messages", "SIP messages received and sent", family.clone());
    let mut counters = Vec::new();
    for direction in Direction::ALL {
        for transport in TRANSPORTS {
            for kind in Kind::ALL {
                let (direction, transport) = (direction.name(), transport.uri_name());
                counters.push(family.get_or_create_owned(&OfMessage { direction, transport, kind: kind.name() }));
            }
        }
    }
    counters
}

fn dropped(registry: &mut Registry) -> Vec<Counter> {
    let family = Family::<OfReason, Counter>::default();
    registry.register("sip_dropped", "Messages and connections that were dropped", family.clone());
    let labels = DropReason::ALL.iter().map(|reason| OfReason { reason: reason.name() });
    labels.map(|label| family.get_or_create_owned(&label)).collect()
}

fn refreshes(registry: &mut Registry) -> Vec<Counter> {
    let family = Family::<OfResult, Counter>::default();
    registry.register("upstream_refreshes", "Registrations of sleeping devices that were refreshed", family.clone());
    let labels = RefreshResult::ALL.iter().map(|result| OfResult { result: result.name() });
    labels.map(|label| family.get_or_create_owned(&label)).collect()
}

fn hep_packets(registry: &mut Registry) -> Vec<Counter> {
    let family = Family::<OfResult, Counter>::default();
    registry.register("hep_packets", "Packets for hep.server", family.clone());
    let labels = HepResult::ALL.iter().map(|result| OfResult { result: result.name() });
    labels.map(|label| family.get_or_create_owned(&label)).collect()
}

fn by_provider(registry: &mut Registry, name: &str, help: &str, buckets: &'static [f64]) -> Vec<Histogram> {
    let family = Family::<OfProvider, Histogram, _>::new_with_constructor(|| Histogram::new(buckets.iter().copied()));
    registry.register(name, help, family.clone());
    let labels = Provider::ALL.map(|provider| OfProvider { provider: provider.name() });
    labels.iter().map(|label| family.get_or_create_owned(label)).collect()
}

fn store_seconds(registry: &mut Registry) -> Vec<Histogram> {
    let family = Family::<OfOp, Histogram, _>::new_with_constructor(|| Histogram::new(STORE_BUCKETS));
    registry.register("store_seconds", "From a change to its durability", family.clone());
    let labels = StoreOp::ALL.iter().map(|op| OfOp { op: op.name() });
    labels.map(|label| family.get_or_create_owned(&label)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_those_that_operators_rely_on() {
        let text = Metrics::new().render();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names: BTreeSet<_> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        let histograms = ["push_seconds", "wake_seconds", "store_seconds"];
        let suffixes = ["bucket", "count", "sum"];
        let plain = [
            "bindings",
            "held_calls",
            "calls_total",
            "pushes_total",
            "sip_messages_total",
            "sip_dropped_total",
            "bucket_entries",
            "store_up",
            "journal_entries",
            "nodes",
            "events_lost",
            "events_clients",
            "bans",
            "upstream_refreshes_total",
            "hep_packets_total",
            "push_accounts_failing",
            "push_accounts_doubted",
        ];
        let expected = plain
            .into_iter()
            .map(str::to_owned)
            .chain(histograms.iter().flat_map(|name| suffixes.iter().map(move |suffix| format!("{name}_{suffix}"))));
        let expected: BTreeSet<_> = expected.map(|name| format!("sip_push_proxy_{name}")).collect();
        assert_eq!(names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn each_label_counts_by_itself() {
        let metrics = Metrics::new();
        metrics.held_calls.set(3);
        for outcome in Outcome::ALL {
            metrics.call(*outcome);
        }
        metrics.message(Direction::Out, Transport::Tcp, Kind::Status6xx);
        metrics.message(Direction::In, Transport::Udp, Kind::of_method(b"INVITE"));
        metrics.dropped_by(DropReason::Fault, 4);
        metrics.push(Provider::Callback, PushKind::MissedCalls, PushResult::Busy, Duration::ZERO);
        metrics.push(Provider::Fcm, PushKind::Invite, PushResult::Accepted, Duration::from_millis(30));
        metrics.wake(Provider::Apns, Duration::from_secs(4));
        metrics.store(StoreOp::Release, Duration::from_micros(300));
        metrics.refresh(RefreshResult::TryAgain);
        metrics.hep_packet(HepResult::Cut);
        metrics.push_accounts_failing([Provider::Apns, Provider::Apns].into_iter());
        metrics.push_accounts_doubted([Provider::Fcm].into_iter());
        let text = metrics.render();
        for line in [
            "held_calls 3",
            "push_accounts_failing{provider=\"apns\"} 2",
            "push_accounts_failing{provider=\"fcm\"} 0",
            "push_accounts_doubted{provider=\"fcm\"} 1",
            "calls_total{outcome=\"answered\"} 1",
            "calls_total{outcome=\"overload\"} 1",
            "sip_messages_total{direction=\"out\",transport=\"tcp\",kind=\"6xx\"} 1",
            "sip_messages_total{direction=\"in\",transport=\"udp\",kind=\"INVITE\"} 1",
            "sip_messages_total{direction=\"in\",transport=\"udp\",kind=\"ACK\"} 0",
            "sip_dropped_total{reason=\"fault\"} 4",
            "sip_dropped_total{reason=\"udp_buffer_full\"} 0",
            "pushes_total{provider=\"callback\",type=\"missed_calls\",result=\"busy\"} 1",
            "pushes_total{provider=\"fcm\",type=\"invite\",result=\"accepted\"} 1",
            "push_seconds_count{provider=\"callback\"} 0",
            "push_seconds_bucket{le=\"0.05\",provider=\"fcm\"} 1",
            "wake_seconds_count{provider=\"apns\"} 1",
            "store_seconds_count{op=\"release\"} 1",
            "upstream_refreshes_total{result=\"granted\"} 0",
            "upstream_refreshes_total{result=\"try_again\"} 1",
            "hep_packets_total{result=\"cut\"} 1",
        ] {
            let line = format!("sip_push_proxy_{line}");
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn kinds_of_responses() {
        for (status, kind) in [(100, "1xx"), (200, "2xx"), (302, "3xx"), (486, "4xx"), (503, "5xx"), (603, "6xx")] {
            assert_eq!(Kind::of_status(status).name(), kind);
        }
    }
}
