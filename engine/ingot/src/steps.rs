//! Steps made by hand, outside of the serving loop: what they cost, and how long each of their kernels takes.

use crate::{DeviceChoice, Error, Model, device};
use ingot_ir::cost::{self, Cost};
use ingot_ir::kernel::{KernelSpec, Prologue};
use ingot_ir::plan::{Plan, VariantId};
use ingot_ir::size::Dims;
use ingot_ir::step::StepTables;
use ingot_runtime::backend::{KernelTime, StepInput, StepOutput};
use ingot_runtime::ceilings::Ceilings;
use ingot_runtime::sample::{self, Room, Sampling};
use ingot_runtime::world::World;

/// A step: sequences that are alike.
///
/// ```
/// use ingot::StepShape;
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let chunk = model.step_facts(StepShape { n_sequences: 1, n_tokens: 16, depth: 0 })?;
/// let decode = model.step_facts(StepShape { n_sequences: 1, n_tokens: 1, depth: 16 })?;
/// assert!(chunk.cost.flops > 4 * decode.cost.flops);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepShape {
    /// Sequences.
    pub n_sequences: u32,
    /// Tokens of each in the step: 1 decodes, more are a chunk of a prompt.
    pub n_tokens: u32,
    /// Tokens of each in the cache before.
    pub depth: u32,
}

/// What a step does.
///
/// ```
/// use ingot::{StepFacts, StepShape};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let StepFacts { n_dispatches, cost, bounds } = model.step_facts(StepShape { n_sequences: 1, n_tokens: 5, depth: 0 })?;
/// println!("{n_dispatches} launches, {} bytes, {} operations", cost.bytes(), cost.flops);
/// assert!(n_dispatches > 0 && bounds.tokens >= 5);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepFacts {
    /// Kernel launches.
    pub n_dispatches: usize,
    /// Bytes and operations.
    pub cost: Cost,
    /// The largest step that its kernels take.
    pub bounds: Dims,
}

/// One kernel launch of a profiled step.
///
/// ```
/// use ingot::{ProfiledLaunch, Sampling, StepShape};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// # let shape = StepShape { n_sequences: 1, n_tokens: 1, depth: 16 };
/// for ProfiledLaunch { name, start_s, time_s, cost, .. } in model.profile(shape, &Sampling::default(), 1)?.launches {
///     println!("at {start_s} s for {time_s} s, {} bytes: {name}", cost.bytes());
///     # assert!(start_s >= 0.0 && time_s >= 0.0 && !name.is_empty());
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct ProfiledLaunch {
    /// Its kernel's number in the plan.
    pub kernel: u32,
    /// What the kernel computes: template, weight format, sizes, what is fused.
    pub name: String,
    /// Seconds after the step's begin.
    pub start_s: f64,
    /// Seconds that it took.
    pub time_s: f64,
    /// Bytes and operations.
    pub cost: Cost,
}

/// All launches of one kernel.
///
/// ```
/// use ingot::{ProfiledKernel, Sampling, StepShape};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// # let shape = StepShape { n_sequences: 1, n_tokens: 1, depth: 16 };
/// for ProfiledKernel { name, n, time_s, .. } in model.profile(shape, &Sampling::default(), 1)?.by_kernel() {
///     println!("{n} x {name}: {time_s} s");
///     # assert!(n > 0);
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct ProfiledKernel {
    /// Its number in the plan.
    pub kernel: u32,
    /// What it computes.
    pub name: String,
    /// Launches.
    pub n: usize,
    /// Seconds of all.
    pub time_s: f64,
    /// Bytes and operations of all.
    pub cost: Cost,
}

/// A step, kernel by kernel.
///
/// ```
/// use ingot::{Profile, Sampling, StepShape};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// # let shape = StepShape { n_sequences: 1, n_tokens: 1, depth: 16 };
/// let profile: Profile = model.profile(shape, &Sampling::default(), 1)?;
/// println!("{:.0} us, its kernels one by one {:.0}", 1e6 * profile.step_s, 1e6 * profile.kernels_s());
/// assert_eq!(profile.launches.len(), profile.facts.n_dispatches);
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// The step.
    pub shape: StepShape,
    /// What it does.
    pub facts: StepFacts,
    /// Seconds of the whole step without marks between its kernels, as it runs when it is not looked at.
    pub step_s: f64,
    /// Launches in order, each the median of the repeats.
    pub launches: Vec<ProfiledLaunch>,
}

