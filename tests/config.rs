//! What a configuration means, and the exact words for each thing that can be wrong with it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use sip_push_proxy::config::{
    Admin, ApnsCredential, ApnsExpiration, Auth, CapturePassword, Config, FcmCredential, LateWake, Mode, Problems,
    PushWhen, Users, keys,
};
use tempfile::TempDir;

/// The least that a configuration in relay mode needs.
const BASE: &str = "[softswitch]\nuri = \"sip:192.0.2.20\"\n[sip]\nadvertise = \"192.0.2.10\"\n";

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, Path::new("config.toml"))
}

fn told(text: &str) -> String {
    parse(text).expect_err("this configuration is wrong").to_string()
}

/// `section` follows [`BASE`], so that its first line is line 5.
#[track_caller]
fn check(section: &str, expected: &str) {
    assert_eq!(told(&format!("{BASE}{section}")), expected);
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = parse(BASE).unwrap();
    assert_eq!(config.hold.wait, Duration::from_secs(28));
    assert_eq!(config.hold.provisional, Some(182));
    assert_eq!(config.hold.push_when, PushWhen::Always);
    assert_eq!(
        config.sip.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["udp:0.0.0.0:5060", "tcp:0.0.0.0:5060"]
    );
    assert_eq!(config.register.mode, Mode::Relay);
    assert_eq!(config.softswitch.trusted, ["192.0.2.20/32".parse().unwrap()]);
    assert_eq!(config.notes(), ["no [[push.fcm]] and no [[push.apns]]: no phone can be woken"]);
}

#[test]
fn phones_are_reminded_to_register_where_the_operator_says_so() {
    let config = parse(BASE).unwrap();
    assert_eq!((config.push.refresh, config.push.refresh_before), (false, Duration::from_secs(120)));
    let config = parse(&format!("{BASE}[push]\nrefresh = true\nrefresh_before_s = 300\n")).unwrap();
    assert_eq!((config.push.refresh, config.push.refresh_before), (true, Duration::from_secs(300)));
    assert!(!config.notes().iter().any(|note| note.starts_with("push.refresh")));
    check(
        "[push]\nrefresh_before_s = 0\n",
        "config.toml:6:20: push.refresh_before_s: 0 is under the least of 1 s; use 1 to 86400",
    );
    let local =
        "[register]\nmode = \"local\"\nauth = \"none\"\n[sip]\nadvertise = \"192.0.2.10\"\n[push]\nrefresh = true\n";
    let note = "push.refresh has no use: register.mode is \"local\", where no softswitch forgets a phone";
    assert!(parse(local).unwrap().notes().contains(&note));
}

#[test]
fn what_a_late_phone_gets_depends_on_it_unless_the_operator_says_what() {
    for (text, expected) in [
        ("", LateWake::ByPlatform),
        ("late_wake = \"\"\n", LateWake::ByPlatform),
        ("late_wake = \"missed_calls\"\n", LateWake::MissedCalls),
        ("late_wake = \"invite_cancel\"\n", LateWake::InviteCancel),
    ] {
        assert_eq!(parse(&format!("{BASE}[hold]\n{text}")).unwrap().hold.late_wake, expected, "{text}");
    }
}

#[test]
fn the_softswitch_must_be_reachable_by_a_transport_that_is_listened_on() {
    let text = "[softswitch]\nuri = \"sip:192.0.2.20;transport=tcp\"\n[sip]\nlisten = [\"udp:192.0.2.10:5060\"]\n";
    assert_eq!(
        told(text),
        "config.toml:2:7: softswitch.uri: is reached by tcp, but sip.listen has no tcp: entry to send from; add one"
    );
    assert!(parse(&text.replace("udp:", "tcp:")).is_ok());
}

#[test]
fn small_times_are_allowed() {
    let text = "[hold]\nwait_s = 5\n[register]\nexpires_min_s = 1\n[push]\ntimeout_ms = 1000\n";
    let config = parse(&format!("{BASE}{text}")).unwrap();
    assert_eq!(config.hold.wait, Duration::from_secs(5));
    assert_eq!(config.register.expires_min, Duration::from_secs(1));
    assert_eq!(config.push.timeout, Duration::from_secs(1));
}

#[test]
fn any_free_port_may_be_asked_for() {
    let text =
        "[sip]\nlisten = [\"udp:127.0.0.1:0\", \"tcp:127.0.0.1:0\"]\n[register]\nmode = \"local\"\nauth = \"none\"\n";
    let config = parse(text).unwrap();
    assert_eq!(config.sip.advertise, None);
    let Mode::Local(Auth::None { open_networks }) = &config.register.mode else { panic!("{:?}", config.register) };
    assert_eq!(open_networks.len(), 2);
    assert!(config.notes().contains(&"softswitch.trusted is empty: nobody may call phones"));
}

#[test]
fn trust_follows_networks() {
    let text = "[softswitch]\nuri = \"sip:pbx.example.org\"\ntrusted = [\"192.0.2.0/24\", \"2001:db8::1\"]\n[sip]\nadvertise = \"a.example.org:5070\"\n";
    let config = parse(text).unwrap();
    for (address, trusted) in
        [("192.0.2.77", true), ("::ffff:192.0.2.77", true), ("2001:db8::1", true), ("2001:db8::2", false)]
    {
        assert_eq!(config.softswitch.trusts(address.parse().unwrap()), trusted, "{address}");
    }
}

#[test]
fn what_is_not_toml() {
    check("[hold\n", "config.toml:5:6: this is not TOML: unclosed table, expected `]`");
    check("[hold]\nwait_s = 1\nwait_s = 2\n", "config.toml:7:1: this is not TOML: duplicate key");
}

#[test]
fn unknown_keys() {
    check("[hold]\nwait = 28\n", "config.toml:6:1: hold.wait: not a known key; did you mean `wait_s`?");
    check("[holdd]\n", "config.toml:5:2: holdd: not a known key; did you mean `hold`?");
    check("[log]\nwait_s = 28\n", "config.toml:6:1: log.wait_s: not a known key here; it belongs into [hold]");
    check("[log]\ncolour = 1\n", "config.toml:6:1: log.colour: not a known key; known here: level, format");
    check("[push.fmc]\n", "config.toml:5:7: push.fmc: not a known key; did you mean `fcm`?");
    check(
        "[[push.apns]]\nenabled = false\nkeyfile = 1\n",
        "config.toml:7:1: push.apns[0].keyfile: not a known key; did you mean `key_file`?",
    );
}

#[test]
fn wrong_types() {
    check(
        "[hold]\nwait_s = \"28\"\n",
        "config.toml:6:10: hold.wait_s: a string stands here; a whole number is expected",
    );
    check(
        "[hold]\nmethods = 3\n",
        "config.toml:6:11: hold.methods: an integer stands here; a list of strings is expected",
    );
    check("[node]\ndata_dir = [1]\n", "config.toml:6:12: node.data_dir: an array stands here; a string is expected");
    check("[hold]\nmethods = [\"INVITE\", 3]\n", "config.toml:6:22: hold.methods[1]: a string is expected here");
    check(
        "[missed_calls]\nenabled = 1\n",
        "config.toml:6:11: missed_calls.enabled: an integer stands here; true or false is expected",
    );
    assert_eq!(
        told("softswitch = 3\n[sip]\nadvertise = \"a.org\"\n"),
        "config.toml:1:14: softswitch: a table is expected here: write [softswitch]\n\
         config.toml:1:14: softswitch.uri: needed in relay mode: where requests of phones go, such as \
         \"sip:192.0.2.20:5060\" (or set register.mode = \"local\")"
    );
    check(
        "[push.fcm]\n",
        "config.toml:5:1: push.fcm: a list of tables is expected here: write [[push.fcm]], with two brackets",
    );
}

