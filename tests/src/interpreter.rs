//! The oracle: executes a graph op by op on the tables of ragged steps, with f32 values and f64 sums. It is as plain as
//! it can be, knows nothing of pages, tiles or kernels, and runs a graph before and after every pass.

use crate::kept::kept;
use ingot_ir::graph::{Graph, Op, Value, ValueId};
use ingot_ir::handle::{Arena, Column};
use ingot_ir::kv::{KvLayerId, KvType, Window};
use ingot_ir::size::Dim;
use ingot_ir::step::{SAMPLED, StepTables};
use ingot_ir::weight::{Source, Weight, WeightId};
use std::collections::HashMap;

/// `[n_rows, n_cols]` numbers, row by row.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Matrix {
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    /// The numbers.
    pub numbers: Vec<f32>,
}

impl Matrix {
    /// Zeros.
    pub fn zeros(n_rows: usize, n_cols: usize) -> Self {
        Self { n_rows, n_cols, numbers: vec![0.0; n_rows * n_cols] }
    }
    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.n_cols..(row + 1) * self.n_cols]
    }
    /// One row, to be written.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.numbers[row * self.n_cols..(row + 1) * self.n_cols]
    }
    /// The numbers' bits, to be compared exactly.
    pub fn bits(&self) -> Vec<u32> {
        self.numbers.iter().map(|number| number.to_bits()).collect()
    }
    /// Some of the rows.
    pub fn rows(&self, rows: &[u32]) -> Self {
        let numbers = rows.iter().flat_map(|&row| self.row(row as usize)).copied().collect();
        Self { n_rows: rows.len(), n_cols: self.n_cols, numbers }
    }
}

/// What outlives a step: keys and values by (layer, row of the page table, position), and the last sampled ids.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    keys: HashMap<(KvLayerId, u32, u32), Vec<f32>>,
    values: HashMap<(KvLayerId, u32, u32), Vec<f32>>,
    /// Ids that the last step sampled, one a row.
    pub sampled: Vec<u32>,
}

impl State {
    /// The key that a layer stored, all heads side by side.
    pub fn key(&self, layer: KvLayerId, page_row: u32, position: u32) -> &[f32] {
        self.keys
            .get(&(layer, page_row, position))
            .unwrap_or_else(|| panic!("{layer} has no key {position} of sequence row {page_row}"))
    }
    /// The value that a layer stored, all heads side by side; empty for a latent.
    pub fn value(&self, layer: KvLayerId, page_row: u32, position: u32) -> &[f32] {
        self.values
            .get(&(layer, page_row, position))
            .unwrap_or_else(|| panic!("{layer} has no value {position} of sequence row {page_row}"))
    }
}

/// A graph with its weights as dense f32 matrices.
pub struct Interpreter<'a> {
    graph: &'a Graph,
    weights: Vec<Matrix>,
    kv: KvType,
}

impl<'a> Interpreter<'a> {
    /// Resolves every weight. `tensor` gives a checkpoint matrix's numbers by name, row by row, dequantized.
    pub fn new(graph: &'a Graph, tensor: &dyn Fn(&str) -> Vec<f32>) -> Self {
        let mut weights: Vec<Matrix> = Vec::with_capacity(graph.weights.len());
        for (id, weight) in graph.weights.iter() {
            let matrix = resolve(&graph.weights, weight, &weights, tensor);
            assert_eq!(matrix.numbers.len(), matrix.n_rows * matrix.n_cols, "{id}'s tensor has another size");
            weights.push(matrix);
        }
        Self { graph, weights, kv: KvType::F32 }
    }

    /// With keys and values that are kept in pages of another type.
    #[must_use]
    pub fn keeping(self, kv: KvType) -> Self {
        Self { kv, ..self }
    }

    /// A weight's numbers.
    pub fn weight(&self, id: WeightId) -> &Matrix {
        &self.weights[id.0 as usize]
    }

    /// Runs one step. Returns every value; effects are empty.
    pub fn step(&self, tables: &StepTables, state: &mut State) -> Column<ValueId, Matrix> {
        let mut values = Column::new(self.graph.values.len(), Matrix::default());
        for (id, value) in self.graph.values.iter() {
            values[id] = self.op(value, &values, tables, state);
        }
        if let Some(sampled) = self.graph.outputs.get(1) {
            state.sampled = values[*sampled].bits();
        }
        values
    }

