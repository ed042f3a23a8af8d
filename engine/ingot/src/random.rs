//! Models of known shapes with random weights, made on the spot: what a speed measurement needs and no download.

use crate::Error;
use half::{bf16, f16};
use ingot_compiler::repack::TensorBytes;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kv::{KvShape, Window};
use ingot_ir::weight::{Format, KFormat, Layout, ScaleType, Source, Weight, WeightId};
use std::collections::BTreeMap;

/// The shape of a Llama, or of a relative with norms of heads or a mixture of experts.
///
/// ```
/// use ingot::RandomShape;
///
/// // Llama 3.2 1B with half as many layers.
/// let shape = RandomShape { n_layers: 8, ..RandomShape::named("llama-1b")? };
/// assert_eq!((shape.hidden, shape.n_heads * shape.head_dim), (2048, 2048));
/// # Ok::<(), ingot::Error>(())
/// ```
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
    /// Width of the MLP, of a mixture of each expert's.
    pub intermediate: u32,
    /// The mixture that each layer has in place of the MLP.
    pub experts: Option<RandomExperts>,
    /// Whether the heads of queries and keys are normed before they are rotated.
    pub head_norms: bool,
    /// Vocabulary.
    pub n_vocab: u32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Longest context.
    pub max_context: u32,
    /// Format of every matrix.
    pub format: Format,
}

/// A mixture of experts. Shares of those that a token takes add up to 1.
///
/// ```
/// use ingot::{RandomExperts, RandomShape};
///
/// // Qwen3 30B A3B with fewer and wider experts.
/// let experts = Some(RandomExperts { n_experts: 16, n_active: 2 });
/// let shape = RandomShape { experts, intermediate: 3072, ..RandomShape::named("qwen3-30b-a3b")? };
/// assert!(shape.graph()?.verify().is_ok());
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RandomExperts {
    /// Experts of a layer.
    pub n_experts: u32,
    /// Experts that a token takes.
    pub n_active: u32,
}

const AFFINE4: Format = Format::Affine { bits: 4, group: 64, scales: ScaleType::F16 };

/// The published shapes: SmolLM2 135M, Llama 3.2 1B, Llama 3.1 8B and 70B, Qwen3 30B A3B.
const SHAPES: &[RandomShape] = &[
    RandomShape {
        name: "smollm2-135m",
        hidden: 576,
        n_layers: 30,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        intermediate: 1536,
        experts: None,
        head_norms: false,
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
        experts: None,
        head_norms: false,
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
        experts: None,
        head_norms: false,
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
        experts: None,
        head_norms: false,
        n_vocab: 128_256,
        tied: false,
        max_context: 131_072,
        format: AFFINE4,
    },
    RandomShape {
        name: "qwen3-30b-a3b",
        hidden: 2048,
        n_layers: 48,
        n_heads: 32,
        n_kv_heads: 4,
        head_dim: 128,
        intermediate: 768,
        experts: Some(RandomExperts { n_experts: 128, n_active: 8 }),
        head_norms: true,
        n_vocab: 151_936,
        tied: false,
        max_context: 40_960,
        format: AFFINE4,
    },
];

impl RandomShape {
    /// A known shape, 4-bit affine with group 64 unless a format follows its name: `llama-8b`, `llama-8b:mxfp4`,
    /// `llama-8b:affine8g64_f16`. Known are `smollm2-135m`, `llama-1b`, `llama-8b`, `llama-70b`
    /// and `qwen3-30b-a3b`.
    ///
    /// ```
    /// use ingot::{RandomShape, ir::weight::Format};
    ///
    /// assert_eq!(RandomShape::named("llama-8b:mxfp4")?.format, Format::Mxfp4);
    /// assert!(RandomShape::named("llama-9b").is_err_and(|error| error.to_string().contains("llama-8b")));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownShape`] and [`Error::UnknownFormat`], with what is known.
    pub fn named(name: &str) -> Result<Self, Error> {
        let known = || SHAPES.iter().map(|shape| shape.name).collect::<Vec<_>>().join(", ");
        let (shape, format) = name.split_once(':').map_or((name, None), |(shape, format)| (shape, Some(format)));
        let found = SHAPES.iter().find(|known| known.name == shape).cloned();
        let found = found.ok_or_else(|| Error::UnknownShape { found: shape.into(), known: known() })?;
        let Some(text) = format else { return Ok(found) };
        let fits = |format: &Format| [found.hidden, found.intermediate].iter().all(|n| format.takes_cols(*n));
        let format = Format::parse(text).filter(fits);
        let format = format.ok_or_else(|| Error::UnknownFormat { found: text.into(), shape: shape.into() })?;
        Ok(Self { format, ..found })
    }

