//! Gives scheduled tokens their pages. A sequence that finds none waits for the next tick; if nothing is in flight that
//! could free pages, it ends with [`FinishReason::Length`].

use crate::world::{FinishReason, State, World};

/// Runs the system.
pub fn allocate_pages(world: &mut World) {
    for row in 0..world.sequences.state.len() {
        let n_step = world.sequences.n_step[row];
        if n_step == 0 {
            continue;
        }
        let wanted = pages_for(world, row, n_step);
        let short = is_short(world, row, n_step);
        if short {
            world.sequences.n_step[row] = 0;
            let alone = world.in_flight.is_empty()
                && world.sequences.live().all(|other| other == row || world.sequences.n_step[other] == 0);
            if alone {
                world.sequences.state[row] = State::Done(FinishReason::Length);
            }
            continue;
        }
        for (group, pool) in world.pools.iter_mut().enumerate() {
            let pages = &mut world.sequences.pages[row][group];
            while pages.len() < wanted {
                pages.extend(pool.take());
            }
            let written = world.sequences.n_pages_written[row][group];
            if (written as usize) < pages.len() {
                let group_id = ingot_ir::kv::KvGroupId(group as u32);
                world.backend.write_pages(group_id, row as u32, written, &pages[written as usize..]);
                world.sequences.n_pages_written[row][group] = pages.len() as u32;
            }
        }
    }
}

/// Pages that a sequence has once `n` more tokens are in the cache.
fn pages_for(world: &World, row: usize, n: u32) -> usize {
    (world.sequences.n_scheduled[row] + n).div_ceil(world.plan.page_tokens) as usize
}

/// Whether too few pages are free for `n` more tokens of a sequence.
pub(super) fn is_short(world: &World, row: usize, n: u32) -> bool {
    let wanted = pages_for(world, row, n);
    let have = |group: usize| world.sequences.pages[row][group].len();
    world.pools.iter().enumerate().any(|(group, pool)| wanted.saturating_sub(have(group)) > pool.n_free() as usize)
}
