//! Node ids, where nodes are reached, which addresses may be dialled, and the observed prefix.
//!
//! It never resolves a name and never believes an address: an address is only a place to try, the
//! handshake proves who answers.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr};

/// A node's raw ed25519 public key: its iroh endpoint id and, wrapped, its libp2p PeerId.
pub type NodeId = [u8; 32];

/// The network a peer was observed in: /24 of IPv4 (as an IPv4-mapped address), /48 of IPv6, or a
/// tag for everyone behind one relay. Peers with equal prefixes count as one operator.
pub type ObservedPrefix = [u8; 16];

/// First bytes of a node id in hex, for logs and error messages.
pub fn short(node: &NodeId) -> String {
    node[..5].iter().fold(String::with_capacity(10), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Where a node says it can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeAddr {
    /// Direct UDP addresses.
    pub direct: Vec<SocketAddr>,
    /// Relays the node listens on.
    pub relays: Vec<RelayUrl>,
}

/// A node id that is not a point on the curve; nobody can own it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node id {} is not a valid ed25519 public key; drop whatever named it", short(.0))]
pub struct InvalidNodeId(pub NodeId);

/// The iroh form of a node id.
///
/// # Errors
/// [`InvalidNodeId`] when the bytes are not a valid ed25519 public key.
pub fn endpoint_id(node: &NodeId) -> Result<EndpointId, InvalidNodeId> {
    EndpointId::from_bytes(node).map_err(|_| InvalidNodeId(*node))
}

impl NodeAddr {
    /// One direct address.
    pub fn direct(addr: SocketAddr) -> Self {
        Self { direct: vec![addr], relays: Vec::new() }
    }

    /// True when there is nothing to try.
    pub fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.relays.is_empty()
    }

    /// The iroh form, for the node that owns the key.
    ///
    /// # Errors
    /// [`InvalidNodeId`] when `node` is not a valid key.
    pub fn to_endpoint_addr(&self, node: &NodeId) -> Result<EndpointAddr, InvalidNodeId> {
        Ok(EndpointAddr::from_parts(endpoint_id(node)?, self.transports()))
    }

    /// Each address as one transport address.
    pub fn transports(&self) -> Vec<TransportAddr> {
        let direct = self.direct.iter().map(|a| TransportAddr::Ip(canonical(*a)));
        direct.chain(self.relays.iter().cloned().map(TransportAddr::Relay)).collect()
    }

    /// Collects transport addresses; kinds that this node cannot dial are left out.
    pub fn from_transports<'a>(addrs: impl IntoIterator<Item = &'a TransportAddr>) -> Self {
        let mut out = Self::default();
        for addr in addrs {
            match addr {
                TransportAddr::Ip(ip) => out.direct.push(canonical(*ip)),
                TransportAddr::Relay(url) => out.relays.push(url.clone()),
                _ => {}
            }
        }
        out
    }

    /// Only the addresses that `rules` let us dial.
    pub fn filtered(&self, rules: &AddressRules) -> Self {
        let kept = self.transports().into_iter().filter(|addr| rules.accepts(addr));
        Self::from_transports(&kept.collect::<Vec<_>>())
    }
}

/// An IPv4-mapped IPv6 address in its IPv4 form, so that one address has one spelling.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The prefix of an observed address (see [`ObservedPrefix`]).
pub fn prefix_of_ip(ip: IpAddr) -> ObservedPrefix {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            std::net::Ipv4Addr::new(a, b, c, 0).to_ipv6_mapped().octets()
        }
        IpAddr::V6(v6) => {
            let mut prefix = [0; 16];
            prefix[..6].copy_from_slice(&v6.octets()[..6]);
            prefix
        }
    }
}

/// The prefix of a transport address. Whoever comes through a relay shares that relay's prefix:
/// their own address is not observed, and counting them as many would make relays a loophole.
pub fn prefix_of(addr: &TransportAddr) -> ObservedPrefix {
    match addr {
        TransportAddr::Ip(ip) => prefix_of_ip(ip.ip()),
        TransportAddr::Relay(url) => tagged_prefix(url.as_str().as_bytes()),
        other => tagged_prefix(format!("{other:?}").as_bytes()),
    }
}

