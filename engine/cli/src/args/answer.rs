//! Flags on how an answer is made: how its tokens are chosen and what ends it.

use anyhow::{Context, Result};
use clap::Args;
use ingot::{GenerateOptions, Grammar, Model, Penalty, Sampling};
use serde_json::{Map, Value};
use std::hash::{BuildHasher, RandomState};

/// How tokens are chosen. Names, defaults and order are mlx-lm's.
#[derive(Args)]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = positive, allow_negative_numbers = true)]
    pub temp: f32,
    /// Keep the most probable tokens until their mass exceeds this; 1 is off
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Keep tokens with at least this share of the greatest probability; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Tokens that --min-p leaves at least
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub min_tokens_to_keep: u32,
    /// Keep this many of the most probable tokens; 0 is off
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// How often XTC excludes the top choices; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    pub xtc_probability: f32,
    /// XTC excludes tokens above this probability, but for the least of them
    #[arg(long, value_name = "P", default_value_t = 0.1, value_parser = half, allow_negative_numbers = true)]
    pub xtc_threshold: f32,
    /// Divide logits of repeated tokens by this (multiply negative ones); 0 or 1 is off
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = positive, allow_negative_numbers = true)]
    pub repetition_penalty: f32,
    /// Newest tokens in which --repetition-penalty looks; 0 for all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub repetition_context_size: u32,
    /// Subtract this from logits of tokens that occur; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = finite, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Newest tokens in which --presence-penalty looks; 0 for all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub presence_context_size: u32,
    /// Subtract this from a token's logit for every time that it occurs; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = finite, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Newest tokens in which --frequency-penalty looks; 0 for all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub frequency_context_size: u32,
    /// Add to logits of token ids, e.g. 12=-5.5,40=2
    #[arg(long, value_name = "ID=BIAS", value_delimiter = ',', value_parser = bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers [default: another one each time; of a chat 0]
    #[arg(long)]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The library's form; draws the seed if none was given.
    pub(crate) fn sampling(&self) -> Sampling {
        let penalty = |strength, window| Penalty { strength, window };
        Sampling {
            temperature: self.temp,
            top_p: self.top_p,
            min_p: self.min_p,
            min_tokens_to_keep: self.min_tokens_to_keep,
            top_k: self.top_k,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            repetition: penalty(self.repetition_penalty, self.repetition_context_size),
            presence: penalty(self.presence_penalty, self.presence_context_size),
            frequency: penalty(self.frequency_penalty, self.frequency_context_size),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or_else(draw_seed),
            ..Sampling::default()
        }
    }
}

/// A seed of 53 bits, which readers of JSON that have doubles alone keep as it is.
fn draw_seed() -> u64 {
    RandomState::new().hash_one(0) >> 11
}

/// How an answer is made, but for its greatest length.
#[derive(Args)]
pub(crate) struct AnswerArgs {
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Fewest tokens of the answer: before, end tokens are not chosen and stop strings do not count
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_tokens: u32,
    /// End the answer before this text; may be repeated. `\n` and `\t` stand for line ends and tabs
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Further tokens that end the answer, by their text in the vocabulary
    #[arg(long, value_name = "TOKEN", num_args = 1..)]
    extra_eos_token: Vec<String>,
    /// Do not end the answer at the model's end tokens
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    form: FormArgs,
}

/// The form that an answer keeps: at most one.
#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct FormArgs {
    /// Answer in JSON that this schema describes: a file, `-` for standard input, or the schema itself
    #[arg(long, value_name = "FILE")]
    json_schema: Option<String>,
    /// Answer with a text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    regex: Option<String>,
    /// Answer with a text of this Lark grammar: a file, or `-` for standard input
    #[arg(long, value_name = "FILE")]
    grammar: Option<String>,
}

