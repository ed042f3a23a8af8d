//! Plans from strangers: whatever a plan's tables hold, verifying it ends with a value or an error, and what passes can
//! be asked for its sizes.

use crate::support::{OPTIONS, cases, small_cpu};
use ingot_compiler::{TargetProfile, compile};
use ingot_ir::plan::{MAX_BYTES, MAX_STEP, MAX_WORKGROUPS, Plan, PlanWeight, VariantId};
use ingot_ir::size::{Dim, Dims, Expr, ExprId, ExprPool};
use ingot_ir::weight::{Format, ScaleType};
use ingot_tests::mutate::{any_number, child, mutate, places};
use ingot_tests::random::Shape;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Good plans, as JSON: for the CPU, and for a GPU without the sources, which nothing here reads.
static GOOD: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let plan = |shape: Shape, target: &TargetProfile| {
        let mut plan = compile(&shape.graph(), target, OPTIONS).expect("compiles");
        let ids: Vec<_> = plan.kernels.ids().collect();
        ids.into_iter().for_each(|id| plan.kernels[id].wgsl = String::new());
        assert!(plan.verify().is_ok());
        serde_json::to_value(&plan).expect("tables are JSON")
    };
    let affine = Format::Affine { bits: 4, group: 32, scales: ScaleType::F16 };
    let biased = Shape { attention_bias: true, tied: true, formats: [affine; 8], ..Shape::llama() };
    vec![plan(Shape::llama(), &small_cpu()), plan(biased, &TargetProfile::vulkan())]
});

/// What a runtime asks of a plan that passed.
fn sizes_hold(plan: &Plan) -> Result<(), TestCaseError> {
    let sum: u128 = plan.weights.as_slice().iter().map(|weight| u128::from(weight.n_bytes())).sum();
    prop_assert_eq!(u128::from(plan.weight_bytes()), sum);
    prop_assert!(plan.transient_bytes() >= plan.arenas.as_slice().iter().copied().max().unwrap_or(0));
    prop_assert_eq!(u128::from(plan.logits_bytes()), u128::from(plan.max_bounds().rows) * u128::from(plan.n_vocab) * 4);
    for group in plan.kv.groups.ids() {
        let pages = u128::from(plan.page_bytes_all_layers(group)) * u128::from(plan.max_pages());
        prop_assert!(pages <= u128::from(MAX_BYTES));
    }
    for (id, variant) in plan.variants.iter() {
        for dispatch in plan.dispatches_of(id) {
            let n = plan.exprs.eval(dispatch.grid, &variant.bounds);
            prop_assert_eq!(plan.exprs.checked(dispatch.grid, &variant.bounds), Some(u64::from(n)));
            prop_assert!(n.div_ceil(MAX_WORKGROUPS) <= MAX_WORKGROUPS);
            prop_assert!(plan.operands_of(dispatch).len() == dispatch.n_operands as usize);
        }
        let _ = plan.weight_bytes_of(id);
    }
    prop_assert!(!plan.to_string().is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn no_changed_plan_panics(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), any_number(), any::<prop::sample::Index>()), 1..4),
    ) {
        let mut tree = GOOD[which.index(GOOD.len())].clone();
        for (place, how, number, other) in changes {
            mutate(&mut tree, &|n| place.index(n), how, number, &|n| other.index(n));
        }
        if let Ok(plan) = serde_json::from_value::<Plan>(tree)
            && plan.verify().is_ok()
        {
            sizes_hold(&plan)?;
        }
    }
}

/// Every number of the tables' first rows, set to each extreme in turn.
#[test]
fn no_extreme_number_panics() {
    for good in GOOD.iter() {
        let mut paths = places(good);
        // Rows are alike: of each table the first six.
        paths.retain(|path| path.iter().skip(1).all(|ix| *ix < 6));
        let mut tree = good.clone();
        let (mut n_numbers, mut n_refused) = (0, 0);
        for path in &paths {
            let place = path.iter().fold(&mut tree, |value, ix| child(value, *ix));
            if !place.is_number() {
                continue;
            }
            let before = place.clone();
            n_numbers += 1;
            for number in [0, 1, 3, 1 << 31, u64::from(u32::MAX), u64::MAX] {
                *path.iter().fold(&mut tree, |value, ix| child(value, *ix)) = json!(number);
                let Ok(plan) = serde_json::from_value::<Plan>(tree.clone()) else { continue };
                match plan.verify() {
                    Ok(()) => sizes_hold(&plan).expect("what passes has sizes"),
                    Err(_) => n_refused += 1,
                }
            }
            *path.iter().fold(&mut tree, |value, ix| child(value, *ix)) = before;
        }
        assert!(n_numbers > 100 && n_refused > 100, "{n_numbers} numbers, {n_refused} refused");
    }
}

