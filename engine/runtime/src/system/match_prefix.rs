//! Lets sequences without pages begin, the oldest first, with the pages of the longest beginning that earlier ones left in the
//! cache.
//!
//! Who is under way needs another page now and then, so a sequence begins only if all of its tokens find room beside what
//! older ones still have to read. Else it waits, and all younger ones with it. Where nobody has pages the oldest begins in any
//! case.

use crate::kv::{PagePool, Prefix, find_prefix};
use crate::world::{Event, Sequences, State, World};

/// Runs the system. A sequence that still has no pages when the next tick comes looks again.
pub fn match_prefix(world: &mut World) {
    if world.is_short || !world.sequences.live().any(|row| has_not_begun(&world.sequences, row)) {
        return;
    }
    // Free pages that older ones do not need to read what they hold.
    let mut n_left: Vec<u32> = world.pools.iter().map(PagePool::n_free).collect();
    let mut is_full = false;
    for ix in 0..world.sequences.by_age.len() {
        let row = world.sequences.by_age[ix];
        if has_not_begun(&world.sequences, row) {
            is_full = is_full || !begin(world, ix, &mut n_left);
            world.sequences.state[row] = if is_full { State::Waiting } else { State::Prefill };
        } else if world.sequences.state[row] == State::Prefill {
            let held: Vec<u32> = world.sequences.pages[row].iter().map(|list| list.n_pages()).collect();
            reserve(&mut n_left, &lacking(world, row, &held));
        }
    }
}

fn has_not_begun(sequences: &Sequences, row: usize) -> bool {
    matches!(sequences.state[row], State::Waiting | State::Prefill) && !sequences.holds_pages(row)
}

/// Begins the sequence at a place of the order of age, with what it finds; false if there is no room for the rest.
fn begin(world: &mut World, ix: usize, n_left: &mut [u32]) -> bool {
    let row = world.sequences.by_age[ix];
    let World { sequences, pools, windows, .. } = world;
    let (tokens, names) = (&sequences.tokens[row], &mut sequences.page_names[row]);
    let looks = sequences.cache_prompt[row] && !sequences.prompt_logits[row];
    // The last token is read in any case: the answer goes on with its logits.
    let prefix = looks.then(|| find_prefix(pools, windows, &tokens[..tokens.len() - 1], names)).flatten();
    let mut shared = |(pool, window): (&PagePool, _)| {
        prefix.as_ref().map_or(0, |prefix: &Prefix| prefix.n_shared(pool, window, tokens, names))
    };
    let n_shared: Vec<u32> = pools.iter().zip(windows.iter().copied()).map(&mut shared).collect();
    let sequences = &world.sequences;
    let is_first = sequences.by_age[..ix].iter().all(|older| !sequences.is_under_way(*older))
        && sequences.live().all(|other| !sequences.holds_pages(other));
    let lacks = lacking(world, row, &n_shared);
    if !is_first && lacks.iter().zip(&*n_left).any(|(lacks, left)| lacks > left) {
        return false;
    }
    reserve(n_left, &lacks);
    let Some(prefix) = prefix else { return true };
    let World { plan, sequences, pools, windows, events, .. } = world;
    let n_tokens = prefix.n_tokens as u32;
    sequences.n_scheduled[row] = n_tokens;
    sequences.n_cached[row] = n_tokens;
    sequences.n_committed[row] = n_tokens / plan.page_tokens;
    sequences.pages[row] = prefix.take(pools, windows, &sequences.tokens[row], &mut sequences.page_names[row]);
    // Who was set back finds what was read for it, of which its client knows.
    if sequences.n_told[row] == 0 {
        events.push(Event::Matched { request: sequences.request[row], n_tokens });
    }
    sequences.n_told[row] = sequences.n_told[row].max(n_tokens);
    true
}

/// Pages that a sequence needs for all of its tokens and the next one besides those that it has, by KV group.
fn lacking(world: &World, row: usize, has: &[u32]) -> Vec<u32> {
    let n_tokens = (world.sequences.tokens[row].len() as u32 + 1).min(world.plan.max_context);
    let needed = world.plan.pages_for(1, n_tokens);
    needed.iter().zip(has).map(|(needed, has)| needed.saturating_sub(*has)).collect()
}

fn reserve(n_left: &mut [u32], lacks: &[u32]) {
    n_left.iter_mut().zip(lacks).for_each(|(left, lacks)| *left = left.saturating_sub(*lacks));
}
