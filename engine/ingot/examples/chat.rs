//! A conversation: each turn reads only what is new in it.

use ingot::{Conversation, GenerateOptions, LoadOptions, Model};
use std::io::{BufRead, Write};

fn main() -> Result<(), ingot::Error> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "models/ingot-tales-14m".into());
    let device = std::env::args().nth(2).unwrap_or_else(|| "cpu".into());
    let device = device.parse().unwrap_or_default();
    let mut model = Model::load(folder.as_ref(), LoadOptions { device, ..LoadOptions::default() })?;
    let mut talk = Conversation::default();
    let options = GenerateOptions { max_tokens: 200, ..GenerateOptions::default() };
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = talk.say(&mut model, &line, &options, |piece| {
            print!("{}", piece.text);
            std::io::stdout().flush().is_ok()
        })?;
        println!("\n[{} tokens, {} of them new]", answer.stats.n_prompt, answer.stats.n_read());
    }
    Ok(())
}
