//! As much of PromQL as tells which series a query looks at.

use std::collections::{BTreeMap, BTreeSet};

/// The prefix of all metrics of the server.
pub(crate) const PREFIX: &str = "sip_push_proxy_";

/// Labels that Prometheus puts to what the server says.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

/// What the server exports: metric → label → values.
pub(crate) struct Exported(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Exported {
    /// From either text format of Prometheus.
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = sample.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let metric = metrics.entry(name.to_owned()).or_default();
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').unwrap();
                metric.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
        Self(metrics)
    }

    /// Names under which metrics are described: those of a histogram's samples go together.
    pub(crate) fn families(&self) -> BTreeSet<&str> {
        let family = |name: &'_ str| -> usize {
            let end = ["_bucket", "_sum", "_count"].into_iter().find(|end| name.ends_with(end));
            name.len() - end.map_or(0, str::len)
        };
        self.0.keys().map(|name| &name[..family(name)]).collect()
    }

    /// Fails unless each metric in the query is exported, with each label and value that the query looks for.
    #[track_caller]
    pub(crate) fn check(&self, query: &str) {
        for selector in selectors(query) {
            let metric = self.0.get(selector.name);
            let labels = metric.unwrap_or_else(|| panic!("{} is not exported; {query}", selector.name));
            for (label, wanted) in selector.matchers.iter().filter(|(label, _)| !OF_PROMETHEUS.contains(label)) {
                let values = labels.get(*label).unwrap_or_else(|| panic!("{} has no {label}; {query}", selector.name));
                for value in wanted.split('|') {
                    let exists = values.iter().any(|exported| matches(value, exported));
                    assert!(exists, "{} is never with {label}={value:?}; {query}", selector.name);
                }
            }
        }
    }
}

/// A metric in a query, and what its labels are compared with, by whatever operator.
#[derive(Debug, PartialEq, Eq)]
struct Selector<'q> {
    name: &'q str,
    matchers: Vec<(&'q str, &'q str)>,
}

fn selectors(query: &str) -> Vec<Selector<'_>> {
    let starts = query.match_indices(PREFIX).map(|(start, _)| &query[start..]);
    let selector = |text: &'_ str| -> (usize, Option<usize>) {
        let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len());
        (end, text[end..].starts_with('{').then(|| end + text[end..].find('}').unwrap()))
    };
    starts
        .map(|text| {
            let (end, braces) = selector(text);
            let inside = braces.map_or("", |close| &text[end + 1..close]);
            let matchers = inside.split(',').filter(|matcher| !matcher.is_empty()).map(|matcher| {
                let label = matcher.find(['=', '!']).unwrap();
                (matcher[..label].trim(), matcher[label..].trim_start_matches(['=', '!', '~']).trim_matches('"'))
            });
            Selector { name: &text[..end], matchers: matchers.collect() }
        })
        .collect()
}

/// One alternative of a regular expression that has nothing but dots.
fn matches(pattern: &str, value: &str) -> bool {
    pattern.len() == value.len()
        && pattern.bytes().zip(value.bytes()).all(|(wanted, found)| [b'.', found].contains(&wanted))
}

#[test]
fn selectors_are_found() {
    let query = r#"rate(sip_push_proxy_a{x="1",y!~"2|.3"}[5m]) / sip_push_proxy_b > 0"#;
    let expected = [
        Selector { name: "sip_push_proxy_a", matchers: vec![("x", "1"), ("y", "2|.3")] },
        Selector { name: "sip_push_proxy_b", matchers: Vec::new() },
    ];
    assert_eq!(selectors(query), expected);
    let exported = Exported::parse(
        "# TYPE sip_push_proxy_a x\nsip_push_proxy_a{x=\"1\",y=\"2\"} 0\nsip_push_proxy_a{x=\"1\",y=\"13\"} 0\nsip_push_proxy_b 1\n",
    );
    exported.check(query);
    for wrong in
        ["sip_push_proxy_c", "sip_push_proxy_b{x=\"1\"}", "sip_push_proxy_a{x=\"2\"}", "sip_push_proxy_a{x=~\"1|3\"}"]
    {
        assert!(std::panic::catch_unwind(|| exported.check(wrong)).is_err(), "{wrong}");
    }
}
