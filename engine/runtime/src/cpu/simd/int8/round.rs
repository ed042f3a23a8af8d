//! Rounding of activations to 8 bits, in blocks of 32 columns with a factor each.

use super::super::{Op, Simd};
use crate::cpu::weight::Format;

/// 64 columns of x: two blocks of 32, each with its factor.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Block {
    /// -127..=127, in an [`Order`].
    pub(crate) q: [i8; 64],
    /// The factor of the first 32 columns four times, then that of the last 32.
    pub(crate) d: [f32; 8],
}

impl Block {
    pub(crate) const ZERO: Self = Self { q: [0; 64], d: [0.0; 8] };
}

/// Blocks of a row of `k` columns; where k is an odd multiple of 32 the last is half zeros.
pub(crate) fn n_blocks(k: usize) -> usize {
    k.div_ceil(64)
}

/// How the 64 columns of a block lie. Always 16 bytes of the first 32 columns, 16 of the last, and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first 16 columns, then the last 16 of each 32.
    Natural,
    /// Even columns, then odd ones: as the low and high nibbles of a byte are.
    Nibbles,
}

impl Order {
    /// Both, for tables.
    pub(crate) const ALL: [Self; 2] = [Order::Natural, Order::Nibbles];

    /// That of a format's codes, once unpacked.
    pub(crate) fn of(format: Format) -> Self {
        match format {
            Format::Affine { bits: 4, .. } => Order::Nibbles,
            _ => Order::Natural,
        }
    }

    /// Where in a block column `c` of its half `half` lies.
    #[inline(always)]
    pub(crate) fn place(self, half: usize, c: usize) -> usize {
        match self {
            Order::Natural => c / 16 * 32 + half * 16 + c % 16,
            Order::Nibbles => c % 2 * 32 + half * 16 + c / 2,
        }
    }
}

/// Rounds a row: blocks in each wanted order, and the sum of each 32 rounded columns.
pub(crate) struct Round<'a> {
    /// A multiple of 32 columns.
    pub(crate) x: &'a [f32],
    /// [`n_blocks`] blocks for each order of [`Order::ALL`], or none.
    pub(crate) blocks: [&'a mut [Block]; 2],
    /// One sum for every 32 columns.
    pub(crate) sums: &'a mut [f32],
}

impl Op for Round<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Round { x, mut blocks, sums } = self;
        assert!(x.len().is_multiple_of(32) && sums.len() >= x.len() / 32, "rows are rounded in blocks of 32");
        for blocks in &mut blocks {
            if let Some(last) = blocks.last_mut().filter(|_| x.len() % 64 == 32) {
                *last = Block::ZERO;
            }
        }
        for (ix, (x, sum)) in x.as_chunks::<32>().0.iter().zip(sums).enumerate() {
            let (d, q) = round32(x);
            *sum = d * q.iter().map(|&q| i32::from(q)).sum::<i32>() as f32;
            for (order, blocks) in Order::ALL.into_iter().zip(&mut blocks) {
                let Some(block) = blocks.get_mut(ix / 2) else { continue };
                let half = ix % 2;
                for (c, &q) in q.iter().enumerate() {
                    block.q[order.place(half, c)] = q;
                }
                block.d[4 * half..4 * half + 4].fill(d);
            }
        }
    }
}

/// (d, q) with x nearly d * q: d is a 127th of the largest magnitude. A block that holds a NaN has it for d.
#[inline(always)]
pub(crate) fn round32(x: &[f32; 32]) -> (f32, [i8; 32]) {
    // As whole numbers, magnitudes have the order of their values, and a NaN is the largest.
    let largest = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max);
    let largest = f32::from_bits(largest);
    // Below this the reciprocal would overflow; what is dropped is smaller than any sum can show.
    if largest < 128.0 * f32::MIN_POSITIVE {
        return (0.0, [0; 32]);
    }
    let inverse = 127.0 / largest;
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits, ties to even.
    let q = x.map(|x| (x * inverse + 12_582_912.0).to_bits() as i8);
    (largest / 127.0, q)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{dispatch, dispatch_scalar};
    use crate::cpu::testing::Random;

    #[test]
    fn a_block_is_off_by_half_a_step_at_most() {
        let mut random = Random::new(5);
        for factor in [1e-30, 1.0, 1e5, 1e30] {
            let mut x = [0.0; 32];
            x.iter_mut().for_each(|x| *x = factor * random.normal());
            let (d, q) = round32(&x);
            assert_eq!(q.iter().map(|q| q.unsigned_abs()).max(), Some(127));
            for (x, q) in x.iter().zip(q) {
                assert!((x - d * f32::from(q)).abs() <= 0.5001 * d, "{x} became {q} times {d}");
            }
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(round32(&[0.0; 32]), (0.0, [0; 32]));
        assert_eq!(round32(&[-1e-40; 32]), (0.0, [0; 32]));
        assert_eq!(round32(&[127.0; 32]), (1.0, [127; 32]));
        let (d, q) = round32(&[-f32::MAX; 32]);
        assert!(d.is_finite());
        assert_eq!(q, [-127; 32]);
        let mut x = [1.0; 32];
        x[7] = f32::NAN;
        assert!(round32(&x).0.is_nan());
        // Ties go to the even neighbour.
        let mut x = [0.5, 1.5, 2.5, -0.5, -1.5].repeat(7);
        x[0] = 127.0;
        x.truncate(32);
        assert_eq!(round32(x.as_array().expect("32 numbers")).1[1..5], [2, 2, 0, -2]);
    }

    #[test]
    fn rows_lie_in_their_order_and_half_blocks_end_in_zeros() {
        let mut random = Random::new(6);
        for k in [32, 64, 96, 320] {
            let x = random.normals(k);
            let rounded = |scalar: bool| {
                let poison = Block { q: [99; 64], d: [f32::NAN; 8] };
                let (mut natural, mut nibbles) = (vec![poison; n_blocks(k)], vec![poison; n_blocks(k)]);
                let mut sums = vec![f32::NAN; k / 32];
                let round = Round { x: &x, blocks: [&mut natural, &mut nibbles], sums: &mut sums };
                if scalar {
                    dispatch_scalar(round)
                } else {
                    dispatch(round)
                }
                (natural, nibbles, sums)
            };
            let (natural, nibbles, sums) = rounded(false);
            let plain = rounded(true);
            for (order, blocks, plain) in [(Order::Natural, &natural, &plain.0), (Order::Nibbles, &nibbles, &plain.1)] {
                for (a, b) in blocks.iter().zip(plain) {
                    assert_eq!((a.q, a.d), (b.q, b.d));
                }
                for (ix, x) in x.as_chunks::<32>().0.iter().enumerate() {
                    let (block, half) = (&blocks[ix / 2], ix % 2);
                    let (d, q) = round32(x);
                    assert_eq!(block.d[4 * half..4 * half + 4], [d; 4]);
                    for (c, q) in q.into_iter().enumerate() {
                        assert_eq!(block.q[order.place(half, c)], q, "{order:?} K={k} column {c} of {ix}");
                    }
                    let sum: f32 = q.iter().map(|&q| f32::from(q)).sum::<f32>() * d;
                    assert_eq!(sums[ix], sum);
                }
                if k % 64 == 32 {
                    let last = blocks.last().expect("a block");
                    assert_eq!(last.d[4..], [0.0; 4]);
                    assert!((0..32).all(|c| last.q[order.place(1, c)] == 0));
                }
            }
        }
    }
}
