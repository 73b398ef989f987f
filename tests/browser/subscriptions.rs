//! The page of Web Push in a real browser. Its push service is a double: what the page would get from the browser's own is
//! put in by the test, and what the double gets is handed to the worker as the browser would.

use std::io;

use serde_json::{Value, json};
use sip_push_proxy::demo::Recorded;
use sip_push_proxy::demo::webpush_double::{PUBLIC_KEY, WebPushDouble};
use sip_push_proxy::sip::Transport::Udp;
use tempfile::TempDir;

use crate::browser::Browser;
use crate::page::{Page, ticket, wish};
use crate::peer::{DEADLINE, RUNTIME};
use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

const ALICE: &str = "alice@example.org";
/// The push service that the browser has here.
const STUB: &str = r"
    const [subscription] = arguments;
    PushManager.prototype.subscribe = async (wish) => {
        window.wish = { visible: wish.userVisibleOnly, key: wish.applicationServerKey };
        return { toJSON: () => subscription, unsubscribe: async () => true };
    };
";
const IS_ON: &str = "return !document.getElementById('off').hidden";
/// Counts the pushes that the worker has done with. Who looks for a notification while it comes up has Chromium forget it.
const COUNT: &str =
    "navigator.serviceWorker.addEventListener('message', () => { window.pushes = (window.pushes ?? 0) + 1 })";
/// What the worker shows.
const SHOWN: &str = r"
    const registration = await navigator.serviceWorker.ready;
    const shown = await registration.getNotifications();
    return shown.map(({ title, body, tag }) => [tag, title, body]).sort();
";

/// A server, a push service and a browser whose user has turned notifications on.
struct Subscribed {
    world: World,
    double: WebPushDouble,
    browser: Browser,
    page: Page,
    _folder: TempDir,
}

fn start(language: &str) -> io::Result<Subscribed> {
    let double = RUNTIME.block_on(WebPushDouble::start())?;
    let folder = TempDir::new()?;
    let key = double.write_credentials(folder.path())?;
    let config = format!(
        "push.webpush.enabled = true\npush.webpush.vapid_key_file = '{}'\npush.webpush.allowed_hosts = ['{}']\n\
         push.webpush.listen = '127.0.0.1:0'\n",
        key.display(),
        double.host()
    );
    let world = World::with(Mode::Open, Udp, &config);
    let page = world.page();
    let browser = Browser::speaking(language);
    Ok(Subscribed { world, double, browser, page, _folder: folder })
}

impl Subscribed {
    fn start(language: &str) -> Self {
        let it = start(language).expect("a push service");
        let origin = it.origin();
        let permissions = json!({ "origin": origin, "permissions": ["notifications"] });
        it.browser.devtools("Browser.grantPermissions", permissions);
        it.browser.open(&format!("{origin}/#ticket={}", ticket(it.world.admin, ALICE)));
        it.browser.expect("return location.hash", &[], "");
        it.browser.expect("return document.getElementById('on').hidden", &[], false);
        let (endpoint, keys) = it.double.subscribe("browser-1").expect("a browser");
        it.browser.run(STUB, &[wish("", &endpoint, &keys)["subscription"].clone()]);
        it.browser.run("document.getElementById('on').click()", &[]);
        it.browser.expect(IS_ON, &[], true);
        it.browser.expect("return window.wish", &[], json!({ "visible": true, "key": PUBLIC_KEY }));
        it.browser.run(COUNT, &[]);
        // A worker that is not awake for the first time yet gets no push.
        it.browser.expect("return (await navigator.serviceWorker.ready).active.state", &[], "activated");
        it.browser.devtools("ServiceWorker.enable", json!({}));
        it
    }

    /// Service workers want a secure place, which this machine is under this name.
    fn origin(&self) -> String {
        format!("http://localhost:{}", self.page.0.port())
    }

    /// Hands the next push to the worker, as the browser would; `None`: one without a body.
    fn deliver(&self, push: Option<&Recorded>) {
        let body = push.map(|push| String::from_utf8_lossy(&push.body).into_owned()).unwrap_or_default();
        let push = json!({ "origin": self.origin(), "registrationId": "0", "data": body });
        let count = "return window.pushes ?? 0";
        let before = self.browser.run(count, &[]).as_u64().unwrap_or_default();
        self.browser.devtools("ServiceWorker.deliverPushMessage", push);
        self.browser.expect(count, &[], before + 1);
    }

