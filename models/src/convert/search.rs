//! Which matrix takes how many bits, so that a model of a given size loses least.
//!
//! A matrix' damage at a width is what one measurement says (its *sensitivity*, e.g. the divergence of a model of which it alone
//! is quantized, at the width that all would have at this size), times how much larger or smaller the squared error of its
//! numbers is at this width: for small errors a divergence grows with their square. Damages are taken to add up.

use super::recipe::check_shape;
use super::stream::{Item, Kind, Rows};
use super::{ConvertOptions, Module, Recipe, RecipeError, choose, module};
use crate::config::Quant;
use crate::error::{Error, Result};
use crate::formats::affine::{AffineMatrix, BITS, QuantShape};
use crate::formats::safetensors::StoredType;
use crate::model::Model;
use crate::weights::WeightTable;
use ingot_ir::graph::Graph;
use ingot_ir::weight::{Format, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thiserror::Error;

/// The forms that matrices choose from: the affine ones from `low` to `high`, in the groups of either, which with scales of two
/// bytes are larger than the one and smaller than the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Widths {
    /// Fewest bits, and columns a scale: those of whole such groups are quantized.
    low: QuantShape,
    /// Most bits, and columns a scale; what has no whole such groups chooses among the others.
    high: QuantShape,
}

/// Why no mix of widths can be chosen.
#[derive(Clone, PartialEq, Debug, Error)]
#[non_exhaustive]
pub enum SearchError {
    /// Widths or groups that the affine format does not have.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// No range of widths.
    #[error(
        "from {} bits in groups of {} to {} in {} there is nothing to choose; let the high take more room than the low",
        low.bits, low.group, high.bits, high.group
    )]
    NoRange {
        /// What was to be the least.
        low: QuantShape,
        /// What was to be the most.
        high: QuantShape,
    },
    /// A target that the least form does not reach.
    #[error(
        "with every matrix in its least form the model takes {least_bytes} bytes ({bits_per_weight:.3} bits per weight), more than the \
         target of {limit_bytes}; lower --low-bits or raise the target"
    )]
    TargetTooSmall {
        /// What the model takes then.
        least_bytes: u64,
        /// The same for each number of the model.
        bits_per_weight: f64,
        /// What it may take.
        limit_bytes: u64,
    },
    /// Sensitivities of another model.
    #[error("the sensitivities are of another model: it has no matrix `{path}`")]
    OtherModel {
        /// A matrix that they name.
        path: String,
    },
    /// Sensitivities that leave a matrix out, or tell no number of it.
    #[error("no sensitivity is given for `{path}`; measure again")]
    NoSensitivity {
        /// The matrix.
        path: String,
    },
}

/// How large the result may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    /// Bits a weight, everything counted.
    BitsPerWeight(f64),
    /// Bytes of all tensors.
    Bytes(u64),
}

/// What a measurement says of matrices, by the paths of their modules, per million numbers.
pub type Sensitivities = Vec<(String, f64)>;

/// A matrix that may take any of the widths.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// Path of its module; experts are one module, their stack.
    pub path: String,
    /// Rows and columns; of experts those of all, one below the other.
    pub shape: [usize; 2],
    /// Paths of the matrices that it is made of, one below the other: single experts, else itself.
    parts: Vec<String>,
    /// Type of its scales; its numbers are rounded to it before they are quantized.
    float: StoredType,
    /// The smallest first. That of the fewest bits is among them.
    forms: Vec<Form>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Form {
    shape: QuantShape,
    n_bytes: u64,
    /// Sum of squared differences from the numbers as they are.
    error: f64,
}

/// A checkpoint's matrices, each in every form.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidates {
    /// In the graph's order.
    pub matrices: Vec<Candidate>,
    widths: Widths,
    /// Bytes of everything else.
    rest_bytes: u64,
    /// Numbers of the whole model.
    n_parameters: u64,
}

impl Widths {
    /// All from `low` to `high` bits in groups of one size.
    ///
    /// # Errors
    /// As [`Widths::between`].
    pub fn new(low: u32, high: u32, group: u32) -> Result<Self, SearchError> {
        Self::between(QuantShape { bits: low, group }, QuantShape { bits: high, group })
    }

    /// All from one form to another.
    ///
    /// # Errors
    /// [`SearchError::Recipe`] for what is no width or group of the affine format, [`SearchError::NoRange`].
    pub fn between(low: QuantShape, high: QuantShape) -> Result<Self, SearchError> {
        [low, high].into_iter().try_for_each(check_shape)?;
        if low.bits > high.bits || bits_per_number(low) >= bits_per_number(high) {
            return Err(SearchError::NoRange { low, high });
        }
        Ok(Self { low, high })
    }

