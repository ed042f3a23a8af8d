use crate::support::{DECODE, OPTIONS, PREFILL, graph};
use ingot_compiler::pass::{bucket::Bucket, group, order};
use ingot_compiler::{CompileError, TargetProfile, pipeline, select};
use ingot_ir::graph::Graph;
use ingot_ir::kernel::KernelGraph;
use ingot_ir::size::Dims;
use ingot_tests::random;
use proptest::prelude::*;

fn bucket(bounds: &Dims) -> Bucket {
    Bucket { bounds: *bounds, all_rows: false, max_kv: u32::MAX, max_parts: 1 }
}

fn selected(graph: &Graph, bounds: &Dims) -> Result<KernelGraph, CompileError> {
    let target = TargetProfile::cpu();
    let groups = order::run(graph, group::run(graph, &target, bounds)?);
    let kernels = select::run(graph, &groups, &target, &bucket(bounds), 256)?;
    kernels.verify().expect("select keeps the rules");
    Ok(kernels)
}

#[test]
fn attention_over_slices_of_one_product() {
    let graph = graph(
        "graph attention
         g0 = kv_group heads=1 k=16 v=16 window=8 keep=2
         l0 = kv_layer g0
         w0 = tensor embed layout=stored : 8 x 64 bf16
         w1 = tensor qkv layout=stored : 64 x 64 bf16
         w2 = inline 1.0,0.1,0.01,0.001,1.0,0.1,0.01,0.001 layout=vector : 8 x 1 f32
         v0 = embed w0 : tokens x 64
         v1 = linear v0 w1 : tokens x 64
         v2 = slice v1 at=0 : tokens x 32
         v3 = slice v1 at=32 : tokens x 16
         v4 = slice v1 at=48 : tokens x 16
         v5 = rope v2 w2 heads=2 head_dim=16 : tokens x 32
         v6 = rope v3 w2 heads=1 head_dim=16 : tokens x 16
         v7 = kv_write v6 v4 layer=l0 : tokens x 0
         v8 = attention v5 v7 layer=l0 heads=2 scale=0.25 softcap=20 window=8 keep=2 : tokens x 32
         output v8",
    );
    insta::assert_snapshot!(selected(&graph, &PREFILL).expect("there are kernels"), @r"
    kernels bucket=64,8,16,12
    s0 = slab v0 : tokens x 64
    s1 = slab v1 : tokens x 64
    s2 = slab v5 : tokens x 32
    k0 = embed step<step sampled<sampled weight<w0 out>s0 rows=tokens format=bf16 N_COLS=64 ROW_COUNT=8 ROW_FIRST=0 grid=1 origin=v0
    k1 = matmul step<step x<s0 weight<w1 out>s1 rows=tokens format=bf16 K=64 N=64 OUT_AT=0 OUT_STRIDE=64 grid=1 origin=v1
    k2 = rope_kv step<step q<s1 k<s1 v<s1 freqs<w2 out>s2 kv>l0 rows=tokens HEAD_DIM=16 KV_BITS=32 KV_GROUP=0 K_AT=32 K_STRIDE=64 N_HEADS=2 N_KV_HEADS=1 Q_AT=0 Q_STRIDE=64 ROPE_SCALE=1.0f ROT_DIM=16 V_AT=48 V_STRIDE=64 grid=1 origin=v5,v6,v7
    k3 = attention step<step q<s2 out>logits kv<l0 page_table<g0 rows=tokens HEAD_DIM=16 KEEP=2 KV_BITS=32 MAX_PAGES=16 N_HEADS=2 N_KV_HEADS=1 Q_TILE=16 SCALE=0.25f SOFTCAP=20.0f WINDOW=8 grid=1 origin=v8
    ");
}

#[test]
fn a_split_head_writes_its_columns_of_the_logits() {
    let graph = graph(
        "graph head
         w0 = tensor embed layout=stored : 16 x 32 bf16
         w1 = rows w0 first=0 layout=stored : 8 x 32 bf16
         w2 = rows w0 first=8 layout=stored : 8 x 32 bf16
         v0 = embed w1 w2 : tokens x 32
         v1 = linear v0 w1 : tokens x 8
         v2 = linear v0 w2 : tokens x 8
         v3 = concat v1 v2 : tokens x 16
         v4 = argmax v3 : tokens x 1
         output v3 v4",
    );
    insta::assert_snapshot!(selected(&graph, &DECODE).expect("there are kernels"), @r"
    kernels bucket=1,1,1,1
    s0 = slab v0 : tokens x 32
    s1 = slab v4 : tokens x 4
    k0 = embed step<step sampled<sampled weight<w1 out>s0 rows=tokens format=bf16 N_COLS=32 ROW_COUNT=8 ROW_FIRST=0 grid=1 origin=v0
    k1 = embed step<step sampled<sampled weight<w2 out>s0 rows=tokens format=bf16 N_COLS=32 ROW_COUNT=8 ROW_FIRST=8 grid=1 origin=v0
    k2 = matvec step<step x<s0 weight<w1 out>logits rows=tokens format=bf16 K=32 M_MAX=1 N=8 OUT_AT=0 OUT_STRIDE=16 grid=1 origin=v1
    k3 = matvec step<step x<s0 weight<w2 out>logits rows=tokens format=bf16 K=32 M_MAX=1 N=8 OUT_AT=8 OUT_STRIDE=16 grid=1 origin=v2
    k4 = sample_partial step<step x<logits out>s1 rows=tokens BLOCK=1024 N=16 grid=1 origin=v4
    k5 = sample_final step<step parts<s1 out>sampled rows=tokens BLOCK=1024 N=16 grid=1 origin=v4
    ");
}

#[test]
fn wanted_rows_are_gathered_for_the_head() {
    let graph = graph(
        "graph rows
         w0 = tensor embed layout=stored : 16 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = gather_rows v0 : rows x 32
         v2 = linear v1 w0 : rows x 16
         output v2",
    );
    insta::assert_snapshot!(selected(&graph, &PREFILL).expect("there are kernels"), @r"
    kernels bucket=64,8,16,12
    s0 = slab v0 : tokens x 32
    s1 = slab v1 : rows x 32
    k0 = embed step<step sampled<sampled weight<w0 out>s0 rows=tokens format=bf16 N_COLS=32 ROW_COUNT=16 ROW_FIRST=0 grid=1 origin=v0
    k1 = gather_rows step<step x<s0 out>s1 rows=wanted N_COLS=32 grid=1 origin=v1
    k2 = matvec step<step x<s1 weight<w0 out>logits rows=wanted format=bf16 K=32 M_MAX=8 N=16 OUT_AT=0 OUT_STRIDE=16 grid=1 origin=v2
    ");
}

#[test]
fn a_part_of_a_row_where_a_kernel_reads_whole_rows_is_an_error() {
    let graph = graph(
        "graph part
         w0 = tensor embed layout=stored : 16 x 32 bf16
         v0 = embed w0 : tokens x 32
         v1 = slice v0 at=0 : tokens x 16
         v2 = silu v1 : tokens x 16
         output v2",
    );
    insta::assert_snapshot!(selected(&graph, &DECODE).expect_err("map reads whole rows"), @r"v2: no kernel computes `silu` here (its operand v1 is a part of the rows of v0); this model needs a kernel that Ingot does not have yet");
}

#[test]
fn a_concatenation_of_what_cannot_write_its_columns_is_an_error() {
    for parts in ["v0 v1", "v2 v2", "v2 v3"] {
        let text = format!(
            "graph parts
             w0 = tensor embed layout=stored : 32 x 32 bf16
             v0 = embed w0 : tokens x 32
             v1 = silu v0 : tokens x 32
             v2 = linear v0 w0 : tokens x 32
             v3 = slice v0 at=0 : tokens x 32
             v4 = concat {parts} : tokens x 64
             output v4"
        );
        let error = selected(&graph(&text), &DECODE).expect_err(parts);
        assert!(error.to_string().contains("a part of a concatenation must be a matrix product's result"), "{error}");
    }
}

proptest! {
    #![proptest_config(crate::support::cases(48))]
    #[test]
    fn kernels_cover_the_graph_and_keep_the_rules(graph in random::llama_graph(), target in crate::support::targets(), decode in any::<bool>()) {
        let bounds = if decode { DECODE } else { PREFILL };
        let graph = pipeline::graph_passes(&graph, &target, "assign_layout").expect("passes");
        let bucket = Bucket { bounds, all_rows: decode, max_kv: u32::MAX, max_parts: 1 };
        let graph = pipeline::bucket_graph(&graph, &target, &bucket).expect("rows");
        let kernels = pipeline::bucket_kernels(&graph, &target, &bucket, OPTIONS).expect("kernels");
        for (id, value) in graph.values.iter() {
            let view = matches!(value.op.name(), "slice" | "concat");
            let covered = kernels.nodes.as_slice().iter().any(|node| node.origin.contains(&id));
            prop_assert!(covered != view, "{id} = {} covered: {covered}", value.op.name());
        }
        let read: KernelGraph = kernels.to_string().parse().expect("its own text");
        prop_assert_eq!(read.to_string(), kernels.to_string());
    }
}