#[test]
fn times_of_repetitions() {
    for (text, told) in [
        ("3", "an integer stands here; a list of whole numbers is expected"),
        ("[3, \"8\"]", "each is to be a whole number from 1 to 300"),
        ("[0]", "each is to be a whole number from 1 to 300"),
        ("[8, 3]", "each is to be larger than the one before it"),
        ("[3, 3]", "each is to be larger than the one before it"),
        ("[1, 2, 3, 4]", "4 numbers are over the limit of 3"),
    ] {
        check(&format!("[push]\nrepeat_s = {text}\n"), &format!("config.toml:6:12: push.repeat_s: {told}"));
    }
    let folder = Folder::new();
    for (text, seconds) in [("", &[3, 8][..]), ("repeat_s = []\n", &[]), ("repeat_s = [5, 10, 20]\n", &[5, 10, 20])] {
        let repeat = folder.load(&format!("{BASE}[push]\n{text}")).unwrap().push.repeat;
        assert_eq!(repeat.iter().map(Duration::as_secs).collect::<Vec<_>>(), seconds, "{text}");
    }
}

#[test]
fn numbers_out_of_their_limits() {
    check(
        "[hold]\n  wait_s = 300\n",
        "config.toml:6:12: hold.wait_s: 300 is over the limit of 170 s (RFC 3261 Timer C); use 1 to 170",
    );
    check(
        "[hold]\nwait_s = 0\n",
        "config.toml:6:10: hold.wait_s: 0 is under the least of 1 s (RFC 3261 Timer C); use 1 to 170",
    );
    check(
        "[push]\ntimeout_ms = -5\n",
        "config.toml:6:14: push.timeout_ms: -5 is under the least of 1 ms; use 1 to 60000",
    );
    check(
        "[limits]\nheld_calls = 0\n",
        "config.toml:6:14: limits.held_calls: 0 is under the least of 1; use 1 to 100000000",
    );
    check("[limits]\nban_s = 0\n", "config.toml:6:9: limits.ban_s: 0 is under the least of 1 s; use 1 to 31536000");
    check(
        "[limits]\nscanners = [\"sipcli\", \"a\"]\n",
        "config.toml:6:23: limits.scanners[1]: \"a\" is too short; use at least 3 characters of a User-Agent",
    );
    check(
        "[missed_calls]\nttl_s = 99999999999999999999\n",
        "config.toml:6:9: missed_calls.ttl_s: 99999999999999999999 is over the limit of 31536000 s; use 1 to 31536000",
    );
    check(
        "[register]\nexpires_min_s = 7200\nexpires_max_s = 60\n",
        "config.toml:6:17: register.expires_min_s: 7200 is over expires_max_s, which is 60; use 1 to 60",
    );
    check(
        "[register]\nexpires_upstream_s = 31536001\n",
        "config.toml:6:22: register.expires_upstream_s: 31536001 is over the limit of 31536000 s; use 0 to 31536000",
    );
    check(
        "[register]\nmode = \"local\"\nauth = \"none\"\nexpires_upstream_s = 3600\n",
        "config.toml:8:22: register.expires_upstream_s: is for mode = \"relay\"; in local mode nothing is asked of a softswitch, so \
         set it to 0",
    );
    check(
        "[register]\nexpires_max_s = 600\n",
        "config.toml:5:1: register.expires_default_s: 3600 is not between expires_min_s and expires_max_s; use 60 to 600",
    );
}

#[test]
fn statuses_and_choices() {
    check(
        "[hold]\nprovisional = 181\n",
        "config.toml:6:15: hold.provisional: 181 is no provisional of a waiting call; use 0 (100 only), 180, 182 or 183",
    );
    check(
        "[hold]\nno_return_status = 200\n",
        "config.toml:6:20: hold.no_return_status: 200 is no failure response (RFC 3261 §7.2); use 400 to 699",
    );
    check(
        "[hold]\npush_when = \"never\"\n",
        "config.toml:6:13: hold.push_when: \"never\" is not known; use \"always\" or \"unreachable\"",
    );
    check(
        "[hold]\nmethods = [\"MESSAGE\"]\n",
        "config.toml:6:11: hold.methods: \"INVITE\" is missing; holding calls is what this proxy is for",
    );
    check(
        "[hold]\nmethods = [\"INVITE\", \"BYE\", \"x\"]\n",
        "config.toml:6:22: hold.methods[1]: \"BYE\" never starts something outside of a dialog; leave it out\n\
         config.toml:6:29: hold.methods[2]: \"x\" is not a method; methods are in capitals, such as \"MESSAGE\"",
    );
    check(
        "[missed_calls]\ncall_ref_header = \"X Ref\"\n",
        "config.toml:6:19: missed_calls.call_ref_header: \"X Ref\" is not the name of a header; write for example \
         \"X-Call-Ref\"",
    );
    check(
        "[log]\nlevel = \"inf\"\n",
        "config.toml:6:9: log.level: \"inf\" is not a level; use error, warn, info, debug or trace, or directives such \
         as \"info,sip_push_proxy::push=debug\"",
    );
    assert_eq!(parse(&format!("{BASE}[log]\nlevel = \"warn,sip_push_proxy=trace\"\n")).unwrap().log.level.len(), 25);
}

#[test]
fn where_we_listen() {
    let wrong = |listen: &str, expected: &str| {
        let text =
            format!("[softswitch]\nuri = \"sip:192.0.2.20\"\n[sip]\nadvertise = \"a.org\"\nlisten = [{listen}]\n");
        assert_eq!(told(&text), format!("config.toml:5:{expected}"));
    };
    wrong(
        "\"udp:127.0.0.1:5060\", \"udp:127.0.0.1:5060\"",
        "33: sip.listen[1]: \"udp:127.0.0.1:5060\" stands here twice; leave one of them out",
    );
    wrong(
        "\"tls:0.0.0.0:5061\"",
        "11: sip.listen[0]: \"tls:0.0.0.0:5061\" is not possible in this version: tls: is not built in; use udp: or tcp:",
    );
    wrong(
        "\"5060\"",
        "11: sip.listen[0]: \"5060\" does not name a transport; write udp:ADDRESS:PORT or tcp:ADDRESS:PORT",
    );
    wrong(
        "\"udp:localhost:5060\"",
        "11: sip.listen[0]: \"udp:localhost:5060\" does not end in ADDRESS:PORT; write for example udp:0.0.0.0:5060 or \
         tcp:[::]:5060",
    );
    wrong("", "10: sip.listen: the list is empty; name at least one udp:ADDRESS:PORT or tcp:ADDRESS:PORT");
    assert_eq!(
        told("[softswitch]\nuri = \"sip:192.0.2.20\"\n[sip]\n"),
        "config.toml:3:1: sip.advertise: needed, because sip.listen has the wildcard udp:0.0.0.0:5060: the host[:port] \
         by which phones and the softswitch reach this node, such as \"192.0.2.10\""
    );
    assert_eq!(
        told("[softswitch]\nuri = \"sip:192.0.2.20\"\n[sip]\nadvertise = \"a b\"\n"),
        "config.toml:4:13: sip.advertise: \"a b\" is not a host[:port]; write 192.0.2.10, [2001:db8::1]:5060 or \
         sip.example.org"
    );
}

