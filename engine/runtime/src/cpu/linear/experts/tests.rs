use super::*;
use crate::cpu::testing::{Random, TestWeight, all_formats, assert_close};
use crate::cpu::weight::{FloatType, Format, Segment};

/// Routes of random experts, each row's unlike, with shares that are no numbers: products do not read them.
fn routes(random: &mut Random, n_rows: usize, n_experts: usize, top_k: usize) -> (Vec<usize>, Vec<f32>) {
    let mut ids = Vec::new();
    let mut route = Vec::new();
    for _ in 0..n_rows {
        let first = random.below(n_experts);
        let own: Vec<usize> = (0..top_k).map(|s| (first + s * (1 + n_experts / 3)) % n_experts).collect();
        route.extend(own.iter().map(|id| *id as f32));
        route.extend(vec![f32::NAN; top_k]);
        ids.extend(own);
    }
    (ids, route)
}

/// Experts that are segments of their own, or runs of rows of one; of one matrix each, or of pairs with rows in turn.
fn check(format: Format, k: usize, n: usize, n_rows: usize, (each, paired, stacked): (bool, bool, bool)) {
    let (n_experts, top_k) = (5, 2);
    let mut random = Random::new((k + n * n_rows) as u64);
    let matrix = |random: &mut Random| match stacked {
        true => vec![TestWeight::new(random, format, n * n_experts, k)],
        false => (0..n_experts).map(|_| TestWeight::new(random, format, n, k)).collect(),
    };
    let (gates, ups) = (matrix(&mut random), matrix(&mut random));
    let segments: Vec<Segment> = match paired {
        true => gates.iter().zip(&ups).flat_map(|(gate, up)| [gate.segment(), up.segment()]).collect(),
        false => gates.iter().map(TestWeight::segment).collect(),
    };
    let weight = Weight::new(k, &segments, paired).expect("well formed");
    let (ids, route) = routes(&mut random, n_rows, n_experts, top_k);
    let n_x_rows = if each { n_rows * top_k } else { n_rows };
    let mut x = random.normals(n_x_rows * k);
    x.extend(vec![f32::NAN; k]);
    let norm_weight = random.normals(k);
    let mut scratch = Scratch { prepared: vec![f32::NAN; 1000], threads: vec![f32::NAN; 1000], ..Scratch::new() };
    let epilogue: &[EpilogueOp] = if paired { &[EpilogueOp::SiluMulPair] } else { &[] };
    let (pool, mut out) = (Pool::new(2), vec![f32::NAN; n_rows * top_k * n]);
    // In two parts, each of which leaves alone what belongs to the other.
    let split = if stacked || paired { 0 } else { 2 };
    for (first, count) in [(0, split), (split, n_experts - split)].into_iter().filter(|(_, count)| *count > 0) {
        let part =
            if split == 0 { weight } else { Weight::new(k, &segments[first..first + count], false).expect("a part") };
        let norm = Some(NormPrologue { weight: &norm_weight, eps: 1e-5 });
        let args = ExpertLinear {
            weight: part,
            n_experts: count,
            first_expert: first,
            route: &route,
            top_k,
            x: &x,
            each,
            n_rows,
            norm,
            epilogue,
            out: &mut out,
        };
        expert_linear(&pool, &mut scratch, args);
    }
    let mut want = Vec::new();
    for (product, expert) in ids.iter().enumerate() {
        let x = &x[if each { product } else { product / top_k } * k..][..k];
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / k as f64;
        let factor = 1.0 / (mean + 1e-5).sqrt();
        let normed: Vec<f32> =
            x.iter().zip(&norm_weight).map(|(x, w)| (f64::from(*x) * factor * f64::from(*w)) as f32).collect();
        let dot = |weights: &[TestWeight], row: usize| match stacked {
            true => weights[0].dot(expert * n + row, &normed),
            false => weights[*expert].dot(row, &normed),
        };
        want.extend((0..n).map(|row| match paired {
            true => {
                let gate = dot(&gates, row);
                gate / (1.0 + (-gate).exp()) * dot(&ups, row)
            }
            false => dot(&gates, row),
        }));
    }
    let what = format!("{format:?} {n} x {k}, {n_rows} rows, each {each}, paired {paired}, stacked {stacked}");
    assert_close(&out, &want, 1e-5, &what);
}

#[test]
fn every_format_and_arrangement() {
    let every =
        [false, true].map(|each| [false, true].map(|paired| [false, true].map(|stacked| (each, paired, stacked))));
    for (ix, format) in all_formats().into_iter().enumerate() {
        let k = if matches!(format, Format::K(_)) { 256 } else { 384 };
        for how in every.as_flattened().as_flattened() {
            check(format, k, 13 + ix % 3, 3, *how);
        }
    }
}

/// So many that some experts have enough rows to be decoded first.
#[test]
fn many_rows_of_an_expert() {
    let four = Format::Affine { bits: 4, group: 32, scale: FloatType::Bf16 };
    for format in [Format::Float(FloatType::F32), Format::Float(FloatType::Bf16), four] {
        for n_rows in [1, 9, 80] {
            check(format, 64, 37, n_rows, (false, true, false));
            check(format, 64, 37, n_rows, (true, false, true));
        }
    }
}

#[test]
fn a_number_that_names_no_expert_is_left_out() {
    let mut random = Random::new(1);
    let matrix = TestWeight::new(&mut random, Format::Float(FloatType::F32), 4, 2);
    let segments = [matrix.segment()];
    let weight = Weight::new(2, &segments, false).expect("well formed");
    let mut out = [9.0; 6];
    let args = ExpertLinear {
        weight,
        n_experts: 2,
        first_expert: 0,
        route: &[1.0, 7.0, 1e30, 0.0, 0.0, 0.0],
        top_k: 3,
        x: &[1.0, 2.0],
        each: false,
        n_rows: 1,
        norm: None,
        epilogue: &[],
        out: &mut out,
    };
    expert_linear(&Pool::new(1), &mut Scratch::new(), args);
    assert_close(&out[..2], &[matrix.dot(2, &[1.0, 2.0]), matrix.dot(3, &[1.0, 2.0])], 1e-6, "expert 1");
    assert_eq!(out[2..], [9.0; 4]);
}