    /// The logits of one step, `[rows, vocabulary]`.
    pub fn logits(&self, tables: &StepTables, state: &mut State) -> Matrix {
        let mut values = self.step(tables, state);
        std::mem::take(&mut values[self.graph.outputs[0]])
    }

    /// One op on given operands, e.g. to be a kernel's oracle.
    pub fn op(
        &self,
        value: &Value,
        values: &Column<ValueId, Matrix>,
        tables: &StepTables,
        state: &mut State,
    ) -> Matrix {
        let n_rows = match value.shape.rows {
            Dim::Tokens => tables.tokens.len(),
            Dim::Rows => tables.rows.len(),
            Dim::Sequences => tables.sequences.len(),
            Dim::Tiles => tables.tiles.len(),
            Dim::Filtered => tables.dims().filtered as usize,
        };
        let mut out = Matrix::zeros(n_rows, value.shape.n_cols as usize);
        match &value.op {
            Op::Embed { parts } => self.embed(parts, tables, state, &mut out),
            Op::RmsNorm { x, weight, eps } => {
                let weight = &self.weight(*weight).numbers;
                let runs =
                    out.numbers.chunks_exact_mut(weight.len()).zip(values[*x].numbers.chunks_exact(weight.len()));
                for (out, x) in runs {
                    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
                    let factor = 1.0 / (mean + f64::from(*eps)).sqrt();
                    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
                        *out = (f64::from(x) * factor * f64::from(w)) as f32;
                    }
                }
            }
            Op::Linear { x, weight, bias } => {
                let weight = self.weight(*weight);
                for row in 0..n_rows {
                    let x = values[*x].row(row);
                    for (column, out) in out.row_mut(row).iter_mut().enumerate() {
                        let bias = bias.map_or(0.0, |bias| f64::from(self.weight(bias).numbers[column]));
                        *out = (dot(weight.row(column), x) + bias) as f32;
                    }
                }
            }
            Op::Rope { x, freqs, head_dim, rot_dim, scale, neighbours, .. } => {
                let freqs = &self.weight(*freqs).numbers;
                for (row, token) in tables.tokens.iter().enumerate() {
                    let x = values[*x].row(row);
                    let heads =
                        out.row_mut(row).chunks_exact_mut(*head_dim as usize).zip(x.chunks_exact(*head_dim as usize));
                    for (out, x) in heads {
                        rotate(out, x, token.position, freqs, (*rot_dim as usize, *neighbours), f64::from(*scale));
                    }
                }
            }
            Op::KvWrite { k, v, layer } => {
                for (row, token) in tables.tokens.iter().enumerate() {
                    let key = (*layer, tables.sequences[token.sequence as usize].page_row, token.position);
                    state.keys.insert(key, kept(self.kv, values[*k].row(row)));
                    state.values.insert(key, v.map_or(Vec::new(), |v| kept(self.kv, values[v].row(row))));
                }
            }
            Op::Attention { q, layer, n_heads, scale, softcap, window, .. } => {
                let shape = self.graph.kv.shape(*layer);
                let attend = Attend {
                    layer: *layer,
                    n_heads: *n_heads as usize,
                    n_kv_heads: shape.n_kv_heads as usize,
                    k_dim: shape.k_dim as usize,
                    v_dim: shape.v_dim as usize,
                    latent: shape.latent,
                    scale: f64::from(*scale),
                    softcap: f64::from(*softcap),
                    window: *window,
                };
                for (row, token) in tables.tokens.iter().enumerate() {
                    let page_row = tables.sequences[token.sequence as usize].page_row;
                    attend.row(values[*q].row(row), page_row, token.position, state, out.row_mut(row));
                }
            }
            Op::Add { a, b } => zip(&mut out, &values[*a], &values[*b], |a, b| a + b),
            Op::Mul { a, b } => zip(&mut out, &values[*a], &values[*b], |a, b| a * b),
            Op::Silu { x } => zip(&mut out, &values[*x], &values[*x], |x, _| silu(x)),
            Op::Gelu { x } => zip(&mut out, &values[*x], &values[*x], |x, _| gelu(x)),
            Op::SiluMulPairs { x } => pairs(&mut out, &values[*x], silu),
            Op::GeluMulPairs { x } => pairs(&mut out, &values[*x], gelu),
            Op::Scale { x, by } => zip(&mut out, &values[*x], &values[*x], |x, _| x * by),
            Op::Softcap { x, cap } => {
                let cap = f64::from(*cap);
                zip(&mut out, &values[*x], &values[*x], |x, _| (cap * (f64::from(x) / cap).tanh()) as f32);
            }
            Op::MoeRoute { logits, k, renormalize } => {
                for row in 0..n_rows {
                    route(values[*logits].row(row), *k as usize, *renormalize, out.row_mut(row));
                }
            }
            Op::MoeLinear { x, route, parts, n_experts } => {
                let stack: Vec<&[f32]> = parts
                    .iter()
                    .flat_map(|part| (0..self.weight(*part).n_rows).map(|row| self.weight(*part).row(row)))
                    .collect();
                let (k, height) = (values[*route].n_cols / 2, stack.len() / *n_experts as usize);
                for row in 0..n_rows {
                    let x = values[*x].row(row);
                    // One input for all experts, or one for each.
                    let inputs = x.chunks_exact(stack[0].len()).cycle();
                    let taken = values[*route].row(row)[..k].iter().map(|id| *id as usize);
                    for ((out, x), id) in out.row_mut(row).chunks_exact_mut(height).zip(inputs).zip(taken) {
                        let matrix = &stack[id * height..][..height];
                        out.iter_mut().zip(matrix).for_each(|(out, weights)| *out = dot(weights, x) as f32);
                    }
                }
            }
            Op::MoeSum { x, route } => {
                for row in 0..n_rows {
                    let (k, n_cols) = (values[*route].n_cols / 2, out.n_cols);
                    let shares = &values[*route].row(row)[k..];
                    for (column, out) in out.row_mut(row).iter_mut().enumerate() {
                        let parts = values[*x].row(row).iter().skip(column).step_by(n_cols);
                        *out =
                            parts.zip(shares).map(|(x, share)| f64::from(*x) * f64::from(*share)).sum::<f64>() as f32;
                    }
                }
            }
            Op::Slice { x, at, n_cols } => {
                for row in 0..n_rows {
                    out.row_mut(row).copy_from_slice(&values[*x].row(row)[*at as usize..(*at + *n_cols) as usize]);
                }
            }
            Op::Concat { parts } => {
                for row in 0..n_rows {
                    let joined: Vec<f32> = parts.iter().flat_map(|part| values[*part].row(row)).copied().collect();
                    out.row_mut(row).copy_from_slice(&joined);
                }
            }
            Op::GatherRows { x } => return values[*x].rows(&tables.rows),
            Op::Argmax { x } => {
                for (row, out) in out.numbers.iter_mut().enumerate() {
                    let best = values[*x]
                        .row(row)
                        .iter()
                        .enumerate()
                        .fold(0, |best, (ix, n)| if *n > values[*x].row(row)[best] { ix } else { best });
                    *out = f32::from_bits(best as u32);
                }
            }
        }
        out
    }

    fn embed(&self, parts: &[WeightId], tables: &StepTables, state: &State, out: &mut Matrix) {
        for (row, token) in tables.tokens.iter().enumerate() {
            let mut id = match token.id & SAMPLED {
                0 => token.id,
                _ => state.sampled[(token.id & !SAMPLED) as usize],
            } as usize;
            for part in parts {
                let part = self.weight(*part);
                if id < part.n_rows {
                    out.row_mut(row).copy_from_slice(part.row(id));
                    break;
                }
                id -= part.n_rows;
            }
        }
    }
}

