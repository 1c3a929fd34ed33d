//! Rules of the other records: who, where, when, and how much.

use echonet_protocol::{
    bytes::{Nonce, RecordHash, ShardHash},
    content_id::ContentId,
    identity::{Identity, NodeId, Record, RecordError, Signature, Signed, sign_body},
    lease::{Grant, Lease, Receipt, ReceiptWanted},
    membership::{Claim, DiskHealth, Life},
    network::{BootstrapAddr, Genesis, NetworkId, Timing},
    node_descriptor::NodeDescriptor,
    segment::{Scheme, SegmentDescriptor, SegmentId},
    time::{Epoch, UnixSeconds, epoch_for_ending},
};
use serde_json::{Value, json};

use crate::{plain, sample, vectors};

/// A changed body, signed by `signer` whether it may or not.
fn forced<T: Record>(signer: &Identity, mut body: T, change: impl FnOnce(&mut T)) -> Signed<T> {
    change(&mut body);
    Signed { sig: sign_body(signer, &body), body }
}

fn error<T: Record>(signed: &Signed<T>) -> Option<RecordError> {
    Signed::<T>::decode(&signed.encode(), &sample::network()).err()
}

/// What every kind of record refuses, by the plain form of its body.
fn common<T: Record>(signer: &Identity, sample: Signed<T>) {
    assert_eq!(error(&sample), None);
    let other = NetworkId([1; 32]);
    let wrong = sample.verify(&other).unwrap_err();
    assert!(matches!(wrong, RecordError::WrongNetwork { .. }), "{wrong}");
    let with = |name: &str, value: Value| -> T {
        let mut body = vectors::plain(&sample.body);
        body[name] = value;
        serde_ipld_dagcbor::from_slice(&plain::encode(&body)).unwrap()
    };
    let later = forced(signer, with("v", json!(2)), |_| {});
    assert!(matches!(error(&later), Some(RecordError::Version { version: 2, .. })));
    let elsewhere = forced(signer, with("network", plain::hex(&other.0)), |_| {});
    assert!(matches!(error(&elsewhere), Some(RecordError::WrongNetwork { .. })));
    let foreign =
        Signed { body: sample.body.clone(), sig: sign_body(&sample::identity(77), &sample.body) };
    assert!(matches!(error(&foreign), Some(RecordError::Signature { .. })));
    let nobody = Signed { body: sample.body, sig: Signature([0; 64]) };
    assert!(matches!(error(&nobody), Some(RecordError::Signature { .. })));
}

#[test]
fn every_kind_knows_its_network_version_and_signer() {
    let (owner, lease) = (sample::owner(), sample::lease(None));
    common(&sample::issuer(), sample::grant());
    common(&owner, lease);
    common(&owner, sample::lease_end());
    common(&sample::holder(4), sample::receipt(4));
    common(&owner, sample::announcement(false));
    common(&sample::identity(4), sample::live_check());
    common(&sample::holder(0), sample::node_descriptor());
    common(&sample::holder(0), sample::word());
    common(&sample::holder(1), sample::doubt());
}

#[test]
fn a_signature_is_good_for_one_kind_only() {
    // A lease end whose fields all occur in other kinds is still signed as a lease end.
    let end = sample::lease_end();
    let mut hasher = blake3::Hasher::new_derive_key("EchoNet 2026 signed record v1");
    hasher.update(b"lease\0").update(&plain::encode(&vectors::plain(&end.body)));
    assert_ne!(*hasher.finalize().as_bytes(), end.hash().0);
}

#[test]
fn keys_of_small_order_sign_nothing() {
    // The neutral element: with r = it and s = 0 a lenient verifier takes any message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut sig = [0; 64];
    sig[0] = 1;
    let body = Lease { owner: NodeId(neutral), ..sample::lease(None).body };
    let forged = Signed { body, sig: Signature(sig) };
    assert!(matches!(error(&forged), Some(RecordError::Signature { .. })));
}

