//! The golden vectors `protocol/vectors/witness-*.json`: they say what this code does (set
//! `ECHONET_BLESS=1` to write them anew) in numbers that another implementation can compute from
//! SPEC_WITNESS.md.

use std::{collections::BTreeMap, path::Path};

use echonet_protocol::{
    audit::Outcome::{self, Absent, Pass, Silent},
    network::{QUICKNET_CHAIN, WitnessParams},
    time::{Epoch, UnixSeconds},
};
use echonet_witness::{
    beacon::{BeaconShare, Beacons},
    draw::{self, Draw, Rates},
    score::{Standing, Word},
};
use serde_json::{Value, json};

use crate::{
    beacon,
    rig::{self, made_up, slow_world, world},
    score::Run,
};

fn hex(bytes: &[u8]) -> Value {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Value::String(format!("0x{digits}"))
}

/// The file must be what `cases` gives.
fn file(name: &str, about: &str, cases: &[Value]) {
    let fresh = json!({ "about": about, "cases": cases });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/vectors").join(name);
    if std::env::var_os("ECHONET_BLESS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&fresh).unwrap() + "\n").unwrap();
    }
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (fresh, recorded) in cases.iter().zip(recorded["cases"].as_array().unwrap()) {
        assert_eq!(fresh, recorded, "{name} differs");
    }
    assert!(fresh == recorded, "{name}: other cases, or other words about them");
}

fn drand_case() -> Value {
    let witness = WitnessParams {
        drand_chain: QUICKNET_CHAIN.into(),
        beacon_key: beacon::unhex(beacon::KEY),
        ..WitnessParams::none()
    };
    let mut genesis = rig::genesis(100, witness);
    // Epoch 3 begins two seconds after the round before its own.
    genesis.created = UnixSeconds(1_692_803_367 + 3 * 657_411 + 2 - 3 * 3600);
    let beacons = Beacons::new(&genesis).unwrap();
    let epoch = Epoch(3);
    let beacon = beacons.verify(epoch, &beacon::signature()).unwrap();
    json!({
        "kind": "drand",
        "input": {
            "network": hex(&genesis.network_id().0), "created": genesis.created.0,
            "epoch_s": genesis.epoch_s, "epoch": epoch.0, "beacon_key": hex(&genesis.witness.beacon_key),
            "signature": hex(&beacon.signature().0),
        },
        "output": {
            "round": beacons.round(epoch), "message": hex(&beacons.message(epoch).unwrap()),
            "value": hex(beacon.value()),
        },
    })
}

fn threshold_case() -> Value {
    let (world, epoch) = (world(), Epoch(9));
    let part = |share: &BeaconShare| share.part(&world.beacons, epoch).unwrap();
    let parts: BTreeMap<u8, _> = (0..).zip(world.shares.iter().map(part)).collect();
    let beacon = world.beacons.recover(epoch, &parts).unwrap();
    let shares: Vec<Value> = world.shares.iter().map(|s| hex(&s.secret())).collect();
    let publics: Vec<Value> = world.shares.iter().map(|s| hex(&s.public().0)).collect();
    let parts: Vec<Value> = parts.values().map(|part| hex(&part.0)).collect();
    json!({
        "kind": "threshold",
        "input": {
            "network": hex(&world.network.0), "epoch": epoch.0, "secrets": shares,
            "beacon_key": hex(&world.genesis.witness.beacon_key),
        },
        "output": {
            "beacon_shares": publics, "message": hex(&world.beacons.message(epoch).unwrap()),
            "parts": parts, "signature": hex(&beacon.signature().0), "value": hex(beacon.value()),
        },
    })
}

#[test]
fn beacons() {
    let about = "Beacons (SPEC_WITNESS.md, section 3). Text that begins with 0x is a byte string in \
                 hex. secrets are the members' shares of the key, in the order of set 0; any five \
                 of the seven parts give the signature.";
    file("witness-beacon.json", about, &[drand_case(), threshold_case()]);
}

