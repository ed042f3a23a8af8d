use super::super::round::{Order, Round};
use super::*;
use crate::cpu::simd::dispatch;
use crate::cpu::testing::{Random, TestWeight, affine_formats, assert_close};

/// Rows of x, rounded for a format.
struct Input {
    n_rows: usize,
    x: Vec<f32>,
    blocks: Vec<Block>,
    sums: Vec<f32>,
}

impl Input {
    fn new(x: Vec<f32>, k: usize, format: Format) -> Self {
        let Format::Affine { group, .. } = format else { panic!("a format of floats") };
        let (n_rows, sum_stride) = (x.len() / k, (k / group).next_multiple_of(LANES));
        let mut blocks = vec![Block::ZERO; n_rows * n_blocks(k)];
        let mut sums = vec![0.0; n_rows * sum_stride];
        for r in 0..n_rows {
            let mut of_32 = vec![0.0; k / 32];
            let row = &mut blocks[r * n_blocks(k)..][..n_blocks(k)];
            let both = if Order::of(format) == Order::Natural { [row, &mut []] } else { [&mut [], row] };
            dispatch(Round { x: &x[r * k..][..k], blocks: both, sums: &mut of_32 });
            for (sum, parts) in sums[r * sum_stride..].iter_mut().zip(of_32.chunks(group / 32)) {
                *sum = parts.iter().sum();
            }
        }
        Self { n_rows, x, blocks, sums }
    }

    /// x as it was rounded, in f64.
    fn rounded(&self, k: usize, format: Format, r: usize) -> Vec<f64> {
        let column = |c: usize| {
            let block = &self.blocks[r * n_blocks(k) + c / 64];
            let half = c % 64 / 32;
            f64::from(block.q[Order::of(format).place(half, c % 32)]) * f64::from(block.d[4 * half])
        };
        (0..k).map(column).collect()
    }
}

fn product(level: Int8Level, weight: &TestWeight, input: &Input, rows: std::ops::Range<usize>) -> Vec<f32> {
    let (segment, k) = (weight.segment(), weight.n_cols);
    let (stride, step) = (2 * rows.len() + 3, 2);
    let mut out = vec![-9.0; input.n_rows * stride];
    let x = Rounded {
        n_rows: input.n_rows,
        blocks: &input.blocks,
        block_stride: n_blocks(k),
        sums: &input.sums,
        sum_stride: input.sums.len() / input.n_rows,
    };
    let mut panel = vec![0xaa; panel_len(k, input.n_rows)];
    let n_rows = rows.len();
    let panel = &mut panel;
    Product { segment: &segment, n_cols: k, row: rows.start, n_rows, x, panel, out: &mut out, stride, step }
        .run_with(level);
    let mut found = Vec::new();
    for out in out.chunks(stride) {
        for i in 0..rows.len() {
            found.push(out[2 * i]);
            assert_eq!(out[2 * i + 1], -9.0, "a place that is not a result's");
        }
    }
    found
}

fn available() -> impl Iterator<Item = Int8Level> {
    Int8Level::ALL.iter().copied().filter(|level| level.is_available())
}

#[test]
fn levels_that_are_not_tested_here() {
    assert!(Int8Level::detect().is_available() && Int8Level::Scalar.is_available());
    for level in Int8Level::ALL.iter().filter(|level| !level.is_available()) {
        println!("skipped: this processor has no {}", level.name());
    }
}

/// Against the exact product with the rounded x, as a share of the sum of all magnitudes. Products are whole numbers, so
/// only f32 sums are left to differ: a dozen roundings of 6e-8, of terms that are up to three times the weights.
const AGAINST_ROUNDED: f64 = 2e-6;

fn check(weight: &TestWeight, x: Vec<f32>, what: &str) {
    let (k, format) = (weight.n_cols, weight.format);
    let input = Input::new(x, k, format);
    let dense = weight.dense();
    for rows in [0..weight.n_rows, 1..weight.n_rows - 1, 2..3] {
        let mut want = Vec::new();
        for r in 0..input.n_rows {
            let x = input.rounded(k, format, r);
            for row in rows.clone() {
                let terms = dense[row * k..][..k].iter().zip(&x).map(|(w, x)| w * x);
                want.push((terms.clone().sum::<f64>(), terms.map(f64::abs).sum::<f64>()));
            }
        }
        let what = format!("{what}: {format:?} K={k}, {} rows of x, weight rows {rows:?}", input.n_rows);
        for level in available() {
            let found = product(level, weight, &input, rows.clone());
            assert_eq!(found.len(), want.len());
            for (ix, (&found, &(want, size))) in found.iter().zip(&want).enumerate() {
                let error = (f64::from(found) - want).abs() / size;
                assert!(
                    error <= AGAINST_ROUNDED,
                    "{level:?}, {what}, result {ix}: {found} for {want}, off by {error:e}"
                );
            }
        }
    }
}

#[test]
fn every_format_on_every_level_agrees_with_f64() {
    let mut random = Random::new(11);
    for format in affine_formats() {
        let Format::Affine { group, .. } = format else { continue };
        // One group, odd numbers of groups, less and more than eight of them.
        for k in [group, 3 * group, 9 * group, 17 * group] {
            let weight = TestWeight::new(&mut random, format, 11, k);
            for n_x in [1, 2, 3, 4, 5, 9] {
                check(&weight, random.normals(n_x * k), "random");
            }
        }
    }
}

/// All codes at their largest, rounded activations at theirs: where sums in 16 bits would overflow.
#[test]
fn largest_codes_and_activations() {
    let mut random = Random::new(12);
    for format in affine_formats() {
        let k = 256;
        let weight = TestWeight::new(&mut random, format, 9, k).with_codes(0xff);
        for n_x in [1, 6] {
            for value in [1.0, -1.0, 1e5, -1e5] {
                check(&weight, vec![value; n_x * k], "equal");
            }
            // One large value in a block, in turns of sign.
            let spikes = (0..n_x * k).map(|i| if i % 37 == 0 { 1e5 } else { random.normal() });
            check(&weight, spikes.collect(), "spikes");
        }
    }
}

#[test]
fn zeros_give_zeros() {
    let mut random = Random::new(13);
    for format in affine_formats() {
        let weight = TestWeight::new(&mut random, format, 5, 128);
        for n_x in [1, 5] {
            let input = Input::new(vec![0.0; n_x * 128], 128, format);
            for level in available() {
                assert!(product(level, &weight, &input, 0..5).iter().all(|&y| y == 0.0), "{level:?} {format:?}");
            }
        }
    }
}

/// What rounding costs: half a step is 1/254 of a block's largest value, some 1/90 of a typical one, and errors average
/// out as the products do.
#[test]
fn rounding_stays_within_a_hundredth() {
    let mut random = Random::new(14);
    for format in affine_formats() {
        let weight = TestWeight::new(&mut random, format, 64, 640);
        let input = Input::new(random.normals(640), 640, format);
        let want: Vec<f64> = (0..64).map(|row| weight.dot(row, &input.x)).collect();
        for level in available() {
            assert_close(&product(level, &weight, &input, 0..64), &want, 1e-2, &format!("{level:?} {format:?}"));
        }
    }
}

#[test]
fn a_nan_reaches_every_result() {
    let mut random = Random::new(15);
    let format = affine_formats()[0];
    let weight = TestWeight::new(&mut random, format, 3, 128);
    let mut x = random.normals(128);
    x[77] = f32::NAN;
    let input = Input::new(x, 128, format);
    for level in available() {
        assert!(product(level, &weight, &input, 0..3).iter().all(|y| y.is_nan()), "{level:?}");
    }
}
