//! Has the tokens of a step chosen that was started without, once it is known which of them keep the form of their answers.

use crate::RuntimeError;
use crate::world::{Event, FinishReason, Sequences, State, World};

/// Runs the system on the newest step in flight. Never blocks: while a mask is still being computed nothing is chosen.
pub fn choose(world: &mut World) -> Result<(), RuntimeError> {
    let World { plan, backend, sequences, in_flight, words, events, .. } = world;
    let Some(newest) = in_flight.back_mut().filter(|step| !step.is_chosen) else { return Ok(()) };
    if newest.sequences.iter().any(|row| waits(sequences, *row)) {
        return Ok(());
    }
    for &row in &newest.sequences {
        if !is_chosen_by_form(sequences, row) {
            continue;
        }
        let Some(form) = &sequences.constraint[row] else { continue };
        match form.allowed(plan.n_vocab, words) {
            Ok(()) => backend.write_columns(row as u32, plan.mask_at(), words),
            Err(why) => {
                events.push(Event::Unfit { request: sequences.request[row], why });
                sequences.state[row] = State::Done(FinishReason::Cancelled);
            }
        }
    }
    backend.choose()?;
    newest.is_chosen = true;
    Ok(())
}

/// Whether the step that is yet to be chosen chooses a token of the row's form.
fn is_chosen_by_form(sequences: &Sequences, row: usize) -> bool {
    sequences.is_under_way(row) && sequences.is_formed_by_device(row) && sequences.sampled_row[row].is_some()
}

/// Whether it is not known yet which tokens may come: that of the step before is still to come, or the mask.
fn waits(sequences: &mut Sequences, row: usize) -> bool {
    is_chosen_by_form(sequences, row) && (sequences.n_in_flight[row] > 1 || sequences.waits_for_mask(row))
}
