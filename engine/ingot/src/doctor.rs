//! Whether a device computes what it should: small models that between them use every kernel run on it and on the
//! processor, with transient memory full of NaN before each step, and their logits are compared.

mod case;
mod numbers;

use crate::Error;
use crate::device::{self, DeviceChoice, DeviceInfo};
use crate::steps::describe;
use crate::tiles::Tiles;
use crate::weights::Weights;
use case::{Case, N_VOCAB};
use ingot_compiler::{Options, TargetProfile, compile};
use ingot_ir::plan::{BlobId, Plan, PlanWeight, VariantId};
use ingot_ir::step::{SAMPLED, StepTables};
use ingot_runtime::account::Account;
use ingot_runtime::backend::{Backend, StepInput, StepOutput};
use ingot_runtime::cpu::Activations;
use ingot_runtime::cpu::execute::{CpuBackend, CpuOptions};
use ingot_runtime::gpu::execute::{GpuBackend, LoadOptions};
use ingot_runtime::gpu::{Gpu, MemoryOptions, OpenOptions};
use ingot_runtime::world::Limits;
pub(crate) use numbers::MadeWeights;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Relative error (L2) of logits that is still rounding: keys and values of the GPU are in half precision, and perhaps
/// the inputs of products. A wrong number anywhere gives ten times as much.
const TOLERANCE: f64 = 1e-2;

/// Sequences and tokens that the models are compiled for.
const N_SEQUENCES: u32 = 4;
const CONTEXT: u32 = 64;

/// What is checked.
///
/// ```
/// use ingot::{DeviceChoice, DoctorOptions, Tiles};
///
/// let options = DoctorOptions {
///     device: DeviceChoice::Cpu,
///     quick: true,
///     tiles: Tiles::BuiltIn,
///     progress: Some(&mut |check| println!("{}: {:.1e}", check.name, check.error)),
/// };
/// assert_eq!(ingot::doctor(options)?.n_failed(), 0);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Default)]
pub struct DoctorOptions<'a> {
    /// The device.
    pub device: DeviceChoice,
    /// Leaves out weight formats that differ from others in a number alone.
    pub quick: bool,
    /// Tiles that kernels are compiled with.
    pub tiles: Tiles,
    /// Told each check as it ends.
    pub progress: Option<&'a mut dyn FnMut(&Check)>,
}

/// One model on the device.
///
/// ```
/// use ingot::{Check, DeviceChoice, DoctorOptions};
///
/// let show = &mut |check: &Check| {
///     println!("{}: {} kernels in {:?}", check.name, check.kernels.len(), check.time);
///     assert!(check.failure.is_none() && check.error < 0.01);
/// };
/// ingot::doctor(DoctorOptions { device: DeviceChoice::Cpu, quick: true, progress: Some(show), ..Default::default() })?;
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Check {
    /// What is special about the model.
    pub name: String,
    /// The kernels that ran, each once.
    pub kernels: Vec<String>,
    /// The largest relative error of a step's logits.
    pub error: f64,
    /// What is wrong; `None` if nothing is.
    pub failure: Option<String>,
    /// What it took.
    pub time: Duration,
}

/// What was found.
///
/// ```
/// use ingot::{DeviceChoice, Diagnosis, DoctorOptions};
///
/// let options = DoctorOptions { device: DeviceChoice::Cpu, quick: true, ..DoctorOptions::default() };
/// let Diagnosis { device, target, checks } = ingot::doctor(options)?;
/// assert_eq!((device.name(), &*target), ("CPU", "cpu"));
/// assert!(checks.len() > 10);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The device that was checked.
    pub device: DeviceInfo,
    /// The target that kernels were compiled for.
    pub target: String,
    /// Every check.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// How many of the checks failed.
    ///
    /// ```
    /// # use ingot::{DeviceChoice, DoctorOptions};
    /// # let options = DoctorOptions { device: DeviceChoice::Cpu, quick: true, ..DoctorOptions::default() };
    /// let diagnosis = ingot::doctor(options)?;
    /// assert_eq!(diagnosis.n_failed(), 0, "{:?}", diagnosis.checks);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn n_failed(&self) -> usize {
        self.checks.iter().filter(|check| check.failure.is_some()).count()
    }

    /// How many distinct kernels ran in all checks together.
    ///
    /// ```
    /// # use ingot::{DeviceChoice, DoctorOptions};
    /// # let options = DoctorOptions { device: DeviceChoice::Cpu, quick: true, ..DoctorOptions::default() };
    /// let diagnosis = ingot::doctor(options)?;
    /// assert!(diagnosis.n_kernels() > diagnosis.checks[0].kernels.len());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn n_kernels(&self) -> usize {
        self.checks.iter().flat_map(|check| &check.kernels).collect::<BTreeSet<_>>().len()
    }
}

/// Where plans run.
enum Place {
    Cpu { n_threads: usize },
    Gpu(Gpu),
}