fn good() -> Plan {
    serde_json::from_value(GOOD[0].clone()).expect("a plan")
}

fn refused(change: impl FnOnce(&mut Plan)) -> String {
    let mut plan = good();
    change(&mut plan);
    plan.verify().expect_err("a rule is broken").to_string()
}

#[test]
fn numbers_that_overflow_are_refused_by_name() {
    let first = ingot_ir::plan::BlobId(0);
    let grid = |plan: &mut Plan, grid: &str| {
        let id = ingot_ir::plan::DispatchId(2);
        plan.dispatches[id].grid = plan.exprs.parse(grid).expect("an expression");
    };
    let weight = |plan: &mut Plan, change: fn(&mut PlanWeight)| change(&mut plan.weights[first]);
    let said = [
        refused(|p| grid(p, "tokens + 4294836225")),
        refused(|p| grid(p, "4294836226")),
        refused(|p| grid(p, "4294967295 * 4294967295 * 4294967295")),
        refused(|p| grid(p, &vec!["tokens"; 200].join(" + "))),
        refused(|p| p.variants[VariantId(1)].bounds.tiles = MAX_STEP + 1),
        refused(|p| p.max_context = u32::MAX),
        refused(|p| {
            (p.max_context, p.max_batch) = (1 << 28, 1 << 16);
            p.kv.groups[ingot_ir::kv::KvGroupId(0)].shape.n_kv_heads = 1 << 26;
        }),
        refused(|p| p.kv.groups[ingot_ir::kv::KvGroupId(0)].shape.n_kv_heads = u32::MAX),
        refused(|p| weight(p, |w| (w.n_rows, w.n_cols) = (u32::MAX, u32::MAX))),
        refused(|p| weight(p, |w| w.layout = ingot_ir::weight::Layout::Unassigned)),
        refused(|p| weight(p, |w| w.segments[0].first_row = u32::MAX)),
        refused(|p| {
            let scales = ingot_ir::weight::ScaleType::F16;
            p.weights[first].format = ingot_ir::weight::Format::Affine { bits: 4, group: 0, scales };
        }),
        refused(|p| {
            p.arenas.push(u64::MAX);
        }),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    d2: grid (tokens + 4294836225) exceeds 65535 x 65535 at the variant's bounds
    d2: grid 4294836226 exceeds 65535 x 65535 at the variant's bounds
    d2: grid ((4294967295 * 4294967295) * 4294967295) exceeds 65535 x 65535 at the variant's bounds
    e129: takes more than 256 steps to evaluate
    x1: is for 1048577 tiles, the most is 1048576
    plan: a context of more than 268435456 tokens
    plan: the keys and values of all sequences have 151115727451828646838272 bytes, more than 1152921504606846976
    g0: 4294967295 heads of 16 and 16 numbers are too few or too many
    b0: 4294967295 x 4294967295 bf16 cannot lie in memory as stored
    b0: 32 x 64 bf16 cannot lie in memory as unassigned
    b0: its segments do not fill it
    b0: 32 x 64 affine4g0_f16 cannot lie in memory as stored
    plan: the transient buffers have 18446744073709555711 bytes, more than 1152921504606846976
    ");
}

#[test]
fn a_grid_may_fill_both_dimensions() {
    let mut plan = good();
    let id = ingot_ir::plan::DispatchId(0);
    plan.dispatches[id].grid = plan.exprs.parse("4294836225").expect("65,535 squared");
    assert_eq!(plan.verify(), Ok(()));
}

/// Sixty expressions, each twice the one before: small to store, for ever to evaluate.
#[test]
fn expressions_that_take_for_ever_are_refused() {
    let mut pool = ExprPool::default();
    let mut last = pool.dim(Dim::Tokens);
    for _ in 0..60 {
        last = pool.add(Expr::Add(last, last));
    }
    assert_eq!(pool.verify().expect_err("long").to_string(), "e8: takes more than 256 steps to evaluate");
    let mut pool = ExprPool::default();
    pool.add(Expr::CeilDiv(ExprId(0), 2));
    assert!(pool.verify().is_err(), "refers to itself");
}

#[test]
fn checked_evaluation_tells_what_saturates() {
    let mut pool = ExprPool::default();
    let tokens = pool.dim(Dim::Tokens);
    let square = pool.add(Expr::Mul(tokens, tokens));
    let fourth = pool.add(Expr::Mul(square, square));
    let dims = Dims { tokens: u32::MAX, ..Dims::default() };
    assert_eq!(pool.eval(square, &dims), u32::MAX);
    assert_eq!(pool.checked(square, &dims), Some(u64::from(u32::MAX) * u64::from(u32::MAX)));
    assert_eq!(pool.checked(fourth, &dims), None);
    assert_eq!(pool.checked(ExprId(99), &dims), None);
}
