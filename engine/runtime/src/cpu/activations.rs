//! In which precision products with quantized matrices read their activations.

use std::fmt;
use std::str::FromStr;

/// What a product with an affine-quantized matrix takes for x. Products with float matrices, norms, attention and all
/// sums are f32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// x as it is.
    #[default]
    F32,
    /// x rounded to 8 bits in blocks of 32 columns that share a factor, a 127th of the block's largest magnitude;
    /// multiplied in whole numbers.
    Int8,
}

impl Activations {
    /// Name in flags and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::F32, Self::Int8].into_iter().find(|known| known.name() == text);
        known.ok_or_else(|| format!("activations are f32 or int8, not `{text}`"))
    }
}