    /// The smallest first.
    fn all(self) -> Vec<QuantShape> {
        let bits = BITS.into_iter().filter(|bits| (self.low.bits..=self.high.bits).contains(bits));
        let groups = BTreeSet::from([self.low.group, self.high.group]);
        let shapes = bits.flat_map(|bits| groups.iter().map(move |group| QuantShape { bits, group: *group }));
        let room = bits_per_number(self.low)..=bits_per_number(self.high);
        let mut all: Vec<QuantShape> = shapes.filter(|shape| room.contains(&bits_per_number(*shape))).collect();
        all.sort_by(|a, b| bits_per_number(*a).total_cmp(&bits_per_number(*b)));
        all
    }
}

/// Bits of a code and of its part of a scale and a bias of two bytes each.
fn bits_per_number(shape: QuantShape) -> f64 {
    f64::from(shape.bits) + 32.0 / f64::from(shape.group)
}

impl Candidate {
    /// Its count of numbers.
    pub fn n_numbers(&self) -> u64 {
        self.shape[0] as u64 * self.shape[1] as u64
    }

    /// The place of a form; if its group does not divide the columns, of the largest one that is no larger.
    fn form(&self, shape: QuantShape) -> usize {
        let is_smaller = |form: &Form| bits_per_number(form.shape) <= bits_per_number(shape);
        let exact = self.forms.iter().position(|form| form.shape == shape);
        exact.or_else(|| self.forms.iter().rposition(is_smaller)).unwrap_or(0)
    }

    /// The matrix as it would be written in a form that [`Candidates::equal`] gives; without whole groups of that in the
    /// largest that is no larger.
    ///
    /// # Errors
    /// Those of the table, which must be the checkpoint's.
    pub fn quantized(&self, weights: &WeightTable<'_>, shape: QuantShape) -> Result<AffineMatrix> {
        let [n_rows, n_cols] = self.shape;
        let height = n_rows / self.parts.len();
        let parts = self.parts.iter().map(|path| weights.matrix(path, height, n_cols)).collect::<Result<Vec<_>>>()?;
        let matrix = Rows { parts, n_experts: None };
        let quant = Quant::Affine(self.forms[self.form(shape)].shape);
        let kind = Kind::Quantize { matrix, float: self.float, quant };
        Ok(Item { path: self.path.clone(), kind }.quantized())
    }

    /// Has the graph, which must be the checkpoint's, read a tensor of another format at the candidate's path, also where it
    /// read single experts.
    pub fn replace(&self, graph: &mut Graph, format: Format) {
        let is_own = |graph: &Graph, source: &Source| match source {
            Source::Tensor(name) => *name == self.path,
            Source::Stack(parts) => parts.first().is_some_and(
                |first| matches!(&graph.weights[*first].source, Source::Tensor(name) if *name == self.parts[0]),
            ),
            _ => false,
        };
        for id in graph.weights.ids() {
            if is_own(graph, &graph.weights[id].source) {
                graph.weights[id].source = Source::Tensor(self.path.clone());
                graph.weights[id].format = format;
            }
        }
    }
}