#[test]
fn where_calls_go_and_come_from() {
    let wrong = |softswitch: &str, expected: &str| {
        let text = format!("[sip]\nadvertise = \"a.org\"\n[softswitch]\n{softswitch}\n");
        assert_eq!(told(&text), format!("config.toml:{expected}"));
    };
    wrong(
        "",
        "3:1: softswitch.uri: needed in relay mode: where requests of phones go, such as \"sip:192.0.2.20:5060\" (or \
         set register.mode = \"local\")",
    );
    wrong(
        "uri = \"192.0.2.20\"",
        "4:7: softswitch.uri: \"192.0.2.20\" is not a next hop; write sip:HOST[:PORT] or sip:HOST[:PORT];transport=tcp",
    );
    wrong(
        "uri = \"sips:192.0.2.20\"",
        "4:7: softswitch.uri: \"sips:192.0.2.20\" is not possible in this version: TLS is not built in; use sip:",
    );
    wrong(
        "uri = \"sip:pbx.example.org\"",
        "3:1: softswitch.trusted: needed, because softswitch.uri has the name pbx.example.org and not an address: the \
         networks that may call phones, such as [\"192.0.2.20/32\"]",
    );
    wrong(
        "uri = \"sip:192.0.2.20\"\ntrusted = [\"192.0.2.0/40\"]",
        "5:12: softswitch.trusted[0]: \"192.0.2.0/40\" is not a network; write 192.0.2.0/24, 2001:db8::/32 or a single \
         address",
    );
}

#[test]
fn callback_is_any_url_that_holds_no_password() {
    let notes = |text: &str| parse(&format!("{BASE}[push.callback]\n{text}")).unwrap().notes();
    let unsigned = "push.callback.secret_file is empty: pushes are not signed";
    assert_eq!(notes("url = \"https://push.example.org/send?app=1\"\n"), [unsigned]);
    assert_eq!(notes("url = \"http://127.0.0.1:8000/\"\n"), [unsigned]);
    let in_the_clear = "push.callback.url is not https: tokens and callers' numbers can be read on the way";
    assert_eq!(notes("url = \"http://192.0.2.30/push\"\n"), [unsigned, in_the_clear]);
    for wrong in ["push.example.org", "ftp://push.example.org/", "https://", "https://push.example.org/#there"] {
        check(
            &format!("[push.callback]\nurl = \"{wrong}\"\n"),
            "config.toml:6:7: push.callback.url: is not a URL; write https://HOST[:PORT]/PATH",
        );
    }
    check(
        "[push.callback]\nurl = \"https://user:secret@push.example.org/\"\n",
        "config.toml:6:7: push.callback.url: names a user or a password, which would be seen in logs; leave them out",
    );
    let folder = TempDir::new().unwrap();
    let read = || {
        let text = format!("{BASE}[push.callback]\nurl = \"https://example.org\"\nsecret_file = \"callback.secret\"\n");
        Config::parse(&text, &folder.path().join("config.toml"))
    };
    let secret_file = folder.path().join("callback.secret");
    assert!(read().unwrap_err().to_string().contains("push.callback.secret_file: "));
    std::fs::write(&secret_file, "\n").unwrap();
    assert!(read().unwrap_err().to_string().ends_with("callback.secret is empty; write the secret into it"));
    std::fs::write(&secret_file, "secret\n").unwrap();
    assert_eq!(read().unwrap().push.callback.unwrap().secret_file, Some(secret_file));
}

#[test]
fn web_push_needs_a_key_and_says_how_to_make_one() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("vapid.pem");
    let read = |keys: &str| {
        Config::parse(&format!("{BASE}[push.webpush]\nenabled = true\n{keys}"), &folder.path().join("config.toml"))
    };
    let told = |content: Option<&str>| {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let told = read("").unwrap_err().to_string();
        let start = format!("push.webpush.vapid_key_file: {} ", file.display());
        told.split_once(&start).unwrap_or_else(|| panic!("{told}")).1.to_owned()
    };
    let make = "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out vapid.pem`";
    assert_eq!(told(None), format!("cannot be read: No such file or directory (os error 2); {make}"));
    assert_eq!(told(Some("")), format!("has no private key in PEM form; {make}"));
    let rsa = include_str!("../src/demo/throwaway_rsa.pem");
    assert_eq!(told(Some(rsa)), format!("has a key, but not on the curve P-256; {make}"));
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\nMAA=\n-----END {kind}-----\n");
    assert_eq!(
        told(Some(&pem("EC PRIVATE KEY"))),
        "has a key that is not in PKCS#8 form; convert it with `openssl pkcs8 -topk8 -nocrypt`"
    );
    assert_eq!(
        told(Some(&pem("ENCRYPTED PRIVATE KEY"))),
        "has a password; take it off with `openssl pkcs8 -topk8 -nocrypt`"
    );

    std::fs::write(&file, include_str!("../src/demo/throwaway_vapid.pem")).unwrap();
    let web = read("").unwrap().push.webpush.unwrap();
    assert_eq!(web.public_key, sip_push_proxy::demo::webpush_double::PUBLIC_KEY);
    let hosts = |web: &sip_push_proxy::config::WebPush| -> Vec<_> {
        web.allowed_hosts.iter().map(|host| (host.to_string(), host.is_loopback())).collect()
    };
    let name = |host: &str| (host.to_owned(), false);
    assert_eq!(
        hosts(&web),
        ["fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com", "*.notify.windows.com"]
            .map(name)
    );
    let list = "allowed_hosts = [\"*.Notify.windows.com\", \"127.0.0.1:8000\", \"[::1]:8000\", \"localhost\", \"192.0.2.1\"]\n";
    let here = |host: &str| (host.to_owned(), true);
    assert_eq!(
        hosts(&read(list).unwrap().push.webpush.unwrap()),
        [
            name("*.notify.windows.com"),
            here("127.0.0.1:8000"),
            here("[::1]:8000"),
            here("localhost"),
            name("192.0.2.1")
        ]
    );
    for wrong in ["*", "*.com", "*.192.0.2.1", "https://push.example.org", "push.example.org/", "push.*.org", ""] {
        let told = read(&format!("allowed_hosts = [\"{wrong}\"]\n")).unwrap_err().to_string();
        let text = "is not a host; write push.example.org, *.example.org (all names below it) or HOST:PORT";
        assert!(told.contains(&format!("push.webpush.allowed_hosts[0]: {wrong:?} {text}")), "{told}");
    }
    let told = read("allowed_hosts = []\nsubject = \"ops\"\n").unwrap_err().to_string();
    assert!(told.contains("push.webpush.allowed_hosts: names no push service"), "{told}");
    assert!(told.contains("push.webpush.subject: \"ops\" is not an address for push services to write to"), "{told}");
    for good in ["mailto:ops@example.org", "https://example.org/contact"] {
        assert!(read(&format!("subject = \"{good}\"\n")).is_ok());
    }
    let told = read("listen = \"8081\"\nticket_expires_s = 0\nca_file = \"vapid.pem\"\n").unwrap_err().to_string();
    for expected in [
        "push.webpush.listen: \"8081\" is not ADDRESS:PORT",
        "push.webpush.ticket_expires_s: 0 is under the least of 1 s",
        "has no certificate in PEM form",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    let page = read("listen = \"127.0.0.1:8081\"\n").unwrap().push.webpush.unwrap().page.unwrap();
    assert_eq!((page.listen.port(), page.ticket_life, page.requests_per_s), (8081, Duration::from_secs(600), 100));
    // What is switched off is not looked at.
    let off = Config::parse(&format!("{BASE}[push.webpush]\nsubject = \"ops\"\n"), &folder.path().join("config.toml"));
    assert_eq!(off.unwrap().push.webpush, None);
}

