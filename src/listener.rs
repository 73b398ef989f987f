//! HTTP listeners: a bounded number of connections, none of which may be silent for long.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long a client may take to send its request, and may stay silent between requests.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait after the system refused to accept a connection: it lacks descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `listener` until `stop` ends; connections that are open then are closed. More than `connections_max` at one time
/// wait in the system's queue. `name` is for the log.
pub(crate) async fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    stop: impl Future<Output = ()>,
) {
    let service = TowerToHyperService::new(router);
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(name, stream, service.clone()));
                }
                Err(error) => {
                    tracing::warn!(listener = name, %error, "an HTTP listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(name: &'static str, stream: TcpStream, service: TowerToHyperService<Router>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(listener = name, %error, "an HTTP connection ended");
    }
}
