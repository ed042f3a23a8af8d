use crate::support::{OPTIONS, small_cpu, targets};
use ingot_compiler::pipeline::STAGES;
use ingot_compiler::{CompileError, Options, Stage, TargetProfile, compile, explain};
use ingot_ir::graph::Graph;
use ingot_ir::kernel::Place;
use ingot_ir::plan::{Binding, Plan};
use ingot_tests::random::{self, Shape};
use proptest::prelude::*;

/// Everything in a plan, as text.
fn full(plan: &Plan) -> String {
    format!("{plan:#}")
}

#[test]
fn the_plan_of_a_small_model() {
    let shape = Shape { hidden: 32, ffn: 32, n_heads: 2, n_kv_heads: 1, tied: true, ..Shape::llama() };
    let target = small_cpu();
    insta::assert_snapshot!(compile(&shape.graph(), &target, OPTIONS).expect("compiles"), @r#"
    plan "random llama" version=6 target=small-cpu cpu=true vocab=96 context=256 batch=1 page=16 kv=f32 max_binding=4096
    g0 = kv_group heads=1 k=16 v=16
    l0 = kv_layer g0
    a0 = arena 2048
    b0 = weight embed[0+64] layout=stored : 64 x 32 bf16
    b1 = weight embed[64+32] layout=stored : 32 x 32 bf16
    b2 = weight 0.attention_norm[0+32] layout=vector : 32 x 1 f32
    b3 = weight 0.q[0+32] 0.k[0+16] 0.v[0+16] layout=stored : 64 x 32 bf16
    b4 = weight inline=1.0,0.31622776,0.1,0.031622775,0.01,0.0031622776,0.001,0.00031622776 layout=vector : 8 x 1 f32
    b5 = weight 0.o[0+32] layout=stored : 32 x 32 bf16
    b6 = weight 0.mlp_norm[0+32] layout=vector : 32 x 1 f32
    b7 = weight 0.gate[0+32] 0.up[0+32] layout=stored interleaved=true : 64 x 32 bf16
    b8 = weight 0.down[0+32] layout=stored : 32 x 32 bf16
    b9 = weight norm[0+32] layout=vector : 32 x 1 f32
    p0 = embed rows=tokens format=bf16 N_COLS=32 ROW_COUNT=64 ROW_FIRST=0 workgroup=1,1,1
    p1 = embed rows=tokens format=bf16 N_COLS=32 ROW_COUNT=32 ROW_FIRST=64 workgroup=1,1,1
    p2 = matvec rows=tokens format=bf16 prologue=rms_norm EPS=1e-5f K=32 M_MAX=1 N=64 OUT_AT=0 OUT_STRIDE=64 workgroup=1,1,1
    p3 = rope_kv rows=tokens HEAD_DIM=16 KV_BITS=32 KV_GROUP=0 K_AT=32 K_STRIDE=64 N_HEADS=2 N_KV_HEADS=1 Q_AT=0 Q_STRIDE=64 ROPE_SCALE=1.0f ROT_DIM=16 V_AT=48 V_STRIDE=64 workgroup=1,1,1
    p4 = attention rows=tokens HEAD_DIM=16 KEEP=0 KV_BITS=32 MAX_PAGES=16 N_HEADS=2 N_KV_HEADS=1 Q_TILE=1 SCALE=0.25f SOFTCAP=0.0f WINDOW=0 workgroup=1,1,1
    p5 = matvec rows=tokens format=bf16 epilogue=add_out K=32 M_MAX=1 N=32 OUT_AT=0 OUT_STRIDE=32 workgroup=1,1,1
    p6 = matvec rows=tokens format=bf16 prologue=rms_norm epilogue=silu_mul_pairs EPS=1e-5f K=32 M_MAX=1 N=64 OUT_AT=0 OUT_STRIDE=32 workgroup=1,1,1
    p7 = matvec rows=tokens format=bf16 prologue=rms_norm EPS=1e-5f K=32 M_MAX=1 N=64 OUT_AT=0 OUT_STRIDE=96 workgroup=1,1,1
    p8 = matvec rows=tokens format=bf16 prologue=rms_norm EPS=1e-5f K=32 M_MAX=1 N=32 OUT_AT=64 OUT_STRIDE=96 workgroup=1,1,1
    p9 = sample_partial rows=tokens BLOCK=1024 N=96 workgroup=1,1,1
    p10 = sample_final rows=tokens BLOCK=1024 N=96 workgroup=1,1,1
    p11 = matvec rows=tokens format=bf16 prologue=rms_norm EPS=1e-5f K=32 M_MAX=2 N=64 OUT_AT=0 OUT_STRIDE=64 workgroup=1,1,1
    p12 = attention rows=tokens HEAD_DIM=16 KEEP=0 KV_BITS=32 MAX_PAGES=16 N_HEADS=2 N_KV_HEADS=1 Q_TILE=2 SCALE=0.25f SOFTCAP=0.0f WINDOW=0 workgroup=1,1,1
    p13 = gather_rows rows=wanted N_COLS=32 workgroup=1,1,1
    p14 = matvec rows=wanted format=bf16 epilogue=add_out K=32 M_MAX=1 N=32 OUT_AT=0 OUT_STRIDE=32 workgroup=1,1,1
    p15 = matvec rows=wanted format=bf16 prologue=rms_norm epilogue=silu_mul_pairs EPS=1e-5f K=32 M_MAX=1 N=64 OUT_AT=0 OUT_STRIDE=32 workgroup=1,1,1
    p16 = matvec rows=wanted format=bf16 prologue=rms_norm EPS=1e-5f K=32 M_MAX=1 N=64 OUT_AT=0 OUT_STRIDE=96 workgroup=1,1,1
    p17 = matvec rows=wanted format=bf16 prologue=rms_norm EPS=1e-5f K=32 M_MAX=1 N=32 OUT_AT=64 OUT_STRIDE=96 workgroup=1,1,1
    p18 = sample_partial rows=wanted BLOCK=1024 N=96 workgroup=1,1,1
    p19 = sample_final rows=wanted BLOCK=1024 N=96 workgroup=1,1,1
    p20 = matmul rows=tokens format=bf16 prologue=rms_norm EPS=1e-5f K=32 N=64 OUT_AT=0 OUT_STRIDE=64 workgroup=1,1,1
    x0 = variant bounds=1,1,1,1 q_tile=1 all_rows=true
      d0 = dispatch p0 step<step sampled<sampled weight<b0 out>a0@256+128 grid=1 origin=v0
      d1 = dispatch p1 step<step sampled<sampled weight<b1 out>a0@256+128 grid=1 origin=v0
      d2 = dispatch p2 step<step norm_weight<b2 x<a0@256+128 weight<b3 out>a0@0+256 grid=1 origin=v1,v2
      d3 = dispatch p3 step<step q<a0@0+256 k<a0@0+256 v<a0@0+256 freqs<b4 out>a0@512+128 kv>l0 grid=1 origin=v6,v7,v8
      d4 = dispatch p4 step<step q<a0@512+128 out>a0@0+128 kv<l0 page_table<g0 grid=1 origin=v9
      d5 = dispatch p5 step<step x<a0@0+128 weight<b5 out>a0@256+128 grid=1 origin=v10,v11
      d6 = dispatch p6 step<step norm_weight<b6 x<a0@256+128 weight<b7 out>a0@0+128 grid=1 origin=v12,v13,v14
      d7 = dispatch p5 step<step x<a0@0+128 weight<b8 out>a0@256+128 grid=1 origin=v15,v16
      d8 = dispatch p7 step<step norm_weight<b9 x<a0@256+128 weight<b0 out>logits grid=1 origin=v17,v18
      d9 = dispatch p8 step<step norm_weight<b9 x<a0@256+128 weight<b1 out>logits grid=1 origin=v17,v19
      d10 = dispatch p9 step<step x<logits out>a0@0+16 grid=1 origin=v21
      d11 = dispatch p10 step<step parts<a0@0+16 out>sampled grid=1 origin=v21
    x1 = variant bounds=2,1,2,2 q_tile=2
      d12 = dispatch p0 step<step sampled<sampled weight<b0 out>a0@512+256 grid=1 origin=v0
      d13 = dispatch p1 step<step sampled<sampled weight<b1 out>a0@512+256 grid=1 origin=v0
      d14 = dispatch p11 step<step norm_weight<b2 x<a0@512+256 weight<b3 out>a0@0+512 grid=1 origin=v1,v2
      d15 = dispatch p3 step<step q<a0@0+512 k<a0@0+512 v<a0@0+512 freqs<b4 out>a0@768+256 kv>l0 grid=1 origin=v6,v7,v8
      d16 = dispatch p12 step<step q<a0@768+256 out>a0@0+256 kv<l0 page_table<g0 grid=1 origin=v9
      d17 = dispatch p13 step<step x<a0@0+256 out>a0@256+256 grid=1 origin=v10
      d18 = dispatch p13 step<step x<a0@512+256 out>a0@0+256 grid=1 origin=v12
      d19 = dispatch p14 step<step x<a0@256+256 weight<b5 out>a0@0+256 grid=1 origin=v11,v13
      d20 = dispatch p15 step<step norm_weight<b6 x<a0@0+256 weight<b7 out>a0@256+256 grid=1 origin=v14,v15,v16
      d21 = dispatch p14 step<step x<a0@256+256 weight<b8 out>a0@0+256 grid=1 origin=v17,v18
      d22 = dispatch p16 step<step norm_weight<b9 x<a0@0+256 weight<b0 out>logits grid=1 origin=v19,v20
      d23 = dispatch p17 step<step norm_weight<b9 x<a0@0+256 weight<b1 out>logits grid=1 origin=v19,v21
      d24 = dispatch p18 step<step x<logits out>a0@0+32 grid=1 origin=v23
      d25 = dispatch p19 step<step parts<a0@0+32 out>sampled grid=1 origin=v23
    x2 = variant bounds=4,1,4,3 q_tile=2
      d26 = dispatch p0 step<step sampled<sampled weight<b0 out>a0@1024+512 grid=1 origin=v0
      d27 = dispatch p1 step<step sampled<sampled weight<b1 out>a0@1024+512 grid=1 origin=v0
      d28 = dispatch p20 step<step norm_weight<b2 x<a0@1024+512 weight<b3 out>a0@0+1024 grid=1 origin=v1,v2
      d29 = dispatch p3 step<step q<a0@0+1024 k<a0@0+1024 v<a0@0+1024 freqs<b4 out>a0@1536+512 kv>l0 grid=1 origin=v6,v7,v8
      d30 = dispatch p12 step<step q<a0@1536+512 out>a0@0+512 kv<l0 page_table<g0 grid=1 origin=v9
      d31 = dispatch p13 step<step x<a0@0+512 out>a0@512+512 grid=1 origin=v10
      d32 = dispatch p13 step<step x<a0@1024+512 out>a0@0+512 grid=1 origin=v12
      d33 = dispatch p14 step<step x<a0@512+512 weight<b5 out>a0@0+512 grid=1 origin=v11,v13
      d34 = dispatch p15 step<step norm_weight<b6 x<a0@0+512 weight<b7 out>a0@512+512 grid=1 origin=v14,v15,v16
      d35 = dispatch p14 step<step x<a0@512+512 weight<b8 out>a0@0+512 grid=1 origin=v17,v18
      d36 = dispatch p16 step<step norm_weight<b9 x<a0@0+512 weight<b0 out>logits grid=1 origin=v19,v20
      d37 = dispatch p17 step<step norm_weight<b9 x<a0@0+512 weight<b1 out>logits grid=1 origin=v19,v21
      d38 = dispatch p18 step<step x<logits out>a0@0+64 grid=1 origin=v23
      d39 = dispatch p19 step<step parts<a0@0+64 out>sampled grid=1 origin=v23
    "#);
}

#[test]
fn every_stage_can_be_shown() {
    let graph = Shape::llama().graph();
    for target in [TargetProfile::cpu(), TargetProfile::lavapipe()] {
        for stage in STAGES {
            let text = explain(&graph, &target, OPTIONS, *stage).unwrap_or_else(|error| panic!("{stage:?}: {error}"));
            assert!(!text.is_empty(), "{stage:?}");
            if matches!(stage, Stage::Graph(name) if *name != "drop_unused_rows") {
                assert_eq!(text.parse::<Graph>().expect("its own text").to_string(), text, "{stage:?}");
            }
        }
    }
}

#[test]
fn weights_are_in_the_plan_once() {
    let plan =
        compile(&Shape { tied: true, ..Shape::llama() }.graph(), &TargetProfile::cpu(), OPTIONS).expect("compiles");
    let mut seen: Vec<String> =
        plan.weights.as_slice().iter().map(|w| format!("{:?}{:?}", w.segments, w.inline)).collect();
    seen.sort();
    let n = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), n);
    assert!(plan.kernels.len() < plan.dispatches.len(), "equal kernels are one");
}

