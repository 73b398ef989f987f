//! What the tests of pages rely on: the browser sees the real server, does as it is told, and ends.

use std::path::PathBuf;

use sip_push_proxy::sip::Transport::Udp;

use crate::browser::Browser;
use crate::peer::eventually;
use crate::world::{Mode, World};

#[test]
fn browser_sees_the_server() {
    let world = World::with_program(Mode::Open, Udp, "");
    let browser = Browser::start();
    browser.open(&format!("http://{}/healthz", world.admin.0));
    browser.expect("return document.body.textContent", &[], r#"{"status":"ok"}"#);
    assert_eq!(browser.run("return arguments[0] + arguments[1]", &[1.into(), 2.into()]), 3);
    assert!(browser.screenshot().starts_with(b"\x89PNG"));
}

#[test]
fn browser_takes_commands_of_the_devtools() {
    let browser = Browser::start();
    browser.open("data:text/html,<input autofocus>");
    let is_dark = "return matchMedia('(prefers-color-scheme: dark)').matches";
    for (scheme, expected) in [("dark", true), ("light", false)] {
        browser.prefer(scheme);
        browser.expect(is_dark, &[], expected);
    }
    browser.press("ok");
    browser.expect("return document.querySelector('input').value", &[], "ok");
}

#[test]
fn browser_ends_with_its_test() {
    let browser = Browser::start();
    let process = PathBuf::from(format!("/proc/{}", browser.process()));
    assert!(process.exists());
    drop(browser);
    eventually("the end of Chromium", || (!process.exists()).then_some(()));
}
