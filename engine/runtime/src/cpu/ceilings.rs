//! Measures the processor's limits: a sum over memory, and arithmetic in registers, on all threads at once.
#![allow(unsafe_code)]

use crate::ceilings::Ceilings;
use std::hint::black_box;
use std::thread::Scope;
use std::time::Instant;

/// Bytes that are read: many times the caches.
const STREAM_BYTES: usize = 256 << 20;

/// Rounds of the arithmetic: some milliseconds.
const ROUNDS: usize = 1 << 21;

/// Independent sums of a thread, of eight numbers each: enough to hide the latency of an addition.
const N_SUMS: usize = 12;

/// Repeats; the best counts.
const REPEATS: usize = 5;

/// Measures both limits with a number of threads, in less than a second.
pub fn measure(n_threads: usize) -> Ceilings {
    let n_threads = n_threads.max(1);
    let data: Vec<u64> = (0..STREAM_BYTES as u64 / 8).collect();
    let part = data.len().div_ceil(n_threads);
    let read_s = best_s(|| {
        std::thread::scope(|scope| {
            for part in data.chunks(part) {
                spawn(scope, move || black_box(sum(part)));
            }
        });
    });
    let multiply_s = best_s(|| {
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                spawn(scope, || black_box(multiply(black_box(0.5), ROUNDS)));
            }
        });
    });
    let flops = (n_threads * ROUNDS * N_SUMS * 8 * 2) as f64;
    Ceilings { read_gb_s: STREAM_BYTES as f64 / read_s / 1e9, gflop_s: flops / multiply_s / 1e9 }
}

/// Work on a thread of its own, or here if the system gives none.
fn spawn<'s, T: Send + 's>(scope: &'s Scope<'s, '_>, work: impl Fn() -> T + Copy + Send + 's) {
    if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
        work();
    }
}

fn best_s(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let started = Instant::now();
        run();
        best = best.min(started.elapsed().as_secs_f64());
    }
    best.max(1e-9)
}

fn sum(numbers: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for piece in numbers.chunks_exact(16) {
        sums.iter_mut().zip(piece).for_each(|(sum, n)| *sum = sum.wrapping_add(*n));
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

fn multiply(factor: f32, rounds: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: both features are there.
        return unsafe { multiply_avx2(factor, rounds) };
    }
    multiply_with::<{ cfg!(target_arch = "aarch64") }>(factor, rounds)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(factor: f32, rounds: usize) -> f32 {
    multiply_with::<true>(factor, rounds)
}

/// `FUSED` where there is an instruction for it: elsewhere a fused multiplication is a call of a function.
#[inline(always)]
fn multiply_with<const FUSED: bool>(factor: f32, rounds: usize) -> f32 {
    let mut sums = [[1.0f32; 8]; N_SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            for x in sum {
                *x = if FUSED { x.mul_add(factor, 0.25) } else { *x * factor + 0.25 };
            }
        }
    }
    sums.iter().flatten().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_limits() {
        let found = measure(1);
        assert!((0.2..2000.0).contains(&found.read_gb_s), "{found:?}");
        assert!((0.2..10_000.0).contains(&found.gflop_s), "{found:?}");
    }

    #[test]
    fn the_sum_is_the_sum() {
        let numbers: Vec<u64> = (0..64).collect();
        assert_eq!(sum(&numbers), 63 * 32);
    }
}
