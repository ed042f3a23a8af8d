//! "This block becomes exactly these kernels."

use crate::support::{DECODE, PREFILL, kernels, summary};
use ingot_compiler::TargetProfile;
use ingot_compiler::target::Fusion;
use ingot_ir::kernel::{KernelSpec, Template};
use ingot_ir::kv::KvType;
use ingot_ir::size::Dims;
use ingot_ir::weight::Format;
use ingot_tests::random::{AFFINE4, Shape};

fn decode(shape: &Shape, target: &TargetProfile) -> String {
    summary(&kernels(&shape.graph(), target, DECODE, true))
}

fn prefill(shape: &Shape, target: &TargetProfile) -> String {
    summary(&kernels(&shape.graph(), target, PREFILL, false))
}

/// The kernels without those that choose tokens, of which a GPU has more than the processor.
fn but_choosing(kernels: &str) -> Vec<&str> {
    kernels.lines().filter(|kernel| !kernel.starts_with("sample")).collect()
}

fn without(fusion: Fusion) -> TargetProfile {
    TargetProfile { declined: vec![Fusion::RopeKv, fusion], ..TargetProfile::cpu() }
}

#[test]
fn llama_decoding() {
    insta::assert_snapshot!(decode(&Shape::llama(), &TargetProfile::cpu()), @r"
    embed bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec bf16 > add_out
    rms_norm > matvec bf16 > silu_mul_pairs
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

/// Five kernels a layer.
#[test]
fn llama_decoding_on_a_gpu() {
    for target in [TargetProfile::vulkan(), TargetProfile::apple(), TargetProfile::webgpu(), TargetProfile::lavapipe()]
    {
        insta::allow_duplicates! {
            insta::assert_snapshot!(decode(&Shape::llama(), &target), @r"
            embed bf16
            rms_norm > matvec bf16 > rope_kv
            attention
            matvec bf16 > add_out
            rms_norm > matvec bf16 > silu_mul_pairs
            matvec bf16 > add_out
            rms_norm > matvec bf16
            sample_partial
            sample_bins
            sample_gather
            sample_final
            sample_filter
            ");
        }
    }
    let tied = Shape { tied: true, ..Shape::llama() };
    assert_eq!(decode(&tied, &TargetProfile::vulkan()), decode(&Shape::llama(), &TargetProfile::vulkan()));
}

/// Biases of q, k and v, as Qwen 2 has them.
#[test]
fn qwen2_decoding_on_a_gpu() {
    let shape = Shape { attention_bias: true, formats: [AFFINE4; 8], ..Shape::llama() };
    insta::assert_snapshot!(decode(&shape, &TargetProfile::vulkan()), @r"
    embed affine4g32_bf16
    rms_norm > matvec affine4g32_bf16 > bias(0) > rope_kv
    attention
    matvec affine4g32_bf16 > bias(0) > add_out
    rms_norm > matvec affine4g32_bf16 > silu_mul_pairs
    matvec affine4g32_bf16 > add_out
    rms_norm > matvec affine4g32_bf16
    sample_partial
    sample_bins
    sample_gather
    sample_final
    sample_filter
    ");
}

/// Norms of heads, as Qwen 3 has them: one kernel more, which rotates what it norms; without the fusion two more.
#[test]
fn normed_heads() {
    let shape = Shape { head_norms: true, ..Shape::llama() };
    let declined = vec![Fusion::HeadNorm];
    let apart = TargetProfile { declined: declined.clone(), ..TargetProfile::vulkan() };
    insta::assert_snapshot!(decode(&shape, &TargetProfile::vulkan()), @r"
    embed bf16
    rms_norm > matvec bf16
    rms_norm > rope_kv
    attention
    matvec bf16 > add_out
    rms_norm > matvec bf16 > silu_mul_pairs
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_bins
    sample_gather
    sample_final
    sample_filter
    ");
    assert_eq!(
        but_choosing(&decode(&shape, &TargetProfile::cpu())),
        but_choosing(&decode(&shape, &TargetProfile::vulkan()))
    );
    insta::assert_snapshot!(decode(&shape, &apart), @r"
    embed bf16
    rms_norm > matvec bf16
    rms_norm
    rms_norm
    rope_kv
    attention
    matvec bf16 > add_out
    rms_norm > matvec bf16 > silu_mul_pairs
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_bins
    sample_gather
    sample_final
    sample_filter
    ");
}

/// Norms after attention and MLP, as Gemma has them, add to the stream themselves: one kernel more each.
#[test]
fn gemma_decoding() {
    let shape = Shape { gemma: true, head_norms: true, ..Shape::llama() };
    insta::assert_snapshot!(decode(&shape, &TargetProfile::vulkan()), @r"
    embed bf16
    rms_norm > matvec bf16
    rms_norm > rope_kv
    attention
    matvec bf16
    rms_norm > add_out
    rms_norm > matvec bf16 > gelu_mul_pairs
    matvec bf16
    rms_norm > add_out
    rms_norm > matvec bf16 > softcap
    sample_partial
    sample_bins
    sample_gather
    sample_final
    sample_filter
    ");
    let declined = vec![Fusion::NormResidual, Fusion::EmbedScale];
    let apart = decode(&shape, &TargetProfile { declined, ..TargetProfile::vulkan() });
    assert_eq!(
        apart.lines().filter(|line| line.starts_with("map")).collect::<Vec<_>>(),
        ["map > scale", "map > add_out", "map > add_out"]
    );
}

/// The rotation needs q, k and v of one format.
#[test]
fn unlike_formats_on_a_gpu() {
    let (a, b) = (AFFINE4, Format::Bf16);
    let shape = Shape { formats: [a, a, b, a, a, a, a, b], ..Shape::llama() };
    insta::assert_snapshot!(decode(&shape, &TargetProfile::vulkan()), @r"
    embed bf16
    rms_norm > matvec affine4g32_bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec affine4g32_bf16 > add_out
    rms_norm > matvec affine4g32_bf16 > silu_mul_pairs
    matvec affine4g32_bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_bins
    sample_gather
    sample_final
    sample_filter
    ");
}

/// A product does not see a group's range, so that codes are written by a kernel of their own; floats are not.
#[test]
fn types_of_keys_and_values() {
    let shape = Shape { head_dim: 32, ..Shape::llama() };
    let decodes = |kv_type| decode(&shape, &TargetProfile { kv_type, ..TargetProfile::vulkan() });
    assert_eq!(decodes(KvType::F32), decodes(KvType::F16));
    let codes = decodes(KvType::Affine { bits: 8, group: 32 });
    assert_eq!(but_choosing(&codes), but_choosing(&decode(&shape, &TargetProfile::cpu())));
}

#[test]
fn declined_rope_kv() {
    let target = TargetProfile { declined: vec![Fusion::RopeKv], ..TargetProfile::vulkan() };
    let kernels = |target: &TargetProfile| decode(&Shape::llama(), target);
    assert_eq!(but_choosing(&kernels(&target)), but_choosing(&kernels(&TargetProfile::cpu())));
}

#[test]
fn llama_prefill_on_the_cpu() {
    insta::assert_snapshot!(prefill(&Shape::llama(), &TargetProfile::cpu()), @r"
    embed bf16
    rms_norm > matmul bf16
    rope_kv
    attention
    gather_rows
    gather_rows
    matvec bf16 > add_out
    rms_norm > matvec bf16 > silu_mul_pairs
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn llama_prefill_on_a_gpu() {
    insta::assert_snapshot!(prefill(&Shape::llama(), &TargetProfile::vulkan()), @r"
    embed bf16
    rms_norm
    matmul bf16
    rope_kv
    attention
    gather_rows
    gather_rows
    matvec bf16 > add_out
    rms_norm > matvec bf16 > silu_mul_pairs
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_bins
    sample_gather
    sample_final
    sample_filter
    ");
}

#[test]
fn a_tied_head_is_the_same_kernels() {
    let tied = Shape { tied: true, ..Shape::llama() };
    assert_eq!(decode(&tied, &TargetProfile::cpu()), decode(&Shape::llama(), &TargetProfile::cpu()));
}

#[test]
fn biases_join_their_products() {
    insta::assert_snapshot!(decode(&Shape { attention_bias: true, mlp_bias: true, ..Shape::llama() }, &TargetProfile::cpu()), @r"
    embed bf16
    rms_norm > matvec bf16 > bias(0)
    rope_kv
    attention
    matvec bf16 > bias(0) > add_out
    rms_norm > matvec bf16 > bias(0) > silu_mul_pairs
    matvec bf16 > bias(0) > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn unlike_formats() {
    let (a, b, c) = (AFFINE4, Format::Bf16, Format::F16);
    insta::assert_snapshot!(decode(&Shape { formats: [a, a, b, a, b, c, a, b], ..Shape::llama() }, &TargetProfile::cpu()), @r"
    embed bf16
    rms_norm > matvec affine4g32_bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec affine4g32_bf16 > add_out
    rms_norm > matvec f16
    rms_norm > matvec bf16 > silu > mul(0)
    matvec affine4g32_bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn up_before_gate_is_the_same_kernels() {
    let up_first = Shape { up_first: true, ..Shape::llama() };
    assert_eq!(decode(&up_first, &TargetProfile::cpu()), decode(&Shape::llama(), &TargetProfile::cpu()));
}

#[test]
fn a_head_beyond_the_binding_limit() {
    let target = TargetProfile { max_binding_bytes: 96 * 64, ..TargetProfile::cpu() };
    let shape = Shape {
        ffn: 32,
        formats: [Format::Bf16, Format::Bf16, Format::Bf16, Format::Bf16, AFFINE4, AFFINE4, AFFINE4, Format::Bf16],
        ..Shape::llama()
    };
    insta::assert_snapshot!(decode(&shape, &target), @r"
    embed bf16
    embed bf16
    rms_norm > matvec bf16
    rms_norm > matvec bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec bf16
    matvec bf16
    map > add_out
    rms_norm > matvec affine4g32_bf16 > silu_mul_pairs
    matvec affine4g32_bf16 > add_out
    rms_norm > matvec bf16
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn declined_norm_prologue() {
    insta::assert_snapshot!(decode(&Shape::llama(), &without(Fusion::NormPrologue)), @r"
    embed bf16
    rms_norm
    matvec bf16
    rope_kv
    attention
    matvec bf16 > add_out
    rms_norm
    matvec bf16 > silu_mul_pairs
    matvec bf16 > add_out
    rms_norm
    matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn declined_gate_pairs() {
    insta::assert_snapshot!(decode(&Shape::llama(), &without(Fusion::GatePairs)), @r"
    embed bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec bf16 > add_out
    rms_norm > matvec bf16
    rms_norm > matvec bf16 > silu > mul(0)
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn declined_activation() {
    let target =
        TargetProfile { declined: vec![Fusion::RopeKv, Fusion::GatePairs, Fusion::Activation], ..TargetProfile::cpu() };
    insta::assert_snapshot!(decode(&Shape::llama(), &target), @r"
    embed bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec bf16 > add_out
    rms_norm > matvec bf16
    map > silu
    rms_norm > matvec bf16 > mul(0)
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn declined_multiply() {
    let target =
        TargetProfile { declined: vec![Fusion::RopeKv, Fusion::GatePairs, Fusion::Multiply], ..TargetProfile::cpu() };
    insta::assert_snapshot!(decode(&Shape::llama(), &target), @r"
    embed bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec bf16 > add_out
    rms_norm > matvec bf16 > silu
    rms_norm > matvec bf16
    map > mul(0)
    matvec bf16 > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

#[test]
fn declined_residual() {
    insta::assert_snapshot!(decode(&Shape::llama(), &without(Fusion::Residual)), @r"
    embed bf16
    rms_norm > matvec bf16
    rope_kv
    attention
    matvec bf16
    map > add_out
    rms_norm > matvec bf16 > silu_mul_pairs
    matvec bf16
    map > add_out
    rms_norm > matvec bf16
    sample_partial
    sample_final
    ");
}

/// Between attention and the next layer: router, route, gate and up with activation, down, the sum with the residual.
#[test]
fn a_mixture_is_five_kernels() {
    let shape = Shape { experts: Some((4, 2)), ..Shape::llama() };
    for target in [TargetProfile::cpu(), TargetProfile::vulkan(), TargetProfile::webgpu()] {
        let found = decode(&shape, &target);
        let layer: Vec<&str> =
            found.lines().skip_while(|kernel| !kernel.starts_with("attention")).skip(2).take(5).collect();
        let expected = [
            "rms_norm > matvec bf16",
            "moe_route",
            "rms_norm > matvec bf16 > silu_mul_pairs",
            "matvec bf16",
            "moe_sum > add_out",
        ];
        assert_eq!(layer, expected, "{}:\n{found}", target.name);
    }
}

/// A chunk's products are sorted by expert once a layer, for both products with experts. The processor sorts them itself, few
/// rows take experts one by one, and so do rows of which an expert has few.
#[test]
fn a_chunk_of_a_mixture_is_sorted_by_expert() {
    let layer = |experts, target: &TargetProfile| {
        let shape = Shape { experts: Some(experts), n_layers: 2, ..Shape::llama() };
        let found = prefill(&shape, target);
        let first = found.lines().skip_while(|kernel| *kernel != "moe_route").skip(1);
        first.take_while(|kernel| !kernel.starts_with("moe_sum")).map(String::from).collect::<Vec<_>>().join("\n")
    };
    let one_by_one = "matvec bf16 > silu_mul_pairs\nmatvec bf16";
    for target in [TargetProfile::vulkan(), TargetProfile::apple(), TargetProfile::webgpu(), TargetProfile::nvidia()] {
        let product = if target.has_matrix_units() { "matmul_coop bf16" } else { "matmul bf16" };
        let sorted = format!("moe_order\n{product} > silu_mul_pairs\n{product}");
        assert_eq!(layer((4, 2), &target), sorted, "{}", target.name);
        assert_eq!(layer((8, 1), &target), layer((4, 2), &target));
        assert_eq!(layer((9, 1), &target), format!("rms_norm > {one_by_one}"));
    }
    assert!(!layer((4, 2), &TargetProfile::cpu()).contains("moe_order"));
}

/// What many rows multiply with on matrix units: norms, attention and the MLP's activation leave it half rows. A step of few
/// rows reads weights at memory speed instead; one of some more has smaller tiles; f32 weights are not rounded.
#[test]
fn products_of_many_rows_take_matrix_units() {
    // Of the last layer few rows are wanted.
    let shape = Shape { n_layers: 2, formats: [AFFINE4; 8], ..Shape::llama() };
    let chunk = |target: &TargetProfile, tokens: u32, shape: &Shape| {
        let bounds = Dims { tokens, sequences: 1, rows: 1, tiles: tokens, filtered: 1 };
        let kernels = kernels(&shape.graph(), target, bounds, false);
        let products = kernels.nodes.as_slice().iter().filter(|node| node.spec.template == Template::MatmulCoop);
        products.map(|node| node.spec.clone()).collect::<Vec<_>>()
    };
    for (target, most, side) in [(TargetProfile::nvidia(), 4, 16), (TargetProfile::apple(), 16, 8)] {
        assert!(chunk(&target, most, &shape).is_empty(), "{}", target.name);
        let products = chunk(&target, 512, &shape);
        assert!(products.len() >= 4 && products.iter().all(|spec| spec.u32("SIDE") == Some(side)), "{}", target.name);
        assert!(products.iter().all(|spec| spec.u32("X_HALF") == Some(1)), "{}", target.name);
        let short = chunk(&target, most + 1, &shape);
        let tile = (most + 1).next_power_of_two().max(16);
        assert!(short.iter().all(|spec| spec.u32("TILE_M") == Some(tile)), "{}", target.name);
        let exact = Shape { formats: [Format::F32; 8], ..shape.clone() };
        assert!(chunk(&target, 512, &exact).is_empty(), "{}", target.name);
    }
    assert!(chunk(&TargetProfile::vulkan(), 512, &shape).is_empty());
}

/// Tiles of a step's rows where it has few; of more rows half the tile, where whole ones would leave much of the device idle.
#[test]
fn tiles_on_matrix_units_are_as_many_as_a_device_wants() {
    let graph = ingot::RandomShape::named("llama-8b").expect("a known shape").graph().expect("its graph");
    let tiles = |tokens: u32| {
        let bounds = Dims { tokens, sequences: 1, rows: 1, tiles: tokens, filtered: 1 };
        let kernels = kernels(&graph, &TargetProfile::nvidia(), bounds, false);
        let tile = |n: u32, k: u32| {
            let specs = kernels.nodes.as_slice().iter().map(|node| &node.spec);
            let of_shape = |spec: &&KernelSpec| spec.u32("N") == Some(n) && spec.u32("K") == Some(k);
            let spec = specs.filter(|spec| spec.template == Template::MatmulCoop).find(of_shape).expect("a product");
            (spec.u32("TILE_M"), spec.u32("SLICES"))
        };
        [tile(28_672, 4096), tile(6144, 4096), tile(4096, 4096)]
    };
    assert_eq!(tiles(512), [(None, None); 3]);
    assert_eq!(tiles(256), [(None, None), (Some(64), Some(1)), (Some(64), Some(1))]);
    assert_eq!(tiles(64), [(Some(64), None); 3]);
    assert_eq!(tiles(16), [(Some(16), None); 3]);
}

/// Experts multiply in half precision where the device does, and leave half rows to each other; what chooses them does not.
#[test]
fn a_router_is_in_single_precision() {
    let shape = Shape { experts: Some((4, 2)), formats: [AFFINE4; 8], ..Shape::llama() };
    let kernels = kernels(&shape.graph(), &TargetProfile::nvidia(), DECODE, true);
    let number = |name: &str| -> Vec<Option<u32>> {
        let products = kernels
            .nodes
            .as_slice()
            .iter()
            .filter(|node| node.spec.u32("EXPERTS").is_some() && node.spec.weight.is_some());
        products.map(|node| node.spec.u32(name)).collect()
    };
    assert_eq!(number("HALF"), [Some(1), Some(1)]);
    assert_eq!((number("OUT_HALF"), number("X_HALF")), (vec![Some(1), None], vec![None, Some(1)]));
    let router = kernels.nodes.as_slice().iter().find(|node| node.spec.u32("N") == Some(4)).expect("a router");
    assert_eq!(router.spec.u32("HALF"), None);
}