/// A prefix outside the address space that is routed (0100::/8 is reserved, RFC 4291).
fn tagged_prefix(tag: &[u8]) -> ObservedPrefix {
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&blake3::hash(tag).as_bytes()[..16]);
    prefix[0] = 0x01;
    prefix
}

/// Which addresses told by others may be dialled at all. Without it, a stranger's record makes
/// this node probe the owner's local network.
#[derive(Debug, Clone, Default)]
pub struct AddressRules {
    /// Loopback addresses: development networks only.
    pub loopback: bool,
    /// Private and link-local addresses: networks inside one LAN only.
    pub private: bool,
    /// Relays that may be used; any other is refused.
    pub relays: Vec<RelayUrl>,
}

impl AddressRules {
    /// The rules of a network on one machine.
    pub fn development() -> Self {
        Self { loopback: true, private: true, relays: Vec::new() }
    }

    /// True when `addr` may be dialled.
    pub fn accepts(&self, addr: &TransportAddr) -> bool {
        match addr {
            TransportAddr::Ip(ip) => ip.port() != 0 && self.accepts_ip(ip.ip()),
            TransportAddr::Relay(url) => self.relays.contains(url),
            _ => false,
        }
    }

    fn accepts_ip(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_unspecified() || ip.is_multicast() {
            return false;
        }
        if ip.is_loopback() {
            return self.loopback;
        }
        match ip {
            IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0 => false,
            IpAddr::V4(v4) => self.private || !is_private_v4(v4.octets()),
            IpAddr::V6(v6) => self.private || !is_private_v6(v6),
        }
    }
}

/// RFC 1918, RFC 3927 (link-local) and RFC 6598 (carrier-grade NAT).
fn is_private_v4([a, b, ..]: [u8; 4]) -> bool {
    a == 10
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 169 && b == 254)
        || (a == 100 && (64..128).contains(&b))
}

/// RFC 4193 (unique local) and RFC 4291 (link-local).
fn is_private_v6(ip: Ipv6Addr) -> bool {
    ip.is_unique_local() || ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> TransportAddr {
        TransportAddr::Ip(text.parse().unwrap())
    }

    #[test]
    fn prefix_is_a_24_or_a_48() {
        assert_eq!(prefix_of(&ip("127.1.2.3:1")), prefix_of(&ip("127.1.2.250:9")));
        assert_ne!(prefix_of(&ip("127.1.2.3:1")), prefix_of(&ip("127.1.3.3:1")));
        assert_eq!(prefix_of(&ip("[2001:db8:1::1]:1")), prefix_of(&ip("[2001:db8:1:9::2]:1")));
        assert_ne!(prefix_of(&ip("[2001:db8:1::1]:1")), prefix_of(&ip("[2001:db8:2::1]:1")));
        assert_eq!(prefix_of(&ip("[::ffff:127.1.2.3]:1")), prefix_of(&ip("127.1.2.9:1")));
    }

    #[test]
    fn one_relay_is_one_prefix() {
        let a = TransportAddr::Relay("https://a.example".parse().unwrap());
        let b = TransportAddr::Relay("https://b.example".parse().unwrap());
        assert_eq!(prefix_of(&a), prefix_of(&a.clone()));
        assert_ne!(prefix_of(&a), prefix_of(&b));
    }

    #[test]
    fn strangers_cannot_point_us_inwards() {
        let rules = AddressRules::default();
        for inward in [
            "127.0.0.1:1",
            "10.0.0.1:1",
            "172.16.0.1:1",
            "192.168.1.1:1",
            "169.254.169.254:80",
            "100.64.0.1:1",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "[::1]:1",
            "[fe80::1]:1",
            "[fd00::1]:1",
            "[::ffff:127.0.0.1]:1",
            "[::ffff:10.0.0.1]:1",
            "8.8.8.8:0",
        ] {
            assert!(!rules.accepts(&ip(inward)), "{inward}");
        }
        assert!(rules.accepts(&ip("8.8.8.8:4700")));
        assert!(rules.accepts(&ip("[2001:4860::1]:4700")));
        let relay = TransportAddr::Relay("https://relay.example".parse().unwrap());
        assert!(!rules.accepts(&relay), "a relay nobody configured");
        assert!(AddressRules::development().accepts(&ip("127.1.2.3:4700")));
        assert!(!AddressRules::development().accepts(&ip("127.1.2.3:0")));
    }
}
