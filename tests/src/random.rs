//! Random small graphs and random ragged batches, as proptest strategies.

use crate::rng::Rng;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kv::{KvShape, Window};
use ingot_ir::step::StepTables;
use ingot_ir::weight::{Format, Layout, ScaleType, Source, Weight, WeightId};
use proptest::collection::vec;
use proptest::prelude::*;

/// Vocabulary of random graphs.
pub const VOCAB: u32 = 96;

/// What a random llama-like model looks like.
#[derive(Clone, PartialEq, Debug)]
pub struct Shape {
    /// Blocks.
    pub n_layers: u32,
    /// Query heads, a multiple of `n_kv_heads`.
    pub n_heads: u32,
    /// Heads of keys and values.
    pub n_kv_heads: u32,
    /// Numbers a head.
    pub head_dim: u32,
    /// Width of the residual stream, a multiple of 32.
    pub hidden: u32,
    /// Width of the MLP, a multiple of 32.
    pub ffn: u32,
    /// Whether the head is the embedding table.
    pub tied: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Whether the heads of queries and keys are normed before they are rotated.
    pub head_norms: bool,
    /// As Gemma has it: embeddings times a factor, norms about 1 and after attention and MLP too, GELU, bounded logits.
    pub gemma: bool,
    /// Formats of q, k, v, o, gate, up, down and the tables.
    pub formats: [Format; 8],
    /// What every second layer sees; a second KV group if it is a window.
    pub odd_window: Window,
    /// `softcap` of the attention, 0 for none.
    pub softcap: f32,
    /// Experts in place of every MLP, and how many of them a token takes.
    pub experts: Option<(u32, u32)>,
    /// Whether the up projection comes before the gate and the product has the activation second.
    pub up_first: bool,
}

/// Affine codes of 4 bits in groups of 32.
pub const AFFINE4: Format = Format::Affine { bits: 4, group: 32, scales: ScaleType::Bf16 };
/// Affine codes of 8 bits in groups of 32.
pub const AFFINE8: Format = Format::Affine { bits: 8, group: 32, scales: ScaleType::F16 };

impl Shape {
    /// A small llama: bf16, untied, without biases.
    pub fn llama() -> Self {
        Self {
            n_layers: 1,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            hidden: 64,
            ffn: 96,
            tied: false,
            attention_bias: false,
            mlp_bias: false,
            head_norms: false,
            gemma: false,
            formats: [Format::Bf16; 8],
            odd_window: Window::FULL,
            softcap: 0.0,
            experts: None,
            up_first: false,
        }
    }

    /// The graph.
    pub fn graph(&self) -> Graph {
        let mut b = GraphBuilder::new("random llama");
        let table = b.matrix("embed", VOCAB, self.hidden, self.formats[7]);
        let freqs = b.freqs(self.head_dim);
        let mut x = b.op(Op::Embed { parts: vec![table] });
        if self.gemma {
            x = b.op(Op::Scale { x, by: 1.5 });
        }
        for layer in 0..self.n_layers {
            x = self.attention(&mut b, layer, x, freqs);
            x = self.mlp(&mut b, layer, x);
        }
        let x = self.norm(&mut b, x, "norm");
        let head = if self.tied { table } else { b.matrix("head", VOCAB, self.hidden, self.formats[7]) };
        let mut logits = b.op(Op::Linear { x, weight: head, bias: None });
        if self.gemma {
            logits = b.op(Op::Softcap { x: logits, cap: 3.0 });
        }
        let ids = b.op(Op::Argmax { x: logits });
        b.finish(vec![logits, ids])
    }

    fn norm(&self, b: &mut GraphBuilder, x: ValueId, name: &str) -> ValueId {
        let mut weight = b.vector(name, b.graph.values[x].shape.n_cols);
        if self.gemma {
            let vector = b.graph.weights[weight].clone();
            weight = b.graph.weights.push(Weight { source: Source::OnePlus(weight), ..vector });
        }
        b.op(Op::RmsNorm { x, weight, eps: 1e-5 })
    }

    /// What attention or MLP adds to the stream.
    fn after(&self, b: &mut GraphBuilder, x: ValueId, name: &str) -> ValueId {
        if self.gemma { self.norm(b, x, name) } else { x }
    }