impl Profile {
    /// Launches by kernel, the longest first.
    ///
    /// ```
    /// # use ingot::{Sampling, StepShape};
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let shape = StepShape { n_sequences: 1, n_tokens: 1, depth: 16 };
    /// let kernels = model.profile(shape, &Sampling::default(), 1)?.by_kernel();
    /// for kernel in &kernels {
    ///     println!("{} x {}: {:.6} s", kernel.n, kernel.name, kernel.time_s);
    /// }
    /// assert!(kernels.is_sorted_by(|a, b| a.time_s >= b.time_s));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn by_kernel(&self) -> Vec<ProfiledKernel> {
        let mut kernels: Vec<ProfiledKernel> = Vec::new();
        for launch in &self.launches {
            let ix = kernels.iter().position(|kernel| kernel.kernel == launch.kernel).unwrap_or_else(|| {
                let (kernel, name) = (launch.kernel, launch.name.clone());
                kernels.push(ProfiledKernel { kernel, name, n: 0, time_s: 0.0, cost: Cost::default() });
                kernels.len() - 1
            });
            let found = &mut kernels[ix];
            found.n += 1;
            found.time_s += launch.time_s;
            found.cost = found.cost + launch.cost;
        }
        kernels.sort_by(|a, b| b.time_s.total_cmp(&a.time_s));
        kernels
    }

    /// Seconds of all kernels, one after the other.
    ///
    /// ```
    /// # use ingot::{Sampling, StepShape};
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let shape = StepShape { n_sequences: 1, n_tokens: 1, depth: 16 };
    /// let profile = model.profile(shape, &Sampling::default(), 1)?;
    /// let by_kernel: f64 = profile.by_kernel().iter().map(|kernel| kernel.time_s).sum();
    /// assert!((profile.kernels_s() - by_kernel).abs() < 1e-9);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn kernels_s(&self) -> f64 {
        self.launches.iter().map(|launch| launch.time_s).sum()
    }
}

/// Measures what a device can do at most, before a model is loaded: beside 40 GB of weights an H100 read other memory at 59 %
/// of the speed that it reads it at alone. Gives the device's name too; `None` for the processor, whose limits a model
/// measures with its own threads.
///
/// ```
/// use ingot::{DeviceChoice, ceilings};
///
/// # let choice = DeviceChoice::Cpu;
/// if let Some((name, ceilings)) = ceilings(&choice)? {
///     println!("{name}: {:.0} GB/s", ceilings.read_gb_s);
/// }
/// assert!(ceilings(&DeviceChoice::Cpu)?.is_none());
/// # Ok::<(), ingot::Error>(())
/// ```
///
/// # Errors
/// As opening the device, or if it has no room for the buffer that is read.
pub fn ceilings(choice: &DeviceChoice) -> Result<Option<(String, Ceilings)>, Error> {
    let Some(place) = device::place(choice, None)? else { return Ok(None) };
    let gpu = place.open(None)?;
    Ok(Some((gpu.info().name.clone(), ingot_runtime::gpu::ceilings::measure(&gpu)?)))
}

impl Model {
    /// Measures what the device can do at most, beside the loaded model; see [`ceilings`].
    ///
    /// ```
    /// use ingot::StepShape;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let cost = model.step_facts(StepShape { n_sequences: 1, n_tokens: 1, depth: 0 })?.cost;
    /// let least_s = model.ceilings()?.least_s(cost.bytes(), cost.flops);
    /// assert!(least_s > 1e-7, "a token takes at least {least_s} s");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the device has no room for the buffer that is read.
    pub fn ceilings(&self) -> Result<Ceilings, Error> {
        Ok(self.world.backend.ceilings()?)
    }

    /// What a step does, without running it.
    ///
    /// ```
    /// use ingot::{Error, StepShape};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let shape = StepShape { n_sequences: 1, n_tokens: 1, depth: 16 };
    /// assert!(model.step_facts(shape)?.cost.weight_bytes > 0);
    /// // The model is loaded for one sequence at a time.
    /// let four = StepShape { n_sequences: 4, ..shape };
    /// assert!(matches!(model.step_facts(four), Err(Error::BadStep(_))));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BadStep`] if no step of the plan is like that.
    pub fn step_facts(&self, shape: StepShape) -> Result<StepFacts, Error> {
        let plan = &self.world.plan;
        let (variant, tables) = tables(plan, shape)?;
        Ok(facts(plan, variant, &tables))
    }

