//! MLX's `quantization` object: defaults, and settings for single modules by path.

use super::fields::Fields;
use crate::error::{Error, Result};
use crate::formats::affine::{BITS, GROUPS, QuantShape};
use serde_json::Value;
use std::collections::BTreeMap;

/// What the configuration says of one module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerQuant {
    /// Kept as floating-point numbers.
    Float,
    /// Quantized; the shapes in the file decide width and group all the same.
    Affine(QuantShape),
}

/// MLX's quantization settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuantMap {
    /// For modules that are not named. Not trusted: the shapes in the file decide.
    pub default: QuantShape,
    /// By module path.
    pub overrides: BTreeMap<String, LayerQuant>,
}

/// Reads `quantization`, else `quantization_config` if it is MLX's.
pub(super) fn quantization(fields: &Fields<'_>) -> Result<Option<QuantMap>> {
    let object = match fields.child("quantization")? {
        Some(object) => object,
        None => match fields.child("quantization_config")? {
            Some(object) => object,
            None => return Ok(None),
        },
    };
    if let Some(method) = object.opt_str("quant_method")? {
        let what =
            format!("quantization method `{method}` is not supported; MLX's affine format and f32, f16 and bf16 are");
        return Err(Error::Unsupported { path: fields.path().to_path_buf(), what });
    }
    check_mode(&object)?;
    let default = quant_shape(&object)?;
    let mut overrides = BTreeMap::new();
    for (path, value) in object.iter() {
        let quant = match value {
            Value::Bool(false) => LayerQuant::Float,
            Value::Bool(true) if path != "global_scale" => LayerQuant::Affine(default),
            Value::Object(_) => {
                let Some(layer) = object.child(path)? else {
                    continue;
                };
                check_mode(&layer)?;
                LayerQuant::Affine(layer_shape(&layer)?)
            }
            _ => continue,
        };
        overrides.insert(path.to_owned(), quant);
    }
    Ok(Some(QuantMap { default, overrides }))
}

/// An absent mode is affine, in a module's object even where the file's own mode is another.
fn check_mode(object: &Fields<'_>) -> Result<()> {
    match object.opt_str("mode")? {
        None | Some("affine") => Ok(()),
        Some(_) => Err(object.wrong("mode", "`affine`, the only supported mode")),
    }
}

fn quant_shape(object: &Fields<'_>) -> Result<QuantShape> {
    let pick = |name: &str, allowed: &[u32]| {
        let number = object.opt_u32(name, 0..=u32::MAX)?.filter(|n| allowed.contains(n));
        number.ok_or_else(|| object.wrong(name, format!("one of {allowed:?}")))
    };
    Ok(QuantShape { bits: pick("bits", &BITS)?, group: pick("group_size", &GROUPS)? })
}

/// A module's object replaces the file's defaults as a whole; what it lacks is MLX's default of 4 bits, group 64.
fn layer_shape(layer: &Fields<'_>) -> Result<QuantShape> {
    let pick = |name: &str, allowed: &[u32], default: u32| match layer.opt_u32(name, 0..=u32::MAX)? {
        None => Ok(default),
        Some(n) if allowed.contains(&n) => Ok(n),
        Some(_) => Err(layer.wrong(name, format!("one of {allowed:?}"))),
    };
    Ok(QuantShape { bits: pick("bits", &BITS, 4)?, group: pick("group_size", &GROUPS, 64)? })
}