    fn attention(&self, b: &mut GraphBuilder, layer: u32, residual: ValueId, freqs: WeightId) -> ValueId {
        let Self { n_heads, n_kv_heads, head_dim, hidden, .. } = *self;
        let x = self.norm(b, residual, &format!("{layer}.attention_norm"));
        let bias = self.attention_bias;
        let q = b.linear(x, &format!("{layer}.q"), n_heads * head_dim, self.formats[0], bias);
        let k = b.linear(x, &format!("{layer}.k"), n_kv_heads * head_dim, self.formats[1], bias);
        let v = b.linear(x, &format!("{layer}.v"), n_kv_heads * head_dim, self.formats[2], bias);
        let head_norm = |b: &mut GraphBuilder, x, name: &str| match self.head_norms {
            true => b.norm_runs(x, &format!("{layer}.{name}"), head_dim),
            false => x,
        };
        let (q, k) = (head_norm(b, q, "q_norm"), head_norm(b, k, "k_norm"));
        let rope =
            |x, n_heads| Op::Rope { x, freqs, n_heads, head_dim, rot_dim: head_dim, scale: 1.0, neighbours: false };
        let q = b.op(rope(q, n_heads));
        let k = b.op(rope(k, n_kv_heads));
        let window = if layer % 2 == 1 { self.odd_window } else { Window::FULL };
        let shape = KvShape { n_kv_heads, k_dim: head_dim, v_dim: head_dim, latent: false };
        let layer_id = b.graph.kv.add_layer(shape, window);
        let kv = b.op(Op::KvWrite { k, v: Some(v), layer: layer_id });
        let scale = 1.0 / (head_dim as f32).sqrt();
        let x = b.op(Op::Attention { q, kv, layer: layer_id, n_heads, scale, softcap: self.softcap, window });
        let x = b.linear(x, &format!("{layer}.o"), hidden, self.formats[3], bias);
        let x = self.after(b, x, &format!("{layer}.after_attention"));
        b.op(Op::Add { a: residual, b: x })
    }

    fn mlp(&self, b: &mut GraphBuilder, layer: u32, residual: ValueId) -> ValueId {
        let x = self.norm(b, residual, &format!("{layer}.mlp_norm"));
        if let Some((n_experts, k)) = self.experts {
            let x = self.mixture(b, layer, x, n_experts, k);
            return b.op(Op::Add { a: residual, b: x });
        }
        let act = |x| if self.gemma { Op::Gelu { x } } else { Op::Silu { x } };
        let bias = self.mlp_bias;
        let gate = |b: &mut GraphBuilder| b.linear(x, &format!("{layer}.gate"), self.ffn, self.formats[4], bias);
        let up = |b: &mut GraphBuilder| b.linear(x, &format!("{layer}.up"), self.ffn, self.formats[5], bias);
        let x = if self.up_first {
            let (up, gate) = (up(b), gate(b));
            let gate = b.op(act(gate));
            b.op(Op::Mul { a: up, b: gate })
        } else {
            let gate = gate(b);
            let gate = b.op(act(gate));
            let up = up(b);
            b.op(Op::Mul { a: gate, b: up })
        };
        let x = b.linear(x, &format!("{layer}.down"), self.hidden, self.formats[6], bias);
        let x = self.after(b, x, &format!("{layer}.after_mlp"));
        b.op(Op::Add { a: x, b: residual })
    }
}

impl Shape {
    /// Experts of matrices of their own in even layers, as Hugging Face has them, in stacks in odd ones, as MLX has them.
    fn mixture(&self, b: &mut GraphBuilder, layer: u32, x: ValueId, n_experts: u32, k: u32) -> ValueId {
        let logits = b.linear(x, &format!("{layer}.router"), n_experts, self.formats[4], false);
        let route = b.op(Op::MoeRoute { logits, k, renormalize: !self.up_first });
        let product = |b: &mut GraphBuilder, x, name: &str, n_rows: u32, n_cols: u32, format| {
            let weight = match layer % 2 {
                0 => b.stack(&format!("{layer}.{name}"), n_experts, n_rows, n_cols, format),
                _ => b.matrix(&format!("{layer}.{name}s"), n_experts * n_rows, n_cols, format),
            };
            b.op(Op::MoeLinear { x, route, parts: vec![weight], n_experts })
        };
        let gate = product(b, x, "gate", self.ffn, self.hidden, self.formats[4]);
        let up = product(b, x, "up", self.ffn, self.hidden, self.formats[5]);
        let gate = b.op(Op::Silu { x: gate });
        let x = b.op(Op::Mul { a: gate, b: up });
        let x = product(b, x, "down", self.hidden, self.ffn, self.formats[6]);
        b.op(Op::MoeSum { x, route })
    }
}

