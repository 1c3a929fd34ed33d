//! What one member makes of what it is told, claim by claim.

use echonet_protocol::{
    identity::{Signature, Signed},
    machine::Machine,
    membership::{Answer, Ask, Claim, DiskHealth, Evidence, Life, MembershipInput},
    network::NetworkId,
    time::UnixSeconds,
};

use crate::{
    rig::{Rig, asks_for, asks_to, hints, lives, node, rumour, word},
    world::{UNIX, claim},
};

/// A rig that has heard all nodes' words, long enough ago that it is open to doubts.
fn acquainted(nodes: usize) -> Rig {
    let mut rig = Rig::new(nodes);
    for n in 1..nodes {
        rig.ping(n, vec![word(n, 10, Life::Alive, 0)]);
    }
    rig.now += rig.pace.probe_fails_ms;
    rig.input(MembershipInput::Tick);
    rig
}

#[test]
fn a_doubted_node_answers_with_a_later_word() {
    let mut rig = Rig::new(4);
    let first = rig.own_incarnation();
    assert_eq!(first, UNIX, "later than all words of earlier runs");
    let doubt = rumour(1, 0, first, Life::Suspect);
    let answer = rig.ping(2, vec![doubt.clone()]);
    assert_eq!((answer[0].body.incarnation, answer[0].body.life), (first + 1, Life::Alive));
    assert_eq!(answer[0].verify(&crate::world::NETWORK), Ok(()));
    // The same again, later: it is about a word that is past.
    rig.now += 60_000;
    rig.ping(2, vec![doubt]);
    assert_eq!(rig.own_incarnation(), first + 1);
    // At most one answer in a period, however many doubt.
    rig.ping(2, vec![rumour(1, 0, first + 1, Life::Down), rumour(3, 0, first + 2, Life::Down)]);
    assert_eq!(rig.own_incarnation(), first + 2);
}

#[test]
fn nobody_can_use_up_a_nodes_incarnations() {
    let mut rig = Rig::new(4);
    let first = rig.own_incarnation();
    for incarnation in [first + 1, Claim::INCARNATION_MAX, 0] {
        rig.ping(1, vec![rumour(1, 0, incarnation, Life::Down)]);
        rig.now += 10_000;
    }
    assert_eq!(rig.own_incarnation(), first);
}

#[test]
fn a_restarted_node_outdoes_its_earlier_word() {
    let mut rig = Rig::new(3);
    let before = word(0, UNIX + 500, Life::Left, 500);
    rig.ping(1, vec![before]);
    assert_eq!(rig.own_incarnation(), UNIX + 501);
    let mine = rig.machine.word(&node(0)).unwrap();
    assert_eq!(mine.body.life, Life::Alive);
    // Of the same second, but not what it says now.
    rig.ping(1, vec![word(0, UNIX + 501, Life::Left, 501)]);
    assert_eq!(rig.own_incarnation(), UNIX + 502);
}

#[test]
fn doubt_is_a_hint_to_ask_and_an_answer_ends_it() {
    let mut rig = acquainted(5);
    rig.input(MembershipInput::Asked { from: node(1), id: 99, ask: Ask::Ping { claims: vec![] } });
    rig.outputs.clear();
    let down = rumour(1, 2, 10, Life::Down);
    rig.ping(3, vec![down.clone()]);
    assert_eq!(lives(&rig.outputs, 2), [Life::Suspect]);
    assert_eq!(rig.view(2).evidence, Evidence::Hearsay);
    assert_eq!(hints(&rig.outputs), 1);
    let asks = asks_to(&rig.outputs, 2);
    let (id, Ask::Ping { claims }) = &asks[0] else { panic!("{asks:?}") };
    assert!(claims.contains(&down), "who is doubted is told, so that it can answer");
    let later = word(2, 11, Life::Alive, 3);
    let answer = Answer::Pong { claims: vec![later] };
    rig.input(MembershipInput::Answered { to: node(2), id: *id, answer });
    assert_eq!(lives(&rig.outputs, 2), [Life::Suspect, Life::Alive]);
    assert_eq!((rig.view(2).evidence, rig.view(2).incarnation), (Evidence::Own, 11));
    // The rumour goes on elsewhere; here it is settled, now and later.
    rig.outputs.clear();
    rig.ping(4, vec![down.clone()]);
    rig.now += 20_000;
    rig.ping(4, vec![down]);
    assert_eq!((hints(&rig.outputs), lives(&rig.outputs, 2)), (0, vec![]));
}

