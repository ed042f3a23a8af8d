//! The op graph: what a model computes, in semantic ops on `[rows, columns]` f32 values.
//!
//! Every op has one result, and operands refer to earlier values only. Rows are packed tokens (or the rows
//! whose logits are wanted), see [`crate::step`]. A linear layer is `y = x W^T + b` with `W` `[outputs, inputs]`.

use crate::IrError;
use crate::handle::{Arena, handle};
use crate::kv::{KvLayerId, KvSpec, Window};
use crate::size::Dim;
use crate::weight::{Format, Layout, MAX_NUMBERS, Source, Weight, WeightId};
use serde::{Deserialize, Serialize};

handle! {
    /// A [`Value`] of a graph.
    ValueId "v"
}

/// `[rows, n_cols]` numbers of 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// What a row is.
    pub rows: Dim,
    /// Columns; 0 for the effect of `kv_write`.
    pub n_cols: u32,
}

/// A semantic op.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Row `id` of a table for each token. The table may be split by rows into several weights.
    Embed {
        /// The table's parts, one below the other.
        parts: Vec<WeightId>,
    },
    /// `x / sqrt(mean(x^2) + eps) * weight`, by row; under a shorter weight each run of that many columns by itself (heads).
    RmsNorm {
        /// Operand.
        x: ValueId,
        /// `[n, 1]`, `n` a divisor of the columns.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
    },
    /// `x W^T + bias`.
    Linear {
        /// Operand.
        x: ValueId,
        /// `[outputs, inputs]`.
        weight: WeightId,
        /// `[outputs, 1]`.
        bias: Option<WeightId>,
    },
    /// Rotates pairs `(i, i + rot_dim / 2)` of each head, or `(2i, 2i + 1)` if they are neighbours, by
    /// `position * freqs[i]`; cos and sin are multiplied by `scale`.
    Rope {
        /// `[tokens, n_heads * head_dim]`.
        x: ValueId,
        /// `[rot_dim / 2, 1]`.
        freqs: WeightId,
        /// Heads.
        n_heads: u32,
        /// Numbers a head; those from `rot_dim` on stay.
        head_dim: u32,
        /// Numbers that are rotated.
        rot_dim: u32,
        /// Factor on cos and sin (yarn's attention factor).
        scale: f32,
        /// Whether the numbers of a pair are neighbours.
        neighbours: bool,
    },
    /// Stores the tokens' keys and values in a layer's cache. The result is an effect that `attention` takes.
    KvWrite {
        /// Keys `[tokens, n_kv_heads * k_dim]`.
        k: ValueId,
        /// Values `[tokens, n_kv_heads * v_dim]`; absent for a latent.
        v: Option<ValueId>,
        /// The layer.
        layer: KvLayerId,
    },
    /// Softmax attention of the tokens' queries over their sequence's cache, causal by position.
    Attention {
        /// Queries `[tokens, n_heads * k_dim]`.
        q: ValueId,
        /// The effect of this step's `kv_write`.
        kv: ValueId,
        /// The layer.
        layer: KvLayerId,
        /// Query heads.
        n_heads: u32,
        /// Factor on the scores.
        scale: f32,
        /// `softcap * tanh(score / softcap)` if not 0.
        softcap: f32,
        /// What a query sees.
        window: Window,
    },
    /// `a + b`.
    Add {
        /// Operand.
        a: ValueId,
        /// Operand.
        b: ValueId,
    },
    /// `a * b`.
    Mul {
        /// Operand.
        a: ValueId,
        /// Operand.
        b: ValueId,
    },
    /// `x / (1 + exp(-x))`.
    Silu {
        /// Operand.
        x: ValueId,
    },
    /// GELU, tanh form.
    Gelu {
        /// Operand.
        x: ValueId,
    },
    /// The experts that each row takes: `k` ids as numbers, those of the greatest logits, greatest first and the lower one
    /// on a tie; then their shares, the logits' softmax.
    MoeRoute {
        /// A router's result, a column an expert.
        logits: ValueId,
        /// Experts a row.
        k: u32,
        /// Whether shares are divided by their sum.
        renormalize: bool,
    },
    /// The products of each row with the experts that it takes, side by side, see [`crate::moe`].
    MoeLinear {
        /// An input a row, or one for each of its experts side by side.
        x: ValueId,
        /// Which experts.
        route: ValueId,
        /// The experts' matrices, one below the other; perhaps split into several weights.
        parts: Vec<WeightId>,
        /// Experts in all.
        n_experts: u32,
    },
    /// The sum of what a row's experts left, each times its share.
    MoeSum {
        /// Results of a row's experts side by side.
        x: ValueId,
        /// Their shares.
        route: ValueId,
    },
    /// `silu(x[2i]) * x[2i + 1]`: the gate and up projections with their rows in turn.
    SiluMulPairs {
        /// Operand with twice the columns.
        x: ValueId,
    },
    /// `gelu(x[2i]) * x[2i + 1]`, likewise.
    GeluMulPairs {
        /// Operand with twice the columns.
        x: ValueId,
    },
    /// `x * by`.
    Scale {
        /// Operand.
        x: ValueId,
        /// The factor.
        by: f32,
    },
    /// `cap * tanh(x / cap)`.
    Softcap {
        /// Operand.
        x: ValueId,
        /// What no result exceeds, above 0.
        cap: f32,
    },
    /// Columns `at .. at + n_cols`.
    Slice {
        /// Operand.
        x: ValueId,
        /// First column.
        at: u32,
        /// Number of columns.
        n_cols: u32,
    },
    /// Values side by side.
    Concat {
        /// Operands.
        parts: Vec<ValueId>,
    },
    /// The rows whose logits are wanted.
    GatherRows {
        /// `[tokens, n_cols]`.
        x: ValueId,
    },
    /// The id of each row's greatest number, the lowest on a tie. The result's bits are the id. Where it is the choice of a
    /// token, the step's table of choices may say otherwise ([`crate::step::Choice`]), of which a graph knows nothing.
    Argmax {
        /// Logits.
        x: ValueId,
    },
}

