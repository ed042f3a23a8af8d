//! What happens to a stranger's plan: verified, loaded on the processor and run for a few tokens, as `ingot generate`
//! would. Nothing of it may panic, hang or take more memory than it was given.

use crate::stored::StoredTensors;
use ingot_compiler::repack;
use ingot_ir::plan::Plan;
use ingot_runtime::account::Account;
use ingot_runtime::backend::Backend;
use ingot_runtime::cpu::Activations;
use ingot_runtime::cpu::execute::{CpuBackend, CpuOptions, StoredTensor, WeightSource};
use ingot_runtime::sample::Sampling;
use ingot_runtime::tick::tick;
use ingot_runtime::world::{Limits, Request, World};
use std::sync::Arc;

/// Bytes that a loaded plan may take.
const BUDGET: u64 = 64 << 20;

/// Ticks after which the answer has come, or never will.
const MANY_TICKS: usize = 64;

/// Loads a plan and has it answer one prompt. Returns the number of steps that ran.
///
/// # Errors
/// Whatever the verifier, the loader or a step has against the plan.
pub fn run(plan: Plan, stored: &Arc<StoredTensors>) -> Result<u64, String> {
    plan.verify().map_err(|error| error.to_string())?;
    let find = |name: &str| {
        fn bytes(t: StoredTensor<'_>) -> repack::Tensor<'_> {
            let StoredTensor { codes: values, scales, biases, global } = t;
            repack::TensorBytes { values, scales, biases, global }.into()
        }
        stored.tensor(name).map(bytes)
    };
    plan.weights.as_slice().iter().try_for_each(|weight| repack::check(weight, &find))?;
    let limits = Limits::uniform(&plan, 1, plan.max_pages());
    let source: Arc<StoredTensors> = Arc::clone(stored);
    let options = CpuOptions {
        n_threads: 1,
        budget_bytes: Some(BUDGET),
        account: Account::default(),
        activations: Activations::F32,
    };
    let backend =
        CpuBackend::load(&plan, source, limits.clone(), options).map_err(|error| format!("not loaded: {error}"))?;
    let n_vocab = plan.n_vocab;
    let mut world = World::new(plan, Backend::Cpu(Box::new(backend)), limits);
    let request = Request {
        prompt: (0..20).map(|ix| ix * 7 % n_vocab).collect(),
        max_tokens: 3,
        sampling: Sampling::default(),
        grammar: None,
        stop_ids: Vec::new(),
        prompt_logits: false,
        cache_prompt: true,
    };
    world.submit(request).map_err(|error| error.to_string())?;
    for _ in 0..MANY_TICKS {
        if world.is_idle() {
            return Ok(world.n_steps);
        }
        tick(&mut world).map_err(|error| format!("not run: {error}"))?;
    }
    Err("not finished".into())
}
