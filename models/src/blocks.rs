//! What the architectures share: plain functions that append to the graph being built.

mod experts;

pub(crate) use experts::stack_path;

use crate::config::{HiddenAct, ModelSpec, RopeSpec};
use crate::error::{Error, Result};
use crate::formats::safetensors::StoredType;
use crate::rope;
use crate::weights::WeightTable;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kv::{KvShape, Window};
use ingot_ir::weight::{Format, Layout, Source, Weight, WeightId};
use std::collections::BTreeSet;

/// A graph being built from a checkpoint.
pub(crate) struct Lowering<'a> {
    graph: Graph,
    weights: WeightTable<'a>,
    /// Tensors of the checkpoint that no op uses yet.
    unused: BTreeSet<&'a str>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(name: String, weights: WeightTable<'a>) -> Self {
        Self { graph: Graph::new(name), weights, unused: weights.checkpoint().names().collect() }
    }

    /// The finished graph, if it used all tensors.
    pub(crate) fn finish(self) -> Result<Graph> {
        if let Some(name) = self.unused.first() {
            let what = format!(
                "is not used by the architecture (nor are {} others); does config.json belong to these weights?",
                self.unused.len() - 1
            );
            return Err(Error::tensor(self.weights.checkpoint().folder(), *name, what));
        }
        self.graph.verify()?;
        Ok(self.graph)
    }

    /// Tensors that may be there without being used.
    pub(crate) fn ignore(&mut self, may_ignore: impl Fn(&str) -> bool) {
        self.unused.retain(|name| !may_ignore(name));
    }

    pub(crate) fn push(&mut self, op: Op) -> Result<ValueId> {
        Ok(self.graph.push(op)?)
    }

    /// Columns of a value.
    fn n_cols(&self, value: ValueId) -> u32 {
        self.graph.values[value].shape.n_cols
    }

    fn weight(&mut self, n_rows: u32, n_cols: u32, format: Format, layout: Layout, source: Source) -> WeightId {
        self.graph.weights.push(Weight { n_rows, n_cols, format, layout, source })
    }

    /// The matrix at a module's path.
    pub(crate) fn matrix(&mut self, path: &str, n_rows: u32, n_cols: u32) -> Result<WeightId> {
        let format = self.weights.matrix(path, n_rows as usize, n_cols as usize)?.format();
        if !format.takes_cols(n_cols) {
            let what = format!(
                "{n_cols} columns stored as {format} are not supported; f16 and bf16 need an even number, and codes whole groups"
            );
            return Err(Error::tensor(self.weights.checkpoint().folder(), format!("{path}.weight"), what));
        }
        for ending in ["weight", "scales", "biases", "global_scale"] {
            self.unused.remove(format!("{path}.{ending}").as_str());
        }
        Ok(self.weight(n_rows, n_cols, format, Layout::Unassigned, Source::Tensor(path.to_owned())))
    }

    /// The vector of that name, widened to f32 when it is loaded.
    pub(crate) fn vector(&mut self, name: &str, len: u32) -> Result<WeightId> {
        let format = match self.weights.vector(name, len as usize)?.stored {
            StoredType::F16 => Format::F16,
            StoredType::Bf16 => Format::Bf16,
            _ => Format::F32,
        };
        self.unused.remove(name);
        Ok(self.weight(len, 1, format, Layout::Vector, Source::Tensor(name.to_owned())))
    }

    /// A vector of numbers made here.
    pub(crate) fn inline(&mut self, numbers: Vec<f32>) -> WeightId {
        self.weight(numbers.len() as u32, 1, Format::F32, Layout::Vector, Source::Inline(numbers))
    }
}

/// A norm's weight as a checkpoint keeps it.
#[derive(Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) eps: f32,
    /// Whether the tensor holds how far the weight is from 1.
    pub(crate) plus_one: bool,
}

/// Normalizes rows, or each run of `n` columns by itself; `name` is the weight's tensor.
fn norm_runs(to: &mut Lowering<'_>, x: ValueId, name: &str, n: u32, norm: Norm) -> Result<ValueId> {
    let mut weight = to.vector(name, n)?;
    if norm.plus_one {
        let Weight { n_rows, n_cols, format, layout, .. } = to.graph.weights[weight];
        weight = to.weight(n_rows, n_cols, format, layout, Source::OnePlus(weight));
    }
    to.push(Op::RmsNorm { x, weight, eps: norm.eps })
}

/// Normalizes rows.
pub(crate) fn rms_norm(to: &mut Lowering<'_>, x: ValueId, name: &str, norm: Norm) -> Result<ValueId> {
    norm_runs(to, x, name, to.n_cols(x), norm)
}

/// `x * by`, unless that is `x`.
fn scaled(to: &mut Lowering<'_>, x: ValueId, by: f32) -> Result<ValueId> {
    if by == 1.0 { Ok(x) } else { to.push(Op::Scale { x, by }) }
}