    /// The op graph, as `ingot-models` would build it from a checkpoint of this shape.
    ///
    /// ```
    /// use ingot::RandomShape;
    ///
    /// let graph = RandomShape::named("llama-70b")?.graph()?;
    /// assert_eq!(graph.kv.layers.ids().len(), 80);
    /// assert!(RandomShape { hidden: 100, ..RandomShape::named("llama-70b")? }.graph().is_err(), "no whole groups of 64");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownFormat`] if the format's groups do not divide a matrix' rows; the representation's, for a shape that is none.
    pub fn graph(&self) -> Result<Graph, Error> {
        let widths = [self.hidden, self.intermediate, self.n_heads.saturating_mul(self.head_dim)];
        if !widths.into_iter().all(|n| n > 0 && self.format.takes_cols(n)) {
            return Err(Error::UnknownFormat { found: self.format.to_string(), shape: self.name.into() });
        }
        let mut graph = Graph::new(format!("{} with random weights", self.name));
        graph.outputs = self.build(&mut graph).map_err(ingot_models::Error::from)?;
        Ok(graph)
    }

    fn build(&self, graph: &mut Graph) -> Result<Vec<ValueId>, ingot_ir::IrError> {
        let Self { hidden, n_heads, n_kv_heads, head_dim, n_vocab, .. } = *self;
        let mut tensors = Tensors { format: self.format, n: 0 };
        let freqs: Vec<f32> = (0..head_dim / 2).map(|i| 500_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
        let table = tensors.next(graph, n_vocab, hidden);
        let source = Source::Inline(freqs);
        let freqs = graph.weights.push(Weight {
            n_rows: head_dim / 2,
            n_cols: 1,
            format: Format::F32,
            layout: Layout::Vector,
            source,
        });
        let mut x = graph.push(Op::Embed { parts: vec![table] })?;
        for _ in 0..self.n_layers {
            let normed = tensors.norm(graph, x, hidden)?;
            let mut q = tensors.linear(graph, normed, n_heads * head_dim)?;
            let mut k = tensors.linear(graph, normed, n_kv_heads * head_dim)?;
            let v = tensors.linear(graph, normed, n_kv_heads * head_dim)?;
            if self.head_norms {
                q = tensors.norm(graph, q, head_dim)?;
                k = tensors.norm(graph, k, head_dim)?;
            }
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
            let o = tensors.linear(graph, attended, hidden)?;
            x = graph.push(Op::Add { a: x, b: o })?;
            let normed = tensors.norm(graph, x, hidden)?;
            let added = self.mlp(graph, &mut tensors, normed)?;
            x = graph.push(Op::Add { a: x, b: added })?;
        }
        let normed = tensors.norm(graph, x, hidden)?;
        let logits = match self.tied {
            true => graph.push(Op::Linear { x: normed, weight: table, bias: None })?,
            false => tensors.linear(graph, normed, n_vocab)?,
        };
        let sampled = graph.push(Op::Argmax { x: logits })?;
        Ok(vec![logits, sampled])
    }

    /// The gated MLP, or a mixture of such.
    fn mlp(&self, graph: &mut Graph, tensors: &mut Tensors, x: ValueId) -> Result<ValueId, ingot_ir::IrError> {
        let Self { hidden, intermediate, .. } = *self;
        let route = match self.experts {
            None => None,
            Some(RandomExperts { n_experts, n_active }) => {
                let logits = tensors.linear(graph, x, n_experts)?;
                Some((graph.push(Op::MoeRoute { logits, k: n_active, renormalize: true })?, n_experts))
            }
        };
        let mut product = |graph: &mut Graph, x: ValueId, n_rows: u32, n_cols: u32| match route {
            None => tensors.linear(graph, x, n_rows),
            Some((route, n_experts)) => {
                let stack = tensors.next(graph, n_rows.saturating_mul(n_experts), n_cols);
                graph.push(Op::MoeLinear { x, route, parts: vec![stack], n_experts })
            }
        };
        let (gate, up) = (product(graph, x, intermediate, hidden)?, product(graph, x, intermediate, hidden)?);
        let gate = graph.push(Op::Silu { x: gate })?;
        let inner = graph.push(Op::Mul { a: gate, b: up })?;
        let down = product(graph, inner, hidden, intermediate)?;
        match route {
            None => Ok(down),
            Some((route, _)) => graph.push(Op::MoeSum { x: down, route }),
        }
    }
}

/// Makes a graph's tensors up: their names, each once.
struct Tensors {
    format: Format,
    n: u32,
}

impl Tensors {
    fn next(&mut self, graph: &mut Graph, n_rows: u32, n_cols: u32) -> WeightId {
        let format = if n_cols == 1 { Format::F32 } else { self.format };
        self.n += 1;
        // RandomWeights tells vectors from matrices by their names.
        let source = Source::Tensor(format!("{}{}", if n_cols == 1 { "n" } else { "t" }, self.n));
        graph.weights.push(Weight { n_rows, n_cols, format, layout: Layout::Unassigned, source })
    }