/// Runs every check on a device. The processor is checked against itself: all its threads against one.
///
/// ```
/// use ingot::{DeviceChoice, DoctorOptions, doctor};
///
/// let options = DoctorOptions { device: DeviceChoice::Cpu, quick: true, ..DoctorOptions::default() };
/// let failed: Vec<_> = doctor(options)?.checks.into_iter().filter(|check| check.failure.is_some()).collect();
/// assert_eq!(failed, []);
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// If the device is not there or does not open. What it does wrong afterwards is a check that failed.
pub fn doctor(mut options: DoctorOptions<'_>) -> Result<Diagnosis, Error> {
    let adapter = device::resolve(&options.device)?;
    let n_threads = device::n_threads();
    let (info, mut target, place) = match &adapter {
        None => (DeviceInfo::Cpu { n_threads }, TargetProfile::cpu(), Place::Cpu { n_threads }),
        Some(adapter) => {
            let gpu = Gpu::open(adapter, &OpenOptions::default())?;
            (DeviceInfo::Gpu(adapter.info().clone()), device::target_of(adapter.info()), Place::Gpu(gpu))
        }
    };
    options.tiles.set(&mut target, adapter.as_ref().map(|adapter| adapter.info().name.as_str()))?;
    let mut checks = Vec::new();
    for case in Case::all(options.quick) {
        let started = Instant::now();
        let mut check =
            Check { name: case.name.clone(), kernels: Vec::new(), error: 0.0, failure: None, time: Duration::ZERO };
        if let Err(error) = examine(&case, &target, &place, &mut check) {
            check.failure = Some(error.to_string());
        }
        check.time = started.elapsed();
        if let Some(progress) = &mut options.progress {
            progress(&check);
        }
        checks.push(check);
    }
    Ok(Diagnosis { device: info, target: target.name, checks })
}

/// Runs a model on the device and on one thread of the processor.
fn examine(case: &Case, target: &TargetProfile, place: &Place, check: &mut Check) -> Result<(), Error> {
    let graph = case.graph().map_err(ingot_runtime::RuntimeError::from)?;
    let weights = Arc::new(Weights::Made(MadeWeights::new(&graph)));
    let compile_for = |target: &TargetProfile| {
        let mut target = target.clone();
        if !target.is_cpu {
            target.declined.extend(&case.declined);
            // One round, so that the longer chunks take tiled products on every device; as many as it has where a fusion is declined.
            if case.declined.is_empty() {
                target.matvec_rounds = 1;
            }
        }
        compile(&graph, &target, Options { max_batch: N_SEQUENCES, ..Options::new(CONTEXT) })
    };
    let reference = compile_for(&TargetProfile::cpu())?;
    let mut reference = Runner::new(reference, &Place::Cpu { n_threads: 1 }, &weights)?;
    let mut device = Runner::new(compile_for(target)?, place, &weights)?;
    for (ix, parts) in STEPS.iter().enumerate() {
        // One step takes the id that the step before it left on the device.
        let fed = (ix == FED).then(|| device.output.sampled.first().copied()).flatten();
        let expected = reference.run(parts, fed)?.logits.clone();
        let found = device.run(parts, fed.map(|_| SAMPLED))?;
        let error = relative_l2(&found.logits, &expected);
        check.error = check.error.max(error);
        let rows = found.logits.chunks_exact(N_VOCAB as usize).zip(&found.sampled);
        let wrong_choice =
            rows.filter(|(row, id)| row.get(**id as usize) != row.iter().max_by(|a, b| a.total_cmp(b))).count();
        if error > TOLERANCE || error.is_nan() {
            let what = if found.logits.iter().all(|x| x.is_finite()) { "" } else { " (not all are numbers)" };
            check.failure = Some(format!("step {ix} of {parts:?}: logits are off by {error:.1e}{what}"));
            break;
        }
        if wrong_choice > 0 {
            check.failure = Some(format!("step {ix} of {parts:?}: {wrong_choice} greedy choices are not the greatest"));
            break;
        }
    }
    check.kernels = device.kernels.into_iter().collect();
    Ok(())
}

/// A run of one sequence's tokens in a step: its row, its first position, how many.
type Part = (u32, u32, u32);

/// Steps of up to four sequences: short and long chunks, decodes of one, two and four, and mixtures.
const STEPS: [&[Part]; 8] = [
    &[(0, 0, 5)],
    &[(0, 5, 1)],
    &[(1, 0, 37)],
    &[(0, 6, 1), (1, 37, 1)],
    &[(2, 0, 3), (3, 0, 18)],
    &[(0, 7, 1), (1, 38, 1), (2, 3, 1), (3, 18, 1)],
    &[(0, 8, 1), (1, 39, 4), (3, 19, 9)],
    &[(1, 43, 1)],
];

/// The step that takes its token from the device.
const FED: usize = 1;

/// A plan, loaded.
struct Runner {
    plan: Plan,
    backend: Backend,
    tables: StepTables,
    words: Vec<u32>,
    output: StepOutput,
    kernels: BTreeSet<String>,
}

