//! Every combination that the catalogue allows, at default and extreme numbers: through naga, reflection, lint, MSL,
//! SPIR-V, and a selection through Tint. And what it must refuse.

use ingot_shaders::limits::{Limits, Uses, check_uses, needs_cooperative, uses};
use ingot_shaders::lint::{Lint, lint, lint_linked};
use ingot_shaders::reflect::{parse, reflect};
use ingot_shaders::{
    Const, Consumer, EpilogueOp, KernelSpec, LinkError, Prologue, ScaleType, Template, Tier, WeightFormat, backend,
    const_value, grid, link, wgsl_for,
};
use std::process::Command;

#[path = "catalog/specs.rs"]
mod specs;

#[test]
fn every_combination_is_valid_and_as_catalogued() {
    let specs = specs::specs();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = specs
            .chunks(specs.len().div_ceil(2))
            .map(|part| scope.spawn(move || part.iter().filter_map(check).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("the check does not panic")).collect()
    });
    println!("{} kernels", specs.len());
    assert!(failures.is_empty(), "{} of {} kernels fail, first:\n{}", failures.len(), specs.len(), failures[0]);
}

/// What is wrong with a kernel.
fn check(spec: &KernelSpec) -> Option<String> {
    let kernel = match link(spec) {
        Ok(kernel) => kernel,
        Err(error) => return Some(format!("{spec:?}: {error}")),
    };
    assert_eq!(link(spec).expect("linked a moment ago"), kernel, "linking is deterministic");
    let grid = grid(spec).expect("a spec that links has a grid");
    assert!(grid.unit_div > 0 && grid.times > 0);
    let (module, info) = match parse(&kernel.wgsl) {
        Ok(parsed) => parsed,
        Err(error) => return Some(format!("{spec:?}: {error}")),
    };
    let lints = lint_linked(&reflect(&module), &kernel);
    if !lints.is_empty() {
        return Some(format!("{spec:?}: {}", lints[0]));
    }
    if let Some(why) = check_limits(spec, &uses(&module, &info)) {
        return Some(format!("{spec:?}: {why}"));
    }
    match (backend::to_msl(&kernel.wgsl), backend::to_spirv(&kernel.wgsl)) {
        (Ok(msl), Ok(spirv)) if !msl.is_empty() && spirv.first() == Some(&0x0723_0203) => None,
        (Err(error), _) | (_, Err(error)) => Some(format!("{spec:?}: {error}")),
        _ => Some(format!("{spec:?}: empty MSL or SPIR-V")),
    }
}

/// What a kernel uses that the target it is for does not have. Every kernel is for Apple's GPUs, but for those that say
/// that they need a shape of cooperative matrix that Metal does not have, or products of packed integers; a plain one is for
/// every GPU.
fn check_limits(spec: &KernelSpec, used: &Uses) -> Option<String> {
    let apple = Limits::apple();
    let shape = needs_cooperative(spec);
    let undeclared = used.cooperative.iter().find(|ty| !shape.is_some_and(|shape| ty.is_of(&shape)));
    if let Some(ty) = undeclared {
        return Some(format!("uses {ty:?}, but says that it needs {shape:?}"));
    }
    let mut limits = if spec.tier == Tier::Plain { Limits::COMMON } else { apple.clone() };
    limits.integer_dot = spec.consts.iter().any(|(name, value)| name == "INT8" && *value == Const::U32(1));
    limits.cooperative.extend(shape.filter(|shape| !apple.cooperative.contains(shape)));
    check_uses(spec.template.name(), used, &limits).err().map(|error| error.to_string())
}

#[test]
fn tint_takes_a_selection() {
    let program = "tint";
    if Command::new(program).arg("--version").output().is_err() {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"skipped: no tint on this machine, so it checked no shader\n",
        );
        return;
    }
    let specs = specs::specs();
    let folder = std::env::temp_dir().join(format!("ingot-tint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    // Of each template its first kernels and then every so many.
    let mut chosen: Vec<&KernelSpec> = Vec::new();
    for template in Template::ALL {
        let own: Vec<_> = specs.iter().filter(|spec| spec.template == *template).collect();
        let step = own.len().div_ceil(if *template == Template::Matvec { 30 } else { 8 });
        chosen.extend(own.iter().step_by(step.max(1)));
    }
    let errors: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (chosen, folder) = (&chosen, &folder);
                scope.spawn(move || {
                    (worker..chosen.len())
                        .step_by(4)
                        .filter_map(|ix| tint(program, folder, ix, chosen[ix]))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("the check does not panic")).collect()
    });
    std::fs::remove_dir_all(&folder).expect("it was created above");
    println!("{} kernels through tint", chosen.len());
    assert!(errors.is_empty(), "{} of {} kernels fail, first:\n{}", errors.len(), chosen.len(), errors[0]);
}

