//! The smallest use of the library: a prompt in, text out.

use ingot::{GenerateOptions, LoadOptions, Model};
use std::io::Write;

fn main() -> Result<(), ingot::Error> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "models/ingot-tales-14m".into());
    let device = std::env::args().nth(2).unwrap_or_else(|| "cpu".into());
    let device = device.parse().unwrap_or_default();
    let mut model = Model::load(folder.as_ref(), LoadOptions { device, ..LoadOptions::default() })?;
    let prompt = model.chat_prompt("Tell me a story about a dragon who loves pizza.")?;
    let options = GenerateOptions { max_tokens: 60, ..GenerateOptions::default() };
    let answer = model.generate(&prompt, &options, |piece| {
        print!("{}", piece.text);
        std::io::stdout().flush().is_ok()
    })?;
    println!("\n{} tokens, {:.0} tokens/s on {}", answer.ids.len(), answer.stats.generation_tps(), model.device());
    Ok(())
}