impl Runner {
    fn new(plan: Plan, place: &Place, weights: &Arc<Weights>) -> Result<Self, Error> {
        let limits = Limits::uniform(&plan, N_SEQUENCES, plan.max_pages() * N_SEQUENCES);
        let mut backend = match place {
            Place::Cpu { n_threads } => {
                let source: Arc<Weights> = Arc::clone(weights);
                let options = CpuOptions {
                    n_threads: *n_threads,
                    budget_bytes: None,
                    account: Account::default(),
                    activations: Activations::F32,
                };
                Backend::Cpu(Box::new(CpuBackend::load(&plan, source, limits, options)?))
            }
            Place::Gpu(gpu) => {
                let mut fill = |id: BlobId, weight: &PlanWeight, offset: u64, out: &mut [u8]| {
                    weights.fill(id, weight, offset, out);
                    Ok(())
                };
                let options = LoadOptions {
                    limits,
                    memory: MemoryOptions { piece_bytes: 1 << 20, ..MemoryOptions::default() },
                    trusted: true,
                    n_threads: device::n_threads(),
                    pipeline_cache: None,
                    alike: false,
                    progress: &mut |_, _| {},
                };
                Backend::Gpu(Box::new(GpuBackend::load(gpu.clone(), &plan, &mut fill, options)?))
            }
        };
        for group in plan.kv.groups.ids() {
            for row in 0..N_SEQUENCES {
                let pages: Vec<u32> = (row * plan.max_pages()..(row + 1) * plan.max_pages()).collect();
                backend.write_pages(group, row, 0, &pages);
            }
        }
        backend.poison(false);
        let (tables, output) = (StepTables::default(), StepOutput::default());
        Ok(Self { plan, backend, tables, words: Vec::new(), output, kernels: BTreeSet::new() })
    }

    /// Runs a step after filling what no step may rely on with NaN. `fed` is the first token's id.
    fn run(&mut self, parts: &[Part], fed: Option<u32>) -> Result<&StepOutput, Error> {
        let Self { plan, backend, tables, words, output, kernels } = self;
        let variant = fill(tables, plan, parts)?;
        if let (Some(id), Some(token)) = (fed, tables.tokens.first_mut()) {
            token.id = id;
        }
        tables.write(words);
        backend.poison(true);
        let dims = tables.dims();
        backend.submit(&StepInput { variant, dims, words, want_logits: true, chooses_later: false })?;
        backend.wait()?;
        while !backend.poll(output)? {}
        let ran = plan.dispatches_of(variant).iter().filter(|dispatch| plan.exprs.eval(dispatch.grid, &dims) > 0);
        kernels.extend(ran.map(|dispatch| describe(&plan.kernels[dispatch.kernel].spec)));
        Ok(output)
    }
}

/// Fills a step's tables; every sequence has the pages of its row.
fn fill(tables: &mut StepTables, plan: &Plan, parts: &[Part]) -> Result<VariantId, Error> {
    tables.clear();
    for &(row, first, n) in parts {
        let id = |position: u32| (row * 331 + position * 97 + 1) % N_VOCAB;
        tables.push_sequence((first..first + n).map(id), first, row);
        tables.rows.push(tables.tokens.len() as u32 - 1);
    }
    for _ in plan.kv.groups.ids() {
        let first_slot = |row: u32| row * plan.max_pages() * plan.page_tokens;
        let slot = |token: &ingot_ir::step::Token| {
            first_slot(tables.sequences[token.sequence as usize].page_row) + token.position
        };
        tables.slots.extend(tables.tokens.iter().map(slot));
    }
    let dims = tables.dims();
    plan.fit(tables).ok_or_else(|| Error::BadStep(format!("no variant takes {dims:?}")))
}

/// `|found - expected| / |expected|`; infinite if a number is missing or none.
fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() || found.iter().chain(expected).any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    (error / size.max(f64::MIN_POSITIVE)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_on_where_sequences_stand() {
        let mut at = [0; N_SEQUENCES as usize];
        for &(row, first, n) in STEPS.iter().flat_map(|parts| parts.iter()) {
            assert_eq!(at[row as usize], first, "sequence {row}");
            at[row as usize] += n;
        }
        assert!(at.iter().all(|n| *n > 0 && *n <= CONTEXT));
        assert_eq!((STEPS[FED].len(), STEPS[FED][0].2), (1, 1), "one token is fed");
    }

    #[test]
    fn the_processor_is_well() {
        let mut told = 0;
        let options = DoctorOptions {
            device: DeviceChoice::Cpu,
            quick: true,
            tiles: Tiles::BuiltIn,
            progress: Some(&mut |check| {
                told += 1;
                assert_eq!(check.failure, None, "{}", check.name);
            }),
        };
        let found = doctor(options).unwrap();
        assert_eq!((found.n_failed(), found.checks.len()), (0, told));
        assert!(found.n_kernels() > 20, "{}", found.n_kernels());
    }

    #[test]
    fn one_wrong_row_is_an_error() {
        let expected: Vec<f32> = (0..1000).map(|ix| (ix as f32 * 0.37).sin()).collect();
        let mut found = expected.clone();
        assert_eq!(relative_l2(&found, &expected), 0.0);
        found[7] += 1.0;
        assert!(relative_l2(&found, &expected) > TOLERANCE);
        found[7] = f32::NAN;
        assert_eq!(relative_l2(&found, &expected), f64::INFINITY);
    }
}
