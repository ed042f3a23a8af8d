//! Mixtures of experts: routes, products with the experts that they name, sums by shares.

use crate::support::{batch, check, formats, target};
use ingot_compiler::TargetProfile;
use ingot_compiler::target::Fusion;
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::kernel::Template;
use ingot_ir::weight::Format;
use ingot_tests::random::{AFFINE4, AFFINE8, GraphBuilder, VOCAB};
use ingot_tests::rig::{Device, Rig, devices, turn};
use ingot_tests::stored::StoredTensors;
use ingot_tests::tolerance::{Arithmetic, kernel};
use std::sync::Arc;

/// A mixture's numbers.
#[derive(Clone, Copy)]
struct Mixture {
    hidden: u32,
    inner: u32,
    n_experts: u32,
    k: u32,
    format: Format,
    normed: bool,
    /// Whether all rows are computed before some are taken, so that a chunk's products are sorted by expert.
    all_rows: bool,
}

const SMALL: Mixture =
    Mixture { hidden: 64, inner: 96, n_experts: 5, k: 2, format: Format::Bf16, normed: true, all_rows: false };

impl Mixture {
    fn stack(self, b: &mut GraphBuilder, x: ValueId, route: ValueId, name: &str, n_rows: u32, n_cols: u32) -> ValueId {
        let weight = b.matrix(name, n_rows * self.n_experts, n_cols, self.format);
        b.op(Op::MoeLinear { x, route, parts: vec![weight], n_experts: self.n_experts })
    }

    /// The mixture added to its input, as a layer of a model is.
    fn graph(self) -> Graph {
        let Self { hidden, inner, n_experts, k, normed, all_rows, .. } = self;
        let mut b = GraphBuilder::new("mixture");
        let table = b.matrix("embed", VOCAB, hidden, Format::F32);
        let residual = b.op(Op::Embed { parts: vec![table] });
        let x = if normed { b.norm(residual, "norm") } else { residual };
        let logits = b.linear(x, "router", n_experts, Format::F32, false);
        let route = b.op(Op::MoeRoute { logits, k, renormalize: normed });
        let gate = self.stack(&mut b, x, route, "gate", inner, hidden);
        let gate = b.op(Op::Silu { x: gate });
        let up = self.stack(&mut b, x, route, "up", inner, hidden);
        let inner_value = b.op(Op::Mul { a: gate, b: up });
        let down = self.stack(&mut b, inner_value, route, "down", hidden, inner);
        let x = b.op(Op::MoeSum { x: down, route });
        let mut x = b.op(Op::Add { a: residual, b: x });
        if all_rows {
            x = b.op(Op::GatherRows { x });
        }
        b.finish(vec![x])
    }
}

fn each_device(mixture: Mixture, n_tokens: &[u32], adjust: impl Fn(&Device, &mut TargetProfile)) {
    let graph = mixture.graph();
    for device in devices() {
        let batch = batch(&graph, n_tokens);
        let mut target = target(&device, &batch, 0);
        adjust(&device, &mut target);
        // Three products, one after the other.
        let tolerance = 3.0 * kernel(Arithmetic::of(&target, &graph), mixture.hidden.max(mixture.inner));
        check(&graph, &device, &target, &batch, tolerance);
    }
}