    fn pushed(&self) -> Recorded {
        let next = async { tokio::time::timeout(DEADLINE, self.double.next()).await };
        RUNTIME.block_on(next).expect("a push")
    }

    #[track_caller]
    fn shows(&self, expected: &[[&str; 3]]) {
        self.browser.expect(SHOWN, &[], json!(expected));
    }

    fn send(&self, text: &str) {
        let body = json!({ "recipient_id": ALICE, "title": "Shop", "message": text });
        let answer = self.world.admin.post("/notification/post", &body);
        assert_eq!(answer["devices"][0]["result"], "accepted");
    }
}

#[test]
fn the_worker_shows_calls_and_missed_calls() {
    let mut it = Subscribed::start("ru-RU");
    let phone = Phone::new("alice", Push::None, Udp);
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let call = it.world.call(&phone);
            it.world.switch.queued();
            let push = it.pushed();
            it.deliver(Some(&push));
            call
        })
        .collect();
    let tags: Vec<_> = calls.iter().map(|call| format!("call:{}", call.call_id)).collect();
    let mut shown: Vec<_> = tags.iter().map(|tag| [&**tag, "Входящий звонок", "Ivan (103)"]).collect();
    shown.sort_unstable();
    it.shows(&shown);

    for call in &calls {
        call.cancel("");
        it.world.switch.response(200, "CANCEL");
        call.ack(&it.world.switch.response(487, "INVITE"));
    }
    let missed: Vec<_> = calls.iter().map(|call| (&*call.call_id, "missed")).collect();
    it.world.admin.expect_bucket(ALICE, &missed);
    let mut phone = phone;
    phone.register(&mut it.world);
    let push = it.pushed();
    it.deliver(Some(&push));
    it.shows(&[["missed_calls", "2 пропущенных звонка", "Ivan (103)"]]);
}

/// The worker's code in the page, with what it has to do with.
const WORKER: &str = r"
    const [renewed] = arguments;
    window.importScripts = () => {};
    const subscribe = async (wish) => {
        window.renewedFor = wish.applicationServerKey;
        return { toJSON: () => renewed };
    };
    window.registration = { pushManager: { subscribe } };
    const code = document.createElement('script');
    code.src = 'sw.js';
    await new Promise((resolve) => { code.onload = resolve; document.head.append(code); });
";
const ENDED: &str = "await new Promise((resolve, reject) => {
    const event = new Event('pushsubscriptionchange');
    event.waitUntil = (done) => done.then(resolve, reject);
    window.dispatchEvent(event);
})";

#[test]
fn a_subscription_that_the_service_has_ended_is_renewed_and_the_server_is_told() {
    let it = Subscribed::start("en-US");
    let before = it.world.admin.bindings(ALICE);
    let (endpoint, keys) = it.double.subscribe("browser-2").expect("a browser");
    it.browser.run(WORKER, &[wish("", &endpoint, &keys)["subscription"].clone()]);
    it.browser.run(ENDED, &[]);
    it.browser.expect("return window.renewedFor", &[], PUBLIC_KEY);
    let after = it.world.admin.bindings(ALICE);
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before[0]["id"], after[0]["id"]);
    // By the subscription that it has, and the page can still turn it off.
    it.send("After all");
    assert_eq!(it.pushed().token, "browser-2");
    it.browser.open(&it.origin());
    it.browser.expect(IS_ON, &[], true);
    it.browser.run("document.getElementById('off').click()", &[]);
    it.browser.expect(IS_ON, &[], false);
    assert!(it.world.admin.bindings(ALICE).is_empty());
}

#[test]
fn an_iphone_has_the_page_on_its_home_screen() {
    let it = start("en-US").expect("a push service");
    let manifest = "return (await (await fetch(document.querySelector('link[rel=manifest]').href)).json()).display";
    it.browser.open(&it.origin());
    it.browser.expect(manifest, &[], "standalone");
    // As Safari is in a tab there; the address is what the page of the home screen begins with.
    let script =
        "Object.defineProperty(Navigator.prototype, 'standalone', { value: false }); delete window.PushManager";
    it.browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }));
    it.browser.open(&format!("{}/?tab#ticket=abc", it.origin()));
    it.browser.expect("return document.getElementById('state').textContent.includes('home screen')", &[], true);
    it.browser.expect("return location.hash", &[], "#ticket=abc");
}

