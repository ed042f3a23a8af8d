//! Presets: what they promise of their platforms, and that every plan keeps to it.

use crate::support::{OPTIONS, targets};
use ingot_compiler::target::{CoopScalar, CoopShape, Limits};
use ingot_compiler::{CompileError, TargetProfile, compile};
use ingot_ir::weight::Format;
use ingot_shaders::limits::check;
use ingot_tests::random::{self, AFFINE4, Shape};
use proptest::prelude::*;
use std::collections::BTreeSet;

#[test]
fn presets_are_found_by_name() {
    let names: Vec<_> = TargetProfile::presets().into_iter().map(|target| target.name).collect();
    assert_eq!(names, ["cpu", "vulkan", "nvidia", "apple", "lavapipe", "webgpu"]);
    for name in names {
        assert_eq!(TargetProfile::preset(&name).map(|target| target.name), Some(name));
    }
    assert_eq!(TargetProfile::preset("toaster"), None);
}

#[test]
fn presets_hold_their_platforms_limits() {
    for target in TargetProfile::presets() {
        let (name, limits) = (&target.name, &target.limits);
        assert_eq!(limits.max_workgroups, 65_535, "{name}");
        assert_eq!(limits.max_storage_buffers, 8, "{name}");
        assert!(limits.workgroup_bytes >= 16 << 10 && limits.max_invocations >= 256, "{name}");
        assert_eq!(target.subgroups, limits.subgroup.is_some(), "{name}");
        assert!(target.is_cpu || target.max_binding_bytes % 4 == 0, "{name}");
        assert!(target.bandwidth_gb_s > 0, "{name}");
    }
    let apple = TargetProfile::apple();
    assert_eq!(apple.limits.subgroup, Some((32, 32)));
    assert_eq!(apple.limits.workgroup_bytes, 32 << 10);
    assert!(!apple.limits.integer_dot && apple.unified_memory && apple.limits.f16);
    assert!(apple.limits.cooperative.iter().all(|shape| (shape.m, shape.n, shape.k) == (8, 8, 8)));
    let nvidia = TargetProfile::nvidia().limits;
    assert!(nvidia.cooperative.contains(&CoopShape::square(16, CoopScalar::F16, CoopScalar::F32)));
    assert!(nvidia.integer_dot && !TargetProfile::nvidia().unified_memory);
    assert_eq!(TargetProfile::webgpu().limits, Limits { workgroup_bytes: 16 << 10, ..Limits::COMMON });
}

#[test]
fn matrix_units_take_what_may_be_rounded_in_subgroups_of_known_size() {
    let units = |target: &TargetProfile, format, n_cols| {
        target.matrix_units(format, n_cols).map(|units| (units.side, units.lanes))
    };
    let (nvidia, apple) = (TargetProfile::nvidia(), TargetProfile::apple());
    assert_eq!(units(&nvidia, AFFINE4, 64), Some((16, 32)));
    assert_eq!(units(&apple, Format::Bf16, 32), Some((8, 32)));
    assert_eq!(units(&nvidia, Format::F32, 64), None);
    assert_eq!(units(&nvidia, Format::F16, 48), None, "columns come by 32");
    assert_eq!(units(&TargetProfile::vulkan(), AFFINE4, 64), None);
    let with = |limits| TargetProfile { limits, ..TargetProfile::nvidia() };
    for limits in [
        Limits { subgroup: Some((32, 64)), ..nvidia.limits.clone() },
        Limits { f16: false, ..nvidia.limits.clone() },
        Limits { cooperative: vec![CoopShape::square(16, CoopScalar::F16, CoopScalar::F16)], ..nvidia.limits.clone() },
    ] {
        assert_eq!(units(&with(limits.clone()), AFFINE4, 64), None, "{limits:?}");
    }
}

/// Shapes whose heads and rows are as large as models have them.
fn large_heads() -> Shape {
    Shape { n_heads: 4, n_kv_heads: 2, head_dim: 128, hidden: 512, ffn: 1024, ..Shape::llama() }
}

#[test]
fn every_preset_takes_the_kernels_of_its_plans() {
    for target in TargetProfile::presets().into_iter().filter(|target| !target.is_cpu) {
        for shape in [Shape::llama(), large_heads(), Shape { head_dim: 256, ..large_heads() }] {
            let plan = compile(&shape.graph(), &target, OPTIONS).unwrap_or_else(|e| panic!("{}: {e}", target.name));
            let mut seen = BTreeSet::new();
            for (id, kernel) in plan.kernels.iter() {
                check(&id.to_string(), &kernel.wgsl, &target.limits).unwrap_or_else(|e| panic!("{}: {e}", target.name));
                seen.insert(kernel.spec.template);
            }
            assert!(seen.len() >= 6, "{seen:?}");
        }
    }
}

#[test]
fn a_kernel_above_the_limits_does_not_link() {
    let said = |limits: Limits| {
        let target = TargetProfile { limits, ..TargetProfile::vulkan() };
        match compile(&large_heads().graph(), &target, OPTIONS).expect_err("above a limit") {
            error @ CompileError::Link { .. } => error.to_string(),
            other => panic!("{other}"),
        }
    };
    let vulkan = TargetProfile::vulkan().limits;
    for (limits, part) in [
        (Limits { max_storage_buffers: 3, ..vulkan.clone() }, "4 storage buffers, the limit is 3 (target `vulkan`)"),
        (Limits { max_invocations: 64, ..vulkan.clone() }, "invocations a workgroup, the limit is 64"),
        (Limits { workgroup_bytes: 512, ..vulkan.clone() }, "bytes of workgroup memory, the limit is 512"),
        (Limits { subgroup: None, ..vulkan }, "uses subgroup operations, which the target does not have"),
    ] {
        let message = said(limits);
        assert!(message.contains(part), "{message}");
    }
}

proptest! {
    #![proptest_config(crate::support::cases(12))]

    /// What links for a target keeps to its limits, whatever the model.
    #[test]
    fn plans_keep_to_their_targets_limits(graph in random::llama_graph(), target in targets()) {
        let target = TargetProfile { max_binding_bytes: 1 << 30, ..target };
        let plan = compile(&graph, &target, OPTIONS).expect("compiles");
        for (id, kernel) in plan.kernels.iter().filter(|_| !target.is_cpu) {
            prop_assert!(check(&id.to_string(), &kernel.wgsl, &target.limits).is_ok());
        }
    }
}
