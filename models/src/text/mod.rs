//! Text to token ids and back.

pub mod chat_template;
pub mod detokenizer;
mod python;
pub mod stop;
pub mod grammar;
pub mod tokenizer;
