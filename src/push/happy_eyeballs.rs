//! TCP to whichever address of a host answers first (RFC 8305): one that is dead must not take the time of an attempt.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;

/// How long an address has before the next one is tried as well (RFC 8305 §5, Connection Attempt Delay).
const DELAY: Duration = Duration::from_millis(250);
/// More addresses of one host than this are not tried.
const ADDRESSES_MAX: usize = 16;

/// `addresses` stand in the resolver's order. The error is that of the address that failed last.
pub(super) async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut untried = interleaved(addresses).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        let next = untried.next();
        let is_last = next.is_none();
        attempts.extend(next.map(TcpStream::connect));
        let ended = match is_last {
            true => attempts.next().await,
            false => match tokio::time::timeout(DELAY, attempts.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failure = error,
            None => return Err(failure),
        }
    }
}

/// The families by turns, beginning with that of the first address (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first_family = |address: &&SocketAddr| addresses.first().map(SocketAddr::is_ipv6) == Some(address.is_ipv6());
    let (first, second): (Vec<&SocketAddr>, Vec<&SocketAddr>) = addresses.iter().partition(is_first_family);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let pairs = std::iter::from_fn(|| Some((first.next(), second.next())).filter(|pair| *pair != (None, None)));
    pairs.flat_map(|(one, other)| one.into_iter().chain(other)).copied().take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c, d, e] =
            ["[2001:db8::1]:443", "[2001:db8::2]:443", "[2001:db8::3]:443", "192.0.2.1:443", "192.0.2.2:443"];
        assert_eq!(interleaved(&addresses(&[a, b, c, d, e])), addresses(&[a, d, b, e, c]));
        assert_eq!(interleaved(&addresses(&[d, a, e])), addresses(&[d, a, e]));
        assert_eq!(interleaved(&addresses(&[d, e])), addresses(&[d, e]));
        assert_eq!(interleaved(&[]), []);
        assert_eq!(interleaved(&vec!["192.0.2.1:443".parse().unwrap(); 100]).len(), ADDRESSES_MAX);
    }

    #[tokio::test]
    async fn what_refuses_is_followed_by_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        // Nobody listens there.
        let closed = SocketAddr::new("127.0.0.2".parse().unwrap(), here.port());
        assert_eq!(connect(&[closed, closed, here]).await.unwrap().peer_addr().unwrap(), here);
        assert_eq!(connect(&[closed, closed]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(&[]).await.unwrap_err().to_string(), "the host has no address");
    }
}