/// One of four experts is a quarter of the stacks' bytes, two of four are half of them; a chunk may take all.
#[test]
fn a_token_reads_the_experts_that_it_takes() {
    use ingot_ir::plan::VariantId;
    let plan = |k| {
        let shape = Shape { experts: Some((4, k)), ..Shape::llama() };
        compile(&shape.graph(), &TargetProfile::cpu(), OPTIONS).expect("compiles")
    };
    let stacks = 4 * 3 * 64 * 96 * 2;
    let [one, two, all] = [1, 2, 4].map(|k| plan(k).weight_bytes_of(VariantId(0)));
    assert_eq!((two - one, all - one), (stacks / 4, 3 * stacks / 4));
    let chunk = |k| plan(k).variants.ids().map(|id| plan(k).weight_bytes_of(id)).max();
    assert_eq!(chunk(1), chunk(4));
}

/// However many variants there are, a driver compiles few pipelines.
#[test]
fn equal_kernels_of_variants_are_one_pipeline() {
    let graph = ingot::RandomShape::named("llama-8b").expect("a known shape").graph().expect("its graph");
    for target in TargetProfile::presets() {
        for max_batch in [1, 32] {
            let plan = compile(&graph, &target, Options { max_batch, ..Options::new(8192) }).expect("compiles");
            let n = plan.kernels.len();
            let most = [40, 60, 48, 72][2 * usize::from(target.has_matrix_units()) + usize::from(max_batch > 1)];
            assert!(n <= most, "{n} pipelines for {} with {max_batch} sequences", target.name);
            let kernels = plan.kernels.as_slice();
            let again = (1..n).find(|ix| kernels[..*ix].contains(&kernels[*ix]));
            assert_eq!(again, None, "a kernel of {} stands twice", target.name);
        }
    }
}

