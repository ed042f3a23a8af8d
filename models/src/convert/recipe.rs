//! Which module is quantized how.

use crate::config::Quant;
use crate::formats::affine::{BITS, GROUPS, QuantShape};
use std::collections::BTreeMap;

/// How the matrices of a model are quantized.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recipe {
    /// All alike.
    Uniform(Quant),
    /// Affine, with more bits for what matters more: the head, and in some layers the projections of values and down.
    Mixed {
        /// Bits of most matrices.
        low: u32,
        /// Bits of those.
        high: u32,
        /// Columns a scale; `None` is 64, the mode's own.
        group: Option<u32>,
        /// Bits that the configuration names for modules that it does not list.
        default_bits: u32,
    },
    /// Affine, with other bits for some modules than for the rest.
    Listed {
        /// What the rest has.
        default: QuantShape,
        /// Bits by a module's path; their groups are those of the rest.
        bits: BTreeMap<String, u32>,
    },
}

/// Columns a scale of a mixed recipe, unless others are asked for.
const MIXED_GROUP: u32 = 64;

impl Recipe {
    /// Names of the mixed recipes.
    pub const MIXED: [&'static str; 4] = ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"];

    /// The recipe of what a user asks for: a mode, perhaps with other bits and group than its own, perhaps a mixed recipe's
    /// name. Defaults of (group, bits): affine (64, 4), mxfp4 (32, 4), nvfp4 (16, 4), mxfp8 (32, 8).
    ///
    /// # Errors
    /// What does not go together.
    pub fn new(mode: &str, bits: Option<u32>, group: Option<u32>, mixed: Option<&str>) -> Result<Self, String> {
        let quant = Quant::of_mode(mode).ok_or_else(|| format!("there is no quantization mode `{mode}`"))?;
        let (bits, told_group) = (bits.unwrap_or(quant.bits()), group);
        let group = group.unwrap_or(quant.group());
        let recipe = match (mixed, quant) {
            (None, Quant::Affine(_)) => Self::Uniform(Quant::Affine(QuantShape { bits, group })),
            (None, other) if (bits, group) == (other.bits(), other.group()) => Self::Uniform(other),
            (None, other) => {
                let (own_bits, own_group) = (other.bits(), other.group());
                return Err(format!("{mode} has {own_bits} bits in groups of {own_group}, not {bits} in {group}"));
            }
            (Some(_), Quant::SmallFloat(_)) => return Err("mixed recipes are of the affine mode only".into()),
            (Some(name), Quant::Affine(_)) => {
                let numbers = name.strip_prefix("mixed_").filter(|_| Self::MIXED.contains(&name));
                let pair = numbers.and_then(|rest| rest.split_once('_'));
                let parsed = pair.and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
                let (low, high) = parsed.ok_or_else(|| format!("there is no recipe `{name}`"))?;
                Self::Mixed { low, high, group: told_group, default_bits: bits }
            }
        };
        recipe.check()?;
        Ok(recipe)
    }

    /// Whether the numbers are those of a format.
    pub(super) fn check(&self) -> Result<(), String> {
        let Quant::Affine(QuantShape { bits, group }) = self.default() else { return Ok(()) };
        if !BITS.contains(&bits) {
            return Err(format!("{bits} bits; the affine mode has {BITS:?}"));
        }
        if !GROUPS.contains(&group) {
            return Err(format!("groups of {group}; the affine mode has {GROUPS:?}"));
        }
        let wrong = match self {
            Self::Uniform(_) => None,
            Self::Mixed { low, high, .. } => [low, high].into_iter().find(|bits| !BITS.contains(bits)),
            Self::Listed { bits, .. } => bits.values().find(|bits| !BITS.contains(bits)),
        };
        wrong.map_or(Ok(()), |bits| Err(format!("{bits} bits; the affine mode has {BITS:?}")))
    }

    /// What the configuration says of modules that it does not name.
    pub(super) fn default(&self) -> Quant {
        match *self {
            Self::Uniform(quant) => quant,
            Self::Mixed { default_bits, .. } => Quant::Affine(QuantShape { bits: default_bits, group: self.group() }),
            Self::Listed { default, .. } => Quant::Affine(default),
        }
    }

    /// Columns a scale.
    fn group(&self) -> u32 {
        match *self {
            Self::Uniform(quant) => quant.group(),
            Self::Mixed { group, .. } => group.unwrap_or(MIXED_GROUP),
            Self::Listed { default, .. } => default.group,
        }
    }

    /// Whether modules have the group of their mode because none was asked for.
    pub(super) fn leaves_group_open(&self) -> bool {
        matches!(self, Self::Mixed { group: None, .. })
    }

    /// Whether the recipe leaves it to a model's family to make exceptions.
    pub(super) fn is_uniform(&self) -> bool {
        matches!(self, Self::Uniform(_))
    }

    /// Whether the configuration has an object of its own for a module that is quantized so.
    pub(super) fn is_named(&self, quant: Quant) -> bool {
        matches!(self, Self::Mixed { .. }) || quant != self.default()
    }

    /// How the matrix of a module is quantized; `None` if its columns are no whole groups.
    pub(super) fn of(&self, path: &str, n_cols: u32, n_layers: u32) -> Option<Quant> {
        if !n_cols.is_multiple_of(self.default().group()) {
            return None;
        }
        let (low, high, group) = match self {
            Self::Uniform(quant) => return Some(*quant),
            Self::Listed { default, bits } => {
                let bits = bits.get(path).copied().unwrap_or(default.bits);
                return Some(Quant::Affine(QuantShape { bits, ..*default }));
            }
            Self::Mixed { low, high, .. } => (*low, *high, self.group()),
        };
        let layer = path.split('.').find_map(|part| part.parse::<u32>().ok()).unwrap_or(0);
        let eighth = n_layers / 8;
        let is_sensitive =
            layer < eighth || layer >= 7 * n_layers / 8 || (i64::from(layer) - i64::from(eighth)).rem_euclid(3) == 2;
        let named = |names: &[&str]| names.iter().any(|name| path.contains(name));
        let many = (is_sensitive && named(&["v_proj", "v_a_proj", "v_b_proj", "down_proj"])) || named(&["lm_head"]);
        Some(Quant::Affine(QuantShape { bits: if many { high } else { low }, group }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::small_float::SmallFloat;

    #[test]
    fn defaults_are_those_of_the_modes() {
        let of = |mode| Recipe::new(mode, None, None, None);
        assert_eq!(of("affine"), Ok(Recipe::Uniform(Quant::Affine(QuantShape { bits: 4, group: 64 }))));
        assert_eq!(of("mxfp8"), Ok(Recipe::Uniform(Quant::SmallFloat(SmallFloat::Mxfp8))));
        assert!(Recipe::new("mxfp4", Some(8), None, None).is_err_and(|why| why.contains("4 bits in groups of 32")));
        assert!(Recipe::new("affine", Some(7), None, None).is_err_and(|why| why.contains("7 bits")));
        assert!(Recipe::new("affine", None, Some(16), None).is_err_and(|why| why.contains("groups of 16")));
        assert!(Recipe::new("nvfp4", None, None, Some("mixed_2_6")).is_err());
        assert!(Recipe::new("affine", None, None, Some("mixed_5_6")).is_err());
        assert!(Recipe::new("int4", None, None, None).is_err());
    }

    #[test]
    fn mixed_recipes_favour_the_ends_and_every_third_layer() {
        let recipe = Recipe::new("affine", None, None, Some("mixed_3_6")).expect("known");
        let bits = |path: &str| recipe.of(path, 128, 16).map(Quant::bits);
        let high: Vec<u32> = (0..16).filter(|l| bits(&format!("model.layers.{l}.mlp.down_proj")) == Some(6)).collect();
        assert_eq!(high, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(bits("model.layers.4.self_attn.v_proj"), Some(6));
        assert_eq!(bits("model.layers.4.self_attn.q_proj"), Some(3));
        assert_eq!((bits("lm_head"), bits("model.embed_tokens")), (Some(6), Some(3)));
        assert_eq!(recipe.of("model.layers.4.self_attn.q_proj", 96, 16), None);
    }
}
