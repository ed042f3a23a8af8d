//! How much a model suffers when one matrix alone is quantized: what a search for the best mix of widths rests on.

use crate::lower::Lowered;
use crate::quality::{log_sum, no_prediction};
use crate::weights::{ChangedWeights, Weights};
use crate::windows::{Window, Windows, cut};
use crate::{Error, LoadOptions, Model};
use ingot_ir::weight::Format;
use ingot_models::convert::search::{Candidate, Sensitivities};
use ingot_models::formats::affine::QuantShape;
use ingot_models::weights::WeightTable;
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// Measures for each matrix the mean Kullback-Leibler divergence, over the tokens of a text, of the model in which it alone is
/// quantized as `shape` says from the model as it is; in nats, per million numbers of the matrix. The text is read once a matrix.
/// `load` says how models are loaded, one at a time. `progress` is told models done and models in all.
///
/// Of a distribution the most probable tokens are compared one by one, and the others as one, so that what is kept of
/// the model as it is does not grow with the vocabulary.
///
/// ```
/// use ingot::{Cache, Candidates, DeviceChoice, LoadOptions, Target, Widths, Windows};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let floats = folder.path().join("f32");
/// # let from = "../../models/ingot-tales-1m".as_ref();
/// # let options = ingot::ConvertOptions { dequantize: true, ..Default::default() };
/// # ingot::convert(from, &floats, &options, &mut |_, _| true)?;
/// let candidates = Candidates::measure(&floats, Widths::new(3, 6, 64)?, &mut |_, _| {})?;
/// let shape = candidates.equal(Target::BitsPerWeight(5.0))?;
/// let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: None, seed: None });
/// let mut load = || LoadOptions { device: DeviceChoice::Cpu, cache: Cache::Off, ..LoadOptions::default() };
/// let some = &candidates.matrices[..2];
/// let found = ingot::sensitivities(&floats, some, shape, text, windows, &mut load, &mut |_, _| {})?;
/// assert_eq!(found[0].0, some[0].path);
/// assert!(found.iter().all(|(_, damage)| *damage > 0.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of loading and running, and of [`Model::perplexity`].
pub fn sensitivities(
    path: &Path,
    candidates: &[Candidate],
    shape: QuantShape,
    text: &str,
    windows: Windows,
    load: &mut dyn FnMut() -> LoadOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Sensitivities, Error> {
    let n_models = candidates.len() as u64 + 1;
    let mut model = Model::load(path, load())?;
    let windows = cut(&model, text, windows)?;
    let mut likely = Vec::new();
    each_row(&mut model, &windows, |_, row| Likely::of(row), &mut likely)?;
    if let Some(ix) = likely.iter().position(Likely::is_none) {
        let mut targets = windows.iter().flat_map(|window| (0..window.ids.len()).filter_map(|row| window.target(row)));
        let index = targets.nth(ix).map_or(ix, |(index, _)| index);
        return Err(no_prediction(&model, index, "its logits are not all numbers"));
    }
    // Each model leaves before the next comes.
    drop(model);
    progress(1, n_models);

    let opened = ingot_models::Model::open(path)?;
    let quantization = opened.spec.quantization.clone();
    let Lowered { graph, weights, eos_ids, max_positions, .. } = Lowered::opened(opened)?;
    let weights = Arc::new(weights);
    let mut found = Sensitivities::new();
    for candidate in candidates {
        let checkpoint = weights.checkpoint().unwrap_or_else(|| unreachable!("a checkpoint was opened"));
        let matrix = candidate.quantized(&WeightTable::new(checkpoint, quantization.as_ref()), shape)?;
        let mut graph = graph.clone();
        // Of a group that does not divide its columns it has another form.
        let QuantShape { bits, group } = matrix.shape;
        let format = Format::Affine { bits: bits as u8, group: group as u16, scales: matrix.scale_type };
        candidate.replace(&mut graph, format);
        let weights = Weights::Changed(ChangedWeights::new(Arc::clone(&weights), candidate.path.clone(), matrix));
        let changed = Lowered::new(graph, weights, eos_ids.clone(), max_positions);
        let mut model = Model::load_lowered(changed, load())?;
        let mut divergences = Vec::with_capacity(likely.len());
        each_row(&mut model, &windows, |ix, row| likely[ix].divergence(row), &mut divergences)?;
        let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
        if !mean.is_finite() {
            let path = &candidate.path;
            return Err(Error::Unusable(format!(
                "with `{path}` quantized the model gives no numbers; leave it as it is"
            )));
        }
        found.push((candidate.path.clone(), mean * 1e6 / candidate.n_numbers() as f64));
        progress(found.len() as u64 + 1, n_models);
    }
    Ok(found)
}

/// What `each` makes of the logits of every predicted token: its place among them, and the logits.
fn each_row<T: Send>(
    model: &mut Model,
    windows: &[Window],
    each: impl Fn(usize, &[f32]) -> T + Sync,
    out: &mut Vec<T>,
) -> Result<(), Error> {
    let n_vocab = model.facts().n_vocab as usize;
    for window in windows {
        let mut row = 0;
        model.each_logits(&window.ids, |logits| {
            let rows: Vec<_> = logits.chunks_exact(n_vocab).zip(row..).collect();
            row += rows.len();
            let wanted: Vec<_> = rows.into_iter().filter(|(_, row)| window.target(*row).is_some()).collect();
            let first = out.len();
            out.par_extend(wanted.into_par_iter().enumerate().map(|(ix, (logits, _))| each(first + ix, logits)));
        })?;
    }
    Ok(())
}

/// Tokens of a distribution that are compared one by one.
const N_LIKELY: usize = 512;

/// The most probable tokens of a distribution, with the logarithms of their probabilities.
struct Likely {
    tokens: Vec<(u32, f32)>,
    /// Probability of all others.
    rest: f64,
}

impl Likely {
    fn of(logits: &[f32]) -> Self {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        if ids.len() > N_LIKELY {
            let falling = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]);
            ids.select_nth_unstable_by(N_LIKELY, falling);
            ids.truncate(N_LIKELY);
        }
        let sum = log_sum(logits);
        let tokens: Vec<(u32, f32)> =
            ids.into_iter().map(|id| (id, (f64::from(logits[id as usize]) - sum) as f32)).collect();
        let rest = 1.0 - tokens.iter().map(|(_, log)| f64::from(*log).exp()).sum::<f64>();
        Self { tokens, rest: rest.max(0.0) }
    }

    /// Whether the logits were none of a distribution.
    fn is_none(&self) -> bool {
        self.tokens.first().is_none_or(|(_, log)| log.is_nan())
    }

    /// Divergence of another model's distribution from this one, in nats.
    fn divergence(&self, logits: &[f32]) -> f64 {
        let sum = log_sum(logits);
        let (mut divergence, mut rest) = (0.0, 1.0);
        for (id, log) in &self.tokens {
            let (log, other) = (f64::from(*log), f64::from(logits[*id as usize]) - sum);
            divergence += log.exp() * (log - other);
            rest -= other.exp();
        }
        if self.rest > LEAST_REST {
            divergence += self.rest * (self.rest / f64::max(rest, LEAST_REST)).ln();
        }
        // Rounding may leave less than nothing; what is no number stays none.
        if divergence < 0.0 { 0.0 } else { divergence }
    }
}