#[test]
fn who_hides_is_shown_as_nobody() {
    let it = Subscribed::start("en-US");
    let call = it.world.switch.call(ALICE, "Privacy: id\r\n");
    it.world.switch.queued();
    let push = it.pushed();
    assert!(!String::from_utf8_lossy(&push.body).contains("103"));
    it.deliver(Some(&push));
    it.shows(&[[&format!("call:{}", call.call_id), "Incoming call", "Unknown caller"]]);
    // The page says that it is over.
    let ended = "const worker = await navigator.serviceWorker.ready; worker.active.postMessage(arguments[0])";
    it.browser.run(ended, &[json!({ "type": "call_ended", "call_ref": call.call_id })]);
    it.shows(&[]);
}

#[test]
fn the_worker_shows_texts_and_fetches_what_has_no_body() {
    let it = Subscribed::start("en-US");
    it.send("With a body");
    let push = it.pushed();
    let first = format!("text:{}", push.json()["id"].as_str().unwrap_or_default());
    it.deliver(Some(&push));
    it.shows(&[[&first, "Shop", "With a body"]]);

    it.send("Fetched");
    let second = format!("text:{}", it.pushed().json()["id"].as_str().unwrap_or_default());
    it.deliver(None);
    let mut both = [[&*first, "Shop", "With a body"], [&*second, "Shop", "Fetched"]];
    both.sort_unstable();
    it.shows(&both);
    let listed = "return [...document.querySelectorAll('#list li strong')].map((it) => it.textContent)";
    it.browser.expect(listed, &[], json!(["Shop", "Shop"]));

    // Nothing waits any more, and each push is shown all the same.
    it.deliver(None);
    let waiting = ["waiting", "Something is waiting for you.", ""];
    let mut all: Vec<_> = both.into_iter().chain([waiting]).collect();
    all.sort_unstable();
    it.shows(&all);
}

#[test]
fn the_page_is_turned_off_and_needs_a_ticket_then() {
    let it = Subscribed::start("de-DE");
    it.browser.expect("return document.title", &[], "Anrufe");
    it.browser.run("document.getElementById('off').click()", &[]);
    it.browser.expect(IS_ON, &[], false);
    assert!(it.world.admin.bindings(ALICE).is_empty());
    it.browser.open(&it.origin());
    let state = "return document.getElementById('state').textContent";
    it.browser.expect(state, &[], "Öffnen Sie diese Seite über den Link, den Sie bekommen haben.");
    it.browser.open("about:blank");
    it.browser.open(&format!("{}/#ticket=forged", it.origin()));
    it.browser.expect("return document.getElementById('on').hidden", &[], false);
    let (endpoint, keys) = it.double.subscribe("browser-1").expect("a browser");
    it.browser.run(STUB, &[wish("", &endpoint, &keys)["subscription"].clone()]);
    it.browser.run("document.getElementById('on').click()", &[]);
    it.browser.expect(state, &[], "Es hat nicht geklappt. Versuchen Sie es später mit einem neuen Link.");
    assert!(it.world.admin.bindings(ALICE).is_empty());
}

#[test]
fn a_subscription_that_the_server_does_not_know_is_none() {
    let it = Subscribed::start("en-US");
    let device = it.world.admin.bindings(ALICE)[0]["id"].as_str().expect("a name").to_owned();
    assert_eq!(it.world.admin.delete(&format!("/api/v1/bindings/{ALICE}/{device}")), 200);
    it.browser.open(&it.origin());
    let state = "return document.getElementById('state').textContent";
    it.browser.expect(state, &[], "Open this page by the link that you were given.");
}

#[test]
fn the_page_follows_the_scheme_of_the_browser() {
    let it = Subscribed::start("en-US");
    let back = "return getComputedStyle(document.body).backgroundColor";
    for (scheme, color) in [("dark", "rgb(16, 20, 24)"), ("light", "rgb(246, 247, 249)")] {
        let wish = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        it.browser.devtools("Emulation.setEmulatedMedia", wish);
        it.browser.expect(back, &[], color);
    }
    let shown: Value = it.browser.run("return document.getElementById('state').textContent", &[]);
    assert_eq!(shown, "Notifications are on.");
}
