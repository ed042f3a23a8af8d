//! The beginning of a GGUF file, version 3: settings and the table of tensors.

use super::MAGIC;
use super::blocks::Stored;

/// Tensors begin at a multiple of this many bytes.
pub(crate) const ALIGN_BYTES: u64 = 32;

/// A setting's value.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Setting {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
}

/// A tensor to be written.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Decl {
    pub name: String,
    pub stored: Stored,
    /// Sizes, slowest first.
    pub shape: Vec<usize>,
}

impl Decl {
    pub(crate) fn n_bytes(&self) -> u64 {
        let n_numbers: usize = self.shape.iter().product();
        (n_numbers / self.stored.block_len() * self.stored.block_bytes()) as u64
    }
}

/// Everything before the first tensor's bytes. Tensors follow in their order, each at a multiple of [`ALIGN_BYTES`].
pub(crate) fn header(settings: &[(String, Setting)], tensors: &[Decl]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((settings.len() as u64).to_le_bytes());
    for (key, setting) in settings {
        push_text(key, &mut out);
        push_setting(setting, &mut out);
    }
    let mut at = 0u64;
    for tensor in tensors {
        push_text(&tensor.name, &mut out);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        // The file has the fastest first.
        tensor.shape.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
        out.extend(tensor.stored.number().to_le_bytes());
        out.extend(at.to_le_bytes());
        at = (at + tensor.n_bytes()).next_multiple_of(ALIGN_BYTES);
    }
    out.resize(out.len().next_multiple_of(ALIGN_BYTES as usize), 0);
    out
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_setting(setting: &Setting, out: &mut Vec<u8>) {
    let kind = |kind: u32, out: &mut Vec<u8>| out.extend(kind.to_le_bytes());
    let list = |of: u32, n: usize, out: &mut Vec<u8>| {
        kind(9, out);
        kind(of, out);
        out.extend((n as u64).to_le_bytes());
    };
    match setting {
        Setting::U32(number) => {
            kind(4, out);
            out.extend(number.to_le_bytes());
        }
        Setting::F32(number) => {
            kind(6, out);
            out.extend(number.to_le_bytes());
        }
        Setting::Bool(yes) => {
            kind(7, out);
            out.push(u8::from(*yes));
        }
        Setting::Text(text) => {
            kind(8, out);
            push_text(text, out);
        }
        Setting::Texts(texts) => {
            list(8, texts.len(), out);
            texts.iter().for_each(|text| push_text(text, out));
        }
        Setting::F32s(numbers) => {
            list(6, numbers.len(), out);
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Setting::I32s(numbers) => {
            list(5, numbers.len(), out);
            numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Setting::Bools(all) => {
            list(7, all.len(), out);
            out.extend(all.iter().map(|yes| u8::from(*yes)));
        }
    }
}
