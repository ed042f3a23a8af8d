//! Tables of tiles: what is looked up, what is refused, and that every candidate is a kernel.

use crate::support::{DECODE, OPTIONS, PREFILL, graph};
use ingot::RandomShape;
use ingot_compiler::select::tiles::{TileRow, TileShape, candidates, kernel, slug, tiles_of, with_tiles};
use ingot_compiler::{TargetProfile, TileTable, compile};
use ingot_ir::graph::Graph;
use ingot_ir::kernel::{Const, EpilogueOp, KernelSpec, Prologue, Rows, Template};
use ingot_ir::plan::Plan;
use ingot_ir::weight::Format;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

fn row(template: &str, weight: &str, rows: u32, (n, k): (u32, u32), tiles: &[(&str, u32)]) -> TileRow {
    let shape = TileShape { template: template.into(), weight: weight.into(), rows, n, k };
    let tiles = tiles.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    TileRow { shape, tiles, us: 12.34, default_us: 15.0 }
}

fn table(rows: impl IntoIterator<Item = TileRow>) -> TileTable {
    let mut table = TileTable::new("A Device (2 GB)", "vulkan");
    rows.into_iter().for_each(|row| table.insert(row));
    table
}

fn product(template: Template, weight: &str, rows: u32, (n, k): (u32, u32)) -> KernelSpec {
    let mut spec = KernelSpec::new(template, Rows::Tokens);
    spec.weight = Format::parse(weight);
    spec.set("N", Const::U32(n));
    spec.set("K", Const::U32(k));
    if template == Template::Matvec {
        spec.set("M_MAX", Const::U32(rows));
    }
    spec
}

/// The number that a table sets, if any.
fn set(table: &TileTable, spec: &KernelSpec, name: &str) -> Option<u32> {
    table.apply(spec, &TargetProfile::vulkan()).u32(name)
}

#[test]
fn the_shape_itself_then_the_nearest_of_its_kind_then_none() {
    let table = table([
        row("matvec", "bf16", 1, (1024, 1024), &[("UNROLL", 1)]),
        row("matvec", "bf16", 1, (4096, 1024), &[("UNROLL", 4)]),
        row("matvec", "f32", 1, (900, 900), &[("UNROLL", 3)]),
        row("matvec", "bf16", 2, (900, 900), &[("UNROLL", 3)]),
        row("matmul", "bf16", 0, (900, 900), &[("TILE_K", 8)]),
    ]);
    let unroll = |n, k| set(&table, &product(Template::Matvec, "bf16", 1, (n, k)), "UNROLL");
    assert_eq!(unroll(1024, 1024), Some(1));
    assert_eq!(unroll(4096, 1024), Some(4));
    // Distances are those of logarithms: 2000 is nearer to 1024 than to 4096, 2100 is not.
    assert_eq!(unroll(2000, 1024), Some(1));
    assert_eq!(unroll(2100, 1024), Some(4));
    assert_eq!(unroll(900, 900), Some(1), "other formats and rows are other kinds");
    // As far from the one as from the other: the first in the table's order, everywhere.
    assert_eq!(unroll(2048, 1024), Some(1));
    assert_eq!(set(&table, &product(Template::Matmul, "bf16", 0, (64, 64)), "TILE_K"), Some(8));
    let unknown = product(Template::Matvec, "f16", 1, (1024, 1024));
    assert_eq!(table.apply(&unknown, &TargetProfile::vulkan()), unknown);
    let on_cpu = product(Template::Matvec, "bf16", 1, (1024, 1024));
    assert_eq!(table.apply(&on_cpu, &TargetProfile::cpu()), on_cpu);
}

#[test]
fn a_row_that_does_not_link_is_passed_over() {
    let table = table([
        // No power of two, and more memory than a workgroup has.
        row("matvec", "bf16", 1, (1024, 1024), &[("WG", 100)]),
        row("matvec", "bf16", 1, (512, 512), &[("WG", 128)]),
        row("matmul", "bf16", 0, (512, 512), &[("TILE_K", 64), ("TILE_M", 128), ("TILE_N", 128)]),
    ]);
    assert_eq!(set(&table, &product(Template::Matvec, "bf16", 1, (1024, 1024)), "WG"), Some(128));
    let spec = product(Template::Matmul, "bf16", 0, (512, 512));
    assert_eq!(table.apply(&spec, &TargetProfile::vulkan()), spec);
}

#[test]
fn a_table_reads_back_and_has_a_name() {
    let before = table([
        row("matvec", "affine4g64_f16", 1, (4096, 4096), &[("K_SPLIT", 4), ("WG", 128)]),
        row("matmul", "bf16", 0, (512, 512), &[]),
        row("matvec", "affine4g64_f16", 1, (4096, 4096), &[("K_SPLIT", 8)]),
    ]);
    assert_eq!(before.rows.len(), 2, "a row replaces that of its shape");
    let after = TileTable::from_json(&before.to_json(), Path::new("t.json")).unwrap();
    assert_eq!((&after, after.id()), (&before, before.id()));
    assert!(before.id().starts_with("a-device-2-gb-") && before.id().len() == "a-device-2-gb-".len() + 12);
    let mut other = before.clone();
    other.rows[0].us += 0.01;
    assert_ne!(other.id(), before.id(), "the name tells tables apart");
    assert_eq!(TileTable::built_in("vulkan").id(), "");
    assert_eq!(slug("  NVIDIA H100 80GB (r2)/x "), "nvidia-h100-80gb-r2-x");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/t.json");
    before.write(&path).unwrap();
    assert_eq!(TileTable::read(&path).unwrap(), before);
}

