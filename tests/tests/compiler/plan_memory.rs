use crate::support::{DECODE, OPTIONS, PREFILL, kernels, targets};
use ingot_compiler::pass::plan_memory::{MemoryPlan, lower_bound, run};
use ingot_compiler::pipeline::{bucket_graph, bucket_kernels, graph_passes};
use ingot_compiler::{Options, TargetProfile, compile};
use ingot_ir::kernel::{Access, KernelGraph, Place, SlabId};
use ingot_ir::plan::BINDING_ALIGN;
use ingot_tests::random;
use proptest::prelude::*;
use std::fmt::Write;

fn show(kernels: &KernelGraph) -> String {
    let plan = run(kernels, &TargetProfile::vulkan());
    let mut text = String::new();
    for id in kernels.slabs.ids() {
        let range = plan.ranges[id].expect("every slab has memory");
        let _ = writeln!(text, "{id}: {}@{}+{}", range.arena, range.offset, range.n_bytes);
    }
    let _ = writeln!(text, "buffers: {:?}, at least {}", plan.arenas, lower_bound(kernels));
    text
}

#[test]
fn a_chain_alternates_between_two_buffers() {
    let text = "kernels bucket=4,1,1,1
         s0 = slab v0 : tokens x 32
         s1 = slab v1 : tokens x 64
         s2 = slab v2 : tokens x 32
         s3 = slab v3 : tokens x 32 in_place_of=s2
         k0 = embed out>s0 rows=tokens grid=1 origin=v0
         k1 = map x<s0 out>s1 rows=tokens grid=1 origin=v1
         k2 = map x<s1 out>s2 rows=tokens grid=1 origin=v2
         k3 = map x<s0 out>s3 rows=tokens grid=1 origin=v3
         k4 = map x<s3 out>logits rows=tokens grid=1 origin=v4";
    // `in_place_of` is printed after the operands, so the text is read from its canonical form.
    let text = text.replace(" : tokens x 32 in_place_of=s2", " in_place_of=s2 : tokens x 32");
    insta::assert_snapshot!(show(&text.parse().unwrap_or_else(|error| panic!("{error}"))), @r"
    s0: a1@0+512
    s1: a0@0+1024
    s2: a2@0+512
    s3: a2@0+512
    buffers: [1024, 512, 512], at least 2048
    ");
}

/// First write and last use of a slab's memory, by node.
fn life(kernels: &KernelGraph, root: SlabId) -> Option<(u32, u32)> {
    let uses = |node: &ingot_ir::kernel::KernelNode| {
        node.operands.iter().any(|operand| matches!(operand.place, Place::Slab(slab) if kernels.root(slab) == root))
    };
    let mut at = kernels.nodes.iter().filter(|(_, node)| uses(node)).map(|(id, _)| id.0);
    let first = at.next()?;
    Some((first, at.next_back().unwrap_or(first)))
}

fn check(kernels: &KernelGraph, plan: &MemoryPlan, is_cpu: bool) -> Result<(), TestCaseError> {
    let roots: Vec<SlabId> = kernels.slabs.ids().filter(|id| kernels.root(*id) == *id).collect();
    for (ix, &a) in roots.iter().enumerate() {
        let (Some(range), Some((first, last))) = (plan.ranges[a], life(kernels, a)) else { continue };
        let shape = kernels.slabs[a].shape;
        prop_assert_eq!(range.offset % BINDING_ALIGN, 0);
        prop_assert_eq!(range.n_bytes, u64::from(kernels.bucket.get(shape.rows)) * u64::from(shape.n_cols) * 4);
        prop_assert!(range.offset + range.n_bytes <= plan.arenas[range.arena.0 as usize]);
        for &b in &roots[..ix] {
            let (Some(other), Some((first_b, last_b))) = (plan.ranges[b], life(kernels, b)) else { continue };
            let meet_in_time = first <= last_b && first_b <= last;
            let apart = range.arena != other.arena
                || range.offset + range.n_bytes <= other.offset
                || other.offset + other.n_bytes <= range.offset;
            prop_assert!(!meet_in_time || apart, "{a} and {b} share memory while both live");
        }
    }
    for (id, node) in kernels.nodes.iter() {
        for operand in &node.operands {
            let Place::Slab(slab) = operand.place else { continue };
            let range = plan.ranges[slab].expect("a slab in use has memory");
            prop_assert_eq!(plan.ranges[kernels.root(slab)], Some(range));
            for other in node.operands.iter().filter(|other| other.access != operand.access) {
                let Place::Slab(other) = other.place else { continue };
                let other = plan.ranges[other].expect("has memory");
                let apart =
                    range.offset + range.n_bytes <= other.offset || other.offset + other.n_bytes <= range.offset;
                prop_assert!(other.arena != range.arena || (is_cpu && apart), "{id} reads and writes {}", range.arena);
            }
        }
        prop_assert!(node.operands.iter().any(|operand| operand.access == Access::ReadWrite), "{id} writes nothing");
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::support::cases(96))]
    #[test]
    fn live_ranges_are_apart_and_no_kernel_reads_the_buffer_that_it_writes(graph in random::llama_graph(), target in targets(), decode in any::<bool>()) {
        let kernels = kernels(&graph, &target, if decode { DECODE } else { PREFILL }, decode);
        let plan = run(&kernels, &target);
        check(&kernels, &plan, target.is_cpu)?;
        let total: u64 = plan.arenas.iter().sum();
        prop_assert!(total >= lower_bound(&kernels));
        prop_assert!(plan.arenas.len() <= 4, "{} buffers", plan.arenas.len());
    }
}