/// The linear layer at `path`.
pub(crate) fn linear(to: &mut Lowering<'_>, x: ValueId, path: &str, n_out: u32, has_bias: bool) -> Result<ValueId> {
    let weight = to.matrix(path, n_out, to.n_cols(x))?;
    let bias = if has_bias { Some(to.vector(&format!("{path}.bias"), n_out)?) } else { None };
    to.push(Op::Linear { x, weight, bias })
}

/// What a decoder has that Llama's usually lacks.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extras {
    /// Biases of q, k and v.
    pub(crate) qkv_bias: bool,
    /// A bias of the attention's output.
    pub(crate) out_bias: bool,
    /// Biases of gate, up and down.
    pub(crate) mlp_bias: bool,
    /// Norms of the heads of q and k before they are rotated.
    pub(crate) head_norms: bool,
    /// Norms of what attention and MLP add to the stream.
    pub(crate) post_norms: bool,
    /// Whether tensors of norms hold how far the weight is from 1.
    pub(crate) norms_plus_one: bool,
}

/// A whole model as Llama and its relatives are: in each layer a norm before attention and one before the gated MLP, both
/// added to the stream; a norm and the head at the end. Tensors have the names of transformers; those of a model that sees
/// or hears too are left where they are.
pub(crate) fn decoder(spec: &ModelSpec, to: &mut Lowering<'_>, extras: Extras) -> Result<()> {
    let norm = Norm { eps: spec.rms_norm_eps, plus_one: extras.norms_plus_one };
    let root = root(to);
    let embedding = to.matrix(&format!("{root}.embed_tokens"), spec.vocab_size, spec.hidden_size)?;
    let full = Rotation::new(spec, &spec.rope, to);
    let local = if spec.local_rope == spec.rope { full } else { Rotation::new(spec, &spec.local_rope, to) };
    let embedded = to.push(Op::Embed { parts: vec![embedding] })?;
    let mut x = scaled(to, embedded, spec.scales.embedding)?;
    for (layer, &window) in spec.windows.iter().enumerate() {
        let path = format!("{root}.layers.{layer}");
        let rotation = if window == Window::FULL { full } else { local };
        let block = AttentionBlock { rotation, extras, norm, window };
        // With norms on both sides the one before the MLP has another name.
        let (after, before_mlp) = match extras.post_norms {
            true => (Some("post_attention_layernorm"), "pre_feedforward_layernorm"),
            false => (None, "post_attention_layernorm"),
        };
        let normed = rms_norm(to, x, &format!("{path}.input_layernorm.weight"), norm)?;
        let attended = attention(spec, to, normed, &format!("{path}.self_attn"), &block)?;
        x = add(to, x, attended, after.map(|name| (format!("{path}.{name}.weight"), norm)), spec.scales.residual)?;
        let normed = rms_norm(to, x, &format!("{path}.{before_mlp}.weight"), norm)?;
        let mixed = match &spec.experts {
            Some(mixture) if mixture.layers[layer] => experts::mixture(to, normed, &path, spec.architecture, mixture)?,
            _ => gated_mlp(to, normed, &format!("{path}.mlp"), spec, extras.mlp_bias)?,
        };
        let after = extras.post_norms.then(|| (format!("{path}.post_feedforward_layernorm.weight"), norm));
        x = add(to, x, mixed, after, spec.scales.residual)?;
    }
    let normed = rms_norm(to, x, &format!("{root}.norm.weight"), norm)?;
    // Old conversions stored the frequencies, which are computed here.
    to.ignore(|name| name.ends_with(".rotary_emb.inv_freq"));
    let path = if root == WITHIN[0] { "language_model.lm_head" } else { "lm_head" };
    head(spec, to, path, normed, embedding)?;
    if root != PLAIN_ROOT {
        to.ignore(|name| !name.starts_with(&format!("{root}.")));
    }
    Ok(())
}

/// Where a language model's tensors are.
const PLAIN_ROOT: &str = "model";

/// Where they are in a model that does more; in the first form the head is within too.
const WITHIN: [&str; 2] = ["language_model.model", "model.language_model"];

