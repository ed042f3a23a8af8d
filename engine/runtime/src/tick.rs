//! The serving loop: one tick runs every system once, in this order.

use crate::RuntimeError;
use crate::system;
use crate::world::World;

/// Moves every request on as far as it goes without waiting. Results are in [`World::events`].
pub fn tick(world: &mut World) -> Result<(), RuntimeError> {
    system::choose(world)?;
    system::clear_cache(world);
    system::admit(world);
    system::match_prefix(world);
    system::schedule(world);
    system::allocate_pages(world);
    system::pack_batch(world);
    system::submit(world)?;
    while system::read_back(world)? {
        system::advance(world);
    }
    system::commit_pages(world);
    system::retire(world);
    world.cached.set(world.cached_bytes());
    Ok(())
}

/// Runs until something happens: ticks, waiting for the device in between. For native programs; a browser ticks by itself.
pub fn run(world: &mut World) -> Result<(), RuntimeError> {
    while world.events.is_empty() && !world.is_idle() {
        tick(world)?;
        // Wait only if the next tick could not put another step in flight.
        if world.events.is_empty() && !world.in_flight.is_empty() && !system::can_schedule(world) {
            wait(world)?;
        }
    }
    Ok(())
}

/// Waits for what the oldest step in flight lacks: its results, or to know the tokens that may be chosen. For the outer
/// loop alone.
pub fn wait(world: &mut World) -> Result<(), RuntimeError> {
    if !world.waits_for_masks && world.in_flight.front().is_none_or(|oldest| oldest.is_chosen) {
        return world.backend.wait();
    }
    system::wait_for_masks(world);
    Ok(())
}
