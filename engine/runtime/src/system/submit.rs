//! Starts the packed step on the device.

use crate::RuntimeError;
use crate::backend::StepInput;
use crate::sample::Chooser;
use crate::world::{Sequences, State, World};

/// Runs the system. If the step cannot be started its tokens count as not scheduled, so that an error leaves the world
/// as it was before.
pub fn submit(world: &mut World) -> Result<(), RuntimeError> {
    if world.step.tokens.is_empty() {
        return Ok(());
    }
    let result = start(world);
    if result.is_err() {
        world.spare.extend(world.in_flight.pop_back());
    }
    result
}

fn start(world: &mut World) -> Result<(), RuntimeError> {
    let dims = world.step.dims();
    let variant = world.plan.fit(&mut world.step);
    let variant = variant.ok_or_else(|| RuntimeError::Cpu(format!("no variant takes a step of {dims:?}")))?;
    world.step.write(&mut world.words);
    let Some(record) = world.in_flight.back_mut() else { return Ok(()) };
    let sequences = &mut world.sequences;
    let spans = || record.sequences.iter().zip(&record.spans);
    let reads_all = |sequences: &Sequences, row: usize, n: u32| {
        (sequences.n_scheduled[row] + n) as usize >= sequences.tokens[row].len()
    };
    let samples =
        |sequences: &Sequences, row: usize, n: u32| reads_all(sequences, row, n) && sequences.max_tokens[row] > 0;
    let want_logits = spans().any(|(&row, span)| {
        sequences.prompt_logits[row] || (samples(sequences, row, span.0) && sequences.chooser[row] == Chooser::Host)
    });
    let chooses_later =
        spans().any(|(&row, span)| samples(sequences, row, span.0) && sequences.is_formed_by_device(row));
    let input = StepInput { variant, dims: world.step.dims(), words: &world.words, want_logits, chooses_later };
    let started = std::time::Instant::now();
    world.backend.submit(&input)?;
    world.submit_ns += started.elapsed().as_nanos() as u64;
    world.n_steps += 1;
    record.is_chosen = !chooses_later;
    for (&row, &(n, first_row, n_rows)) in spans() {
        let (reads_all, samples) = (reads_all(sequences, row, n), samples(sequences, row, n));
        sequences.n_scheduled[row] += n;
        sequences.n_in_flight[row] += 1;
        if reads_all {
            sequences.state[row] = State::Decode;
        }
        sequences.sampled_row[row] = samples.then_some(first_row + n_rows - 1);
    }
    Ok(())
}