#[test]
fn a_latent_is_declined_with_its_name() {
    let error = compile(&random::latent_graph(2, 32, 16), &TargetProfile::cpu(), OPTIONS).expect_err("no kernel");
    assert!(matches!(error, CompileError::NoKernel { .. }));
    assert!(error.to_string().contains("kv_write"), "{error}");
}

proptest! {
    #![proptest_config(crate::support::cases(24))]
    #[test]
    fn compiled_twice_it_is_the_same_bytes(graph in random::llama_graph(), target in targets()) {
        let plan = compile(&graph, &target, OPTIONS).expect("compiles");
        let again = compile(&graph, &target, OPTIONS).expect("compiles");
        let text = full(&plan);
        prop_assert!(text == full(&again));
        let read: Plan = text.parse().expect("its own text");
        prop_assert!(text == full(&read));
    }

    /// The interpretation of every dispatch's origin is its oracle, so origins must name what the kernels write.
    #[test]
    fn plans_stay_within_their_target(graph in random::llama_graph(), target in targets()) {
        let plan = compile(&graph, &target, OPTIONS).expect("compiles");
        prop_assert!(plan.verify().is_ok());
        for (_, weight) in plan.weights.iter() {
            prop_assert!(weight.n_bytes() <= target.max_binding_bytes);
            let all_known = weight.segments.iter().all(|segment| graph.weights.iter().any(|(_, w)| matches!(&w.source, ingot_ir::weight::Source::Tensor(name) if *name == segment.tensor)));
            prop_assert!(all_known);
        }
        for (_, dispatch) in plan.dispatches.iter() {
            prop_assert!(!dispatch.origin.is_empty());
            for operand in plan.operands_of(dispatch) {
                if let Binding::Arena { n_bytes, .. } = operand.binding {
                    prop_assert!(n_bytes <= target.max_binding_bytes);
                }
            }
            if !target.is_cpu {
                prop_assert!(plan.operands_of(dispatch).len() <= 8, "WebGPU guarantees 8 storage buffers");
            }
        }
        for (id, variant) in plan.variants.iter() {
            prop_assert!(plan.variant_for(&variant.bounds, variant.max_kv) == Some(id));
        }
    }
}

/// Kernels of a bucket name values of the bucket's graph only.
#[test]
fn places_are_those_of_the_bucket() {
    let kernels =
        crate::support::kernels(&Shape::llama().graph(), &TargetProfile::cpu(), crate::support::PREFILL, false);
    let logits = kernels
        .nodes
        .as_slice()
        .iter()
        .flat_map(|node| &node.operands)
        .filter(|operand| operand.place == Place::Logits)
        .count();
    assert_eq!(logits, 2, "the head writes them, the argmax reads them");
}