#[test]
fn a_standing_lease_needs_a_grant_and_ends_with_it() {
    let (owner, grant) = (sample::owner(), sample::grant());
    let standing = sample::standing_lease().body;
    let lone = forced(&owner, standing.clone(), |l: &mut Lease| l.grant = None);
    assert!(error(&lone).is_some());
    assert_eq!(standing.ends_at_latest(Some(&grant)), grant.body.until);
    assert_eq!(standing.ends_at_latest(None), standing.until);
    let mut other = grant.clone();
    other.body.serial += 1;
    assert_eq!(standing.ends_at_latest(Some(&other)), standing.until, "not the grant it names");
    let plain = sample::lease(Some(grant.hash())).body;
    assert_eq!(plain.ends_at_latest(Some(&grant)), plain.until);
}

#[test]
fn a_standing_lease_taken_up_late_is_in_the_term_that_has_not_ended() {
    // 168 epochs, 100 to 268.
    let lease = sample::standing_lease().body;
    let at = |epoch, ends| {
        let (from, until) = lease.term_at(Epoch(epoch), Epoch(ends));
        (from.0, until.0)
    };
    assert_eq!(at(0, 9_000), (100, 268));
    assert_eq!(at(267, 9_000), (100, 268));
    assert_eq!(at(268, 9_000), (268, 436));
    assert_eq!(at(435, 9_000), (268, 436));
    assert_eq!(at(436, 500), (436, 500), "at most to the end of its grant");
    assert_eq!(at(u64::MAX, 9_000).1, 9_000);
    let plain = sample::lease(None).body;
    assert_eq!(plain.term_at(Epoch(500), Epoch(9_000)), (Epoch(100), Epoch(268)));
}

#[test]
fn terms_are_not_empty() {
    let owner = sample::owner();
    let lease = |from, until| {
        let forced = forced(&owner, sample::lease(None).body, |l: &mut Lease| {
            (l.from, l.until) = (Epoch(from), Epoch(until));
        });
        (error(&forced).is_none(), forced.body.term())
    };
    assert_eq!(lease(0, u64::MAX), (true, u64::MAX));
    assert_eq!(lease(u64::MAX - 1, u64::MAX), (true, 1));
    assert_eq!(lease(5, 5), (false, 0));
    assert_eq!(lease(u64::MAX, 0), (false, 0));
    let receipt =
        forced(&sample::holder(4), sample::receipt(4).body, |r: &mut Receipt| r.until = r.from);
    assert!(error(&receipt).is_some());
    let receipt =
        forced(&sample::holder(4), sample::receipt(4).body, |r: &mut Receipt| r.index = 64);
    assert!(error(&receipt).is_some());
    let grant = forced(&sample::issuer(), sample::grant().body, |g: &mut Grant| g.byte_epochs = 0);
    assert!(error(&grant).is_some());
}

#[test]
fn a_receipt_with_one_field_altered_is_not_the_one_wanted() {
    let lease = sample::lease(Some(sample::grant().hash()));
    let placed = sample::placed();
    let wanted = ReceiptWanted {
        lease: &lease,
        index: 4,
        shard: placed.shards[4],
        length: u32::try_from(placed.shard_len()).unwrap(),
        holder: sample::holder(4).node_id(),
        placement_version: 1,
    };
    wanted.check(&sample::receipt(4)).unwrap();
    let changes: [fn(&mut Receipt); 12] = [
        |r| r.v = 2,
        |r| r.network = NetworkId([0; 32]),
        |r| r.lease = RecordHash([0; 32]),
        |r| r.segment = SegmentId([0; 32]),
        |r| r.index = 3,
        |r| r.shard = ShardHash([0; 32]),
        |r| r.length += 1,
        |r| r.holder = sample::node_id(9),
        |r| r.from.0 += 1,
        |r| r.until.0 -= 1,
        |r| r.placement_version = 2,
        |r| r.placement_version = 0,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let altered = forced(&sample::holder(4), sample::receipt(4).body, change);
        assert!(wanted.check(&altered).is_err(), "change {at}");
    }
    let forged = Signed { sig: sample::receipt(3).sig, ..sample::receipt(4) };
    assert!(wanted.check(&forged).is_err());
    // Right in every field that it has itself, but for another lease of the same terms.
    let other =
        forced(&sample::owner(), lease.body.clone(), |l: &mut Lease| l.nonce = Nonce([1; 16]));
    assert!(ReceiptWanted { lease: &other, ..wanted }.check(&sample::receipt(4)).is_err());
}

