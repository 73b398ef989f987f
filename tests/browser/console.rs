//! The operator's console: what it shows while calls happen, to whom, and how it can be used.
//!
//! `SCREENSHOTS=FOLDER` keeps pictures of it.

use serde_json::Value;
use sip_push_proxy::demo::fcm_double;
use sip_push_proxy::sip::Transport::Udp;
use tempfile::TempDir;

use crate::browser::Browser;
use crate::phone::{Phone, Push};
use crate::switch::Call;
use crate::world::{Mode, World};

const TEXT: &str = "return document.querySelector(arguments[0])?.textContent ?? null";
const SHOWN: &str = "return document.querySelector(arguments[0])?.checkVisibility() ?? false";
const FOCUS: &str =
    "return document.activeElement.id || document.activeElement.className || document.activeElement.tagName";
/// Texts with less contrast to what is behind them than WCAG 2.2 §1.4.3 asks for.
const TOO_FAINT: &str = "
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const light = (color) => {
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
        const linear = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (color !== 'rgba(0, 0, 0, 0)') return color;
        }
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const texts = [...document.body.querySelectorAll('*')].filter((each) => hasText(each) && each.checkVisibility());
    if (texts.length < 30) return ['too few texts'];
    return texts.filter((each) => {
        const [one, other] = [light(getComputedStyle(each).color), light(behind(each))];
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5;
    }).map((each) => each.textContent);";

/// A console in a browser, of a world with a phone that sleeps.
struct Console {
    world: World,
    browser: Browser,
    phone: Phone,
}

impl Console {
    fn open(config: &str) -> Self {
        let mut world = World::with_program(Mode::Open, Udp, config);
        let mut phone = Phone::new("alice", Push::Fcm, Udp);
        phone.register(&mut world);
        phone.sleep();
        let browser = Browser::start();
        browser.open(&format!("http://{}/", world.admin.0));
        Self { world, browser, phone }
    }

    /// A call from 103 that is held, and whose push has been taken.
    #[track_caller]
    fn call(&self, headers: &str) -> Call {
        let call = self.world.switch.call(&self.phone.aor(), headers);
        self.world.switch.queued();
        self.world.pushed(&self.phone);
        call
    }

    /// The phone comes back and takes the call.
    #[track_caller]
    fn answer(&mut self, call: &Call) {
        self.phone.register(&mut self.world);
        let incoming = self.phone.invited();
        incoming.answer(200, "OK");
        let ok = self.world.switch.final_response();
        assert_eq!(ok.status(), 200);
        call.confirm(&ok);
        incoming.confirmed();
        self.phone.sleep();
    }

    #[track_caller]
    fn give_up(&self, call: &Call) {
        call.cancel("");
        self.world.switch.response(200, "CANCEL");
        call.ack(&self.world.switch.response(487, "INVITE"));
    }

    #[track_caller]
    fn expect_text(&self, selector: &str, expected: &str) {
        self.browser.expect(TEXT, &[selector.into()], expected);
    }

    #[track_caller]
    fn expect_shown(&self, selector: &str, is_shown: bool) {
        self.browser.expect(SHOWN, &[selector.into()], is_shown);
    }

    /// The words of the ladder's rungs.
    #[track_caller]
    fn ladder(&self) -> Vec<String> {
        let words = "return [...document.querySelectorAll('.rung .words')].map((words) => words.textContent)";
        serde_json::from_value(self.browser.run(words, &[])).expect("texts")
    }

    fn picture(&self, name: &str) {
        if let Some(folder) = std::env::var_os("SCREENSHOTS") {
            std::fs::write(std::path::Path::new(&folder).join(name), self.browser.screenshot()).expect("a picture");
        }
    }
}

