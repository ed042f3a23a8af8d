//! Which module is quantized how.

use crate::config::Quant;
use crate::formats::affine::{BITS, GROUPS, QuantShape};
use std::collections::BTreeMap;
use thiserror::Error;

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
        /// Others by a module's path.
        shapes: BTreeMap<String, QuantShape>,
    },
}

/// What is no way to quantize a model.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// A mode that nobody knows.
    #[error("there is no quantization mode `{found}`; there are affine, mxfp4, mxfp8 and nvfp4")]
    UnknownMode {
        /// Its name.
        found: String,
    },
    /// A mixed recipe that nobody knows.
    #[error("there is no recipe `{found}`; there are {}", Recipe::MIXED.join(", "))]
    UnknownMixed {
        /// Its name.
        found: String,
    },
    /// A mixed recipe in a mode that has one width.
    #[error("mixed recipes are of the affine mode only, not of {mode}; leave the mode or the recipe out")]
    MixedMode {
        /// The mode.
        mode: String,
    },
    /// Bits or a group that a mode does not have.
    #[error("{mode} has {} bits in groups of {}, not {} in {}", own.bits, own.group, found.bits, found.group)]
    FixedShape {
        /// The mode.
        mode: String,
        /// What it has.
        own: QuantShape,
        /// What was asked for.
        found: QuantShape,
    },
    /// A width that no affine format has.
    #[error("{found} bits; the affine mode has {BITS:?}")]
    Bits {
        /// The width.
        found: u32,
    },
    /// A group that no affine format has.
    #[error("groups of {found}; the affine mode has {GROUPS:?}")]
    Group {
        /// Its columns.
        found: u32,
    },
}

/// Fails unless the affine format has the width and the group.
pub(super) fn check_shape(QuantShape { bits, group }: QuantShape) -> Result<(), RecipeError> {
    match (BITS.contains(&bits), GROUPS.contains(&group)) {
        (true, true) => Ok(()),
        (false, _) => Err(RecipeError::Bits { found: bits }),
        (true, false) => Err(RecipeError::Group { found: group }),
    }
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
    pub fn new(mode: &str, bits: Option<u32>, group: Option<u32>, mixed: Option<&str>) -> Result<Self, RecipeError> {
        let quant = Quant::of_mode(mode).ok_or_else(|| RecipeError::UnknownMode { found: mode.to_owned() })?;
        let own = QuantShape { bits: quant.bits(), group: quant.group() };
        let shape = QuantShape { bits: bits.unwrap_or(own.bits), group: group.unwrap_or(own.group) };
        let mode = || mode.to_owned();
        let recipe = match (mixed, quant) {
            (None, Quant::Affine(_)) => Self::Uniform(Quant::Affine(shape)),
            (None, other) if shape == own => Self::Uniform(other),
            (None, _) => return Err(RecipeError::FixedShape { mode: mode(), own, found: shape }),
            (Some(_), Quant::SmallFloat(_)) => return Err(RecipeError::MixedMode { mode: mode() }),
            (Some(name), Quant::Affine(_)) => {
                let numbers = name.strip_prefix("mixed_").filter(|_| Self::MIXED.contains(&name));
                let pair = numbers.and_then(|rest| rest.split_once('_'));
                let parsed = pair.and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
                let unknown = || RecipeError::UnknownMixed { found: name.to_owned() };
                let (low, high) = parsed.ok_or_else(unknown)?;
                Self::Mixed { low, high, group, default_bits: shape.bits }
            }
        };
        recipe.check()?;
        Ok(recipe)
    }

    /// Whether the numbers are those of a format.
    pub(super) fn check(&self) -> Result<(), RecipeError> {
        let Quant::Affine(default) = self.default() else { return Ok(()) };
        check_shape(default)?;
        match self {
            Self::Uniform(_) => Ok(()),
            Self::Mixed { low, high, .. } => {
                [*low, *high].into_iter().try_for_each(|bits| check_shape(QuantShape { bits, ..default }))
            }
            Self::Listed { shapes, .. } => shapes.values().copied().try_for_each(check_shape),
        }
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

    /// How the matrix of a module is quantized; `None` if its columns are no whole groups of the default's, as in mlx-lm, or
    /// of those that are listed for it.
    pub(super) fn of(&self, path: &str, n_cols: u32, n_layers: u32) -> Option<Quant> {
        if !n_cols.is_multiple_of(self.default().group()) {
            return None;
        }
        let (low, high, group) = match self {
            Self::Uniform(quant) => return Some(*quant),
            Self::Listed { default, shapes } => {
                let shape = shapes.get(path).copied().unwrap_or(*default);
                return n_cols.is_multiple_of(shape.group).then_some(Quant::Affine(shape));
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
    }

    #[test]
    fn what_is_no_recipe_is_named() {
        let of = |mode, bits, group, mixed| Recipe::new(mode, bits, group, mixed).unwrap_err().to_string();
        assert_eq!(of("mxfp4", Some(8), None, None), "mxfp4 has 4 bits in groups of 32, not 8 in 32");
        assert_eq!(of("affine", Some(7), None, None), "7 bits; the affine mode has [1, 2, 3, 4, 5, 6, 8]");
        assert_eq!(of("affine", None, Some(16), None), "groups of 16; the affine mode has [32, 64, 128]");
        assert!(of("nvfp4", None, None, Some("mixed_2_6")).contains("not of nvfp4"));
        assert!(of("affine", None, None, Some("mixed_5_6")).contains("`mixed_5_6`; there are mixed_2_6"));
        assert!(of("int4", None, None, None).contains("`int4`"));
        let default = QuantShape { bits: 4, group: 64 };
        let listed = |shape| Recipe::Listed { default, shapes: [("a".to_owned(), shape)].into() }.check();
        assert_eq!(listed(QuantShape { bits: 6, group: 32 }), Ok(()));
        assert_eq!(listed(QuantShape { bits: 6, group: 48 }), Err(RecipeError::Group { found: 48 }));
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
