//! Tiles measured on the adapter of the tests: a table is written, and a model that takes it gives the same text.

use super::artifact::{checkpoint, devices, greedy, options};
use ingot::compiler::TileTable;
use ingot::compiler::artifact::Artifact;
use ingot::{
    Cache, CompileOptions, DeviceChoice, Error, LoadOptions, Model, Tiles, TuneOptions, TuneProgress, compile, tune,
    tuned_target,
};
use ingot_tests::rig::{gpus, turn};
use std::path::Path;

fn quick<'a>(device: &DeviceChoice, output: &Path, progress: &'a mut dyn FnMut(&TuneProgress)) -> TuneOptions<'a> {
    let output = Some(output.to_path_buf());
    TuneOptions { device: device.clone(), quick: true, max_candidates: Some(2), output, progress: Some(progress) }
}

#[test]
fn measured_tiles_are_taken_and_recorded_and_change_no_text() {
    let Some(device) = devices().into_iter().nth(1) else { return };
    let _turn = gpus().first().and_then(turn);
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("tiles.json");
    let mut seen = Vec::new();
    let tuned = tune(&checkpoint(), quick(&device, &path, &mut |now| seen.push(now.clone()))).expect("it tunes");
    assert_eq!(tuned.table, TileTable::read(&path).expect("it was written"));
    assert_eq!(tuned.path, path);
    // Products of one token: qkv, output, gate and up, down, head. The default and two others each.
    assert_eq!((tuned.shapes.len(), tuned.table.rows.len(), seen.len()), (5, 5, 15));
    for found in &tuned.shapes {
        assert_eq!((found.n_measured, found.n_wrong), (3, 0), "{:?}", found.row.shape);
        assert_eq!(found.row.shape.rows, 1);
        assert!(found.weight_bytes > 0 && found.row.us > 0.0 && found.row.us <= found.row.default_us, "{found:?}");
        assert_eq!(
            found.row.tiles.keys().collect::<Vec<_>>(),
            ["K_SPLIT", "ROWS_PER_SUBGROUP", "ROWS_PER_WG", "UNROLL", "WG"]
        );
    }

    // Whatever was measured, tiles that no default has are to be seen to be taken.
    let mut table = tuned.table.clone();
    for row in &mut table.rows {
        row.tiles = [("K_SPLIT", 4), ("ROWS_PER_SUBGROUP", 1), ("UNROLL", 1), ("WG", 128)]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
    }
    table.write(&path).expect("is written");
    let tiles = Tiles::File(path.clone());
    let expected = greedy(&checkpoint(), LoadOptions { tiles: Tiles::BuiltIn, ..options(&device) });
    assert_eq!(expected.len(), 12);
    let cache = Cache::Folder(folder.path().join("cache"));
    let n_plans = || cache.entries().expect("is read").iter().filter(|e| e.what.starts_with("plan of")).count();
    let cached = |tiles: &Tiles| LoadOptions { tiles: tiles.clone(), cache: cache.clone(), ..options(&device) };
    assert_eq!(greedy(&checkpoint(), cached(&Tiles::BuiltIn)), expected);
    assert_eq!(greedy(&checkpoint(), cached(&tiles)), expected);
    assert_eq!(n_plans(), 2, "a plan is kept for each table");

    let artifact = folder.path().join("model.ingot");
    let compile_options = CompileOptions {
        context: Some(256),
        n_threads: Some(2),
        ..CompileOptions::new(tuned_target(&device, &tiles).expect("it opens"))
    };
    compile(&checkpoint(), &artifact, compile_options).expect("compiles");
    let opened = Artifact::open(&artifact).expect("opens");
    assert_eq!(opened.plan().tiles, table.id());
    assert!(opened.is_trusted());
    let one = opened.plan().kernels.as_slice().iter().filter(|kernel| kernel.spec.u32("M_MAX") == Some(1));
    let split: Vec<_> = one.map(|kernel| kernel.spec.u32("K_SPLIT")).collect();
    assert!(!split.is_empty() && split.iter().all(|split| *split == Some(4)), "{split:?}");
    assert_eq!(greedy(&artifact, options(&device)), expected);
}

#[test]
fn a_table_that_cannot_be_used_says_so() {
    let Some(device) = devices().into_iter().nth(1) else { return };
    let _turn = gpus().first().and_then(turn);
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("tiles.json");
    let load = || {
        let options = LoadOptions { tiles: Tiles::File(path.clone()), ..options(&device) };
        Model::load(&checkpoint(), options).map(drop).expect_err("must fail").to_string()
    };
    let said = |error: String, words: &[&str]| assert!(words.iter().all(|word| error.contains(word)), "{error}");
    said(load(), &["tiles.json"]);
    std::fs::write(&path, "{").expect("is written");
    said(load(), &["tiles.json", "run `ingot tune` again"]);
    TileTable::new("another", "another-target").write(&path).expect("is written");
    said(load(), &["tiles.json", "measured for target `another-target`", "run `ingot tune`"]);
    // The processor has no tiles, so no table is its own.
    let on_cpu = LoadOptions { tiles: Tiles::File(path.clone()), ..options(&DeviceChoice::Cpu) };
    said(Model::load(&checkpoint(), on_cpu).map(drop).expect_err("must fail").to_string(), &["`another-target`"]);
}

#[test]
fn the_processor_is_not_tuned() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("tiles.json");
    let error = tune(&checkpoint(), quick(&DeviceChoice::Cpu, &path, &mut |_| {})).expect_err("must fail");
    assert!(matches!(error, Error::NotTunable), "{error}");
    assert!(error.to_string().contains("--device") && !path.exists());
}
