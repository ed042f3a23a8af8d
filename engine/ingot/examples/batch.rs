//! Many prompts at once: four sequences run together, the fifth as soon as one has ended.

use ingot::{GenerateOptions, LoadOptions, Model};

fn main() -> Result<(), ingot::Error> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "models/ingot-tales-14m".into());
    let device = std::env::args().nth(2).unwrap_or_else(|| "cpu".into());
    let device = device.parse().unwrap_or_default();
    let mut model = Model::load(folder.as_ref(), LoadOptions { device, max_batch: 4, ..LoadOptions::default() })?;
    let heroes = ["a cat", "a dragon", "two friends", "a robot", "the moon"];
    let prompts = heroes.map(|hero| model.chat_prompt(&format!("Tell me a story about {hero}.")));
    let prompts = prompts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let options = GenerateOptions { max_tokens: 40, ..GenerateOptions::default() };
    let answers = model.batch_generate(&prompts, &options, |_, _| true);
    for (hero, answer) in heroes.iter().zip(answers) {
        match answer {
            Ok(answer) => println!("{hero} ({:?}): {}", answer.finish, answer.text),
            Err(error) => eprintln!("{hero}: {error}"),
        }
    }
    Ok(())
}