#[test]
fn call_is_seen_from_held_to_answered() {
    let mut console = Console::open("push.timeout_ms = 1000\n");
    let Console { world, browser, phone } = &mut console;
    browser.expect(TEXT, &["#stream".into()], "live");
    browser.expect(SHOWN, &["#held-none".into()], true);
    browser.run("window.isSamePage = true", &[]);

    // The push is under way for a while.
    world.fcm.script(&phone.token, [fcm_double::Answer::Hang]);
    let call = world.call(phone);
    world.switch.queued();
    for table in ["#held", "#calls"] {
        browser.expect(TEXT, &[format!("{table} tr .badge").into()], "held");
        browser.expect(TEXT, &[format!("{table} tr td:nth-child(2)").into()], phone.aor());
    }
    browser.expect(TEXT, &["#held tr td:nth-child(3)".into()], "Ivan · 103");
    let left = browser.run(TEXT, &["#held tr td".into()]);
    let left = left.as_str().and_then(|left| left.strip_suffix(" s")).expect("seconds");
    assert!((1..=28).contains(&left.parse().expect("a number")), "{left}");

    // It is tried again, and taken.
    world.pushed(phone);
    browser.expect(TEXT, &["#held tr .badge".into()], "pushed");
    phone.register(world);
    browser.expect(TEXT, &["#calls tr .badge".into()], "woken");
    let incoming = phone.invited();
    incoming.answer(180, "Ringing");
    browser.expect(TEXT, &["#calls tr .badge".into()], "ringing");
    browser.expect(TEXT, &["#held tr td".into()], "–");
    incoming.answer(200, "OK");
    call.confirm(&world.switch.final_response());
    incoming.confirmed();
    browser.expect(TEXT, &["#calls tr .badge".into()], "answered");
    browser.expect(SHOWN, &["#held-none".into()], true);
    let funnel = "return [...document.querySelectorAll('#funnel strong')].map((number) => number.textContent)";
    browser.expect(funnel, &[], vec!["1"; 4]);
    browser.expect(TEXT, &["#providers th".into()], "fcm");
    browser.expect(TEXT, &["#providers td:nth-child(5)".into()], "1");
    browser.expect("return window.isSamePage", &[], true);
}

