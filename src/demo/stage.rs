//! Sets the stage: the real server on loopback, with everything around it played.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::apns_double::{self, ApnsDouble};
use super::callback_double::CallbackDouble;
use super::dialog::DOMAIN;
use super::fcm_double::{self, FcmDouble};
use super::ladder::Actor;
use super::line::{Line, Tone};
use super::narrator::Narrator;
use super::peer::{Failure, PATIENCE};
use super::phone::{Device, Phone, Wake};
use super::push_desk::PushDesk;
use super::rustore_double;
use super::softswitch::Softswitch;
use super::webpush_double::WebPushDouble;
use crate::config::Config;
use crate::server::Server;
use crate::sip::Transport;
use crate::timeline::Timeline;

/// FCM tokens are longer in life.
pub(super) const ALICE_TOKEN: &str = "alice-token:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx";
pub(super) const BOB_TOKEN: &str = "bob-token:APA91bGsFGsxSq8VWq0bz5Jx0yR5hK-7LmTq";
pub(super) const CAROL_TOKEN: &str = "carol-token:APA91bF3sGVjKq4XtPDdw8NBS6eWyC-9Rvaz";
/// The last part of a subscription's URI.
pub(super) const DAVE_TOKEN: &str = "gAAAAABm2V0bXl3aGF0ZXZlcml0aXM";
pub(super) const ERIN_TOKEN: &str = "erin-4711";
pub(super) const GALINA_TOKEN: &str = "bk3RNwTe3H0CI2k-HHwgIpoDKCIZvvDMExUd";
/// Device tokens of Apple are hexadecimal: one for calls, one for all else.
pub(super) const BOB_VOIP: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
const BOB_REMOTE: &str = "740f4707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad";
pub(super) const FRANK_VOIP: &str = "5f1e7c0b2d9a48e6b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081920";

/// How often the operator's listener is asked.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Everything that plays.
pub(super) struct Stage {
    pub(super) narrator: Narrator,
    pub(super) softswitch: Softswitch,
    pub(super) push: PushDesk,
    pub(super) alice: Phone,
    /// Bob has two.
    pub(super) android: Phone,
    pub(super) iphone: Phone,
    /// Carol has uninstalled the app.
    pub(super) carol: Phone,
    /// Dave has a web page only.
    pub(super) browser: Phone,
    /// Erin's app is one of the operator's own.
    pub(super) erin: Phone,
    /// Frank develops the app.
    pub(super) frank: Phone,
    /// Galina's phone has RuStore and nothing of Google's.
    pub(super) galina: Phone,
    pub(super) timeline: Arc<Timeline>,
    server: Server,
    /// Store and credentials; removed with all that is in it.
    folder: TempDir,
}

impl Stage {
    pub(super) async fn set(narrator: Narrator) -> Result<Self, Failure> {
        let folder = TempDir::with_prefix("sip-push-proxy-demo-").map_err(io("cannot make a temporary folder"))?;
        let fcm = FcmDouble::start().await.map_err(io("cannot play FCM"))?;
        let apns = ApnsDouble::start().await.map_err(io("cannot play APNs"))?;
        let sandbox = apns.start_sandbox().await.map_err(io("cannot play APNs' sandbox"))?;
        let webpush = WebPushDouble::start().await.map_err(io("cannot play a browser's push service"))?;
        let callback = CallbackDouble::start().await.map_err(io("cannot play an own gateway"))?;
        let rustore = rustore_double::start().await.map_err(io("cannot play RuStore"))?;
        rustore_double::write_credentials(folder.path()).map_err(io("cannot write a token"))?;
        webpush.write_credentials(folder.path()).map_err(io("cannot write a key"))?;
        callback.write_credentials(folder.path()).map_err(io("cannot write a secret"))?;
        fcm.write_credentials(folder.path()).map_err(io("cannot write a key"))?;
        apns.write_credentials(folder.path()).map_err(io("cannot write a key"))?;
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.map_err(io("cannot open a UDP socket"))?;
        let softswitch = socket.local_addr().map_err(io("a socket has no address"))?;

        let others = [webpush.host(), callback.url(), rustore.url()];
        let text = config(&softswitch.to_string(), &fcm.url(), [&apns.url(), &sandbox.url()], &others);
        let server = start(&text, folder.path()).await?;
        let missing = || Failure::Stage("the server does not listen".to_owned());
        let udp = server.sip_address(Transport::Udp).ok_or_else(missing)?;
        let tcp = server.sip_address(Transport::Tcp).ok_or_else(missing)?;
        let places = [
            ("proxy", format!("udp {udp}, tcp {tcp}")),
            ("softswitch", format!("udp {softswitch}")),
            ("FCM", fcm.url()),
            ("APNs", apns.url()),
            ("sandbox", sandbox.url()),
            ("Web Push", format!("http://{}", webpush.host())),
            ("own gateway", callback.url()),
        ];
        for (name, place) in places {
            narrator.say(&Line::of(&format!("  {name:<12}"), Tone::Plain).then(&place, Tone::Faint));
        }

        let phone = |device: Device| {
            let proxy = if device.transport == Transport::Udp { udp } else { tcp };
            Phone::new(device, proxy, narrator.clone())
        };
        Ok(Self {
            softswitch: Softswitch::open(socket, udp, narrator.clone())?,
            browser: phone(browser(&webpush.subscription(DAVE_TOKEN))),
            erin: phone(erin()),
            frank: phone(frank()),
            galina: phone(galina()),
            push: PushDesk::open(fcm, ([apns, sandbox], webpush, callback, rustore), &narrator),
            alice: phone(alice()),
            android: phone(android()),
            iphone: phone(iphone()),
            carol: phone(carol()),
            timeline: Arc::clone(server.timeline()),
            narrator,
            server,
            folder,
        })
    }

