//! Who is where in a development network: names, addresses and labels, such
//! that the placement rules can be honoured on one machine.
//!
//! With 20 nodes: 5 datacenters in 3 regions, 4 nodes each, 2 nodes of each
//! operator. Then any choice of 16 keeps at most 2 per operator and 4 per
//! datacenter.

use std::net::Ipv4Addr;

/// Most nodes of one development network: addresses are 127.D.O.N.
pub const NODES_MAX: usize = 200;
/// Most nodes of one datacenter.
const DATACENTER_NODES_MAX: usize = 4;
/// Datacenters where there are nodes enough.
const DATACENTERS_MIN: usize = 5;
/// Most nodes of one operator.
const OPERATOR_NODES_MAX: usize = 2;
/// Regions.
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// One node's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Such as `node-01`; its directory's name too.
    pub name: String,
    /// 127.D.O.N: datacenter, operator, node. Each operator has its own /24.
    pub ip: Ipv4Addr,
    /// Label.
    pub region: String,
    /// Label.
    pub datacenter: String,
    /// Label.
    pub rack: String,
    /// Label.
    pub operator: String,
}

/// The places of `nodes` nodes; at most [`NODES_MAX`].
#[must_use]
pub fn places(nodes: usize) -> Vec<Place> {
    let nodes = nodes.min(NODES_MAX);
    let datacenters = nodes.div_ceil(DATACENTER_NODES_MAX).max(DATACENTERS_MIN).min(nodes.max(1));
    let digits = if nodes > 99 { 3 } else { 2 };
    let place = |index: usize| {
        let (datacenter, slot) = (index % datacenters, index / datacenters);
        let operators_each = DATACENTER_NODES_MAX / OPERATOR_NODES_MAX;
        let operator = datacenter * operators_each + slot / OPERATOR_NODES_MAX + 1;
        let region = REGIONS[datacenter % REGIONS.len()];
        // All three are at most NODES_MAX, so they fit.
        let octet = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
        Place {
            name: format!("node-{:0digits$}", index + 1),
            ip: Ipv4Addr::new(127, octet(datacenter + 1), octet(operator), octet(index + 1)),
            region: region.to_owned(),
            datacenter: format!("{region}-{}", datacenter + 1),
            rack: format!("{region}-{}-{}", datacenter + 1, slot + 1),
            operator: format!("operator-{operator:02}"),
        }
    };
    (0..nodes).map(place).collect()
}

/// Most witnesses of one development network.
pub const WITNESSES_MAX: usize = 40;

/// The places of `witnesses` witnesses, at most [`WITNESSES_MAX`], each with an operator and a
/// network of its own, so that none is too near to a holder to ask it.
#[must_use]
pub fn witnesses(witnesses: usize) -> Vec<Place> {
    let place = |index: usize| {
        let region = REGIONS[index % REGIONS.len()];
        // 201 to 240, which no datacenter is.
        let octet = u8::try_from(index + 201).unwrap_or(u8::MAX);
        Place {
            name: format!("witness-{:02}", index + 1),
            ip: Ipv4Addr::new(127, octet, 1, 1),
            region: region.to_owned(),
            datacenter: format!("{region}-witness-{}", index + 1),
            rack: String::new(),
            operator: format!("witness-{:02}", index + 1),
        }
    };
    (0..witnesses.min(WITNESSES_MAX)).map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn counts<K: Ord>(places: &[Place], key: impl Fn(&Place) -> K) -> BTreeMap<K, usize> {
        let mut counts = BTreeMap::new();
        for place in places {
            *counts.entry(key(place)).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn twenty_nodes_let_the_rules_of_placement_hold() {
        let places = places(20);
        assert!(counts(&places, |p| p.operator.clone()).values().all(|n| *n <= 2));
        assert!(counts(&places, |p| p.rack.clone()).values().all(|n| *n == 1));
        let datacenters = counts(&places, |p| p.datacenter.clone());
        assert!(datacenters.len() >= 4 && datacenters.values().all(|n| *n <= 4));
        assert!((2..=3).contains(&counts(&places, |p| p.region.clone()).len()));
    }

    #[test]
    fn any_size_has_distinct_addresses_and_one_subnet_per_operator() {
        for nodes in [0, 1, 2, 3, 5, 7, 16, 20, 33, NODES_MAX, NODES_MAX + 1] {
            let places = places(nodes);
            assert_eq!(places.len(), nodes.min(NODES_MAX));
            let ips: BTreeSet<_> = places.iter().map(|p| p.ip).collect();
            assert_eq!(ips.len(), places.len());
            let subnets = counts(&places, |p| (p.operator.clone(), &p.ip.octets()[..3] == b""));
            let by_subnet = counts(&places, |p| p.ip.octets()[..3].to_vec());
            assert_eq!(subnets.len(), by_subnet.len());
            assert!(by_subnet.values().all(|n| *n <= OPERATOR_NODES_MAX), "{nodes}");
        }
    }

    #[test]
    fn witnesses_are_near_nobody() {
        let (nodes, witnesses) = (places(NODES_MAX), witnesses(WITNESSES_MAX + 1));
        assert_eq!(witnesses.len(), WITNESSES_MAX);
        let all = || nodes.iter().chain(&witnesses);
        let subnet = |p: &Place| p.ip.octets()[..3].to_vec();
        for witness in &witnesses {
            let same = |p: &&Place| p.operator == witness.operator || subnet(p) == subnet(witness);
            assert_eq!(all().filter(same).count(), 1);
        }
    }

    #[test]
    fn names_sort_in_order() {
        assert_eq!(places(20)[0].name, "node-01");
        assert_eq!(places(120)[6].name, "node-007");
    }
}
