//! What must hold for any bytes, by parser: it ends with a value or an error, and what it takes, it prints and reads
//! back. The bodies of the fuzz targets; `tests/tests/compiler/fuzz.rs` runs them on seeds with small changes.
//!
//! ```text
//! cargo install cargo-fuzz
//! cargo test --release -p ingot-tests --test compiler -- --ignored seeds_for_cargo_fuzz
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz gguf tests/fuzz/corpus/gguf tests/fuzz/kept/gguf -- \
//!     -max_total_time=300 -timeout=10 -rss_limit_mb=2048 -max_len=65536 -detect_leaks=0
//! ```
//!
//! Without a nightly compiler, `RUSTC_BOOTSTRAP=1` and `--sanitizer none` do. `TMPDIR=/dev/shm` keeps temporary files in memory. What was
//! found goes to `kept/TARGET`, made small by `cargo fuzz tmin`; every test run replays what is there.

pub mod checkpoints;

use ingot_compiler::artifact::{Artifact, WeightsOf, write};
use ingot_compiler::{Options, TargetProfile, TileTable, compile};
use ingot_ir::graph::Graph;
use ingot_ir::kernel::{KernelGraph, KernelSpec};
use ingot_ir::memory::MemoryTable;
use ingot_ir::plan::{Plan, PlanKernel};
use safetensors::SafeTensors;
use std::ops::Range;
use std::path::Path;
use std::sync::{LazyLock, Once};

/// A model of one layer as text: every op of a Llama with biases.
pub const GRAPH: &str = include_str!("../seeds/llama.graph");

/// A table of tiles as `ingot tune` writes it.
pub const TILES: &str = include_str!("../seeds/tiles.json");

/// Memory that a parser of a checkpoint may have at a time, besides that in proportion to what it is given.
const LEAST_BYTES: u64 = 1 << 20;
/// Times the size of what it is given.
const TIMES: u64 = 64;

/// Calls a parser on bytes.
///
/// # Panics
/// If the thread has more memory than the bytes are worth at any time, e.g. because a count in a file was believed.
pub fn bounded(bytes: &[u8], parse: impl FnOnce(&[u8])) {
    // What it takes to tell of a panic that is caught is not the parser's.
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| allocation_counter::opt_out(|| tell(panic))));
    });
    let most = allocation_counter::measure(|| parse(bytes)).bytes_max;
    let allowed = LEAST_BYTES + TIMES * bytes.len() as u64;
    assert!(most <= allowed, "{most} bytes of memory for {} bytes", bytes.len());
}

/// Good inputs by target.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let plans = [TargetProfile::cpu(), TargetProfile::webgpu()].map(|target| plan_for(&target));
    let kernels = "kernels bucket=1,1,1,1\ns0 = slab v0 : tokens x 32\n\
                   k0 = embed step<step sampled<sampled weight<w0 out>s0 rows=tokens grid=tokens origin=v0\n";
    let own = [
        ("artifact", plans.iter().map(artifact_of).collect()),
        ("plan", plans.iter().map(|plan| format!("{plan}").into_bytes()).collect()),
        ("graph", vec![GRAPH.into(), kernels.into()]),
        ("tiles", vec![TILES.into()]),
    ];
    own.into_iter().chain(checkpoints::seeds()).collect()
}

/// The model of [`GRAPH`], compiled.
fn plan_for(target: &TargetProfile) -> Plan {
    let graph: Graph = GRAPH.parse().unwrap_or_else(|error| panic!("the seed is no graph: {error}"));
    compile(&graph, target, Options::new(64)).unwrap_or_else(|error| panic!("the seed does not compile: {error}"))
}

