//! A piece of network between a client and a server, which can be pulled out and put back.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::peer::RUNTIME;

/// Ends with its connections when it is dropped.
pub(crate) struct Cable {
    /// For clients.
    pub(crate) address: SocketAddr,
    /// `None`: it is pulled out.
    server: watch::Sender<Option<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cable {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = RUNTIME.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("its address");
        let server = watch::Sender::new(Some(server));
        let seen = server.subscribe();
        let task = RUNTIME.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, seen.clone()));
            }
        });
        Self { address, server, task }
    }

    /// Connections end, and new ones end at once.
    pub(crate) fn pull(&self) {
        self.server.send_replace(None);
    }

    pub(crate) fn put_into(&self, server: SocketAddr) {
        self.server.send_replace(Some(server));
    }
}

async fn carry(mut client: TcpStream, mut seen: watch::Receiver<Option<SocketAddr>>) {
    let server = *seen.borrow_and_update();
    let Some(server) = server else { return };
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = seen.changed() => {}
    }
}
