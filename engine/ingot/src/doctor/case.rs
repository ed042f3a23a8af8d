//! The small models that are run on a device: between them they use every weight format, every kernel that a fusion makes
//! or leaves, and those of a mixture of experts.

use ingot_compiler::target::Fusion;
use ingot_ir::IrError;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kv::{KvShape, Window};
use ingot_ir::weight::{Format, KFormat, Layout, ScaleType, Source, Weight, WeightId};

/// A model to be run.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Case {
    pub name: String,
    /// Format of every matrix but the values' projection.
    pub format: Format,
    /// Format of the values' projection: unlike the others', q, k and v are not one matrix.
    pub values: Format,
    pub head_dim: u32,
    /// Columns between the blocks: a multiple of every group length, or of GGUF's blocks.
    pub hidden: u32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether every projection has a bias.
    pub bias: bool,
    /// Whether the MLP's activation is GELU.
    pub gelu: bool,
    /// Whether the heads of queries and keys are normed.
    pub head_norms: bool,
    pub window: Window,
    pub softcap: f32,
    /// Whether layers have a mixture of experts in place of the MLP.
    pub experts: bool,
    /// Fusions that the compiler is told not to make.
    pub declined: Vec<Fusion>,
}

/// Rows and columns of the models' MLPs.
const MLP: u32 = 256;
const N_HEADS: u32 = 4;
const N_KV_HEADS: u32 = 2;
const N_LAYERS: u32 = 2;
/// Experts of a mixture. A token takes all: a choice between two that are nearly as good may differ by a rounding.
const N_EXPERTS: u32 = 3;
/// Vocabulary: more than the first argmax kernel compares at once.
pub(super) const N_VOCAB: u32 = 1100;

const AFFINE4: Format = Format::Affine { bits: 4, group: 64, scales: ScaleType::F16 };

/// Every fusion, with the name that a report gives it.
const FUSIONS: [(Fusion, &str); 8] = [
    (Fusion::NormPrologue, "norm into product"),
    (Fusion::Activation, "activation into product"),
    (Fusion::GatePairs, "gate and up in one"),
    (Fusion::Multiply, "multiplication into product"),
    (Fusion::Residual, "residual into product"),
    (Fusion::HeadNorm, "norms of heads into rotation"),
    (Fusion::RopeKv, "rotation into product"),
    (Fusion::HalfRows, "half rows"),
];

impl Case {
    fn new(name: impl Into<String>, format: Format) -> Self {
        Self {
            name: name.into(),
            format,
            values: format,
            head_dim: if matches!(format, Format::K(_)) { 64 } else { 32 },
            hidden: if matches!(format, Format::K(_)) { 256 } else { 128 },
            tied: false,
            bias: false,
            gelu: false,
            head_norms: false,
            window: Window::FULL,
            softcap: 0.0,
            experts: false,
            declined: Vec::new(),
        }
    }

