//! Chooses tiles by measuring: every shape of matrix product in a model's plan, with the model's own weights, on the
//! device that is to run it.

use crate::device::{self, DeviceChoice};
use crate::lower::Lowered;
use crate::random::RandomShape;
use crate::tiles;
use crate::{Error, weights::Weights};
use half::f16;
use ingot_compiler::select::tiles::{TileRow, TileShape, candidates, kernel, tiles_of};
use ingot_compiler::{Options, TargetProfile, TileTable};
use ingot_ir::kernel::{KernelSpec, Role};
use ingot_ir::plan::{Binding, BlobId, Bound, Dispatch, Plan, Variant, VariantId};
use ingot_ir::size::Dims;
use ingot_ir::step::StepTables;
use ingot_runtime::gpu::tune::{ROTATE_BYTES, Trial, TrialKernel, TrialOperand};
use ingot_runtime::gpu::{Gpu, GpuError, MemoryOptions, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest sequence of the plan whose kernels are measured; products do not depend on it.
const CONTEXT: u32 = 512;

/// Relative error that a candidate's result may have against the default's: sums in another order. Relative L2.
const TOLERANCE: f64 = 1e-3;

/// Candidates that are measured again, in turn with the default.
const FINALISTS: usize = 4;

/// How long the device works before its times count, so that its clock has risen.
const WARM_UP: Duration = Duration::from_millis(600);

/// Rounds of the finalists.
const ROUNDS: usize = 5;

/// Samples of a finalist in a round.
const SAMPLES: usize = 3;

/// A candidate must take at most this share of the default's time to replace it: less is noise.
const WORTH: f64 = 0.98;

/// How tiles are chosen.
///
/// ```no_run
/// use ingot::{DeviceChoice, TuneOptions};
///
/// let options = TuneOptions {
///     device: DeviceChoice::Gpu,
///     quick: true,
///     output: Some("tiles.json".into()),
///     ..TuneOptions::default()
/// };
/// let tuned = ingot::tune("models/ingot-tales-14m".as_ref(), options)?;
/// assert_eq!(tuned.shapes.len(), 5);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Default)]
pub struct TuneOptions<'a> {
    /// The device; it must be a GPU.
    pub device: DeviceChoice,
    /// Measures steps of one token alone, and only candidates that differ from the default in one number.
    pub quick: bool,
    /// Candidates a shape at most, the default not counted.
    pub max_candidates: Option<usize>,
    /// The file to write the table to, alone; `None` adds its rows to the table that is kept for the adapter.
    pub output: Option<PathBuf>,
    /// Told before each candidate is measured.
    pub progress: Option<&'a mut dyn FnMut(&TuneProgress)>,
}

/// How far tuning is.
///
/// ```no_run
/// use ingot::{TuneOptions, TuneProgress};
///
/// let show = &mut |now: &TuneProgress| {
///     println!("shape {} of {}: {} of {}", now.ix + 1, now.n_shapes, now.candidate + 1, now.n_candidates);
/// };
/// ingot::tune("models/ingot-tales-14m".as_ref(), TuneOptions { progress: Some(show), ..TuneOptions::default() })?;
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct TuneProgress {
    /// The shape that is being measured.
    pub shape: TileShape,
    /// Its number, from 0.
    pub ix: usize,
    /// Shapes in all.
    pub n_shapes: usize,
    /// The candidate's number, from 0.
    pub candidate: usize,
    /// Candidates of the shape.
    pub n_candidates: usize,
}

/// What was found for a shape.
///
/// ```no_run
/// use ingot::{TuneOptions, TunedShape};
///
/// let tuned = ingot::tune("models/ingot-tales-14m".as_ref(), TuneOptions::default())?;
/// for TunedShape { row, n_measured, .. } in tuned.shapes {
///     println!("{} x {}: {:.2} times as fast, of {n_measured}", row.shape.n, row.shape.k, row.default_us / row.us);
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct TunedShape {
    /// The table's row.
    pub row: TileRow,
    /// Bytes of the matrix.
    pub weight_bytes: u64,
    /// Candidates that ran.
    pub n_measured: usize,
    /// Candidates whose result was not the default's; they are not taken.
    pub n_wrong: usize,
}

/// What tuning gave.
///
/// ```no_run
/// use ingot::{TuneOptions, Tuned};
///
/// let Tuned { shapes, table, path } = ingot::tune("models/ingot-tales-14m".as_ref(), TuneOptions::default())?;
/// println!("{}: {} shapes on {}", path.display(), shapes.len(), table.device);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Tuned {
    /// What was found, in the order of the plan.
    pub shapes: Vec<TunedShape>,
    /// The table as it was written.
    pub table: TileTable,
    /// Where it was written.
    pub path: PathBuf,
}

