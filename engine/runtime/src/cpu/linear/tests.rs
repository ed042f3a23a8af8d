use super::*;
use crate::cpu::activations::Activations::{F32, Int8};
use crate::cpu::epilogue::EpilogueOp;
use crate::cpu::simd::int8::round::round32;
use crate::cpu::testing::{Random, TestWeight, affine_formats, all_formats, assert_close};
use crate::cpu::weight::Segment;

/// y[r][n] in f64 of segments one after the other.
fn products(weights: &[TestWeight], xs: &[&[f32]]) -> Vec<Vec<f64>> {
    let dense: Vec<(usize, Vec<f64>)> = weights.iter().map(|w| (w.n_cols, w.dense())).collect();
    let dot = |x: &[f32], row: &[f64]| x.iter().zip(row).map(|(&x, w)| f64::from(x) * w).sum();
    xs.iter().map(|x| dense.iter().flat_map(|(k, d)| d.chunks(*k).map(|row| dot(x, row))).collect()).collect()
}

fn check_plain(formats: &[Format], heights: &[usize], k: usize, n_rows: usize, seed: u64) {
    let mut random = Random::new(seed);
    let weights: Vec<TestWeight> =
        formats.iter().zip(heights).map(|(&f, &n)| TestWeight::new(&mut random, f, n, k)).collect();
    let segments: Vec<Segment> = weights.iter().map(TestWeight::segment).collect();
    let weight = Weight::new(k, &segments, false).expect("well formed");
    let n = weight.n_rows();
    // Rows of x beyond those asked for are poison, and so is all scratch.
    let mut x = random.normals(n_rows * k);
    x.extend(vec![f32::NAN; k]);
    let mut scratch = Scratch { prepared: vec![f32::NAN; 1000], threads: vec![f32::NAN; 1000], ..Scratch::new() };
    let (out_stride, out_at) = (n + 3, 2);
    let mut out = vec![-9.0; n_rows * out_stride];
    let args = Linear {
        weight,
        x: &x,
        rows: Rows::All(n_rows),
        norm: None,
        epilogue: &[],
        out: &mut out,
        out_stride,
        out_at,
        activations: F32,
    };
    linear(&Pool::new(2), &mut scratch, args);
    let xs: Vec<&[f32]> = x.chunks(k).take(n_rows).collect();
    let mut found = Vec::new();
    for out in out.chunks(out_stride) {
        assert_eq!([out[0], out[1], out[2 + n]], [-9.0; 3]);
        found.extend(&out[2..2 + n]);
    }
    let want = products(&weights, &xs).concat();
    assert_close(&found, &want, 3e-6, &format!("{formats:?} {heights:?}x{k}, {n_rows} rows"));
}

#[test]
fn every_format_at_every_number_of_rows() {
    for (ix, format) in all_formats().into_iter().enumerate() {
        let shapes: &[(usize, usize)] = match format {
            Format::Float(_) => &[(1, 2), (37, 66), (33, 576)],
            Format::Affine { .. } => &[(37, 128), (20, 640)],
            Format::SmallFloat(_) => &[(37, 96), (20, 640)],
            Format::K(_) => &[(37, 256), (5, 768)],
        };
        for &(n, k) in shapes {
            for n_rows in [1, 2, 5, 13, 17, 130] {
                check_plain(&[format], &[n], k, n_rows, ix as u64);
            }
        }
    }
}

#[test]
fn extreme_shapes() {
    let bf16 = Format::Float(FloatType::Bf16);
    let four = Format::Affine { bits: 4, group: 64, scale: FloatType::Bf16 };
    for format in [bf16, four] {
        check_plain(&[format], &[5], 28_672, 1, 1);
        check_plain(&[format], &[3], 28_672, 11, 2);
        check_plain(&[format], &[5001], 64, 1, 3);
        check_plain(&[format], &[19], 64, 513, 4);
    }
}

#[test]
fn merged_rows_of_unlike_formats() {
    let formats = all_formats();
    for n_rows in [1, 3, 40] {
        check_plain(&[formats[5], formats[2], formats[11], formats[9]], &[33, 1, 16, 7], 384, n_rows, 7);
    }
}

/// gate and up interleaved, a norm before, all rows or sampled ones, biases and a residual after.
#[test]
fn norm_gated_pairs_and_epilogues() {
    let formats = all_formats();
    let half = 27;
    for (ix, format) in formats.into_iter().enumerate() {
        let k = if matches!(format, Format::K(_)) { 256 } else { 128 };
        for n_rows in [1usize, 3, 12] {
            let mut random = Random::new(50 + ix as u64);
            let pair = [TestWeight::new(&mut random, format, half, k), TestWeight::new(&mut random, format, half, k)];
            let segments = [pair[0].segment(), pair[1].segment()];
            let n_tokens = 20;
            let x = random.normals(n_tokens * k);
            let (norm, bias) = (random.normals(k), random.normals(2 * half));
            let residual = random.normals(n_rows * half);
            let rows: Vec<u32> = (0..n_rows).map(|_| random.below(n_tokens) as u32).collect();
            let mut out = residual.clone();
            let factors = random.normals(n_rows * 40);
            let epilogue = [
                EpilogueOp::Bias(&bias),
                EpilogueOp::SiluMulPair,
                EpilogueOp::Mul { operand: &factors, stride: 40 },
                EpilogueOp::AddOut,
                EpilogueOp::Gelu,
            ];
            let args = Linear {
                weight: Weight::new(k, &segments, true).expect("well formed"),
                x: &x,
                rows: Rows::Sampled(&rows),
                norm: Some(NormPrologue { weight: &norm, eps: 1e-5 }),
                epilogue: &epilogue,
                out: &mut out,
                out_stride: half,
                out_at: 0,
                activations: F32,
            };
            linear(&Pool::new(3), &mut Scratch::new(), args);
            for r in 0..n_rows {
                let x: Vec<f64> = x[rows[r] as usize * k..][..k].iter().map(|&v| f64::from(v)).collect();
                let mean = x.iter().map(|v| v * v).sum::<f64>() / k as f64;
                let x: Vec<f32> = (0..k).map(|c| (x[c] / (mean + 1e-5).sqrt() * f64::from(norm[c])) as f32).collect();
                let want: Vec<f64> = (0..half)
                    .map(|i| {
                        let gate = pair[0].dot(i, &x) + f64::from(bias[2 * i]);
                        let up = pair[1].dot(i, &x) + f64::from(bias[2 * i + 1]);
                        let v = gate / (1.0 + (-gate).exp()) * up * f64::from(factors[r * 40 + i])
                            + f64::from(residual[r * half + i]);
                        let u = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
                        v / (1.0 + (-2.0 * u).exp())
                    })
                    .collect();
                assert_close(&out[r * half..][..half], &want, 5e-6, &format!("{format:?} row {r} of {n_rows}"));
            }
        }
    }
}

