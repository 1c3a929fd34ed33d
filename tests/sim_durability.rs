//! The durability study in its quick form: the model agrees with simulations that
//! lose enough to be counted, and thresholds cost what they are said to.

use std::sync::LazyLock;

use echonet_protocol::segment::Scheme;
use echonet_tests::durability::{
    Churn, Model, Played, Size, Study, Thresholds, play, published_cases, run, stressed_cases,
};

static STUDY: LazyLock<Study> =
    LazyLock::new(|| run(Size::Quick, 2, None).expect("a study without files"));

fn traffic(thresholds: Thresholds) -> f64 {
    let mut cases = STUDY.published.iter().filter(|one| one.case.thresholds == thresholds);
    let one = cases.next().expect("a case of each");
    one.outcome.traffic(&one.case.scenario)
}

#[test]
fn model_and_simulation_agree_where_a_hundred_are_lost() {
    assert!(STUDY.stressed.len() >= 3);
    for played in &STUDY.stressed {
        played.check().unwrap();
    }
    // The check itself can fail: too few losses, and a model that is off.
    let one = &STUDY.stressed[0];
    let wrong = Played { model: one.model * 5.0, ..one.clone() };
    wrong.check().unwrap_err();
    let mut few = one.clone();
    few.outcome.losses = 99;
    few.check().unwrap_err();
}

#[test]
fn the_same_seed_gives_the_same_years() {
    let case = &stressed_cases(Size::Quick)[1];
    let mut scenario = case.scenario.clone();
    scenario.years = 0.1;
    println!("seed {}", scenario.seed);
    let first = play(&scenario);
    assert_eq!(first, play(&scenario));
    scenario.seed += 1;
    assert_ne!(first, play(&scenario));
}

#[test]
fn an_eager_network_moves_more_than_the_design_and_a_lazy_one_less() {
    let (eager, design, lazy) =
        (traffic(Thresholds::Eager), traffic(Thresholds::Design), traffic(Thresholds::Lazy));
    println!("bytes per byte and month: eager {eager:.1}, design {design:.1}, lazy {lazy:.1}");
    assert!(eager > 2.0 * design, "{eager} against {design}");
    assert!(lazy < design, "{lazy} against {design}");
}

#[test]
fn nothing_is_lost_at_published_rates() {
    for played in &STUDY.published {
        assert_eq!(played.outcome.losses, 0);
        assert!(played.limits().1 > 0.0, "nothing lost is not a rate of nothing");
    }
    let count = published_cases(Size::Quick).len();
    assert_eq!(STUDY.published.len(), count);
}

#[test]
fn the_model_knows_what_makes_loss_likelier() {
    let rate = |scheme: Scheme, thresholds: Thresholds, churn: &Churn, repair_h: f64| {
        Model::new(&thresholds.policy(scheme), churn, repair_h).losses_per_year()
    };
    let (ten, design, year) = (Scheme::DEFAULT, Thresholds::Design, Churn::YEAR);
    let usual = rate(ten, design, &year, 1.0);
    assert!(usual > 0.0 && usual < 1e-6, "{usual}");
    let short_lived = Churn { lifetime_h: year.lifetime_h / 2.0, ..year };
    assert!(rate(ten, design, &short_lived, 1.0) > 2.0 * usual);
    assert!(rate(ten, design, &year, 24.0) > 2.0 * usual);
    assert!(rate(ten, Thresholds::Lazy, &year, 1.0) > usual);
    assert!(rate(Scheme::new(10, 14).unwrap(), design, &year, 1.0) < usual / 1000.0);
    // Six shards gone at once may be survived, seven may not.
    let model = Model::new(&design.policy(ten), &year, 1.0);
    assert!(model.loss_after(4) < model.loss_after(6) && model.loss_after(6) < 0.1);
    assert!((model.loss_after(7) - 1.0).abs() < f64::EPSILON);
}
