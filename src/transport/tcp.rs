//! TCP: accepting connections, opening them, and what is set on each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::connections::Shared;

/// When the system asks whether a peer that has been silent is still there. Phones ping more often (RFC 5626 §4.4.1),
/// so this only finds those that vanished.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// What fails when the process has no file descriptors left works again when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the server stops.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, index: u8) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stopped() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                // Options that cannot be set belong to a connection that is gone already; reading it tells.
                let _ = tune(&stream);
                let local = stream.local_addr().ok();
                shared.accepted(stream, index, (local, remote));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Opens a connection from the address that listens, unless that is a wildcard: the peer knows us by it.
pub(super) async fn connect(local: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !local.ip().is_unspecified() && local.is_ipv4() == remote.is_ipv4() {
        socket.bind(SocketAddr::new(local.ip(), 0))?;
    }
    let stream = socket.connect(remote).await?;
    tune(&stream)?;
    Ok(stream)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
