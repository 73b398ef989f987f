//! A piece of network in front of a double: it can be cut, and it can swallow what it is given.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bench::soon;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Connections stay open and carry nothing.
    Swallows,
    /// They are closed as soon as they are open.
    Refuses,
}

/// Runs until it is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    weather: watch::Sender<Weather>,
    cut: watch::Sender<u32>,
    server: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
        self.cut();
    }
}

/// What a client has to say before it is connected, and the answer to it.
pub(crate) type Gatekeeper = fn(&str) -> &'static str;

impl Relay {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        Self::start(target, None).await
    }

    /// A proxy for CONNECT, whatever the target is called.
    pub(crate) async fn proxy(target: SocketAddr, gatekeeper: Gatekeeper) -> Self {
        Self::start(target, Some(gatekeeper)).await
    }

    async fn start(target: SocketAddr, gatekeeper: Option<Gatekeeper>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (weather, forecast) = watch::channel(Weather::Fair);
        let (cut, cuts) = watch::channel(0);
        let count = Arc::clone(&accepted);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (forecast, mut cuts) = (forecast.clone(), cuts.clone());
                cuts.borrow_and_update();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = carry(stream, target, gatekeeper, forecast) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, accepted, weather, cut, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) async fn has_accepted(&self, count: usize) {
        soon(async {
            while self.accepted() < count {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(self.accepted(), count);
    }

    /// Closes every connection.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// From here on those connections that are open carry nothing, without being closed.
    pub(crate) fn swallow(&self) {
        let _ = self.weather.send(Weather::Swallows);
    }

    pub(crate) fn refuse(&self, refuses: bool) {
        let _ = self.weather.send(if refuses { Weather::Refuses } else { Weather::Fair });
    }

    /// Those that are opened from here on work.
    pub(crate) fn clear_up(&self) {
        let _ = self.weather.send(Weather::Fair);
    }
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    gatekeeper: Option<Gatekeeper>,
    forecast: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    if let Some(gatekeeper) = gatekeeper {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let answer = gatekeeper(&String::from_utf8_lossy(&head));
        client.write_all(answer.as_bytes()).await?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Ok(());
        }
    }
    if *forecast.borrow() == Weather::Refuses {
        return Ok(());
    }
    let server = TcpStream::connect(target).await?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        result = pipe(from_client, to_server, forecast.clone()) => result,
        result = pipe(from_server, to_client, forecast) => result,
    }
}

async fn pipe(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut forecast: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if *forecast.borrow_and_update() == Weather::Swallows {
            // What was swallowed once is lost for good.
            std::future::pending::<()>().await;
        }
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
    }
}