/// Measures the products of a checkpoint (a folder, or a GGUF file) on a GPU, for minutes, and keeps the best tiles.
///
/// ```
/// use ingot::{DeviceChoice, Error, TuneOptions, tune};
///
/// # let choice = DeviceChoice::Cpu;
/// match tune("../../models/ingot-tales-1m".as_ref(), TuneOptions { device: choice, ..TuneOptions::default() }) {
///     Ok(tuned) => println!("{}", tuned.path.display()),
///     Err(error) => assert!(matches!(error, Error::NotTunable), "the processor has no tiles"),
/// }
/// ```
///
/// # Errors
/// [`Error::NotTunable`] for the processor; those of the checkpoint, the compiler and the device.
pub fn tune(folder: &Path, options: TuneOptions<'_>) -> Result<Tuned, Error> {
    tune_lowered(&Lowered::checkpoint(folder)?, options)
}

/// Measures the products of a known shape.
///
/// ```no_run
/// use ingot::{RandomShape, TuneOptions};
///
/// let tuned = ingot::tune_random(&RandomShape::named("llama-1b")?, TuneOptions::default())?;
/// assert!(tuned.table.rows.iter().all(|row| row.us <= row.default_us));
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// As [`tune`].
pub fn tune_random(shape: &RandomShape, options: TuneOptions<'_>) -> Result<Tuned, Error> {
    tune_lowered(&Lowered::random(shape)?, options)
}

fn tune_lowered(model: &Lowered, mut options: TuneOptions<'_>) -> Result<Tuned, Error> {
    let Some(adapter) = device::resolve(&options.device)? else { return Err(Error::NotTunable) };
    let name = &adapter.info().name;
    let path = options.output.clone().or_else(|| tiles::stored_path(name)).ok_or(Error::NoDataFolder)?;
    let mut target = device::target_of(adapter.info());
    // Candidates are compared with the catalogue's defaults, whatever was measured before.
    target.tiles = Arc::new(TileTable::new("", &*target.name));
    let max_context = model.max_positions.clamp(1, CONTEXT);
    let max_batch = if options.quick { 1 } else { target.matvec_rows };
    let compile = Options { max_batch, ..Options::new(max_context) };
    let plan = ingot_compiler::compile(&model.graph, &target, compile)?;
    let gpu = Gpu::open(&adapter, &OpenOptions::default())?;
    let found = products(&plan, options.quick);
    let mut table = TileTable::new(&**name, &*target.name);
    let mut shapes = Vec::with_capacity(found.len());
    for (ix, product) in found.iter().enumerate() {
        let bench = Bench { gpu: &gpu, target: &target, plan: &plan, weights: &model.weights };
        let mut told = |candidate, n_candidates| {
            if let Some(progress) = &mut options.progress {
                let shape = product.shape.clone();
                progress(&TuneProgress { shape, ix, n_shapes: found.len(), candidate, n_candidates });
            }
        };
        let limit = options.max_candidates.unwrap_or(usize::MAX);
        let tuned = bench.shape(product, options.quick, limit, &mut told)?;
        table.insert(tuned.row.clone());
        shapes.push(tuned);
    }
    let table = if options.output.is_some() {
        table.write(&path)?;
        table
    } else {
        tiles::keep(&path, &table)?
    };
    Ok(Tuned { shapes, table, path })
}

/// A matrix product of a plan: the first dispatch of its shape.
struct Product<'a> {
    shape: TileShape,
    variant: VariantId,
    dispatch: &'a Dispatch,
}

/// The distinct products of a plan; of its first variant alone if `first_only`.
fn products(plan: &Plan, first_only: bool) -> Vec<Product<'_>> {
    let mut found: Vec<Product<'_>> = Vec::new();
    for variant in plan.variants.ids().take(if first_only { 1 } else { usize::MAX }) {
        for dispatch in plan.dispatches_of(variant) {
            let Some(shape) = TileShape::of(&plan.kernels[dispatch.kernel].spec) else { continue };
            if found.iter().all(|other| other.shape != shape) {
                found.push(Product { shape, variant, dispatch });
            }
        }
    }
    found
}

/// What measuring takes.
struct Bench<'a> {
    gpu: &'a Gpu,
    target: &'a TargetProfile,
    plan: &'a Plan,
    weights: &'a Weights,
}

/// A candidate that may be the best.
struct Finalist {
    spec: KernelSpec,
    kernel: TrialKernel,
    us: f64,
}