    /// What is run. `quick` leaves out formats that differ in a number alone.
    pub(super) fn all(quick: bool) -> Vec<Self> {
        let plain = |format: Format| Self::new(format!("weights {format}"), format);
        let mut cases = vec![plain(Format::F32), plain(Format::F16), plain(Format::Bf16)];
        let groups: &[u16] = if quick { &[64] } else { &[32, 64, 128] };
        cases.extend([Format::Mxfp4, Format::Mxfp8, Format::Nvfp4 { global: true }].map(plain));
        cases.extend(KFormat::ALL.map(|k| plain(Format::K(k))));
        for bits in [1, 2, 3, 4, 5, 6, 8] {
            cases.extend(groups.iter().map(|&group| plain(Format::Affine { bits, group, scales: ScaleType::F16 })));
        }
        for scales in [ScaleType::Bf16, ScaleType::F32] {
            let bits: &[u8] = if quick { &[4] } else { &[4, 8] };
            cases.extend(bits.iter().map(|&bits| plain(Format::Affine { bits, group: 64, scales })));
        }
        let without = |&(fusion, name): &(Fusion, &str)| {
            // Gate and up in one kernel take the activation and the multiplication with them.
            let hidden = matches!(fusion, Fusion::Activation | Fusion::Multiply).then_some(Fusion::GatePairs);
            let declined = hidden.into_iter().chain([fusion]).collect();
            let head_norms = fusion == Fusion::HeadNorm;
            Self { declined, head_norms, ..Self::new(format!("without {name}"), AFFINE4) }
        };
        cases.extend(FUSIONS.iter().map(without));
        let every = FUSIONS.iter().map(|(fusion, _)| *fusion).collect();
        cases.push(Self { declined: every, bias: true, ..Self::new("without any fusion, biases", AFFINE4) });
        cases.push(Self { bias: true, gelu: true, ..Self::new("biases and GELU", AFFINE4) });
        cases.push(Self { head_norms: true, ..Self::new("norms of heads", AFFINE4) });
        cases.push(Self { tied: true, ..Self::new("tied embedding", AFFINE4) });
        cases.push(Self { values: Format::Bf16, ..Self::new("values of another format", AFFINE4) });
        cases.push(Self { experts: true, ..Self::new("experts", AFFINE4) });
        for head_dim in [64, 96, 128] {
            cases.push(Self { head_dim, ..Self::new(format!("heads of {head_dim}"), AFFINE4) });
        }
        let window = Window { window: 20, keep: 2 };
        cases.push(Self { window, softcap: 30.0, ..Self::new("window and soft cap", AFFINE4) });
        cases
    }

    /// Its graph. Tensors whose names begin with `n` are weights of norms.
    ///
    /// # Errors
    /// None, unless an op is built of unfit values.
    pub(super) fn graph(&self) -> Result<Graph, IrError> {
        let mut b = Builder { graph: Graph::new(self.name.clone()), bias: self.bias, n_tensors: 0 };
        let hidden = self.hidden;
        let (head_dim, scale) = (self.head_dim, 1.0 / (self.head_dim as f32).sqrt());
        let freqs = b.freqs(head_dim);
        let table = b.matrix(N_VOCAB, hidden, self.format);
        let mut x = b.graph.push(Op::Embed { parts: vec![table] })?;
        for layer in 0..N_LAYERS {
            let normed = b.norm(x, hidden)?;
            let q = b.linear(normed, N_HEADS * head_dim, hidden, self.format)?;
            let k = b.linear(normed, N_KV_HEADS * head_dim, hidden, self.format)?;
            let v = b.linear(normed, N_KV_HEADS * head_dim, hidden, self.values)?;
            let (q, k) = match self.head_norms {
                true => (b.norm(q, head_dim)?, b.norm(k, head_dim)?),
                false => (q, k),
            };
            let rope =
                |x, n_heads| Op::Rope { x, freqs, n_heads, head_dim, rot_dim: head_dim, scale: 1.0, neighbours: false };
            let (q, k) = (b.graph.push(rope(q, N_HEADS))?, b.graph.push(rope(k, N_KV_HEADS))?);
            // Every second layer sees all, so that a window makes two groups of pages.
            let window = if layer % 2 == 0 { self.window } else { Window::FULL };
            let shape = KvShape { n_kv_heads: N_KV_HEADS, k_dim: head_dim, v_dim: head_dim, latent: false };
            let layer = b.graph.kv.add_layer(shape, window);
            let kv = b.graph.push(Op::KvWrite { k, v: Some(v), layer })?;
            let softcap = self.softcap;
            let attended = b.graph.push(Op::Attention { q, kv, layer, n_heads: N_HEADS, scale, softcap, window })?;
            let o = b.linear(attended, hidden, N_HEADS * head_dim, self.format)?;
            x = b.graph.push(Op::Add { a: x, b: o })?;
            let normed = b.norm(x, hidden)?;
            let added = self.mlp(&mut b, normed)?;
            x = b.graph.push(Op::Add { a: x, b: added })?;
        }
        let normed = b.norm(x, hidden)?;
        let head = if self.tied { table } else { b.matrix(N_VOCAB, hidden, self.format) };
        let logits = b.graph.push(Op::Linear { x: normed, weight: head, bias: None })?;
        let sampled = b.graph.push(Op::Argmax { x: logits })?;
        b.graph.outputs = vec![logits, sampled];
        Ok(b.graph)
    }

