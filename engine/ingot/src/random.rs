//! Models of known shapes with random weights, made on the spot: what a speed measurement needs and no download.

use crate::Error;
use ingot_compiler::repack::TensorBytes;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kv::{KvShape, Window};
use ingot_ir::weight::{Format, Layout, ScaleType, Source, Weight, WeightId};
use std::collections::BTreeMap;

/// The shape of a Llama.
#[derive(Clone, PartialEq, Debug)]
pub struct RandomShape {
    /// Name, e.g. `llama-8b`.
    pub name: &'static str,
    /// Width.
    pub hidden: u32,
    /// Layers.
    pub n_layers: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Numbers a head.
    pub head_dim: u32,
    /// Width of the MLP.
    pub intermediate: u32,
    /// Vocabulary.
    pub n_vocab: u32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Longest context.
    pub max_context: u32,
    /// Format of every matrix.
    pub format: Format,
}

const AFFINE4: Format = Format::Affine { bits: 4, group: 64, scales: ScaleType::F16 };

/// The published shapes: SmolLM2 135M, Llama 3.2 1B, Llama 3.1 8B and 70B.
const SHAPES: &[RandomShape] = &[
    RandomShape {
        name: "smollm2-135m",
        hidden: 576,
        n_layers: 30,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        intermediate: 1536,
        n_vocab: 49_152,
        tied: true,
        max_context: 8192,
        format: AFFINE4,
    },
    RandomShape {
        name: "llama-1b",
        hidden: 2048,
        n_layers: 16,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        intermediate: 8192,
        n_vocab: 128_256,
        tied: true,
        max_context: 131_072,
        format: AFFINE4,
    },
    RandomShape {
        name: "llama-8b",
        hidden: 4096,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 128,
        intermediate: 14_336,
        n_vocab: 128_256,
        tied: false,
        max_context: 131_072,
        format: AFFINE4,
    },
    RandomShape {
        name: "llama-70b",
        hidden: 8192,
        n_layers: 80,
        n_heads: 64,
        n_kv_heads: 8,
        head_dim: 128,
        intermediate: 28_672,
        n_vocab: 128_256,
        tied: false,
        max_context: 131_072,
        format: AFFINE4,
    },
];

impl RandomShape {
    /// A known shape, 4-bit affine with group 64 unless changed.
    pub fn named(name: &str) -> Result<Self, Error> {
        let known = || SHAPES.iter().map(|shape| shape.name).collect::<Vec<_>>().join(", ");
        let found = SHAPES.iter().find(|shape| shape.name == name).cloned();
        found.ok_or_else(|| Error::UnknownShape { found: name.into(), known: known() })
    }

    /// The op graph, as `ingot-models` would build it from a checkpoint of this shape.
    pub fn graph(&self) -> Graph {
        let mut graph = Graph::new(format!("{} with random weights", self.name));
        match self.build(&mut graph) {
            Ok(outputs) => graph.outputs = outputs,
            Err(error) => unreachable!("a known shape is right: {error}"),
        }
        graph
    }