/// A weight from its source; sources are earlier weights.
fn resolve(
    all: &Arena<WeightId, Weight>,
    weight: &Weight,
    done: &[Matrix],
    tensor: &dyn Fn(&str) -> Vec<f32>,
) -> Matrix {
    let (n_rows, n_cols) = (weight.n_rows as usize, weight.n_cols as usize);
    let of = |id: WeightId| {
        assert!(all.get(id).is_some(), "{id} does not exist");
        &done[id.0 as usize]
    };
    let numbers = match &weight.source {
        Source::Tensor(name) => tensor(name),
        Source::Inline(numbers) => numbers.clone(),
        Source::Rows { of: id, first, count } => {
            of(*id).numbers[*first as usize * n_cols..(*first + *count) as usize * n_cols].to_vec()
        }
        Source::Stack(parts) => parts.iter().flat_map(|part| of(*part).numbers.iter()).copied().collect(),
        Source::Interleave(a, b) => {
            (0..n_rows / 2).flat_map(|row| of(*a).row(row).iter().chain(of(*b).row(row))).copied().collect()
        }
        Source::OnePlus(id) => of(*id).numbers.iter().map(|number| 1.0 + number).collect(),
        Source::PairRows { of: id, order } => {
            (0..weight.n_rows).flat_map(|row| of(*id).row(order.source_row(row) as usize)).copied().collect()
        }
    };
    Matrix { n_rows, n_cols, numbers }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// The `k` greatest of a row of logits, the lower of equal ones first, then their shares.
fn route(logits: &[f32], k: usize, renormalize: bool, out: &mut [f32]) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // A stable sort keeps equal ones in order.
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let weight = |id: &usize| f64::from(logits[*id]).exp();
    let total: f64 = order[..if renormalize { k } else { logits.len() }].iter().map(weight).sum();
    for (place, id) in order[..k].iter().enumerate() {
        out[place] = *id as f32;
        out[k + place] = (weight(id) / total) as f32;
    }
}

fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + (-x).exp())) as f32
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    (0.5 * x * (1.0 + inner.tanh())) as f32
}

fn zip(out: &mut Matrix, a: &Matrix, b: &Matrix, f: impl Fn(f32, f32) -> f32) {
    out.numbers.iter_mut().zip(a.numbers.iter().zip(&b.numbers)).for_each(|(out, (a, b))| *out = f(*a, *b));
}

/// The activation is rounded to f32 between, as where gate and up are values of their own.
fn pairs(out: &mut Matrix, x: &Matrix, f: impl Fn(f32) -> f32) {
    out.numbers.iter_mut().zip(x.numbers.chunks_exact(2)).for_each(|(out, pair)| *out = f(pair[0]) * pair[1]);
}

/// Rotates pairs `(i, i + rot_dim / 2)`, or `(2i, 2i + 1)` if they are neighbours, of one head; the numbers from
/// `rot_dim` on stay.
fn rotate(out: &mut [f32], x: &[f32], position: u32, freqs: &[f32], (rot_dim, neighbours): (usize, bool), scale: f64) {
    out.copy_from_slice(x);
    let half = rot_dim / 2;
    for (i, &freq) in freqs[..half].iter().enumerate() {
        let (sin, cos) = (f64::from(position) * f64::from(freq)).sin_cos();
        let (at, partner) = if neighbours { (2 * i, 2 * i + 1) } else { (i, i + half) };
        let (a, b) = (f64::from(x[at]), f64::from(x[partner]));
        out[at] = ((a * cos - b * sin) * scale) as f32;
        out[partner] = ((b * cos + a * sin) * scale) as f32;
    }
}

/// An attention op's numbers.
struct Attend {
    layer: KvLayerId,
    n_heads: usize,
    n_kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    latent: bool,
    scale: f64,
    softcap: f64,
    window: Window,
}

impl Attend {
    /// All heads of one query row.
    fn row(&self, q: &[f32], page_row: u32, position: u32, state: &State, out: &mut [f32]) {
        let seen: Vec<u32> = (0..=position).filter(|&j| self.window.sees(position, j)).collect();
        for head in 0..self.n_heads {
            let kv_head = head / (self.n_heads / self.n_kv_heads);
            let q = &q[head * self.k_dim..(head + 1) * self.k_dim];
            let key = |j: u32| &state.key(self.layer, page_row, j)[kv_head * self.k_dim..(kv_head + 1) * self.k_dim];
            let value = |j: u32| match self.latent {
                true => &key(j)[..self.v_dim],
                false => &state.value(self.layer, page_row, j)[kv_head * self.v_dim..(kv_head + 1) * self.v_dim],
            };
            let score = |j: u32| {
                let score = dot(q, key(j)) * self.scale;
                if self.softcap == 0.0 { score } else { self.softcap * (score / self.softcap).tanh() }
            };
            let scores: Vec<f64> = seen.iter().map(|&j| score(j)).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; self.v_dim];
            for (&j, weight) in seen.iter().zip(&weights) {
                sums.iter_mut().zip(value(j)).for_each(|(sum, &v)| *sum += weight / total * f64::from(v));
            }
            let out = &mut out[head * self.v_dim..(head + 1) * self.v_dim];
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
        }
    }
}