impl Bench<'_> {
    fn shape(
        &self,
        product: &Product<'_>,
        quick: bool,
        limit: usize,
        told: &mut dyn FnMut(usize, usize),
    ) -> Result<TunedShape, Error> {
        let spec = &self.plan.kernels[product.dispatch.kernel].spec;
        let tables = step_tables(self.plan, &self.plan.variants[product.variant]);
        let dims = tables.dims();
        let operands = self.plan.operands_of(product.dispatch);
        let contents = operands.iter().map(|bound| self.contents(spec, bound, &tables));
        let mut trial = Trial::new(self.gpu, &MemoryOptions::default(), contents.collect(), ROTATE_BYTES)?;

        let mut all = candidates(spec, self.target);
        if quick {
            let default = tiles_of(spec, self.target);
            all.retain(|other| {
                let tiles = tiles_of(other, self.target);
                tiles.iter().filter(|(name, value)| default.get(*name) != Some(value)).count() <= 1
            });
        }
        all.truncate(limit.saturating_add(1));
        let (mut n_measured, mut n_wrong) = (0, 0);
        let mut finalists: Vec<Finalist> = Vec::with_capacity(all.len());
        let mut expected = Vec::new();
        // Every pipeline is made before the first is timed: a device that waits for the next one lowers its clock, on an
        // H100 to a fifth, and what is timed then says nothing.
        for (ix, spec) in all.iter().enumerate() {
            told(ix, all.len());
            let (linked, grid) = kernel(spec, self.target, &dims)?;
            // The text was linked here from our own templates.
            let prepared = match trial.prepare(&linked, grid, true) {
                Ok(prepared) => prepared,
                // A driver that refuses the default refuses the model; what else it refuses is not needed.
                Err(GpuError::Kernel { .. }) if ix > 0 => continue,
                Err(error) => return Err(error.into()),
            };
            let found = trial.output(&prepared)?;
            let found = if spec.u32("OUT_HALF") == Some(1) { halves(&found) } else { found };
            if ix == 0 {
                expected = found;
            } else if !is_close(&found, &expected) {
                n_wrong += 1;
                continue;
            }
            n_measured += 1;
            finalists.push(Finalist { spec: spec.clone(), kernel: prepared, us: f64::INFINITY });
        }
        let started = Instant::now();
        while started.elapsed() < WARM_UP {
            trial.time_us(&mut finalists[0].kernel, 1)?;
        }
        for finalist in &mut finalists {
            finalist.us = trial.time_us(&mut finalist.kernel, 1)?;
        }
        // The default stays first, whatever it takes.
        finalists[1..].sort_by(|a, b| a.us.total_cmp(&b.us));
        finalists.truncate(FINALISTS + 1);
        // In turn, so that a clock that rises or falls meanwhile favours none.
        let mut rounds = vec![Vec::with_capacity(ROUNDS); finalists.len()];
        for _ in 0..ROUNDS {
            for (finalist, times) in finalists.iter_mut().zip(&mut rounds) {
                times.push(trial.time_us(&mut finalist.kernel, SAMPLES)?);
            }
        }
        for (finalist, times) in finalists.iter_mut().zip(&mut rounds) {
            times.sort_by(f64::total_cmp);
            finalist.us = times[times.len() / 2];
        }
        let default = &finalists[0];
        let best = finalists.iter().min_by(|a, b| a.us.total_cmp(&b.us)).unwrap_or(default);
        let best = if best.us <= default.us * WORTH { best } else { default };
        let row = TileRow {
            shape: product.shape.clone(),
            tiles: tiles_of(&best.spec, self.target),
            us: rounded(best.us),
            default_us: rounded(default.us),
        };
        let weight = operands.iter().find(|bound| bound.role == Role::Weight);
        let weight_bytes = weight.map_or(0, |bound| self.n_bytes(bound.binding, &dims));
        Ok(TunedShape { row, weight_bytes, n_measured, n_wrong })
    }

    /// Rows of the plan's largest matrix.
    fn most_rows(&self) -> u64 {
        self.plan.weights.as_slice().iter().map(|weight| u64::from(weight.n_rows)).max().unwrap_or(0)
    }

    /// Bytes of what is bound, for a step of one sequence.
    fn n_bytes(&self, binding: Binding, dims: &Dims) -> u64 {
        let plan = self.plan;
        match binding {
            Binding::Arena { n_bytes, .. } => n_bytes,
            Binding::Weight(BlobId(ix)) => plan.weights[BlobId(ix)].n_bytes(),
            Binding::Logits => u64::from(dims.rows) * u64::from(plan.n_vocab) * 4,
            Binding::Kv(layer) => {
                plan.page_bytes(plan.kv.layers[layer].group) * u64::from(dims.tokens.div_ceil(plan.page_tokens))
            }
            Binding::Step | Binding::Sampled | Binding::Columns | Binding::PageTable(_) => {
                u64::from(dims.tokens.max(plan.max_pages())) * 4
            }
        }
    }

    /// An operand's contents: the step's tables, the model's weights, else numbers between -1 and 1.
    fn contents(&self, spec: &KernelSpec, bound: &Bound, tables: &StepTables) -> TrialOperand {
        let n_bytes = match bound.role {
            // Other tiles leave more sums, at most one a row of the matrix.
            Role::Squares => (u64::from(tables.dims().tokens) * self.most_rows() * 4) as usize,
            _ => self.n_bytes(bound.binding, &tables.dims()) as usize,
        };
        let bytes = match (bound.binding, bound.role) {
            (Binding::Step, _) => {
                let mut words = Vec::new();
                tables.write(&mut words);
                words.iter().flat_map(|word| word.to_le_bytes()).collect()
            }
            (Binding::Weight(blob), _) => {
                let mut bytes = vec![0; n_bytes];
                self.weights.fill(blob, &self.plan.weights[blob], 0, &mut bytes);
                bytes
            }
            (Binding::Kv(_) | Binding::Sampled | Binding::Columns | Binding::PageTable(_), _) | (_, Role::Out) => {
                vec![0; n_bytes]
            }
            (_, Role::X) if spec.u32("X_HALF") == Some(1) => half_noise(n_bytes),
            // Sums of squares are not negative.
            (_, Role::Squares) => {
                noise(n_bytes).chunks_exact(4).flat_map(|b| [b[0], b[1], b[2], b[3] & 0x7f]).collect()
            }
            _ => noise(n_bytes),
        };
        TrialOperand { role: bound.role, bytes }
    }
}