/// An op's result.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Value {
    /// How it is computed.
    pub op: Op,
    /// Its shape.
    pub shape: Shape,
}

/// What a model computes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Graph {
    /// Architecture and size, for people.
    pub name: String,
    /// Weights; sources refer to earlier weights.
    pub weights: Arena<WeightId, Weight>,
    /// The KV cache.
    pub kv: KvSpec,
    /// Values in an order that respects operands.
    pub values: Arena<ValueId, Value>,
    /// Results: the logits `[rows, vocabulary]`, then the sampled ids.
    pub outputs: Vec<ValueId>,
}

impl Op {
    /// The word in text.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Embed { .. } => "embed",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Linear { .. } => "linear",
            Self::Rope { .. } => "rope",
            Self::KvWrite { .. } => "kv_write",
            Self::Attention { .. } => "attention",
            Self::Add { .. } => "add",
            Self::Mul { .. } => "mul",
            Self::Silu { .. } => "silu",
            Self::Gelu { .. } => "gelu",
            Self::SiluMulPairs { .. } => "silu_mul_pairs",
            Self::GeluMulPairs { .. } => "gelu_mul_pairs",
            Self::Scale { .. } => "scale",
            Self::Softcap { .. } => "softcap",
            Self::MoeRoute { .. } => "moe_route",
            Self::MoeLinear { .. } => "moe_linear",
            Self::MoeSum { .. } => "moe_sum",
            Self::Slice { .. } => "slice",
            Self::Concat { .. } => "concat",
            Self::GatherRows { .. } => "gather_rows",
            Self::Argmax { .. } => "argmax",
        }
    }

    /// The values read.
    pub fn operands(&self) -> Vec<ValueId> {
        let mut out = Vec::new();
        self.clone().map_operands(|v| {
            out.push(v);
            v
        });
        out
    }

    /// The same op on other values.
    pub fn map_operands(self, mut f: impl FnMut(ValueId) -> ValueId) -> Self {
        match self {
            Self::Embed { parts } => Self::Embed { parts },
            Self::RmsNorm { x, weight, eps } => Self::RmsNorm { x: f(x), weight, eps },
            Self::Linear { x, weight, bias } => Self::Linear { x: f(x), weight, bias },
            Self::Rope { x, freqs, n_heads, head_dim, rot_dim, scale, neighbours } => {
                Self::Rope { x: f(x), freqs, n_heads, head_dim, rot_dim, scale, neighbours }
            }
            Self::KvWrite { k, v, layer } => Self::KvWrite { k: f(k), v: v.map(f), layer },
            Self::Attention { q, kv, layer, n_heads, scale, softcap, window } => {
                Self::Attention { q: f(q), kv: f(kv), layer, n_heads, scale, softcap, window }
            }
            Self::Add { a, b } => Self::Add { a: f(a), b: f(b) },
            Self::Mul { a, b } => Self::Mul { a: f(a), b: f(b) },
            Self::Silu { x } => Self::Silu { x: f(x) },
            Self::Gelu { x } => Self::Gelu { x: f(x) },
            Self::SiluMulPairs { x } => Self::SiluMulPairs { x: f(x) },
            Self::GeluMulPairs { x } => Self::GeluMulPairs { x: f(x) },
            Self::Scale { x, by } => Self::Scale { x: f(x), by },
            Self::Softcap { x, cap } => Self::Softcap { x: f(x), cap },
            Self::MoeRoute { logits, k, renormalize } => Self::MoeRoute { logits: f(logits), k, renormalize },
            Self::MoeLinear { x, route, parts, n_experts } => {
                Self::MoeLinear { x: f(x), route: f(route), parts, n_experts }
            }
            Self::MoeSum { x, route } => Self::MoeSum { x: f(x), route: f(route) },
            Self::Slice { x, at, n_cols } => Self::Slice { x: f(x), at, n_cols },
            Self::Concat { parts } => Self::Concat { parts: parts.into_iter().map(f).collect() },
            Self::GatherRows { x } => Self::GatherRows { x: f(x) },
            Self::Argmax { x } => Self::Argmax { x: f(x) },
        }
    }

    /// The weights read.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            Self::Embed { parts } | Self::MoeLinear { parts, .. } => parts.clone(),
            Self::RmsNorm { weight, .. } => vec![*weight],
            Self::Linear { weight, bias, .. } => std::iter::once(*weight).chain(*bias).collect(),
            Self::Rope { freqs, .. } => vec![*freqs],
            _ => Vec::new(),
        }
    }

    /// Whether each result row depends on the same row of the operands alone, so that rows may be dropped before it.
    pub fn is_row_wise(&self) -> bool {
        match self {
            Self::RmsNorm { .. }
            | Self::Linear { .. }
            | Self::Add { .. }
            | Self::Mul { .. }
            | Self::Silu { .. }
            | Self::Gelu { .. }
            | Self::SiluMulPairs { .. }
            | Self::GeluMulPairs { .. }
            | Self::Scale { .. }
            | Self::Softcap { .. }
            | Self::MoeRoute { .. }
            | Self::MoeLinear { .. }
            | Self::MoeSum { .. }
            | Self::Slice { .. }
            | Self::Concat { .. } => true,
            Self::Embed { .. }
            | Self::Rope { .. }
            | Self::KvWrite { .. }
            | Self::Attention { .. }
            | Self::GatherRows { .. }
            | Self::Argmax { .. } => false,
        }
    }
}

