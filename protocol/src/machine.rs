//! What all state machines of the control plane share: virtual time, the way
//! they are driven, and reproducible draws.
//!
//! A machine never reads a clock, sends a byte or draws a random number: time
//! and seeds are passed in, what is to be done comes out. The node drives the
//! machines with real effects, the simulator drives the very same code.

/// Milliseconds on the driver's monotonic clock, from any origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The time `delay_ms` later; saturates.
    #[must_use]
    pub const fn after(self, delay_ms: u64) -> Self {
        Self(self.0.saturating_add(delay_ms))
    }

    /// Milliseconds since an earlier time; 0 when it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A state machine without effects.
///
/// After construction and after every [`Machine::handle`], the driver calls
/// [`Machine::poll`] until it gives nothing, carries the outputs out, and calls
/// `handle` with the results, or with the machine's `Tick` no later than
/// [`Machine::timeout`]. Inputs about things that are over are ignored.
pub trait Machine {
    /// What the driver reports.
    type Input;
    /// What the driver is to do.
    type Output;

    /// Takes note of something that happened at `now`; `now` never goes back.
    fn handle(&mut self, now: Millis, input: Self::Input);

    /// The next thing to do, in order.
    fn poll(&mut self) -> Option<Self::Output>;

    /// When to report a tick at the latest; none: only an input moves it on.
    fn timeout(&self) -> Option<Millis>;
}

/// Reproducible draws from a seed (SplitMix64). Whoever must not be predicted
/// passes a seed that cannot be; nothing secret is ever drawn here.
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// Draws that depend on the seed alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number under `bound`, evenly (the bias of 64 bits is beyond notice);
    /// 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a 128-bit product is always under `bound`.
        let product = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// Puts items into an order that depends on the draws alone.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or(0);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_splitmix64() {
        // The first outputs for seed 1234567, as published with the algorithm.
        let mut draws = Draws::new(1_234_567);
        let expected = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973];
        assert_eq!([draws.next_u64(), draws.next_u64()], expected);
    }

    #[test]
    fn draws_stay_below_and_reach_all() {
        let mut draws = Draws::new(7);
        let mut seen = [0_u32; 5];
        for _ in 0..5_000 {
            seen[usize::try_from(draws.below(5)).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
        assert_eq!(draws.below(0), 0);
    }
}