#[test]
fn where_a_homer_is() {
    check(
        "[hep]\nserver = \"192.0.2.60:9060\"\n",
        "config.toml:6:10: hep.server: \"192.0.2.60:9060\" does not name a transport; write udp:HOST:PORT or tcp:HOST:PORT",
    );
    check(
        "[hep]\nserver = \"udp:a b\"\n",
        "config.toml:6:10: hep.server: \"udp:a b\" does not end in HOST:PORT; write for example udp:192.0.2.60:9060 or \
         tcp:homer.example.org:9060",
    );
    check(
        "[hep]\ncapture_password_file = \"nowhere\"\n",
        "config.toml:6:25: hep.capture_password_file: nowhere cannot be read: No such file or directory (os error 2)",
    );
    let files = Folder::new().with("empty", "\n").with("homer", "myhep\n");
    assert!(
        files.told("[hep]\ncapture_password_file = \"empty\"\n").contains("one line of 1 to 128 bytes is expected")
    );
    let text = format!("{BASE}[hep]\nserver = \"tcp:homer\"\ncapture_password_file = \"homer\"\nsend_secrets = true\n");
    let config = files.load(&text).unwrap();
    assert_eq!(config.hep.password.as_ref().map(CapturePassword::reveal), Some("myhep"));
    assert!(!format!("{:?}", config.hep).contains("myhep"));
    assert!(config.notes().iter().any(|note| note.starts_with("hep.send_secrets is true")), "{:?}", config.notes());
}

#[test]
fn refreshes_have_an_address_or_a_password_of_their_own() {
    check(
        "[register]\nupstream_refresh = true\n",
        "config.toml:6:20: register.upstream_refresh: true needs register.refresh_from, an address that only refreshes leave \
         by and that the softswitch trusts alone, such as \"udp:192.0.2.10:5070\", or register.refresh_user with \
         register.refresh_password_file: a softswitch that takes REGISTERs from the proxy's own address without a password \
         takes strangers' REGISTERs",
    );
    for (from, wrong) in [
        (
            "udp:192.0.2.10:5060",
            "udp:192.0.2.10:5060 is where phones come in (udp:0.0.0.0:5060); use another port or address of \
                                 this machine",
        ),
        (
            "udp:0.0.0.0:5070",
            "\"udp:0.0.0.0:5070\" is not udp: and an address of its own; write for example \
                              udp:192.0.2.10:5070",
        ),
        (
            "tcp:192.0.2.10:5070",
            "\"tcp:192.0.2.10:5070\" is not udp: and an address of its own; write for example \
                                 udp:192.0.2.10:5070",
        ),
    ] {
        check(
            &format!("[register]\nrefresh_from = \"{from}\"\n"),
            &format!("config.toml:6:16: register.refresh_from: {wrong}"),
        );
    }
    check(
        "[register]\nrefresh_user = \"push\"\n",
        "config.toml:5:1: register.refresh_password_file: needed with register.refresh_user: the file with its password",
    );
}

#[test]
fn a_datagram_is_no_larger_than_udp_has_it() {
    check(
        "datagram_bytes_max = 70000\n",
        "config.toml:5:22: sip.datagram_bytes_max: 70000 is over the limit of 65535; use 0 to 65535",
    );
    assert_eq!(parse(BASE).unwrap().sip.datagram_bytes_max, 1300);
    assert_eq!(parse(&format!("{BASE}datagram_bytes_max = 0\n")).unwrap().sip.datagram_bytes_max, 0);
}

#[test]
fn one_domain_is_no_alias_of_others() {
    check(
        "[register]\ndomains = [\"example.org\"]\ndomain_aliases = true\n",
        "config.toml:7:18: register.domain_aliases: true needs two domains at least; name them in domains, the main one first",
    );
}

#[test]
fn what_this_version_cannot_do_is_said() {
    check(
        "[register]\nmode = \"local\"\nauth = \"none\"\nupstream_refresh = true\n",
        "config.toml:8:20: register.upstream_refresh: true is for mode = \"relay\"; in local mode the softswitch has no \
         registrations that could end, so set it to false",
    );
    check(
        "[events]\nredis_stream = \"calls\"\n",
        "config.toml:6:16: events.redis_stream: needs a Redis: set store.url to redis://HOST, or leave it empty",
    );
    check(
        "[store]\nurl = \"redis://:secret@one,other\"\n",
        "config.toml:6:7: store.url: names several servers; that is for redis+sentinel:// and redis+cluster://",
    );
    check(
        "[store]\nurl = \"mysql:\"\n",
        "config.toml:6:7: store.url: is not a store; use \"file:\" (it lives in node.data_dir) or redis://HOST",
    );
}

#[test]
fn origins_are_written_as_browsers_write_them() {
    let events = "[events]\norigins = [\"https://panel.example.org\", \"http://[::1]:8088\"]\n";
    let origins = parse(&format!("{BASE}{events}")).unwrap().events.origins;
    assert_eq!(origins, ["https://panel.example.org", "http://[::1]:8088"].map(Box::from));
    for wrong in
        ["panel.example.org", "https://panel.example.org/", "https://Panel.example.org", "*", "https://", "null"]
    {
        check(
            &format!("[events]\norigins = [{wrong:?}]\n"),
            &format!(
                "config.toml:6:12: events.origins[0]: {wrong:?} is not an origin; write it as a browser does, in small \
                 letters and without a path: https://panel.example.org"
            ),
        );
    }
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let text =
        "[log]\nlevel = 3\n[hold]\nwait_s = 300\nwhat = 1\n[sip]\nadvertise = \"a.org\"\n[softswitch]\nuri = \"x\"\n";
    let lines: Vec<_> = parse(text).unwrap_err().0.iter().map(|problem| problem.place.unwrap().line).collect();
    assert_eq!(lines, [2, 4, 5, 9]);
}

/// A folder with a configuration and what it names.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn with(self, name: &str, text: &str) -> Self {
        std::fs::write(self.0.path().join(name), text).unwrap();
        self
    }

    /// What is told of `BASE` and this text, without the folder's name.
    fn told(&self, section: &str) -> String {
        self.load(&format!("{BASE}{section}")).unwrap_err()
    }

    fn load(&self, text: &str) -> Result<Config, String> {
        let file = self.0.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let folder = format!("{}/", self.0.path().display());
        Config::load(&file).map_err(|problems| problems.to_string().replace(&folder, ""))
    }
}

fn p8() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

