//! Browsers that subscribe at the page: who may, what they are told, and the texts that they fetch.

use std::net::TcpStream;
use std::sync::Arc;

use serde_json::{Value, json};
use sip_push_proxy::demo::webpush_double::{Answer, PUBLIC_KEY, WebPushDouble};
use sip_push_proxy::sip::Transport::Udp;
use tempfile::TempDir;

use crate::front::with_tls;
use crate::gateways::{next, webpush};
use crate::held_call::{answered, give_up};
use crate::page::{Page, ticket, wish};
use crate::peer::{RUNTIME, eventually, eventually_is};
use crate::phone::{Phone, Push};
use crate::tokens::unregister;
use crate::world::{Mode, Store, World};

const ALICE: &str = "alice@example.org";
const LISTEN: &str = "push.webpush.listen = '127.0.0.1:0'\n";

/// A server with a page, and the push service of the browsers. The folder holds its key.
fn world(mode: Mode, config: &str) -> (World, Page, WebPushDouble, TempDir) {
    let (double, folder, webpush) = webpush();
    let world = World::with(mode, Udp, &[&webpush, LISTEN, config].concat());
    let page = world.page();
    (world, page, double, folder)
}

/// A browser of alice's; its contact id.
#[track_caller]
fn subscribed(world: &World, double: &WebPushDouble, token: &str) -> String {
    let (endpoint, keys) = double.subscribe(token).expect("a browser");
    world.page().subscribe(&ticket(world.admin, ALICE), &endpoint, &keys)
}

/// Sends a text to alice's only device. What came of it.
#[track_caller]
fn send(world: &World, text: &str) -> String {
    let body = json!({ "recipient_id": ALICE, "title": "Shop", "message": text });
    let answer = world.admin.post("/notification/post", &body);
    answer["devices"][0]["result"].as_str().expect("a result").to_owned()
}

#[test]
fn visitors_that_say_nothing_keep_nobody_out() {
    let (_world, page, _double, _folder) = world(Mode::Alias, "");
    let _silent: Vec<_> = (0..300).map(|_| TcpStream::connect(page.0).expect("the page")).collect();
    assert_eq!(page.get("/").status, 200);
}

fn a_browser_is_told_who_calls(mode: Mode) {
    let (mut world, _, double, _folder) = world(mode, "");
    subscribed(&world, &double, "browser-1");
    let mut phone = Phone::new("alice", Push::None, Udp);
    let bindings = world.admin.bindings(ALICE);
    assert_eq!((&bindings[0]["provider"], &bindings[0]["locale"]), (&json!("webpush"), &json!("de-DE")));

    let call = world.call(&phone);
    world.switch.queued();
    let push = next(double.next());
    assert_eq!((push.header("content-encoding"), push.header("urgency")), ("aes128gcm", "high"));
    let told = push.json();
    let shown = ["type", "number", "display_name", "call_ref"].map(|key| told[key].as_str().unwrap_or_default());
    assert_eq!(shown, ["invite", "103", "Ivan", &call.call_id]);
    phone.register(&mut world);
    answered(&world, &phone, &call);

    unregister(&mut phone, &mut world);
    let missed = world.call(&phone);
    world.switch.queued();
    assert_eq!(next(double.next()).json()["type"], "invite");
    give_up(&world, &missed, "");
    world.admin.expect_bucket(ALICE, &[(&missed.call_id, "missed")]);
    phone.register(&mut world);
    let told = next(double.next()).json();
    let calls: Value = serde_json::from_str(told["calls"].as_str().unwrap_or_default()).unwrap_or_default();
    assert_eq!((&told["type"], &calls[0]["call_ref"]), (&json!("missed_calls"), &json!(missed.call_id)));
    world.admin.expect_bucket(ALICE, &[]);
    world.admin.expect_healthy();
    world.stop();
}

#[test]
fn a_browser_is_told_who_calls_behind_a_registrar() {
    a_browser_is_told_who_calls(Mode::Alias);
}

#[test]
fn a_browser_is_told_who_calls_by_our_own_registrar() {
    a_browser_is_told_who_calls(Mode::Open);
}