#[test]
fn descriptors_stay_in_their_bounds() {
    let error = |change: fn(&mut SegmentDescriptor)| {
        let mut descriptor = sample::placed();
        change(&mut descriptor);
        SegmentDescriptor::decode(&descriptor.encode()).err().map(|e| e.to_string())
    };
    assert_eq!(error(|_| {}), None);
    assert!(error(|d| d.v = 2).is_some());
    assert!(error(|d| d.length = 0).unwrap().contains("length 0"));
    assert_eq!(error(|d| d.length = 8 << 20), None);
    assert!(error(|d| d.length = (8 << 20) + 1).unwrap().contains("shards of 4194305 bytes"));
    assert!(error(|d| d.length = u32::MAX).is_some());
    assert!(error(|d| d.shards.truncate(4)).unwrap().contains("4 shard hashes for 5"));
    assert!(error(|d| d.shards.push(d.shards[0])).is_some());
    assert!(error(|d| d.scheme.code = 2).is_some());
    assert!(error(|d| d.scheme.layout = 0).is_some());
    assert!(error(|d| d.scheme.k = 0).is_some());
    assert!(error(|d| d.scheme.m = 0).is_some());
    assert!(error(|d| (d.scheme.k, d.scheme.m) = (255, 255)).is_some());
    let wide = |n: usize, k: u8, m: u8| {
        let scheme = Scheme { code: 1, k, m, layout: 1 };
        let shards = (0..n).map(|i| ShardHash([i as u8; 32])).collect();
        let wide = SegmentDescriptor { v: 1, scheme, length: 32 << 20, shards };
        SegmentDescriptor::decode(&wide.encode()).is_ok()
    };
    assert!(wide(64, 32, 32) && !wide(65, 32, 33));
}

#[test]
fn a_segment_is_named_by_all_of_its_descriptor() {
    let one = sample::placed();
    let mut other = one.clone();
    other.length -= 1;
    assert_eq!(one.shard_len(), 2500);
    assert_eq!(other.shard_len(), 2500, "the same shards, were its last byte a zero");
    assert_ne!(one.segment_id(), other.segment_id());
}

#[test]
fn a_genesis_out_of_bounds_is_refused() {
    let refused = |change: fn(&mut Genesis)| {
        let mut genesis = sample::genesis();
        change(&mut genesis);
        Genesis::decode(&genesis.encode()).is_err()
    };
    let changes: [fn(&mut Genesis); 26] = [
        |g| g.v = 2,
        |g| g.name = "x".repeat(65),
        |g| g.salt = vec![0; 15],
        |g| g.salt = vec![0; 17],
        |g| g.epoch_s = 0,
        |g| g.epoch_s = 86_401,
        |g| g.segment_bytes = 4095,
        |g| g.segment_bytes = (32 << 20) + 1,
        |g| g.volume_bytes = (64 << 20) - 1,
        |g| (g.segment_bytes, g.volume_bytes) = (4096, (5 << 20) - 1),
        |g| (g.segment_bytes, g.volume_bytes) = (8 << 20, (17 << 20) - 1),
        |g| g.volume_bytes = (1 << 32) + 1,
        |g| g.volume_bytes = u64::MAX,
        |g| g.unsealed_epochs = 0,
        |g| g.lease_epochs_max = 0,
        |g| g.issuers = vec![NodeId([0; 32]); 65],
        |g| g.witness.set = vec![NodeId([0; 32]); 257],
        |g| g.witness.drand_chain = "0".repeat(65),
        |g| g.witness.beacon_key = vec![0; 257],
        |g| g.timing.probe_s = 0,
        |g| g.timing.probe_s = g.timing.suspect_s + 1,
        |g| g.timing.suspect_s = g.timing.grace_s + 1,
        |g| g.timing.grace_s = 365 * 86_400 + 1,
        |g| g.timing.urgent_s = 0,
        |g| g.timing.urgent_s = g.timing.grace_s + 1,
        |g| g.timing.top_up_s = u64::MAX,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert!(refused(change), "change {at}");
    }
    assert!(!refused(|g| g.timing = Timing::PRODUCTION));
    assert!(!refused(|g| g.timing = Timing::DEVELOPMENT));
    assert!(!refused(|g| {
        (g.segment_bytes, g.volume_bytes, g.epoch_s) = (4096, 5 << 20, 86_400);
        (g.lease_epochs_max, g.created) = (u64::MAX, UnixSeconds(u64::MAX));
    }));
}

