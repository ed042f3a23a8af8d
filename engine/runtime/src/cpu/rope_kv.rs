//! Template rope_kv: rotates queries and keys, normed or not, and writes keys and values to their pages.
#![allow(unsafe_code)]

use super::pages::{PAGE_TOKENS, PageLayout};
use super::pool::{Pool, Shards};
use super::scratch::Scratch;
use super::simd::dispatch;
use super::simd::math::RmsNorm;
use super::step_view::StepView;

/// Tokens below which one thread is enough.
const MIN_PARALLEL_TOKENS: usize = 8;
/// Longest row of a head: the kernels' too.
const MAX_HEAD_DIM: usize = 1024;
/// Rotations kept at once: models have one or two.
const MAX_ROTATIONS: usize = 4;

/// Columns `at..` of rows of `stride` values, one row a token.
#[derive(Clone, Copy, Debug)]
pub struct Columns<'a> {
    /// The rows.
    pub values: &'a [f32],
    /// Values from row to row.
    pub stride: usize,
    /// First column.
    pub at: usize,
}

impl<'a> Columns<'a> {
    /// Columns `col .. col + n` of these, of one token.
    pub(crate) fn row(&self, token: usize, col: usize, n: usize) -> &'a [f32] {
        assert!(self.at + col + n <= self.stride, "columns beyond their row");
        &self.values[token * self.stride + self.at + col..][..n]
    }
}

/// What heads are normed with before they are rotated.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// Weights of a query's head, then of a key's.
    pub weights: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// Operands of [`rope_kv`].
#[derive(Debug)]
pub struct RopeKv<'a> {
    /// The step's tokens and slots.
    pub step: StepView<'a>,
    /// Query heads.
    pub n_heads: usize,
    /// How the layer's pages lie: type, key and value heads, values of a head.
    pub layout: PageLayout,
    /// Rotated values of a head, the first ones.
    pub rot_dim: usize,
    /// Whether pairs are (2i, 2i + 1) instead of (i, i + rot_dim / 2).
    pub neighbours: bool,
    /// rot_dim / 2 frequencies: radians a position.
    pub inv_freq: &'a [f32],
    /// Factor on cosine and sine.
    pub rope_scale: f32,
    /// Norms of the heads of queries and keys.
    pub norms: Option<HeadNorms<'a>>,
    /// Which of the step's slot tables.
    pub kv_group: usize,
    /// Queries.
    pub q: Columns<'a>,
    /// Keys.
    pub k: Columns<'a>,
    /// Values.
    pub v: Columns<'a>,
    /// [tokens][n_heads * head_dim]
    pub q_out: &'a mut [f32],
    /// The layer's pages.
    pub kv: &'a mut [u32],
}

/// Cosines and sines of the positions of the last step, [token][rot_dim / 2], for each set of frequencies: all layers
/// of a step share them.
#[derive(Debug, Default)]
pub(crate) struct RopeTable {
    rotations: Vec<Rotation>,
}

#[derive(Debug, Default)]
struct Rotation {
    inv_freq: Vec<f32>,
    scale: f32,
    positions: Vec<u32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    pub(crate) fn size_bytes(&self) -> usize {
        self.rotations
            .iter()
            .map(|r| 4 * (r.inv_freq.capacity() + r.positions.capacity() + r.cos.capacity() + r.sin.capacity()))
            .sum()
    }

    fn prepare(&mut self, step: &StepView, inv_freq: &[f32], scale: f32) -> &Rotation {
        let known = self.rotations.iter().position(|r| r.scale == scale && r.inv_freq == inv_freq);
        let ix = known.unwrap_or_else(|| {
            if self.rotations.len() == MAX_ROTATIONS {
                self.rotations.remove(0);
            }
            self.rotations.push(Rotation { inv_freq: inv_freq.to_vec(), scale, ..Rotation::default() });
            self.rotations.len() - 1
        });
        let rotation = &mut self.rotations[ix];
        let n_tokens = step.n_tokens();
        let same = rotation.positions.len() == n_tokens
            && rotation.positions.iter().enumerate().all(|(t, &p)| p == step.token(t).position);
        if !same {
            rotation.positions.clear();
            rotation.cos.clear();
            rotation.sin.clear();
            for t in 0..n_tokens {
                let position = step.token(t).position;
                rotation.positions.push(position);
                for &freq in inv_freq {
                    // The angle is rounded to f32, as the reference implementations do.
                    let (sin, cos) = (position as f32 * freq).sin_cos();
                    rotation.cos.push(cos * scale);
                    rotation.sin.push(sin * scale);
                }
            }
        }
        rotation
    }
}