impl Candidates {
    /// The matrices of the checkpoint `source`, a folder or a GGUF file, that [`convert`](super::convert()) would quantize, in every
    /// form. `progress` is told numbers done and numbers in all, each form counted.
    ///
    /// # Errors
    /// Those of the checkpoint; [`Error::Unsupported`] if nothing in it is to be quantized.
    pub fn measure(source: &Path, widths: Widths, progress: &mut dyn FnMut(u64, u64)) -> Result<Self> {
        let model = Model::open(source)?;
        // Of a listed recipe, no family makes exceptions.
        let recipe = Recipe::Listed { default: widths.low, shapes: BTreeMap::new() };
        let options = ConvertOptions { quantize: Some(recipe), ..ConvertOptions::default() };
        let dtype = model.files.json_or_null("config.json")?.as_object().and_then(super::config_dtype);
        let items = choose(&model, &options, dtype).map_err(|error| model.checkpoint.in_own_words(error))?.items;
        let n_parameters = items.iter().map(Item::n_numbers).sum();
        let (items, rest): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| matches!(item.kind, Kind::Quantize { .. }));
        if items.is_empty() {
            let what = format!(
                "holds no matrix of floats whose columns are whole groups of {}; take the model that it was made of",
                widths.low.group
            );
            return Err(Error::Unsupported { path: source.to_path_buf(), what });
        }
        let all = widths.all();
        let offered = |item: &Item<'_>| -> Vec<QuantShape> {
            let n_cols = item.kind.rows().map_or(0, |rows| rows.shape()[1]);
            all.iter().copied().filter(|shape| n_cols.is_multiple_of(shape.group as usize)).collect()
        };
        let total = items.iter().map(|item| item.n_numbers() * offered(item).len() as u64).sum();
        let mut done = 0;
        let mut matrices = Vec::with_capacity(items.len());
        let graph = model.graph()?;
        let modules = graph.weights.iter().filter_map(|(_, weight)| module(&graph, weight));
        let mut parts: BTreeMap<String, Vec<String>> =
            modules.map(|Module { name, tensors, .. }| (name, tensors)).collect();
        for mut item in items {
            let Kind::Quantize { matrix, float, .. } = &item.kind else { unreachable!("these are quantized") };
            let (shape, float) = (matrix.shape(), *float);
            let mut forms = Vec::new();
            for shape in offered(&item) {
                if let Kind::Quantize { quant, .. } = &mut item.kind {
                    *quant = Quant::Affine(shape);
                }
                forms.push(Form { shape, n_bytes: item.n_bytes(), error: item.squared_error() });
                done += item.n_numbers();
                progress(done, total);
            }
            // With scales of four bytes the order may be another.
            forms.sort_by_key(|form| form.n_bytes);
            let parts = parts.remove(&item.path).unwrap_or_else(|| unreachable!("items are the graph's modules"));
            matrices.push(Candidate { path: item.path, shape, parts, float, forms });
        }
        Ok(Self { matrices, widths, rest_bytes: rest.iter().map(Item::n_bytes).sum(), n_parameters })
    }

    /// The forms with the least damage within the target. Steps to larger ones are made in the order of what they save a byte,
    /// while they fit; for damages that fall ever more slowly with the size that is the best choice, but for the last step.
    ///
    /// # Errors
    /// [`SearchError::TargetTooSmall`]; sensitivities that are not of these matrices.
    pub fn recipe(&self, sensitivities: &Sensitivities, target: Target) -> Result<Recipe, SearchError> {
        let mut room = self.limit(target) - self.least(target)?;
        let damages = self.damages(sensitivities, self.equal(target)?)?;
        let mut taken = vec![0; self.matrices.len()];
        while let Some((ix, form, cost)) = self.best_step(&damages, &taken, room) {
            taken[ix] = form;
            room -= cost;
        }
        let default = self.widths.low;
        let chosen =
            self.matrices.iter().zip(taken).map(|(matrix, form)| (matrix.path.clone(), matrix.forms[form].shape));
        Ok(Recipe::Listed { default, shapes: chosen.filter(|(_, shape)| *shape != default).collect() })
    }

    /// The largest form that all matrices could have within the target: where sensitivities are measured best, since it is there
    /// that the mix will be.
    ///
    /// # Errors
    /// [`SearchError::TargetTooSmall`].
    pub fn equal(&self, target: Target) -> Result<QuantShape, SearchError> {
        self.least(target)?;
        let n_bytes = |shape: QuantShape| self.n_bytes(|matrix| matrix.form(shape));
        let fits = |shape: &QuantShape| n_bytes(*shape) <= self.limit(target);
        Ok(self.widths.all().into_iter().rev().find(fits).unwrap_or(self.widths.low))
    }

    /// Bytes with every matrix in the form that `form` tells the place of.
    fn n_bytes(&self, form: impl Fn(&Candidate) -> usize) -> u64 {
        self.rest_bytes + self.matrices.iter().map(|matrix| matrix.forms[form(matrix)].n_bytes).sum::<u64>()
    }

    fn limit(&self, target: Target) -> u64 {
        match target {
            Target::Bytes(n) => n,
            Target::BitsPerWeight(bits) => (bits * self.n_parameters as f64 / 8.0) as u64,
        }
    }

    /// Bytes with the smallest form everywhere, if they are within the target.
    fn least(&self, target: Target) -> Result<u64, SearchError> {
        let (least_bytes, limit_bytes) = (self.n_bytes(|_| 0), self.limit(target));
        if least_bytes <= limit_bytes {
            return Ok(least_bytes);
        }
        let bits_per_weight = least_bytes as f64 * 8.0 / self.n_parameters as f64;
        Err(SearchError::TargetTooSmall { least_bytes, bits_per_weight, limit_bytes })
    }

    /// The step to a larger form that saves most damage a byte and fits: matrix, form, bytes. Of equal ones the first.
    fn best_step(&self, damages: &[Vec<f64>], taken: &[usize], room: u64) -> Option<(usize, usize, u64)> {
        let mut best = None;
        let mut best_worth = 0.0;
        for (ix, (matrix, damage)) in self.matrices.iter().zip(damages).enumerate() {
            let from = taken[ix];
            for form in from + 1..matrix.forms.len() {
                let cost = matrix.forms[form].n_bytes - matrix.forms[from].n_bytes;
                let worth = (damage[from] - damage[form]) / cost as f64;
                if cost <= room && worth > best_worth {
                    (best, best_worth) = (Some((ix, form, cost)), worth);
                }
            }
        }
        best
    }

    /// By matrix and form, for sensitivities that were measured at one.
    fn damages(&self, sensitivities: &Sensitivities, measured: QuantShape) -> Result<Vec<Vec<f64>>, SearchError> {
        let by_path: BTreeMap<&str, f64> = sensitivities.iter().map(|(path, value)| (path.as_str(), *value)).collect();
        let known: BTreeSet<&str> = self.matrices.iter().map(|matrix| matrix.path.as_str()).collect();
        if let Some(other) = by_path.keys().find(|path| !known.contains(*path)) {
            return Err(SearchError::OtherModel { path: (*other).to_owned() });
        }
        let of = |matrix: &Candidate| {
            let sensitivity = by_path.get(matrix.path.as_str()).filter(|value| value.is_finite());
            let missing = || SearchError::NoSensitivity { path: matrix.path.clone() };
            let found = sensitivity.ok_or_else(missing)?.max(0.0) * matrix.n_numbers() as f64 / 1e6;
            let damage = |form: &Form| match matrix.forms[matrix.form(measured)].error {
                _ if form.error == 0.0 => 0.0,
                // Nothing can be measured of what is exact; it stays so.
                0.0 => f64::MAX,
                error => found * form.error / error,
            };
            Ok(matrix.forms.iter().map(damage).collect())
        };
        self.matrices.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Matrices of 1000 numbers with 2 to 4 bits, errors falling by four each.
    fn candidates(paths: &[&str]) -> Candidates {
        let form = |bits: u32| Form {
            shape: QuantShape { bits, group: 32 },
            n_bytes: 1000 * u64::from(bits) / 8,
            error: 256.0 / 4f64.powi(bits as i32),
        };
        let matrix = |path: &&str| Candidate {
            path: (*path).to_owned(),
            shape: [10, 100],
            parts: vec![(*path).to_owned()],
            float: StoredType::Bf16,
            forms: [2, 3, 4].map(form).to_vec(),
        };
        let widths = Widths::new(2, 4, 32).expect("widths");
        let matrices: Vec<Candidate> = paths.iter().map(matrix).collect();
        Candidates { n_parameters: 1000 * matrices.len() as u64, matrices, widths, rest_bytes: 50 }
    }

    fn listed(candidates: &Candidates, sensitivities: &[(&str, f64)], target: Target) -> Vec<(String, u32)> {
        let sensitivities = sensitivities.iter().map(|(path, value)| ((*path).to_owned(), *value)).collect();
        match candidates.recipe(&sensitivities, target) {
            Ok(Recipe::Listed { default: QuantShape { bits: 2, group: 32 }, shapes }) => {
                shapes.into_iter().map(|(path, shape)| (path, shape.bits)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bits_go_where_they_save_most() {
        let three = candidates(&["a", "b", "c"]);
        // Of damages 1, 6 and 30 in the narrowest form a step saves three quarters, and a quarter of that the next.
        let sensitivities = [("c", 30.0), ("a", 1.0), ("b", 6.0)];
        let of = |n_bytes| listed(&three, &sensitivities, Target::Bytes(n_bytes));
        let expected = |list: &[(&str, u32)]| list.iter().map(|(p, bits)| ((*p).to_owned(), *bits)).collect::<Vec<_>>();
        assert_eq!(of(50 + 750), []);
        assert_eq!(of(50 + 750 + 124), []);
        assert_eq!(of(50 + 750 + 125), expected(&[("c", 3)]));
        assert_eq!(of(50 + 750 + 250), expected(&[("c", 4)]));
        assert_eq!(of(50 + 750 + 375), expected(&[("b", 3), ("c", 4)]));
        assert_eq!(of(u64::MAX), expected(&[("a", 4), ("b", 4), ("c", 4)]));
        // 1050 bytes of 3000 numbers.
        assert_eq!(listed(&three, &sensitivities, Target::BitsPerWeight(2.8)), expected(&[("c", 4)]));
    }

    #[test]
    fn sensitivities_below_zero_and_exact_matrices_take_nothing_more() {
        let mut two = candidates(&["a", "b"]);
        two.matrices[1].forms.iter_mut().for_each(|form| form.error = 0.0);
        assert_eq!(listed(&two, &[("a", -1.0), ("b", 5.0)], Target::Bytes(u64::MAX)), []);
        // Exact where it was measured, and not with fewer bits.
        two.matrices[1].forms[0].error = 1.0;
        let both = [("a".to_owned(), 3), ("b".to_owned(), 3)];
        assert_eq!(listed(&two, &[("a", 9.0), ("b", 0.0)], Target::Bytes(50 + 750)), both);
    }

    #[test]
    fn sensitivities_are_measured_where_all_would_be() {
        let three = candidates(&["a", "b", "c"]);
        let of = |n_bytes| three.equal(Target::Bytes(n_bytes)).map(|shape| shape.bits);
        assert_eq!([800, 1174, 1175, 1549, 1550, 9999].map(of), [2, 2, 3, 3, 4, 4].map(Ok));
        assert!(of(799).is_err());
    }

    #[test]
    fn widths_are_those_between_in_size_in_either_group() {
        let of = |low: (u32, u32), high: (u32, u32)| {
            let [low, high] = [low, high].map(|(bits, group)| QuantShape { bits, group });
            let widths = Widths::between(low, high).map(Widths::all);
            widths.map(|all| all.into_iter().map(|shape| (shape.bits, shape.group)).collect::<Vec<_>>())
        };
        assert_eq!(of((4, 64), (6, 64)), Ok(vec![(4, 64), (5, 64), (6, 64)]));
        // 4.25, 5, 5.25 and 6 bits a number with their scales.
        assert_eq!(of((4, 128), (5, 32)), Ok(vec![(4, 128), (4, 32), (5, 128), (5, 32)]));
        assert_eq!(of((4, 32), (5, 64)), Ok(vec![(4, 32), (5, 64)]));
        assert_eq!(of((4, 128), (4, 32)), Ok(vec![(4, 128), (4, 32)]));
        for (low, high) in [((4, 64), (4, 64)), ((4, 32), (4, 128)), ((5, 64), (4, 32))] {
            let told = of(low, high).unwrap_err().to_string();
            assert!(told.contains(&format!("from {} bits in groups of {}", low.0, low.1)), "{told}");
        }
        let wrong = |low, high| of(low, high).unwrap_err();
        assert_eq!(wrong((4, 64), (7, 64)), SearchError::Recipe(RecipeError::Bits { found: 7 }));
        assert_eq!(wrong((2, 48), (4, 64)), SearchError::Recipe(RecipeError::Group { found: 48 }));
    }

    #[test]
    fn a_form_whose_group_does_not_divide_gives_way_to_a_smaller_one() {
        let mut two = candidates(&["a", "b"]);
        let large = QuantShape { bits: 4, group: 128 };
        two.matrices[0].forms[2].shape = large;
        two.matrices[1].forms.pop();
        let form = |ix: usize| two.matrices[ix].form(large);
        assert_eq!((form(0), form(1)), (2, 1));
    }

    #[test]
    fn wrong_requests_are_named() {
        let two = candidates(&["a", "b"]);
        let of = |list: &[(&str, f64)], target| {
            let list = list.iter().map(|(path, value)| ((*path).to_owned(), *value)).collect();
            two.recipe(&list, target).unwrap_err()
        };
        let all = Target::Bytes(u64::MAX);
        let missing = SearchError::NoSensitivity { path: "b".into() };
        assert_eq!(of(&[("a", 1.0)], all), missing);
        assert_eq!(of(&[("a", 1.0), ("b", f64::NAN)], all), missing);
        let other = SearchError::OtherModel { path: "c".into() };
        assert_eq!(of(&[("a", 1.0), ("b", 1.0), ("c", 1.0)], all), other);
        let told = of(&[("a", 1.0), ("b", 1.0)], Target::BitsPerWeight(2.0)).to_string();
        assert!(told.contains("2.200 bits per weight") && told.contains("550 bytes"), "{told}");
    }
}