    fn build(&self, graph: &mut Graph) -> Result<Vec<ValueId>, ingot_ir::IrError> {
        let Self { hidden, intermediate, n_heads, n_kv_heads, head_dim, n_vocab, .. } = *self;
        let eps = 1e-5;
        let mut n_tensors = 0;
        let mut tensor = |graph: &mut Graph, n_rows: u32, n_cols: u32| {
            let format = if n_cols == 1 { Format::F32 } else { self.format };
            n_tensors += 1;
            // RandomWeights tells vectors from matrices by their names.
            let source = Source::Tensor(format!("{}{n_tensors}", if n_cols == 1 { "n" } else { "t" }));
            graph.weights.push(Weight { n_rows, n_cols, format, layout: Layout::Unassigned, source })
        };
        let freqs: Vec<f32> = (0..head_dim / 2).map(|i| 500_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
        let table = tensor(graph, n_vocab, hidden);
        let source = Source::Inline(freqs);
        let freqs = graph.weights.push(Weight {
            n_rows: head_dim / 2,
            n_cols: 1,
            format: Format::F32,
            layout: Layout::Vector,
            source,
        });
        let mut x = graph.push(Op::Embed { parts: vec![table] })?;
        let linear = |graph: &mut Graph, x: ValueId, weight: WeightId| graph.push(Op::Linear { x, weight, bias: None });
        for _ in 0..self.n_layers {
            let weight = tensor(graph, hidden, 1);
            let normed = graph.push(Op::RmsNorm { x, weight, eps })?;
            let (q, k, v) = (
                tensor(graph, n_heads * head_dim, hidden),
                tensor(graph, n_kv_heads * head_dim, hidden),
                tensor(graph, n_kv_heads * head_dim, hidden),
            );
            let (q, k, v) = (linear(graph, normed, q)?, linear(graph, normed, k)?, linear(graph, normed, v)?);
            let rope =
                |x, n_heads| Op::Rope { x, freqs, n_heads, head_dim, rot_dim: head_dim, scale: 1.0, neighbours: false };
            let q = graph.push(rope(q, n_heads))?;
            let k = graph.push(rope(k, n_kv_heads))?;
            let layer = graph
                .kv
                .add_layer(KvShape { n_kv_heads, k_dim: head_dim, v_dim: head_dim, latent: false }, Window::FULL);
            let kv = graph.push(Op::KvWrite { k, v: Some(v), layer })?;
            let scale = 1.0 / (head_dim as f32).sqrt();
            let attended =
                graph.push(Op::Attention { q, kv, layer, n_heads, scale, softcap: 0.0, window: Window::FULL })?;
            let o = tensor(graph, hidden, n_heads * head_dim);
            let o = linear(graph, attended, o)?;
            x = graph.push(Op::Add { a: x, b: o })?;
            let weight = tensor(graph, hidden, 1);
            let normed = graph.push(Op::RmsNorm { x, weight, eps })?;
            let (gate, up) = (tensor(graph, intermediate, hidden), tensor(graph, intermediate, hidden));
            let (gate, up) = (linear(graph, normed, gate)?, linear(graph, normed, up)?);
            let gate = graph.push(Op::Silu { x: gate })?;
            let product = graph.push(Op::Mul { a: gate, b: up })?;
            let down = tensor(graph, hidden, intermediate);
            let down = linear(graph, product, down)?;
            x = graph.push(Op::Add { a: x, b: down })?;
        }
        let weight = tensor(graph, hidden, 1);
        let normed = graph.push(Op::RmsNorm { x, weight, eps })?;
        let head = if self.tied { table } else { tensor(graph, n_vocab, hidden) };
        let logits = linear(graph, normed, head)?;
        let sampled = graph.push(Op::Argmax { x: logits })?;
        Ok(vec![logits, sampled])
    }
}

/// Blocks of made-up bytes that tensors are cut from: real data for the device, no memory for a whole checkpoint. Equal
/// shapes are equal bytes.
pub(crate) struct RandomWeights {
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    ones: Vec<u8>,
    /// By a tensor's name.
    places: BTreeMap<String, Place>,
}

/// Where a tensor is cut from its blocks.
struct Place {
    values_at: usize,
    n_values: usize,
    scales_at: usize,
    n_scales: usize,
}

impl RandomWeights {
    /// Bytes for the largest tensor of a graph.
    pub(crate) fn new(graph: &Graph) -> Self {
        let mut places = BTreeMap::new();
        let (mut codes, mut scales, mut ones) = (0, 0, 0);
        for weight in graph.weights.as_slice() {
            let Source::Tensor(name) = &weight.source else { continue };
            let n = u64::from(weight.n_rows) * u64::from(weight.n_cols);
            let (values, n_scales) = match weight.format {
                Format::Affine { bits, group, .. } => (n * u64::from(bits) / 8, n / u64::from(group)),
                format => (u64::from(weight.n_rows) * format.row_bytes(weight.n_cols), 0),
            };
            let (n_values, n_scales) = (values as usize, n_scales as usize);
            let n_scale_bytes = n_scales * SCALE_BYTES;
            places.insert(name.clone(), Place { values_at: 0, n_values, scales_at: 0, n_scales: n_scale_bytes });
            let most = if weight.n_cols == 1 { &mut ones } else { &mut codes };
            *most = usize::max(*most, n_values);
            scales = scales.max(n_scales);
        }
        // A 64-bit linear congruential generator (Knuth's MMIX numbers), eight bytes a step.
        let mut state = 0x1234_5678_9abc_def0u64;
        let mut bytes = Vec::with_capacity(codes + 8);
        while bytes.len() < codes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
        }
        // Codes 0..15 become roughly -0.03 .. 0.03 with scale 2^-8 (f16 0x1c00) and bias -7.5 * 2^-8 (f16 0xa780).
        let biases = 0xa780u16.to_le_bytes().repeat(scales);
        let scales = 0x1c00u16.to_le_bytes().repeat(scales);
        Self { codes: bytes, scales, biases, ones: 1f32.to_le_bytes().repeat(ones / 4), places }
    }

