//! Starts the packed step on the device.

use crate::RuntimeError;
use crate::backend::StepInput;
use crate::world::{State, World};

/// Runs the system.
pub fn submit(world: &mut World) -> Result<(), RuntimeError> {
    if world.step.tokens.is_empty() {
        return Ok(());
    }
    let mut dims = world.step.dims();
    // Tiles depend on the variant and the variant on the sizes, of which tiles are never the tightest.
    dims.tiles = 0;
    let variant = world.plan.variant_for(&dims);
    let variant = variant.ok_or_else(|| RuntimeError::Cpu(format!("no variant takes a step of {dims:?}")))?;
    world.step.tile(world.plan.variants[variant].q_tile);
    world.step.write(&mut world.words);
    let Some(record) = world.in_flight.back() else { return Ok(()) };
    let sequences = &mut world.sequences;
    let mut want_logits = false;
    for (&row, &(n, first_row, n_rows)) in record.sequences.iter().zip(&record.spans) {
        sequences.n_scheduled[row] += n;
        sequences.n_in_flight[row] += 1;
        let ends_prompt =
            sequences.state[row] == State::Decode || sequences.n_scheduled[row] >= sequences.n_prompt[row];
        let samples = ends_prompt && sequences.max_tokens[row] > 0;
        if ends_prompt {
            sequences.state[row] = State::Decode;
        }
        sequences.sampled_row[row] = samples.then_some(first_row + n_rows - 1);
        want_logits |= sequences.prompt_logits[row] || (samples && !sequences.sampling[row].is_greedy());
    }
    let input = StepInput { variant, dims: world.step.dims(), words: &world.words, want_logits };
    let started = std::time::Instant::now();
    let result = world.backend.submit(&input);
    world.submit_ns += started.elapsed().as_nanos() as u64;
    world.n_steps += 1;
    result
}
