//! What reflection finds that a kernel uses, and what is said of kernels that use too much.

use ingot_shaders::backend::to_msl;
use ingot_shaders::limits::{CoopRole, CoopScalar, CoopShape, CoopType, LimitError, Limits, Uses, check};

/// A kernel of an entry point's body and what stands before it.
fn kernel(before: &str, workgroup: &str, body: &str) -> String {
    format!("{before}\n@compute @workgroup_size({workgroup}) fn main() {{ {body} }}")
}

fn coop(side: u32, ab: &str) -> String {
    let before = format!(
        "enable f16;\nenable wgpu_cooperative_matrix;
        @group(0) @binding(0) var<storage, read> a: array<{ab}>;
        @group(0) @binding(1) var<storage, read_write> c: array<f32>;"
    );
    let matrix = format!("coop_mat{side}x{side}");
    kernel(
        &before,
        "32",
        &format!(
            "let x = coopLoad<{matrix}<{ab}, A>>(&a[0], {side}u);
            let y = coopLoad<{matrix}<{ab}, B>>(&a[0], {side}u);
            let z = coopLoad<{matrix}<f32, C>>(&c[0], {side}u);
            coopStore(coopMultiplyAdd(x, y, z), &c[0], {side}u);"
        ),
    )
}

fn used(wgsl: &str) -> Uses {
    let all = Limits {
        max_storage_buffers: u32::MAX,
        workgroup_bytes: u32::MAX,
        max_invocations: u32::MAX,
        max_workgroups: u32::MAX,
        subgroup: Some((1, 128)),
        f16: true,
        integer_dot: true,
        cooperative: [8, 16]
            .into_iter()
            .flat_map(|side| [CoopScalar::F16, CoopScalar::F32].map(|ab| CoopShape::square(side, ab, CoopScalar::F32)))
            .collect(),
    };
    check("k", wgsl, &all).unwrap_or_else(|error| panic!("{error}\n{wgsl}"))
}

fn refused(wgsl: &str, limits: &Limits) -> String {
    check("matvec K=64", wgsl, limits).expect_err("it uses too much").to_string()
}

#[test]
fn uses_are_found() {
    let none = Uses { invocations: 64, ..Uses::default() };
    assert_eq!(used(&kernel("", "8, 8", "")), none);
    let memory = "var<workgroup> a: array<f32, 3>;\nvar<workgroup> b: u32;";
    let found = used(&kernel(memory, "64", "a[0] = 1.0; b = 2u;"));
    assert_eq!(found, Uses { workgroup_bytes: 32, ..none.clone() });
    let buffers = "@group(0) @binding(0) var<storage> x: array<u32>;\n@group(3) @binding(1) var<storage, read_write> y: array<u32>;";
    let dot = used(&kernel(buffers, "64", "y[0] = u32(dot4I8Packed(x[0], x[1]));"));
    assert_eq!(dot, Uses { storage_buffers: 2, integer_dot: true, ..none.clone() });
    let half = used(&kernel(&format!("enable f16;\n{buffers}"), "64", "y[0] = u32(f16(x[0]) * 2.0h);"));
    assert_eq!(half, Uses { storage_buffers: 2, f16: true, ..none.clone() });
    // Unpacking needs no half-precision arithmetic.
    let unpack = used(&kernel(buffers, "64", "y[0] = pack2x16float(unpack2x16float(x[0]));"));
    assert_eq!(unpack, Uses { storage_buffers: 2, ..none.clone() });
    let sum = used(&kernel(buffers, "64", "y[0] = subgroupAdd(x[0]);"));
    assert_eq!(sum, Uses { storage_buffers: 2, subgroups: true, ..none.clone() });
    let lanes = "@compute @workgroup_size(64) fn main(@builtin(subgroup_size) n: u32) {}";
    assert_eq!(used(lanes), Uses { subgroups: true, ..none });
    let matrix = used(&coop(16, "f16"));
    assert!(matrix.f16 && matrix.storage_buffers == 2);
    let a = CoopType { rows: 16, columns: 16, role: CoopRole::A, scalar: Some(CoopScalar::F16) };
    let c = CoopType { role: CoopRole::C, scalar: Some(CoopScalar::F32), ..a };
    assert_eq!(matrix.cooperative.len(), 3);
    assert!(matrix.cooperative.contains(&a) && matrix.cooperative.contains(&c), "{matrix:?}");
}

#[test]
fn errors_name_kernel_limit_and_value() {
    let apple = Limits::apple();
    let buffers: String = (0..9).map(|i| format!("@group(0) @binding({i}) var<storage> b{i}: array<u32>;\n")).collect();
    assert_eq!(refused(&kernel(&buffers, "64", ""), &apple), "kernel matvec K=64: 9 storage buffers, the limit is 8");
    assert_eq!(
        refused(&kernel("var<workgroup> a: array<vec4<f32>, 2049>;", "64", "a[0] = vec4<f32>();"), &apple),
        "kernel matvec K=64: 32784 bytes of workgroup memory, the limit is 32768"
    );
    assert_eq!(
        refused(&kernel("", "512", ""), &Limits::COMMON),
        "kernel matvec K=64: 512 invocations a workgroup, the limit is 256"
    );
    let x = "@group(0) @binding(0) var<storage, read_write> x: array<u32>;";
    assert_eq!(
        refused(&kernel(x, "64", "x[0] = u32(dot4U8Packed(x[0], x[1]));"), &apple),
        "kernel matvec K=64: uses integer dot products, which the target does not have"
    );
    assert_eq!(
        refused(&kernel(x, "64", "x[0] = subgroupAdd(x[0]);"), &Limits::COMMON),
        "kernel matvec K=64: uses subgroup operations, which the target does not have"
    );
    assert_eq!(
        refused(&kernel(&format!("enable f16;\n{x}"), "64", "x[0] = u32(f16(x[0]));"), &Limits::COMMON),
        "kernel matvec K=64: uses half-precision arithmetic, which the target does not have"
    );
    let said = refused(&coop(16, "f16"), &apple);
    assert!(said.starts_with("kernel matvec K=64: uses a 16x16 cooperative matrix "), "{said}");
    assert!(
        said.ends_with("which the target does not have (it has 8x8x8 F32 to F32, 8x8x8 F16 to F16, 8x8x8 F16 to F32)")
    );
    let error = check("matvec", "fn main( {", &apple).expect_err("no WGSL");
    assert!(matches!(error, LimitError::Unreadable { .. }) && error.to_string().starts_with("kernel matvec: "));
}

#[test]
fn apple_takes_its_own_matrices() {
    for ab in ["f16", "f32"] {
        check("matmul", &coop(8, ab), &Limits::apple()).unwrap_or_else(|error| panic!("{error}"));
        let msl = to_msl(&coop(8, ab)).unwrap_or_else(|error| panic!("{error}"));
        assert!(msl.contains("simdgroup_"), "{msl}");
    }
}