    fn mlp(&self, b: &mut Builder, x: ValueId) -> Result<ValueId, IrError> {
        let route = if self.experts {
            let logits = b.linear(x, N_EXPERTS, self.hidden, self.format)?;
            Some(b.graph.push(Op::MoeRoute { logits, k: N_EXPERTS, renormalize: true })?)
        } else {
            None
        };
        let product = |b: &mut Builder, x: ValueId, n_rows: u32, n_cols: u32| match route {
            None => b.linear(x, n_rows, n_cols, self.format),
            Some(route) => {
                let stack = b.matrix(N_EXPERTS * n_rows, n_cols, self.format);
                b.graph.push(Op::MoeLinear { x, route, parts: vec![stack], n_experts: N_EXPERTS })
            }
        };
        let (gate, up) = (product(b, x, MLP, self.hidden)?, product(b, x, MLP, self.hidden)?);
        let gate = b.graph.push(if self.gelu { Op::Gelu { x: gate } } else { Op::Silu { x: gate } })?;
        let inner = b.graph.push(Op::Mul { a: gate, b: up })?;
        let down = product(b, inner, self.hidden, MLP)?;
        match route {
            None => Ok(down),
            Some(route) => b.graph.push(Op::MoeSum { x: down, route }),
        }
    }
}

/// A graph under construction.
struct Builder {
    graph: Graph,
    bias: bool,
    n_tensors: u32,
}

impl Builder {
    fn tensor(&mut self, kind: char, n_rows: u32, n_cols: u32, format: Format) -> WeightId {
        self.n_tensors += 1;
        let source = Source::Tensor(format!("{kind}{}", self.n_tensors));
        self.graph.weights.push(Weight { n_rows, n_cols, format, layout: Layout::Unassigned, source })
    }

    fn matrix(&mut self, n_rows: u32, n_cols: u32, format: Format) -> WeightId {
        self.tensor('t', n_rows, n_cols, format)
    }

    /// A norm of each run of `n` columns.
    fn norm(&mut self, x: ValueId, n: u32) -> Result<ValueId, IrError> {
        let weight = self.tensor('n', n, 1, Format::F32);
        self.graph.push(Op::RmsNorm { x, weight, eps: 1e-5 })
    }

    fn linear(&mut self, x: ValueId, n_rows: u32, n_cols: u32, format: Format) -> Result<ValueId, IrError> {
        let weight = self.matrix(n_rows, n_cols, format);
        let bias = self.bias.then(|| self.tensor('b', n_rows, 1, Format::F32));
        self.graph.push(Op::Linear { x, weight, bias })
    }

    fn freqs(&mut self, head_dim: u32) -> WeightId {
        let numbers = (0..head_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
        let (n_rows, source) = (head_dim / 2, Source::Inline(numbers));
        self.graph.weights.push(Weight { n_rows, n_cols: 1, format: Format::F32, layout: Layout::Vector, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ingot_compiler::{Options, TargetProfile, compile};

    #[test]
    fn every_case_compiles_and_names_are_unlike() {
        let cases = Case::all(false);
        for (ix, case) in cases.iter().enumerate() {
            assert!(cases[..ix].iter().all(|other| other.name != case.name), "{}", case.name);
            let graph = case.graph().unwrap();
            graph.verify().unwrap();
            let mut target = TargetProfile::vulkan();
            target.declined.clone_from(&case.declined);
            compile(&graph, &target, Options { max_batch: 4, ..Options::new(128) }).unwrap();
        }
        assert!(Case::all(true).iter().all(|case| cases.contains(case)));
    }
}
