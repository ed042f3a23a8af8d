//! Small GGUF files, written as llama.cpp's converter would: version 3, tensors in single precision or in blocks that are given.

use std::path::Path;

/// A type's number in files, sizes (slowest first), bytes.
type Tensor = (u32, Vec<usize>, Vec<u8>);

/// A file in the making.
#[derive(Clone, Debug, Default)]
pub struct GgufFile {
    settings: Vec<u8>,
    n_settings: u64,
    tensors: Vec<(String, Tensor)>,
}

/// Where a tensor's data may begin.
const ALIGNMENT: usize = 32;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl GgufFile {
    fn setting(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.n_settings += 1;
        text(&mut self.settings, key);
        self.settings.extend(kind.to_le_bytes());
        self.settings.extend(value);
    }
    /// Sets a list of values of a type by its number, one after the other.
    pub fn list(&mut self, key: &str, kind: u32, n: usize, values: &[u8]) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((n as u64).to_le_bytes());
        bytes.extend(values);
        self.setting(key, 9, &bytes);
    }
    /// Sets a text.
    pub fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.setting(key, 8, &bytes);
    }
    /// Sets a whole number.
    pub fn u32(&mut self, key: &str, value: u32) {
        self.setting(key, 4, &value.to_le_bytes());
    }
    /// Sets a number.
    pub fn f32(&mut self, key: &str, value: f32) {
        self.setting(key, 6, &value.to_le_bytes());
    }
    /// Adds a tensor of numbers; sizes slowest first.
    pub fn tensor(&mut self, name: &str, shape: &[usize], numbers: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), numbers.len(), "{name}");
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.tensors.push((name.to_owned(), (0, shape.to_vec(), bytes)));
    }
    /// Adds a tensor of a type by its number in files.
    pub fn blocks(&mut self, name: &str, kind: u32, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.push((name.to_owned(), (kind, shape.to_vec(), bytes)));
    }
    /// Writes the file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, self.bytes())
    }
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_settings.to_le_bytes());
        out.extend(&self.settings);
        let mut at = 0;
        for (name, (kind, shape, bytes)) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            out.extend(shape.iter().rev().flat_map(|size| (*size as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((at as u64).to_le_bytes());
            at = (at + bytes.len()).next_multiple_of(ALIGNMENT);
        }
        for (_, (_, _, bytes)) in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }
}