    /// Time in which nothing but `what` happens.
    pub(super) async fn passes(&self, millis: u64, actor: Actor, what: &str) {
        self.narrator.deed(actor, what);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// Waits until the operator's listener says that a user has no devices any more: what is forgotten is forgotten on
    /// the disk first, and no message tells when.
    pub(super) async fn forgets(&self, user: &str) -> Result<(), Failure> {
        let url = format!("http://{}/api/v1/bindings?aor={user}@{DOMAIN}", self.server.admin_address());
        let broken = |error: reqwest::Error| Failure::Stage(format!("the operator's listener: {error}"));
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(broken)?;
        let asking = async {
            loop {
                let answer: Value = client.get(&url).send().await.map_err(broken)?.json().await.map_err(broken)?;
                if answer.get("bindings").and_then(Value::as_array).is_some_and(Vec::is_empty) {
                    return Ok(());
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        let still = |_| Failure::Stage(format!("the server still knows a device of {user}"));
        tokio::time::timeout(PATIENCE, asking).await.map_err(still)?
    }

    fn phones(&mut self) -> [&mut Phone; 8] {
        let Self { alice, android, iphone, carol, browser, erin, frank, galina, .. } = self;
        [alice, android, iphone, carol, browser, erin, frank, galina]
    }

    /// How long the phones took to wake up since this was asked last.
    pub(super) fn take_wakes(&mut self) -> Vec<Wake> {
        self.phones().into_iter().flat_map(|phone| std::mem::take(&mut phone.wakes)).collect()
    }

    /// Whatever a story did not expect has not happened.
    pub(super) fn expect_no_more(&mut self) -> Result<(), Failure> {
        self.softswitch.expect_no_more()?;
        for phone in self.phones() {
            phone.expect_no_more()?;
        }
        self.push.expect_no_more()
    }

    /// Stops the server in order, and leaves nothing behind.
    pub(super) async fn strike(self) -> Result<(), Failure> {
        let Self { server, folder, .. } = self;
        // It waits for its threads.
        let stopped = tokio::task::spawn_blocking(move || server.stop()).await;
        stopped.map_err(|error| Failure::Stage(format!("the server did not stop: {error}")))?;
        folder.close().map_err(io("cannot remove the temporary folder"))
    }
}

async fn start(config: &str, folder: &Path) -> Result<Server, Failure> {
    let config = Config::parse(config, &folder.join("config.toml"));
    let config = config.map_err(|problems| Failure::Stage(problems.to_string()))?;
    // It has event loops of its own, which cannot be started within this one.
    let started = tokio::task::spawn_blocking(move || Server::start(config)).await;
    let started = started.map_err(|error| Failure::Stage(format!("the server did not start: {error}")))?;
    started.map_err(|error| Failure::Stage(format!("the server did not start: {error}")))
}

/// As an operator would write it, but for the addresses.
fn config(
    softswitch: &str,
    fcm: &str,
    [apns, sandbox]: [&str; 2],
    [webpush, callback, rustore]: &[String; 3],
) -> String {
    let (key_id, team_id) = (apns_double::KEY_ID, apns_double::TEAM_ID);
    let project_id = rustore_double::PROJECT_ID;
    format!(
        r#"
        [node]
        id = "demo"
        data_dir = "data"
        [sip]
        listen = ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]
        workers = 1
        [softswitch]
        uri = "sip:{softswitch}"
        [register]
        domains = ["{DOMAIN}"]
        phones_behind_trusted = true
        [[push.fcm]]
        service_account = "fcm.json"
        endpoint = "{fcm}"
        [[push.apns]]
        key_file = "AuthKey.p8"
        key_id = "{key_id}"
        team_id = "{team_id}"
        endpoint = "{apns}"
        sandbox_endpoint = "{sandbox}"
        [[push.rustore]]
        project_id = "{project_id}"
        token_file = "rustore.token"
        endpoint = "{rustore}"
        [push.webpush]
        enabled = true
        vapid_key_file = "vapid.pem"
        allowed_hosts = ["{webpush}"]
        [push.callback]
        url = "{callback}"
        secret_file = "callback.secret"
        [admin]
        listen = "127.0.0.1:0"
        "#
    )
}

fn fcm_params(token: &str) -> String {
    // A colon may stand as it is in a URI parameter (RFC 8599 §8.7).
    format!("pn-provider=fcm;pn-param={};pn-prid={token}", fcm_double::PROJECT_ID)
}

fn alice() -> Device {
    Device {
        name: "Alice's phone",
        actor: Actor::Phone(0),
        user: "alice",
        transport: Transport::Udp,
        instance: "a11ce000-0000-4000-8000-000000000001",
        push_params: fcm_params(ALICE_TOKEN),
        wakes_in: Duration::from_millis(350),
    }
}

fn android() -> Device {
    Device {
        name: "Bob's Android",
        actor: Actor::Phone(1),
        user: "bob",
        transport: Transport::Udp,
        instance: "b0b00000-0000-4000-8000-000000000001",
        push_params: fcm_params(BOB_TOKEN),
        wakes_in: Duration::from_millis(250),
    }
}

fn iphone() -> Device {
    let team = apns_double::TEAM_ID;
    Device {
        name: "Bob's iPhone",
        actor: Actor::Phone(2),
        user: "bob",
        transport: Transport::Tcp,
        instance: "b0b00000-0000-4000-8000-000000000002",
        push_params: format!(
            "pn-provider=apns;pn-param={team}.org.example.phone.voip&remote;pn-prid={BOB_VOIP}:voip&{BOB_REMOTE}:remote"
        ),
        wakes_in: Duration::from_millis(300),
    }
}

fn carol() -> Device {
    Device {
        name: "Carol's phone",
        actor: Actor::Phone(3),
        user: "carol",
        transport: Transport::Udp,
        instance: "ca201000-0000-4000-8000-000000000001",
        push_params: fcm_params(CAROL_TOKEN),
        wakes_in: Duration::from_millis(100),
    }
}

fn browser(subscription: &str) -> Device {
    Device {
        name: "Dave's browser",
        actor: Actor::Phone(4),
        user: "dave",
        transport: Transport::Tcp,
        instance: "da7e0000-0000-4000-8000-000000000001",
        // Nothing in this URI has to be escaped (RFC 8599 §8.7).
        push_params: format!("pn-provider=webpush;pn-prid={subscription}"),
        wakes_in: Duration::from_millis(200),
    }
}

fn erin() -> Device {
    Device {
        name: "Erin's phone",
        actor: Actor::Phone(5),
        user: "erin",
        transport: Transport::Udp,
        instance: "e2140000-0000-4000-8000-000000000001",
        push_params: format!("pn-provider=callback;pn-prid={ERIN_TOKEN};pn-param=:ANDROID"),
        wakes_in: Duration::from_millis(200),
    }
}

fn frank() -> Device {
    let team = apns_double::TEAM_ID;
    Device {
        name: "Frank's phone",
        actor: Actor::Phone(6),
        user: "frank",
        transport: Transport::Tcp,
        instance: "f2a4c000-0000-4000-8000-000000000001",
        push_params: format!("pn-provider=apns.dev;pn-param={team}.org.example.phone.voip;pn-prid={FRANK_VOIP}"),
        wakes_in: Duration::from_millis(200),
    }
}

fn galina() -> Device {
    Device {
        name: "Galina's phone",
        actor: Actor::Phone(7),
        user: "galina",
        transport: Transport::Udp,
        instance: "6a114a00-0000-4000-8000-000000000001",
        push_params: format!("pn-provider=rustore;pn-prid={GALINA_TOKEN}"),
        wakes_in: Duration::from_millis(200),
    }
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Io { what, error }
}
