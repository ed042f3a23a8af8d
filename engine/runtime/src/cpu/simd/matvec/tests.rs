//! Every format against f64.

use super::*;
use crate::cpu::testing::{Random, TestWeight, all_formats, assert_close};

struct Plain;

impl Runner for Plain {
    fn run<O: Op>(&self, op: O) -> O::Out {
        crate::cpu::simd::dispatch_scalar(op)
    }
}

#[test]
fn every_format_and_number_of_rows_agrees_with_f64() {
    let mut random = Random::new(1);
    for format in all_formats() {
        let shapes: &[usize] = match format {
            Format::Float(_) => &[2, 66, 576],
            Format::Affine { .. } => &[128, 640, 1152],
            Format::SmallFloat(_) => &[32, 96, 1152],
            Format::K(_) => &[256, 768],
        };
        for &n_cols in shapes {
            let weight = TestWeight::new(&mut random, format, 7, n_cols);
            let xs: Vec<Vec<f32>> = (0..MAX_ROWS).map(|_| random.normals(n_cols)).collect();
            let group = if let Format::Affine { group, .. } = format { group } else { n_cols };
            let mut orders = xs.clone();
            let mut sums = vec![vec![0.0; 48]; MAX_ROWS];
            for m in 0..MAX_ROWS {
                Order::of(format).prepare(&xs[m], &mut orders[m]);
                group_sums(&xs[m], group, &mut sums[m]);
            }
            let inputs: Vec<Input> = orders.iter().zip(&sums).map(|(x, sums)| Input { x, sums }).collect();
            for n_inputs in 1..=MAX_ROWS {
                for scalar in [false, true] {
                    // Rows 1..7 (four, two, and with seven rows from 0 a single one), every second output.
                    let mut out = vec![f32::NAN; 100];
                    let matvec = Matvec {
                        segment: &weight.segment(),
                        n_cols,
                        row: n_inputs % 2,
                        n_rows: 7 - n_inputs % 2,
                        inputs: &inputs[..n_inputs],
                        out: &mut out,
                        stride: 20,
                        step: 2,
                    };
                    if scalar {
                        matvec.run_with(Plain)
                    } else {
                        matvec.run()
                    }
                    for m in 0..n_inputs {
                        let rows = n_inputs % 2..7;
                        let want: Vec<f64> = rows.clone().map(|r| weight.dot(r, &xs[m])).collect();
                        let found: Vec<f32> = (0..rows.len()).map(|i| out[m * 20 + 2 * i]).collect();
                        assert_close(&found, &want, 3e-6, &format!("{format:?} K={n_cols} scalar={scalar}"));
                    }
                }
            }
        }
    }
}
