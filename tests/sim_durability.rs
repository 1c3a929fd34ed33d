//! The durability study in its quick form.

use echonet_archive::health::Policy;
use echonet_protocol::{network::Timing, segment::Scheme};
use echonet_tests::durability::{Churn, Model, Scenario, Tail, play};

#[test]
fn probe() {
    let timing = Timing {
        probe_s: 60,
        suspect_s: 120,
        grace_s: 86_400,
        urgent_s: 1020,
        top_up_s: 7 * 86_400,
    };
    for scheme in [Scheme::SMALL, Scheme::DEFAULT, Scheme::new(10, 14).unwrap()] {
        let policy = Policy::of(scheme, &timing);
        for (days, repair_h) in
            [(10.0, 24.0), (20.0, 24.0), (20.0, 48.0), (40.0, 48.0), (365.0, 0.02)]
        {
            let churn = Churn { lifetime_h: days * 24.0, tail: Tail::Exponential, ..Churn::YEAR };
            let start = std::time::Instant::now();
            let rate = Model::new(&policy, &churn, repair_h).losses_per_year();
            println!("{scheme} {days} d {repair_h} h: {rate:.3e} model in {:?}", start.elapsed());
        }
    }
    let churn = Churn { lifetime_h: 20.0 * 24.0, ..Churn::YEAR };
    let policy = Policy::of(Scheme::DEFAULT, &timing);
    let scenario = Scenario {
        policy,
        churn,
        nodes: 1000,
        segments: 500,
        years: 2.0,
        segment_bytes: 32 << 20,
        repair_h: 24.0,
        node_bytes_per_s: 1 << 40,
        held_bytes: 0,
        vetting_h: 0.0,
        disaster_year: None,
        seed: 1,
    };
    let start = std::time::Instant::now();
    let outcome = play(&scenario);
    println!(
        "{outcome:?} {:?} traffic {} rate {}",
        start.elapsed(),
        outcome.traffic(&scenario),
        outcome.loss_rate()
    );
}
