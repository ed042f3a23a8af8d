use crate::support::{DECODE, PREFILL, kernels};
use ingot_compiler::pass::alias::run;
use ingot_ir::kernel::{Access, EpilogueOp, KernelGraph, Place};
use ingot_tests::random;
use proptest::prelude::*;

fn aliased(text: &str) -> KernelGraph {
    let kernels: KernelGraph = text.parse().unwrap_or_else(|error| panic!("{error}"));
    let after = run(&kernels);
    after.verify().expect("alias keeps the rules");
    after
}

/// A product with a residual; `more` comes after it.
fn residual(more: &str) -> String {
    format!(
        "kernels bucket=1,1,1,1
         s0 = slab v0 : tokens x 32
         s1 = slab v1 : tokens x 32
         s2 = slab v3 : tokens x 32
         k0 = embed step<step sampled<sampled weight<w0 out>s0 rows=tokens N_COLS=32 grid=1 origin=v0
         k1 = rms_norm step<step x<s0 norm_weight<w1 out>s1 rows=tokens N_COLS=32 grid=1 origin=v1
         k2 = matvec step<step x<s1 weight<w2 operand0<w3 operand1<s0 operand2<s1 out>s2 rows=tokens epilogue=bias(0),add(1),mul(2) K=32 N=32 OUT_AT=0 OUT_STRIDE=32 grid=1 origin=v2,v3
         {more}"
    )
}

#[test]
fn a_residual_that_nothing_reads_later_is_added_in_place() {
    insta::assert_snapshot!(aliased(&residual("")), @r"
    kernels bucket=1,1,1,1
    s0 = slab v0 : tokens x 32
    s1 = slab v1 : tokens x 32
    s2 = slab v3 in_place_of=s0 : tokens x 32
    k0 = embed step<step sampled<sampled weight<w0 out>s0 rows=tokens N_COLS=32 grid=1 origin=v0
    k1 = rms_norm step<step x<s0 norm_weight<w1 out>s1 rows=tokens N_COLS=32 grid=1 origin=v1
    k2 = matvec step<step x<s1 weight<w2 operand0<w3 operand1<s1 out>s2 rows=tokens epilogue=bias(0),add_out,mul(1) K=32 N=32 OUT_AT=0 OUT_STRIDE=32 grid=1 origin=v2,v3
    ");
}

#[test]
fn a_residual_that_is_read_later_stays() {
    let text = residual("k3 = map step<step x<s0 out>logits rows=tokens epilogue=silu N_COLS=32 grid=1 origin=v4");
    assert_eq!(aliased(&text), text.parse().expect("parses"));
}

#[test]
fn a_residual_that_the_kernel_also_takes_as_input_stays() {
    let text = "kernels bucket=1,1,1,1
         s0 = slab v0 : tokens x 32
         s1 = slab v2 : tokens x 32
         k0 = embed step<step sampled<sampled weight<w0 out>s0 rows=tokens N_COLS=32 grid=1 origin=v0
         k1 = matvec step<step x<s0 weight<w2 operand0<s0 out>s1 rows=tokens epilogue=add(0) K=32 N=32 OUT_AT=0 OUT_STRIDE=32 grid=1 origin=v1,v2";
    assert_eq!(aliased(text), text.parse().expect("parses"));
}

proptest! {
    #![proptest_config(crate::support::cases(48))]
    /// Only sums move into their operand's place, and never a sum whose operand anything reads afterwards.
    #[test]
    fn what_is_overwritten_is_not_read_again(graph in random::llama_graph(), target in crate::support::targets(), decode in any::<bool>()) {
        let kernels = kernels(&graph, &target, if decode { DECODE } else { PREFILL }, decode);
        for (id, slab) in kernels.slabs.iter() {
            let Some(old) = slab.in_place_of else { continue };
            let writer = kernels.nodes.iter().find(|(_, node)| {
                node.operands.iter().any(|operand| operand.place == Place::Slab(id) && operand.access == Access::ReadWrite)
            });
            let (at, node) = writer.expect("something writes it");
            prop_assert!(node.spec.epilogue.contains(&EpilogueOp::AddOut));
            let reads_old = |node: &ingot_ir::kernel::KernelNode| node.operands.iter().any(|operand| operand.place == Place::Slab(old));
            prop_assert!(!kernels.nodes.iter().any(|(later, node)| later >= at && reads_old(node)), "{old} is read after {id} took its place");
        }
        // The residual stream is in place from the embedding on, where a target has the fusion and no matrix is in parts.
        prop_assert_eq!(run(&kernels).to_string(), kernels.to_string());
    }
}
