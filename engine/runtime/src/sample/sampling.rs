//! The parameters of a request's sampling. Defaults are mlx-lm's: greedy, everything off.

use super::adjust::Adjust;
use crate::RuntimeError;

/// A penalty on tokens that the end of the sequence holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Penalty {
    /// How strong it is; 0 is off.
    pub strength: f32,
    /// Tokens of prompt and answer that count, the newest; 0 for all.
    pub window: u32,
}

impl Default for Penalty {
    fn default() -> Self {
        Self { strength: 0.0, window: 20 }
    }
}

/// How a request's tokens are chosen.
#[derive(Clone, PartialEq, Debug)]
pub struct Sampling {
    /// 0 takes the most probable token and ignores the filters.
    pub temperature: f32,
    /// Keeps the most probable tokens until their mass reaches this; off outside (0, 1).
    pub top_p: f32,
    /// Keeps tokens with at least this share of the greatest probability; 0 is off.
    pub min_p: f32,
    /// Tokens that `min_p` leaves at least.
    pub min_tokens_to_keep: u32,
    /// Keeps this many of the most probable tokens; 0 is off.
    pub top_k: u32,
    /// How often XTC excludes the top choices; 0 is off.
    pub xtc_probability: f32,
    /// XTC excludes every token above this probability but the least probable of them.
    pub xtc_threshold: f32,
    /// Ids that XTC never excludes: line ends and end tokens.
    pub xtc_exempt: Vec<u32>,
    /// Divides positive logits of repeated tokens and multiplies negative ones; 1 is off too.
    pub repetition: Penalty,
    /// Subtracted once from the logits of tokens that occur.
    pub presence: Penalty,
    /// Subtracted for every time that a token occurs.
    pub frequency: Penalty,
    /// Added to the logits of these ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// The program's own change of logits.
    pub adjust: Option<Adjust>,
    /// Tokens that an answer has at least: before, ids that would end it are not chosen.
    pub min_tokens: u32,
    /// Log-probabilities that are told: the chosen token's and those of so many best ones. `None` tells none.
    pub n_logprobs: Option<u32>,
    /// Seed of the request's random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            top_k: 0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            xtc_exempt: Vec::new(),
            repetition: Penalty::default(),
            presence: Penalty::default(),
            frequency: Penalty::default(),
            logit_bias: Vec::new(),
            adjust: None,
            min_tokens: 0,
            n_logprobs: None,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether the device's greedy choice is all that is wanted, so that no logits are read back.
    pub fn is_greedy(&self) -> bool {
        let Self { repetition, presence, frequency, .. } = self;
        let penalizes =
            !matches!(repetition.strength, 0.0 | 1.0) || presence.strength != 0.0 || frequency.strength != 0.0;
        let touches = penalizes || !self.logit_bias.is_empty() || self.adjust.is_some() || self.min_tokens > 0;
        self.temperature == 0.0 && !touches && self.n_logprobs.is_none()
    }

    /// Checks the ranges.
    pub fn check(&self, n_vocab: u32) -> Result<(), RuntimeError> {
        let number = |name, value: f32, fits: bool, allowed| match fits && value.is_finite() {
            true => Ok(()),
            false => Err(RuntimeError::BadSampling { name, value: value.to_string(), allowed }),
        };
        let share = |name, value: f32| number(name, value, (0.0..=1.0).contains(&value), "between 0 and 1");
        let count = |name, value: u32, fits: bool, allowed| match fits {
            true => Ok(()),
            false => Err(RuntimeError::BadSampling { name, value: value.to_string(), allowed }),
        };
        number("temperature", self.temperature, self.temperature >= 0.0, "0 or a positive number")?;
        share("top-p", self.top_p)?;
        share("min-p", self.min_p)?;
        count("min-tokens-to-keep", self.min_tokens_to_keep, self.min_tokens_to_keep > 0, "1 or more")?;
        count("top-k", self.top_k, self.top_k < n_vocab, "0 (off) or less than the vocabulary")?;
        share("xtc-probability", self.xtc_probability)?;
        let threshold = self.xtc_threshold;
        number("xtc-threshold", threshold, (0.0..=0.5).contains(&threshold), "between 0 and 0.5")?;
        let strength = self.repetition.strength;
        number("repetition-penalty", strength, strength >= 0.0, "0 (off) or a positive number")?;
        number("presence-penalty", self.presence.strength, true, "a finite number")?;
        number("frequency-penalty", self.frequency.strength, true, "a finite number")?;
        for &(id, bias) in &self.logit_bias {
            count("an id of logit-bias", id, id < n_vocab, "less than the vocabulary")?;
            number("logit-bias", bias, true, "a finite number")?;
        }
        let n_logprobs = self.n_logprobs.unwrap_or(0);
        count("logprobs", n_logprobs, n_logprobs <= n_vocab, "at most the vocabulary")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_untouched_argmax_is_the_devices_affair() {
        let plain = Sampling::default;
        assert!(plain().is_greedy());
        let off = Penalty { strength: 1.0, window: 5 };
        assert!(Sampling { repetition: off, top_k: 3, min_p: 0.5, ..plain() }.is_greedy());
        let on = Penalty { strength: 0.5, window: 5 };
        for touched in [
            Sampling { temperature: 0.1, ..plain() },
            Sampling { repetition: on, ..plain() },
            Sampling { presence: on, ..plain() },
            Sampling { frequency: on, ..plain() },
            Sampling { logit_bias: vec![(1, 2.0)], ..plain() },
            Sampling { min_tokens: 1, ..plain() },
            Sampling { n_logprobs: Some(0), ..plain() },
        ] {
            assert!(!touched.is_greedy(), "{touched:?}");
            touched.check(10).expect("it is in range");
        }
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let plain = Sampling::default;
        let strong = |strength| Penalty { strength, window: 20 };
        for (wrong, name) in [
            (Sampling { temperature: f32::NAN, ..plain() }, "temperature"),
            (Sampling { top_p: 1.1, ..plain() }, "top-p"),
            (Sampling { min_p: -0.1, ..plain() }, "min-p"),
            (Sampling { min_tokens_to_keep: 0, ..plain() }, "min-tokens-to-keep"),
            (Sampling { top_k: 10, ..plain() }, "top-k"),
            (Sampling { xtc_probability: 2.0, ..plain() }, "xtc-probability"),
            (Sampling { xtc_threshold: 0.6, ..plain() }, "xtc-threshold"),
            (Sampling { repetition: strong(-1.0), ..plain() }, "repetition-penalty"),
            (Sampling { presence: strong(f32::INFINITY), ..plain() }, "presence-penalty"),
            (Sampling { frequency: strong(f32::NAN), ..plain() }, "frequency-penalty"),
            (Sampling { logit_bias: vec![(10, 1.0)], ..plain() }, "logit-bias"),
            (Sampling { n_logprobs: Some(11), ..plain() }, "logprobs"),
        ] {
            let message = wrong.check(10).expect_err(name).to_string();
            assert!(message.contains(name) && message.contains("must be"), "{message}");
        }
    }
}