/// A step as large as a variant takes, of one sequence.
fn step_tables(plan: &Plan, variant: &Variant) -> StepTables {
    let mut tables = StepTables::default();
    let Dims { tokens, rows, .. } = variant.bounds;
    let tokens = tokens.min(plan.max_context).max(1);
    tables.push_sequence(0..tokens, 0, 0);
    tables.rows.extend(0..if variant.all_rows { tokens } else { rows.min(tokens) });
    tables.slots.extend(plan.kv.groups.ids().flat_map(|_| 0..tokens));
    tables.tile(variant.q_tile, 1);
    tables
}

/// Single-precision numbers between -1 and 1, the same each time.
fn noise(n_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let numbers = (0..n_bytes / 4).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u32 << 23) as f32 - 1.0).to_le_bytes()
    });
    numbers.collect()
}

/// Half-precision numbers between -1 and 1, the same each time.
fn half_noise(n_bytes: usize) -> Vec<u8> {
    let numbers = noise(2 * n_bytes);
    let numbers = numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    numbers.flat_map(|number| f16::from_f32(number).to_le_bytes()).collect()
}

/// The half-precision numbers of a result that was read as single-precision ones.
fn halves(words: &[f32]) -> Vec<f32> {
    let bits = words.iter().map(|word| word.to_bits());
    bits.flat_map(|bits| [bits as u16, (bits >> 16) as u16].map(|half| f16::from_bits(half).to_f32())).collect()
}

/// Whether a result is the expected one but for rounding.
fn is_close(found: &[f32], expected: &[f32]) -> bool {
    let square = |x: f64| x * x;
    let pairs = found.iter().zip(expected);
    let error: f64 = pairs.map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    found.len() == expected.len() && error <= square(TOLERANCE) * norm
}

/// Hundredths of a microsecond: what a table shows.
fn rounded(us: f64) -> f64 {
    (us * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_close_or_not() {
        let expected = [1.0, -2.0, 3.0];
        assert!(is_close(&expected, &expected));
        assert!(is_close(&[1.0005, -2.0, 3.0], &expected));
        assert!(!is_close(&[1.01, -2.0, 3.0], &expected));
        assert!(!is_close(&[1.0, -2.0], &expected), "one is missing");
        assert!(!is_close(&[f32::NAN, -2.0, 3.0], &expected));
        assert!(!is_close(&[0.0; 3], &expected));
    }

    #[test]
    fn halves_come_out_as_they_went_in() {
        let bytes = half_noise(64);
        let words: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let found = halves(&words);
        assert!(found.len() == 32 && found.iter().all(|n| n.abs() <= 1.0) && found.iter().any(|n| *n != found[0]));
        assert!(is_close(&found, &found));
        let expected: Vec<f32> =
            noise(128).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3));
    }

    #[test]
    fn noise_lies_between_its_bounds() {
        let bytes = noise(4000);
        let numbers: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert!(numbers.iter().all(|n| (-1.0..1.0).contains(n)));
        let mean = numbers.iter().sum::<f32>() / 1000.0;
        assert!(mean.abs() < 0.1 && numbers.iter().any(|n| *n > 0.9) && numbers.iter().any(|n| *n < -0.9), "{mean}");
    }
}