impl Graph {
    /// A graph without values.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Appends an op, its shape inferred. Fails as [`Graph::verify`] would.
    pub fn push(&mut self, op: Op) -> Result<ValueId, IrError> {
        let next = ValueId(self.values.len() as u32);
        let shape = self.infer(next, &op)?;
        Ok(self.values.push(Value { op, shape }))
    }

    /// Which values use a value, for every value, in order.
    pub fn users(&self) -> crate::handle::Column<ValueId, Vec<ValueId>> {
        let mut users = crate::handle::Column::new(self.values.len(), Vec::new());
        for (id, value) in self.values.iter() {
            for operand in value.op.operands() {
                if users[operand].last() != Some(&id) {
                    users[operand].push(id);
                }
            }
        }
        users
    }

    /// Checks every rule: operands backwards, shapes, weights, effects.
    pub fn verify(&self) -> Result<(), IrError> {
        for (id, weight) in self.weights.iter() {
            self.verify_weight(id, weight)?;
        }
        self.kv.verify()?;
        let mut written = vec![false; self.kv.layers.len()];
        for (id, value) in self.values.iter() {
            let shape = self.infer(id, &value.op)?;
            if shape != value.shape {
                return Err(IrError::invalid(id, format!("has shape {} but computes {shape}", value.shape)));
            }
            if let Op::KvWrite { layer, .. } = value.op
                && std::mem::replace(&mut written[layer.0 as usize], true)
            {
                return Err(IrError::invalid(id, format!("{layer} is written twice")));
            }
        }
        match self.outputs.iter().find(|output| self.values.get(**output).is_none()) {
            Some(output) => Err(IrError::invalid(output, "is an output but does not exist")),
            None => Ok(()),
        }
    }

