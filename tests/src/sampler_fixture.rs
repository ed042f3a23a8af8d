//! The sampler's golden cases, `golden/sampler/sampler.json`: what mlx-lm makes of logits.

use crate::shared::shared;
use ingot_runtime::sample::{Penalty, Sampling};
use serde_json::Value;

/// All cases; `None` where the golden files are absent, which is said.
pub fn fixture() -> Option<Value> {
    let path = shared("golden/sampler/sampler.json")?;
    Some(serde_json::from_str(&std::fs::read_to_string(path).expect("it is read")).expect("golden JSON parses"))
}

/// The row of logits that a case is about.
pub fn row(case: &Value) -> usize {
    case["row"].as_u64().expect("a row") as usize
}

/// Numbers; `null` stands for negative infinity.
pub fn numbers(value: &Value) -> Vec<f32> {
    let number = |value: &Value| value.as_f64().map_or(f32::NEG_INFINITY, |number| number as f32);
    value.as_array().expect("a list").iter().map(number).collect()
}

/// Ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// The library's form of a case's parameters; absent ones are its defaults.
pub fn sampling(params: &Value) -> Sampling {
    let number = |name: &str, default: f32| params[name].as_f64().map_or(default, |number| number as f32);
    let count = |name: &str, default: u32| params[name].as_u64().map_or(default, |number| number as u32);
    let penalty = |name: &str| Penalty {
        strength: number(&format!("{name}_penalty"), 0.0),
        window: count(&format!("{name}_context_size"), Penalty::default().window),
    };
    let plain = Sampling::default();
    let bias = |(id, bias): (&String, &Value)| (id.parse().expect("an id"), bias.as_f64().expect("a number") as f32);
    Sampling {
        temperature: number("temp", plain.temperature),
        top_p: number("top_p", plain.top_p),
        min_p: number("min_p", plain.min_p),
        min_tokens_to_keep: count("min_tokens_to_keep", plain.min_tokens_to_keep),
        top_k: count("top_k", plain.top_k),
        xtc_probability: number("xtc_probability", plain.xtc_probability),
        xtc_threshold: number("xtc_threshold", plain.xtc_threshold),
        xtc_exempt: params.get("xtc_special_tokens").map_or(Vec::new(), ids),
        repetition: penalty("repetition"),
        presence: penalty("presence"),
        frequency: penalty("frequency"),
        logit_bias: params["logit_bias"].as_object().into_iter().flatten().map(bias).collect(),
        ..plain
    }
}