/// A plan as a file, without its weights.
fn artifact_of(plan: &Plan) -> Vec<u8> {
    in_file(&[], |path| {
        let files = [("config.json".to_owned(), b"{}".to_vec())];
        let written = write(path, plan, &[2], &files, WeightsOf::Elsewhere, 1, &mut |_, _| {});
        written.unwrap_or_else(|error| panic!("{error}"));
        std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
}

/// Calls `f` with a temporary file that holds some bytes.
fn in_file<T>(bytes: &[u8], f: impl FnOnce(&Path) -> T) -> T {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no room for temporary files: {error}"));
    let path = folder.path().join("model.ingot");
    std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    f(&path)
}

/// Names and byte ranges of a file's tensors, in the order of the file.
pub type Places = Vec<(String, Range<usize>)>;

/// An artifact's tensors, and where data begins. `None` if the header is none.
pub fn tensors(bytes: &[u8]) -> Option<(Places, usize)> {
    let (n_header, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let data_at = 8 + n_header;
    let place = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        (name, data_at + info.data_offsets.0..data_at + info.data_offsets.1)
    };
    let mut found: Vec<_> = metadata.tensors().into_iter().map(place).collect();
    found.sort_by_key(|(name, range)| (range.start, range.end, name.clone()));
    Some((found, data_at))
}

/// Writes an artifact's hashes anew, as a malicious program would. `None` if it has no place for them.
pub fn sign(bytes: &mut [u8]) -> Option<()> {
    let (found, data_at) = tensors(bytes)?;
    let of = |name: &str| found.iter().find(|(found, _)| found == name).map(|(_, range)| range.clone());
    let (table, weights_at) = (of("hashes")?, of("pad/weights")?.end);
    let at = bytes.windows(8).position(|text| text == b"\"root\":\"")? + 8;
    bytes.get_mut(at..at + 64)?.fill(b'0');
    let hash = |part: &[u8]| *blake3::hash(part).as_bytes();
    let mut leaves = vec![hash(&bytes[..data_at]), hash(bytes.get(table.end..weights_at)?)];
    leaves.extend(bytes[weights_at..].chunks(64 << 20).map(hash));
    let leaves = leaves.concat();
    let room = bytes.get_mut(table).filter(|room| room.len() == leaves.len())?;
    room.copy_from_slice(&leaves);
    bytes[at..at + 64].copy_from_slice(blake3::hash(&leaves).to_hex().as_bytes());
    Some(())
}

/// A file that claims to be an artifact, its hashes made right where it has any.
pub fn artifact(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    sign(&mut bytes);
    in_file(&bytes, |path| {
        let Ok(artifact) = Artifact::open(path) else { return };
        let plan = artifact.plan();
        let _ = artifact.verify_weights(1);
        artifact.is_trusted();
        let table = MemoryTable::new(plan, plan.max_batch, &plan.pages_for(plan.max_batch, plan.max_context));
        assert!(table.total() >= plan.transient_bytes() && !table.to_string().is_empty());
        assert!(plan.variants.ids().all(|id| plan.weight_bytes_of(id) < u64::MAX));
        assert!(artifact.files().all(|(name, _)| !name.starts_with("files/files/")));
        reads_back(plan);
    });
}

/// A text that claims to be a plan.
pub fn plan(bytes: &[u8]) {
    let Some(plan) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Plan>().ok()) else { return };
    assert_eq!(plan.verify(), Ok(()));
    reads_back(&plan);
}

fn reads_back(plan: &Plan) {
    let text = format!("{plan:#}");
    match text.parse::<Plan>() {
        Ok(read) => assert_eq!(format!("{read:#}"), text),
        Err(error) => panic!("{error}: a plan's own text does not read back\n{text}"),
    }
}

/// A text that claims to be a graph of ops or of kernels.
pub fn graph(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(graph) = text.parse::<Graph>() {
        let _ = graph.verify();
        let text = graph.to_string();
        assert_eq!(text.parse::<Graph>().map(|read| read.to_string()).ok(), Some(text));
    }
    if let Ok(kernels) = text.parse::<KernelGraph>() {
        let _ = kernels.verify();
        let text = kernels.to_string();
        assert_eq!(text.parse::<KernelGraph>().map(|read| read.to_string()).ok(), Some(text));
    }
}

/// A text that claims to be a table of tiles. Whatever it says, kernels stay what they compute.
pub fn tiles(bytes: &[u8]) {
    let path = Path::new("tiles.json");
    let Some(table) = std::str::from_utf8(bytes).ok().and_then(|text| TileTable::from_json(text, path).ok()) else {
        return;
    };
    assert_eq!(TileTable::from_json(&table.to_json(), path).ok().as_ref(), Some(&table));
    static KERNELS: LazyLock<Plan> = LazyLock::new(|| plan_for(&TargetProfile::webgpu()));
    let computes = |spec: &KernelSpec| (spec.template, spec.weight, spec.u32("M_MAX"), spec.u32("N"), spec.u32("K"));
    for PlanKernel { spec, .. } in KERNELS.kernels.as_slice() {
        let tiled = table.apply(spec, &TargetProfile::webgpu());
        assert_eq!(computes(&tiled), computes(spec));
    }
}