#[test]
fn a_text_is_fetched_once() {
    let (world, page, double, _folder) = world(Mode::Open, "");
    let contact = subscribed(&world, &double, "browser-1");
    assert_eq!(page.pick_up(&contact), [] as [Value; 0]);
    assert_eq!(send(&world, "Your parcel is here"), "accepted");
    let told = next(double.next()).json();
    let shown = ["type", "title", "body"].map(|key| told[key].as_str().unwrap_or_default());
    assert_eq!(shown, ["text", "Shop", "Your parcel is here"]);

    let path = format!("/messages/{contact}");
    assert_eq!(page.ask("HEAD", &path, "").status, 405);
    assert_eq!(page.ask("POST", &path, "").status, 405);
    let fetched = page.pick_up(&contact);
    let same = json!({ "id": told["id"], "title": "Shop", "body": "Your parcel is here", "date": told["date"] });
    assert_eq!(fetched, [same]);
    assert_eq!(page.pick_up(&contact), [] as [Value; 0]);
    world.stop();
}

#[test]
fn of_many_who_fetch_at_once_one_gets_it() {
    let (world, page, double, _folder) = world(Mode::Open, "push.webpush.requests_per_s = 1000\n");
    let contact: Arc<str> = subscribed(&world, &double, "browser-1").into();
    for number in 0..5 {
        send(&world, &format!("text {number}"));
        let fetch = |_| {
            let contact = Arc::clone(&contact);
            std::thread::spawn(move || page.pick_up(&contact))
        };
        let threads: Vec<_> = (0..8).map(fetch).collect();
        let got: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("a browser")).collect();
        assert_eq!((got.len(), &got[0]["body"]), (1, &json!(format!("text {number}"))));
    }
    world.stop();
}

#[test]
fn without_an_accepted_push_nothing_waits() {
    let (world, page, double, _folder) = world(Mode::Open, "");
    let contact = subscribed(&world, &double, "browser-1");
    let trouble = Answer::Raw { status: 503, headers: Vec::new(), body: String::new() };
    double.script("browser-1", [trouble]);
    assert_eq!(send(&world, "lost"), "refused");
    assert_eq!(page.pick_up(&contact), [] as [Value; 0]);
    world.stop();
}

