//! The built program as an operator runs it: exit codes, and what it prints where.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use clap::CommandFactory;
use sip_push_proxy::cli::Arguments;
use tempfile::TempDir;

const GOOD: &str = "[sip]\nlisten = [\"udp:127.0.0.1:0\"]\nworkers = 2\n[softswitch]\nuri = \"sip:192.0.2.20\"\n\
                    [node]\nid = \"n1\"\n";

fn folder(config: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sip-push-proxy")).args(arguments).current_dir(folder).output().unwrap()
}

fn printed(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_what_a_good_configuration_comes_to() {
    let folder = folder(GOOD);
    let expected = "config.toml: good\n\
        \x20 listens     udp:127.0.0.1:0 with 2 workers\n\
        \x20 registers   any domain: relayed to sip:192.0.2.20 with alias contacts\n\
        \x20 calls from  192.0.2.20/32\n\
        \x20 holds       INVITE, MESSAGE for 28 s with 182, then 480; always pushes\n\
        \x20 pushes      nothing\n\
        \x20 keeps       ./data (node n1)\n\
        \x20 admin       http://127.0.0.1:8080 for this machine, without a token\n\
        \x20 note:       no [[push.fcm]] and no [[push.apns]]: no phone can be woken\n";
    assert_eq!(printed(&run(folder.path(), &["check"])), (Some(0), expected, ""));
}

#[test]
fn check_tells_all_problems() {
    let folder = folder("[sip]\nadvertise = \"a.org\"\n[hold]\nwait_s = 300\nwat = 1\n[softswitch]\n");
    let expected = "config.toml:4:10: hold.wait_s: 300 is over the limit of 170 s (RFC 3261 Timer C); use 1 to 170\n\
        config.toml:5:1: hold.wat: not a known key; did you mean `wait_s`?\n\
        config.toml:6:1: softswitch.uri: needed in relay mode: where requests of phones go, such as \
        \"sip:192.0.2.20:5060\" (or set register.mode = \"local\")\n";
    assert_eq!(printed(&run(folder.path(), &["check"])), (Some(2), "", expected));
    assert_eq!(printed(&run(folder.path(), &["serve"])), (Some(2), "", expected));
}

#[test]
fn config_may_stand_before_or_after_the_command() {
    let here = TempDir::new().unwrap();
    let there = folder(GOOD);
    let file = there.path().join("config.toml");
    let file = file.to_str().unwrap();
    for arguments in [["--config", file, "check"], ["check", "--config", file]] {
        assert_eq!(run(here.path(), &arguments).status.code(), Some(0));
    }
    let told = "gone.toml: cannot be read: No such file or directory (os error 2)\n";
    assert_eq!(printed(&run(here.path(), &["--config", "gone.toml", "check"])), (Some(2), "", told));
}

#[test]
fn without_a_file_the_defaults_hold() {
    let here = TempDir::new().unwrap();
    let expected = "built-in defaults:1:1: sip.advertise: needed, because sip.listen has the wildcard udp:0.0.0.0:5060: \
        the host[:port] by which phones and the softswitch reach this node, such as \"192.0.2.10\"\n\
        built-in defaults:1:1: softswitch.uri: needed in relay mode: where requests of phones go, such as \
        \"sip:192.0.2.20:5060\" (or set register.mode = \"local\")\n\
        There is no config.toml here: begin with config.toml.example, or name a file with --config.\n";
    assert_eq!(printed(&run(here.path(), &["check"])), (Some(2), "", expected));
}

#[test]
fn completions_and_man_pages_know_all_commands() {
    let here = TempDir::new().unwrap();
    for shell in ["bash", "fish", "zsh"] {
        let output = run(here.path(), &["completions", shell]);
        let (status, out, told) = printed(&output);
        assert_eq!((status, told), (Some(0), ""));
        for text in ["bindings", "dry-run", "config"] {
            assert!(out.contains(text), "{shell} does not know {text}:\n{out}");
        }
    }
    let output = run(here.path(), &["man"]);
    let (status, out, _) = printed(&output);
    assert_eq!(status, Some(0));
    assert!(out.contains(".TH sip-push-proxy 1"), "{out}");

    assert_eq!(printed(&run(here.path(), &["man", "--dir", "."])), (Some(0), "", ""));
    let arguments = Arguments::command();
    let commands = arguments.get_subcommands().filter(|command| !command.is_hide_set());
    let expected = commands.map(|command| format!("sip-push-proxy-{}.1", command.get_name()));
    let expected: BTreeSet<_> = expected.chain(["sip-push-proxy.1".to_owned()]).collect();
    assert!(expected.contains("sip-push-proxy-why.1") && !expected.contains("sip-push-proxy-man.1"), "{expected:?}");
    let pages = std::fs::read_dir(here.path()).unwrap();
    let pages: BTreeSet<_> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(pages, expected);

    let told = "gone: cannot be written: No such file or directory (os error 2)\n";
    assert_eq!(printed(&run(here.path(), &["man", "--dir", "gone"])), (Some(1), "", told));
}

#[test]
fn wrong_usage_is_2() {
    let here = TempDir::new().unwrap();
    for arguments in [&["nothing"][..], &[], &["bindings", "--remove", "x"], &["bucket"], &["why"]] {
        assert_eq!(run(here.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(run(here.path(), &["--help"]).status.code(), Some(0));
}

#[test]
fn a_server_that_is_not_there() {
    // A port that was free a moment ago and that nobody listens on.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = folder(&format!("[admin]\nlisten = \"{address}\"\n"));
    let output = run(folder.path(), &["bindings"]);
    let (status, out, told) = printed(&output);
    assert_eq!((status, out), (Some(1), ""));
    assert!(told.starts_with(&format!("http://{address}/ does not answer (")), "{told}");
    assert!(told.ends_with("is `sip-push-proxy serve` running with this configuration?\n"), "{told}");
}

/// Answers one request with this JSON; gives the request's head.
fn answer_once(status: &'static str, body: &'static str) -> (TempDir, thread::JoinHandle<String>) {
    let (folder, answering) = answer_each(status, vec![body.into()]);
    (folder, thread::spawn(move || answering.join().unwrap().remove(0)))
}

/// The same for one request after the other, each with its own body.
fn answer_each(status: &'static str, bodies: Vec<String>) -> (TempDir, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!("[admin]\nlisten = \"{}\"\ntoken_file = \"token\"\n", listener.local_addr().unwrap());
    let folder = folder(&config);
    std::fs::write(folder.path().join("token"), "0123456789abcdef").unwrap();
    let answering = thread::spawn(move || {
        let heads = bodies.iter().map(|body| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
            String::from_utf8(head).unwrap()
        });
        heads.collect()
    });
    (folder, answering)
}

#[test]
fn tables_and_json() {
    let body = r#"{"entries":[{"call_ref":"c1","remote_uri":"103","date":"2021","state":"missed"}]}"#;
    let (folder, answering) = answer_once("200 OK", body);
    let output = run(folder.path(), &["bucket", "alice@example.org"]);
    let table = "DATE  STATE   FROM  CALL_REF\n2021  missed  103   c1\n";
    assert_eq!(printed(&output), (Some(0), table, ""));
    let head = answering.join().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /api/v1/buckets/alice@example.org http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: bearer 0123456789abcdef\r\n"), "{head}");

    let (folder, answering) = answer_once("200 OK", body);
    let output = run(folder.path(), &["bucket", "alice@example.org", "--json"]);
    let (status, out, _) = printed(&output);
    let shown: serde_json::Value = serde_json::from_str(out).unwrap();
    assert_eq!((status, shown), (Some(0), serde_json::from_str(body).unwrap()));
    answering.join().unwrap();
}

#[test]
fn health_is_0_or_1() {
    let degraded = r#"{"status":"degraded","reasons":["store: Redis is away","push: it fails"]}"#;
    let (folder, answering) = answer_once("200 OK", degraded);
    let output = run(folder.path(), &["health", "--ready"]);
    assert_eq!(printed(&output), (Some(0), "degraded: store: Redis is away; push: it fails\n", ""));
    let head = answering.join().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /readyz http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nauthorization: bearer 0123456789abcdef\r\n"), "{head}");

    let (folder, answering) = answer_once("503 Service Unavailable", r#"{"status":"stuck"}"#);
    assert_eq!(printed(&run(folder.path(), &["health"])), (Some(1), "stuck\n", ""));
    assert!(answering.join().unwrap().starts_with("GET /healthz HTTP/1.1\r\n"));
}

#[test]
fn what_the_server_refuses_is_1() {
    let (folder, answering) = answer_once("404 Not Found", r#"{"error":"no such binding"}"#);
    let output = run(folder.path(), &["bindings", "alice@example.org", "--remove", "abc/d"]);
    assert_eq!(printed(&output), (Some(1), "", "no such binding\n"));
    assert!(answering.join().unwrap().starts_with("DELETE /api/v1/bindings/alice@example.org/abc%2Fd HTTP/1.1\r\n"));

    let (folder, answering) = answer_once("200 OK", "<html>");
    let output = run(folder.path(), &["calls"]);
    assert_eq!(output.status.code(), Some(1));
    answering.join().unwrap();
}

#[test]
fn advice_counts_silent_phones_apart() {
    let step = |at: &str, step: &str, device: &str, detail: &str| {
        format!(r#"{{"at":"2023-11-14T22:13:{at}Z","step":"{step}","device":"{device}","detail":"{detail}"}}"#)
    };
    let call = |ends: &[String], outcome: &str| {
        let begins = [
            step("00", "received", "", ""),
            step("00.1", "push_sent", "d", "fcm"),
            step("00.2", "push_accepted", "d", "100 ms"),
            step("03.2", "registered", "d", ""),
            step("03.3", "forwarded", "d", ""),
        ];
        let steps = [&begins[..], ends].concat().join(",");
        format!(r#"{{"call_ref":"c","outcome":"{outcome}","steps":[{steps}]}}"#)
    };
    let answered = call(&[step("03.4", "ringing", "d", "180"), step("09", "answered", "", "")], "answered");
    let silent = call(&[step("35.3", "no_return", "", "")], "no_return");
    let calls = [vec![answered; 20], vec![silent; 5]].concat().join(",");
    let config = r#"{"values":{"hold.wait_s":"28"}}"#.to_owned();
    let (folder, asked) = answer_each("200 OK", vec![format!(r#"{{"calls":[{calls}]}}"#), config]);
    let output = run(folder.path(), &["tune"]);
    let (code, told, wrong) = printed(&output);
    assert_eq!((code, wrong), (Some(0), ""));
    assert!(told.starts_with("25 calls are remembered, 25 of them were held for a push.\n"), "{told}");
    let rows: Vec<_> = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in ["fcm 25 3.0 s 3.0 s 3.0 s 3.0 s 5 0", "5 80.0 % 0 0", "28 (now) 80.0 % 0 0", "60 80.0 % 0 0"] {
        assert!(rows.iter().any(|told| told == row), "{row}: {told}");
    }
    assert!(told.contains("5 calls whose phone was back and stayed silent"), "{told}");
    assert!(asked.join().unwrap()[0].starts_with("GET /api/v1/calls?limit="), "the calls come first");
}