/// Less than this is what rounding leaves.
const LEAST_REST: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_definition_where_all_tokens_are_kept() {
        let (a, b) = ([0.0f32, 2f32.ln()], [3.0f32, 3.0]);
        let expected = 1.0 / 3.0 * (2.0f64 / 3.0).ln() + 2.0 / 3.0 * (4.0f64 / 3.0).ln();
        assert!((Likely::of(&a).divergence(&b) - expected).abs() < 1e-6);
        assert!(Likely::of(&a).divergence(&a) < 1e-6);
    }

    #[test]
    fn unlikely_tokens_are_compared_as_one() {
        // A thousand likely tokens, of which half are kept, and as many that lose what the likely ones win.
        let a: Vec<f32> = (0..2000).map(|id| if id < 1000 { 2.0 } else { 0.0 }).collect();
        let b: Vec<f32> = (0..2000).map(|id| if id < 1000 { 4.0 } else { 0.0 }).collect();
        let likely = Likely::of(&a);
        assert!(likely.tokens.len() == N_LIKELY && likely.tokens.iter().all(|(id, _)| *id < 1000));
        let p = |logit: f64| 512.0 * logit.exp() / (1000.0 * logit.exp() + 1000.0);
        let (p, q) = (p(2.0), p(4.0));
        let expected = p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
        assert!((likely.divergence(&b) - expected).abs() < 1e-5, "{}", likely.divergence(&b));
    }
}
