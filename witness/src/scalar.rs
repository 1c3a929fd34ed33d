//! Numbers modulo r, the order of BLS12-381's groups: what sharing a key and putting its parts
//! together needs.
//!
//! Plain and slow (a product is 256 additions), and its time depends on the numbers: it is used on
//! public weights, and on secrets only where a development network's key is dealt.

/// r, lowest limb first.
const R: [u64; 4] =
    [0xffff_ffff_0000_0001, 0x53bd_a402_fffe_5bfe, 0x3339_d808_09a1_d805, 0x73ed_a753_299d_7d48];

/// A number under r, lowest limb first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar([u64; 4]);

impl Scalar {
    pub(crate) const ZERO: Self = Self([0; 4]);
    pub(crate) const ONE: Self = Self([1, 0, 0, 0]);

    pub(crate) const fn from_u64(number: u64) -> Self {
        Self([number, 0, 0, 0])
    }

    /// From 32 bytes, highest first; none at r and above.
    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let mut limbs = [0; 4];
        for (limb, part) in limbs.iter_mut().rev().zip(bytes.as_chunks::<8>().0) {
            *limb = bytes_to_limb(*part);
        }
        (!is_at_least(&limbs, &R)).then_some(Self(limbs))
    }

    /// 32 bytes, highest first.
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = self.to_bytes_reversed();
        bytes.reverse();
        bytes
    }

    /// 32 bytes, lowest first.
    pub(crate) fn to_bytes_reversed(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (part, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *part = limb.to_le_bytes();
        }
        bytes
    }

    pub(crate) fn add(self, other: Self) -> Self {
        let mut sum = [0; 4];
        let mut carry = false;
        for (at, limb) in sum.iter_mut().enumerate() {
            let (partial, first) = self.0[at].overflowing_add(other.0[at]);
            let (full, second) = partial.overflowing_add(u64::from(carry));
            (*limb, carry) = (full, first || second);
        }
        // r has 255 bits: the sum of two numbers under it never leaves 256.
        Self(if is_at_least(&sum, &R) { subtract(&sum, &R) } else { sum })
    }

    pub(crate) fn negate(self) -> Self {
        if self == Self::ZERO { self } else { Self(subtract(&R, &self.0)) }
    }

    pub(crate) fn multiply(self, other: Self) -> Self {
        let mut product = Self::ZERO;
        for limb in other.0.iter().rev() {
            for bit in (0..64).rev() {
                product = product.add(product);
                if limb >> bit & 1 == 1 {
                    product = product.add(self);
                }
            }
        }
        product
    }

    /// The number whose product with this is 1; zero for zero.
    pub(crate) fn invert(self) -> Self {
        // Fermat: the power r - 2.
        let power = subtract(&R, &[2, 0, 0, 0]);
        let mut inverse = Self::ONE;
        for limb in power.iter().rev() {
            for bit in (0..64).rev() {
                inverse = inverse.multiply(inverse);
                if limb >> bit & 1 == 1 {
                    inverse = inverse.multiply(self);
                }
            }
        }
        inverse
    }
}

fn bytes_to_limb(highest_first: [u8; 8]) -> u64 {
    highest_first.iter().fold(0, |limb, byte| limb << 8 | u64::from(*byte))
}

fn is_at_least(a: &[u64; 4], b: &[u64; 4]) -> bool {
    a.iter().rev().ge(b.iter().rev())
}

/// a - b, where a is not less.
fn subtract(a: &[u64; 4], b: &[u64; 4]) -> [u64; 4] {
    let mut rest = [0; 4];
    let mut borrow = false;
    for (at, limb) in rest.iter_mut().enumerate() {
        let (partial, first) = a[at].overflowing_sub(b[at]);
        let (full, second) = partial.overflowing_sub(u64::from(borrow));
        (*limb, borrow) = (full, first || second);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_wraps_at_the_order() {
        let last = Scalar(subtract(&R, &[1, 0, 0, 0]));
        assert!(last.add(Scalar::ONE) == Scalar::ZERO);
        assert!(last.multiply(last) == Scalar::ONE, "(-1)^2");
        assert!(Scalar::ONE.negate() == last && Scalar::ZERO.negate() == Scalar::ZERO);
        for number in [1, 2, 3, 171, u64::MAX] {
            let number = Scalar::from_u64(number);
            assert!(number.multiply(number.invert()) == Scalar::ONE);
            assert!(number.add(number.negate()) == Scalar::ZERO);
            assert!(Scalar::from_bytes(&number.to_bytes()) == Some(number));
        }
        assert!(Scalar::from_bytes(&last.to_bytes()) == Some(last));
        let order = Scalar(R).to_bytes();
        assert!(Scalar::from_bytes(&order).is_none() && Scalar::from_bytes(&[255; 32]).is_none());
        assert_eq!(order[..4], [0x73, 0xed, 0xa7, 0x53]);
    }
}
