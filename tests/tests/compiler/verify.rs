//! One case a rule of each verifier.

use crate::support::{OPTIONS, small_cpu};
use ingot_compiler::target::Fusion;
use ingot_compiler::{TargetProfile, compile};
use ingot_ir::graph::{Graph, Op, ValueId};
use ingot_ir::handle::Handle;
use ingot_ir::kernel::{Access, Const, EpilogueOp, KernelGraph, KernelSpec, Prologue, Role, Rows, SlabId};
use ingot_ir::kv::{KvGroup, KvGroupId, KvLayerId, KvShape, Window};
use ingot_ir::plan::{ArenaId, Binding, BlobId, DispatchId, PipelineId, Plan, PlanKernel, VariantId};
use ingot_ir::size::{Dim, ExprId};
use ingot_ir::weight::{Format, Layout, Source, WeightId};
use ingot_tests::random::{AFFINE4, Shape};

/// The message for a graph that one change broke.
#[track_caller]
fn graph(change: impl FnOnce(&mut Graph)) -> String {
    let mut graph = Shape::llama().graph();
    change(&mut graph);
    graph.verify().expect_err("a rule is broken").to_string()
}

fn find(graph: &Graph, name: &str) -> ValueId {
    graph.values.iter().find(|(_, value)| value.op.name() == name).map(|(id, _)| id).expect("there is one")
}

/// Changes the first op of a name.
fn op(graph: &mut Graph, name: &str, change: impl FnOnce(&mut Op)) {
    let id = find(graph, name);
    change(&mut graph.values[id].op);
}

fn kv_group(shape: KvShape) -> KvGroup {
    KvGroup { shape, window: Window::FULL }
}

