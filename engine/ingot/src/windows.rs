//! How a text is cut into windows, which models are measured with.

use crate::{Error, Model};
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::sample::Random;

/// How a text is cut: windows of tokens that are read together, one after the other. Each token but a window's first is
/// predicted from those before it, within its window. A last window that is not full is left out, unless it is the only one.
///
/// Figures of other programs are of other cuts. `llama-perplexity` of llama.cpp scores the second half of each window alone, whose
/// tokens have many before them, so its perplexities are lower; `mlx_lm.perplexity` scores whole windows as here, of many texts laid
/// end to end, with nothing put before a window.
///
/// ```
/// use ingot::Windows;
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let text = "Once upon a time there was a little boy who had a dog.";
/// let windows = Windows { n_tokens: 4, most: Some(2), seed: None };
/// let nll = model.perplexity(text, windows, &mut |_, _| {})?;
/// assert_eq!(nll.n(), 2 * 3);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    /// Tokens of a window, what the tokenizer puts before a text included; at least two of the text's.
    pub n_tokens: usize,
    /// Most windows, one at least; `None` takes all.
    pub most: Option<usize>,
    /// Where not all are taken, which: those that this number draws from the whole text, or the first. They are read in the
    /// text's order.
    pub seed: Option<u64>,
}

/// Tokens that are read together.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Window {
    /// What the tokenizer puts first, and tokens of the text.
    pub ids: Vec<u32>,
    /// How many of the former.
    n_prefix: usize,
    /// Place in the text of the first of the latter.
    first: usize,
}

impl Window {
    /// What row `row` of the logits predicts, if that is a token of the text with one before it: place in the text, and id.
    pub(crate) fn target(&self, row: usize) -> Option<(usize, u32)> {
        let token = *self.ids.get(row + 1)?;
        (row + 1 >= self.n_prefix).then(|| (self.first + row + 1 - self.n_prefix, token))
    }
}

/// The windows of a text that are taken, in its order.
///
/// # Errors
/// [`Error::ShortText`], [`Error::LongWindow`], and those of the tokenizer.
pub(crate) fn cut(model: &Model, text: &str, windows: Windows) -> Result<Vec<Window>, Error> {
    let prefix = prefix(model.tokenizer()?)?;
    let ids = model.tokenizer()?.encode(text, false)?;
    let n_prefix = prefix.len();
    let n_own = windows.n_tokens.saturating_sub(n_prefix).max(2);
    let n_full = (ids.len() / n_own).max(1);
    let window = |ix: usize| {
        let own = ids.chunks(n_own).nth(ix).unwrap_or_default();
        Window { ids: prefix.iter().chain(own).copied().collect(), n_prefix, first: ix * n_own }
    };
    let all: Vec<Window> = taken(n_full, windows).into_iter().map(window).collect();
    let (n_tokens, context) = (all.iter().map(|window| window.ids.len()).max().unwrap_or(0), model.facts().max_context);
    if n_tokens > context as usize {
        return Err(Error::LongWindow { n_tokens, context });
    }
    match all.first() {
        Some(first) if !ids.is_empty() && first.ids.len() >= 2 => Ok(all),
        _ => Err(Error::ShortText { n_tokens: ids.len() }),
    }
}

/// Which of `n` windows are taken.
fn taken(n: usize, windows: Windows) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    if let Some(seed) = windows.seed {
        all.sort_by_cached_key(|ix| (Random::at(seed, *ix as u32).noise, *ix));
    }
    all.truncate(windows.most.map_or(n, |most| most.max(1)));
    all.sort_unstable();
    all
}

/// What the tokenizer puts before a text: the begin token as a rule. What it may put behind one is left out, since an end token
/// before a window would be read as another text's end.
fn prefix(tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
    let (own, mut ids) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
    let before = (0..ids.len()).find(|at| ids[*at..].starts_with(&own)).unwrap_or(0);
    ids.truncate(before);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_the_first_or_drawn_from_all() {
        let of = |most, seed| taken(100, Windows { n_tokens: 8, most, seed });
        let all: Vec<usize> = (0..100).collect();
        assert_eq!(of(Some(3), None), [0, 1, 2]);
        assert_eq!((of(None, None), of(None, Some(1)), of(Some(200), Some(1))), (all.clone(), all.clone(), all));
        let (drawn, others) = (of(Some(10), Some(123)), of(Some(10), Some(124)));
        assert!(drawn.len() == 10 && drawn.is_sorted() && drawn[9] > 50 && drawn != others, "{drawn:?} {others:?}");
        assert_eq!(of(Some(10), Some(123)), drawn);
    }

    #[test]
    fn a_window_predicts_tokens_that_have_one_before_them() {
        let plain = Window { ids: vec![5, 6, 7], n_prefix: 0, first: 10 };
        assert_eq!([0, 1, 2].map(|row| plain.target(row)), [Some((11, 6)), Some((12, 7)), None]);
        let begun = Window { ids: vec![1, 5, 6], n_prefix: 1, first: 10 };
        assert_eq!([0, 1, 2].map(|row| begun.target(row)), [Some((10, 5)), Some((11, 6)), None]);
    }
}