#[test]
fn hearsay_alone_makes_nobody_down() {
    let mut rig = acquainted(40);
    let claims: Vec<_> = (2..17).map(|by| rumour(by, 1, 10, Life::Down)).collect();
    rig.ping(20, claims);
    let failed_ms = rig.pace.probe_fails_ms;
    let outputs = rig.pass(failed_ms - 1);
    assert_eq!(lives(&outputs, 1), [], "{:?}", rig.view(1));
    assert_eq!(rig.view(1).life, Life::Suspect);
}

#[test]
fn down_takes_three_failed_probes_and_the_whole_suspicion() {
    let mut rig = acquainted(6);
    rig.ping(2, vec![rumour(2, 1, 10, Life::Down)]);
    let first_ms = rig.now + rig.pace.probe_fails_ms;
    while rig.view(1).life != Life::Down {
        assert!(rig.now < 60_000, "{:?}", rig.view(1));
        // The others answer, so that it is not this node which is cut off.
        for n in 2..6 {
            rig.input(MembershipInput::Observed(node(n)));
        }
        rig.pass(100);
    }
    assert!(rig.view(1).failures >= 3, "{:?}", rig.view(1));
    let took_ms = rig.now - first_ms;
    let suspect_ms = rig.pace.suspect_ms;
    assert!((suspect_ms..suspect_ms + 2 * rig.pace.probe_ms).contains(&took_ms), "{took_ms}");
    assert_eq!(rig.view(1).evidence, Evidence::Own);
    // Its own traffic ends it at once.
    rig.input(MembershipInput::Observed(node(1)));
    assert_eq!((rig.view(1).life, rig.view(1).failures), (Life::Alive, 0));
}

#[test]
fn old_deaths_replayed_change_nothing() {
    let mut rig = acquainted(6);
    let old = UnixSeconds(UNIX - rig.pace.claim_age_s - 10);
    let ahead = UnixSeconds(UNIX + rig.pace.claim_age_s + 10);
    rig.outputs.clear();
    rig.ping(
        3,
        vec![
            rumour(2, 1, 9, Life::Down),
            claim(2, node(1), 10, Life::Down, old),
            claim(2, node(1), 0, Life::Down, old),
            claim(2, node(1), 10, Life::Down, ahead),
            word(1, 9, Life::Left, 50),
        ],
    );
    assert_eq!(rig.view(1).life, Life::Alive);
    assert_eq!((hints(&rig.outputs), lives(&rig.outputs, 1)), (0, vec![]));
    // The same claim is one when it is fresh.
    rig.ping(3, vec![rumour(2, 1, 10, Life::Down)]);
    assert_eq!((hints(&rig.outputs), lives(&rig.outputs, 1)), (1, vec![Life::Suspect]));
}

#[test]
fn claims_of_strangers_and_forged_ones_are_nothing() {
    let mut rig = acquainted(5);
    rig.outputs.clear();
    let good = rumour(2, 1, 10, Life::Down);
    let forged = Signed { sig: Signature([1; 64]), ..good.clone() };
    let mut foreign = good.clone();
    foreign.body.network = NetworkId([8; 32]);
    let by_stranger = rumour(77, 1, 10, Life::Down);
    let about_stranger = rumour(2, 77, 0, Life::Down);
    let mut shapeless = good.clone();
    shapeless.body.life = Life::Left;
    rig.ping(3, vec![forged, foreign, by_stranger, about_stranger, shapeless]);
    assert_eq!((hints(&rig.outputs), rig.view(1).life), (0, Life::Alive));
    assert!(rig.machine.member(&node(77)).is_none());
    rig.ping(3, vec![good]);
    assert_eq!(hints(&rig.outputs), 1);
}

#[test]
fn a_claimant_is_heard_so_many_times_and_no_more() {
    let mut rig = acquainted(200);
    rig.outputs.clear();
    let accuse =
        |from: usize, to: usize| (from..to).map(|n| rumour(1, n, 10, Life::Down)).collect();
    for from in [10, 25, 40, 55] {
        rig.ping(2, accuse(from, from + 15));
    }
    let burst = rig.pace.claimant_burst as usize;
    assert_eq!(hints(&rig.outputs), burst, "of 60 claims");
    // Another claimant is not affected.
    rig.outputs.clear();
    rig.ping(2, vec![rumour(3, 150, 10, Life::Down)]);
    assert_eq!(hints(&rig.outputs), 1);
}

