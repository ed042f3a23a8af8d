//! The devices that kernels are tested on, and a plan on one of them, driven step by step without the tick.

use crate::interpreter::{Interpreter, Matrix, State};
use crate::random::Batch;
use crate::shared::skip;
use crate::stored::StoredTensors;
use crate::tolerance::relative_l2;
use ingot_compiler::{Options, TargetProfile, compile};
use ingot_ir::graph::Graph;
use ingot_ir::kv::{KvGroupId, PAGE_TOKENS};
use ingot_ir::plan::{BlobId, Plan, PlanWeight};
use ingot_ir::size::Dim;
use ingot_ir::step::StepTables;
use ingot_runtime::account::Account;
use ingot_runtime::backend::{Backend, StepInput, StepOutput};
use ingot_runtime::cpu::Activations;
use ingot_runtime::cpu::execute::{CpuBackend, CpuOptions};
use ingot_runtime::gpu::execute::{GpuBackend, LoadOptions};
use ingot_runtime::gpu::{DeviceKind, Gpu, MemoryOptions, OpenOptions, adapters, find};
use ingot_runtime::world::Limits;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A device of the tests.
#[derive(Clone, Debug)]
pub enum Device {
    /// The processor.
    Cpu,
    /// An opened adapter.
    Gpu(Gpu),
}

/// The first adapter, a real one before a software rasterizer; opened with and without unified memory. Says so if
/// there is none.
pub fn gpus() -> &'static [Device] {
    static GPUS: OnceLock<Vec<Device>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let name = adapters().into_iter().min_by_key(|info| info.kind == DeviceKind::Cpu).map(|info| info.name);
        let Some(adapter) = name.and_then(|name| find(&name).ok()) else {
            skip("no Vulkan or Metal adapter, so kernels ran on the CPU alone");
            return Vec::new();
        };
        let open = |unified| Gpu::open(&adapter, &OpenOptions { unified }).expect("an adapter opens");
        vec![Device::Gpu(open(None)), Device::Gpu(open(Some(!open(None).is_unified())))]
    })
}

/// The processor and, if there is one, the first adapter.
pub fn devices() -> Vec<Device> {
    std::iter::once(Device::Cpu).chain(gpus().first().cloned()).collect()
}

/// A software rasterizer takes every core, so that tests on an adapter run one after the other.
pub fn turn(device: &Device) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    matches!(device, Device::Gpu(_)).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Device {
    /// What the compiler is told of it.
    pub fn target(&self) -> TargetProfile {
        match self {
            Self::Gpu(gpu) => ingot::target_of(gpu.info()),
            Self::Cpu => TargetProfile::cpu(),
        }
    }

    /// Whether it is an adapter that the processor plays.
    pub fn is_software(&self) -> bool {
        matches!(self, Self::Gpu(gpu) if gpu.info().kind == DeviceKind::Cpu)
    }

    /// Whether it is the processor.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// Loads a plan.
    pub fn load(&self, plan: &Plan, stored: &Arc<StoredTensors>, limits: Limits) -> Backend {
        let loaded = match self {
            Self::Cpu => {
                let source: Arc<StoredTensors> = Arc::clone(stored);
                let cpu = CpuOptions {
                    n_threads: 2,
                    budget_bytes: None,
                    account: Account::default(),
                    activations: Activations::F32,
                };
                CpuBackend::load(plan, source, limits, cpu).map(|cpu| Backend::Cpu(Box::new(cpu)))
            }
            Self::Gpu(gpu) => {
                let mut fill = |_: BlobId, weight: &PlanWeight, offset: u64, out: &mut [u8]| {
                    stored.fill(weight, offset, out);
                    Ok(())
                };
                // Small pieces, so that weights are uploaded in several.
                let memory = MemoryOptions { piece_bytes: 64 << 10, ..MemoryOptions::default() };
                let progress = &mut |_, _| {};
                let options = LoadOptions {
                    limits,
                    memory,
                    trusted: true,
                    n_threads: 2,
                    pipeline_cache: None,
                    alike: false,
                    progress,
                };
                GpuBackend::load(gpu.clone(), plan, &mut fill, options).map(|gpu| Backend::Gpu(Box::new(gpu)))
            }
        };
        loaded.unwrap_or_else(|error| panic!("{error}\n{plan}"))
    }
}

/// Waits for the oldest step.
pub fn finish(backend: &mut Backend, out: &mut StepOutput) {
    backend.wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(backend.poll(out).unwrap_or_else(|error| panic!("{error}")), "a step that was waited for is finished");
}

/// A graph on a device beside the same graph in the interpreter.
pub struct Rig<'a> {
    graph: &'a Graph,
    interpreter: Interpreter<'a>,
    state: State,
    plan: Plan,
    backend: Backend,
    output: StepOutput,
    words: Vec<u32>,
}

/// What a step gave, and what the interpreter gives.
pub struct Compared {
    /// The wanted rows of the graph's first output.
    pub found: Vec<f32>,
    /// The same from the interpreter.
    pub expected: Matrix,
    /// Greedy choices.
    pub sampled: Vec<u32>,
    /// The interpreter's.
    pub expected_sampled: Vec<u32>,
}