/// A model of one layer with a latent cache (MLA, absorbed form): keys are latents, values their first numbers.
pub fn latent_graph(n_heads: u32, k_dim: u32, v_dim: u32) -> Graph {
    let hidden = 32;
    let mut b = GraphBuilder::new("random latent");
    let table = b.matrix("embed", VOCAB, hidden, Format::Bf16);
    let freqs = b.freqs(k_dim);
    let residual = b.op(Op::Embed { parts: vec![table] });
    let x = b.norm(residual, "0.attention_norm");
    let q = b.linear(x, "0.q", n_heads * k_dim, Format::Bf16, false);
    let k = b.linear(x, "0.latent", k_dim, Format::Bf16, false);
    let q = b.op(Op::Rope { x: q, freqs, n_heads, head_dim: k_dim, rot_dim: k_dim, scale: 1.0, neighbours: false });
    let k = b.op(Op::Rope { x: k, freqs, n_heads: 1, head_dim: k_dim, rot_dim: k_dim, scale: 1.0, neighbours: false });
    let layer = b.graph.kv.add_layer(KvShape { n_kv_heads: 1, k_dim, v_dim, latent: true }, Window::FULL);
    let kv = b.op(Op::KvWrite { k, v: None, layer });
    let x = b.op(Op::Attention { q, kv, layer, n_heads, scale: 0.25, softcap: 0.0, window: Window::FULL });
    let x = b.linear(x, "0.o", hidden, Format::Bf16, false);
    let x = b.op(Op::Add { a: residual, b: x });
    let x = b.norm(x, "norm");
    let logits = b.op(Op::Linear { x, weight: table, bias: None });
    let ids = b.op(Op::Argmax { x: logits });
    b.finish(vec![logits, ids])
}

/// Builds graphs whose ops are known to be right.
pub struct GraphBuilder {
    /// The graph so far.
    pub graph: Graph,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self { graph: Graph::new(name) }
    }
    /// Appends an op.
    pub fn op(&mut self, op: Op) -> ValueId {
        self.graph.push(op).unwrap_or_else(|error| panic!("a test's graph is wrong: {error}"))
    }
    fn weight(&mut self, n_rows: u32, n_cols: u32, format: Format, layout: Layout, source: Source) -> WeightId {
        self.graph.weights.push(Weight { n_rows, n_cols, format, layout, source })
    }
    /// A checkpoint matrix.
    pub fn matrix(&mut self, name: &str, n_rows: u32, n_cols: u32, format: Format) -> WeightId {
        assert!(format.takes_cols(n_cols), "{n_cols} columns of {format}");
        self.weight(n_rows, n_cols, format, Layout::Unassigned, Source::Tensor(name.into()))
    }
    /// Checkpoint matrices one below the other.
    pub fn stack(&mut self, name: &str, n: u32, n_rows: u32, n_cols: u32, format: Format) -> WeightId {
        let parts = (0..n).map(|ix| self.matrix(&format!("{name}.{ix}"), n_rows, n_cols, format)).collect();
        self.weight(n * n_rows, n_cols, format, Layout::Unassigned, Source::Stack(parts))
    }
    /// A checkpoint vector.
    pub fn vector(&mut self, name: &str, n_rows: u32) -> WeightId {
        self.weight(n_rows, 1, Format::F32, Layout::Vector, Source::Tensor(name.into()))
    }
    /// Rotary frequencies.
    pub fn freqs(&mut self, head_dim: u32) -> WeightId {
        let numbers: Vec<f32> = (0..head_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
        self.weight(numbers.len() as u32, 1, Format::F32, Layout::Vector, Source::Inline(numbers))
    }
    /// An `rms_norm` with a weight of its own.
    pub fn norm(&mut self, x: ValueId, name: &str) -> ValueId {
        self.norm_runs(x, name, self.graph.values[x].shape.n_cols)
    }
    /// The same of each run of `n` columns.
    pub fn norm_runs(&mut self, x: ValueId, name: &str, n: u32) -> ValueId {
        let weight = self.vector(name, n);
        self.op(Op::RmsNorm { x, weight, eps: 1e-5 })
    }
    /// A `linear` with weights of its own.
    pub fn linear(&mut self, x: ValueId, name: &str, n_rows: u32, format: Format, bias: bool) -> ValueId {
        let weight = self.matrix(name, n_rows, self.graph.values[x].shape.n_cols, format);
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), n_rows));
        self.op(Op::Linear { x, weight, bias })
    }
    /// The graph with its outputs.
    pub fn finish(mut self, outputs: Vec<ValueId>) -> Graph {
        self.graph.outputs = outputs;
        self.graph.verify().unwrap_or_else(|error| panic!("a test's graph is wrong: {error}"));
        self.graph
    }
}