#[test]
fn a_helper_cannot_keep_the_dead_alive() {
    let mut rig = acquainted(8);
    rig.ping(2, vec![rumour(2, 1, 10, Life::Down)]);
    let outputs = rig.pass(rig.pace.direct_ms);
    let helpers = asks_for(&outputs, 1);
    assert_eq!(helpers.len(), rig.pace.helpers, "{outputs:?}");
    let tried =
        |after_s| Answer::Tried { reached: true, claims: vec![word(1, 10, Life::Alive, after_s)] };
    // What it said when it was last heard, and nothing at all.
    for ((to, id), answer) in
        helpers.iter().zip([tried(0), Answer::Tried { reached: true, claims: vec![] }])
    {
        rig.input(MembershipInput::Answered { to: *to, id: *id, answer });
        assert_eq!(rig.view(1).life, Life::Suspect);
    }
    // What only a living node can say.
    let (to, id) = helpers[2];
    rig.input(MembershipInput::Answered { to, id, answer: tried(3) });
    assert_eq!((rig.view(1).life, rig.view(1).evidence), (Life::Alive, Evidence::Word));
    let outputs = rig.pass(rig.pace.probe_fails_ms);
    assert_eq!(lives(&outputs, 1), [], "its probe is over");
}

#[test]
fn who_helps_passes_on_the_fresh_word() {
    let mut rig = acquainted(4);
    let reply = rig.ask(1, Ask::PingFor { node: node(2), claims: vec![] });
    assert_eq!(reply, None, "it has to ask first");
    let (id, _) = asks_to(&rig.outputs, 2).pop().unwrap();
    let fresh = word(2, 10, Life::Alive, 3);
    let answer = Answer::Pong { claims: vec![fresh.clone()] };
    let outputs = rig.input(MembershipInput::Answered { to: node(2), id, answer });
    let replied = format!("{outputs:?}").matches("reached: true").count();
    assert_eq!(replied, 1, "{outputs:?}");
    assert_eq!(rig.machine.word(&node(2)), Some(&fresh));
    // Nobody answers: that is said in time.
    assert_eq!(rig.ask(1, Ask::PingFor { node: node(3), claims: vec![] }), None);
    let outputs = rig.pass(rig.pace.direct_ms);
    assert_eq!(format!("{outputs:?}").matches("reached: false").count(), 1, "{outputs:?}");
}

#[test]
fn a_goodbye_is_final_until_a_later_word() {
    let mut rig = acquainted(4);
    rig.outputs.clear();
    rig.ping(2, vec![word(1, 11, Life::Left, 1)]);
    assert_eq!(lives(&rig.outputs, 1), [Life::Left]);
    rig.input(MembershipInput::Observed(node(1)));
    assert_eq!(rig.view(1).life, Life::Left, "its last packets do not bring it back");
    let outputs = rig.pass(60_000);
    assert!(asks_to(&outputs, 1).is_empty(), "it is not asked any more");
    rig.ping(1, vec![word(1, 12, Life::Alive, 60)]);
    assert_eq!(rig.view(1).life, Life::Alive);
}

#[test]
fn who_leaves_says_so_and_asks_nobody_any_more() {
    let mut rig = acquainted(12);
    let before = rig.own_incarnation();
    let outputs = rig.input(MembershipInput::Leave);
    let mine = rig.machine.word(&node(0)).unwrap();
    assert_eq!((mine.body.life, mine.body.incarnation), (Life::Left, before + 1));
    let told = outputs.iter().filter(|o| format!("{o:?}").contains("life: Left")).count();
    assert!(told >= 8, "{outputs:?}");
    assert_eq!(rig.machine.timeout(), None);
    assert_eq!(rig.ping(1, vec![])[0].body.life, Life::Left, "it still answers");
}

#[test]
fn a_sick_disk_is_said_and_heard() {
    let mut rig = acquainted(3);
    let before = rig.own_incarnation();
    rig.input(MembershipInput::Disk(DiskHealth::Healthy));
    assert_eq!(rig.own_incarnation(), before, "no news");
    rig.input(MembershipInput::Disk(DiskHealth::Sick));
    let mine = rig.machine.word(&node(0)).unwrap();
    assert_eq!((mine.body.disk, mine.body.incarnation), (Some(DiskHealth::Sick), before + 1));
    let mut theirs = word(1, 11, Life::Alive, 1).body;
    theirs.disk = Some(DiskHealth::Sick);
    let theirs = Signed::new(&crate::world::identity(1), theirs);
    rig.outputs.clear();
    rig.ping(2, vec![theirs]);
    assert_eq!(rig.view(1).disk, Some(DiskHealth::Sick));
    assert_eq!(lives(&rig.outputs, 1), [Life::Alive], "told although it lives as before");
}

#[test]
fn who_slept_declares_nobody_dead() {
    let mut rig = acquainted(6);
    rig.pass(rig.pace.probe_ms);
    rig.now += 3_600_000;
    let outputs = rig.input(MembershipInput::Tick);
    assert!((1..6).all(|n| rig.view(n).failures == 0), "{outputs:?}");
    let outputs = rig.pass(rig.pace.suspect_ms);
    let down = (1..6).filter(|n| lives(&outputs, *n).contains(&Life::Down)).count();
    assert_eq!(down, 0, "not before a suspicion of its own");
}
