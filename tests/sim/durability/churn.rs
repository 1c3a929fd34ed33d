//! How long nodes stay, how long they are on and off, and where the figures come
//! from. It draws from a seed alone.

use echonet_protocol::machine::Draws;

use super::markov::REPAIRING;

/// Milliseconds of an hour.
pub(super) const HOUR_MS: f64 = 3_600_000.0;
/// Hours of a year.
pub const YEAR_H: f64 = 8766.0;

/// The shape of a distribution around its mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Memoryless: what the Markov model assumes.
    Exponential,
    /// Weibull of shape 1/2: many leave soon, some stay for ever. Measured shapes
    /// are 0.34 to 0.59 (Stutzbach and Rejaie 2006), Weibull also in Steiner 2009.
    Heavy,
}

/// How a population of nodes comes and goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// For people.
    pub name: &'static str,
    /// Mean time from joining to leaving with everything held, hours.
    pub lifetime_h: f64,
    /// Mean time on, hours.
    pub up_h: f64,
    /// Mean time off, hours.
    pub down_h: f64,
    /// The shape of all three.
    pub tail: Tail,
}

impl Churn {
    /// Storj's network, June 2023, after a cut of its payouts: 634 nodes went
    /// offline and 88 left gracefully of 22,491 in a month, 3.2 % (its forum,
    /// thread 24124). On and off are ours.
    pub const STORJ_2023: Self = Self {
        name: "Storj 2023: 31 months, 99 % on",
        lifetime_h: 31.0 * 730.5,
        up_h: 240.0,
        down_h: 2.4,
        tail: Tail::Exponential,
    };
    /// What Storj's white paper planned with (12 months), at the least online
    /// score with which EchoNet promises 10+6; session lengths are ours.
    pub const YEAR: Self = Self {
        name: "white paper: 12 months, 95 % on",
        lifetime_h: 12.0 * 730.5,
        up_h: 120.0,
        down_h: 6.3,
        tail: Tail::Exponential,
    };
    /// Desktops of a company (Bolosky, Douceur, Ely, Theimer 2000): 290 days,
    /// on 81 % of the time. Mean session lengths are ours.
    pub const DESKTOPS: Self = Self {
        name: "desktops 2000: 290 days, 81 % on",
        lifetime_h: 290.0 * 24.0,
        up_h: 51.0,
        down_h: 12.0,
        tail: Tail::Exponential,
    };
    /// Skype's supernodes with more than one session (Bremler-Barr and
    /// Goldschmidt 2010): median residual life 67.5 days, here as a mean of 97;
    /// on and off as the desktops.
    pub const SUPERNODES: Self = Self {
        name: "Skype supernodes: 97 days, 81 % on",
        lifetime_h: 97.0 * 24.0,
        up_h: 51.0,
        down_h: 12.0,
        tail: Tail::Exponential,
    };

    /// Part of its life that a node is on.
    #[must_use]
    pub const fn online(&self) -> f64 {
        self.up_h / (self.up_h + self.down_h)
    }

    /// A time from the beginning of something that lasts `mean_h`.
    pub(super) fn whole_ms(&self, mean_h: f64, draws: &mut Draws) -> u64 {
        let e = exponential(draws);
        ms(match self.tail {
            Tail::Exponential => mean_h * e,
            Tail::Heavy => mean_h / 2.0 * e * e,
        })
    }

    /// A time from a random moment in something that lasts `mean_h`.
    pub(super) fn rest_ms(&self, mean_h: f64, draws: &mut Draws) -> u64 {
        ms(match self.tail {
            Tail::Exponential => mean_h * exponential(draws),
            Tail::Heavy => {
                // The one that a random moment falls into is longer than most.
                let y = exponential(draws) + exponential(draws) + exponential(draws);
                mean_h / 2.0 * y * y * uniform(draws)
            }
        })
    }
}

/// Evenly in [0, 1).
pub(super) fn uniform(draws: &mut Draws) -> f64 {
    (draws.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn exponential(draws: &mut Draws) -> f64 {
    -(1.0 - uniform(draws)).ln()
}

/// The time of one repair: as many stages as the model has.
pub(super) fn repair_time_ms(mean_h: f64, draws: &mut Draws) -> u64 {
    let stage_h = mean_h / REPAIRING as f64;
    ms((0..REPAIRING).map(|_| stage_h * exponential(draws)).sum())
}

fn ms(hours: f64) -> u64 {
    // A millisecond at least, so that time goes on.
    (hours * HOUR_MS) as u64 + 1
}
