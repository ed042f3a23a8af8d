//! exp, the activations made of it, and reductions over slices.

use super::{LANES, Op, Simd};

/// e^x with a relative error below 2e-7; 0 below -87.3 (so that a mask of -inf gives 0), e^88 above 88.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts so that n ln 2 is exact where it matters.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits
    let lowest = s.splat(-87.3);
    let clamped = s.max(s.min(x, s.splat(88.0)), lowest);
    let shifted = s.fma(clamped, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    let r = s.fma(n, s.splat(-0.693_359_4), clamped);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    // e^r = 1 + r + r^2 p(r), the minimax polynomial of Cephes' expf.
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(p, s.mul(r, r), r), s.splat(1.0));
    // 2^n: the integer n + 127 in the low bits, moved into the exponent.
    let power = s.shift_into_exponent(s.add(shifted, s.splat(127.0)));
    s.zero_below(x, lowest, s.mul(p, power))
}

/// v / (1 + e^-a): v times the logistic function of a.
#[inline(always)]
fn gate<S: Simd>(s: S, v: S::F, a: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(v, s.add(one, exp(s, s.sub(s.splat(0.0), a))))
}

#[inline(always)]
fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    gate(s, x, x)
}

/// 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    const TWICE: f32 = 1.595_769; // 2 sqrt(2 / pi)
    let cubic = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
    gate(s, x, s.mul(cubic, s.splat(TWICE)))
}

/// cap tanh(x / cap), by way of tanh(u) = 2 / (1 + e^-2u) - 1.
#[inline(always)]
fn softcap<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    let half = gate(s, s.splat(2.0), s.mul(x, s.splat(2.0 / cap)));
    s.mul(s.sub(half, s.splat(1.0)), s.splat(cap))
}

/// An element-wise function.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Function {
    Silu,
    Gelu,
    /// cap tanh(x / cap)
    Softcap(f32),
    #[cfg(test)]
    Exp,
}

/// Applies a function in place.
pub(crate) struct Map<'a>(pub(crate) Function, pub(crate) &'a mut [f32]);

impl Op for Map<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Map(function, values) = self;
        let n_vector = values.len() / LANES * LANES;
        let (vectors, rest) = values.split_at_mut(n_vector);
        let mut padded = [0.0f32; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        match function {
            Function::Silu => {
                each(s, vectors, silu);
                each(s, &mut padded, silu);
            }
            Function::Gelu => {
                each(s, vectors, gelu);
                each(s, &mut padded, gelu);
            }
            Function::Softcap(cap) => {
                each(s, vectors, |s, x| softcap(s, x, cap));
                each(s, &mut padded, |s, x| softcap(s, x, cap));
            }
            #[cfg(test)]
            Function::Exp => {
                each(s, vectors, exp);
                each(s, &mut padded, exp);
            }
        }
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

#[inline(always)]
fn each<S: Simd>(s: S, values: &mut [f32], f: impl Fn(S, S::F) -> S::F) {
    for chunk in values.chunks_exact_mut(LANES) {
        // SAFETY: a chunk has 8 elements.
        unsafe { s.store(chunk.as_mut_ptr(), f(s, s.load(chunk.as_ptr()))) };
    }
}

/// values[r][i] = act(values[r][2i]) * values[r][2i + 1] for i in 0..n_pairs, in place; act is GELU or SiLU.
pub(crate) struct MulPair<'a> {
    pub(crate) is_gelu: bool,
    pub(crate) values: &'a mut [f32],
    pub(crate) stride: usize,
    pub(crate) n_rows: usize,
    pub(crate) n_pairs: usize,
}

impl Op for MulPair<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in 0..self.n_rows {
            let row = &mut self.values[r * self.stride..][..2 * self.n_pairs];
            for first in (0..self.n_pairs).step_by(LANES) {
                let n = LANES.min(self.n_pairs - first);
                let (mut gates, mut ups) = ([0.0f32; LANES], [0.0f32; LANES]);
                for (i, pair) in row[2 * first..2 * (first + n)].chunks_exact(2).enumerate() {
                    (gates[i], ups[i]) = (pair[0], pair[1]);
                }
                // SAFETY: arrays of 8.
                unsafe {
                    let gate = s.load(gates.as_ptr());
                    let gate = if self.is_gelu { gelu(s, gate) } else { silu(s, gate) };
                    let products = s.mul(gate, s.load(ups.as_ptr()));
                    s.store(gates.as_mut_ptr(), products);
                }
                row[first..first + n].copy_from_slice(&gates[..n]);
            }
        }
    }
}