impl Compared {
    /// The relative error of the first output.
    pub fn error(&self) -> f64 {
        relative_l2(&self.found, &self.expected.numbers)
    }
}

impl<'a> Rig<'a> {
    /// Compiles and loads a graph for the steps of a batch. Everything that no step writes is NaN: transient buffers,
    /// pages, and the page that unused entries of the page tables name.
    pub fn new(
        graph: &'a Graph,
        stored: &Arc<StoredTensors>,
        device: &Device,
        target: &TargetProfile,
        batch: &Batch,
    ) -> Self {
        assert_eq!(batch.page_tokens, PAGE_TOKENS, "kernels know pages of one size");
        let options = Options { max_batch: 8, ..Options::new(batch.max_pages * batch.page_tokens) };
        let plan = compile(graph, target, options).unwrap_or_else(|error| panic!("{error}\n{graph}"));
        let table_rows = batch.page_tables.first().map_or(1, |table| table.len() as u32 / batch.max_pages);
        let limits = Limits::uniform(&plan, table_rows, batch.n_pages);
        let mut backend = device.load(&plan, stored, limits);
        backend.poison(false);
        for (group, table) in (0..).zip(&batch.page_tables) {
            let nobodys = (0..batch.n_pages).find(|page| !table.contains(page)).expect("a batch leaves pages");
            for (row, pages) in (0..).zip(table.chunks_exact(batch.max_pages as usize)) {
                let pages: Vec<u32> =
                    pages.iter().map(|page| if *page == u32::MAX { nobodys } else { *page }).collect();
                backend.write_pages(KvGroupId(group), row, 0, &pages);
            }
        }
        let tensor = |name: &str| stored.numbers(name);
        let interpreter = Interpreter::new(graph, &tensor).keeping(target.kv_type);
        Self {
            graph,
            interpreter,
            state: State::default(),
            plan,
            backend,
            output: StepOutput::default(),
            words: Vec::new(),
        }
    }

    /// The compiled plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs a step on both. Transient buffers are NaN before it.
    pub fn step(&mut self, tables: &StepTables) -> Compared {
        let mut tables = tables.clone();
        if !self.graph.outputs.is_empty() && !self.narrows() {
            tables.rows = (0..tables.tokens.len() as u32).collect();
        }
        if tables.rows.is_empty() {
            tables.rows.push(tables.tokens.len() as u32 - 1);
        }
        let variant = self.plan.fit(&mut tables).unwrap_or_else(|| panic!("no variant takes {:?}", tables.dims()));
        tables.verify(self.plan.kv.groups.len(), &vec![u32::MAX; self.plan.kv.groups.len()]).expect("a step is right");
        tables.write(&mut self.words);
        self.backend.poison(true);
        let input =
            StepInput { variant, dims: tables.dims(), words: &self.words, want_logits: true, chooses_later: false };
        self.backend.submit(&input).unwrap_or_else(|error| panic!("{error}"));
        finish(&mut self.backend, &mut self.output);

        let values = self.interpreter.step(&tables, &mut self.state);
        let of_rows = |matrix: &Matrix, rows: Dim| match rows {
            Dim::Tokens => matrix.rows(&tables.rows),
            _ => matrix.clone(),
        };
        let first = self.graph.outputs[0];
        let expected = of_rows(&values[first], self.graph.values[first].shape.rows);
        let expected_sampled = self
            .graph
            .outputs
            .get(1)
            .map_or(Vec::new(), |ids| of_rows(&values[*ids], self.graph.values[*ids].shape.rows).bits());
        // The next step's tokens name wanted rows, on the device as in the interpreter.
        self.state.sampled.clone_from(&expected_sampled);
        Compared { found: self.output.logits.clone(), expected, sampled: self.output.sampled.clone(), expected_sampled }
    }

    /// Whether the first output can be computed for some rows alone; else a step wants all of them.
    fn narrows(&self) -> bool {
        let value = &self.graph.values[self.graph.outputs[0]];
        value.op.is_row_wise() || value.shape.rows == Dim::Rows
    }

    /// Runs all steps of a batch and checks the first output of each.
    pub fn check(&mut self, batch: &Batch, tolerance: f64) -> Result<(), String> {
        for (ix, tables) in batch.steps.iter().enumerate() {
            let compared = self.step(tables);
            let error = compared.error();
            if error > tolerance {
                let wrong = compared.found.iter().zip(&compared.expected.numbers);
                let is_wrong = |a: f32, b: f32| !a.is_finite() || (a - b).abs() > 1e-3 * (1.0 + b.abs());
                let wrong = wrong.enumerate().find(|(_, (a, b))| is_wrong(**a, **b));
                let n_cols = compared.expected.n_cols;
                let place = wrong.map_or(String::new(), |(at, (a, b))| {
                    format!("; first at row {} column {}: {a} for {b}", at / n_cols, at % n_cols)
                });
                return Err(format!("step {ix} is off by {error:.2e}, allowed {tolerance:.1e}{place}"));
            }
        }
        Ok(())
    }
}
