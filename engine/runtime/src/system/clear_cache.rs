//! Forgets what pages hold if the account says so.

use crate::world::World;

/// Runs the system.
pub fn clear_cache(world: &mut World) {
    let n_clearings = world.backend.account().n_clearings();
    if world.n_clearings != n_clearings {
        world.n_clearings = n_clearings;
        world.forget_prefixes();
    }
}
