//! Template embed: rows of the embedding matrix, decoded.
#![allow(unsafe_code)]

use super::pool::{Pool, Shards};
use super::simd::dispatch;
use super::simd::unpack::Unpack;
use super::step_view::{SAMPLED_ID, StepView};
use super::weight::Weight;

/// Tokens below which one thread is enough.
const MIN_PARALLEL_TOKENS: usize = 16;

/// out\[t\] = scale * weight\[id(t) - row_first\] for every token whose id the weight's rows cover; the other rows of out stay.
/// `sampled` holds the ids that earlier steps sampled, for tokens that refer to them.
///
/// # Panics
/// If `out` or `sampled` is too short.
pub fn embed(
    pool: &Pool,
    step: &StepView,
    sampled: &[u32],
    weight: &Weight,
    row_first: usize,
    scale: f32,
    out: &mut [f32],
) {
    let n_cols = weight.n_cols();
    let n_tokens = step.n_tokens();
    let out = Shards::new(&mut out[..n_tokens * n_cols]);
    let token = |t: usize| {
        let id = step.token(t).id;
        let id = if id & SAMPLED_ID == 0 { id } else { sampled[(id & !SAMPLED_ID) as usize] };
        let row = (id as usize).wrapping_sub(row_first);
        if row < weight.n_rows() {
            let (segment, row) = weight.locate(row);
            // SAFETY: one output row a token.
            let out = unsafe { out.part(t * n_cols, n_cols) };
            dispatch(Unpack { segment, n_cols, row, col: 0, out: &mut *out });
            if scale != 1.0 {
                out.iter_mut().for_each(|v| *v *= scale);
            }
        }
    };
    if n_tokens < MIN_PARALLEL_TOKENS { (0..n_tokens).for_each(token) } else { pool.run(n_tokens, token) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Random, TestWeight, all_formats, assert_close};
    use crate::cpu::weight::Format;

    #[test]
    fn rows_of_every_format_are_gathered_and_others_left_alone() {
        let (pool, mut random) = (Pool::new(2), Random::new(5));
        for format in all_formats() {
            let n_cols = match format {
                Format::Float(_) => 66,
                Format::K(_) => 512,
                _ => 384,
            };
            let parts =
                [TestWeight::new(&mut random, format, 5, n_cols), TestWeight::new(&mut random, format, 6, n_cols)];
            let segments = [parts[0].segment(), parts[1].segment()];
            let weight = Weight::new(n_cols, &segments, false).expect("well formed");
            for n_tokens in [3usize, 20] {
                // Rows 10..21 of the vocabulary are here; ids 8 to 23 are asked, every third by way of `sampled`.
                let ids: Vec<u32> = (0..n_tokens).map(|_| 8 + random.below(16) as u32).collect();
                let mut words = vec![0u32; 16];
                words[..9].copy_from_slice(&[n_tokens as u32, 0, 0, 0, 16, 16, 16, 16, 16]);
                for (t, &id) in ids.iter().enumerate() {
                    words.extend([if t % 3 == 0 { SAMPLED_ID | t as u32 } else { id }, 0, 0, 0]);
                }
                let step = StepView::new(&words).expect("well formed");
                let mut out = vec![-7.0; n_tokens * n_cols];
                let scale = if n_tokens == 3 { 1.0 } else { 2.5 };
                embed(&pool, &step, &ids, &weight, 10, scale, &mut out);
                for (&id, out) in ids.iter().zip(out.chunks(n_cols)) {
                    let want: Vec<f64> = match id {
                        10..=20 => {
                            let row = id as usize - 10;
                            let (part, row) = (&parts[row / 5 - row / 10], if row < 5 { row } else { row - 5 });
                            (0..n_cols).map(|c| f64::from(scale) * part.value(row, c)).collect()
                        }
                        _ => vec![-7.0; n_cols],
                    };
                    assert_close(out, &want, 1e-6, &format!("{format:?} id {id}"));
                }
            }
        }
    }
}
