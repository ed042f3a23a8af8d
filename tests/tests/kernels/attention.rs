//! Rotary embedding, the cache and attention, over ragged steps of several sequences in scattered pages.

use crate::support::{cases, ragged, target};
use ingot_compiler::TargetProfile;
use ingot_compiler::target::Fusion;
use ingot_ir::graph::{Graph, Op};
use ingot_ir::kernel::Template;
use ingot_ir::kv::{KvShape, KvType, Window};
use ingot_ir::weight::{Format, ScaleType};
use ingot_tests::random::{GraphBuilder, VOCAB};
use ingot_tests::rig::{Device, devices};
use ingot_tests::tolerance::{Arithmetic, attention, kernel};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Where queries, keys and values come from.
#[derive(Clone, Copy, PartialEq, Debug)]
enum From {
    /// Columns of an embedding.
    Embedding,
    /// Three linear layers of a normed embedding, with biases or without.
    Products { format: Format, bias: bool },
}

/// Norms of heads.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Norms {
    None,
    Rotated,
    Apart,
}

/// An attention layer.
#[derive(Clone, PartialEq, Debug)]
struct Layer {
    from: From,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    rot_dim: u32,
    neighbours: bool,
    /// Whether heads of queries and keys are normed first, and whether their rotation does it.
    norms: Norms,
    window: Window,
    softcap: f32,
    /// Factor on sines and cosines.
    rope_scale: f32,
    /// Type of keys and values; `None` is the device's own.
    kv: Option<KvType>,
}

const PLAIN: Layer = Layer {
    from: From::Embedding,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 32,
    rot_dim: 32,
    neighbours: false,
    norms: Norms::None,
    window: Window::FULL,
    softcap: 0.0,
    rope_scale: 1.0,
    kv: None,
};

impl Layer {
    fn graph(&self) -> Graph {
        let Self { from, n_heads, n_kv_heads, head_dim, rot_dim, neighbours, window, softcap, rope_scale, .. } = *self;
        let mut b = GraphBuilder::new("attention");
        let [q_cols, kv_cols] = [n_heads * head_dim, n_kv_heads * head_dim];
        let freqs = b.freqs(rot_dim);
        let [q, k, v] = match from {
            From::Embedding => {
                let table = b.matrix("embed", VOCAB, q_cols + 2 * kv_cols, Format::F32);
                let x = b.op(Op::Embed { parts: vec![table] });
                [(0, q_cols), (q_cols, kv_cols), (q_cols + kv_cols, kv_cols)]
                    .map(|(at, n_cols)| b.op(Op::Slice { x, at, n_cols }))
            }
            From::Products { format, bias } => {
                let table = b.matrix("embed", VOCAB, WIDTH, Format::F32);
                let x = b.op(Op::Embed { parts: vec![table] });
                let x = b.norm(x, "norm");
                [("q", q_cols), ("k", kv_cols), ("v", kv_cols)].map(|(name, n)| b.linear(x, name, n, format, bias))
            }
        };
        let norm = |b: &mut GraphBuilder, x, name| match self.norms {
            Norms::None => x,
            Norms::Rotated | Norms::Apart => b.norm_runs(x, name, head_dim),
        };
        let (q, k) = (norm(&mut b, q, "q_norm"), norm(&mut b, k, "k_norm"));
        let rope = |x, n_heads| Op::Rope { x, freqs, n_heads, head_dim, rot_dim, scale: rope_scale, neighbours };
        let q = b.op(rope(q, n_heads));
        let k = b.op(rope(k, n_kv_heads));
        let layer =
            b.graph.kv.add_layer(KvShape { n_kv_heads, k_dim: head_dim, v_dim: head_dim, latent: false }, window);
        let kv = b.op(Op::KvWrite { k, v: Some(v), layer });
        // Scores of some units: a softmax that is neither flat nor one token's.
        let scale = 1.5 / (head_dim as f32).sqrt();
        let x = b.op(Op::Attention { q, kv, layer, n_heads, scale, softcap, window });
        b.finish(vec![x])
    }

    fn check(&self, device: &Device, q_lens: &[Vec<u32>], q_tile: u32, seed: u64) -> Result<(), String> {
        let graph = self.graph();
        let batch = ragged(&graph, q_lens, seed);
        let mut target = target(device, &batch, u32::from(seed.is_multiple_of(2)));
        target.prefill_q_tile = q_tile;
        if self.norms == Norms::Apart {
            target.declined.push(Fusion::HeadNorm);
        }
        let longest = (0..q_lens[0].len()).map(|s| q_lens.iter().map(|step| step[s]).sum()).max().unwrap_or(0);
        target.kv_type = self.kv.unwrap_or(target.kv_type);
        let product =
            if self.from == From::Embedding { 0.0 } else { 3.0 * kernel(Arithmetic::of(&target, &graph), WIDTH) };
        crate::support::run(&graph, device, &target, &batch, attention(target.kv_type, longest) + product)
    }
}