/// out[c] = x[c] * rsqrt(mean(x^2) + eps) * weight[c], added to what is there if it `adds`.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) adds: bool,
    pub(crate) out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RmsNorm { x, weight, eps, adds, out } = self;
        let n = x.len();
        assert!(weight.len() == n && out.len() == n, "a norm's weight and output are as wide as its input");
        let n_vector = n / LANES * LANES;
        let mut sums = s.splat(0.0);
        for c in (0..n_vector).step_by(LANES) {
            // SAFETY: c + 8 <= n.
            unsafe {
                let v = s.load(x.as_ptr().add(c));
                sums = s.fma(v, v, sums);
            }
        }
        let rest: f32 = x[n_vector..].iter().map(|v| v * v).sum();
        let mean = (s.sum(sums) + rest) / n as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        let factors = s.splat(factor);
        for c in (0..n_vector).step_by(LANES) {
            // SAFETY: c + 8 <= n, the length of all three.
            unsafe {
                let v = s.mul(s.load(x.as_ptr().add(c)), factors);
                let v = s.mul(v, s.load(weight.as_ptr().add(c)));
                let v = if adds { s.add(v, s.load(out.as_ptr().add(c))) } else { v };
                s.store(out.as_mut_ptr().add(c), v);
            }
        }
        for c in n_vector..n {
            let v = x[c] * factor * weight[c];
            out[c] = if adds { v + out[c] } else { v };
        }
    }
}

/// Index of the greatest value, the lowest of equals; NaN is never greatest. 0 for an empty slice.
pub(crate) struct Argmax<'a>(pub(crate) &'a [f32]);

impl Op for Argmax<'_> {
    type Out = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        // Blocks small enough to stay in the first cache: the winning block is looked through once more.
        const BLOCK: usize = 1024;
        let mut best = f32::NEG_INFINITY;
        let mut best_block: &[f32] = &[];
        let mut best_at = 0;
        for (block_ix, block) in self.0.chunks(BLOCK).enumerate() {
            let (vectors, rest) = block.split_at(block.len() / LANES * LANES);
            let mut max = s.splat(f32::NEG_INFINITY);
            for chunk in vectors.chunks_exact(LANES) {
                // SAFETY: a chunk has 8 elements. The running maximum comes second: a NaN in the first operand
                // yields the second.
                max = s.max(unsafe { s.load(chunk.as_ptr()) }, max);
            }
            let mut block_max = s.max_lane(max);
            for &v in rest {
                if v > block_max {
                    block_max = v;
                }
            }
            if block_max > best {
                (best, best_block, best_at) = (block_max, block, block_ix * BLOCK);
            }
        }
        best_at + best_block.iter().position(|&v| v == best).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{dispatch, dispatch_scalar};

    fn check(function: Function, reference: impl Fn(f64) -> f64, range: f32, tolerance: f64) {
        let xs: Vec<f32> = (-40_003..=40_000).map(|i| i as f32 / 40_000.0 * range).collect();
        let mut found = [xs.clone(), xs.clone()];
        dispatch(Map(function, &mut found[0]));
        dispatch_scalar(Map(function, &mut found[1]));
        for found in found {
            for (&x, &y) in xs.iter().zip(&found) {
                let want = reference(f64::from(x));
                let error = (f64::from(y) - want).abs() / want.abs().max(1e-30);
                assert!(error <= tolerance, "{function:?}({x}) = {y}, not {want}: {error:e}");
            }
        }
    }

    #[test]
    fn exp_is_accurate() {
        check(Function::Exp, f64::exp, 87.2, 2e-7);
        let mut ends = [f32::NEG_INFINITY, -3e38, -100.0, 0.0];
        dispatch(Map(Function::Exp, &mut ends));
        assert_eq!(ends, [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn activations_are_accurate() {
        check(Function::Silu, |x| x / (1.0 + (-x).exp()), 30.0, 5e-7);
        let gelu = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        };
        // The exponent's own rounding is magnified by its size.
        check(Function::Gelu, gelu, 5.0, 4e-6);
        let mut ends = [-1e5f32, 1e5];
        dispatch(Map(Function::Silu, &mut ends));
        assert!(ends[0].abs() < 1e-30 && ends[1] == 1e5);
    }

    #[test]
    fn argmax_takes_the_lowest_of_equals() {
        for n in [1, 7, 8, 1023, 1025, 49_152] {
            let mut values = vec![-1.0f32; n];
            let at = [n / 3, n - 1];
            at.iter().for_each(|&i| values[i] = 5.0);
            values[0] = if n > 3 { f32::NAN } else { values[0] };
            let want = if n > 3 { n / 3 } else { 0 };
            assert_eq!((dispatch(Argmax(&values)), dispatch_scalar(Argmax(&values))), (want, want), "{n}");
        }
        assert_eq!(dispatch(Argmax(&[f32::NAN; 9])), 0);
        assert_eq!(dispatch(Argmax(&[])), 0);
    }
}
