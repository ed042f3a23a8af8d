//! Gives scheduled tokens their pages, the oldest sequences first, and takes back those that no window shows any more.
//!
//! A sequence that finds too few waits for the next tick, and the youngest of those that are younger has its pages taken: it
//! is set back, and reads its tokens again once there is room. Who is alone and finds too few ends with
//! [`FinishReason::KvFull`]. So the oldest always gets on, and what is set back gets old.

use super::schedule::has_room;
use crate::world::{FinishReason, State, World};
use ingot_ir::kv::KvGroupId;
use ingot_ir::plan::REWIND_TOKENS;
use std::ops::Range;

/// Runs the system.
pub fn allocate_pages(world: &mut World) {
    if !has_room(world) {
        return; // Nobody was asked for more.
    }
    world.is_short = false;
    for ix in 0..world.sequences.by_age.len() {
        let row = world.sequences.by_age[ix];
        let n_step = world.sequences.n_step[row];
        if n_step == 0 {
            continue;
        }
        free_unseen(world, row);
        if is_short(world, row, n_step) {
            world.is_short = true;
            world.sequences.n_step[row] = 0;
            make_room(world, ix);
            continue;
        }
        let wanted = pages_for(world, row, n_step);
        for (group, pool) in world.pools.iter_mut().enumerate() {
            let pages = &mut world.sequences.pages[row][group];
            while pages.len() < wanted
                && let Some(page) = pool.take()
            {
                pages.push(page);
            }
            let written = world.sequences.n_pages_written[row][group];
            let unwritten = pages.table(written as usize);
            if !unwritten.is_empty() {
                world.backend.write_pages(KvGroupId(group as u32), row as u32, written, unwritten);
                world.sequences.n_pages_written[row][group] = pages.len() as u32;
            }
        }
    }
}

/// Sees to it that the sequence at a place of the order of age gets pages, or ends if nobody has any to leave.
fn make_room(world: &mut World, ix: usize) {
    let World { sequences, in_flight, n_set_back, .. } = world;
    let is_leaving = |row: &usize| matches!(sequences.state[*row], State::Done(_) | State::SetBack);
    let holds = |row: &&usize| sequences.holds_pages(**row);
    if sequences.by_age.iter().filter(holds).any(is_leaving) {
        return;
    }
    if let Some(&youngest) = sequences.by_age[ix + 1..].iter().rev().find(holds) {
        sequences.state[youngest] = State::SetBack;
        sequences.n_step[youngest] = 0;
        *n_set_back += 1;
    } else if in_flight.is_empty() && !sequences.by_age[..ix].iter().any(|row| sequences.holds_pages(*row)) {
        sequences.state[sequences.by_age[ix]] = State::Done(FinishReason::KvFull);
    }
}

/// Releases pages that neither this step nor a later one reads. Steps in flight may: they run before whoever writes next.
fn free_unseen(world: &mut World, row: usize) {
    for group in 0..world.pools.len() {
        let unseen = unseen(world, row, group);
        let pool = &mut world.pools[group];
        world.sequences.pages[row][group].remove(unseen, |page| pool.release(page));
    }
}

/// Places of pages that a sequence can do without from its next token on.
fn unseen(world: &World, row: usize, group: usize) -> Range<usize> {
    let next = world.sequences.n_scheduled[row].saturating_sub(REWIND_TOKENS);
    world.windows[group].unseen(next as usize, world.plan.page_tokens as usize)
}

/// Pages that a sequence has once `n` more tokens are in the cache.
fn pages_for(world: &World, row: usize, n: u32) -> usize {
    (world.sequences.n_scheduled[row] + n).div_ceil(world.plan.page_tokens) as usize
}

/// Whether too few pages are free for `n` more tokens of a sequence.
pub(super) fn is_short(world: &World, row: usize, n: u32) -> bool {
    let wanted = pages_for(world, row, n);
    world.pools.iter().enumerate().any(|(group, pool)| {
        let list = &world.sequences.pages[row][group];
        let leaves = list.pages_in(unseen(world, row, group)).filter(|page| pool.n_users(*page) == 1).count();
        wanted.saturating_sub(list.len()) > pool.n_free() as usize + leaves
    })
}