/// Checkpoint tensors for a graph: the same numbers for a name, whatever passes did to the graph since.
pub fn tensors(graph: &Graph, seed: u64) -> impl Fn(&str) -> Vec<f32> + use<> {
    let mut sizes: std::collections::BTreeMap<String, (u32, u32)> = Default::default();
    for (_, weight) in graph.weights.iter() {
        if let Source::Tensor(name) = &weight.source {
            sizes.insert(name.clone(), (weight.n_rows, weight.n_cols));
        }
    }
    move |name| {
        let (n_rows, n_cols) = sizes[name];
        // Rows of unit length keep values near 1 through any number of layers.
        let size = if n_cols == 1 { 1.0 } else { (3.0 / n_cols as f32).sqrt() };
        Rng::named(name, seed).numbers((n_rows * n_cols) as usize, size)
    }
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![4 => Just(Format::Bf16), 2 => Just(AFFINE4), 1 => Just(AFFINE8), 1 => Just(Format::F32), 1 => Just(Format::F16)]
}

/// Formats of q, k, v, o, gate, up, down and the tables: mostly one, sometimes unlike, so that merges are partial.
fn formats() -> impl Strategy<Value = [Format; 8]> {
    prop_oneof![format().prop_map(|format| [format; 8]), proptest::array::uniform8(format())]
}

/// What every second layer sees.
pub fn window() -> impl Strategy<Value = Window> {
    prop_oneof![Just(Window::FULL), (1u32..9, 0u32..4).prop_map(|(window, keep)| Window { window, keep })]
}

/// Shapes of llama-like models.
pub fn shape() -> impl Strategy<Value = Shape> {
    let sizes = (1u32..4, prop_oneof![Just((2u32, 1u32)), Just((4, 2)), Just((2, 2)), Just((4, 1))], 1u32..3, 1u32..4);
    let flags = any::<[bool; 7]>();
    let experts = prop_oneof![3 => Just(None), 1 => (1u32..5, 1u32..3).prop_map(|(n, k)| Some((n, k.min(n))))];
    (sizes, flags, formats(), window(), experts).prop_map(|(sizes, flags, formats, odd_window, experts)| {
        let (n_layers, (n_heads, n_kv_heads), mut hidden, mut ffn) = sizes;
        let mut formats = formats;
        if experts.is_some() {
            // An expert must fit into the smallest binding of the tests.
            (hidden, ffn) = (1, 1);
            formats[4..7].iter_mut().filter(|format| !format.is_quantized()).for_each(|format| *format = AFFINE8);
        }
        let [tied, attention_bias, mlp_bias, head_norms, gemma, capped, up_first] = flags;
        Shape {
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim: 16,
            hidden: hidden * 32,
            ffn: ffn * 32,
            tied,
            attention_bias,
            mlp_bias,
            head_norms,
            gemma,
            formats,
            odd_window,
            softcap: if capped { 2.0 } else { 0.0 },
            experts,
            up_first,
        }
    })
}

/// Llama-like graphs.
pub fn llama_graph() -> impl Strategy<Value = Graph> {
    shape().prop_map(|shape| shape.graph())
}

/// Llama-like graphs, and sometimes one with a latent.
pub fn graph() -> impl Strategy<Value = Graph> {
    let latent = (1u32..4, 1u32..3, 1u32..3).prop_map(|(heads, k, v)| latent_graph(heads * 2, 16 * k.max(v), 16 * v));
    prop_oneof![4 => llama_graph(), 1 => latent]
}