/// Columns of the embedding under [`From::Products`].
const WIDTH: u32 = 64;

fn each_device(layer: &Layer, q_lens: &[Vec<u32>], q_tile: u32) {
    for device in devices() {
        layer.check(&device, q_lens, q_tile, 3).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// One page less, exactly full, and more by one token; in a chunk, then token by token.
#[test]
fn page_borders() {
    for n in [1, 15, 16, 17, 31, 33] {
        each_device(&PLAIN, &[vec![n], vec![1], vec![1], vec![15], vec![1]], 16);
    }
}

#[test]
fn every_head_size() {
    for head_dim in [32, 64, 80, 128, 256] {
        for (n_heads, n_kv_heads) in [(1, 1), (6, 2), (8, 1)] {
            let layer = Layer { n_heads, n_kv_heads, head_dim, rot_dim: head_dim, ..PLAIN };
            each_device(&layer, &[vec![19, 1], vec![1, 3], vec![1, 0]], 16);
        }
    }
}

/// Sizes that no vector width divides.
#[test]
fn odd_head_sizes_and_partial_rotation() {
    for (head_dim, rot_dim) in [(2, 2), (6, 4), (20, 10), (34, 34), (64, 16)] {
        for neighbours in [false, true] {
            let layer = Layer { head_dim, rot_dim, neighbours, rope_scale: 1.25, ..PLAIN };
            each_device(&layer, &[vec![5, 18], vec![1, 1]], 16);
        }
    }
}

/// Rotated where queries and keys are made (few tokens), and from neighbours in a kernel of its own (more).
#[test]
fn rotation_in_the_product() {
    let formats = [Format::F32, Format::Bf16, Format::Affine { bits: 4, group: 32, scales: ScaleType::F16 }];
    for (ix, (n_heads, n_kv_heads, head_dim, rot_dim)) in
        [(4, 2, 32, 32), (1, 1, 2, 2), (3, 1, 6, 4), (9, 3, 20, 10), (5, 5, 34, 34), (8, 1, 64, 16), (6, 2, 80, 80)]
            .into_iter()
            .enumerate()
    {
        let from = From::Products { format: formats[ix % 3], bias: ix % 2 == 1 };
        let layer = Layer { from, n_heads, n_kv_heads, head_dim, rot_dim, rope_scale: 1.25, ..PLAIN };
        each_device(&layer, &[vec![5, 18], vec![1, 1], vec![1, 0], vec![3, 5], vec![7, 1]], 16);
    }
}

/// Heads normed where they are rotated, and by a kernel of their own: heads that fill a workgroup's share and not, codes.
#[test]
fn normed_heads() {
    for (ix, (n_heads, n_kv_heads, head_dim, rot_dim)) in
        [(4, 2, 32, 32), (1, 1, 2, 2), (3, 1, 6, 4), (9, 3, 20, 10), (6, 2, 80, 80), (4, 1, 256, 256)]
            .into_iter()
            .enumerate()
    {
        for norms in [Norms::Rotated, Norms::Apart] {
            let from = From::Products { format: Format::Bf16, bias: ix % 2 == 1 };
            let layer = Layer { from, n_heads, n_kv_heads, head_dim, rot_dim, norms, rope_scale: 1.25, ..PLAIN };
            each_device(&layer, &[vec![5, 18], vec![1, 1]], 16);
        }
    }
    for neighbours in [false, true] {
        let layer = Layer { norms: Norms::Rotated, neighbours, kv: Some(affine(4, 32)), ..PLAIN };
        each_device(&layer, &[vec![5, 18], vec![1, 1]], 16);
    }
}

/// Windows shorter than a page, as long as one, and longer; with first tokens that stay visible.
#[test]
fn windows() {
    for (window, keep) in [(1, 0), (5, 0), (16, 0), (17, 4), (33, 17), (40, 1)] {
        let layer = Layer { window: Window { window, keep }, ..PLAIN };
        each_device(&layer, &[vec![50, 3], vec![1, 70], vec![20, 1], vec![1, 1]], 16);
    }
}

#[test]
fn softcap_bounds_scores() {
    each_device(&Layer { softcap: 1.5, ..PLAIN }, &[vec![20], vec![1]], 16);
}

/// Several blocks of keys, the last one full, short or of one token.
#[test]
fn long_sequences() {
    each_device(&PLAIN, &[vec![300, 1], vec![1, 257], vec![1, 1], vec![129, 0]], 16);
}

/// One token after contexts that are split among workgroups: parts that are full, short and of a sequence that has none.
#[test]
fn split_contexts() {
    let wide = Layer { head_dim: 64, rot_dim: 64, ..PLAIN };
    let layers = [
        wide.clone(),
        Layer { n_heads: 6, head_dim: 128, rot_dim: 128, softcap: 2.0, ..wide.clone() },
        Layer { window: Window { window: 300, keep: 5 }, ..wide.clone() },
        Layer { window: Window { window: 40, keep: 17 }, n_heads: 3, n_kv_heads: 1, ..wide.clone() },
    ];
    let lens = [vec![255, 3], vec![1, 1], vec![1, 0], vec![1, 400], vec![1, 1], vec![1, 1]];
    for layer in layers {
        each_device(&layer, &lens, 16);
    }
}

/// That such contexts take the kernels that are meant for them, where the target has them.
#[test]
fn long_contexts_are_split() {
    let layer = Layer { head_dim: 64, rot_dim: 64, ..PLAIN };
    for device in devices() {
        let target = TargetProfile { prefill_tokens: 64, max_rows: 64, ..device.target() };
        let plan =
            ingot_compiler::compile(&layer.graph(), &target, ingot_compiler::Options::new(1024)).expect("compiles");
        let has = |template| plan.kernels.as_slice().iter().any(|kernel| kernel.spec.template == template);
        for template in [Template::AttentionDecode, Template::AttentionCombine] {
            assert_eq!(has(template), target.splits_kv(), "{template} on {device:?}");
        }
    }
}

/// Scores some nine apart: the greatest so far is passed by much in one block of tokens after the other, by some queries of a
/// tile and not by others.
#[test]
fn greatest_scores_that_are_passed() {
    let layer = Layer { head_dim: 64, rot_dim: 64, rope_scale: 3.0, ..PLAIN };
    each_device(&layer, &[vec![90, 33], vec![35, 2], vec![40, 17]], 16);
    let windowed = Layer { window: Window { window: 50, keep: 3 }, n_heads: 6, ..layer };
    each_device(&windowed, &[vec![120, 20], vec![30, 70]], 16);
}

/// Chunks take matrix units where the target has them and they take what the cache holds.
#[test]
fn chunks_take_matrix_units() {
    let wide = |head_dim| Layer { head_dim, rot_dim: head_dim, ..PLAIN }.graph();
    let template = |graph: &Graph, target: &TargetProfile| {
        let target = TargetProfile { prefill_tokens: 64, max_rows: 64, ..target.clone() };
        let plan = ingot_compiler::compile(graph, &target, ingot_compiler::Options::new(1024)).expect("compiles");
        let chunk =
            plan.variants.iter().find(|(_, variant)| variant.q_tile > 1).expect("a chunk has tiles of queries").0;
        let specs = plan.dispatches_of(chunk).iter().map(|dispatch| &plan.kernels[dispatch.kernel].spec);
        specs.map(|spec| spec.template).find(|template| template.reads_pages())
    };
    for (head_dim, kv, expected) in [
        (64, KvType::F16, Template::AttentionCoop),
        (128, affine(8, 64), Template::AttentionCoop),
        (80, KvType::F16, Template::AttentionCoop),
        (36, KvType::F16, Template::Attention),
        (256, KvType::F16, Template::Attention),
        (64, KvType::F32, Template::Attention),
    ] {
        let targets =
            [TargetProfile::nvidia(), TargetProfile::apple()].map(|target| TargetProfile { kv_type: kv, ..target });
        for target in targets {
            assert_eq!(template(&wide(head_dim), &target), Some(expected), "{} {head_dim} {kv}", target.name);
        }
        let plain = TargetProfile { kv_type: kv, ..TargetProfile::vulkan() };
        assert_eq!(template(&wide(head_dim), &plain), Some(Template::Attention), "{head_dim} {kv}");
    }
}

const fn affine(bits: u8, group: u8) -> KvType {
    KvType::Affine { bits, group }
}

/// Every type of keys and values: chunks and single tokens, windows, contexts in parts, heads with several groups.
#[test]
fn every_kv_type() {
    let types = [KvType::F16, KvType::F32, affine(8, 32), affine(8, 64), affine(8, 128), affine(4, 32), affine(4, 64)];
    for (ix, kv) in types.into_iter().chain([affine(4, 128)]).enumerate() {
        let head_dim = kv.group().unwrap_or(32) << (ix % 2);
        let layer = Layer { head_dim, rot_dim: head_dim, kv: Some(kv), ..PLAIN };
        each_device(&layer, &[vec![37, 1], vec![1, 3], vec![1, 0]], 16);
        let wide = Layer { head_dim: 128, rot_dim: 64, neighbours: ix % 2 == 0, n_heads: 6, kv: Some(kv), ..PLAIN };
        each_device(&wide, &[vec![255, 3], vec![1, 1], vec![1, 400], vec![1, 1]], 16);
        let windowed = Layer { window: Window { window: 40, keep: 17 }, ..wide.clone() };
        each_device(&windowed, &[vec![270, 3], vec![1, 1], vec![1, 1]], 16);
        // Rotated where keys are made, if the type lets a product write it.
        let from = From::Products { format: Format::F32, bias: true };
        each_device(&Layer { from, n_heads: 4, ..wide }, &[vec![5, 18], vec![1, 1], vec![1, 0]], 16);
    }
}

/// Heads that no group divides are refused with the type and the size.
#[test]
fn heads_without_groups_are_refused() {
    let graph = Layer { head_dim: 80, rot_dim: 80, ..PLAIN }.graph();
    for target in TargetProfile::presets() {
        let target = TargetProfile { kv_type: affine(8, 64), ..target };
        let error = ingot_compiler::compile(&graph, &target, ingot_compiler::Options::new(64)).expect_err("is refused");
        let text = error.to_string();
        assert!(text.contains("heads of 80") && text.contains("groups of 64"), "{text}");
    }
}

/// Tiles of every size, and chunks that end within them.
#[test]
fn query_tiles() {
    for q_tile in [1, 2, 3, 8, 16] {
        each_device(&PLAIN, &[vec![q_tile, q_tile + 1, 1], vec![2 * q_tile, 1, 3]], q_tile);
    }
}

/// Eight sequences: short prompts, then one token of each, then both, in other orders.
#[test]
fn as_many_sequences_as_a_step_takes() {
    each_device(&PLAIN, &[vec![1, 2, 3, 4, 5, 6, 7, 8], vec![1; 8], vec![3, 0, 1, 0, 2, 1, 17, 1]], 16);
}

#[test]
fn random_layers_and_batches() {
    let heads = prop::sample::select(vec![(1u32, 1u32), (2, 2), (4, 1), (6, 3)]);
    let head_dims = prop::sample::select(vec![(16u32, 16u32), (32, 32), (48, 32), (64, 64), (80, 80), (128, 128)]);
    let window =
        prop_oneof![Just(Window::FULL), (1u32..40, 0u32..20).prop_map(|(window, keep)| Window { window, keep })];
    let from = prop_oneof![
        Just(From::Embedding),
        any::<bool>().prop_map(|bias| From::Products { format: Format::Bf16, bias }),
    ];
    let kv = prop::sample::select(
        [None, None, Some(KvType::F16), Some(KvType::F32), Some(affine(8, 32)), Some(affine(4, 64))].to_vec(),
    );
    let norms = prop::sample::select(vec![Norms::None, Norms::Rotated, Norms::Apart]);
    let layer = (from, heads, head_dims, norms, window, any::<bool>(), kv);
    let layer = layer.prop_map(|(from, heads, (head_dim, rot_dim), norms, window, capped, kv)| {
        let kv = kv.filter(|kv| kv.refuses(head_dim).is_none());
        let softcap = if capped { 2.0 } else { 0.0 };
        Layer {
            from,
            n_heads: heads.0,
            n_kv_heads: heads.1,
            head_dim,
            rot_dim,
            neighbours: false,
            norms,
            window,
            softcap,
            rope_scale: 1.0,
            kv,
        }
    });
    let q_len = prop_oneof![1 => Just(0u32), 3 => Just(1), 2 => 2u32..20, 1 => 20u32..70];
    let q_lens = (1usize..6, 1usize..5).prop_flat_map(move |(n_seqs, n_steps)| {
        prop::collection::vec(prop::collection::vec(q_len.clone(), n_seqs), n_steps)
    });
    let case = (layer, q_lens, prop::sample::select(vec![1u32, 4, 16]), any::<u64>());
    for device in devices() {
        let mut runner = TestRunner::new(cases(&device, 96, 12));
        let result = runner.run(&case, |(layer, q_lens, q_tile, seed)| {
            prop_assume!(q_lens.iter().flatten().any(|n| *n > 0));
            layer.check(&device, &q_lens, q_tile, seed).map_err(TestCaseError::fail)
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
}