#[test]
fn apns_accounts() {
    let folder = Folder::new().with("AuthKey.p8", &p8()).with("empty.p8", "");
    let account = "[[push.apns]]\nkey_id = \"ABC123DEFG\"\nteam_id = \"DEF123GHIJ\"\n";
    let config = folder.load(&format!("{BASE}{account}")).unwrap();
    let apns = config.push.apns.first().unwrap();
    assert_eq!((apns.custom_key.as_str(), apns.badge, apns.topic.as_deref()), ("acme", Some(10), None));
    assert_eq!(apns.endpoint, "https://api.push.apple.com");
    assert_eq!((apns.expiration, apns.repeat), (ApnsExpiration::Wait, false));
    let config = folder.load(&format!("{BASE}{account}expiration = \"zero\"\nrepeat = true\n")).unwrap();
    let apns = config.push.apns.first().unwrap();
    assert_eq!((apns.expiration, apns.repeat), (ApnsExpiration::Zero, true));
    assert_eq!(
        folder.told(&format!("{account}expiration = \"never\"\n")),
        "config.toml:8:14: push.apns[0].expiration: \"never\" is not known; use \"wait\" or \"zero\""
    );

    assert_eq!(
        folder.told("[[push.apns]]\nkey_id = \"ABC\"\n"),
        "config.toml:5:1: push.apns[0].team_id: needed: 10 characters, as Apple's developer pages show it\n\
         config.toml:6:10: push.apns[0].key_id: \"ABC\" is not 10 letters and digits, as Apple's developer pages show it"
    );
    assert_eq!(
        folder.told(&format!("{account}key_file = \"gone.p8\"\n")),
        "config.toml:8:12: push.apns[0].key_file: gone.p8 cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        folder.told(&format!("{account}key_file = \"empty.p8\"\nca_file = \"empty.p8\"\nbadge = \"x\"\n")),
        "config.toml:8:12: push.apns[0].key_file: empty.p8 is not a .p8 key of Apple: a P-256 key between BEGIN PRIVATE \
         KEY and END PRIVATE KEY is expected\n\
         config.toml:9:11: push.apns[0].ca_file: empty.p8 has no certificate in PEM form\n\
         config.toml:10:9: push.apns[0].badge: \"x\" is not a number; write \"10\", or \"\" to send none"
    );
    assert_eq!(
        folder.told(&format!("{account}{account}")),
        "config.toml:10:11: push.apns[1].team_id: team DEF123GHIJ has an account already; leave one out"
    );
    assert_eq!(
        folder.told(&format!("{account}endpoint = \"http://push.example.org\"\n")),
        "config.toml:8:12: push.apns[0].endpoint: \"http://push.example.org\" would send secrets in the clear; write \
         https:// (http:// only to this machine)"
    );
    assert_eq!(folder.load(&format!("{BASE}[[push.apns]]\nenabled = false\n")).unwrap().push.apns, []);
}

#[test]
fn apns_certificates() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
    let both = format!("{}{}", cert.pem(), signing_key.serialize_pem());
    let folder = Folder::new().with("app.pem", &both).with("other.pem", &cert.pem()).with("empty.pem", "");
    let account = "[[push.apns]]\ncertificate_file = \"app.pem\"\n";
    let config = folder.load(&format!("{BASE}{account}topic = \"org.example.app\"\n")).unwrap();
    let apns = config.push.apns.first().unwrap();
    assert_eq!((apns.team_id.as_deref(), apns.topic.as_deref()), (None, Some("org.example.app")));
    assert!(matches!(&apns.credential, ApnsCredential::Certificate(file) if file.ends_with("app.pem")));

    // Keys and certificates beside each other, told apart by the app.
    let topics = format!("{account}topic = \"a\"\n{account}topic = \"b\"\nteam_id = \"DEF123GHIJ\"\n");
    assert_eq!(folder.load(&format!("{BASE}{topics}")).unwrap().push.apns.len(), 2);
    assert_eq!(
        folder.told(&format!("{account}topic = \"a\"\n{account}topic = \"a\"\n")),
        "config.toml:8:1: push.apns[1].team_id: a has a certificate already; leave one out"
    );
    assert_eq!(
        folder.told(&format!("{account}{account}")),
        "config.toml:7:1: push.apns[1].team_id: another certificate has neither team_id nor topic; write for which app \
         each is"
    );
    assert_eq!(
        folder.told("[[push.apns]]\ncertificate_file = \"empty.pem\"\n"),
        "config.toml:6:20: push.apns[0].certificate_file: empty.pem has no certificate in PEM form"
    );
    assert_eq!(
        folder.told("[[push.apns]]\ncertificate_file = \"other.pem\"\n"),
        "config.toml:6:20: push.apns[0].certificate_file: other.pem has no private key beside the certificate; put both \
         into one PEM file, the key without a password"
    );
}

#[test]
fn texts_of_alerts() {
    let folder = Folder::new();
    let config = folder
        .load(&format!("{BASE}[push]\nalert_language = \"ru\"\n[[push.alert]]\nlanguage = \"ru\"\nfew = \"x\"\n"));
    let push = config.unwrap().push;
    let text = push.alerts.first().unwrap();
    assert_eq!((push.alert_language.as_str(), text.few.as_str(), text.many.as_str()), ("ru", "x", ""));
    assert_eq!(
        folder.told("[[push.alert]]\nlanguage = \"ru\"\n"),
        "config.toml:5:3: push.alert_language: \"en\" has no [[push.alert]]; write one, or name another language"
    );
    assert_eq!(
        folder.told("[[push.alert]]\n[[push.alert]]\n"),
        "config.toml:6:1: push.alert[1].language: \"en\" has its texts already; leave one out"
    );
    assert_eq!(
        folder.told("[[push.alert]]\nother = \"\"\n"),
        "config.toml:6:9: push.alert[0].other: needed: the text for all numbers that have no form of their own"
    );
}

#[test]
fn a_proxy_for_pushes_keeps_its_password() {
    let folder = Folder::new();
    let config = folder.load(&format!("{BASE}[push]\nhttps_proxy = \"http://user:pa55word@proxy:3128\"\n")).unwrap();
    assert_eq!(config.push.https_proxy.as_ref().unwrap().reveal(), "http://user:pa55word@proxy:3128");
    assert!(!format!("{config:?}").contains("pa55word"));
    for wrong in ["https://proxy", "proxy:3128", "http://", "http://secret@"] {
        assert_eq!(
            folder.told(&format!("[push]\nhttps_proxy = \"{wrong}\"\n")),
            "config.toml:6:15: push.https_proxy: is not an HTTP proxy; write http://[USER:PASSWORD@]HOST[:PORT], or \
             \"\" for none"
        );
    }
}

#[test]
fn what_is_reached_without_the_proxy() {
    let folder = Folder::new();
    assert_eq!(folder.load(BASE).unwrap().push.no_proxy, [""; 0]);
    let list = "[push]\nno_proxy = [\"Push.example.org\", \".example.net\", \"192.0.2.7\", \"2001:db8::/32\"]\n";
    let config = folder.load(&format!("{BASE}{list}")).unwrap();
    assert_eq!(config.push.no_proxy, ["push.example.org", ".example.net", "192.0.2.7", "2001:db8::/32"]);
    for wrong in ["", "*", "*.example.org", "https://example.org", "example.org:443", "192.0.2.0/33"] {
        assert_eq!(
            folder.told(&format!("[push]\nno_proxy = [\"{wrong}\"]\n")),
            format!(
                "config.toml:6:13: push.no_proxy[0]: {wrong:?} is no host; write push.example.org, .example.org (that and \
                 all names below it), 192.0.2.7 or 192.0.2.0/24"
            )
        );
    }
}

/// A service account's JSON.
fn service_account(private_key: &str) -> String {
    serde_json::json!({"project_id": "acme", "client_email": "a@example.org", "private_key": private_key}).to_string()
}