    fn verify_weight(&self, id: WeightId, weight: &Weight) -> Result<(), IrError> {
        let bad = |why: String| Err(IrError::invalid(id, why));
        if weight.n_rows == 0 || weight.n_cols == 0 {
            return bad("has no rows or no columns".into());
        }
        if u64::from(weight.n_rows) * u64::from(weight.n_cols) > MAX_NUMBERS {
            return bad(format!("{} x {} numbers are too many", weight.n_rows, weight.n_cols));
        }
        if matches!(weight.layout, Layout::Stored | Layout::Packed) && !weight.format.takes_cols(weight.n_cols) {
            return bad(format!("{} columns cannot be stored as {}", weight.n_cols, weight.format));
        }
        let part = |of: WeightId| match self.weights.get(of) {
            Some(w) if of < id => Ok(w),
            _ => Err(IrError::invalid(id, format!("{of} is not an earlier weight"))),
        };
        let like = |other: &Weight| other.format == weight.format && other.n_cols == weight.n_cols;
        match &weight.source {
            Source::Tensor(_) => {}
            Source::Inline(numbers) => {
                if weight.format != Format::F32
                    || numbers.len() as u64 != u64::from(weight.n_rows) * u64::from(weight.n_cols)
                {
                    return bad(format!("{} inline numbers do not fill it", numbers.len()));
                }
            }
            Source::Rows { of, first, count } => {
                let of = part(*of)?;
                if !like(of) || *count != weight.n_rows || first.checked_add(*count).is_none_or(|end| end > of.n_rows) {
                    return bad("is no run of rows of its source".into());
                }
            }
            Source::Stack(parts) => {
                let mut rows = 0u64;
                for &of in parts {
                    let of = part(of)?;
                    if !like(of) {
                        return bad("stacks unlike weights".into());
                    }
                    rows += u64::from(of.n_rows);
                }
                if rows != u64::from(weight.n_rows) {
                    return bad(format!("stacks {rows} rows into {}", weight.n_rows));
                }
            }
            Source::PairRows { of, order } => {
                let of = part(*of)?;
                let from_tensor = matches!(of.source, Source::Tensor(_));
                if !like(of) || of.n_rows != weight.n_rows || !from_tensor || !order.fits(weight.n_rows) {
                    return bad("pairs the rows of no tensor of whole heads".into());
                }
            }
            Source::OnePlus(of) => {
                let of = part(*of)?;
                if !like(of) || of.n_rows != weight.n_rows || weight.n_cols != 1 {
                    return bad("adds 1 to what is no vector like it".into());
                }
            }
            Source::Interleave(a, b) => {
                let (a, b) = (part(*a)?, part(*b)?);
                if !like(a) || !like(b) || a.n_rows != b.n_rows || u64::from(a.n_rows) * 2 != u64::from(weight.n_rows) {
                    return bad("interleaves unlike weights".into());
                }
            }
        }
        Ok(())
    }

