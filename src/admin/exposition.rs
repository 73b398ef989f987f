//! The two text formats of Prometheus: OpenMetrics for those who ask for it, the older one for all others.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

const OPEN_METRICS: &str = "application/openmetrics-text";

/// `text`, which is OpenMetrics, in the format that the client accepts.
pub(super) fn answer(text: String, headers: &HeaderMap) -> Response {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (format, text) = if accepted.any(|value| value.contains(OPEN_METRICS)) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", older(&text))
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static(format))], text).into_response()
}

/// In the older format a counter is described under the name of its samples, and nothing stands at the end.
fn older(open_metrics: &str) -> String {
    let counter = |line: &'_ str| line.strip_prefix("# TYPE ")?.strip_suffix(" counter").map(str::to_owned);
    let counters: BTreeSet<_> = open_metrics.lines().filter_map(counter).collect();
    let mut text = String::with_capacity(open_metrics.len() + 256);
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        if let (Some("#"), Some(about), Some(name), Some(rest)) =
            (words.next(), words.next(), words.next(), words.next())
            && counters.contains(name)
        {
            text.extend(["# ", about, " ", name, "_total ", rest, "\n"]);
        } else {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_name_of_their_samples() {
        let open_metrics = "# HELP calls Calls, by outcome.\n# TYPE calls counter\ncalls_total{outcome=\"x y\"} 1\n\
                            # HELP nodes Nodes.\n# TYPE nodes gauge\nnodes 2\n# EOF\n";
        let expected = "# HELP calls_total Calls, by outcome.\n# TYPE calls_total counter\n\
                        calls_total{outcome=\"x y\"} 1\n# HELP nodes Nodes.\n# TYPE nodes gauge\nnodes 2\n";
        assert_eq!(older(open_metrics), expected);
    }
}