/// The status, and the reason in words.
fn refused(page: Page, wish: &Value) -> (u16, String) {
    let answer = page.ask("POST", "/subscriptions", &wish.to_string());
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn only_a_good_ticket_lets_a_browser_subscribe() {
    let (world, page, double, _folder) = world(Mode::Open, "push.webpush.ticket_expires_s = 1\n");
    let (endpoint, keys) = double.subscribe("browser-1").expect("a browser");
    let good = ticket(world.admin, ALICE);
    let forged = (403, "the ticket was not made here".to_owned());
    for bad in ["", "ticket", &good[1..], &good[..good.len() - 1], &format!("{good}A")] {
        assert_eq!(refused(page, &wish(bad, &endpoint, &keys)), forged, "{bad}");
    }
    assert!(world.admin.bindings(ALICE).is_empty());
    let expired = (403, "the ticket has expired".to_owned());
    eventually_is("the end of the ticket", || {
        let found = refused(page, &wish(&good, &endpoint, &keys));
        if found == expired { Ok(()) } else { Err(found) }
    });
    for aor in ["", "alice@example.net", "a b@example.org"] {
        let (status, _) = world.admin.send("POST", "/api/v1/webpush/tickets", "", &json!({ "aor": aor }));
        assert_eq!(status, 400, "{aor}");
    }
    world.stop();
}

#[test]
fn what_is_no_subscription_of_an_allowed_service_is_refused() {
    let (world, page, double, _folder) = world(Mode::Open, "notification.tokens_per_aor_max = 2\n");
    let other = RUNTIME.block_on(WebPushDouble::start()).expect("a double");
    let (foreign, keys) = other.subscribe("browser-1").expect("a browser");
    let ticket = ticket(world.admin, ALICE);
    let unusable = "this subscription cannot be used: its push service or its keys are not for use here".to_owned();
    assert_eq!(refused(page, &wish(&ticket, &foreign, &keys)), (403, unusable.clone()));
    assert_eq!(refused(page, &wish(&ticket, "no URI", &keys)), (403, unusable.clone()));
    let (endpoint, mut wrong) = double.subscribe("browser-1").expect("a browser");
    wrong.p256dh[3] ^= 1;
    assert_eq!(refused(page, &wish(&ticket, &endpoint, &wrong)), (403, unusable));
    let mut short = wish(&ticket, &endpoint, &keys);
    short["subscription"]["keys"]["auth"] = "AAAA".into();
    assert_eq!(refused(page, &short).0, 400);
    let mut more = wish(&ticket, &endpoint, &keys);
    more["more"] = 1.into();
    assert_eq!(refused(page, &more).0, 422);
    let long = wish(&ticket, &format!("{endpoint}{}", "x".repeat(10_000)), &keys);
    assert_eq!(page.ask("POST", "/subscriptions", &long.to_string()).status, 413);
    assert_eq!(other.requests() + double.requests(), 0);
    assert!(world.admin.bindings(ALICE).is_empty());

    for token in ["1", "2", "2"] {
        subscribed(&world, &double, token);
    }
    let (endpoint, keys) = double.subscribe("3").expect("a browser");
    assert_eq!(refused(page, &wish(&ticket, &endpoint, &keys)).0, 409);
    world.stop();
}

#[test]
fn a_subscription_ends_and_moves_by_its_contact_id_alone() {
    let (world, page, double, _folder) = world(Mode::Open, "");
    let contact = subscribed(&world, &double, "browser-1");
    let device = world.admin.bindings(ALICE)[0]["id"].as_str().expect("a name").to_owned();
    let other = if contact.starts_with('A') { "B" } else { "A" };
    for unknown in ["x", &device, &contact[1..], &format!("{other}{}", &contact[1..])] {
        assert_eq!(page.get(&format!("/messages/{unknown}")).status, 404, "{unknown}");
        assert_eq!(page.ask("DELETE", &format!("/subscriptions/{unknown}"), "").status, 404, "{unknown}");
    }
    // Another user at the same browser: what waited for the first is not for the second.
    send(&world, "for alice");
    let (endpoint, keys) = double.subscribe("browser-1").expect("a browser");
    let moved = page.subscribe(&ticket(world.admin, "bob@example.org"), &endpoint, &keys);
    assert!(world.admin.bindings(ALICE).is_empty());
    assert_eq!(page.get(&format!("/messages/{contact}")).status, 404);
    assert_eq!(page.pick_up(&moved), [] as [Value; 0]);

    let path = format!("/subscriptions/{moved}");
    assert_eq!(page.ask("DELETE", &path, "").status, 204);
    assert_eq!(page.ask("DELETE", &path, "").status, 404);
    assert!(world.admin.bindings("bob@example.org").is_empty());
    world.stop();
}

#[test]
fn a_subscription_that_the_browser_has_replaced_goes_on() {
    // There is no room for two.
    let (world, page, double, ..) = world(Mode::Open, "notification.tokens_per_aor_max = 1\n");
    let (endpoint, keys) = double.subscribe("first").expect("a browser");
    let contact = page.subscribe(&ticket(world.admin, ALICE), &endpoint, &keys);
    let (endpoint, keys) = double.subscribe("second").expect("a browser");
    let renewal = || json!({ "subscription": wish("", &endpoint, &keys)["subscription"] }).to_string();
    let path = format!("/subscriptions/{contact}");
    let answer = page.ask("PUT", &path, &renewal());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let renewed = answer.json()["contact_id"].as_str().expect("another").to_owned();
    assert_eq!(world.admin.bindings(ALICE).len(), 1, "the first one is over");
    assert_eq!(page.get(&format!("/messages/{contact}")).status, 404);
    assert_eq!(page.pick_up(&renewed), [] as [Value; 0]);

    // Told twice it is one; what is over, or was never there, is not renewed.
    let answer = page.ask("PUT", &format!("/subscriptions/{renewed}"), &renewal());
    assert_eq!(answer.json()["contact_id"].as_str(), Some(&*renewed));
    assert_eq!(page.ask("PUT", &path, &renewal()).status, 404);
    for (body, status) in [("{}", 422), (r#"{"subscription":{"endpoint":"x","keys":{"p256dh":"","auth":""}}}"#, 400)] {
        assert_eq!(page.ask("PUT", &format!("/subscriptions/{renewed}"), body).status, status, "{body}");
    }
    assert_eq!(world.admin.bindings(ALICE).len(), 1);
    world.stop();
}

#[test]
fn the_page_brings_all_of_itself_and_lets_nothing_else_in() {
    let (world, page, ..) = world(Mode::Open, "");
    let html = page.get("/");
    assert!(html.body.contains(&format!("content=\"{PUBLIC_KEY}\"")), "{}", html.body);
    for path in
        ["/", "/page.js", "/words.js", "/contact.js", "/sw.js", "/page.css", "/icon.svg", "/manifest.webmanifest"]
    {
        let answer = page.get(path);
        assert_eq!(answer.status, 200, "{path}");
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(answer.head.contains(header), "{path}: {}", answer.head);
        }
        let text = answer.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("src=\"//"), "{path}");
    }
    let manifest = page.get("/manifest.webmanifest").json();
    assert_eq!(manifest["display"], "standalone", "or an iPhone has no push for it");
    for icon in manifest["icons"].as_array().expect("icons") {
        assert_eq!(page.get(&format!("/{}", icon["src"].as_str().expect("a name"))).status, 200, "{icon}");
    }
    assert_eq!(page.get("/nothing").status, 404);
    assert_eq!(page.get("/api/v1/bindings").status, 404);
    world.stop();
}