#[test]
fn fcm_accounts() {
    let folder = Folder::new().with("fcm.json", &service_account(&p8())).with("empty.json", "{}");
    assert_eq!(
        folder.told("[[push.fcm]]\n"),
        "config.toml:5:1: push.fcm[0].service_account: fcm.json has no usable RSA key in private_key; fetch a new one \
         from the Google Cloud console"
    );
    assert_eq!(
        folder.told("[[push.fcm]]\nservice_account = \"empty.json\"\nproject_number = \"x\"\nprofile = \"v2\"\n"),
        "config.toml:6:19: push.fcm[0].service_account: empty.json is not the JSON of a service account: missing field \
         `project_id` at line 1 column 2\n\
         config.toml:7:18: push.fcm[0].project_number: \"x\" is not a number; Firebase shows it under project settings\n\
         config.toml:8:11: push.fcm[0].profile: \"v2\" is not known; use \"v1\" or \"legacy\""
    );
    assert_eq!(
        folder.told("[[push.fcm]]\nservice_account = \"gone.json\"\n"),
        "config.toml:6:19: push.fcm[0].service_account: gone.json cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn fcm_without_a_key_file() {
    let external = serde_json::json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": "/var/run/token"},
    });
    let told = |change: &dyn Fn(&mut serde_json::Value), keys: &str| {
        let mut file = external.clone();
        change(&mut file);
        Folder::new().with("fcm.json", &file.to_string()).told(&format!("[[push.fcm]]\n{keys}"))
    };
    let project = "project_id = \"acme\"\n";
    for (change, expected) in [
        (
            &|file: &mut serde_json::Value| file["token_url"] = "http://sts.example.org".into(),
            "has a token_url that would send secrets in the clear; write https:// (http:// only to this machine)",
        ),
        (
            &|file: &mut serde_json::Value| file["credential_source"] = serde_json::json!({"environment_id": "aws1"}),
            "takes its token neither from a file nor from a URL (credential_source); AWS and programs are not supported",
        ),
        (
            &|file: &mut serde_json::Value| file["type"] = "authorized_user".into(),
            "is of type \"authorized_user\"; a file of type service_account or external_account is needed",
        ),
    ] as [(&dyn Fn(&mut serde_json::Value), &str); 3]
    {
        assert_eq!(told(change, project), format!("config.toml:5:1: push.fcm[0].service_account: fcm.json {expected}"));
    }
    let without_audience = told(&|file| drop(file.as_object_mut().unwrap().remove("audience")), project);
    assert!(without_audience.contains("is not the JSON of an external account: missing field `audience`"));
    let needed = "push.fcm[0].project_id: needed: the id of the Firebase project, which these credentials do not name";
    assert_eq!(told(&|_| (), ""), format!("config.toml:5:1: {needed}"));
    assert_eq!(Folder::new().told("[[push.fcm]]\ncredentials = \"metadata\"\n"), format!("config.toml:5:1: {needed}"));
    assert_eq!(
        Folder::new().told("[[push.fcm]]\ncredentials = \"metadata\"\nproject_id = \"a/b\"\n"),
        "config.toml:7:14: push.fcm[0].project_id: \"a/b\" is not a project's id, such as \"my-project\""
    );
    for wrong in ["http://192.0.2.1", "https://metadata.google.internal", "metadata"] {
        let keys = format!("credentials = \"metadata\"\n{project}metadata_endpoint = \"{wrong}\"\n");
        assert_eq!(
            Folder::new().told(&format!("[[push.fcm]]\n{keys}")),
            format!(
                "config.toml:8:21: push.fcm[0].metadata_endpoint: {wrong:?} is not a metadata server; write \
                 http://metadata.google.internal"
            )
        );
    }
    for endpoint in ["http://metadata.google.internal/", "http://169.254.169.254", "http://[fd20:ce::254]"] {
        let keys = format!("credentials = \"metadata\"\n{project}metadata_endpoint = \"{endpoint}\"\n");
        let config = Folder::new().load(&format!("{BASE}[[push.fcm]]\n{keys}")).unwrap();
        let credential = FcmCredential::Metadata(endpoint.trim_end_matches('/').to_owned());
        assert_eq!((&config.push.fcm[0].credential, &*config.push.fcm[0].project_id), (&credential, "acme"));
    }
}

/// A service account's JSON, as AppGallery Connect has it.
fn harmony_account(private_key: &str) -> String {
    serde_json::json!({"project_id": "p", "key_id": "k", "private_key": private_key, "sub_account": "1"}).to_string()
}

#[test]
fn accounts_of_rustore_and_huawei() {
    let key = include_str!("../src/demo/throwaway_rsa.pem");
    let folder = Folder::new().with("rustore.token", "token\n").with("hms.secret", "two words");
    let folder = folder.with("harmony.json", &harmony_account(&p8())).with("good.json", &harmony_account(key));
    for (section, expected) in [
        (
            "[[push.rustore]]\n",
            "config.toml:5:1: push.rustore[0].project_id: needed: the project's id, as shown in the RuStore console, under \
             Push, Projects",
        ),
        (
            "[[push.rustore]]\nproject_id = \"a/b\"\n",
            "config.toml:6:14: push.rustore[0].project_id: \"a/b\" is not a project's id, as shown in the RuStore console, \
             under Push, Projects",
        ),
        (
            "[[push.rustore]]\nproject_id = \"a\"\n[[push.rustore]]\nproject_id = \"a\"\n",
            "config.toml:8:14: push.rustore[1].project_id: project a has an account already; leave one out",
        ),
        (
            "[[push.hms]]\nproject_id = \"1\"\nendpoint = \"http://192.0.2.1\"\n",
            "config.toml:5:1: push.hms[0].client_id: needed: the OAuth client id, as shown in AppGallery Connect\n\
             config.toml:5:1: push.hms[0].client_secret_file: hms.secret has no secret: one line of it is expected\n\
             config.toml:7:12: push.hms[0].endpoint: \"http://192.0.2.1\" would send secrets in the clear; write https:// \
             (http:// only to this machine)",
        ),
        (
            "[[push.hms]]\nclient_id = \"a/b\"\n",
            "config.toml:5:1: push.hms[0].client_secret_file: hms.secret has no secret: one line of it is expected\n\
             config.toml:6:13: push.hms[0].client_id: \"a/b\" is not an OAuth client id, as shown in AppGallery Connect",
        ),
        (
            "[[push.harmony]]\n",
            "config.toml:5:1: push.harmony[0].service_account: harmony.json has no usable RSA key in private_key; fetch a \
             new one from AppGallery Connect",
        ),
        (
            "[[push.harmony]]\nservice_account = \"hms.secret\"\n",
            "config.toml:6:19: push.harmony[0].service_account: hms.secret is not the JSON of a service account: expected \
             ident at line 1 column 2",
        ),
    ] {
        assert_eq!(folder.told(section), expected);
    }
    let config = folder.load(&format!("{BASE}[[push.harmony]]\nservice_account = \"good.json\"\n")).unwrap();
    assert_eq!((&*config.push.harmony[0].project_id, config.notes()), ("p", vec![]));
}

