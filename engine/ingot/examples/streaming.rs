//! An answer as an iterator: each piece with its token, log-probability and the speed so far.

use ingot::{GenerateOptions, LoadOptions, Model, Sampling};

fn main() -> Result<(), ingot::Error> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "models/ingot-tales-14m".into());
    let device = std::env::args().nth(2).unwrap_or_else(|| "cpu".into());
    let device = device.parse().unwrap_or_default();
    let mut model = Model::load(folder.as_ref(), LoadOptions { device, ..LoadOptions::default() })?;
    let prompt = model.chat_prompt("Tell me a story about a dragon who loves pizza.")?;
    let sampling = Sampling { temperature: 0.7, n_logprobs: Some(1), seed: 3, ..Sampling::default() };
    let options = GenerateOptions { max_tokens: 20, sampling, ..GenerateOptions::default() };
    for piece in model.stream(&prompt, &options)? {
        let piece = piece?;
        if let (Some(id), Some(logprobs)) = (piece.id, &piece.logprobs) {
            let speed = piece.stats.generation_tps();
            println!("{id:>6} {:>7.3} {speed:>6.0} tokens/s {:?}", logprobs.chosen, piece.text);
        }
        if let Some(finish) = piece.finish {
            let stats = piece.stats;
            println!("{finish:?}: {} tokens, at most {} bytes of memory", stats.n_generated, stats.memory.peak);
        }
    }
    Ok(())
}
