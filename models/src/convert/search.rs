//! Which matrix takes how many bits, so that a model of a given size loses least.
//!
//! A matrix' damage at a width is what one measurement says (its *sensitivity*, e.g. the divergence of a model of which it alone
//! is quantized, at the width that all would have at this size), times how much larger or smaller the squared error of its
//! numbers is at this width: for small errors a divergence grows with their square. Damages are taken to add up.

use super::stream::{Item, Kind, Rows};
use super::{ConvertOptions, Module, Recipe, choose, module};
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

/// The widths that matrices choose from: all of the affine format from `low` to `high`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Widths {
    /// Fewest bits.
    pub low: u32,
    /// Most bits.
    pub high: u32,
    /// Columns a scale.
    pub group: u32,
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
    /// By width, the narrowest first.
    forms: Vec<Form>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Form {
    bits: u32,
    n_bytes: u64,
    /// Sum of squared differences from the numbers as they are.
    error: f64,
}

/// A checkpoint's matrices, each at every width.
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
    /// # Errors
    /// What is no width or group of the affine format, or no range.
    pub fn new(low: u32, high: u32, group: u32) -> std::result::Result<Self, String> {
        if low >= high {
            return Err(format!("from {low} to {high} bits there is nothing to choose; let the high be above the low"));
        }
        for bits in [low, high] {
            Recipe::Uniform(Quant::Affine(QuantShape { bits, group })).check()?;
        }
        Ok(Self { low, high, group })
    }

    fn all(self) -> impl Iterator<Item = u32> {
        BITS.into_iter().filter(move |bits| (self.low..=self.high).contains(bits))
    }
    fn quant(self, bits: u32) -> Quant {
        Quant::Affine(QuantShape { bits, group: self.group })
    }
}

impl Candidate {
    /// Its count of numbers.
    pub fn n_numbers(&self) -> u64 {
        self.shape[0] as u64 * self.shape[1] as u64
    }