#[test]
fn fcm_accounts_are_told_apart() {
    let good = service_account(include_str!("../src/demo/throwaway_rsa.pem"));
    let folder = Folder::new().with("fcm.json", &good).with("other.json", &good.replace("acme", "other"));
    let account = "[[push.fcm]]\nproject_number = \"4711\"\n";
    let config = folder
        .load(&format!("{BASE}{account}[[push.fcm]]\nservice_account = \"other.json\"\ndirect_boot_ok = true\n"))
        .unwrap();
    assert_eq!(config.push.fcm.iter().map(|fcm| fcm.direct_boot_ok).collect::<Vec<_>>(), [false, true]);
    assert_eq!(config.push.fcm.iter().map(|fcm| fcm.project_id.as_str()).collect::<Vec<_>>(), ["acme", "other"]);
    assert_eq!(config.notes(), [""; 0]);
    assert_eq!(
        folder.told(&format!("{account}{account}service_account = \"other.json\"\n")),
        "config.toml:8:18: push.fcm[1].project_number: an account above has the same number; leave one out"
    );
    assert_eq!(
        folder.told("[[push.fcm]]\n[[push.fcm]]\n"),
        "config.toml:6:1: push.fcm[1].service_account: project acme has an account already; leave one out"
    );
}

#[test]
fn admin_listeners_that_others_reach_need_a_token() {
    let folder = Folder::new().with("short", "secret\n").with("token", "0123456789abcdef\n");
    assert_eq!(
        folder.told("[admin]\nlisten = \"0.0.0.0:8080\"\n"),
        "config.toml:5:1: admin.token_file: needed, because admin.listen is 0.0.0.0:8080, which others can reach: a \
         file with a secret of at least 16 characters"
    );
    assert_eq!(
        folder.told("[admin]\ntoken_file = \"short\"\n"),
        "config.toml:6:14: admin.token_file: short has no token: one line of at least 16 characters without spaces is \
         expected"
    );
    let config = folder.load(&format!("{BASE}[admin]\nlisten = \"0.0.0.0:8080\"\ntoken_file = \"token\"\n")).unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().reveal(), "0123456789abcdef");
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

#[test]
fn a_client_reads_only_the_admin_section() {
    let folder = Folder::new();
    let file = folder.0.path().join("config.toml");
    std::fs::write(&file, "[hold]\nwait_s = 300\n[admin]\nlisten = \"127.0.0.1:9\"\n").unwrap();
    assert_eq!(Admin::load(&file).unwrap().listen.port(), 9);
}

#[test]
fn users_file_is_needed_for_digest() {
    let local = "[register]\nmode = \"local\"\n";
    assert_eq!(
        Folder::new().told(local),
        "config.toml:5:1: register.users: users.toml is not there; write it with [users] and lines such as \
         \"alice@example.org\" = \"password\" (or set register.auth = \"none\")"
    );
    assert_eq!(
        Folder::new().with("users.toml", "[users]\nalice = \"x\"\n").told(local),
        "users.toml:2:1: users.\"alice\": is not user@domain, such as \"alice@example.org\""
    );
    let folder = Folder::new().with("users.toml", "[users]\n\"alice@Example.org\" = \"secret\"\n");
    let config = folder.load(&format!("{BASE}{local}")).unwrap();
    let Mode::Local(Auth::Digest(users)) = config.register.mode else { panic!("digest is the default") };
    assert!(users.find("alice", "example.ORG").is_some());
}

fn users(text: &str) -> Result<Users, String> {
    Users::parse(text, Path::new("users.toml")).map_err(|problems| problems.to_string())
}

/// HA1 of the user and password of the example in RFC 7616 §3.9.1, by md5sum and sha256sum.
const MD5: &str = "c461bb829191a439a1a0a3b758ef88d2";
const SHA256: &str = "24e863a11f480cbfe66cd9d46688068565950d62abf3809212715927b8eec102";

#[test]
fn passwords_and_hashes_are_the_same() {
    let plain = users("[users]\n\"Mufasa@http-auth.example.org\" = \"Circle of Life\"\n").unwrap();
    let hashed = format!("[users]\n\"Mufasa@http-auth.example.org\" = {{ md5 = \"{MD5}\", sha256 = \"{SHA256}\" }}\n");
    assert_eq!(plain, users(&hashed).unwrap());
    let table =
        "[users]\n\"alice@http-auth.example.org\" = { password = \"Circle of Life\", auth_username = \"Mufasa\" }\n";
    let named = users(table).unwrap();
    let (alice, mufasa) =
        (named.find("alice", "http-auth.example.org").unwrap(), plain.find("Mufasa", "http-auth.example.org").unwrap());
    assert_eq!((alice.md5, alice.sha256), (mufasa.md5, mufasa.sha256), "computed with the name that proves");
    assert_eq!(plain.len(), 1);
    let shown = format!("{plain:?}");
    assert!(!shown.contains("Circle") && !shown.contains("c461"), "{shown}");
}

#[test]
fn what_is_wrong_with_users() {
    let wrong = |entry: &str, expected: &str| {
        let told = users(&format!("[users]\n{entry}\n")).expect_err("these users are wrong");
        assert_eq!(told, format!("users.toml:2:1: users.{expected}"));
    };
    wrong("\"a@b.org\" = \"\"", "\"a@b.org\": the password is empty");
    wrong("\"a@b.org\" = 3", "\"a@b.org\": a password in quotes or { md5 = \"<HA1>\" } is expected");
    wrong("\"a@b.org\" = {}", "\"a@b.org\": neither md5 nor sha256 is given");
    wrong("\"a@b.org\" = { md5 = \"12\" }", "\"a@b.org\": md5 is not 32 hexadecimal digits");
    wrong("\"a@b.org\" = { sha256 = \"12\" }", "\"a@b.org\": sha256 is not 64 hexadecimal digits");
    wrong(
        "\"a@b.org\" = { sha1 = \"12\" }",
        "\"a@b.org\": `sha1` is not known; use password, md5, sha256 and auth_username",
    );
    wrong("\"a@b.org\" = { password = \"\" }", "\"a@b.org\": the password is empty");
    wrong("\"a@b.org\" = { auth_username = \"a\" }", "\"a@b.org\": neither md5 nor sha256 is given");
    wrong("\"a@b.org\" = { password = \"x\", auth_username = \"a:b\" }", "\"a@b.org\": auth_username is no user name");
    let both = format!("\"a@b.org\" = {{ password = \"x\", md5 = \"{MD5}\" }}");
    wrong(&both, "\"a@b.org\": a password and its hashes; use either");
    assert_eq!(
        users("[users]\n\"a@b.org\" = \"x\"\n\"a@B.org\" = \"y\"\n"),
        Err("users.toml:3:1: users.\"a@B.org\": stands here twice; domains are the same in capitals".to_owned())
    );
    assert_eq!(
        users("[user]\n"),
        Err("users.toml:1:1: users: no user is here; write [users] and lines such as \"alice@example.org\" = \
             \"password\"\nusers.toml:1:2: user: not a known key; did you mean `users`?"
            .to_owned())
    );
}

/// The example with the lines that are commented out taken in.
fn example_with_everything() -> String {
    let example = include_str!("../config.toml.example");
    let is_setting = |rest: &str| {
        let word = rest.split(' ').next().unwrap_or_default();
        rest.starts_with("[[")
            || (rest[word.len()..].starts_with(" = ") && word.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()))
    };
    let lines = example.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// All values of a document by their full names, lists of tables without index.
