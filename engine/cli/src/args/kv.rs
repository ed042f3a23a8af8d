//! Flags for how keys and values are kept.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use ingot::ir::kv::KvType;

/// Types of floats in the cache.
#[derive(Clone, Copy, ValueEnum)]
enum Float {
    F16,
    F32,
}

/// Type of the KV cache.
#[derive(Args, Clone)]
pub(crate) struct KvArgs {
    /// Type of keys and values in the cache [default: f16 on a GPU, f32 on the processor, or the compiled file's]
    #[arg(long, value_name = "TYPE", conflicts_with = "kv_bits")]
    kv_dtype: Option<Float>,
    /// Quantize keys and values in the cache to this many bits
    #[arg(long, value_name = "BITS", value_parser = PossibleValuesParser::new(["4", "8"]))]
    kv_bits: Option<String>,
    /// Numbers of a quantized cache that share a scale: of --kv-bits
    #[arg(
        long, value_name = "SIZE", default_value = "64",
        value_parser = PossibleValuesParser::new(["32", "64", "128"])
    )]
    kv_group_size: String,
    /// Taken for mlx-lm's sake and read as 0: a page has one type, so --kv-bits quantizes all of the cache
    #[arg(long = "quantized-kv-start", value_name = "TOKENS")]
    _quantized_kv_start: Option<u32>,
    /// Positions that the cache holds of a sequence at most: the first 4 and the newest of a longer one, which may then be
    /// longer than the model's context [default: all, or the compiled file's]
    #[arg(long, value_name = "N", value_parser = kv_size)]
    pub max_kv_size: Option<u32>,
}

impl KvArgs {
    /// The type asked for, if any.
    pub(crate) fn kv_type(&self) -> Option<KvType> {
        let codes = || {
            let bits = self.kv_bits.as_ref()?;
            Some(KvType::Affine { bits: bits.parse().ok()?, group: self.kv_group_size.parse().ok()? })
        };
        let float = self.kv_dtype.map(|float| match float {
            Float::F16 => KvType::F16,
            Float::F32 => KvType::F32,
        });
        float.or_else(codes)
    }
}

/// Positions of `--max-kv-size`: the 4 that are kept and some to look back at.
fn kv_size(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|n| *n >= 8).ok_or_else(|| "it must be 8 or more".into())
}