#[test]
fn what_is_no_table_is_named_with_what_to_do() {
    let good = table([row("matvec", "bf16", 1, (64, 64), &[("WG", 64)]), row("matvec", "bf16", 1, (64, 128), &[])]);
    let text = good.to_json();
    let cases = [
        (String::new(), "EOF"),
        ("[]".into(), "expected"),
        (text[..text.len() / 2].into(), "EOF"),
        (text.replace("\"version\": 2", "\"version\": 3"), "version 3 is not 2"),
        (text.replace("A Device (2 GB)", "  ()"), "names no device"),
        (text.replace("\"version\"", "\"more\": 1, \"version\""), "unknown field `more`"),
        (text.replace("\"matvec\"", "\"attention\""), "row 0: no tiles belong to template `attention`"),
        (text.replace("\"matvec\"", "\"mat\""), "row 0: no tiles belong to template `mat`"),
        (text.replace("\"bf16\"", "\"bf17\""), "row 0: `bf17` is no weight format"),
        (text.replace("\"WG\"", "\"TILE_M\""), "row 0: `TILE_M` is no tile of matvec, known are: WG"),
        (text.replace("\"WG\"", "\"N\""), "row 0: `N` is no tile of matvec"),
        (text.replace("\"k\": 128", "\"k\": 0"), "row 1: n and k must be positive"),
        (text.replace("\"k\": 128", "\"k\": 64"), "not sorted"),
        (text.replace("\"k\": 128", "\"k\": 32"), "not sorted"),
        (text.replace("\"us\": 12.34", "\"us\": -1.0"), "times"),
        (text.replace("\"k\": 128", "\"k\": 4294967296"), "expected u32"),
    ];
    for (bad, why) in cases {
        assert_ne!(bad, text);
        let error = TileTable::from_json(&bad, Path::new("some/t.json")).unwrap_err().to_string();
        for part in [why, "some/t.json", "run `ingot tune` again"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let error = TileTable::read(&folder.path().join("none.json")).unwrap_err().to_string();
    assert!(error.contains("none.json"), "{error}");
    let path = folder.path().join("t.json");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(TileTable::read(&path).unwrap_err().to_string().contains("run `ingot tune` again"));
}

/// The GPU presets.
fn presets() -> impl Iterator<Item = TargetProfile> {
    TargetProfile::presets().into_iter().filter(|target| !target.is_cpu)
}

#[test]
fn every_candidate_of_every_preset_is_another_kernel_of_the_same_product() {
    for target in presets() {
        for weight in ["f32", "bf16", "affine4g64_f16"] {
            // All five numbers for one row; fewer sums a lane for eight. WebGPU's memory holds 32 columns of
            // the smallest tiles alone.
            let matmuls = if target.name == "webgpu" { 9 } else { 12 };
            for (template, rows, dims, expected) in [
                (Template::Matvec, 1, DECODE, 216),
                (Template::Matvec, 8, DECODE, 162),
                (Template::Matmul, 0, PREFILL, matmuls),
            ] {
                let mut spec = product(template, weight, rows, (384, 256));
                if template == Template::Matvec {
                    spec.prologue = Prologue::RmsNorm;
                    spec.set("EPS", Const::F32(1e-5));
                }
                spec.epilogue.push(EpilogueOp::SiluMulPairs);
                let all = candidates(&spec, &target);
                let what = format!("{} {weight} {template} x{rows}", target.name);
                assert_eq!((all.len(), &all[0]), (expected, &spec), "{what}");
                let n_changed = |other: &BTreeMap<String, u32>| {
                    tiles_of(&spec, &target).iter().filter(|(name, value)| other.get(*name) != Some(value)).count()
                };
                let tiles: Vec<_> = all.iter().map(|spec| tiles_of(spec, &target)).collect();
                assert!(tiles.iter().is_sorted_by_key(n_changed), "{what}: the nearest come first");
                assert_eq!(tiles.iter().collect::<BTreeSet<_>>().len(), all.len(), "{what}: none twice");
                // Every candidate was linked once to become one.
                for (candidate, tiles) in all.iter().zip(&tiles).step_by(4) {
                    let (linked, grid) = kernel(candidate, &target, &dims).unwrap();
                    assert!(grid > 0 && linked.spec == *candidate, "{what}");
                    assert_eq!(TileShape::of(candidate), TileShape::of(&spec), "{what}");
                    assert_eq!(tiles_of(&with_tiles(&spec, tiles), &target), *tiles, "{what}");
                }
            }
        }
    }
}

/// A table of before there were slices names none; halved tiles of a long step are no tiles of a short one.
#[test]
fn tiles_on_matrix_units_without_slices_have_one() {
    let mut spec = product(Template::MatmulCoop, "bf16", 0, (4096, 4096));
    spec.set("TILE_M", Const::U32(64));
    let short = TileShape::of(&spec).expect("it has tiles");
    let of_units = BTreeMap::from([("UNIT_M".to_string(), 32), ("UNIT_N".to_string(), 32)]);
    let tiled = with_tiles(&spec, &of_units);
    assert_eq!(tiled.u32("SLICES"), Some(1));
    assert_eq!((short.rows, TileShape::of(&tiled).map(|shape| shape.rows)), (64, Some(128)));
    let sliced = of_units.into_iter().chain([("SLICES".to_string(), 2)]).collect();
    assert_eq!(with_tiles(&spec, &sliced).u32("SLICES"), Some(2));
}

#[test]
fn the_processor_and_other_templates_have_no_candidates() {
    let spec = product(Template::Matvec, "bf16", 1, (384, 256));
    assert_eq!(candidates(&spec, &TargetProfile::cpu()), [spec]);
    let mut norm = KernelSpec::new(Template::RmsNorm, Rows::Tokens);
    norm.set("N_COLS", Const::U32(64));
    norm.set("EPS", Const::F32(1e-5));
    assert_eq!(TileShape::of(&norm), None);
    assert_eq!(candidates(&norm, &TargetProfile::vulkan()), [norm]);
}

fn small() -> Graph {
    graph(
        "graph two_products
         w0 = tensor embed : 64 x 32 bf16
         w1 = tensor up : 96 x 32 bf16
         w2 = tensor down : 32 x 96 bf16
         v0 = embed w0 : tokens x 32
         v1 = linear v0 w1 : tokens x 96
         v2 = linear v1 w2 : tokens x 32
         output v2",
    )
}

#[test]
fn a_plan_takes_a_tables_tiles_and_records_its_name() {
    let plain = compile(&small(), &TargetProfile::vulkan(), OPTIONS).unwrap();
    assert_eq!(plain.tiles, "");
    assert!(!plain.to_string().contains("tiles="));
    let tiles = table([
        row("matvec", "bf16", 1, (96, 32), &[("K_SPLIT", 1), ("UNROLL", 1), ("WG", 128)]),
        row("matmul", "bf16", 0, (96, 32), &[("TILE_K", 8)]),
    ]);
    let target = TargetProfile { tiles: Arc::new(tiles.clone()), ..TargetProfile::vulkan() };
    let plan = compile(&small(), &target, OPTIONS).unwrap();
    assert_eq!(plan, compile(&small(), &target, OPTIONS).unwrap(), "compiled twice, the same");
    assert_eq!(plan.tiles, tiles.id());
    let text = format!("{plan:#}");
    assert!(text.lines().next().unwrap().contains(&format!("tiles={}", tiles.id())), "{text}");
    assert_eq!(text.parse::<Plan>().unwrap(), plan);
    let of = |plan: &Plan, template, name| -> Vec<Option<u32>> {
        let specs = plan.kernels.as_slice().iter().map(|kernel| &kernel.spec);
        let specs = specs.filter(|spec| spec.template == template && spec.u32("M_MAX").is_none_or(|m| m == 1));
        specs.map(|spec| spec.u32(name)).collect()
    };
    let (tuned, default) = (of(&plan, Template::Matvec, "WG"), of(&plain, Template::Matvec, "WG"));
    assert!(!tuned.is_empty() && tuned.iter().all(|wg| *wg == Some(128)), "{tuned:?}");
    assert!(!default.is_empty() && default.iter().all(Option::is_none), "{default:?}");
    assert!(of(&plan, Template::Matmul, "TILE_K").iter().all(|k| *k == Some(8)));
}

#[test]
fn every_shape_of_a_model_takes_the_row_that_was_made_for_it() {
    let shape = RandomShape::named("smollm2-135m").unwrap();
    let graph = RandomShape { n_layers: 2, ..shape }.graph().expect("its graph");
    let target = TargetProfile::vulkan();
    let plan = compile(&graph, &target, OPTIONS).unwrap();
    let mut tiles = TileTable::new("x", "vulkan");
    for kernel in plan.kernels.as_slice() {
        let Some(shape) = TileShape::of(&kernel.spec) else { continue };
        let last = candidates(&kernel.spec, &target).pop().unwrap();
        tiles.insert(TileRow { shape, tiles: tiles_of(&last, &target), us: 1.0, default_us: 1.0 });
    }
    let tuned = compile(&graph, &TargetProfile { tiles: Arc::new(tiles.clone()), ..target.clone() }, OPTIONS).unwrap();
    let mut n_found = 0;
    for kernel in tuned.kernels.as_slice() {
        let Some(shape) = TileShape::of(&kernel.spec) else { continue };
        let row = tiles.rows.iter().find(|row| row.shape == shape).unwrap();
        assert_eq!(tiles_of(&kernel.spec, &target), row.tiles, "{shape:?}");
        n_found += 1;
    }
    assert!(n_found >= 5, "qkv, output, gate and up, down, head: {n_found}");
}