fn values(prefix: &str, table: &toml::Table, found: &mut Vec<(String, toml::Value)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let tables = value.as_array().filter(|items| items.iter().any(toml::Value::is_table));
        if let Some(inner) = value.as_table() {
            values(&name, inner, found);
        } else if let Some(tables) = tables {
            tables.iter().filter_map(toml::Value::as_table).for_each(|inner| values(&name, inner, found));
        } else {
            found.push((name, value.clone()));
        }
    }
}

#[test]
fn example_loads() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml.example");
    Config::load(&example).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn example_has_every_key_at_its_default() {
    let mut found = Vec::new();
    values("", &example_with_everything().parse().unwrap(), &mut found);
    let keys = keys();
    let known: BTreeSet<_> = keys.iter().map(|key| key.name.as_str()).collect();
    let shown: BTreeSet<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(known.difference(&shown).collect::<Vec<_>>(), [&""; 0], "missing in the example");
    assert_eq!(shown.difference(&known).collect::<Vec<_>>(), [&""; 0], "not known");
    for (name, value) in &found {
        let key = keys.iter().find(|key| key.name == *name).unwrap();
        assert!(key.default.as_ref().is_none_or(|default| default == value), "{name}: {value} is not the default");
    }
}

#[test]
fn environment_goes_before_the_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, format!("{BASE}[hold]\nwait_s = 5\n[store]\nurl = \"file:\"\n")).unwrap();
    let load = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load_with(Some(&file), variables)
    };
    let config = load(&[
        ("SIP_PUSH_PROXY__HOLD__WAIT_S", "7"),
        ("SIP_PUSH_PROXY__REGISTER__DOMAINS", "[\"example.org\"]"),
        ("SIP_PUSH_PROXY__STORE__URL", "redis://:secret@192.0.2.1"),
        ("SIP_PUSH_PROXY_SERVICE_HOST", "of Kubernetes, which means the service of this name"),
    ]);
    let config = config.unwrap();
    assert_eq!((config.hold.wait, config.register.domains.len()), (Duration::from_secs(7), 1));
    let changes = load(&[]).unwrap().values.differences(&config.values);
    let changes: Vec<_> = changes.into_iter().map(|change| (change.key, change.from, change.to)).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        changes,
        [
            ("hold.wait_s".to_owned(), text("5"), text("7")),
            ("register.domains".to_owned(), text("[]"), text("[\"example.org\"]")),
            ("store.url".to_owned(), text("\"file:\""), text("\"redis://…@192.0.2.1\"")),
        ]
    );
    for (name, value, expected) in [
        (
            "SIP_PUSH_PROXY__HOLD__WAIT_S",
            "500",
            "SIP_PUSH_PROXY__HOLD__WAIT_S: hold.wait_s: 500 is over the limit of 170 s (RFC 3261 Timer C); use 1 to 170",
        ),
        (
            "SIP_PUSH_PROXY__SOFTSWITCH__TRUSTED",
            "[\"192.0.2.0/24\", \"all\"]",
            "SIP_PUSH_PROXY__SOFTSWITCH__TRUSTED: softswitch.trusted: \"all\" is not a network; write 192.0.2.0/24, 2001:db8::/32 or a single address",
        ),
        (
            "SIP_PUSH_PROXY__HOLD__WAIT",
            "5",
            "SIP_PUSH_PROXY__HOLD__WAIT: stands for no key; did you mean SIP_PUSH_PROXY__HOLD__WAIT_S?",
        ),
    ] {
        assert_eq!(load(&[(name, value)]).unwrap_err().to_string(), expected);
    }
}

#[test]
fn another_content_of_any_file_that_is_named_is_another_configuration() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["app".to_owned()]).unwrap();
    let files = [
        ("push.fcm[0].service_account", service_account(include_str!("../src/demo/throwaway_rsa.pem"))),
        ("push.fcm[0].ca_file", cert.pem()),
        ("push.apns[0].key_file", p8()),
        ("push.apns[0].ca_file", cert.pem()),
        ("push.apns[1].certificate_file", format!("{}{}", cert.pem(), signing_key.serialize_pem())),
        ("push.webpush.vapid_key_file", include_str!("../src/demo/throwaway_vapid.pem").to_owned()),
        ("push.webpush.ca_file", cert.pem()),
        ("push.callback.secret_file", "secret".to_owned()),
        ("push.callback.ca_file", cert.pem()),
        ("push.rustore[0].token_file", "secret".to_owned()),
        ("push.rustore[0].ca_file", cert.pem()),
        ("push.hms[0].client_secret_file", "secret".to_owned()),
        ("push.hms[0].ca_file", cert.pem()),
        ("push.harmony[0].service_account", harmony_account(include_str!("../src/demo/throwaway_rsa.pem"))),
        ("push.harmony[0].ca_file", cert.pem()),
        ("admin.token_file", "0123456789abcdef".to_owned()),
        ("notification.token_file", "0123456789abcdef".to_owned()),
        ("notification.secret_file", "01234567".to_owned()),
        ("events.token_file", "0123456789abcdef".to_owned()),
        ("hep.capture_password_file", "secret".to_owned()),
        ("register.users", "[users]\n\"alice@example.org\" = \"secret\"\n".to_owned()),
    ];
    let named = |key: &str| format!("{} = {key:?}\n", key.rsplit('.').next().unwrap());
    let text = format!(
        "[sip]\nadvertise = \"192.0.2.10\"\n[register]\nmode = \"local\"\n{}[hep]\n{}[admin]\n{}[notification]\n{}{}\
         [events]\n{}[[push.fcm]]\n{}{}[[push.apns]]\nkey_id = \"ABC123DEFG\"\nteam_id = \"DEF123GHIJ\"\n{}{}[[push.apns]]\n\
         topic = \"org.example.app\"\n{}[push.webpush]\nenabled = true\n{}{}[push.callback]\nurl = \"https://example.org\"\n{}{}\
         [[push.rustore]]\nproject_id = \"p\"\n{}{}\
         [[push.hms]]\nproject_id = \"p\"\nclient_id = \"c\"\n{}{}[[push.harmony]]\n{}{}",
        named("register.users"),
        named("hep.capture_password_file"),
        named("admin.token_file"),
        named("notification.token_file"),
        named("notification.secret_file"),
        named("events.token_file"),
        named("push.fcm[0].service_account"),
        named("push.fcm[0].ca_file"),
        named("push.apns[0].key_file"),
        named("push.apns[0].ca_file"),
        named("push.apns[1].certificate_file"),
        named("push.webpush.vapid_key_file"),
        named("push.webpush.ca_file"),
        named("push.callback.secret_file"),
        named("push.callback.ca_file"),
        named("push.rustore[0].token_file"),
        named("push.rustore[0].ca_file"),
        named("push.hms[0].client_secret_file"),
        named("push.hms[0].ca_file"),
        named("push.harmony[0].service_account"),
        named("push.harmony[0].ca_file"),
    );
    let mut folder = Folder::new();
    for (key, content) in &files {
        folder = folder.with(key, content);
    }
    let before = folder.load(&text).unwrap();
    assert_eq!(before, folder.load(&text).unwrap());
    for (key, content) in &files {
        folder = folder.with(key, &format!("{content}\n"));
        let after = folder.load(&text).unwrap();
        let told = before.values.differences(&after.values);
        let [only] = told.as_slice() else { panic!("{key}: {told:?}") };
        assert_eq!((&*only.key, only.to.clone()), (*key, Some(format!("{key:?} (new content)"))));
        assert_eq!(after.push == before.push, !key.starts_with("push."), "{key}");
        folder = folder.with(key, content);
    }
}