    /// The shape of an op's result, or why the op is wrong.
    fn infer(&self, id: ValueId, op: &Op) -> Result<Shape, IrError> {
        let bad = |why: String| Err(IrError::invalid(id, format!("{}: {why}", op.name())));
        for operand in op.operands() {
            if operand >= id {
                return bad(format!("{operand} is not an earlier value"));
            }
        }
        for weight in op.weights() {
            if self.weights.get(weight).is_none() {
                return bad(format!("{weight} does not exist"));
            }
        }
        let shape = |v: ValueId| self.values[v].shape;
        let vector = |w: WeightId, n: u32| {
            let weight = &self.weights[w];
            if weight.n_rows == n && weight.n_cols == 1 {
                Ok(())
            } else {
                Err(IrError::invalid(
                    id,
                    format!("{}: {w} is {} x {}, not {n} x 1", op.name(), weight.n_rows, weight.n_cols),
                ))
            }
        };
        match op {
            Op::Embed { parts } => {
                let Some(first) = parts.first() else { return bad("has no table".into()) };
                let n_cols = self.weights[*first].n_cols;
                if parts.iter().any(|part| self.weights[*part].n_cols != n_cols) {
                    return bad("the table's parts differ in width".into());
                }
                Ok(Shape { rows: Dim::Tokens, n_cols })
            }
            Op::RmsNorm { x, weight, .. } => {
                let n = self.weights[*weight].n_rows;
                if n == 0 || shape(*x).n_cols % n != 0 {
                    return bad(format!("{weight} has {n} numbers, no divisor of {x}'s {} columns", shape(*x).n_cols));
                }
                vector(*weight, n).map(|()| shape(*x))
            }
            Op::Linear { x, weight, bias } => {
                let w = &self.weights[*weight];
                if w.n_cols != shape(*x).n_cols {
                    return bad(format!("{weight} takes {} columns, {x} has {}", w.n_cols, shape(*x).n_cols));
                }
                bias.map_or(Ok(()), |bias| vector(bias, w.n_rows))?;
                Ok(Shape { rows: shape(*x).rows, n_cols: w.n_rows })
            }
            Op::Rope { x, freqs, n_heads, head_dim, rot_dim, .. } => {
                vector(*freqs, rot_dim / 2)?;
                let fits = n_heads.checked_mul(*head_dim) == Some(shape(*x).n_cols);
                if !fits || rot_dim > head_dim || rot_dim % 2 != 0 || shape(*x).rows != Dim::Tokens {
                    return bad(format!(
                        "{n_heads} heads of {head_dim} ({rot_dim} rotated) do not fit {x} ({})",
                        shape(*x)
                    ));
                }
                Ok(shape(*x))
            }
            Op::KvWrite { k, v, layer } => {
                if self.kv.layers.get(*layer).is_none() {
                    return bad(format!("{layer} does not exist"));
                }
                let kv = self.kv.shape(*layer);
                let v_cols = v.map(|v| shape(v).n_cols);
                let wanted = (!kv.latent).then_some(kv.n_kv_heads * kv.v_dim);
                if shape(*k).n_cols != kv.n_kv_heads * kv.k_dim || v_cols != wanted {
                    return bad(format!("{k} or its values do not fit {layer} ({kv:?})"));
                }
                Ok(Shape { rows: Dim::Tokens, n_cols: 0 })
            }
            Op::Attention { q, kv, layer, n_heads, .. } => {
                let writes =
                    |v: ValueId| matches!(self.values[v].op, Op::KvWrite { layer: written, .. } if written == *layer);
                if !writes(*kv) {
                    return bad(format!("{kv} does not write {layer}"));
                }
                let entry = self.kv.shape(*layer);
                let fits =
                    n_heads.checked_mul(entry.k_dim) == Some(shape(*q).n_cols) && n_heads % entry.n_kv_heads == 0;
                match n_heads.checked_mul(entry.v_dim) {
                    Some(n_cols) if fits => Ok(Shape { rows: Dim::Tokens, n_cols }),
                    _ => bad(format!("{n_heads} heads of {} do not fit {q} ({})", entry.k_dim, shape(*q))),
                }
            }
            Op::Add { a, b } | Op::Mul { a, b } => {
                if shape(*a) == shape(*b) {
                    Ok(shape(*a))
                } else {
                    bad(format!("{} and {} differ", shape(*a), shape(*b)))
                }
            }
            Op::Silu { x } | Op::Gelu { x } | Op::Scale { x, .. } => Ok(shape(*x)),
            Op::Softcap { x, cap } if *cap > 0.0 => Ok(shape(*x)),
            Op::Softcap { cap, .. } => bad(format!("{cap:?} is no bound above 0")),
            Op::SiluMulPairs { x } | Op::GeluMulPairs { x } => match shape(*x).n_cols {
                n if n % 2 == 0 => Ok(Shape { n_cols: n / 2, ..shape(*x) }),
                n => bad(format!("{n} columns are no pairs")),
            },
            Op::Slice { x, at, n_cols } => match at.checked_add(*n_cols) {
                Some(end) if end <= shape(*x).n_cols && *n_cols > 0 => Ok(Shape { n_cols: *n_cols, ..shape(*x) }),
                _ => bad(format!("columns {at} + {n_cols} are not within {}", shape(*x).n_cols)),
            },
            Op::Concat { parts } => {
                let Some(first) = parts.first() else { return bad("has no parts".into()) };
                let rows = shape(*first).rows;
                if parts.iter().any(|part| shape(*part).rows != rows) {
                    return bad("the parts' rows differ".into());
                }
                match parts.iter().try_fold(0u32, |sum, part| sum.checked_add(shape(*part).n_cols)) {
                    Some(n_cols) => Ok(Shape { rows, n_cols }),
                    None => bad("the parts have more than 2^32 columns".into()),
                }
            }
            Op::GatherRows { x } => match shape(*x).rows {
                Dim::Tokens => Ok(Shape { rows: Dim::Rows, ..shape(*x) }),
                _ => bad("takes rows of tokens".into()),
            },
            Op::Argmax { x } => Ok(Shape { n_cols: 1, ..shape(*x) }),
            Op::MoeRoute { .. } | Op::MoeLinear { .. } | Op::MoeSum { .. } => self.infer_moe(op).or_else(bad),
        }
    }
}
