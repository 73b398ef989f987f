//! A host with several addresses: one that is dead does not take the attempt's time from the others (RFC 8305).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sip_push_proxy::demo::apns_double::ApnsDouble;
use sip_push_proxy::demo::fcm_double::FcmDouble;
use sip_push_proxy::push::{HttpsProxy, Outcome, Settings};
use socket2::{Domain, Socket, Type};

use crate::bench::*;

const HOST: &str = "push.test";

/// An address that answers nothing: a listener whose queue is full.
struct BlackHole {
    ip: IpAddr,
    _sockets: Vec<Socket>,
}

impl BlackHole {
    fn open(ip: &str, port: u16) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        let address = SocketAddr::new(ip, port).into();
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let caller = || {
            let caller = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            caller.set_nonblocking(true).unwrap();
            // It says that it is under way.
            let _ = caller.connect(&address);
            caller
        };
        let callers: Vec<_> = (0..4).map(|_| caller()).collect();
        Self { ip, _sockets: std::iter::once(listener).chain(callers).collect() }
    }
}

/// Of a double that is reached by [`HOST`].
fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.parse().unwrap()
}

fn reached_at(settings: &mut Settings, addresses: &[IpAddr]) {
    settings.hosts.insert(HOST.into(), addresses.to_vec());
    settings.timeout = Duration::from_secs(8);
}

fn here() -> IpAddr {
    "127.0.0.1".parse().unwrap()
}

#[tokio::test]
async fn apns_is_reached_although_its_first_addresses_are_dead() {
    let double = ApnsDouble::start().await.unwrap();
    let port = port_of(&double.url());
    let holes = ["127.0.0.2", "127.0.0.3"].map(|ip| BlackHole::open(ip, port));
    let (_folder, mut settings) = apns_settings(&double);
    settings.apns[0].endpoint = format!("http://{HOST}:{port}");
    // Nobody listens at the third.
    let dead = [holes[0].ip, holes[1].ip, "127.0.0.4".parse().unwrap()];
    reached_at(&mut settings, &[&dead[..], &[here()]].concat());
    assert_eq!(outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
}

#[tokio::test]
async fn a_proxy_is_reached_although_its_first_address_is_dead() {
    let double = std::sync::Arc::new(ApnsDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&double);
    let address = crate::front::with_tls(double, folder.path(), None).await;
    let proxy = crate::relay::Relay::proxy(address, |_| "HTTP/1.1 200 OK\r\n\r\n").await;
    let hole = BlackHole::open("127.0.0.2", proxy.address().port());
    settings.apns[0].endpoint = "https://localhost".to_owned();
    settings.apns[0].ca_file = Some(folder.path().join("ca.pem"));
    settings.https_proxy = HttpsProxy::parse(&format!("http://{HOST}:{}", proxy.address().port()));
    reached_at(&mut settings, &[hole.ip, here()]);
    assert_eq!(outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
}

#[tokio::test]
async fn fcm_is_reached_although_its_first_address_is_dead() {
    let double = FcmDouble::start().await.unwrap();
    let port = port_of(&double.url());
    let hole = BlackHole::open("127.0.0.2", port);
    double.is_reached_at(&format!("http://{HOST}:{port}"));
    let (_folder, mut settings) = fcm_settings(&double);
    settings.fcm[0].endpoint = format!("http://{HOST}:{port}");
    reached_at(&mut settings, &[hole.ip, here()]);
    assert_eq!(outcome(&open(&settings), invite(fcm_target("a"))).await, Outcome::Accepted);
}

#[tokio::test]
async fn a_host_of_which_no_address_answers_is_trouble() {
    let double = ApnsDouble::start().await.unwrap();
    let port = port_of(&double.url());
    let hole = BlackHole::open("127.0.0.2", port);
    let (_folder, mut settings) = apns_settings(&double);
    settings.apns[0].endpoint = format!("http://{HOST}:{port}");
    reached_at(&mut settings, &[hole.ip]);
    settings.timeout = Duration::from_millis(300);
    trouble(&outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await);
    settings.hosts.insert(HOST.into(), Vec::new());
    let nowhere = outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await;
    assert_eq!(trouble(&nowhere), "no connection: the host has no address");
}
