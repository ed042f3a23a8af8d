//! Counter-based random numbers: a number is a function of (seed, position), so that rows of a batch are independent
//! and a rolled-back step draws the same number again. Kernels compute the same bits (`shaders/lib/noise.wgsl`).

/// The random numbers of one position.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Random {
    /// What the noise of every id is made of: see [`gumbel`].
    pub noise: [u32; 2],
    /// A number in [0, 1): whether XTC is applied.
    pub coin: f64,
}

impl Random {
    /// Those of a position: two numbers of SplitMix64, started at a hash of seed and position.
    pub fn at(seed: u64, position: u32) -> Self {
        let mut state = seed;
        let hashed = split_mix(&mut state) ^ u64::from(position).wrapping_mul(0xD1B5_4A32_D192_ED03);
        let mut state = hashed;
        let words = split_mix(&mut state);
        let coin = (split_mix(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
        Self { noise: [words as u32, (words >> 32) as u32], coin }
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The bits of an id's noise.
fn bits(noise: [u32; 2], id: u32) -> u32 {
    scrambled(scrambled(id ^ noise[0]).wrapping_add(noise[1]))
}

/// A bijection of 32 bits in which every bit depends on every bit (Wellons' lowbias32).
fn scrambled(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// What is added to a logit so that the greatest sum is a draw from the softmax of the logits (Gumbel's trick):
/// `-ln(-ln(1 - u))` with `u = (bits + 1/2) / 2^32`.
pub fn gumbel(noise: [u32; 2], id: u32) -> f32 {
    transformed(bits(noise, id))
}

fn transformed(bits: u32) -> f32 {
    const UNIT: f32 = 1.0 / 4_294_967_296.0;
    // Tokens win with a small u, so that is where -ln(1 - u) must be exact.
    let e = if bits < 1 << 28 {
        let u = (bits as f32 + 0.5) * UNIT;
        u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * (0.25 + u * (0.2 + u * (1.0 / 6.0))))))
    } else {
        -((!bits as f32 + 0.5) * UNIT).ln()
    };
    -e.ln()
}

/// The id of the greatest of `logit / temperature + gumbel`, the lowest on a tie, among the ids that stay; of logits beyond
/// what a number holds the lowest id that stays.
pub(super) fn draw(logits: &[f32], inverse_temperature: f32, noise: [u32; 2], stays: impl Fn(usize) -> bool) -> u32 {
    let (mut best, mut best_id) = (f32::NEG_INFINITY, None);
    for (id, logit) in logits.iter().enumerate() {
        let tempered = logit * inverse_temperature;
        let bits = bits(noise, id as u32);
        // Noise is at most -ln(u), so few tokens need its two logarithms.
        let most = (bits.leading_zeros() + 1) as f32 * std::f32::consts::LN_2 + 1e-3;
        if tempered + most <= best || !stays(id) {
            continue;
        }
        let value = tempered + transformed(bits);
        if value > best {
            (best, best_id) = (value, Some(id));
        }
    }
    best_id.or_else(|| (0..logits.len()).find(|id| stays(*id))).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_exact_on_both_sides_of_its_seam() {
        for bits in [0u32, 1, 1000, (1 << 28) - 1, 1 << 28, 1 << 31, u32::MAX - 1, u32::MAX] {
            let u = (f64::from(bits) + 0.5) / 4_294_967_296.0;
            let exact = -(-(-u).ln_1p()).ln();
            let found = f64::from(transformed(bits));
            assert!((found - exact).abs() < 1e-6 * (1.0 + exact.abs()), "{bits}: {found} for {exact}");
            let most = f64::from(bits.leading_zeros() + 1) * std::f64::consts::LN_2;
            assert!(exact <= most, "{bits}: {exact} above {most}");
        }
    }

    /// Chi-square of 256 cells of the hash's upper and lower bits, over ids of one position and over positions of one id,
    /// and of the pairs of neighbouring ids.
    #[test]
    fn noise_bits_are_even_along_ids_and_positions() {
        const N: u32 = 1 << 16;
        let chi_square = |cell: &dyn Fn(u32) -> usize| {
            let mut counts = [0u32; 256];
            (0..N).for_each(|ix| counts[cell(ix)] += 1);
            let expected = f64::from(N) / 256.0;
            counts.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum::<f64>()
        };
        let one = Random::at(7, 100).noise;
        let at = |position: u32| Random::at(7, position).noise;
        let cells: [(&str, &dyn Fn(u32) -> usize); 5] = [
            ("upper bits along ids", &|id| (bits(one, id) >> 24) as usize),
            ("lower bits along ids", &|id| (bits(one, id) & 255) as usize),
            ("upper bits along positions", &|position| (bits(at(position), 5) >> 24) as usize),
            ("neighbouring ids", &|id| ((bits(one, id) >> 28 << 4) | (bits(one, id + 1) >> 28)) as usize),
            ("neighbouring positions", &|p| ((bits(at(p), 9) >> 28 << 4) | (bits(at(p + 1), 9) >> 28)) as usize),
        ];
        for (what, cell) in cells {
            // 255 degrees of freedom: mean 255, standard deviation 22.6. A permutation may be more even than chance.
            let found = chi_square(cell);
            assert!(found < 255.0 + 5.0 * 22.6, "{what}: {found}");
        }
    }

    #[test]
    fn draws_skip_what_cannot_win_and_what_does_not_stay() {
        let logits: Vec<f32> = (0..500u32).map(|id| ((id * 7919) % 101) as f32 / 20.0).collect();
        for position in 0..200 {
            let noise = Random::at(1, position).noise;
            let value = |id: u32| logits[id as usize] * 1.25 + gumbel(noise, id);
            let stays = |id: usize| id % 3 != 1;
            let by_hand = (0..500u32).filter(|id| stays(*id as usize)).max_by(|a, b| value(*a).total_cmp(&value(*b)));
            assert_eq!(Some(draw(&logits, 1.25, noise, stays)), by_hand);
        }
        let noise = Random::at(1, 0).noise;
        assert_eq!(draw(&[0.0, -3e38, -3e38], 10.0, noise, |id| id > 0), 1, "minus infinity, but it stays");
    }
}