#[test]
fn ladder_tells_the_steps_of_a_call() {
    let mut console = Console::open("");
    let call = console.call("");
    console.browser.expect(TEXT, &["#calls tr .badge".into()], "pushed");
    console.browser.run("document.querySelector('#calls a').click()", &[]);
    console.expect_text("#call-ref", &call.call_id);
    console.answer(&call);
    // The ladder grows while it is looked at.
    console.expect_text("#call-said .badge", "answered");
    let told = console.ladder();
    let expected = [
        "softswitch to proxy: INVITE: 103 to alice@example.org",
        "proxy: A device to be woken by fcm, registered ",
        "proxy: Held",
        "proxy to provider: Push by fcm",
        "provider to proxy: Accepted after ",
        "phone to proxy: REGISTER, the phone is awake: udp:127.0.0.2:",
        "proxy to phone: INVITE: udp:127.0.0.2:",
        "proxy to softswitch: Answered after ",
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    assert!(told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{told:?}");
    let drawn = "return document.querySelectorAll('.rung svg .arrow[marker-end], .rung svg .mark').length";
    console.browser.expect(drawn, &[], expected.len());
}

#[test]
fn push_service_that_fails_is_seen() {
    let console = Console::open("");
    console.expect_text("#readiness", "ready");
    console.expect_shown("#reasons", false);
    let body = r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#.to_owned();
    console
        .world
        .fcm
        .script(&console.phone.token, [fcm_double::Answer::Raw { status: 403, headers: Vec::new(), body }]);
    let call = console.world.call(&console.phone);
    console.world.switch.queued();
    call.ack(&console.world.switch.final_response());
    console.expect_text("#calls tr .badge", "could not be woken");
    console.expect_text("#readiness", "degraded");
    let trouble = "fcm project demo-project: credentials or rights are refused: 403 PERMISSION_DENIED";
    console.expect_text("#reasons li", &format!("push: {trouble}"));
    console.expect_text("#providers tr:first-child .badge", "fails");
    console.expect_text("#providers .note .bad", trouble);
    console.expect_text("#store .badge", "writes");
    console.browser.run("document.querySelector('#calls a').click()", &[]);
    console.expect_shown(".rung", true);
    console.picture("trouble.png");
}

#[test]
fn what_a_caller_says_stays_text() {
    let console = Console::open("");
    let name = "<img src=x onerror=window.isHacked=1>";
    let call = console.call(&format!("P-Asserted-Identity: \"{name}\" <sip:103@example.org>\r\n"));
    let shown = format!("{name} · 103");
    console.expect_text("#held tr td:nth-child(3)", &shown);
    console.browser.run("location.hash = 'user/alice%40example.org'", &[]);
    console.expect_text("#bucket a", &shown);
    console.give_up(&call);
    let traces = "return [document.images.length, window.isHacked ?? null]";
    console.browser.expect(traces, &[], vec![Value::from(0), Value::Null]);
}

#[test]
fn token_is_asked_for_and_a_wrong_one_is_said() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").expect("written");
    let console = Console::open(&format!("admin.token_file = '{}'\n", file.display()));
    console.expect_shown("#ask", true);
    console.expect_shown("main", false);
    console.browser.expect(FOCUS, &[], "token");
    console.picture("token.png");
    for wrong in ["0123456789abcdeF\n", "ключ\n"] {
        console.browser.press(wrong);
        console.expect_text("#ask-said", "The server does not take this token.");
        console.expect_shown("main", false);
        console.browser.run("document.querySelector('#ask-said').textContent = ''", &[]);
    }
    console.browser.press("0123456789abcdef\n");
    console.expect_shown("main", true);
    console.expect_shown("#ask", false);
    // The events, too, need it.
    console.expect_text("#stream", "live");
    console.expect_text("#store dd", "writes");
    console.browser.run("location.reload()", &[]);
    console.expect_shown("main", true);
    console.browser.run("document.querySelector('#forget').click()", &[]);
    console.expect_shown("#ask", true);
}

#[test]
fn page_comes_back_by_itself_when_the_server_does() {
    let mut console = Console::open("");
    console.expect_text("#stream", "live");
    console.browser.run("window.isSamePage = true", &[]);
    let world = &mut console.world;
    let address = world.admin.0;
    world.program().kill();
    console.browser.expect(TEXT, &["#stream".into()], "not live: the event stream was lost, reconnecting");
    world.rewrite_config("listen = \"127.0.0.1:0\"", &format!("listen = \"{address}\""));
    world.start_program();
    console.expect_text("#stream", "live");
    console.call("");
    console.expect_text("#held tr .badge", "pushed");
    console.browser.expect("return window.isSamePage", &[], true);
}

#[test]
fn all_is_reached_by_the_keyboard() {
    let mut console = Console::open("");
    let call = console.call("");
    console.answer(&call);
    console.expect_text("#calls tr .badge", "answered");
    let browser = &console.browser;
    let tab = "\u{e004}";
    browser.press(tab);
    browser.expect(FOCUS, &[], "skip");
    console.expect_shown(".skip", true);
    browser.press("\n");
    browser.expect(FOCUS, &[], "find-text");
    browser.press("lic\n");
    browser.expect(FOCUS, &[], "user-title");
    console.expect_text("#devices .badge", "awake");
    browser.press(tab);
    browser.expect("return document.activeElement.closest('ul').id", &[], "user-calls");
    browser.expect("return getComputedStyle(document.activeElement).outlineStyle", &[], "solid");
    browser.press("\n");
    browser.expect(FOCUS, &[], "call-title");
    console.expect_text("#call-ref", &call.call_id);
    assert_eq!(console.ladder().len(), 8);
    // And without the search, from the top.
    browser.run("history.replaceState(null, '', '/'); location.reload()", &[]);
    console.expect_text("#calls tr .badge", "answered");
    browser.press(tab);
    browser.press(tab);
    browser.expect("return document.activeElement.closest('tbody').id", &[], "calls");
    browser.press("\n");
    browser.expect(FOCUS, &[], "call-title");
}

#[test]
fn page_is_good_to_read_on_each_screen() {
    let mut console = Console::open("push.timeout_ms = 1000\n");
    let answered = console.call("");
    console.answer(&answered);
    let long = "P-Asserted-Identity: \"Wolfeschlegelsteinhausenbergerdorffvoralternwarengewissenhaft\" <sip:+74951234567@example.org>\r\n";
    let given_up = console.call(long);
    console.give_up(&given_up);
    console.world.fcm.script(&console.phone.token, [fcm_double::Answer::Unavailable { retry_after_s: None }]);
    let held = console.call(long);
    console.browser.run("location.hash = 'user/alice%40example.org'", &[]);
    console.expect_text("#user-title", &console.phone.aor());
    for (number, call) in [&given_up, &held, &answered].into_iter().enumerate() {
        console.browser.run("location.hash = `call/${encodeURIComponent(arguments[0])}`", &[(&*call.call_id).into()]);
        console.expect_text("#call-ref", &call.call_id);
        console.expect_shown(".rung", true);
        let height = "return document.documentElement.scrollHeight";
        for (width, scheme) in [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")] {
            console.browser.prefer(scheme);
            console.browser.resize(width, 900);
            console.browser.expect("return innerWidth", &[], width);
            console.browser.expect("return document.documentElement.scrollWidth <= innerWidth", &[], true);
            console.browser.expect(TOO_FAINT, &[], Value::Array(vec![]));
            let is_dark = "return matchMedia('(prefers-color-scheme: dark)').matches === \
                           (getComputedStyle(document.body).backgroundColor === 'rgb(16, 20, 24)')";
            console.browser.expect(is_dark, &[], true);
            let height = console.browser.run(height, &[]).as_u64().and_then(|height| u32::try_from(height).ok());
            console.browser.resize(width, height.expect("a height"));
            console.picture(&format!("{number}-{width}-{scheme}.png"));
        }
    }
}
