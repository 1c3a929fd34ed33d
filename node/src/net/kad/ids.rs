//! The one key in its three spellings, and addresses in two.
//!
//! Node id, iroh EndpointId and libp2p PeerId are the same ed25519 key; the mapping loses nothing.
//! It never accepts a PeerId or multiaddr of any other kind.

use std::net::{IpAddr, SocketAddr};

use iroh::{RelayUrl, TransportAddr};
use libp2p_core::{Multiaddr, multiaddr::Protocol};
use libp2p_identity::{PeerId, PublicKey, ed25519};
use libp2p_kad::KBucketKey;

use crate::net::{
    address::{InvalidNodeId, NodeId},
    regions::{Located, Point},
};

/// The libp2p form of a node id.
///
/// # Errors
/// [`InvalidNodeId`] when the bytes are not a valid ed25519 public key.
pub fn peer_id(node: &NodeId) -> Result<PeerId, InvalidNodeId> {
    let key = ed25519::PublicKey::try_from_bytes(node).map_err(|_| InvalidNodeId(*node))?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// The node id inside a PeerId; `None` for PeerIds that are not an inlined ed25519 key.
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    // An ed25519 PeerId is an identity multihash (code 0) of the protobuf public key.
    let multihash = peer.as_ref();
    if multihash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// Where a key lies in kad's keyspace.
pub fn key_point(key: &[u8; 32]) -> Point {
    point(KBucketKey::new(key.to_vec()).hashed_bytes())
}

/// A peer and where it lies in kad's keyspace.
///
/// # Errors
/// [`InvalidNodeId`].
pub fn locate(node: &NodeId) -> Result<Located, InvalidNodeId> {
    let key = KBucketKey::from(peer_id(node)?);
    Ok(Located { node: *node, point: point(key.hashed_bytes()) })
}

fn point(bytes: &[u8]) -> Point {
    // kad's points are SHA-256 digests, always 32 bytes.
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or_default())
}

/// `/ip4/../udp/../quic-v1` or `/dns/../tcp/../https` (a relay), without the peer's id.
pub(super) fn to_multiaddr(addr: &TransportAddr) -> Option<Multiaddr> {
    let empty = Multiaddr::empty();
    match addr {
        TransportAddr::Ip(ip) => {
            let host = Protocol::from(ip.ip());
            Some(empty.with(host).with(Protocol::Udp(ip.port())).with(Protocol::QuicV1))
        }
        TransportAddr::Relay(url) => {
            // A path or credentials would be lost on the way; such relays are not announced.
            if url.path() != "/" || !url.username().is_empty() || url.query().is_some() {
                return None;
            }
            let scheme = match url.scheme() {
                "https" => Protocol::Https,
                "http" => Protocol::Http,
                _ => return None,
            };
            let host = Protocol::Dns(url.host_str()?.to_owned().into());
            let port = Protocol::Tcp(url.port_or_known_default()?);
            Some(empty.with(host).with(port).with(scheme))
        }
        _ => None,
    }
}

/// What a multiaddr names: who, and one place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) node: Option<NodeId>,
    pub(super) addr: Option<TransportAddr>,
}

/// Reads exactly the forms that [`to_multiaddr`] writes, with or without `/p2p/..` at the end.
pub(super) fn from_multiaddr(addr: &Multiaddr) -> Option<Target> {
    let mut parts: Vec<Protocol<'_>> = addr.iter().take(5).collect();
    let node = match parts.last() {
        Some(Protocol::P2p(peer)) => {
            let node = node_id(peer)?;
            parts.pop();
            Some(node)
        }
        _ => None,
    };
    let addr = match parts.as_slice() {
        [] => None,
        [Protocol::Ip4(ip), Protocol::Udp(port), Protocol::QuicV1] => {
            Some(TransportAddr::Ip(SocketAddr::new(IpAddr::V4(*ip), *port)))
        }
        [Protocol::Ip6(ip), Protocol::Udp(port), Protocol::QuicV1] => {
            Some(TransportAddr::Ip(SocketAddr::new(IpAddr::V6(*ip).to_canonical(), *port)))
        }
        [Protocol::Dns(host), Protocol::Tcp(port), Protocol::Https] => {
            Some(relay("https", host, *port)?)
        }
        [Protocol::Dns(host), Protocol::Tcp(port), Protocol::Http] => {
            Some(relay("http", host, *port)?)
        }
        _ => return None,
    };
    Some(Target { node, addr })
}

fn relay(scheme: &str, host: &str, port: u16) -> Option<TransportAddr> {
    let url: RelayUrl = format!("{scheme}://{host}:{port}").parse().ok()?;
    Some(TransportAddr::Relay(url))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(seed: u8) -> NodeId {
        *iroh::SecretKey::from_bytes(&[seed; 32]).public().as_bytes()
    }

    #[test]
    fn ids_round_trip() {
        for seed in 0..50 {
            let id = node(seed);
            assert_eq!(node_id(&peer_id(&id).unwrap()), Some(id));
        }
        assert_eq!(node_id(&PeerId::random()), None, "a hashed PeerId holds no key");
    }

    #[test]
    fn addresses_round_trip() {
        let peer = peer_id(&node(1)).unwrap();
        for text in ["127.1.2.3:4700", "[2001:db8::1]:1"] {
            let addr = TransportAddr::Ip(text.parse().unwrap());
            let multi = to_multiaddr(&addr).unwrap().with(Protocol::P2p(peer));
            let target = from_multiaddr(&multi).unwrap();
            assert_eq!(target, Target { node: Some(node(1)), addr: Some(addr) });
        }
        for text in ["https://relay.example", "http://relay.example:3340"] {
            let addr = TransportAddr::Relay(text.parse().unwrap());
            let target = from_multiaddr(&to_multiaddr(&addr).unwrap()).unwrap();
            assert_eq!(target, Target { node: None, addr: Some(addr) });
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "/ip4/1.2.3.4/tcp/1",
            "/ip4/1.2.3.4/udp/1",
            "/ip4/1.2.3.4/udp/1/quic-v1/ip4/1.2.3.4/udp/1/quic-v1",
            "/dns/a/tcp/1",
            "/dns/user@a/tcp/1/https/https",
            "/memory/1",
        ] {
            assert_eq!(from_multiaddr(&text.parse().unwrap()), None, "{text}");
        }
        let path = TransportAddr::Relay("https://relay.example/secret".parse().unwrap());
        assert_eq!(to_multiaddr(&path), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_multiaddr_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(addr) = Multiaddr::try_from(bytes) {
                let _ = from_multiaddr(&addr);
            }
        }
    }
}
