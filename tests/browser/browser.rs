//! A headless Chromium of a test's own, ended with it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, Stdio};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::peer::{RUNTIME, eventually_is};

/// For a machine without display, sandbox and network. With the pipe instead of a port Chromium ends when chromedriver
/// does, however that happens.
const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
    "--remote-debugging-pipe",
];

/// One browser with a profile of its own, and one window.
pub(crate) struct Browser {
    client: Client,
    // Dropped in this order: Chromium still writes into the profile while it ends.
    _driver: Driver,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Politely, so that nothing is left in the profile's folder. If it fails, chromedriver's end is Chromium's.
        let _ = RUNTIME.block_on(self.client.clone().close());
    }
}

impl Browser {
    pub(crate) fn start() -> Self {
        Self::speaking("en-US")
    }

    /// One whose user reads this language.
    pub(crate) fn speaking(language: &str) -> Self {
        let driver = Driver::start();
        let profile = TempDir::new().expect("a folder");
        let folder = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<_> = ARGUMENTS.into_iter().chain([&*folder]).collect();
        let options = json!({ "args": arguments, "prefs": { "intl.accept_languages": language } });
        let wishes = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let client = RUNTIME.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(object(wishes)).connect(&driver.url).await
        });
        Self { client: client.expect("a session with Chromium"), _driver: driver, _profile: profile }
    }

    /// Loads a page, and returns when it has loaded.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        RUNTIME.block_on(self.client.goto(url)).expect("a page");
    }

    /// What the body of a function returns that runs in the page, with `arguments`; a promise is waited for.
    #[track_caller]
    pub(crate) fn run(&self, script: &str, arguments: &[Value]) -> Value {
        RUNTIME.block_on(self.client.execute(script, arguments.to_vec())).expect("a script that runs")
    }

    /// As [`Browser::run`], until it returns `expected`.
    #[track_caller]
    pub(crate) fn expect(&self, script: &str, arguments: &[Value], expected: impl Into<Value>) {
        let expected = expected.into();
        eventually_is(&format!("{expected} of {script}, {arguments:?}"), || {
            let found = self.run(script, arguments);
            if found == expected { Ok(()) } else { Err(found) }
        });
    }

    /// Presses keys, one after the other, as somebody at the keyboard would; `fantoccini::key::Key` has those without a
    /// character.
    #[track_caller]
    pub(crate) fn press(&self, keys: &str) {
        for value in keys.chars() {
            let press = KeyActions::new("keyboard".to_owned());
            let press = press.then(KeyAction::Down { value }).then(KeyAction::Up { value });
            RUNTIME.block_on(self.client.perform_actions(press)).expect("a key press");
        }
    }

    /// What a command of the DevTools protocol answers.
    #[track_caller]
    pub(crate) fn devtools(&self, command: &'static str, parameters: Value) -> Value {
        let command = DevTools { command, parameters };
        RUNTIME.block_on(self.client.issue_cmd(command)).expect("a command of the DevTools protocol")
    }

    /// What the window shows, as PNG.
    #[track_caller]
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        RUNTIME.block_on(self.client.screenshot()).expect("a screenshot")
    }

    /// Has pages laid out for a window of this size, or a screen.
    #[track_caller]
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// `light` or `dark`.
    #[track_caller]
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// The number of Chromium's first process.
    #[track_caller]
    pub(crate) fn process(&self) -> u64 {
        let told = self.client.capabilities().and_then(|told| told.get("goog:processID")?.as_u64());
        told.expect("chromedriver tells the process")
    }
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(object) = value { object } else { panic!("no object: {value}") }
}

/// chromedriver's own way into the DevTools protocol.
#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as std::str::FromStr>::Err> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "cmd": self.command, "params": self.parameters }).to_string()))
    }
}

/// A chromedriver on a free port. A shell watches over it, which hears of the end of this process by its standard input:
/// so nothing stays behind even if the test is killed.
struct Driver {
    shell: Child,
    watched: Option<ChildStdin>,
    url: String,
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.watched.take());
        let _ = self.shell.wait();
    }
}

impl Driver {
    fn start() -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", "chromedriver --port=0 & read -r _; kill -KILL $!; wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let watched = shell.stdin.take();
        let mut said = BufReader::new(shell.stdout.take().expect("its output"));
        let mut driver = Self { shell, watched, url: String::new() };
        let mut lines = said.by_ref().lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.split_once("successfully on port ").map(|(_, port)| port.to_owned()));
        let port = port.expect("chromedriver; the Debian packages chromium and chromium-driver have what is needed");
        driver.url = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
        // Output that nobody reads would stop it.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        driver
    }
}