/// Consecutive steps of a few sequences that share a cache.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// The steps in order.
    pub steps: Vec<StepTables>,
    /// Page tables, one a KV group: `[page_row][max_pages]`, `u32::MAX` where a sequence has no page.
    pub page_tables: Vec<Vec<u32>>,
    /// Entries of a page table's row.
    pub max_pages: u32,
    /// Pages of every group's pool; more than the tables name.
    pub n_pages: u32,
    /// Tokens a page.
    pub page_tokens: u32,
}

impl Batch {
    /// KV slots of every group's pool, as [`StepTables::verify`] wants them.
    pub fn n_slots(&self) -> Vec<u32> {
        vec![self.n_pages * self.page_tokens; self.page_tables.len()]
    }
}

/// How a random batch is made: tokens of each sequence in each step, and a seed for ids, rows, order and pages.
#[derive(Clone, PartialEq, Debug)]
pub struct BatchShape {
    /// `[step][sequence]` tokens; 0 for a sequence that waits.
    pub q_lens: Vec<Vec<u32>>,
    /// For all the rest.
    pub seed: u64,
}

impl BatchShape {
    /// The tables. Token ids are below `n_vocab`.
    pub fn batch(&self, n_groups: usize, page_tokens: u32, q_tile: u32, n_vocab: u32) -> Batch {
        let mut rng = Rng::new(self.seed);
        let n_seqs = self.q_lens.iter().map(Vec::len).max().unwrap_or(0);
        let length = |s: usize| self.q_lens.iter().map(|step| step[s]).sum::<u32>();
        // One row of the page table is nobody's, and rows are not in the sequences' order.
        let mut page_rows: Vec<u32> = (0..n_seqs as u32 + 1).collect();
        rng.shuffle(&mut page_rows);
        let max_pages = (0..n_seqs).map(length).max().unwrap_or(0).div_ceil(page_tokens) + 1;
        let n_pages = (n_seqs as u32 + 1) * max_pages + 3;
        let mut page_tables = Vec::new();
        for _ in 0..n_groups {
            let mut pages: Vec<u32> = (0..n_pages).collect();
            rng.shuffle(&mut pages);
            let mut table = vec![u32::MAX; (n_seqs + 1) * max_pages as usize];
            for (s, &page_row) in page_rows.iter().enumerate().take(n_seqs) {
                for ix in 0..length(s).div_ceil(page_tokens) {
                    table[(page_row * max_pages + ix) as usize] =
                        pages.pop().unwrap_or_else(|| unreachable!("there are pages for all"));
                }
            }
            page_tables.push(table);
        }
        let mut cached = vec![0; n_seqs];
        let mut steps = Vec::new();
        for q_lens in &self.q_lens {
            let mut order: Vec<usize> = (0..n_seqs).filter(|&s| q_lens[s] > 0).collect();
            rng.shuffle(&mut order);
            let mut step = StepTables::default();
            for s in order {
                let ids: Vec<u32> = (0..q_lens[s]).map(|_| rng.below(n_vocab)).collect();
                step.push_sequence(ids, cached[s], page_rows[s]);
                cached[s] += q_lens[s];
            }
            step.rows = (0..step.tokens.len() as u32).filter(|_| rng.below(3) == 0).collect();
            step.tile(q_tile, 1);
            for table in &page_tables {
                for token in &step.tokens {
                    let page_row = step.sequences[token.sequence as usize].page_row;
                    let page = table[(page_row * max_pages + token.position / page_tokens) as usize];
                    step.slots.push(page * page_tokens + token.position % page_tokens);
                }
            }
            steps.push(step);
        }
        steps.retain(|step| !step.tokens.is_empty());
        Batch { steps, page_tables, max_pages, n_pages, page_tokens }
    }
}

/// One to four steps of one to four sequences: prefill chunks, single tokens and pauses, mixed.
pub fn batch_shape() -> impl Strategy<Value = BatchShape> {
    let q_len = prop_oneof![1 => Just(0u32), 2 => Just(1), 2 => 2u32..8];
    let q_lens =
        (1usize..5, 1usize..5).prop_flat_map(move |(n_seqs, n_steps)| vec(vec(q_len.clone(), n_seqs), n_steps));
    (q_lens, any::<u64>()).prop_map(|(q_lens, seed)| BatchShape { q_lens, seed })
}