/// At sizes of real models, where alignment does not show. The bound knows nothing of buffers, and steps of one token
/// share the buffers of the largest chunk.
#[test]
fn buffers_are_hardly_larger_than_what_lives_at_once() {
    let small = random::Shape { n_layers: 3, ..random::Shape::llama() };
    let shapes = [
        random::Shape { n_heads: 9, n_kv_heads: 3, head_dim: 64, hidden: 576, ffn: 1536, ..small.clone() },
        random::Shape {
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 64,
            hidden: 2048,
            ffn: 8192,
            tied: true,
            ..small.clone()
        },
        random::Shape { n_heads: 32, n_kv_heads: 8, head_dim: 128, hidden: 4096, ffn: 14_336, ..small },
    ];
    for shape in shapes {
        for target in [TargetProfile::cpu(), TargetProfile::vulkan(), TargetProfile::apple()] {
            for max_batch in [1, 8] {
                let graph = shape.graph();
                let options = Options { max_batch, ..OPTIONS };
                let plan = compile(&graph, &target, options).expect("compiles");
                let whole = graph_passes(&graph, &target, "assign_layout").expect("the passes take it");
                let bounds = ingot_compiler::pass::bucket::of(&graph, &target, options).into_iter().map(|bucket| {
                    let rows = bucket_graph(&whole, &target, &bucket).expect("rows can be dropped");
                    let kernels = bucket_kernels(&rows, &target, &bucket, options).expect("there are kernels");
                    lower_bound(&ingot_compiler::pass::alias::run(&kernels))
                });
                let (total, bound) =
                    (plan.arenas.as_slice().iter().sum::<u64>() as f64, bounds.max().unwrap_or(1) as f64);
                println!("{} {}: {:.3} of the lower bound", shape.hidden, target.name, total / bound);
                // A buffer is read or written in a dispatch: where what is read lies in half rows and what is written does not,
                // the buffers are not filled alike.
                let most = if target.has_matrix_units() { 1.3 } else { 1.1 };
                assert!(total <= bound * most, "{} {}: {total} bytes, {bound} live at once", shape.hidden, target.name);
            }
        }
    }
}
