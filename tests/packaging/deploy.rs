//! Containers: their configurations are good, and a stop has the time that it needs.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sip_push_proxy::config::{Config, StoreKind, Variables};
use sip_push_proxy::demo::fcm_double::FcmDouble;
use tempfile::TempDir;

use crate::{packaging, read};

/// The configuration in a folder as the container has it: with the keys that it names, and these variables.
fn load(text: &str, variables: Variables) -> Config {
    let folder = TempDir::new().unwrap();
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fcm = runtime.block_on(FcmDouble::start()).unwrap();
    fcm.write_credentials(&keys).unwrap();
    std::fs::write(keys.join("admin-token"), "0123456789abcdef").unwrap();
    let mounted = text.replace("/run/keys/", "keys/");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, mounted).unwrap();
    let config = Config::load_with(Some(&file), variables).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.node.data_dir, Path::new("/var/lib/sip-push-proxy"), "the folder that is kept");
    assert!(matches!(config.store.kind, StoreKind::Redis(_)));
    assert_eq!(config.push.fcm.len(), 1);
    config
}

fn documents(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(packaging(file))).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A pod's, by where each variable comes from.
fn environment(container: &Value) -> Variables {
    let secret = documents("kubernetes/secret.yaml");
    let value = |from: &Value| match from["fieldRef"]["fieldPath"].as_str() {
        Some("metadata.name") => "sip-push-proxy-0",
        Some("status.podIP") => "10.0.0.7",
        Some(other) => panic!("what is {other}?"),
        None => secret[0]["stringData"][from["secretKeyRef"]["key"].as_str().unwrap()].as_str().unwrap(),
    };
    let variables = container["env"].as_array().unwrap().iter();
    variables.map(|it| (it["name"].as_str().unwrap().to_owned(), value(&it["valueFrom"]).to_owned())).collect()
}

#[test]
fn compose_gives_a_good_configuration_and_time_to_drain() {
    let config = load(&read(packaging("docker/config.toml")), Variables::new());
    let compose = &documents("docker/compose.yaml")[0];
    let grace = compose["services"]["proxy"]["stop_grace_period"].as_str().unwrap().trim_end_matches('s');
    assert!(Duration::from_secs(grace.parse().unwrap()) > config.node.drain);
}

#[test]
fn kubernetes_gives_a_good_configuration_and_time_to_drain() {
    let set = documents("kubernetes/statefulset.yaml");
    let pod = &set[0]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let file = documents("kubernetes/config.yaml");
    let config = load(file[0]["data"]["config.toml"].as_str().unwrap(), environment(container));
    assert_eq!(config.node.id, "sip-push-proxy-0");
    assert!(config.node.address.is_some() && config.admin.token.is_some());

    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    assert!(grace > before + config.node.drain.as_secs());
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let command = container[probe]["exec"]["command"].as_array().unwrap();
        assert_eq!((&command[0], &command[1]), (&"sip-push-proxy".into(), &"health".into()), "{probe}");
    }
    // Everything is found by one label.
    for file in ["config", "secret", "statefulset", "service", "disruption"] {
        for document in documents(&format!("kubernetes/{file}.yaml")) {
            assert_eq!(document["metadata"]["labels"]["app.kubernetes.io/name"], "sip-push-proxy", "{file}");
        }
    }
}