fn draw_case(epoch: u64, n: u64, shard_len: u64) -> Value {
    let world = slow_world();
    let (beacon, segment) = (world.beacon(epoch), made_up(n));
    let rates = Rates { audit_permyriad: 2_500, committee_max: 4, ..world.rates };
    let draw = Draw::new(&beacon, &segment);
    let members: Vec<Value> = world.members().iter().map(|m| hex(&m.0)).collect();
    let committee = draw::committee(&beacon, &segment, world.members(), &rates);
    let challenge = world.challenge(0, epoch, segment, None);
    json!({
        "input": {
            "beacon": hex(beacon.value()), "segment": hex(&segment.0), "shard_length": shard_len,
            "audit_permyriad": rates.audit_permyriad, "segment_bytes": world.genesis.segment_bytes,
            "committee_max": rates.committee_max, "epoch_s": rates.epoch_s, "members": members,
            "challenge": hex(&challenge.hash().0), "challenge_sig": hex(&challenge.sig.0),
        },
        "output": {
            "u0": draw.by_segment, "u1": draw.by_byte, "u2": draw.moment,
            "due": draw.is_due(&rates, shard_len), "asks_after_ms": draw.asks_after_ms(&rates),
            "committee": committee.iter().map(|m| hex(&m.0)).collect::<Vec<_>>(),
            "leaf": draw::leaf(&challenge, shard_len),
            "reaudited": draw::is_reaudited(&beacon, &challenge.hash()),
        },
    })
}

#[test]
fn draws() {
    let about = "What a beacon draws (SPEC_WITNESS.md, section 4). Text that begins with 0x is a byte \
                 string in hex. input.beacon is B(epoch); input.challenge is the record hash of an \
                 audit challenge, which output.reaudited takes for a verdict's.";
    let lengths = [1, 1_024, 1_025, 1_677_722, 3_355_444, 4_194_304];
    let cases: Vec<Value> =
        (0..).zip(lengths.repeat(3)).map(|(n, length)| draw_case(n % 3, n, length)).collect();
    file("witness-draw.json", about, &cases);
}

fn word(word: &Word) -> Value {
    let standing = match word.standing {
        Standing::Vetting => "vetting",
        Standing::Full => "full",
        Standing::Suspended => "suspended",
        Standing::Disqualified => "disqualified",
        Standing::Rehabilitating => "rehabilitating",
    };
    json!([word.audit, word.online, word.passes, word.lost, word.held, standing])
}

/// The holder's word after each epoch.
fn score_case(name: &str, epochs: &[(u64, Vec<Outcome>)]) -> Value {
    let mut run = Run::new();
    let mut words = Vec::new();
    for (epoch, outcomes) in epochs {
        run.idle(epoch - run.epoch);
        run.epoch(outcomes);
        words.push(word(&run.word()));
    }
    let numbers = |outcomes: &[Outcome]| outcomes.iter().map(|o| u8::from(*o)).collect::<Vec<_>>();
    let input: Vec<Value> = epochs.iter().map(|(e, o)| json!([e, numbers(o)])).collect();
    json!({ "name": name, "input": input, "output": words })
}

#[test]
fn scores() {
    let about = "Scores (SPEC_WITNESS.md, section 9) of one holder. input are epochs with the numbers \
                 of the outcomes that counted in each, in order, each about another shard of that \
                 epoch; an epoch that is not there brought nothing. output is after each of them \
                 [audit score, online score, passes, lost, held, standing].";
    let mixed = |epoch: u64| {
        let of = |n: u64| [Pass, Pass, Silent, Pass, Absent][usize::try_from(n).unwrap() % 5];
        (0..12).map(|n| of(epoch * 7 + n)).collect::<Vec<_>>()
    };
    let cases = [
        score_case("passes", &[(0, vec![Pass; 60]), (1, vec![Pass; 60])]),
        score_case("one loss and then passes", &[(0, vec![Absent]), (40, vec![Pass; 100])]),
        score_case("forty and then one more", &[(0, vec![Absent; 40]), (1, vec![Absent])]),
        score_case(
            "silence and back",
            &[(0, vec![Silent; 20]), (24, vec![Pass]), (36, vec![Pass]), (48, vec![Pass; 98])],
        ),
        score_case("mixed", &(0..10).map(|n| (n * 13, mixed(n))).collect::<Vec<_>>()),
    ];
    file("witness-score.json", about, &cases);
}
