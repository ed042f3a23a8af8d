//! Takes the oldest finished step from the device. Never blocks.

use crate::RuntimeError;
use crate::world::{Sequences, World};

/// Runs the system; true if a step has finished, whose results `advance` is to hand out. Results stay in
/// [`World::output`] until it is known which tokens may be chosen from them.
pub fn read_back(world: &mut World) -> Result<bool, RuntimeError> {
    let World { backend, in_flight, sequences, output, waits_for_masks, device_ns, .. } = world;
    let Some(oldest) = in_flight.front().filter(|step| step.is_chosen) else { return Ok(false) };
    if !*waits_for_masks {
        if !backend.poll(output)? {
            return Ok(false);
        }
        *device_ns += output.device_ns.unwrap_or(0);
    }
    *waits_for_masks = oldest
        .sequences
        .iter()
        .zip(&oldest.spans)
        .any(|(&row, span)| chooses(sequences, row, span.0) && sequences.waits_for_mask(row));
    Ok(!*waits_for_masks)
}

/// Waits to know the tokens that may be chosen in the oldest step in flight. For the outer loop alone.
pub fn wait_for_masks(world: &mut World) {
    let World { in_flight, sequences, .. } = world;
    let rows = in_flight.front().into_iter().flat_map(|oldest| oldest.sequences.iter().zip(&oldest.spans));
    for (&row, span) in rows {
        let waits = chooses(sequences, row, span.0) && sequences.waits_for_mask(row);
        if let (true, Some(constraint)) = (waits, &mut sequences.constraint[row]) {
            constraint.wait();
        }
    }
}

/// Whether a token is chosen from what `n` more of a row's tokens leave: of a prompt's chunk before the last none is.
fn chooses(sequences: &Sequences, row: usize, n: u32) -> bool {
    (sequences.n_cached[row] + n) as usize >= sequences.tokens[row].len()
}