    fn linear(&mut self, graph: &mut Graph, x: ValueId, n_rows: u32) -> Result<ValueId, ingot_ir::IrError> {
        let weight = self.next(graph, n_rows, graph.values[x].shape.n_cols);
        graph.push(Op::Linear { x, weight, bias: None })
    }

    /// Norms runs of `n` columns.
    fn norm(&mut self, graph: &mut Graph, x: ValueId, n: u32) -> Result<ValueId, ingot_ir::IrError> {
        let weight = self.next(graph, n, 1);
        graph.push(Op::RmsNorm { x, weight, eps: 1e-5 })
    }
}

/// Blocks of made-up bytes that tensors are cut from: real data for the device, no memory for a whole checkpoint. Equal
/// shapes are equal bytes.
pub(crate) struct RandomWeights {
    codes: Vec<u8>,
    scales: Vec<u8>,
    /// As long as the scales, or empty.
    biases: Vec<u8>,
    ones: Vec<u8>,
    global: Vec<u8>,
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
    /// Bytes for the largest tensor of a graph whose matrices have one format.
    pub(crate) fn new(graph: &Graph) -> Self {
        let mut places = BTreeMap::new();
        let mut format = Format::F32;
        let (mut codes, mut scales, mut ones) = (0, 0, 0);
        for weight in graph.weights.as_slice() {
            let Source::Tensor(name) = &weight.source else { continue };
            let (n_rows, parts) = (u64::from(weight.n_rows), weight.format.row_parts(weight.n_cols));
            let (n_values, n_scales) = ((n_rows * parts.values) as usize, (n_rows * parts.scales) as usize);
            places.insert(name.clone(), Place { values_at: 0, n_values, scales_at: 0, n_scales });
            if weight.n_cols == 1 {
                ones = ones.max(n_values);
            } else {
                format = weight.format;
                (codes, scales) = (codes.max(n_values), scales.max(n_scales));
            }
        }
        // A 64-bit linear congruential generator (Knuth's MMIX numbers), eight bytes a step.
        let mut state = 0x1234_5678_9abc_def0u64;
        let mut bytes = Vec::with_capacity(codes + 8);
        let mask = small_numbers(format);
        while bytes.len() < codes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&((state ^ (state >> 29)) & mask).to_le_bytes());
        }
        let repeat = |unit: Vec<u8>, n: usize| if unit.is_empty() { unit } else { unit.repeat(n.div_ceil(unit.len())) };
        let (scale, bias) = scale_and_bias(format);
        let global = if format.has_global() { 1f32.to_le_bytes().to_vec() } else { Vec::new() };
        Self {
            codes: bytes,
            scales: repeat(scale, scales),
            biases: repeat(bias, scales),
            ones: 1f32.to_le_bytes().repeat(ones / 4),
            global,
            places,
        }
    }

    /// Gives every tensor memory of its own, for a device that reads it where it is: tensors that share theirs would
    /// come from a cache that holds no real model. What a tensor holds stays as it was.
    pub(crate) fn spread(&mut self) {
        let align = |n: usize| n.next_multiple_of(64);
        let (mut n_codes, mut n_scales) = (0, 0);
        let is_matrix = |name: &str| !name.starts_with('n');
        let has_biases = !self.biases.is_empty();
        for (_, place) in self.places.iter_mut().filter(|(name, _)| is_matrix(name)) {
            (place.values_at, place.scales_at) = (n_codes, n_scales);
            n_codes += align(place.n_values);
            n_scales += align(place.n_scales);
        }
        let blocks = [
            std::mem::replace(&mut self.codes, vec![0; n_codes]),
            std::mem::replace(&mut self.scales, vec![0; n_scales]),
            std::mem::replace(&mut self.biases, vec![0; if has_biases { n_scales } else { 0 }]),
        ];
        for (_, place) in self.places.iter().filter(|(name, _)| is_matrix(name)) {
            let copy = |to: &mut [u8], at: usize, n: usize, from: &[u8]| to[at..at + n].copy_from_slice(&from[..n]);
            copy(&mut self.codes, place.values_at, place.n_values, &blocks[0]);
            copy(&mut self.scales, place.scales_at, place.n_scales, &blocks[1]);
            if has_biases {
                copy(&mut self.biases, place.scales_at, place.n_scales, &blocks[2]);
            }
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<TensorBytes<'_>> {
        let place = self.places.get(name)?;
        let block = if name.starts_with('n') { &self.ones } else { &self.codes };
        Some(TensorBytes {
            values: &block[place.values_at..][..place.n_values],
            scales: &self.scales[place.scales_at..][..place.n_scales],
            biases: if self.biases.is_empty() { &[] } else { &self.biases[place.scales_at..][..place.n_scales] },
            global: &self.global,
        })
    }
}