/// Logits with ties, of one expert to more than a workgroup has invocations.
#[test]
fn routes_are_exact() {
    for (n_experts, k) in [(1, 1), (6, 6), (300, 8)] {
        for renormalize in [false, true] {
            let mut b = GraphBuilder::new("route");
            let table = b.matrix("embed", VOCAB, n_experts, Format::F32);
            let logits = b.op(Op::Embed { parts: vec![table] });
            let route = b.op(Op::MoeRoute { logits, k, renormalize });
            let graph = b.finish(vec![route]);
            let mut stored = StoredTensors::random(&graph, 3);
            // Of few numbers, so that there are ties at every place.
            let numbers = stored.numbers("embed").iter().map(|number| (3.0 * number).round()).collect();
            stored.set("embed", numbers);
            let stored = Arc::new(stored);
            for device in devices() {
                let _turn = turn(&device);
                let batch = batch(&graph, &[9, 1]);
                let mut rig = Rig::new(&graph, &stored, &device, &target(&device, &batch, 0), &batch);
                for tables in &batch.steps {
                    let compared = rig.step(tables);
                    let n_cols = 2 * k as usize;
                    for (found, expected) in compared.found.chunks(n_cols).zip(compared.expected.numbers.chunks(n_cols))
                    {
                        let (ids, shares) = found.split_at(k as usize);
                        assert_eq!(ids, &expected[..k as usize], "{k} of {n_experts}");
                        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b;
                        assert!(shares.iter().zip(&expected[k as usize..]).all(close), "{found:?} for {expected:?}");
                    }
                }
            }
        }
    }
}

/// Every kind of format, in one product: a row's logits are a table's.
#[test]
fn experts_of_every_kind_of_format() {
    let mut kinds: Vec<Format> = Vec::new();
    for format in formats() {
        let alike = |other: &Format| match (format, *other) {
            (Format::Affine { bits, .. }, Format::Affine { bits: other, .. }) => bits == other,
            (format, other) => format == other,
        };
        if !kinds.iter().any(alike) {
            kinds.push(format);
        }
    }
    for format in kinds {
        let hidden = if matches!(format, Format::K(_)) { 256 } else { 64 };
        let mut b = GraphBuilder::new("experts");
        let [x, logits] = [hidden, 3].map(|n_cols| {
            let table = b.matrix(&format!("embed{n_cols}"), VOCAB, n_cols, Format::F32);
            b.op(Op::Embed { parts: vec![table] })
        });
        let route = b.op(Op::MoeRoute { logits, k: 2, renormalize: true });
        let x = Mixture { hidden, n_experts: 3, format, ..SMALL }.stack(&mut b, x, route, "experts", 13, hidden);
        let graph = b.finish(vec![x]);
        for device in devices() {
            let batch = batch(&graph, &[3]);
            let target = target(&device, &batch, 0);
            check(&graph, &device, &target, &batch, kernel(Arithmetic::of(&target, &graph), hidden));
        }
    }
}

/// Steps of every variant, and chunks of which an expert has many rows.
#[test]
fn few_and_many_rows() {
    for format in [Format::F32, AFFINE4] {
        each_device(Mixture { format, all_rows: true, ..SMALL }, &[1, 3, 8, 17, 90], |_, _| {});
    }
}

/// Widths that no vector, block or subgroup divides; one expert; all of them; no norm.
#[test]
fn odd_shapes() {
    let format = Format::F32;
    for (hidden, inner, n_experts, k) in [(6, 10, 1, 1), (9, 7, 4, 4), (130, 1, 7, 3)] {
        let mixture = Mixture { hidden, inner, n_experts, k, format, normed: n_experts % 2 == 0, all_rows: false };
        each_device(mixture, &[5, 1], |_, _| {});
    }
}

#[test]
fn without_subgroups_and_without_fusions() {
    for format in [AFFINE4, AFFINE8] {
        each_device(Mixture { format, ..SMALL }, &[3, 1], |_, target| target.subgroups = false);
        each_device(Mixture { format, ..SMALL }, &[3, 1], |_, target| {
            target.declined.extend([
                Fusion::NormPrologue,
                Fusion::Activation,
                Fusion::GatePairs,
                Fusion::Multiply,
                Fusion::Residual,
                Fusion::HalfRows,
            ]);
        });
    }
}

/// Stacks in parts of one and of two experts.
#[test]
fn stacks_above_the_binding_limit() {
    for (format, limit) in [(Format::Bf16, 25 << 10), (AFFINE4, 17 << 10)] {
        let mixture = Mixture { format, all_rows: true, ..SMALL };
        each_device(mixture, &[3, 1, 20], move |_, target| target.max_binding_bytes = limit);
    }
}