fn tint(program: &str, folder: &std::path::Path, ix: usize, spec: &KernelSpec) -> Option<String> {
    let path = folder.join(format!("{ix}.wgsl"));
    let text = wgsl_for(&link(spec).expect("checked by another test").wgsl, Consumer::Tint);
    std::fs::write(&path, text).expect("the folder is writable");
    let output = Command::new(program).args(["--format", "wgsl"]).arg(&path).output().expect("it ran before");
    if output.status.success() {
        return None;
    }
    Some(format!("{spec:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// Whatever the shape, the rows of a tile and the device.
#[test]
fn tiles_on_matrix_units_fit_together() {
    for (side, lanes) in [(16, 32), (16, 64), (8, 8), (8, 32)] {
        for k in [32, 64, 96, 128, 160, 576, 4096, 14_336] {
            for n in [1, 37, 576, 4095, 4096, 8191, 8192, 28_672, 151_936] {
                for tile_m in [16, 32, 64, 128] {
                    let mut spec = KernelSpec::new(Template::MatmulCoop, Tier::Subgroups);
                    spec.weight = Some(WeightFormat::Bf16);
                    let spec = spec.with("K", k).with("N", n).with("SIDE", side).with("LANES", lanes);
                    let spec = spec.with("TILE_M", tile_m);
                    let stacked = spec.clone().with("EXPERTS", 8).with("TOP_K", 2);
                    for spec in [spec.clone().with("SLICES", 1), spec, stacked] {
                        assert!(const_value(&spec, "WG").is_some(), "{spec:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn specs_that_cannot_be_are_refused_by_name() {
    let matvec = || {
        let mut spec = KernelSpec::new(Template::Matvec, Tier::Plain).with("K", 64).with("N", 64);
        spec.weight = Some(WeightFormat::F16);
        spec
    };
    let message = |spec: &KernelSpec| link(spec).expect_err("must be refused").to_string();
    let mut spec = matvec();
    spec.consts.retain(|(name, _)| name != "N");
    assert_eq!(message(&spec), "matvec: constant `N` is missing");
    assert_eq!(message(&matvec().with("M_MAX", 9)), "matvec: constant `M_MAX` is 9, but must be 1 to 8");
    assert_eq!(message(&matvec().with("WG", 96)), "matvec: constant `WG` is 96, but must be a power of two");
    assert_eq!(message(&matvec().with_f32("K", 64.0)), "matvec: constant `K` is 64.0, but must be an unsigned number");
    assert_eq!(
        message(&matvec().with_f32("EPS", f32::NAN)),
        "matvec: constant `EPS` is NaN, but must be a finite float"
    );
    assert!(message(&matvec().with("TILE", 1)).starts_with("matvec: no constant `TILE`; it has K, N, OUT_STRIDE"));
    assert_eq!(message(&matvec().with("K", 65)), "matvec: weight f16: 65 columns; 16-bit formats need an even number");
    let mut spec = matvec().with("K", 96);
    spec.weight = Some(WeightFormat::Affine { bits: 4, group: 64, scales: ScaleType::F16 });
    assert_eq!(
        message(&spec),
        "matvec: weight affine4g64_f16: 96 columns; groups must be 32, 64 or 128 and divide the columns"
    );
    spec.weight = None;
    assert_eq!(message(&spec), "matvec: weight none: the template needs a format");
    let mut spec = matvec();
    spec.epilogue = vec![EpilogueOp::Add(0), EpilogueOp::SiluMulPairs];
    assert_eq!(
        message(&spec),
        "matvec: epilogue op add(0): has the shape of the result, so it cannot stand before columns are paired"
    );
    spec.epilogue = vec![EpilogueOp::Bias(3)];
    assert_eq!(message(&spec), "matvec: epilogue op bias(3): operands are 0, 1 and 2");
    for op in [EpilogueOp::SiluMulPairs, EpilogueOp::GeluMulPairs] {
        let mut spec = KernelSpec::new(Template::MoeSum, Tier::Plain).with("N_COLS", 64).with("TOP_K", 2);
        spec.epilogue = vec![op];
        assert_eq!(message(&spec), format!("moe_sum: epilogue op {op}: a sum of experts pairs no columns"));
    }
    let order = KernelSpec::new(Template::MoeOrder, Tier::Plain).with("EXPERTS", 4).with("TOP_K", 2);
    assert_eq!(message(&order), "moe_order: constant `TILE_M` is missing");
    let message_of = |k: u32| message(&order.clone().with("TILE_M", 32).with("TOP_K", k));
    assert_eq!(message_of(5), "moe_order: constant `TOP_K` is 5, but must be at most EXPERTS");
    let mut spec = KernelSpec::new(Template::GatherRows, Tier::Plain).with("N_COLS", 64);
    spec.prologue = Prologue::RmsNorm;
    assert_eq!(message(&spec), "gather_rows: has no prologue; only matvec and rope_kv take one");
    let mut spec = KernelSpec::new(Template::Matmul, Tier::Plain)
        .with("K", 64)
        .with("N", 64)
        .with("TILE_M", 128)
        .with("TILE_N", 128)
        .with("TILE_K", 64);
    spec.weight = Some(WeightFormat::F32);
    assert!(matches!(link(&spec), Err(LinkError::TooMuchWorkgroupMemory { n_bytes: 65536, .. })));
    let coop = KernelSpec::new(Template::MatmulCoop, Tier::Subgroups).with("K", 64).with("N", 64);
    let message_of = |format, tier, name: &str, value| {
        message(&KernelSpec { weight: Some(format), tier, ..coop.clone() }.with(name, value))
    };
    let (f16, subgroups) = (WeightFormat::F16, Tier::Subgroups);
    assert!(
        message_of(f16, Tier::Plain, "N", 64)
            .starts_with("matmul_coop: constant `LANES` is 32, but must be of subgroups")
    );
    assert!(
        message_of(WeightFormat::F32, subgroups, "N", 64)
            .ends_with("of weights that are no f32, which f16 would round")
    );
    assert_eq!(
        message_of(f16, subgroups, "K", 48),
        "matmul_coop: constant `K` is 48, but must be a multiple of TILE_K"
    );
    assert!(message_of(f16, subgroups, "UNIT_M", 8).ends_with("a divisor of the tile and a multiple of SIDE"));
    assert!(message_of(f16, subgroups, "WG", 32).ends_with("LANES for each slice of each unit of a tile, at most 256"));
    assert!(message_of(f16, subgroups, "SLICES", 8).ends_with("of a multiple of SIDE columns"));
    let narrow = spec.with("TILE_M", 32).with("TILE_N", 64);
    assert_eq!(message(&narrow), "matmul: constant `TILE_N` is 64, but must be 128 for TILE_M of 32");
}

#[test]
fn lints_find_what_targets_do_not_take() {
    let lints = |text: &str| lint(&reflect(&parse(text).expect("valid WGSL").0));
    let used = |n: u32| {
        (0..n).map(|i| format!("@group(0) @binding({i}) var<storage> b{i}: array<u32>;\n")).collect::<String>()
    };
    assert_eq!(lints("@compute @workgroup_size(64) fn main() {}"), []);
    assert_eq!(lints("@compute @workgroup_size(64) fn run() {}"), [Lint::EntryPoint { found: vec!["run".into()] }]);
    assert_eq!(lints("@compute @workgroup_size(32, 16) fn main() {}"), [Lint::Invocations { n: 512 }]);
    assert_eq!(
        lints(
            "var<workgroup> a: array<vec4<f32>, 2049>;\n@compute @workgroup_size(64) fn main() { a[0] = vec4<f32>(); }"
        ),
        [Lint::WorkgroupMemory { n_bytes: 32784 }]
    );
    let beside = |n: u32| {
        format!(
            "enable wgpu_cooperative_matrix;\nvar<workgroup> a: array<f32, 64>;\nvar<workgroup> n: array<u32, {n}>;
             @compute @workgroup_size(32) fn main() {{
                 n[0] = 1u;
                 coopStore(coopLoad<coop_mat8x8<f32, C>>(&a[0], 8u), &a[0], 8u);
             }}"
        )
    };
    assert_eq!(lints(&beside(5)), [Lint::Unaligned { name: "n".into() }]);
    assert_eq!(lints(&beside(8)), []);
    assert_eq!(
        lints(&format!("{}@compute @workgroup_size(64) fn main() {{}}", used(9))),
        [Lint::StorageBuffers { n: 9 }]
    );
    assert_eq!(
        lints("@group(0) @binding(0) var<uniform> u: vec4<u32>;\n@compute @workgroup_size(64) fn main() {}"),
        [Lint::NotStorage { name: "u".into() }]
    );

    let spec = KernelSpec::new(Template::GatherRows, Tier::Plain).with("N_COLS", 64);
    let mut kernel = link(&spec).expect("links");
    let module = reflect(&parse(&kernel.wgsl).expect("valid").0);
    kernel.bindings[1].binding = 5;
    kernel.workgroup_size = [64, 1, 1];
    assert_eq!(
        lint_linked(&module, &kernel),
        [
            Lint::WorkgroupSize { module: [256, 1, 1], catalogue: [64, 1, 1] },
            Lint::Binding { group: 0, binding: 5, module: "nothing".into() },
            Lint::Binding { group: 0, binding: 1, module: "`x`".into() },
        ]
    );
}
