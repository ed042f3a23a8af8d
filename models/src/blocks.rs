//! What the architectures share: plain functions that append to the graph being built.

mod experts;

pub(crate) use experts::stack_path;

use crate::config::ModelSpec;
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

/// Normalizes rows; `name` is the weight's tensor.
pub(crate) fn rms_norm(to: &mut Lowering<'_>, x: ValueId, name: &str, eps: f32) -> Result<ValueId> {
    let weight = to.vector(name, to.n_cols(x))?;
    to.push(Op::RmsNorm { x, weight, eps })
}

/// Normalizes each head of `head_dim` columns by itself.
fn head_norm(to: &mut Lowering<'_>, x: ValueId, name: &str, head_dim: u32, eps: f32) -> Result<ValueId> {
    let weight = to.vector(name, head_dim)?;
    to.push(Op::RmsNorm { x, weight, eps })
}

/// The linear layer at `path`.
pub(crate) fn linear(to: &mut Lowering<'_>, x: ValueId, path: &str, n_out: u32, has_bias: bool) -> Result<ValueId> {
    let weight = to.matrix(path, n_out, to.n_cols(x))?;
    let bias = if has_bias { Some(to.vector(&format!("{path}.bias"), n_out)?) } else { None };
    to.push(Op::Linear { x, weight, bias })
}

/// What the layers of a decoder have that Llama's usually lack.
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
}

/// A whole model as Llama and its relatives are: in each layer a norm before attention and one before the gated MLP, both
/// added to the stream; a norm and the head at the end. Tensors have the names of transformers.
pub(crate) fn decoder(spec: &ModelSpec, to: &mut Lowering<'_>, extras: Extras) -> Result<()> {
    let (hidden, eps) = (spec.hidden_size, spec.rms_norm_eps);
    let embedding = to.matrix("model.embed_tokens", spec.vocab_size, hidden)?;
    let freqs = to.inline(rope::inv_freq(&spec.rope, spec.head_dim));
    let mut x = to.push(Op::Embed { parts: vec![embedding] })?;
    for (layer, &window) in spec.windows.iter().enumerate() {
        let path = format!("model.layers.{layer}");
        let block = AttentionBlock {
            n_heads: spec.n_heads,
            n_kv_heads: spec.n_kv_heads,
            head_dim: spec.head_dim,
            freqs,
            rope_scale: rope::scale(&spec.rope),
            extras,
            eps,
            window,
        };
        let normed = rms_norm(to, x, &format!("{path}.input_layernorm.weight"), eps)?;
        let attended = attention(to, normed, &format!("{path}.self_attn"), &block)?;
        x = to.push(Op::Add { a: x, b: attended })?;
        let normed = rms_norm(to, x, &format!("{path}.post_attention_layernorm.weight"), eps)?;
        let mixed = match &spec.experts {
            Some(mixture) if mixture.layers[layer] => experts::mixture(to, normed, &path, spec.architecture, mixture)?,
            _ => gated_mlp(to, normed, &format!("{path}.mlp"), spec.intermediate_size, extras.mlp_bias)?,
        };
        x = to.push(Op::Add { a: x, b: mixed })?;
    }
    let normed = rms_norm(to, x, "model.norm.weight", eps)?;
    // Old conversions stored the frequencies, which are computed here.
    to.ignore(|name| name.ends_with(".rotary_emb.inv_freq"));
    head(to, normed, "lm_head", embedding, spec.vocab_size, spec.tie_word_embeddings)
}

/// What a layer's attention is made of.
pub(crate) struct AttentionBlock {
    pub(crate) n_heads: u32,
    pub(crate) n_kv_heads: u32,
    pub(crate) head_dim: u32,
    /// `[head_dim / 2, 1]`.
    pub(crate) freqs: WeightId,
    /// Factor on the rotation's cos and sin.
    pub(crate) rope_scale: f32,
    pub(crate) extras: Extras,
    /// Epsilon of the norms of heads.
    pub(crate) eps: f32,
    pub(crate) window: Window,
}

/// Projections, norms of heads, rotation, cache, attention and output projection; adds a layer to the cache.
pub(crate) fn attention(to: &mut Lowering<'_>, x: ValueId, path: &str, block: &AttentionBlock) -> Result<ValueId> {
    let &AttentionBlock { n_heads, n_kv_heads, head_dim, freqs, rope_scale, extras, eps, window } = block;
    let n_out = to.n_cols(x);
    let mut q = linear(to, x, &format!("{path}.q_proj"), n_heads * head_dim, extras.qkv_bias)?;
    let mut k = linear(to, x, &format!("{path}.k_proj"), n_kv_heads * head_dim, extras.qkv_bias)?;
    let v = linear(to, x, &format!("{path}.v_proj"), n_kv_heads * head_dim, extras.qkv_bias)?;
    if extras.head_norms {
        q = head_norm(to, q, &format!("{path}.q_norm.weight"), head_dim, eps)?;
        k = head_norm(to, k, &format!("{path}.k_norm.weight"), head_dim, eps)?;
    }
    let rope =
        |x, n_heads| Op::Rope { x, freqs, n_heads, head_dim, rot_dim: head_dim, scale: rope_scale, neighbours: false };
    let q = to.push(rope(q, n_heads))?;
    let k = to.push(rope(k, n_kv_heads))?;
    let layer = to.graph.kv.add_layer(KvShape { n_kv_heads, k_dim: head_dim, v_dim: head_dim, latent: false }, window);
    let kv = to.push(Op::KvWrite { k, v: Some(v), layer })?;
    let scale = (f64::from(head_dim).sqrt().recip()) as f32;
    let attended = to.push(Op::Attention { q, kv, layer, n_heads, scale, softcap: 0.0, window })?;
    linear(to, attended, &format!("{path}.o_proj"), n_out, extras.out_bias)
}

/// `down(silu(gate(x)) * up(x))`.
pub(crate) fn gated_mlp(
    to: &mut Lowering<'_>,
    x: ValueId,
    path: &str,
    n_inner: u32,
    has_bias: bool,
) -> Result<ValueId> {
    let n_out = to.n_cols(x);
    let gate = linear(to, x, &format!("{path}.gate_proj"), n_inner, has_bias)?;
    let up = linear(to, x, &format!("{path}.up_proj"), n_inner, has_bias)?;
    let gate = to.push(Op::Silu { x: gate })?;
    let inner = to.push(Op::Mul { a: gate, b: up })?;
    linear(to, inner, &format!("{path}.down_proj"), n_out, has_bias)
}

/// Logits of the wanted rows and their greatest, the graph's outputs. A tied head is the embedding; where the
/// configuration is silent (`tied` is `None`) a checkpoint without a head is tied.
pub(crate) fn head(
    to: &mut Lowering<'_>,
    x: ValueId,
    path: &str,
    embedding: WeightId,
    vocab_size: u32,
    tied: Option<bool>,
) -> Result<()> {
    let logits = if tied.unwrap_or(!to.weights.has(path)) {
        // A copy of the embedding that some checkpoints keep.
        let prefix = format!("{path}.");
        to.ignore(|name| name.starts_with(&prefix));
        to.push(Op::Linear { x, weight: embedding, bias: None })?
    } else {
        linear(to, x, path, vocab_size, false)?
    };
    let ids = to.push(Op::Argmax { x: logits })?;
    to.graph.outputs = vec![logits, ids];
    Ok(())
}