    /// Gives every tensor memory of its own, for a device that reads it where it is: tensors that share theirs would
    /// come from a cache that holds no real model. What a tensor holds stays as it was.
    pub(crate) fn spread(&mut self) {
        let align = |n: usize| n.next_multiple_of(64);
        let (mut n_codes, mut n_scales) = (0, 0);
        let is_matrix = |name: &str| !name.starts_with('n');
        for (_, place) in self.places.iter_mut().filter(|(name, _)| is_matrix(name)) {
            (place.values_at, place.scales_at) = (n_codes, n_scales);
            n_codes += align(place.n_values);
            n_scales += align(place.n_scales);
        }
        let blocks = [
            std::mem::replace(&mut self.codes, vec![0; n_codes]),
            std::mem::replace(&mut self.scales, vec![0; n_scales]),
            std::mem::replace(&mut self.biases, vec![0; n_scales]),
        ];
        for (_, place) in self.places.iter().filter(|(name, _)| is_matrix(name)) {
            let copy = |to: &mut [u8], at: usize, n: usize, from: &[u8]| to[at..at + n].copy_from_slice(&from[..n]);
            copy(&mut self.codes, place.values_at, place.n_values, &blocks[0]);
            copy(&mut self.scales, place.scales_at, place.n_scales, &blocks[1]);
            copy(&mut self.biases, place.scales_at, place.n_scales, &blocks[2]);
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<TensorBytes<'_>> {
        let place = self.places.get(name)?;
        let block = if name.starts_with('n') { &self.ones } else { &self.codes };
        Some(TensorBytes {
            values: &block[place.values_at..][..place.n_values],
            scales: &self.scales[place.scales_at..][..place.n_scales],
            biases: &self.biases[place.scales_at..][..place.n_scales],
            global: &[],
        })
    }
}

/// Bytes of a scale of the known shapes' formats.
const SCALE_BYTES: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_tensors_hold_what_they_held_and_share_nothing() {
        let shape = RandomShape { n_layers: 2, n_vocab: 128, ..SHAPES[0].clone() };
        let graph = shape.graph();
        let (before, mut after) = (RandomWeights::new(&graph), RandomWeights::new(&graph));
        after.spread();
        let mut spans = Vec::new();
        for name in before.places.keys() {
            let (a, b) = (before.find(name).unwrap(), after.find(name).unwrap());
            assert!(a.values == b.values && a.scales == b.scales && a.biases == b.biases, "{name}");
            if !name.starts_with('n') {
                spans.push((b.values.as_ptr() as usize, b.values.len()));
            }
        }
        spans.sort_unstable();
        assert!(spans.len() > 10 && spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
    }
}
