//! Gives scheduled tokens their pages. A sequence that finds none waits for the next tick; if nothing is in flight that
//! could free pages, it ends with [`FinishReason::Length`].

use crate::world::{FinishReason, State, World};

/// Runs the system.
pub fn allocate_pages(world: &mut World) {
    let page_tokens = world.plan.page_tokens;
    for row in 0..world.sequences.state.len() {
        let n_step = world.sequences.n_step[row];
        if n_step == 0 {
            continue;
        }
        let wanted = (world.sequences.n_scheduled[row] + n_step).div_ceil(page_tokens) as usize;
        let short = world.pools.iter().enumerate().any(|(group, pool)| {
            let have = world.sequences.pages[row][group].len();
            wanted.saturating_sub(have) > pool.n_free() as usize
        });
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
