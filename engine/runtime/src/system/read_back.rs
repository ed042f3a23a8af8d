//! Takes the oldest finished step from the device. Never blocks.

use crate::RuntimeError;
use crate::world::World;

/// Runs the system; true if a step has finished, whose results `advance` is to hand out. Results stay in
/// [`World::output`] until it is known which tokens may be chosen from them.
pub fn read_back(world: &mut World) -> Result<bool, RuntimeError> {
    let World { backend, in_flight, sequences, output, waits_for_masks, device_ns, .. } = world;
    let Some(oldest) = in_flight.front() else { return Ok(false) };
    if !*waits_for_masks {
        if !backend.poll(output)? {
            return Ok(false);
        }
        *device_ns += output.device_ns.unwrap_or(0);
    }
    *waits_for_masks = oldest.sequences.iter().any(|row| sequences.waits_for_mask(*row));
    Ok(!*waits_for_masks)
}

/// Waits for the tokens that may be chosen from the results at hand. For the outer loop alone.
pub fn wait_for_masks(world: &mut World) {
    let World { in_flight, sequences, .. } = world;
    for &row in in_flight.front().into_iter().flat_map(|oldest| &oldest.sequences) {
        if let (true, Some(constraint)) = (sequences.waits_for_mask(row), &mut sequences.constraint[row]) {
            constraint.wait();
        }
    }
}
