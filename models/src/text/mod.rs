//! Text to token ids and back.

pub(crate) mod bpe;
pub mod chat_template;
pub mod detokenizer;
mod python;
pub mod stop;
pub mod grammar;
pub mod tokenizer;
