//! The server's metrics, and the alerts and the dashboard that look at them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sip_push_proxy::config::Config;
use sip_push_proxy::server::Server;

use crate::promql::{Exported, PREFIX};
use crate::{packaging, read, root, run, run_with};

/// What a running server says at `/metrics` to who does not ask for OpenMetrics.
fn metrics() -> String {
    let folder = tempfile::TempDir::new().unwrap();
    let config = "node.id = 'n'\nsip.listen = ['udp:127.0.0.1:0']\nsip.workers = 1\nadmin.listen = '127.0.0.1:0'\n\
                  softswitch.uri = 'sip:192.0.2.20'\n";
    let server = Server::start(Config::parse(config, &folder.path().join("config.toml")).unwrap()).unwrap();
    let mut stream = TcpStream::connect(server.admin_address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    server.stop();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(packaging("prometheus"));
    command
}

fn alerts() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read(packaging("prometheus/alerts.yml"))).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn metrics_pass_the_lint_of_prometheus() {
    let metrics = metrics();
    let told = run_with(&mut promtool(&["check", "metrics"]), &metrics);
    assert_eq!(told, "", "promtool complains");
    let described = |kind: &str| -> BTreeSet<_> {
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(kind));
        lines.filter_map(|line| line.split(' ').next()).collect()
    };
    let (helps, types) = (described("# HELP "), described("# TYPE "));
    let exported = Exported::parse(&metrics);
    let families = exported.families();
    assert_eq!((&helps, &types), (&families, &families));
}

#[test]
fn alerts_look_at_what_is_exported() {
    let exported = Exported::parse(&metrics());
    alerts().iter().for_each(|alert| exported.check(text(&alert["expr"])));
}

#[test]
fn the_dashboard_looks_at_what_is_exported() {
    let exported = Exported::parse(&metrics());
    let dashboard: Value = serde_json::from_str(&read(packaging("grafana/dashboard.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<_> = targets.map(|target| text(&target["expr"])).collect();
    assert!(queries.len() > 10, "{queries:?}");
    queries.iter().for_each(|query| exported.check(query));
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    variables.filter_map(|variable| variable["query"]["query"].as_str()).for_each(|query| exported.check(query));
    let shown: String = queries.concat();
    for family in exported.families() {
        assert!(shown.contains(family), "the dashboard does not show {family}");
    }
}

#[test]
fn alerts_fire_when_they_should() {
    run(&mut promtool(&["check", "rules", "alerts.yml"]));
    run(&mut promtool(&["test", "rules", "alerts_test.yml"]));
}

/// An alert that is not tested to fire may never do so, and one that is not explained helps nobody at night.
#[test]
fn each_alert_is_tested_and_explained() {
    let tests: Value = serde_saphyr::from_str(&read(packaging("prometheus/alerts_test.yml"))).unwrap();
    let cases = tests["tests"].as_array().unwrap().iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let firing = cases.filter(|case| !case["exp_alerts"].as_array().unwrap().is_empty());
    let tested: BTreeSet<_> = firing.map(|case| text(&case["alertname"])).collect();
    let operations = read(root().join("docs/operations.md"));
    for alert in &alerts() {
        let name = text(&alert["alert"]);
        assert!(tested.contains(name), "{name} is not tested");
        assert!(operations.contains(&format!("| `{name}` |")), "docs/operations.md does not explain {name}");
    }
}

#[test]
fn each_metric_is_explained() {
    let operations = read(root().join("docs/operations.md"));
    for family in Exported::parse(&metrics()).families() {
        let name = family.trim_start_matches(PREFIX);
        assert!(operations.contains(&format!("`{name}")), "docs/operations.md does not name {name}");
    }
}