    /// The matrix at a width, as it would be written.
    ///
    /// # Errors
    /// Those of the table, which must be the checkpoint's.
    pub fn quantized(&self, weights: &WeightTable<'_>, shape: QuantShape) -> Result<AffineMatrix> {
        let [n_rows, n_cols] = self.shape;
        let height = n_rows / self.parts.len();
        let parts = self.parts.iter().map(|path| weights.matrix(path, height, n_cols)).collect::<Result<Vec<_>>>()?;
        let matrix = Rows { parts, n_experts: None };
        let kind = Kind::Quantize { matrix, float: self.float, quant: Quant::Affine(shape) };
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
    /// The matrices of the checkpoint `source`, a folder or a GGUF file, that [`convert`](super::convert()) would quantize, at every
    /// width. `progress` is told numbers done and numbers in all, each width counted.
    ///
    /// # Errors
    /// Those of the checkpoint; [`Error::Unsupported`] if nothing in it is to be quantized.
    pub fn measure(source: &Path, widths: Widths, progress: &mut dyn FnMut(u64, u64)) -> Result<Self> {
        let model = Model::open(source)?;
        // Of a listed recipe, no family makes exceptions.
        let default = QuantShape { bits: widths.low, group: widths.group };
        let recipe = Recipe::Listed { default, bits: BTreeMap::new() };
        let options = ConvertOptions { quantize: Some(recipe), ..ConvertOptions::default() };
        let dtype = model.files.json_or_null("config.json")?.as_object().and_then(super::config_dtype);
        let items = choose(&model, &options, dtype)?.items;
        let n_parameters = items.iter().map(Item::n_numbers).sum();
        let (items, rest): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| matches!(item.kind, Kind::Quantize { .. }));
        if items.is_empty() {
            let what = format!(
                "holds no matrix of floats whose columns are whole groups of {}; take the model that it was made of",
                widths.group
            );
            return Err(Error::Unsupported { path: source.to_path_buf(), what });
        }
        let total = items.iter().map(Item::n_numbers).sum::<u64>() * widths.all().count() as u64;
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
            for bits in widths.all() {
                if let Kind::Quantize { quant, .. } = &mut item.kind {
                    *quant = widths.quant(bits);
                }
                forms.push(Form { bits, n_bytes: item.n_bytes(), error: item.squared_error() });
                done += item.n_numbers();
                progress(done, total);
            }
            let parts = parts.remove(&item.path).unwrap_or_else(|| unreachable!("items are the graph's modules"));
            matrices.push(Candidate { path: item.path, shape, parts, float, forms });
        }
        Ok(Self { matrices, widths, rest_bytes: rest.iter().map(Item::n_bytes).sum(), n_parameters })
    }

    /// The widths with the least damage within the target. Steps to wider forms are made in the order of what they save a byte,
    /// while they fit; for damages that fall ever more slowly with the width that is the best choice, but for the last step.
    ///
    /// # Errors
    /// A target that the lowest width does not reach, and sensitivities that are not of these matrices, with their names.
    pub fn recipe(&self, sensitivities: &Sensitivities, target: Target) -> std::result::Result<Recipe, String> {
        let mut room = self.limit(target) - self.least(target)?;
        let damages = self.damages(sensitivities, self.equal_form(target))?;
        let mut taken = vec![0; self.matrices.len()];
        while let Some((ix, form, cost)) = self.best_step(&damages, &taken, room) {
            taken[ix] = form;
            room -= cost;
        }
        let chosen = self.matrices.iter().zip(taken).filter(|(_, form)| *form > 0);
        let bits = chosen.map(|(matrix, form)| (matrix.path.clone(), matrix.forms[form].bits)).collect();
        Ok(Recipe::Listed { default: QuantShape { bits: self.widths.low, group: self.widths.group }, bits })
    }

    /// The most bits that all matrices could have within the target: where sensitivities are measured best, since it is there
    /// that the mix will be.
    ///
    /// # Errors
    /// A target that the lowest width does not reach.
    pub fn equal(&self, target: Target) -> std::result::Result<QuantShape, String> {
        self.least(target)?;
        let bits = self.matrices.first().map_or(self.widths.low, |matrix| matrix.forms[self.equal_form(target)].bits);
        Ok(QuantShape { bits, group: self.widths.group })
    }

    fn equal_form(&self, target: Target) -> usize {
        let fits = |form: &usize| self.n_bytes(*form) <= self.limit(target);
        (0..self.widths.all().count()).rev().find(fits).unwrap_or(0)
    }

    /// Bytes with all matrices in one form.
    fn n_bytes(&self, form: usize) -> u64 {
        self.rest_bytes + self.matrices.iter().map(|matrix| matrix.forms[form].n_bytes).sum::<u64>()
    }

    fn limit(&self, target: Target) -> u64 {
        match target {
            Target::Bytes(n) => n,
            Target::BitsPerWeight(bits) => (bits * self.n_parameters as f64 / 8.0) as u64,
        }
    }

    /// Bytes with the lowest width everywhere, if they are within the target.
    fn least(&self, target: Target) -> std::result::Result<u64, String> {
        let (least, limit) = (self.n_bytes(0), self.limit(target));
        if least <= limit {
            return Ok(least);
        }
        let bits = least as f64 * 8.0 / self.n_parameters as f64;
        Err(format!(
            "with {} bits everywhere the model takes {least} bytes ({bits:.3} bits per weight), more than the target of \
             {limit}; lower --low-bits or raise the target",
            self.widths.low
        ))
    }

    /// The step to a wider form that saves most damage a byte and fits: matrix, form, bytes. Of equal ones the first.
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
    fn damages(&self, sensitivities: &Sensitivities, measured: usize) -> std::result::Result<Vec<Vec<f64>>, String> {
        let by_path: BTreeMap<&str, f64> = sensitivities.iter().map(|(path, value)| (path.as_str(), *value)).collect();
        let known: BTreeSet<&str> = self.matrices.iter().map(|matrix| matrix.path.as_str()).collect();
        if let Some(other) = by_path.keys().find(|path| !known.contains(*path)) {
            return Err(format!("the sensitivities are of another model: it has no matrix `{other}`"));
        }
        let of = |matrix: &Candidate| {
            let sensitivity = by_path.get(matrix.path.as_str()).filter(|value| value.is_finite());
            let sensitivity = sensitivity.ok_or_else(|| format!("no sensitivity is given for `{}`", matrix.path))?;
            let found = sensitivity.max(0.0) * matrix.n_numbers() as f64 / 1e6;
            let damage = |form: &Form| match matrix.forms[measured].error {
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
        let form =
            |bits: u32| Form { bits, n_bytes: 1000 * u64::from(bits) / 8, error: 256.0 / 4f64.powi(bits as i32) };
        let matrix = |path: &&str| Candidate {
            path: (*path).to_owned(),
            shape: [10, 100],
            parts: vec![(*path).to_owned()],
            float: StoredType::Bf16,
            forms: [2, 3, 4].map(form).to_vec(),
        };
        let widths = Widths { low: 2, high: 4, group: 32 };
        let matrices: Vec<Candidate> = paths.iter().map(matrix).collect();
        Candidates { n_parameters: 1000 * matrices.len() as u64, matrices, widths, rest_bytes: 50 }
    }

    fn listed(candidates: &Candidates, sensitivities: &[(&str, f64)], target: Target) -> Vec<(String, u32)> {
        let sensitivities = sensitivities.iter().map(|(path, value)| ((*path).to_owned(), *value)).collect();
        match candidates.recipe(&sensitivities, target) {
            Ok(Recipe::Listed { default: QuantShape { bits: 2, group: 32 }, bits }) => bits.into_iter().collect(),
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
    fn wrong_requests_are_named() {
        let two = candidates(&["a", "b"]);
        let of = |list: &[(&str, f64)], target| {
            let list = list.iter().map(|(path, value)| ((*path).to_owned(), *value)).collect();
            two.recipe(&list, target).unwrap_err()
        };
        let all = Target::Bytes(u64::MAX);
        assert!(of(&[("a", 1.0)], all).contains("`b`"));
        assert!(of(&[("a", 1.0), ("b", f64::NAN)], all).contains("`b`"));
        assert!(of(&[("a", 1.0), ("b", 1.0), ("c", 1.0)], all).contains("`c`"));
        assert!(of(&[("a", 1.0), ("b", 1.0)], Target::BitsPerWeight(2.0)).contains("2.200 bits per weight"));
        assert!(Widths::new(4, 4, 64).is_err() && Widths::new(4, 7, 64).is_err() && Widths::new(2, 4, 48).is_err());
    }
}