/// The bits that random bytes of a format may set: what they make stays below 2^-7, or below 2 where scales follow, and
/// is never infinite.
fn small_numbers(format: Format) -> u64 {
    match format {
        Format::F32 => 0xbbff_ffff_bbff_ffff,
        Format::F16 => 0x9fff_9fff_9fff_9fff,
        Format::Bf16 => 0xbbff_bbff_bbff_bbff,
        Format::Mxfp8 => 0xbfbf_bfbf_bfbf_bfbf,
        Format::Affine { .. } | Format::Mxfp4 | Format::Nvfp4 { .. } | Format::K(_) => u64::MAX,
    }
}

/// The bytes that a format's scales repeat, and its biases: numbers of some hundredths, around zero.
fn scale_and_bias(format: Format) -> (Vec<u8>, Vec<u8>) {
    let of = |scales: ScaleType, number: f32| match scales {
        ScaleType::F16 => f16::from_f32(number).to_le_bytes().to_vec(),
        ScaleType::Bf16 => bf16::from_f32(number).to_le_bytes().to_vec(),
        ScaleType::F32 => number.to_le_bytes().to_vec(),
    };
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => (Vec::new(), Vec::new()),
        Format::Affine { bits, scales, .. } => {
            let most = f32::from((1u16 << bits) - 1);
            (of(scales, 0.0625 / most), of(scales, -0.03125))
        }
        // 2^-6, and 0.015625 as e4m3.
        Format::Mxfp4 | Format::Mxfp8 => (vec![121], Vec::new()),
        Format::Nvfp4 { .. } => (vec![8], Vec::new()),
        Format::K(k) => {
            // Small integers, then the one or two halves that they are multiples of.
            let n_halves = if k.header_bytes() > 2 { 2 } else { 1 };
            let mut header = vec![0x11; k.header_bytes() as usize - 2 * n_halves];
            header.extend(f16::from_f32(0.0005).to_le_bytes());
            if n_halves == 2 {
                let has_minimum = matches!(k, KFormat::Q2K | KFormat::Q4K | KFormat::Q5K);
                header.extend(f16::from_f32(if has_minimum { 0.002 } else { 0.0 }).to_le_bytes());
            }
            (header, Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_follow_names() {
        assert_eq!(RandomShape::named("llama-8b:mxfp4").unwrap().format, Format::Mxfp4);
        assert_eq!(RandomShape::named("llama-8b:q4_k").unwrap().format, Format::K(KFormat::Q4K));
        let error = |name| RandomShape::named(name).unwrap_err().to_string();
        assert!(error("llama-9b:mxfp4").contains("llama-8b"));
        assert!(error("llama-8b:q9").contains("`q9`"));
        // 576 columns are no whole blocks.
        assert!(error("smollm2-135m:q4_k").contains("smollm2-135m"));
    }

    #[test]
    fn shapes_have_as_many_parameters_as_the_published_models() {
        for (name, billions) in [("llama-1b", 1.24), ("llama-8b", 8.03), ("llama-70b", 70.55), ("qwen3-30b-a3b", 30.53)]
        {
            let graph = RandomShape::named(name).unwrap().graph().unwrap();
            graph.verify().unwrap();
            let tensors = graph.weights.as_slice().iter().filter(|weight| matches!(weight.source, Source::Tensor(_)));
            let n: u64 = tensors.map(|weight| u64::from(weight.n_rows) * u64::from(weight.n_cols)).sum();
            assert!((n as f64 / 1e9 - billions).abs() < 0.006, "{name}: {n}");
        }
    }

    #[test]
    fn spread_tensors_hold_what_they_held_and_share_nothing() {
        let shape = RandomShape { n_layers: 2, n_vocab: 128, ..SHAPES[0].clone() };
        let graph = shape.graph().unwrap();
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