/// The path of the decoder: that of a language model, or of one within a model that does more.
fn root(to: &Lowering<'_>) -> &'static str {
    let has = |root: &&str| to.weights.has(&format!("{root}.embed_tokens"));
    WITHIN.into_iter().find(has).unwrap_or(PLAIN_ROOT)
}

/// The stream and what a block adds to it, normed and times a factor.
fn add(
    to: &mut Lowering<'_>,
    x: ValueId,
    mut added: ValueId,
    norm: Option<(String, Norm)>,
    factor: f32,
) -> Result<ValueId> {
    if let Some((name, norm)) = norm {
        added = rms_norm(to, added, &name, norm)?;
    }
    let added = scaled(to, added, factor)?;
    to.push(Op::Add { a: x, b: added })
}

/// How queries and keys are rotated.
#[derive(Clone, Copy)]
pub(crate) struct Rotation {
    /// `[head_dim / 2, 1]`.
    freqs: WeightId,
    /// Factor on cos and sin.
    scale: f32,
}

impl Rotation {
    fn new(spec: &ModelSpec, rope: &RopeSpec, to: &mut Lowering<'_>) -> Self {
        Self { freqs: to.inline(rope::inv_freq(rope, spec.head_dim)), scale: rope::scale(rope) }
    }
}

/// What a layer's attention is made of.
pub(crate) struct AttentionBlock {
    pub(crate) rotation: Rotation,
    pub(crate) extras: Extras,
    /// Norms of heads.
    pub(crate) norm: Norm,
    pub(crate) window: Window,
}

/// Projections, norms of heads, rotation, cache, attention and output projection; adds a layer to the cache.
pub(crate) fn attention(
    spec: &ModelSpec,
    to: &mut Lowering<'_>,
    x: ValueId,
    path: &str,
    block: &AttentionBlock,
) -> Result<ValueId> {
    let &AttentionBlock { rotation, extras, norm, window } = block;
    let &ModelSpec { n_heads, n_kv_heads, head_dim, .. } = spec;
    let n_out = to.n_cols(x);
    let mut q = linear(to, x, &format!("{path}.q_proj"), n_heads * head_dim, extras.qkv_bias)?;
    let mut k = linear(to, x, &format!("{path}.k_proj"), n_kv_heads * head_dim, extras.qkv_bias)?;
    let v = linear(to, x, &format!("{path}.v_proj"), n_kv_heads * head_dim, extras.qkv_bias)?;
    if extras.head_norms {
        q = norm_runs(to, q, &format!("{path}.q_norm.weight"), head_dim, norm)?;
        k = norm_runs(to, k, &format!("{path}.k_norm.weight"), head_dim, norm)?;
    }
    let Rotation { freqs, scale } = rotation;
    let rope = |x, n_heads| Op::Rope { x, freqs, n_heads, head_dim, rot_dim: head_dim, scale, neighbours: false };
    let q = to.push(rope(q, n_heads))?;
    let k = to.push(rope(k, n_kv_heads))?;
    let layer = to.graph.kv.add_layer(KvShape { n_kv_heads, k_dim: head_dim, v_dim: head_dim, latent: false }, window);
    let kv = to.push(Op::KvWrite { k, v: Some(v), layer })?;
    let (scale, softcap) = (spec.scales.attention, spec.scales.attention_cap);
    let attended = to.push(Op::Attention { q, kv, layer, n_heads, scale, softcap, window })?;
    linear(to, attended, &format!("{path}.o_proj"), n_out, extras.out_bias)
}

/// `down(act(gate(x)) * up(x))`.
pub(crate) fn gated_mlp(
    to: &mut Lowering<'_>,
    x: ValueId,
    path: &str,
    spec: &ModelSpec,
    has_bias: bool,
) -> Result<ValueId> {
    let (n_inner, n_out) = (spec.intermediate_size, to.n_cols(x));
    let gate = linear(to, x, &format!("{path}.gate_proj"), n_inner, has_bias)?;
    let up = linear(to, x, &format!("{path}.up_proj"), n_inner, has_bias)?;
    let gate = to.push(match spec.hidden_act {
        HiddenAct::Silu => Op::Silu { x: gate },
        HiddenAct::Gelu => Op::Gelu { x: gate },
    })?;
    let inner = to.push(Op::Mul { a: gate, b: up })?;
    linear(to, inner, &format!("{path}.down_proj"), n_out, has_bias)
}

/// Logits of the wanted rows and their greatest, the graph's outputs. A tied head is the embedding; where the
/// configuration is silent a checkpoint without a head is tied.
fn head(spec: &ModelSpec, to: &mut Lowering<'_>, path: &str, x: ValueId, embedding: WeightId) -> Result<()> {
    let logits = if spec.tie_word_embeddings.unwrap_or(!to.weights.has(path)) {
        // A copy of the embedding that some checkpoints keep.
        let prefix = format!("{path}.");
        to.ignore(|name| name.starts_with(&prefix));
        to.push(Op::Linear { x, weight: embedding, bias: None })?
    } else {
        linear(to, x, path, spec.vocab_size, false)?
    };
    let mut logits = scaled(to, logits, spec.scales.logits)?;
    if spec.scales.logit_cap > 0.0 {
        logits = to.push(Op::Softcap { x: logits, cap: spec.scales.logit_cap })?;
    }
    let ids = to.push(Op::Argmax { x: logits })?;
    to.graph.outputs = vec![logits, ids];
    Ok(())
}
