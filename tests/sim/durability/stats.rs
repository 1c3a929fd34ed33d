//! What may be said from how many losses, and how figures are written.

/// Losses that are needed before a simulated rate is believed.
pub const LOSSES_MIN: u64 = 100;

/// 95 % limits of the mean of a Poisson count (Wilson and Hilferty); of nothing
/// seen, the upper one is the rule of three.
#[must_use]
pub fn poisson_limits(count: u64) -> (f64, f64) {
    const Z: f64 = 1.96;
    if count == 0 {
        return (0.0, 3.0);
    }
    let cube = |c: f64, z: f64| c * (1.0 - 1.0 / (9.0 * c) + z / (3.0 * c.sqrt())).powi(3);
    let count = count as f64;
    (cube(count, -Z), cube(count + 1.0, Z))
}

/// A chance or rate, short: "0.12", "3e-7".
#[must_use]
pub fn short(value: f64) -> String {
    if value == 0.0 {
        "0".into()
    } else if (0.001..1000.0).contains(&value) {
        let digits = if value >= 10.0 { 0 } else { (1.0 - value.log10().floor()) as usize };
        format!("{value:.digits$}")
    } else {
        let text = format!("{value:.1e}");
        text.replace(".0e", "e")
    }
}

/// A part as a percentage with two digits that mean something.
#[must_use]
pub fn percent(part: f64) -> String {
    format!("{} %", short(part * 100.0))
}

/// Chance that more than `most` of `n` are hit when each is with chance `p`.
#[must_use]
pub fn binomial_above(n: usize, most: usize, p: f64) -> f64 {
    let mut term = (1.0 - p).powi(n as i32);
    let mut above = 0.0;
    for hit in 0..=n {
        if hit > most {
            above += term;
        }
        term *= (n - hit) as f64 / (hit + 1) as f64 * p / (1.0 - p);
    }
    above
}
