//! `check --online`: whether what the configuration names answers, and takes us for whom we say we are.
//!
//! Nothing is sent that anybody could see: providers get a test push to a token that nobody has, which they can refuse
//! only after they have looked at our credentials; the softswitch gets an OPTIONS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket, lookup_host};

use super::operator::push_one;
use super::policy;
use crate::binding::{Aor, Binding, DeviceId, Provider, PushTarget, PushToken, Tokens};
use crate::config::{Config, Host, NextHop, StoreKind};
use crate::driver;
use crate::push::{Notice, Outcome, Pushers};
use crate::sip::Transport;
use crate::store::RedisStream;

/// For a name, a connection or an answer; pushes have `push.timeout_ms`.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of the right form, and nobody's.
const TOKEN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One of the things that were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `fcm project demo-project`, `store`, `softswitch`.
    pub what: String,
    /// In words: what shows that it is well, or what is wrong.
    pub answer: Result<String, String>,
}

/// Asks everything that the configuration names, one after the other. Blocks.
pub fn online(config: &Config) -> io::Result<Vec<Asked>> {
    // An error means that it was installed before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let pushers = Pushers::open(&policy::push_settings(config), runtime.handle().clone());
    let answers = runtime.block_on(async {
        let mut answers = Vec::new();
        if let Some(uri) = &config.softswitch.uri {
            answers.push(Asked { what: format!("softswitch {uri}"), answer: softswitch(uri).await });
        }
        if let StoreKind::Redis(url) = &config.store.kind {
            let mut redis = RedisStream::new(url.clone(), config.store.timeout, String::new());
            let answer = redis.connect().await.map(|()| "it takes us".to_owned());
            answers.push(Asked { what: "store".to_owned(), answer });
        }
        match pushers {
            Ok(pushers) => {
                for (what, target) in accounts(config) {
                    answers.push(Asked { what, answer: account(&pushers, target).await });
                }
            }
            Err(error) => answers.push(Asked { what: "push".to_owned(), answer: Err(error.to_string()) }),
        }
        for (what, host, port) in hosts(config) {
            answers.push(Asked { what, answer: connects(&host, port).await });
        }
        answers
    });
    runtime.shutdown_background();
    Ok(answers)
}

/// What each account of a provider is asked for.
fn accounts(config: &Config) -> Vec<(String, PushTarget)> {
    let target = |provider, param: &str, tokens| PushTarget {
        provider,
        prid: PushToken::new(TOKEN),
        param: param.into(),
        tokens,
        others: Box::default(),
    };
    let fcm = config.push.fcm.iter().map(|account| {
        let project = &account.project_id;
        (format!("fcm project {project}"), target(Provider::Fcm, project, Tokens::Single))
    });
    let apns = config.push.apns.iter().map(|account| {
        let (team, topic) = (account.team_id.as_deref().unwrap_or_default(), account.topic.as_deref());
        let bundle = topic.unwrap_or("com.example.check");
        let (team, remote) = (team.into(), Some(PushToken::new(TOKEN)));
        let tokens = Tokens::Apple { team, bundle: bundle.into(), voip: None, remote };
        let name = account
            .team_id
            .as_deref()
            .map_or_else(|| format!("apns topic {bundle}"), |team| format!("apns team {team}"));
        (name, target(Provider::Apns, "", tokens))
    });
    let rustore = config.push.rustore.iter().map(|account| {
        let project = &account.project_id;
        (format!("rustore project {project}"), target(Provider::RuStore, project, Tokens::Single))
    });
    let hms = config.push.hms.iter().map(|account| {
        let project = account.id();
        (format!("hms project {project}"), target(Provider::Hms, project, Tokens::Single))
    });
    let harmony = config.push.harmony.iter().map(|account| {
        let project = &account.project_id;
        (format!("harmony project {project}"), target(Provider::Harmony, project, Tokens::Single))
    });
    fcm.chain(apns).chain(rustore).chain(hms).chain(harmony).collect()
}

async fn account(pushers: &Pushers, target: PushTarget) -> Result<String, String> {
    let (nobody, now) = (Aor::new("check", "localhost"), driver::now().unix);
    let device = Binding::of_token(nobody, DeviceId([0; 10]), target, None, now);
    let pushed = push_one(pushers, &device, Ok(()), Notice::Test, now, false, |_| {}).await;
    pushed.preview?;
    match pushed.answer.map(|(outcome, _)| outcome) {
        Some(Outcome::Accepted) => Ok("it takes our pushes".to_owned()),
        Some(Outcome::TokenDead { reason, .. } | Outcome::Misfit { reason } | Outcome::Doubted { reason }) => {
            Ok(format!("it takes our credentials ({reason} for a token that nobody has)"))
        }
        Some(
            Outcome::Refused { reason }
            | Outcome::Locked { reason }
            | Outcome::TryAgain { reason, .. }
            | Outcome::Skipped { reason, .. },
        ) => Err(reason.into()),
        Some(Outcome::Limited | Outcome::Withdrawn) | None => Err("it was not asked".to_owned()),
    }
}

/// Where a connection is all that can be tried without a push that somebody would get.
fn hosts(config: &Config) -> Vec<(String, String, u16)> {
    let callback = config.push.callback.iter().filter_map(|gateway| {
        let url = reqwest::Url::parse(&gateway.url).ok()?;
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        Some((format!("callback {host}"), host, url.port_or_known_default()?))
    });
    let webpush = config.push.webpush.iter().flat_map(|webpush| &webpush.allowed_hosts);
    let webpush = webpush.filter(|allowed| !allowed.is_suffix).map(|allowed| {
        let host = bare(&allowed.address.host);
        (format!("webpush {host}"), host, allowed.address.port.unwrap_or(443))
    });
    callback.chain(webpush).collect()
}

/// Without the brackets of IPv6.
fn bare(host: &Host) -> String {
    match host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.to_string(),
    }
}

async fn connects(host: &str, port: u16) -> Result<String, String> {
    in_time(TcpStream::connect((host, port))).await.map(|_| "it takes a connection".to_owned())
}

/// Any answer will do: a softswitch that does not like OPTIONS is there, too.
async fn softswitch(uri: &NextHop) -> Result<String, String> {
    let port = uri.address.port.unwrap_or(5060);
    let host = bare(&uri.address.host);
    let address = in_time(lookup_host((&*host, port))).await?.next().ok_or("its name leads nowhere")?;
    if uri.transport == Some(Transport::Tcp) {
        return connects(&address.ip().to_string(), port).await;
    }
    in_time(options(address)).await.map(|status| format!("it answers OPTIONS with {status}"))
}

async fn options(address: SocketAddr) -> io::Result<String> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let local = socket.local_addr()?;
    let id = local.port();
    let request = format!(
        "OPTIONS sip:{address} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bKcheck{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:check@{local}>;tag=check{id}\r\nTo: <sip:{address}>\r\nCall-ID: check-{id}@{}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n",
        local.ip()
    );
    let mut answer = [0; 2048];
    loop {
        socket.send(request.as_bytes()).await?;
        // Lost datagrams are sent again, until the time is over.
        if let Ok(received) = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut answer)).await {
            let answer = answer.get(..received?).unwrap_or_default();
            let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default());
            return Ok(line.strip_prefix("SIP/2.0 ").unwrap_or("something that is not SIP").to_owned());
        }
    }
}

async fn in_time<T>(asking: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
