//! Nothing grows without bound, and a flood displaces nobody who answers.

use echonet_protocol::{
    identity::NodeId,
    membership::{Ask, Life, MembershipInput, Pace},
    network::Timing,
};

use crate::rig::{Rig, node, rumour, word};

fn made_up(n: u64) -> NodeId {
    NodeId(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

#[test]
fn a_flood_of_joins_displaces_nobody_who_answers() {
    let pace = Pace { members_max: 50, ..Pace::of(&Timing::PRODUCTION) };
    let mut rig = Rig::with(31, pace);
    for n in 1..=30 {
        rig.ping(n, vec![word(n, 10, Life::Alive, 0)]);
    }
    for n in 0..5_000 {
        rig.input(MembershipInput::Learned(made_up(n)));
        assert!(rig.machine.sizes().members <= 50);
    }
    assert!((1..=30).all(|n| rig.machine.member(&node(n)).is_some()));
    // A newcomer finds a place among those who never answered, and keeps it once it did.
    rig.input(MembershipInput::Learned(node(31)));
    rig.ping(31, vec![]);
    for n in 5_000..10_000 {
        rig.input(MembershipInput::Learned(made_up(n)));
    }
    assert_eq!(rig.view(31).life, Life::Alive);
}

#[test]
fn where_all_answer_nobody_is_displaced() {
    let pace = Pace { members_max: 20, ..Pace::of(&Timing::PRODUCTION) };
    let mut rig = Rig::with(21, pace);
    for n in 1..=20 {
        rig.ping(n, vec![]);
    }
    rig.input(MembershipInput::Learned(node(30)));
    assert!(rig.machine.member(&node(30)).is_none());
    // Who said goodbye makes room.
    rig.ping(5, vec![word(5, 10, Life::Left, 0)]);
    rig.input(MembershipInput::Learned(node(30)));
    assert!(rig.machine.member(&node(30)).is_some() && rig.machine.member(&node(5)).is_none());
}

#[test]
fn a_flood_of_claims_and_questions_stays_within_bounds() {
    let nodes = 120;
    let mut rig = Rig::new(nodes);
    for n in 1..nodes {
        rig.ping(n, vec![word(n, 10, Life::Alive, 0)]);
    }
    rig.pass(rig.pace.probe_fails_ms);
    for round in 0..40 {
        for by in 1..20 {
            let claims = (0..16)
                .map(|n| rumour(by, 20 + (round * 16 + n + by) % 100, 10, Life::Down))
                .collect();
            rig.ping(by, claims);
            let about = node(20 + (round + by) % 100);
            rig.ask(by, Ask::PingFor { node: about, claims: vec![] });
            let new = word(by, 11 + round as u64, Life::Alive, 0);
            rig.ping(by, vec![new]);
        }
        rig.pass(100);
        let (sizes, pace) = (rig.machine.sizes(), rig.pace);
        assert!(sizes.claims <= sizes.members * (1 + pace.claims_about_max), "{sizes:?}");
        assert!(sizes.news <= pace.news_max && sizes.probes <= pace.probes_max, "{sizes:?}");
        assert!(sizes.errands <= pace.errands_max && sizes.asks <= pace.asks_max, "{sizes:?}");
        assert!(sizes.waiting <= sizes.members, "{sizes:?}");
    }
    assert!(
        rig.machine.sizes().errands > 0 && rig.machine.sizes().news > 0,
        "or nothing was tested"
    );
}

#[test]
fn one_asker_gets_a_bounded_number_of_errands_and_a_stranger_none() {
    let mut rig = Rig::new(50);
    for n in 10..40 {
        rig.ask(1, Ask::PingFor { node: node(n), claims: vec![] });
        rig.ask(77, Ask::PingFor { node: node(n), claims: vec![] });
    }
    rig.ask(2, Ask::PingFor { node: made_up(1), claims: vec![] });
    assert_eq!(rig.machine.sizes().errands, rig.pace.errands_per_asker_max);
}

#[test]
fn who_asks_often_does_not_use_the_news_up() {
    let mut rig = Rig::new(20);
    for n in 1..20 {
        rig.ping(n, vec![word(n, 10, Life::Alive, 0)]);
    }
    rig.now += rig.pace.probe_fails_ms;
    rig.ping(2, vec![rumour(2, 1, 10, Life::Down)]);
    for n in 0..500 {
        rig.ping(3 + n % 2, vec![]);
        rig.ping(77, vec![]);
    }
    let told = rig.ping(9, vec![]);
    assert!(told.contains(&rumour(2, 1, 10, Life::Down)), "{told:?}");
    assert_eq!(rig.ping(77, vec![]).len(), 1, "strangers hear this node's own word only");
}

#[test]
fn all_messages_fit_their_bound() {
    let nodes = 60;
    let mut rig = Rig::new(nodes);
    for n in 1..nodes {
        rig.ping(n, vec![word(n, 10, Life::Alive, 0)]);
    }
    rig.now += rig.pace.probe_fails_ms;
    for by in 1..6 {
        rig.ping(by, (10..26).map(|n| rumour(by, n, 10, Life::Down)).collect());
    }
    let told = rig.ping(30, vec![]);
    assert!(told.len() > 8 && told.len() <= rig.pace.claims_max, "{}", told.len());
    for output in &rig.outputs {
        let echonet_protocol::membership::MembershipOutput::Ask { ask, .. } = output else {
            continue;
        };
        assert!(ask.claims().len() <= rig.pace.claims_max);
    }
}