    /// Runs a step `repeats` times, and as often with its kernels timed one by one. A GPU chooses each sequence's token as
    /// `sampling` says; what only the processor can choose is left out. The cache holds whatever it held: times do not
    /// depend on it. The model must be idle.
    ///
    /// ```
    /// use ingot::{Sampling, StepShape};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let shape = StepShape { n_sequences: 1, n_tokens: 16, depth: 0 };
    /// let profile = model.profile(shape, &Sampling::default(), 3)?;
    /// assert!(profile.step_s > 0.0 && profile.kernels_s() > 0.0);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BadStep`] if no step of the plan is like that; those of the device.
    pub fn profile(&mut self, shape: StepShape, sampling: &Sampling, repeats: usize) -> Result<Profile, Error> {
        let world = &mut self.world;
        let (variant, mut tables) = tables(&world.plan, shape)?;
        // Pools may hold fewer pages than a context has: pages are used again, in the same order as below.
        let page_tokens = world.plan.page_tokens;
        let n_tokens = tables.tokens.len();
        for (slots, pool) in tables.slots.chunks_exact_mut(n_tokens).zip(&world.pools) {
            for slot in slots {
                *slot = *slot / page_tokens % pool.n_pages().max(1) * page_tokens + *slot % page_tokens;
            }
        }
        choose(world, &mut tables, shape, sampling);
        // The step writes where it likes.
        world.forget_prefixes();
        let pages_each = pages_each(&world.plan, shape);
        let n_pages: Vec<u32> = world.pools.iter().map(|pool| pool.n_pages().max(1)).collect();
        for (group, n_pages) in world.plan.kv.groups.ids().zip(&n_pages) {
            for row in 0..shape.n_sequences {
                let pages: Vec<u32> = (row * pages_each..(row + 1) * pages_each).map(|page| page % n_pages).collect();
                world.backend.write_pages(group, row, 0, &pages);
            }
        }
        let mut words = Vec::new();
        tables.write(&mut words);
        let input = StepInput { variant, dims: tables.dims(), words: &words, want_logits: false, chooses_later: false };
        let (mut whole_s, mut runs) = (Vec::new(), Vec::new());
        let mut output = StepOutput::default();
        // The first round warms up.
        for round in 0..=repeats.max(1) {
            let started = std::time::Instant::now();
            world.backend.submit(&input)?;
            world.backend.wait()?;
            while !world.backend.poll(&mut output)? {}
            let wall_s = started.elapsed().as_secs_f64();
            let times = world.backend.profile(&input)?;
            if round > 0 {
                whole_s.push(output.device_ns.map_or(wall_s, |ns| ns as f64 / 1e9));
                runs.push(times);
            }
        }
        let launches = launches(&world.plan, variant, &tables, &runs);
        let facts = facts(&world.plan, variant, &tables);
        Ok(Profile { shape, facts, step_s: median(whole_s), launches })
    }
}

/// Says how the step's tokens are chosen.
fn choose(world: &mut World, tables: &mut StepTables, shape: StepShape, sampling: &Sampling) {
    let World { plan, backend, words, .. } = world;
    if sampling.is_greedy() || !backend.feeds_back() {
        return;
    }
    let room = Room { n_vocab: plan.n_vocab, max_context: plan.max_context, history: plan.history_tokens() };
    let Some(lists) = sample::lists(sampling, &[], room, words) else { return };
    let position = shape.depth + shape.n_tokens;
    for row in 0..shape.n_sequences {
        backend.write_columns(row, 0, words);
        tables.choose(row, sample::choice(sampling, lists, row, position, position));
    }
}

fn pages_each(plan: &Plan, shape: StepShape) -> u32 {
    (shape.depth + shape.n_tokens).div_ceil(plan.page_tokens)
}

/// The tables of a step and the variant that runs it; pages are used in order.
fn tables(plan: &Plan, shape: StepShape) -> Result<(VariantId, StepTables), Error> {
    let StepShape { n_sequences, n_tokens, depth } = shape;
    let bad = |why: String| Err(Error::BadStep(why));
    if n_sequences == 0 || n_tokens == 0 {
        return bad("it needs at least one sequence of one token".into());
    }
    if n_sequences > plan.max_batch {
        return bad(format!("{n_sequences} sequences, but the model is loaded for {}", plan.max_batch));
    }
    if u64::from(depth) + u64::from(n_tokens) > u64::from(plan.max_context) {
        return bad(format!("{depth} and {n_tokens} tokens, but the context holds {}", plan.max_context));
    }
    let mut tables = StepTables::default();
    for row in 0..n_sequences {
        let ids = (0..n_tokens).map(|ix| made_up_id(row * n_tokens + ix, plan.n_vocab));
        tables.push_sequence(ids, depth, row);
        tables.rows.push((row + 1) * n_tokens - 1);
    }
    let pages_each = pages_each(plan, shape);
    for _ in plan.kv.groups.ids() {
        let slots = tables.tokens.iter().map(|token| token.sequence * pages_each * plan.page_tokens + token.position);
        tables.slots.extend(slots);
    }
    let Some(variant) = plan.fit(&mut tables) else {
        let most = plan.max_bounds().tokens;
        return bad(format!("{} tokens together, but a step takes at most {most}", tables.tokens.len()));
    };
    Ok((variant, tables))
}