#[test]
fn epochs_hold_at_the_ends_of_time() {
    let at = |created: u64, epoch_s: u64, now: u64| {
        let genesis = Genesis { created: UnixSeconds(created), epoch_s, ..sample::genesis() };
        let epoch = genesis.epoch_at(UnixSeconds(now));
        (epoch.0, genesis.epoch_start(epoch).0, genesis.epoch_start(Epoch(u64::MAX)).0)
    };
    // Before its beginning a network is in epoch 0.
    assert_eq!(at(1000, 60, 0), (0, 1000, u64::MAX));
    assert_eq!(at(u64::MAX, 60, 5), (0, u64::MAX, u64::MAX));
    assert_eq!(at(1000, 60, 1059), (0, 1000, u64::MAX));
    assert_eq!(at(1000, 60, 1060), (1, 1060, u64::MAX));
    assert_eq!(at(0, 1, u64::MAX), (u64::MAX, u64::MAX, u64::MAX));
    assert_eq!(at(0, 86_400, u64::MAX).0, u64::MAX / 86_400);
}

#[test]
fn what_ends_follows_the_lower_median() {
    let heard = |epochs: &[u64]| epochs.iter().copied().map(Epoch).collect::<Vec<_>>();
    let max = u64::MAX;
    for (local, others, min, expected) in [
        (9, vec![5, max], 2, Some(5)),
        (9, vec![max; 3], 3, Some(9)),
        (max, vec![max; 3], 3, Some(max)),
        (9, vec![0, 7, 8], 3, Some(7)),
        (9, vec![7], 1, Some(7)),
        (9, vec![7], 0, Some(7)),
        (9, vec![7, 7], 3, None),
    ] {
        assert_eq!(epoch_for_ending(Epoch(local), &heard(&others), min), expected.map(Epoch));
    }
}

#[test]
fn node_descriptors_stay_in_their_bounds() {
    let error = |change: fn(&mut NodeDescriptor)| {
        error(&forced(&sample::holder(0), sample::node_descriptor().body, change))
            .map(|e| e.to_string())
    };
    assert_eq!(error(|_| {}), None);
    assert_eq!(error(|d| d.labels.rack = "x".repeat(64)), None);
    assert!(error(|d| d.labels.rack = "x".repeat(65)).unwrap().contains("rack is too long"));
    assert!(error(|d| d.labels.operator = "a\nb".into()).unwrap().contains("not plain text"));
    assert!(error(|d| d.labels.region = "a\u{85}".into()).is_some());
    assert_eq!(error(|d| d.capacity_class = 40), None);
    assert!(error(|d| d.capacity_class = 41).is_some());
    assert!(error(|d| d.addrs = vec![d.addrs[0]; 9]).is_some());
    assert!(error(|d| d.relays = vec!["r".into(); 3]).is_some());
    assert!(error(|d| d.relays[0] = "r".repeat(257)).is_some());
    for addr in ["0.0.0.0:1", "127.0.0.1:0", "224.0.0.1:1", "[::]:1", "[ff02::1]:1"] {
        let mut body = sample::node_descriptor().body;
        body.addrs = vec![addr.parse().unwrap()];
        assert!(super::rules::error(&forced(&sample::holder(0), body, |_| {})).is_some(), "{addr}");
    }
}