/// x as affine rows see it with [`Int8`].
fn rounded(x: &[f32]) -> Vec<f64> {
    let block = |x: &[f32; 32]| {
        let (d, q) = round32(x);
        q.map(|q| f64::from(q) * f64::from(d))
    };
    x.as_chunks::<32>().0.iter().flat_map(block).collect()
}

/// A merged matrix of all affine formats and one of floats, interleaved pairs, norms and epilogues, at every number of
/// rows: the exact product with what each row sees.
#[test]
fn rounded_activations_of_merged_and_paired_rows() {
    let k = 384;
    let mut random = Random::new(70);
    let mut formats = affine_formats();
    formats.insert(7, Format::Float(FloatType::Bf16));
    let weights: Vec<TestWeight> =
        formats.iter().enumerate().map(|(ix, &f)| TestWeight::new(&mut random, f, 1 + 5 * ix % 13, k)).collect();
    let pair: Vec<TestWeight> =
        [formats[6], formats[6]].iter().map(|&f| TestWeight::new(&mut random, f, 43, k)).collect();
    let norm = random.normals(k);
    for (weights, interleave) in [(&weights, false), (&pair, true)] {
        let segments: Vec<Segment> = weights.iter().map(TestWeight::segment).collect();
        let weight = Weight::new(k, &segments, interleave).expect("well formed");
        let dense: Vec<Vec<f64>> = weights.iter().map(TestWeight::dense).collect();
        for n_rows in [1, 2, 4, 5, 7, 40] {
            let x = random.normals((n_rows + 1) * k);
            let bias = random.normals(weight.n_rows());
            let mut out = vec![0.25; n_rows * weight.n_rows()];
            let rows: Vec<u32> = (1..=n_rows as u32).collect();
            let args = Linear {
                weight,
                x: &x,
                rows: Rows::Sampled(&rows),
                norm: Some(NormPrologue { weight: &norm, eps: 1e-5 }),
                epilogue: &[EpilogueOp::Bias(&bias), EpilogueOp::AddOut],
                out: &mut out,
                out_stride: weight.n_rows(),
                out_at: 0,
                activations: Int8,
            };
            let pool = Pool::new(3);
            linear(&pool, &mut Scratch::new(), args);
            for (r, out) in out.chunks(weight.n_rows()).enumerate() {
                let mut normed = vec![0.0; k];
                norm_rows(&pool, &x[(r + 1) * k..][..k], Rows::All(1), &norm, 1e-5, &mut normed);
                let seen = rounded(&normed);
                let dot = |ix: usize, row: usize| -> f64 {
                    let row = &dense[ix][row * k..][..k];
                    match weights[ix].format {
                        Format::Float(_) | Format::SmallFloat(_) | Format::K(_) => {
                            row.iter().zip(&normed).map(|(w, &x)| w * f64::from(x)).sum()
                        }
                        Format::Affine { .. } => row.iter().zip(&seen).map(|(w, x)| w * x).sum(),
                    }
                };
                let products: Vec<f64> = if interleave {
                    (0..weight.n_rows()).map(|row| dot(row % 2, row / 2)).collect()
                } else {
                    (0..weights.len())
                        .flat_map(|ix| (0..weights[ix].n_rows).map(move |row| (ix, row)))
                        .map(|(ix, row)| dot(ix, row))
                        .collect()
                };
                let want: Vec<f64> = products.iter().zip(&bias).map(|(y, &b)| y + f64::from(b) + 0.25).collect();
                assert_close(out, &want, 3e-6, &format!("row {r} of {n_rows}, interleaved {interleave}"));
            }
        }
    }
}

#[test]
fn nothing_to_do_and_misfits() {
    let bytes = [0u8; 8];
    let segment = [Segment {
        n_rows: 1,
        format: Format::Float(FloatType::F32),
        codes: &bytes,
        scales: &[],
        biases: &[],
        factors: &[],
    }];
    let run = |rows, out: &mut [f32]| {
        let weight = Weight::new(2, &segment, false).expect("well formed");
        let (x, out_stride) = (&[1.0, 1.0][..], 1);
        let args = Linear { weight, x, rows, norm: None, epilogue: &[], out, out_stride, out_at: 0, activations: F32 };
        linear(&Pool::new(1), &mut Scratch::new(), args);
    };
    run(Rows::All(0), &mut []);
    run(Rows::All(1), &mut [0.0]);
    assert!(std::panic::catch_unwind(|| run(Rows::All(1), &mut [])).is_err());
    assert!(std::panic::catch_unwind(|| run(Rows::All(2), &mut [0.0; 2])).is_err());
}