/// Ids spread over the vocabulary, the same each time.
pub(crate) fn made_up_id(ix: u32, n_vocab: u32) -> u32 {
    ((u64::from(ix) * 7919 + 1) % u64::from(n_vocab.max(1))) as u32
}

fn facts(plan: &Plan, variant: VariantId, tables: &StepTables) -> StepFacts {
    let dims = tables.dims();
    let runs = |dispatch: &&ingot_ir::plan::Dispatch| plan.exprs.eval(dispatch.grid, &dims) > 0;
    StepFacts {
        n_dispatches: plan.dispatches_of(variant).iter().filter(runs).count(),
        cost: cost::of_step(plan, variant, tables),
        bounds: plan.variants[variant].bounds,
    }
}

/// The medians of several runs of a step, laid out one after the other.
fn launches(plan: &Plan, variant: VariantId, tables: &StepTables, runs: &[Vec<KernelTime>]) -> Vec<ProfiledLaunch> {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let mut at_s = 0.0;
    let launch = |(ix, dispatch): (usize, &ingot_ir::plan::Dispatch)| {
        let over_runs = |of: &dyn Fn(&[KernelTime]) -> f64| median(runs.iter().map(|run| of(run)).collect());
        let time_s = over_runs(&|run| seconds(run[ix].end_ns.saturating_sub(run[ix].start_ns)));
        let gap_s = over_runs(&|run| match ix.checked_sub(1) {
            Some(before) => seconds(run[ix].start_ns.saturating_sub(run[before].end_ns)),
            None => 0.0,
        });
        let start_s = at_s + gap_s;
        at_s = start_s + time_s;
        let name = describe(&plan.kernels[dispatch.kernel].spec);
        let cost = cost::of_dispatch(plan, variant, dispatch, tables);
        ProfiledLaunch { kernel: dispatch.kernel.0, name, start_s, time_s, cost }
    };
    plan.dispatches_of(variant).iter().enumerate().map(launch).collect()
}

/// A kernel in a few words: `matvec affine4g64_f16 6144 x 4096, rms_norm, rope_kv`.
pub(crate) fn describe(spec: &KernelSpec) -> String {
    let mut name = spec.template.to_string();
    if let Some(format) = spec.weight {
        name += &format!(" {format}");
    }
    let number = |names: [&str; 2]| names.iter().find_map(|name| spec.u32(name));
    if let Some(n) = number(["N", "N_COLS"]) {
        name += &format!(" {n}");
    }
    if let Some(k) = spec.u32("K") {
        name += &format!(" x {k}");
    }
    if let (Some(n), Some(head)) = (spec.u32("N_HEADS"), spec.u32("HEAD_DIM"))
        && spec.u32("K").is_none()
    {
        name += &format!(" {n} heads x {head}");
    }
    if spec.prologue != Prologue::None {
        name += &format!(", {}", spec.prologue);
    }
    for op in &spec.epilogue {
        name += &format!(", {op}");
    }
    if spec.u32("INT8") == Some(1) {
        name += ", int8";
    }
    let tiles = ["M_MAX", "Q_TILE"].iter().filter_map(|name| match spec.u32(name) {
        Some(n) if n > 1 => Some(format!(", {name} {n}")),
        _ => None,
    });
    name.extend(tiles);
    name
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ingot_ir::kernel::{Const, EpilogueOp, Rows, Template};

    #[test]
    fn kernels_are_told_in_few_words() {
        let mut spec = KernelSpec::new(Template::Matvec, Rows::Tokens);
        spec.weight = ingot_ir::weight::Format::parse("affine4g64_f16");
        spec.prologue = Prologue::RmsNorm;
        spec.epilogue = vec![EpilogueOp::RopeKv];
        for (name, n) in [("N", 6144), ("K", 4096), ("M_MAX", 4), ("N_HEADS", 32), ("HEAD_DIM", 128)] {
            spec.set(name, Const::U32(n));
        }
        assert_eq!(describe(&spec), "matvec affine4g64_f16 6144 x 4096, rms_norm, rope_kv, M_MAX 4");
        let mut spec = KernelSpec::new(Template::Attention, Rows::Tokens);
        spec.set("N_HEADS", Const::U32(32));
        spec.set("HEAD_DIM", Const::U32(128));
        assert_eq!(describe(&spec), "attention 32 heads x 128");
    }

    #[test]
    fn made_up_ids_stay_in_the_vocabulary() {
        assert!((0..1000).all(|ix| made_up_id(ix, 97) < 97));
        assert_eq!(made_up_id(5, 0), 0);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
