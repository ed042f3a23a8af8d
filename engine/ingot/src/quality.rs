//! How good a model is: perplexity of a text, and how far the predictions of two models are apart.

use crate::windows::{Windows, cut};
use crate::{Error, Model};
use rayon::prelude::*;

/// A mean of many numbers, and how sure it is.
///
/// ```
/// let mean = ingot::Mean::of([1.0, 2.0, 6.0].into_iter());
/// println!("{:.1} ± {:.1}", mean.mean(), mean.standard_error());
/// assert_eq!((mean.n(), mean.mean()), (3, 3.0));
/// ```
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Mean {
    n: usize,
    mean: f64,
    /// Sum of squared distances from the mean.
    squares: f64,
}

impl Mean {
    /// The mean of numbers; of none it is 0.
    ///
    /// ```
    /// let seconds = [0.5, 0.7, 0.6].map(|time| time * 2.0);
    /// assert!((ingot::Mean::of(seconds.into_iter()).mean() - 1.2).abs() < 1e-9);
    /// ```
    pub fn of(numbers: impl Iterator<Item = f64>) -> Self {
        // Welford's recurrence, which does not cancel.
        numbers.fold(Self::default(), |Self { n, mean, squares }, x| {
            let new = mean + (x - mean) / (n + 1) as f64;
            Self { n: n + 1, mean: new, squares: squares + (x - mean) * (x - new) }
        })
    }
    /// How many numbers there were.
    ///
    /// ```
    /// assert_eq!(ingot::Mean::of((0..10).map(f64::from)).n(), 10);
    /// ```
    pub fn n(&self) -> usize {
        self.n
    }
    /// Their sum by their count.
    ///
    /// ```
    /// assert_eq!(ingot::Mean::of((0..10).map(f64::from)).mean(), 4.5);
    /// ```
    pub fn mean(&self) -> f64 {
        self.mean
    }
    /// Standard error of the mean: the sample's standard deviation by the root of its size; 0 for less than two numbers.
    ///
    /// ```
    /// // A sample of four with variance 4.
    /// let mean = ingot::Mean::of([1.0, 1.0, 1.0, 5.0].into_iter());
    /// assert_eq!(mean.standard_error(), 1.0);
    /// ```
    pub fn standard_error(&self) -> f64 {
        let n = self.n as f64;
        if self.n < 2 { 0.0 } else { (self.squares / (n - 1.0) / n).sqrt() }
    }
    /// The mean's exponential and its standard error: a perplexity, if the numbers are negative log-probabilities.
    ///
    /// ```
    /// // Tokens of which each had one chance in eight.
    /// let (perplexity, error) = ingot::Mean::of([8f64.ln(); 5].into_iter()).exp();
    /// assert!((perplexity - 8.0).abs() < 1e-9 && error < 1e-9);
    /// ```
    pub fn exp(&self) -> (f64, f64) {
        (self.mean.exp(), self.mean.exp() * self.standard_error())
    }
}

/// What two models say of one token.
///
/// ```
/// use ingot::{Position, compare};
///
/// # use ingot::{Activations, DeviceChoice, LoadOptions, Model, Windows};
/// # let load = |activations| {
/// #     let options = LoadOptions { device: DeviceChoice::Cpu, activations, ..LoadOptions::default() };
/// #     Model::load("../../models/ingot-tales-1m".as_ref(), options)
/// # };
/// # let (mut a, mut b) = (load(Activations::F32)?, load(Activations::Int8)?);
/// # let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
/// let found = compare(&mut a, &mut b, text, windows, &mut |_, _| {})?;
/// for Position { token, nll_a, nll_b, kl, .. } in found.positions {
///     println!("{:>8}: {nll_a:.3} {nll_b:.3}", a.tokenizer()?.decode(&[token], true)?);
///     assert!((nll_a - nll_b).abs() < 0.5 && kl < 0.1);
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Position {
    /// Its place among the text's tokens.
    pub index: usize,
    /// Its id.
    pub token: u32,
    /// Its negative log-probability in A.
    pub nll_a: f64,
    /// Its negative log-probability in B.
    pub nll_b: f64,
    /// Kullback-Leibler divergence of B's distribution from A's, in nats.
    pub kl: f64,
    /// Whether both find the same token most probable.
    pub same_top: bool,
}