/// A chunk, and what chooses its experts.
struct Chunk {
    n_experts: u32,
    /// Experts that every token takes; as many as it takes are chosen at random if there are none.
    taken: &'static [u32],
    k: u32,
    n_tokens: u32,
    hidden: u32,
    inner: u32,
    format: Format,
    /// Products of a tile.
    tile: u32,
}

impl Chunk {
    /// Two products with experts, one input for all of a row's and one for each.
    fn graph(&self) -> Graph {
        let mut b = GraphBuilder::new("chunk");
        let [x, logits] = [("embed", self.hidden), ("logits", self.n_experts)].map(|(name, n_cols)| {
            let table = b.matrix(name, VOCAB, n_cols, Format::F32);
            b.op(Op::Embed { parts: vec![table] })
        });
        let route = b.op(Op::MoeRoute { logits, k: self.k, renormalize: false });
        let mixture = Mixture { n_experts: self.n_experts, format: self.format, ..SMALL };
        let x = mixture.stack(&mut b, x, route, "up", self.inner, self.hidden);
        let x = mixture.stack(&mut b, x, route, "down", self.hidden, self.inner);
        let x = b.op(Op::GatherRows { x });
        b.finish(vec![x])
    }

    fn stored(&self, graph: &Graph) -> Arc<StoredTensors> {
        let mut stored = StoredTensors::random(graph, 3);
        let mut logits = stored.numbers("logits");
        for row in logits.chunks_mut(self.n_experts as usize) {
            self.taken.iter().for_each(|expert| row[*expert as usize] += 100.0);
        }
        stored.set("logits", logits);
        Arc::new(stored)
    }
}

/// Tiles of every size, the last of an expert full, short and of one product; experts with all rows and with none, the first
/// and the last among them; a variant with room for more rows.
#[test]
fn products_of_a_chunk_are_sorted_by_expert() {
    let small =
        Chunk { n_experts: 5, taken: &[], k: 2, n_tokens: 23, hidden: 20, inner: 7, format: Format::F32, tile: 32 };
    let chunks = [
        Chunk { taken: &[3], k: 1, n_tokens: 40, ..small },
        Chunk { taken: &[0, 4], n_tokens: 32, hidden: 64, inner: 130, format: Format::Bf16, ..small },
        Chunk { n_experts: 300, k: 3, n_tokens: 801, ..small },
        Chunk {
            n_experts: 2,
            n_tokens: 129,
            hidden: 64,
            inner: 32,
            format: Format::Nvfp4 { global: true },
            tile: 64,
            ..small
        },
        Chunk { n_experts: 1, k: 1, n_tokens: 257, hidden: 64, inner: 128, format: AFFINE4, tile: 128, ..small },
        small,
    ];
    for chunk in chunks {
        let graph = chunk.graph();
        let stored = chunk.stored(&graph);
        for device in devices() {
            let batch = batch(&graph, &[chunk.n_tokens]);
            let target = target(&device, &batch, 9);
            let _turn = turn(&device);
            let mut rig = Rig::new(&graph, &stored, &device, &target, &batch);
            let kernels = rig.plan().kernels.as_slice().iter().map(|kernel| &kernel.spec);
            let tiles: Vec<_> = kernels.filter_map(|spec| Some((spec.template, spec.u32("TILE_M")?))).collect();
            // Devices with matrix units have shorter chunks too; the last is the one.
            let tiles = tiles[tiles.len().saturating_sub(3)..].to_vec();
            let product = |n_cols| match target.matrix_units(chunk.format, n_cols) {
                Some(_) => Template::MatmulCoop,
                None => Template::Matmul,
            };
            let expected = [Template::MoeOrder, product(chunk.hidden), product(chunk.inner)];
            let expected = expected.map(|template| (template, chunk.tile));
            assert_eq!(tiles, if device.is_cpu() { vec![] } else { expected.to_vec() });
            let tolerance = 2.0 * kernel(Arithmetic::of(&target, &graph), chunk.hidden.max(chunk.inner));
            rig.check(&batch, tolerance).unwrap_or_else(|why| panic!("{} experts: {why}", chunk.n_experts));
        }
    }
}