/// Rotates each query into `q_out`, and writes each token's rotated keys and its values to its slot.
///
/// # Panics
/// If a slice is shorter than its shape needs, or a slot lies outside the pages.
pub fn rope_kv(pool: &Pool, scratch: &mut Scratch, args: RopeKv) {
    let RopeKv { step, n_heads, layout, rot_dim, inv_freq, rope_scale, .. } = args;
    let PageLayout { n_kv_heads, head_dim, .. } = layout;
    assert!(head_dim <= MAX_HEAD_DIM, "heads of {head_dim} values are longer than {MAX_HEAD_DIM}");
    assert!(rot_dim <= head_dim && inv_freq.len() == rot_dim / 2, "frequencies do not fit the rotated dimensions");
    let rotation = scratch.rope.prepare(&step, inv_freq, rope_scale);
    let (n_tokens, half) = (step.n_tokens(), rot_dim / 2);
    let slots = step.slots(args.kv_group);
    let rotate = if args.neighbours { rotate_neighbours } else { rotate_halves };
    let turn = |x: &[f32], norm: Option<(&[f32], f32)>, cos: &[f32], sin: &[f32], out: &mut [f32]| match norm {
        None => rotate(x, cos, sin, out),
        Some((weight, eps)) => {
            let mut normed = [0.0; MAX_HEAD_DIM];
            dispatch(RmsNorm { x, weight, eps, out: &mut normed[..head_dim] });
            rotate(&normed[..head_dim], cos, sin, out);
        }
    };
    let q_out = Shards::new(&mut args.q_out[..n_tokens * n_heads * head_dim]);
    let kv = Shards::new(args.kv);
    let (q, k, v) = (args.q, args.k, args.v);
    let norms = args.norms.map(|norms| (norms.weights.split_at(head_dim), norms.eps));
    let (q_norm, k_norm) = norms.map(|((q, k), eps)| ((q, eps), (k, eps))).unzip();
    let write = |t: usize, is_v: bool, head: usize, row: &[f32]| {
        let (page, offset) = (slots[t] as usize / PAGE_TOKENS, slots[t] as usize % PAGE_TOKENS);
        // SAFETY: one kv head's part, and one thread has all of that head's tokens; K and V lie apart.
        let head = unsafe { kv.part(layout.head_at(page, is_v, head), layout.head_words()) };
        layout.write(head, offset, row);
    };
    // One head a chunk, all tokens: whatever the slots say, no two threads write the same place.
    let head = |ix: usize| {
        let mut turned = [0.0; MAX_HEAD_DIM];
        let turned = &mut turned[..head_dim];
        for t in 0..n_tokens {
            let (cos, sin) = (&rotation.cos[t * half..][..half], &rotation.sin[t * half..][..half]);
            if ix < n_heads {
                // SAFETY: each (token, head) once.
                let out = unsafe { q_out.part((t * n_heads + ix) * head_dim, head_dim) };
                turn(q.row(t, ix * head_dim, head_dim), q_norm, cos, sin, out);
            } else {
                let kv_head = ix - n_heads;
                turn(k.row(t, kv_head * head_dim, head_dim), k_norm, cos, sin, turned);
                write(t, false, kv_head, turned);
                write(t, true, kv_head, v.row(t, kv_head * head_dim, head_dim));
            }
        }
    };
    let n_heads_in_all = n_heads + n_kv_heads;
    if n_tokens < MIN_PARALLEL_TOKENS { (0..n_heads_in_all).for_each(head) } else { pool.run(n_heads_in_all, head) }
}

fn rotate_neighbours(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let rot_dim = 2 * cos.len();
    let turns = cos.iter().zip(sin);
    for ((out, x), (cos, sin)) in out.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(turns) {
        out[0] = x[0] * cos - x[1] * sin;
        out[1] = x[1] * cos + x[0] * sin;
    }
    out[rot_dim..].copy_from_slice(&x[rot_dim..]);
}