#[test]
fn a_full_node_descriptor_fits_into_a_record() {
    let mut body = sample::node_descriptor().body;
    let label = "\u{20ac}".repeat(21);
    (body.labels.region, body.labels.datacenter) = (label.clone(), label.clone());
    (body.labels.rack, body.labels.operator) = (label.clone(), label);
    body.addrs = vec!["[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(); 8];
    body.relays = vec!["r".repeat(256); 2];
    (body.sequence, body.joined) = (u64::MAX, Epoch(u64::MAX));
    assert_eq!(error(&forced(&sample::holder(0), body, |_| {})), None);
}

#[test]
fn a_content_has_one_name() {
    let id = ContentId::of(b"hello");
    let text = id.to_string();
    let base16 = format!("f01551e20{}", id.0.to_hex());
    let cid = data_encoding::HEXLOWER.decode(&base16.as_bytes()[1..]).unwrap();
    let with_more = [&cid[..], &[0; 5]].concat();
    let with_more = data_encoding::BASE32_NOPAD.encode(&with_more).to_lowercase();
    for other in [
        format!("b{with_more}"),
        format!("/ipfs/{text}"),
        format!("echo:echo:{text}"),
        format!("https://example.org/ipfs/{text}"),
        format!("{text} "),
        base16,
        text.to_uppercase(),
    ] {
        assert!(other.parse::<ContentId>().is_err(), "{other}");
    }
    for same in [text.clone(), format!("echo:{text}"), id.0.to_hex().to_uppercase()] {
        assert_eq!(same.parse(), Ok(id));
    }
}

#[test]
fn bootstrap_addresses_that_are_none() {
    let (network, node) = (sample::network().to_string(), sample::node_id(9).to_string());
    let good = format!("{network}.{node}@127.0.0.1:4700");
    assert!(good.parse::<BootstrapAddr>().is_ok());
    for bad in [
        String::new(),
        format!("{network}@127.0.0.1:4700"),
        format!("{network}.{node}"),
        format!("{network}.{node}@127.0.0.1"),
        format!("{network}.{node}@127.0.0.1:65536"),
        format!("{network}.{node}@localhost:4700"),
        format!("{network}.{node}@::1:4700"),
        format!("{network}.{}@127.0.0.1:4700", &node[1..]),
        format!("{good}@127.0.0.1:4700"),
        format!(" {good}"),
        "9".repeat(1 << 20),
    ] {
        let error = bad.parse::<BootstrapAddr>().unwrap_err().to_string();
        assert!(error.len() < 400, "{}", error.len());
    }
}

#[test]
fn a_word_is_about_oneself_and_a_doubt_about_others() {
    let (word, doubt) = (sample::word(), sample::doubt());
    let wrong = |signed: &Signed<Claim>, by: u8, change: fn(&mut Claim)| {
        error(&forced(&sample::holder(by), signed.body.clone(), change)).is_some()
    };
    let about_me: [fn(&mut Claim); 6] = [
        |c| c.life = Life::Suspect,
        |c| c.life = Life::Down,
        |c| c.disk = None,
        |c| c.life = Life::Left,
        |c| c.incarnation = 0,
        |c| c.incarnation = Claim::INCARNATION_MAX + 1,
    ];
    for (at, change) in about_me.into_iter().enumerate() {
        assert!(wrong(&word, 0, change), "word {at}");
    }
    let about_others: [fn(&mut Claim); 4] = [
        |c| c.life = Life::Alive,
        |c| c.life = Life::Left,
        |c| c.disk = Some(DiskHealth::Sick),
        |c| c.incarnation = u64::MAX,
    ];
    for (at, change) in about_others.into_iter().enumerate() {
        assert!(wrong(&doubt, 1, change), "doubt {at}");
    }
    assert!(!wrong(&doubt, 1, |c| (c.life, c.incarnation) = (Life::Down, 0)));
    assert!(!wrong(&word, 0, |c| (c.life, c.disk) = (Life::Left, None)));
    assert!(sample::doubt().encode().len() <= Claim::BYTES_MAX);
}
