//! Names to addresses (RFC 3263 §4), with the system's resolver.

use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::sip::Transport;

/// Where a SIP URI's host leads, the best address first; empty when nowhere.
///
/// Differs from RFC 3263 §4.1: without a transport UDP is taken and then TCP is asked for by SRV, NAPTR is left out,
/// because softswitches inside an operator's network do not have it and each miss would cost a call a round trip.
pub(super) async fn addresses(
    resolver: &TokioResolver,
    host: &str,
    port: Option<u16>,
    transport: Option<Transport>,
) -> Vec<(Transport, SocketAddr)> {
    let mut found = Vec::new();
    if port.is_none() {
        let transports = transport.map_or_else(|| vec![Transport::Udp, Transport::Tcp], |only| vec![only]);
        for transport in transports {
            found.extend(services(resolver, host, transport).await);
        }
    }
    if found.is_empty() {
        let transport = transport.unwrap_or(Transport::Udp);
        found.extend(hosts(resolver, host, port.unwrap_or(5060)).await.into_iter().map(|address| (transport, address)));
    }
    found
}

/// SRV records by priority, then by weight (RFC 2782).
async fn services(resolver: &TokioResolver, host: &str, transport: Transport) -> Vec<(Transport, SocketAddr)> {
    let name = format!("_sip._{}.{host}.", transport.uri_name());
    let Ok(lookup) = resolver.lookup(name, RecordType::SRV).await else { return Vec::new() };
    let mut services: Vec<_> = lookup
        .answers()
        .iter()
        .filter_map(|record| {
            let RData::SRV(service) = &record.data else { return None };
            let rank = (service.priority, u16::MAX - service.weight);
            Some((rank, service.target.to_utf8(), service.port))
        })
        .collect();
    services.sort();
    let mut found = Vec::new();
    for (_, target, port) in services {
        found.extend(hosts(resolver, &target, port).await.into_iter().map(|address| (transport, address)));
    }
    found
}

async fn hosts(resolver: &TokioResolver, host: &str, port: u16) -> Vec<SocketAddr> {
    match resolver.lookup_ip(host).await {
        Ok(lookup) => lookup.iter().map(|ip| SocketAddr::new(ip, port)).collect(),
        Err(error) => {
            tracing::warn!(host, %error, "cannot resolve the softswitch's name");
            Vec::new()
        }
    }
}