/// How far two models' predictions are apart.
///
/// ```
/// use ingot::{Comparison, compare};
///
/// # use ingot::{Activations, DeviceChoice, LoadOptions, Model, Windows};
/// # let load = |activations| {
/// #     let options = LoadOptions { device: DeviceChoice::Cpu, activations, ..LoadOptions::default() };
/// #     Model::load("../../models/ingot-tales-1m".as_ref(), options)
/// # };
/// # let (mut a, mut b) = (load(Activations::F32)?, load(Activations::Int8)?);
/// # let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
/// // The same model in f32, and with activations rounded to 8 bits.
/// let found: Comparison = compare(&mut a, &mut b, text, windows, &mut |_, _| {})?;
/// println!("KL divergence {:.4}, same top token {:.0} %", found.kl().mean(), 100.0 * found.same_top().mean());
/// assert_eq!(found.positions.len(), 7);
/// # assert!(found.kl().mean() > 0.0);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Comparison {
    /// Every predicted token, in order.
    pub positions: Vec<Position>,
}

impl Comparison {
    /// Negative log-probability in A, in nats.
    ///
    /// ```
    /// # use ingot::{Activations, DeviceChoice, LoadOptions, Model, Windows, compare};
    /// # let load = |activations| {
    /// #     let options = LoadOptions { device: DeviceChoice::Cpu, activations, ..LoadOptions::default() };
    /// #     Model::load("../../models/ingot-tales-1m".as_ref(), options)
    /// # };
    /// # let (mut a, mut b) = (load(Activations::F32)?, load(Activations::Int8)?);
    /// # let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
    /// let found = compare(&mut a, &mut b, text, windows, &mut |_, _| {})?;
    /// let alone = a.perplexity(text, windows, &mut |_, _| {})?;
    /// assert!((found.nll_a().mean() - alone.mean()).abs() < 1e-6);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn nll_a(&self) -> Mean {
        Mean::of(self.positions.iter().map(|at| at.nll_a))
    }
    /// Negative log-probability in B, in nats.
    ///
    /// ```
    /// # use ingot::{Activations, DeviceChoice, LoadOptions, Model, Windows, compare};
    /// # let load = |activations| {
    /// #     let options = LoadOptions { device: DeviceChoice::Cpu, activations, ..LoadOptions::default() };
    /// #     Model::load("../../models/ingot-tales-1m".as_ref(), options)
    /// # };
    /// # let (mut a, mut b) = (load(Activations::F32)?, load(Activations::Int8)?);
    /// # let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
    /// let found = compare(&mut a, &mut b, text, windows, &mut |_, _| {})?;
    /// let ratio = found.nll_b().exp().0 / found.nll_a().exp().0;
    /// assert!(ratio != 1.0 && (0.9..1.1).contains(&ratio), "perplexities by one another");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn nll_b(&self) -> Mean {
        Mean::of(self.positions.iter().map(|at| at.nll_b))
    }
    /// Kullback-Leibler divergence of B's distributions from A's, in nats.
    ///
    /// ```
    /// # use ingot::{Activations, DeviceChoice, LoadOptions, Model, Windows, compare};
    /// # let load = |activations| {
    /// #     let options = LoadOptions { device: DeviceChoice::Cpu, activations, ..LoadOptions::default() };
    /// #     Model::load("../../models/ingot-tales-1m".as_ref(), options)
    /// # };
    /// # let (mut a, mut b) = (load(Activations::F32)?, load(Activations::Int8)?);
    /// # let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
    /// let apart = compare(&mut a, &mut b, text, windows, &mut |_, _| {})?.kl().mean();
    /// assert!(apart > 0.0 && apart < 0.1);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn kl(&self) -> Mean {
        Mean::of(self.positions.iter().map(|at| at.kl))
    }
    /// Share of tokens at which both find the same token most probable, 0 to 1.
    ///
    /// ```
    /// # use ingot::{Activations, DeviceChoice, LoadOptions, Model, Windows, compare};
    /// # let load = |activations| {
    /// #     let options = LoadOptions { device: DeviceChoice::Cpu, activations, ..LoadOptions::default() };
    /// #     Model::load("../../models/ingot-tales-1m".as_ref(), options)
    /// # };
    /// # let (mut a, mut b) = (load(Activations::F32)?, load(Activations::Int8)?);
    /// # let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
    /// let same = compare(&mut a, &mut b, text, windows, &mut |_, _| {})?.same_top();
    /// assert!(same.n() == 7 && same.mean() > 0.5);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn same_top(&self) -> Mean {
        Mean::of(self.positions.iter().map(|at| f64::from(u8::from(at.same_top))))
    }
    /// The KL divergence, in nats, that a share (0 to 1) of the tokens does not exceed.
    ///
    /// ```
    /// # use ingot::{Activations, DeviceChoice, LoadOptions, Model, Windows, compare};
    /// # let load = |activations| {
    /// #     let options = LoadOptions { device: DeviceChoice::Cpu, activations, ..LoadOptions::default() };
    /// #     Model::load("../../models/ingot-tales-1m".as_ref(), options)
    /// # };
    /// # let (mut a, mut b) = (load(Activations::F32)?, load(Activations::Int8)?);
    /// # let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
    /// let found = compare(&mut a, &mut b, text, windows, &mut |_, _| {})?;
    /// let [least, median, most] = [0.0, 0.5, 1.0].map(|share| found.kl_quantile(share));
    /// assert!(least <= median && median <= most && most > found.kl().mean());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn kl_quantile(&self, share: f64) -> f64 {
        let mut all: Vec<f64> = self.positions.iter().map(|at| at.kl).collect();
        all.sort_unstable_by(f64::total_cmp);
        let at = (share * all.len().saturating_sub(1) as f64).round() as usize;
        all.get(at).copied().unwrap_or(0.0)
    }
}

