//! Live events for the npm package centrifuge, as it is, in a page of another host.

use std::path::Path;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;
use serde_json::json;
use sip_push_proxy::sip::Transport::Udp;
use tokio::net::TcpListener;

use crate::browser::Browser;
use crate::cable::Cable;
use crate::peer::RUNTIME;
use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

const TOKEN: &str = "a-token-of-the-panel";
/// What the panel has seen, in order; what may come at any time is left out.
const SEEN: &str = "return window.seen.filter((it) => it !== 'pushAccepted')";
const CONNECT: &str = r"
    const [url, token] = arguments;
    window.seen = [];
    const client = new Centrifuge(url, {
        data: { application: 'notifications', settings: { token } },
        minReconnectDelay: 20,
        maxReconnectDelay: 100,
    });
    client.on('publication', ({ data }) => window.seen.push(data.event));
    client.on('subscribed', ({ recovered }) => window.seen.push(recovered ? 'resumed' : 'subscribed'));
    client.on('connecting', () => window.seen.push('connecting'));
    client.on('disconnected', ({ code }) => window.seen.push(code));
    client.connect();
";

/// The operator's panel: a page with the package's script. Its origin.
fn panel() -> String {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/centrifuge/node_modules/centrifuge/dist/centrifuge.js");
    let script = std::fs::read_to_string(script).expect("the package centrifuge, which tests/run installs");
    let page = || async { Html("<!doctype html><title>Panel</title><script src=\"/centrifuge.js\"></script>") };
    let script = || async { ([(CONTENT_TYPE, "text/javascript")], script) };
    let router = Router::new().route("/", get(page)).route("/centrifuge.js", get(script));
    let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("its address");
    RUNTIME.spawn(async { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn start(origins: &str) -> World {
    let config = format!("admin.token_file = 'token.txt'\nevents.origins = [{origins}]\n");
    World::with_files(Mode::Open, Udp, &config, &[("token.txt", TOKEN)])
}

#[test]
fn a_page_gets_a_call_and_resumes_after_a_break_without_a_gap() {
    let panel = panel();
    let mut world = start(&format!("'{panel}'"));
    let cable = Cable::to(world.admin.0);
    let browser = Browser::start();
    browser.open(&panel);
    let url = format!("ws://{}/connection/websocket", cable.address);
    browser.run(CONNECT, &[url.into(), TOKEN.into()]);
    let mut seen = vec!["connecting", "subscribed"];
    browser.expect(SEEN, &[], json!(seen));

    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    seen.extend(["clientOnline", "callReceived", "deviceFound", "callHeld", "pushSent"]);
    browser.expect(SEEN, &[], json!(seen));

    cable.pull();
    seen.push("connecting");
    browser.expect(SEEN, &[], json!(seen));
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
    cable.put_into(world.admin.0);
    seen.extend(["resumed", "clientOnline", "clientReturned", "callForwarded", "callAnswered"]);
    browser.expect(SEEN, &[], json!(seen));
}

#[test]
fn a_page_stays_away_with_a_wrong_token_and_one_that_is_not_named_gets_nowhere() {
    let panel = panel();
    let browser = Browser::start();
    browser.open(&panel);
    let world = start(&format!("'{panel}'"));
    let url = |world: &World| format!("ws://{}/connection/websocket", world.admin.0);
    browser.run(CONNECT, &[url(&world).into(), "another-token-of-a-panel".into()]);
    browser.expect(SEEN, &[], json!(["connecting", 3500]));
    let is_refused = "const socket = new WebSocket(arguments[0]); \
                      return new Promise((end) => { socket.onopen = () => end('open'); socket.onclose = ({ code }) => end(code) })";
    let other = start("'https://panel.example.org'");
    assert_eq!(browser.run(is_refused, &[url(&other).into()]), 1006);
}
