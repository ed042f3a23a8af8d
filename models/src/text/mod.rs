//! Text to token ids and back.

pub mod tokenizer;
pub mod chat_template;
mod python;
pub mod detokenizer;