impl Model {
    /// Negative log-probabilities of a text's tokens, in nats; [`Mean::exp`] is the perplexity. `progress` is told windows
    /// done and windows in all.
    ///
    /// ```
    /// use ingot::Windows;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let windows = Windows { n_tokens: 512, most: None, seed: None };
    /// let mut score = |text: &str| model.perplexity(text, windows, &mut |_, _| {}).map(|nll| nll.exp().0);
    /// assert!(score("Once upon a time there was a little boy.")? < score("A boy little was there time a upon once.")?);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ShortText`] and [`Error::LongWindow`]; [`Error::NoPrediction`] at the first token whose logits are not numbers;
    /// those of the tokenizer and of running the model.
    pub fn perplexity(
        &mut self,
        text: &str,
        windows: Windows,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Mean, Error> {
        let cut = cut(self, text, windows)?;
        let n_vocab = self.facts().n_vocab as usize;
        let (mut nlls, mut all) = (Vec::new(), Vec::new());
        for (ix, window) in cut.iter().enumerate() {
            let mut row = 0;
            self.each_logits(&window.ids, |logits| {
                let rows: Vec<_> = logits.chunks_exact(n_vocab).zip((row..).map(|row| window.target(row))).collect();
                row += rows.len();
                let nll = |(row, target): (&[f32], Option<(usize, u32)>)| {
                    target.map(|(index, token)| (index, log_sum(row) - f64::from(row[token as usize])))
                };
                all.par_extend(rows.into_par_iter().filter_map(nll));
            })?;
            for (index, nll) in all.drain(..) {
                check(self, index, nll)?;
                nlls.push(nll);
            }
            progress(ix as u64 + 1, cut.len() as u64);
        }
        Ok(Mean::of(nlls.into_iter()))
    }
}

/// Compares B's predictions of a text with A's. `progress` is told windows done and windows in all.
///
/// ```
/// use ingot::{DeviceChoice, LoadOptions, Model, Windows, compare};
///
/// let load = |name: &str| {
///     let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
///     Model::load(format!("../../models/{name}").as_ref(), options)
/// };
/// let (mut large, mut small) = (load("ingot-tales-14m")?, load("ingot-tales-1m")?);
/// let (text, windows) = ("Once upon a time there was a little boy.", Windows { n_tokens: 8, most: Some(1), seed: None });
/// let apart = compare(&mut large, &mut small, text, windows, &mut |_, _| {})?;
/// assert!(apart.kl().mean() > 0.0 && apart.positions.iter().all(|at| at.kl >= 0.0));
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotComparable`] if tokens or vocabulary differ; [`Error::NoPrediction`] also where B gives no chance at all to a
/// token that A may choose; else as [`Model::perplexity`].
pub fn compare(
    a: &mut Model,
    b: &mut Model,
    text: &str,
    windows: Windows,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Comparison, Error> {
    let cut_a = cut(a, text, windows)?;
    let n_vocab = a.facts().n_vocab as usize;
    let of_b = b.facts().n_vocab as usize;
    if n_vocab != of_b {
        return Err(Error::NotComparable { why: format!("one has {n_vocab} tokens, the other {of_b}") });
    }
    if cut(b, text, windows)? != cut_a {
        return Err(Error::NotComparable { why: "their tokenizers cut the text differently".into() });
    }
    let mut found = Comparison::default();
    for (ix, window) in cut_a.iter().enumerate() {
        let mut logits_a = Vec::with_capacity(window.ids.len() * n_vocab);
        a.each_logits(&window.ids, |logits| logits_a.extend_from_slice(logits))?;
        let (mut row, n_before) = (0, found.positions.len());
        b.each_logits(&window.ids, |logits| {
            let rows: Vec<_> = logits.chunks_exact(n_vocab).zip(row..).collect();
            row += rows.len();
            let position = |(of_b, row): (&[f32], usize)| {
                let (index, token) = window.target(row)?;
                Some(position(index, token, &logits_a[row * n_vocab..][..n_vocab], of_b))
            };
            found.positions.par_extend(rows.into_par_iter().filter_map(position));
        })?;
        for at in &found.positions[n_before..] {
            check(a, at.index, at.nll_a)?;
            check(b, at.index, at.nll_b)?;
            if !at.kl.is_finite() {
                let why = "it gives no chance at all (a logit of minus infinity) to a token that the other may choose";
                return Err(no_prediction(b, at.index, why));
            }
        }
        progress(ix as u64 + 1, cut_a.len() as u64);
    }
    Ok(found)
}

/// Fails unless a negative log-probability is one.
fn check(model: &Model, index: usize, nll: f64) -> Result<(), Error> {
    let why = match nll {
        nll if nll.is_nan() => "its logits are not all numbers",
        f64::INFINITY => "it gives that token no chance at all (a logit of minus infinity)",
        _ => return Ok(()),
    };
    Err(no_prediction(model, index, why))
}

/// The error of a model whose logits tell nothing of the text's token `index`.
pub(crate) fn no_prediction(model: &Model, index: usize, why: &str) -> Error {
    let source = model.source.as_ref().and_then(|weights| weights.path());
    let model = source.map_or_else(|| "the model".to_owned(), |path| path.display().to_string());
    Error::NoPrediction { model, index, why: why.to_owned() }
}

/// Logarithm of the sum of exponentials; NaN if a logit is NaN or infinite, or all are minus infinity. Minus infinity among
/// others is a probability of 0.
pub(crate) fn log_sum(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - most).exp()).sum();
    f64::from(most) + sum.ln()
}

fn position(index: usize, token: u32, a: &[f32], b: &[f32]) -> Position {
    let (sum_a, sum_b) = (log_sum(a), log_sum(b));
    let kl = a.iter().zip(b).map(|(&a, &b)| {
        let log_a = f64::from(a) - sum_a;
        // What A never chooses adds nothing, whatever B says of it.
        if log_a.exp() == 0.0 { 0.0 } else { log_a.exp() * (log_a - (f64::from(b) - sum_b)) }
    });
    let top =
        |row: &[f32]| row.iter().enumerate().fold(0, |best, (ix, logit)| if *logit > row[best] { ix } else { best });
    let nll = |row: &[f32], sum: f64| sum - f64::from(row[token as usize]);
    // Rounding may leave equal distributions a hair below zero; what is no number stays none.
    let kl = kl.sum::<f64>();
    let kl = if kl < 0.0 { 0.0 } else { kl };
    Position { index, token, nll_a: nll(a, sum_a), nll_b: nll(b, sum_b), kl, same_top: top(a) == top(b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_their_errors() {
        let mean = Mean::of([1.0, 2.0, 3.0, 6.0].into_iter());
        assert_eq!((mean.n(), mean.mean()), (4, 3.0));
        // Variance 14 / 3.
        assert!((mean.standard_error() - (14.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
        assert!((mean.exp().0 - 3f64.exp()).abs() < 1e-9);
        assert_eq!(Mean::of([2.0].into_iter()).standard_error(), 0.0);
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        let (a, b) = ([0.0f32, 2f32.ln(), -1e30], [3.0f32, 3.0, -1e30]);
        // (1/3, 2/3) against (1/2, 1/2); a token that neither gives a chance adds nothing.
        let at = position(0, 1, &a, &b);
        let expected = 1.0 / 3.0 * (2.0f64 / 3.0).ln() + 2.0 / 3.0 * (4.0f64 / 3.0).ln();
        assert!((at.kl - expected).abs() < 1e-7, "{}", at.kl);
        assert!((at.nll_a - 1.5f64.ln()).abs() < 1e-7 && (at.nll_b - 2f64.ln()).abs() < 1e-7);
        // Of equal logits the first is the greatest.
        assert!(!at.same_top);
        assert_eq!(position(0, 1, &a, &a).kl, 0.0);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let fine = [0.0, 1.0, 2.0];
        for broken in [[0.0, nan, 2.0], [0.0, inf, 2.0], [-inf; 3]] {
            assert!(log_sum(&broken).is_nan(), "{broken:?}");
            let (before, after) = (position(0, 0, &broken, &fine), position(0, 0, &fine, &broken));
            assert!(before.nll_a.is_nan() && after.nll_b.is_nan() && after.kl.is_nan(), "{broken:?}");
        }
        // A chance of zero is one that can be told.
        let never = [0.0, -inf, 0.0];
        let at = position(0, 0, &never, &[0.0, 0.0, 0.0]);
        assert!((at.kl - 1.5f64.ln()).abs() < 1e-7 && (at.nll_a - 2f64.ln()).abs() < 1e-7, "{at:?}");
        assert_eq!(position(0, 1, &never, &fine).nll_a, f64::INFINITY);
        assert_eq!(position(0, 0, &fine, &never).kl, f64::INFINITY);
    }
}
