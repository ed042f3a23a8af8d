//! A program's own say in what comes next: no token with an `e` in it.

use ingot::{Adjust, GenerateOptions, LoadOptions, Model, Sampling};

fn main() -> Result<(), ingot::Error> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "models/ingot-tales-14m".into());
    let device = std::env::args().nth(2).unwrap_or_else(|| "cpu".into());
    let device = device.parse().unwrap_or_default();
    let mut model = Model::load(folder.as_ref(), LoadOptions { device, ..LoadOptions::default() })?;
    let prompt = model.chat_prompt("Tell me a story about a dragon.")?;
    let tokenizer = model.tokenizer()?;
    let unwanted: Vec<usize> = (0..model.facts().n_vocab)
        .filter(|id| !model.eos_ids().contains(id))
        .filter(|id| tokenizer.token(*id).is_none_or(|token| token.to_lowercase().contains('e')))
        .map(|id| id as usize)
        .collect();
    let adjust = Adjust::new(move |_tokens, logits| unwanted.iter().for_each(|id| logits[*id] = f32::NEG_INFINITY));
    let sampling = Sampling { adjust: Some(adjust), ..Sampling::default() };
    let options = GenerateOptions { max_tokens: 40, sampling, ..GenerateOptions::default() };
    let answer = model.generate(&prompt, &options, |_| true)?;
    println!("{}", answer.text);
    Ok(())
}