impl FormArgs {
    /// The form that was asked for. Standard input is read at most once.
    pub(crate) fn read(&self) -> Result<Option<Grammar>> {
        Ok(match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(schema), ..) => {
                let is_itself = schema.trim_start().starts_with('{');
                let text = if is_itself { schema.clone() } else { read(schema, "--json-schema")? };
                let flag = if is_itself { "--json-schema".into() } else { format!("--json-schema {schema}") };
                let schema = serde_json::from_str(&text).with_context(|| format!("{flag}: not JSON"))?;
                Some(Grammar::JsonSchema(schema))
            }
            (_, Some(regex), _) => Some(Grammar::Regex(regex.clone())),
            (.., Some(grammar)) => Some(Grammar::Lark(read(grammar, "--grammar")?)),
            (None, None, None) => None,
        })
    }
}

/// The text of a file, or of standard input.
fn read(path: &str, flag: &str) -> Result<String> {
    let text = if path == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    text.with_context(|| format!("{flag} {path} cannot be read"))
}

impl AnswerArgs {
    /// The form that the answer keeps. Standard input is read at most once.
    pub(crate) fn form(&self) -> Result<Option<Grammar>> {
        self.form.read()
    }
    /// The seed, if one was given.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.sampling.seed
    }
    /// Whether the form is on standard input.
    pub(crate) fn reads_stdin(&self) -> bool {
        [&self.form.json_schema, &self.form.grammar].iter().any(|path| path.as_deref() == Some("-"))
    }
    /// The library's options, without the form.
    pub(crate) fn options(&self, model: &Model, max_tokens: u32) -> Result<GenerateOptions> {
        let id = |token: &String| {
            let id = model.tokenizer()?.token_id(token);
            id.with_context(|| format!("--extra-eos-token {token}: the vocabulary has no such token"))
        };
        Ok(GenerateOptions {
            max_tokens,
            sampling: Sampling { min_tokens: self.min_tokens, ..self.sampling.sampling() },
            grammar: None,
            ignore_eos: self.ignore_eos,
            stop_ids: self.extra_eos_token.iter().map(id).collect::<Result<_>>()?,
            stop: self.stop.iter().map(|text| unescape(text)).collect(),
        })
    }
}

/// `\n` and `\t` as line ends and tabs, for shells in which they are hard to type.
pub(crate) fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

/// Tokens of `--max-tokens`; -1 is more than any context.
pub(crate) fn max_tokens(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(-1) => Ok(u32::MAX),
        Ok(n @ 1..) => u32::try_from(n).map_err(|_| "too many; -1 fills the context".into()),
        Ok(_) | Err::<i64, _>(_) => Err("it must be 1 or more, or -1 to fill the context".into()),
    }
}

/// Variables of a chat template: a JSON object.
pub(crate) fn variables(text: &str) -> Result<Map<String, Value>, String> {
    let wrong = |what: String| format!("{what}; write a JSON object, e.g. {{\"enable_thinking\": false}}");
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(wrong("not an object".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn finite(text: &str) -> Result<f32, String> {
    text.parse::<f32>().ok().filter(|x| x.is_finite()).ok_or_else(|| "it must be a number".into())
}

fn positive(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|x| *x >= 0.0).ok_or_else(|| "it must be 0 or a positive number".into())
}

fn share(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| "it must be between 0 and 1".into())
}

fn half(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|p| (0.0..=0.5).contains(p)).ok_or_else(|| "it must be between 0 and 0.5".into())
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let pair = text.split_once('=').and_then(|(id, bias)| Some((id.trim().parse().ok()?, finite(bias.trim()).ok()?)));
    pair.ok_or_else(|| "it must be a token id, `=` and a number, e.g. 12=-5.5".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_ids_and_numbers() {
        assert_eq!(bias("12=-5.5"), Ok((12, -5.5)));
        assert_eq!(bias(" 4 = 1e1"), Ok((4, 10.0)));
        for text in ["", "12", "=1", "-1=2", "12=x", "12=inf"] {
            assert!(bias(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_are_an_object() {
        assert_eq!(
            variables("{\"enable_thinking\": false}").map(|map| map["enable_thinking"].clone()),
            Ok(false.into())
        );
        for text in ["", "[]", "1", "{"] {
            assert!(variables(text).is_err_and(|error| error.contains("JSON object")), "{text}");
        }
    }
}