fn rotate_halves(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let (first, second) = x[..2 * half].split_at(half);
    let (out_first, rest) = out.split_at_mut(half);
    let (out_second, out_rest) = rest.split_at_mut(half);
    for i in 0..half {
        out_first[i] = first[i] * cos[i] - second[i] * sin[i];
        out_second[i] = second[i] * cos[i] + first[i] * sin[i];
    }
    out_rest.copy_from_slice(&x[2 * half..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, assert_close};
    use ingot_ir::kv::KvType;

    #[test]
    fn queries_are_rotated_and_keys_and_values_written_to_their_slots() {
        let (pool, mut scratch, mut random) = (Pool::new(2), Scratch::new(), Random::new(11));
        let (n_heads, n_kv_heads, head_dim, rot_dim) = (4usize, 2usize, 12usize, 8usize);
        let inv_freq = [1.0f32, 0.3, 0.02, 0.001];
        let (weights, eps) = (random.normals(2 * head_dim), 1e-3);
        for (n_tokens, normed) in [(1usize, false), (3, true), (20, false), (20, true)] {
            let mut words = vec![0u32; 16];
            let slots_at = 16 + 4 * n_tokens as u32;
            words[..9].copy_from_slice(&[n_tokens as u32, 0, 0, 0, 16, 16, 16, 16, slots_at]);
            let positions: Vec<u32> = (0..n_tokens).map(|t| if t == 0 { 131_071 } else { 7 * t as u32 }).collect();
            positions.iter().for_each(|&p| words.extend([0, p, 0, 0]));
            words.extend((0..n_tokens).map(|_| 0)); // group 0
            let slots: Vec<u32> = (0..n_tokens as u32).map(|t| (5 * t + 3) % 64).collect();
            words.extend(&slots);
            let step = StepView::new(&words).expect("well formed");
            // q, k, v side by side in rows of 100.
            let x = random.normals(n_tokens * 100);
            let columns = |at| Columns { values: &x, stride: 100, at };
            let mut q_out = vec![f32::NAN; n_tokens * n_heads * head_dim];
            let layout = PageLayout { kv: KvType::F32, n_kv_heads, head_dim };
            let mut kv = vec![f32::NAN.to_bits(); 4 * layout.page_words()];
            for _ in 0..2 {
                let args = RopeKv {
                    step,
                    n_heads,
                    layout,
                    rot_dim,
                    inv_freq: &inv_freq,
                    rope_scale: 1.5,
                    neighbours: false,
                    norms: normed.then_some(HeadNorms { weights: &weights, eps }),
                    kv_group: 1,
                    q: columns(1),
                    k: columns(50),
                    v: columns(75),
                    q_out: &mut q_out,
                    kv: &mut kv,
                };
                rope_kv(&pool, &mut scratch, args);
            }
            let kv: &[f32] = bytemuck::cast_slice(&kv);
            let rotated = |t: usize, at: usize| -> Vec<f64> {
                let mut x: Vec<f64> = x[t * 100 + at..][..head_dim].iter().map(|&v| f64::from(v)).collect();
                if normed {
                    let mean = x.iter().map(|v| v * v).sum::<f64>() / head_dim as f64;
                    let weights = &weights[if at < 50 { 0 } else { head_dim }..][..head_dim];
                    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
                    x.iter_mut().zip(weights).for_each(|(v, &w)| *v *= factor * f64::from(w));
                }
                let mut y = x.clone();
                for i in 0..4 {
                    let angle = f64::from(positions[t] as f32 * inv_freq[i]);
                    y[i] = 1.5 * (x[i] * angle.cos() - x[i + 4] * angle.sin());
                    y[i + 4] = 1.5 * (x[i + 4] * angle.cos() + x[i] * angle.sin());
                }
                y
            };
            for t in 0..n_tokens {
                for h in 0..n_heads {
                    let found = &q_out[(t * n_heads + h) * head_dim..][..head_dim];
                    assert_close(found, &rotated(t, 1 + h * head_dim), 1e-6, "q");
                }
                for h in 0..n_kv_heads {
                    let (page, offset) = (slots[t] as usize / 16, slots[t] as usize % 16);
                    let k_at = ((2 * page * n_kv_heads) + h) * 16 * head_dim + offset * head_dim;
                    assert_close(&kv[k_at..][..head_dim], &rotated(t, 50 + h * head_dim), 1e-6, "k");
                    let v_at = k_at + n_kv_heads * 16 * head_dim;
                    assert_eq!(kv[v_at..][..head_dim], x[t * 100 + 75 + h * head_dim..][..head_dim]);
                }
            }
            let n_written = kv.iter().filter(|v| !v.is_nan()).count();
            assert_eq!(n_written, n_tokens * 2 * n_kv_heads * head_dim);
        }
    }
}