#[test]
fn graph_rules() {
    let w = WeightId;
    let said = [
        graph(|g| g.weights[w(0)].n_rows = 0),
        graph(|g| {
            g.weights[w(0)].format = AFFINE4;
            g.weights[w(0)].layout = Layout::Packed;
            g.weights[w(0)].n_cols = 40;
        }),
        graph(|g| g.weights[w(0)].source = Source::Rows { of: w(5), first: 0, count: 96 }),
        graph(|g| g.weights[w(3)].source = Source::Rows { of: w(0), first: 90, count: 64 }),
        graph(|g| g.weights[w(3)].source = Source::Stack(vec![w(0), w(1)])),
        graph(|g| g.weights[w(3)].source = Source::Stack(vec![w(0)])),
        graph(|g| g.weights[w(3)].source = Source::Interleave(w(0), w(0))),
        graph(|g| g.weights[w(1)].source = Source::Inline(vec![1.0])),
        graph(|g| g.kv.layers[KvLayerId(0)].group = KvGroupId(7)),
        graph(|g| g.kv.groups[KvGroupId(0)] = kv_group(KvShape { n_kv_heads: 0, k_dim: 16, v_dim: 16, latent: false })),
        graph(|g| g.kv.groups[KvGroupId(0)] = kv_group(KvShape { n_kv_heads: 2, k_dim: 16, v_dim: 16, latent: true })),
        graph(|g| op(g, "embed", |op| *op = Op::Embed { parts: vec![] })),
        graph(|g| op(g, "embed", |op| *op = Op::Embed { parts: vec![w(0), w(1)] })),
        graph(|g| op(g, "embed", |op| *op = Op::Embed { parts: vec![w(99)] })),
        graph(|g| {
            op(g, "rms_norm", |op| {
                if let Op::RmsNorm { x, .. } = op {
                    *x = ValueId(3)
                }
            })
        }),
        graph(|g| {
            op(g, "rms_norm", |op| {
                if let Op::RmsNorm { weight, .. } = op {
                    *weight = w(0)
                }
            })
        }),
        graph(|g| {
            op(g, "linear", |op| {
                if let Op::Linear { weight, .. } = op {
                    *weight = w(1)
                }
            })
        }),
        graph(|g| {
            op(g, "linear", |op| {
                if let Op::Linear { bias, .. } = op {
                    *bias = Some(w(0))
                }
            })
        }),
        graph(|g| {
            op(g, "rope", |op| {
                if let Op::Rope { head_dim, .. } = op {
                    *head_dim = 32
                }
            })
        }),
        graph(|g| {
            op(g, "rope", |op| {
                if let Op::Rope { rot_dim, .. } = op {
                    *rot_dim = 6
                }
            })
        }),
        graph(|g| {
            op(g, "kv_write", |op| {
                if let Op::KvWrite { v, .. } = op {
                    *v = None
                }
            })
        }),
        graph(|g| {
            op(g, "kv_write", |op| {
                if let Op::KvWrite { layer, .. } = op {
                    *layer = KvLayerId(4)
                }
            })
        }),
        graph(|g| {
            op(g, "attention", |op| {
                if let Op::Attention { kv, q, .. } = op {
                    *kv = *q
                }
            })
        }),
        graph(|g| {
            op(g, "attention", |op| {
                if let Op::Attention { n_heads, .. } = op {
                    *n_heads = 3
                }
            })
        }),
        graph(|g| {
            op(g, "add", |op| {
                if let Op::Add { b, .. } = op {
                    *b = ValueId(3)
                }
            })
        }),
        graph(|g| {
            op(g, "silu", |op| {
                if let Op::Silu { x } = *op {
                    *op = Op::Slice { x, at: 96, n_cols: 1 }
                }
            })
        }),
        graph(|g| {
            op(g, "silu", |op| {
                if let Op::Silu { x } = *op {
                    *op = Op::SiluMulPairs { x }
                }
            })
        }),
        graph(|g| op(g, "silu", |op| *op = Op::Concat { parts: vec![] })),
        graph(|g| {
            let id = find(g, "argmax");
            g.values[id].shape.rows = Dim::Rows;
        }),
        graph(|g| {
            let write = g.values[find(g, "kv_write")].clone();
            g.values.push(write);
        }),
        graph(|g| g.outputs.push(ValueId(999))),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    w0: has no rows or no columns
    w0: 40 columns cannot be stored as affine4g32_bf16
    w0: w5 is not an earlier weight
    w3: is no run of rows of its source
    w3: stacks unlike weights
    w3: stacks 96 rows into 64
    w3: interleaves unlike weights
    w1: 1 inline numbers do not fill it
    l0: g7 does not exist
    g0: 0 heads of 16 and 16 numbers are too few or too many
    g0: a latent has one head, and its values are a part of its keys
    v0: embed: has no table
    v0: embed: the table's parts differ in width
    v0: embed: w99 does not exist
    v1: rms_norm: v3 is not an earlier value
    v1: rms_norm: w0 has 96 numbers, no divisor of v0's 64 columns
    v2: linear: w1 takes 1 columns, v1 has 64
    v2: linear: w0 is 96 x 64, not 64 x 1
    v5: rope: 4 heads of 32 (16 rotated) do not fit v2 (tokens x 64)
    v5: rope: w1 is 8 x 1, not 3 x 1
    v7: kv_write: v6 or its values do not fit l0 (KvShape { n_kv_heads: 2, k_dim: 16, v_dim: 16, latent: false })
    v7: kv_write: l4 does not exist
    v8: attention: v5 does not write l0
    v8: attention: 3 heads of 16 do not fit v5 (tokens x 64)
    v10: add: tokens x 64 and tokens x 32 differ
    v13: slice: columns 96 + 1 are not within 96
    v13: has shape tokens x 96 but computes tokens x 48
    v13: concat: has no parts
    v20: has shape rows x 1 but computes tokens x 1
    v21: l0 is written twice
    v999: is an output but does not exist
    ");
}

/// The message for kernels that one line breaks.
fn kernels(lines: &str) -> String {
    let text = format!(
        "kernels bucket=1,1,1,1
         s0 = slab v0 : tokens x 32
         s1 = slab v1 : tokens x 32
         {lines}"
    );
    text.parse::<KernelGraph>().expect_err("a rule is broken").to_string()
}

#[test]
fn kernel_graph_rules() {
    let said = [
        kernels("s2 = slab v2 in_place_of=s2 : tokens x 32"),
        kernels("k0 = map x<s0 out>s1 rows=tokens grid=1 origin=v1"),
        kernels("k0 = embed out>s7 rows=tokens grid=1 origin=v1"),
        kernels("k0 = embed out>s0 rows=tokens grid=1 origin=v0\nk1 = map x<s0 out>s0 rows=tokens grid=1 origin=v1"),
        kernels("k0 = embed out>s0 out>s1 rows=tokens grid=1 origin=v0"),
        kernels("s2 = slab v2 in_place_of=s0 : tokens x 32\nk0 = map x<s1 out>s2 rows=tokens grid=1 origin=v0"),
        kernels("s2 = slab v2 in_place_of=s0 : tokens x 32\nk0 = map out>s2 rows=tokens grid=1 origin=v0"),
        kernels(
            "s2 = slab v2 in_place_of=s0 : tokens x 32\nk0 = embed out>s0 rows=tokens grid=1 origin=v0\nk1 = map x<s0 out>s2 rows=tokens grid=1 origin=v1",
        ),
        {
            let mut graph: KernelGraph =
                "kernels bucket=1,1,1,1\ns0 = slab v0 : tokens x 32\nk0 = embed out>s0 rows=tokens grid=1 origin=v0"
                    .parse()
                    .expect("parses");
            graph.nodes[ingot_ir::kernel::KernelId(0)].grid = ExprId(9);
            graph.verify().expect_err("a rule is broken").to_string()
        },
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    s2: takes over a slab that is not earlier
    k0: reads s0 before it is written
    k0: s7 does not exist
    k1: binds s0 both read and read_write
    k0: has two operands `out`
    k0: reads s1 before it is written
    k0: reads s2 before it is written
    k1: binds s0 both read and read_write
    k0: grid e9 does not exist
    ");
}

fn small_plan(target: &TargetProfile) -> Plan {
    compile(&Shape::llama().graph(), target, OPTIONS).expect("compiles")
}

/// The message for a plan that one change broke.
fn plan(change: impl FnOnce(&mut Plan)) -> String {
    let mut plan = small_plan(&TargetProfile { max_binding_bytes: 1 << 20, ..small_cpu() });
    change(&mut plan);
    plan.verify().expect_err("a rule is broken").to_string()
}

/// Changes the first operand that is in a transient buffer.
fn arena_operand(plan: &mut Plan, change: impl FnOnce(&mut ArenaId, &mut u64, &mut u64)) {
    let found = plan.operands.iter_mut().find_map(|operand| match &mut operand.binding {
        Binding::Arena { arena, offset, n_bytes } => Some((arena, offset, n_bytes)),
        _ => None,
    });
    let (arena, offset, n_bytes) = found.expect("an operand in a transient buffer");
    change(arena, offset, n_bytes);
}

/// Binds the first operand of a role to something else.
fn bind(plan: &mut Plan, role: Role, binding: Binding) {
    let operand = plan.operands.iter_mut().find(|operand| operand.role == role).expect("an operand of the role");
    operand.binding = binding;
}

/// Sets a number in the first kernel that has it.
fn constant(plan: &mut Plan, name: &str, value: u32) {
    let id = plan
        .kernels
        .iter()
        .find(|(_, kernel)| kernel.spec.u32(name).is_some())
        .map(|(id, _)| id)
        .expect("a kernel with the number");
    plan.kernels[id].spec.set(name, Const::U32(value));
}

#[test]
fn plan_rules() {
    let said = [
        plan(|p| p.version += 1),
        plan(|p| p.page_tokens = 0),
        plan(|p| p.kv.layers[KvLayerId(0)].group = KvGroupId(9)),
        plan(|p| p.weights[BlobId(0)].segments[0].n_rows -= 1),
        plan(|p| p.weights[BlobId(0)].interleaved = true),
        plan(|p| p.variants[VariantId(0)].q_tile = 0),
        plan(|p| p.variants[VariantId(1)].first += 1),
        plan(|p| p.variants[VariantId(2)].n_dispatches -= 1),
        plan(|p| p.dispatches[DispatchId(3)].kernel = PipelineId(99)),
        plan(|p| p.dispatches[DispatchId(3)].first_operand = u32::MAX),
        plan(|p| p.dispatches[DispatchId(3)].grid = ExprId(99)),
        plan(|p| arena_operand(p, |_, offset, _| *offset += 4)),
        plan(|p| arena_operand(p, |_, _, n_bytes| *n_bytes = 0)),
        plan(|p| arena_operand(p, |_, _, n_bytes| *n_bytes = 1 << 30)),
        plan(|p| arena_operand(p, |arena, _, _| *arena = ArenaId(9))),
        plan(|p| arena_operand(p, |_, offset, _| *offset = 1 << 40)),
        plan(|p| arena_operand(p, |_, _, n_bytes| *n_bytes -= 4)),
        plan(|p| bind(p, Role::Weight, Binding::Weight(BlobId(99)))),
        plan(|p| bind(p, Role::Weight, Binding::Weight(BlobId(1)))),
        plan(|p| bind(p, Role::NormWeight, Binding::Weight(BlobId(0)))),
        plan(|p| bind(p, Role::Freqs, Binding::Weight(BlobId(1)))),
        plan(|p| constant(p, "OUT_AT", 1)),
        plan(|p| constant(p, "K_AT", 4000)),
        plan(|p| constant(p, "OUT_STRIDE", u32::MAX)),
        plan(|p| bind(p, Role::Kv, Binding::Kv(KvLayerId(9)))),
        plan(|p| bind(p, Role::PageTable, Binding::PageTable(KvGroupId(9)))),
        plan(|p| {
            // The normalized rows are read from where they are written.
            let d = p
                .dispatches
                .as_slice()
                .iter()
                .find(|d| p.kernels[d.kernel].spec.template.name() == "attention")
                .expect("attention")
                .clone();
            let operands = &mut p.operands[d.first_operand as usize..(d.first_operand + d.n_operands) as usize];
            let out = operands.iter().find(|o| o.role == Role::Out).expect("a result").binding;
            operands.iter_mut().find(|o| o.role == Role::Q).expect("queries").binding = out;
        }),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    plan: version 7 is not 6; compile the model again
    plan: pages of 0 tokens; kernels know those of 16
    l0: g9 does not exist
    b0: its segments do not fill it
    b0: its segments do not fill it
    x0: its dispatches are not the next ones
    x1: its dispatches are not the next ones
    plan: a dispatch belongs to no variant
    d3: p99 does not exist
    d3: its operands do not exist
    d3: grid e99 does not exist
    d0: operand out is unaligned, empty or larger than a binding
    d0: operand out is unaligned, empty or larger than a binding
    d0: operand out is unaligned, empty or larger than a binding
    d0: operand out is bound to what does not exist
    d0: operand out is bound to what does not exist
    d0: operand out spans 256 bytes, 252 are bound
    d0: operand weight is bound to what does not exist
    d0: b1 (64 x 1 f32) does not fit operand weight
    d1: b0 (96 x 64 bf16) does not fit operand norm_weight
    d2: b1 (64 x 1 f32) does not fit operand freqs
    d1: operand out ends at column 129 of rows of 128
    d2: operand k ends at column 4032 of rows of 128
    d1: operand out spans 17179869180 bytes, 512 are bound
    d2: operand kv is bound to what does not exist
    d3: operand page_table is bound to what does not exist
    d3: binds the buffer of q both read and read_write
    ");
}

/// What would let a kernel without bounds checks reach past its buffers, or a step never end.
#[test]
fn plan_rules_for_strangers() {
    let kernel = |p: &Plan, name: &str| {
        p.kernels.iter().find(|(_, k)| k.spec.template.name() == name).map(|(id, _)| id).expect("a kernel of the name")
    };
    let biased = |change: fn(&mut Plan)| {
        let graph = Shape { attention_bias: true, formats: [AFFINE4; 8], ..Shape::llama() }.graph();
        let mut plan = compile(&graph, &TargetProfile::vulkan(), OPTIONS).expect("compiles");
        change(&mut plan);
        plan.verify().expect_err("a rule is broken").to_string()
    };
    let mut rows = small_plan(&TargetProfile::vulkan());
    let attention = kernel(&rows, "attention");
    rows.kernels[attention].spec.rows = Rows::Wanted;
    let mut gather = small_plan(&TargetProfile::vulkan());
    let gathers = kernel(&gather, "gather_rows");
    gather.kernels[gathers].spec.rows = Rows::Tokens;
    let declined = TargetProfile { declined: vec![Fusion::Residual], ..TargetProfile::vulkan() };
    let mut map = small_plan(&declined);
    let maps = kernel(&map, "map");
    map.kernels[maps].spec.set("OUT_AT", Const::U32(1 << 20));
    let columns = |name: &str, number: u32| {
        let mut plan = small_plan(&TargetProfile::vulkan());
        let filters = kernel(&plan, "sample_filter");
        plan.kernels[filters].spec.set(name, Const::U32(number));
        plan
    };
    let refused = |plan: Plan| plan.verify().expect_err("a rule is broken").to_string();
    let said = [
        plan(|p| p.page_tokens = 1),
        plan(|p| p.max_batch = 0),
        plan(|p| p.max_batch = u32::MAX),
        plan(|p| p.variants = Default::default()),
        plan(|p| p.variants[VariantId(0)].bounds.tokens = 0),
        plan(|p| p.variants[VariantId(2)].bounds.tiles = 0),
        refused(rows),
        refused(gather),
        refused(map),
        refused(columns("RING", 5)),
        refused(columns("N", 5)),
        // A vector of the matrix's rows in place of the result's rows, and the other way round.
        biased(|p| {
            let is_biased = |k: &PlanKernel| k.spec.epilogue == [EpilogueOp::Bias(0), EpilogueOp::AddOut];
            let bias = p.kernels.iter().find(|(_, kernel)| is_biased(kernel));
            let id = bias.map(|(id, _)| id).expect("a kernel with a bias");
            p.kernels[id].spec.epilogue[0] = EpilogueOp::Add(0);
        }),
        biased(|p| bind(p, Role::Operand0, Binding::Logits)),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    plan: pages of 1 tokens; kernels know those of 16
    plan: is for 0 sequences; 1 to 65536 are possible
    plan: is for 4294967295 sequences; 1 to 65536 are possible
    plan: has no variants
    x0: is for steps of nothing
    x2: is for 0 tiles; 4 tokens of 1 sequences may need 2
    p2: attention runs over tokens, not wanted
    p14: gather_rows runs over wanted, not tokens
    d4: operand out ends at column 1048640 of rows of 64
    d11: keeps 5 tokens of a history, not 256
    d11: chooses among 5 tokens, not the vocabulary's 96
    d3: operand operand0 cannot be bound to that
    d1: operand operand0 cannot be bound to that
    ");
}

#[test]
fn spec_rules() {
    let said = |name: &str, change: fn(&mut KernelSpec)| {
        let plan = small_plan(&TargetProfile::cpu());
        let found = plan.kernels.as_slice().iter().find(|kernel| kernel.spec.template.name() == name);
        let mut spec = found.expect("a kernel of the name").spec.clone();
        assert_eq!(spec.verify(), Ok(()));
        change(&mut spec);
        spec.verify().expect_err("a rule is broken")
    };
    let said = [
        said("attention", |s| s.set("N_KV_HEADS", Const::U32(3))),
        said("attention", |s| s.set("Q_TILE", Const::U32(0))),
        said("attention", |s| s.epilogue.push(EpilogueOp::Silu)),
        said("rope_kv", |s| s.set("ROT_DIM", Const::U32(18))),
        said("rope_kv", |s| s.set("ROT_DIM", Const::U32(7))),
        said("rope_kv", |s| s.prologue = Prologue::RmsNormParts),
        said("attention", |s| s.prologue = Prologue::RmsNorm),
        said("sample_partial", |s| s.set("BLOCK", Const::U32(0))),
        said("matvec", |s| s.epilogue = vec![EpilogueOp::Silu; 9]),
        said("matvec", |s| s.epilogue = vec![EpilogueOp::Add(3)]),
        said("matvec", |s| s.epilogue = vec![EpilogueOp::SiluMulPairs; 2]),
        said("matvec", |s| s.epilogue = vec![EpilogueOp::AddOut, EpilogueOp::SiluMulPairs]),
        said("matvec", |s| {
            s.epilogue = vec![EpilogueOp::SiluMulPairs];
            s.set("N", Const::U32(63));
        }),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    4 query heads cannot share 3
    Q_TILE is 0, not positive
    an epilogue of 1 ops cannot follow attention
    rotates 18 numbers of heads of 16
    ROT_DIM is 7, not even
    rope_kv does not begin with rms_norm_parts
    attention does not begin with rms_norm
    BLOCK is 0, not positive
    an epilogue of 9 ops cannot follow matvec
    epilogue op add(3) has no operand
    epilogue op silu_mul_pairs cannot stand there
    epilogue op add_out cannot stand there
    N is 63, not even
    ");
}

#[test]
fn plan_rules_of_a_gpu() {
    let plan = |change: fn(&mut Plan)| {
        let mut plan = small_plan(&TargetProfile::vulkan());
        change(&mut plan);
        plan.verify().expect_err("a rule is broken").to_string()
    };
    // Of products with experts, sorted by expert.
    let sorted = |change: fn(&mut Plan)| {
        let graph = Shape { experts: Some((4, 2)), n_layers: 2, ..Shape::llama() }.graph();
        let mut plan = compile(&graph, &TargetProfile::vulkan(), OPTIONS).expect("compiles");
        change(&mut plan);
        plan.verify().expect_err("a rule is broken").to_string()
    };
    let said = [
        plan(|p| p.max_binding_bytes = 256),
        plan(|p| {
            p.kernels[PipelineId(0)].slots.pop();
        }),
        plan(|p| p.kernels[PipelineId(0)].slots[0].role = Role::PageTable),
        plan(|p| p.kernels[PipelineId(0)].slots[0].access = Access::ReadWrite),
        sorted(|p| {
            let order = p.operands.iter_mut().find(|operand| operand.role == Role::Order).expect("a table of tiles");
            let Binding::Arena { n_bytes, .. } = &mut order.binding else { panic!("it is in memory") };
            *n_bytes = 256;
        }),
        sorted(|p| constant(p, "TILE_M", 0)),
        sorted(|p| bind(p, Role::Order, Binding::Logits)),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    b0: 12288 bytes exceed the target's binding limit of 256
    d0: 4 operands for 3 bindings
    d0: operand page_table is missing
    d0: step is declared read_write
    d58: operand order spans 6192 bytes, 256 are bound
    p32: moe_order does not say how many products a tile has
    d58: operand order cannot be bound to that
    ");
}

#[test]
fn handles_are_their_text() {
    assert_eq!(ValueId(3).to_string(), "v3");
    assert_eq!(format!("{:?}", SlabId(0)), "s0");
    assert_eq!(ValueId::parse("v12"), Some(ValueId(12)));
    for text in ["", "v", "w1", "v-1", "v+1", "v1x", "v99999999999"] {
        assert_eq!(ValueId::parse(text), None, "{text}");
    }
    assert_eq!(Format::F32.row_bytes(3), 12);
}
