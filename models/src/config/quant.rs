//! MLX's `quantization` object: defaults, and settings for single modules by path.

use super::fields::Fields;
use crate::error::{Error, Result};
use crate::formats::affine::{BITS, GROUPS, QuantShape};
use crate::formats::packed::Packer;
use crate::formats::small_float::SmallFloat;
use ingot_ir::weight::Format;
use serde_json::Value;
use std::collections::BTreeMap;

/// How a module is quantized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quant {
    /// `w = code * scale + bias`.
    Affine(QuantShape),
    /// Codes and scales are small floats.
    SmallFloat(SmallFloat),
}

/// What the configuration says of one module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerQuant {
    /// Kept as floating-point numbers.
    Float,
    /// Quantized; types and shapes in the file decide how all the same.
    Quantized(Quant),
}

/// MLX's quantization settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuantMap {
    /// For modules that are not named. Not trusted: types and shapes in the file decide.
    pub default: Quant,
    /// By module path.
    pub overrides: BTreeMap<String, LayerQuant>,
}

impl Quant {
    /// MLX's default of a mode: 4 bits in groups of 64, or what the mode fixes. `None` if there is no such mode.
    pub fn of_mode(mode: &str) -> Option<Self> {
        match mode {
            "affine" => Some(Self::Affine(QuantShape { bits: 4, group: 64 })),
            other => SmallFloat::parse(other).map(Self::SmallFloat),
        }
    }
    /// How a matrix of a format is quantized, if MLX has it.
    pub fn of_format(format: Format) -> Option<Self> {
        match format {
            Format::Affine { bits, group, .. } => {
                Some(Self::Affine(QuantShape { bits: bits.into(), group: group.into() }))
            }
            Format::Mxfp4 => Some(Self::SmallFloat(SmallFloat::Mxfp4)),
            Format::Mxfp8 => Some(Self::SmallFloat(SmallFloat::Mxfp8)),
            Format::Nvfp4 { .. } => Some(Self::SmallFloat(SmallFloat::Nvfp4)),
            Format::F32 | Format::F16 | Format::Bf16 | Format::K(_) => None,
        }
    }
    /// The mode's name.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Affine(_) => "affine",
            Self::SmallFloat(mode) => mode.name(),
        }
    }
    /// Bits a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Affine(shape) => shape.bits,
            Self::SmallFloat(mode) => mode.bits(),
        }
    }
    /// Columns a scale.
    pub fn group(self) -> u32 {
        match self {
            Self::Affine(shape) => shape.group,
            Self::SmallFloat(mode) => mode.group(),
        }
    }
}

/// Reads `quantization`, MLX's own, else `quantization_config` if it is none of another engine.
pub(super) fn quantization(fields: &Fields<'_>) -> Result<Option<QuantMap>> {
    let object = match fields.child("quantization")? {
        Some(object) => object,
        None => match fields.child("quantization_config")? {
            Some(object) if object.get("quant_method").is_none() => object,
            _ => return Ok(None),
        },
    };
    let default = quant(&object, true)?;
    let mut overrides = BTreeMap::new();
    for (path, value) in object.iter() {
        let setting = match value {
            Value::Bool(false) => LayerQuant::Float,
            Value::Bool(true) if path != "global_scale" => LayerQuant::Quantized(default),
            Value::Object(_) => {
                let Some(layer) = object.child(path)? else {
                    continue;
                };
                LayerQuant::Quantized(quant(&layer, false)?)
            }
            _ => continue,
        };
        overrides.insert(path.to_owned(), setting);
    }
    Ok(Some(QuantMap { default, overrides }))
}

/// Reads `quantization_config` if it is another engine's: AWQ or GPTQ with 4 bits. Where there is MLX's `quantization`, as in
/// what was converted from such a checkpoint, it tells nothing of the weights.
pub(super) fn packer(fields: &Fields<'_>) -> Result<Option<Packer>> {
    if fields.child("quantization")?.is_some() {
        return Ok(None);
    }
    let Some(object) = fields.child("quantization_config")? else { return Ok(None) };
    let Some(method) = object.opt_str("quant_method")? else { return Ok(None) };
    let only = |name: &str, allowed: &[&str]| match object.opt_str(name)? {
        Some(found) if !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(found)) => {
            Err(object.wrong(name, allowed.join(" or ")))
        }
        found => Ok(found),
    };
    let packer = match method {
        "awq" => {
            only("version", &["gemm"])?;
            Packer::Awq
        }
        "gptq" => {
            let is_new = only("checkpoint_format", &["gptq", "gptq_v2"])?
                .is_some_and(|name| name.eq_ignore_ascii_case("gptq_v2"));
            Packer::Gptq { zero_offset: if is_new { 0 } else { 1 } }
        }
        _ => {
            let what = format!(
                "quantization method `{method}` is not supported; MLX's modes, awq and gptq with 4 bits, and f32, f16 and bf16 are"
            );
            return Err(Error::Unsupported { path: fields.path().to_path_buf(), what });
        }
    };
    for name in ["bits", "w_bit"] {
        if object.get(name).is_some_and(|bits| bits.as_u64() != Some(4)) {
            return Err(object.wrong(name, format!("4, the only width of {method} that is supported")));
        }
    }
    if object.child("dynamic")?.is_some_and(|dynamic| !dynamic.is_empty()) {
        return Err(object.wrong("dynamic", "absent: settings by module are not supported"));
    }
    Ok(Some(packer))
}

/// One object's setting. An absent mode is affine, in a module's object even where the file's own mode is another: the
/// object replaces the file's defaults as a whole, and what it lacks is the mode's default. The file's own object must
/// say width and group of the affine mode.
fn quant(object: &Fields<'_>, must_say: bool) -> Result<Quant> {
    let mode = object.opt_str("mode")?.unwrap_or("affine");
    let default = Quant::of_mode(mode).ok_or_else(|| object.wrong("mode", "affine, mxfp4, mxfp8 or nvfp4"))?;
    let pick = |name: &str, allowed: &[u32], default: u32| match object.opt_u32(name, 0..=u32::MAX)? {
        None if !must_say => Ok(default),
        Some(n) if allowed.contains(&n) => Ok(n),
        _ => Err(object.wrong(name, format!("one of {allowed:?}"))),
    };
    match default {
        Quant::Affine(shape) => Ok(Quant::Affine(QuantShape {
            bits: pick("bits", &BITS, shape.bits)?,
            group: pick("group_size", &GROUPS, shape.group)?,
        })),
        Quant::SmallFloat(mode) => {
            pick("bits", &[mode.bits()], mode.bits())?;
            pick("group_size", &[mode.group()], mode.group())?;
            Ok(default)
        }
    }
}