#[test]
fn too_many_requests_are_told_to_wait() {
    let (world, page, ..) = world(Mode::Open, "push.webpush.requests_per_s = 1\n");
    let refused = eventually("a refusal", || Some(page.get("/sw.js")).filter(|answer| answer.status == 429));
    assert!(refused.head.contains("retry-after: 2"), "{}", refused.head);
    world.stop();
}

#[test]
fn while_redis_is_away_nothing_is_handed_over_or_lost() {
    let (double, _folder, webpush) = webpush();
    let mut world = World::with_program_on(Store::Redis, Mode::Open, Udp, &[&webpush, LISTEN].concat());
    let (page, contact) = (world.page(), subscribed(&world, &double, "browser-1"));
    assert_eq!(send(&world, "kept"), "accepted");
    world.redis().kill();
    world.admin.expect_ready("degraded");
    let answer = page.get(&format!("/messages/{contact}"));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    world.redis().run();
    world.admin.expect_ready("ready");
    assert_eq!(page.pick_up(&contact)[0]["body"], "kept");
}

#[test]
fn a_text_outlives_the_program() {
    let (double, _folder, webpush) = webpush();
    let mut world = World::with_program(Mode::Open, Udp, &[&webpush, LISTEN].concat());
    let contact = subscribed(&world, &double, "browser-1");
    assert_eq!(send(&world, "kept"), "accepted");
    world.program().kill();
    world.start_program();
    assert_eq!(world.page().pick_up(&contact)[0]["body"], "kept");
    assert_eq!(world.page().pick_up(&contact), [] as [Value; 0]);
}

#[test]
fn a_private_push_service_is_trusted_by_its_own_root() {
    let (double, folder, webpush) = webpush();
    let double = Arc::new(double);
    let port = RUNTIME.block_on(with_tls(Arc::clone(&double), folder.path(), None)).port();
    double.is_reached_at(&format!("https://localhost:{port}"));
    let webpush = webpush.replace(&double.host(), &format!("localhost:{port}"));
    let trusting = format!("push.webpush.ca_file = '{}'\n", folder.path().join("ca.pem").display());
    for (ca_file, result) in [("", "refused"), (&*trusting, "accepted")] {
        let world = World::with(Mode::Open, Udp, &[&webpush, LISTEN, ca_file].concat());
        subscribed(&world, &double, "browser-1");
        assert_eq!(send(&world, "by TLS"), result);
        world.stop();
    }
    assert_eq!(next(double.next()).json()["body"], "by TLS");
}
