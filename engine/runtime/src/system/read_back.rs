//! Takes the oldest finished step from the device. Never blocks.

use crate::RuntimeError;
use crate::world::World;

/// Runs the system; true if a step has finished, whose results `advance` is to hand out.
pub fn read_back(world: &mut World) -> Result<bool, RuntimeError> {
    if world.in_flight.is_empty() || !world.backend.poll(&mut world.output)? {
        return Ok(false);
    }
    world.device_ns += world.output.device_ns.unwrap_or(0);
    Ok(true)
}
