//! Decides how many tokens each sequence puts into the next step: decoding rows first, then chunks of prompts, the oldest
//! first, under the largest variant's bounds.

use super::allocate_pages::is_short;
use crate::backend::MAX_IN_FLIGHT;
use crate::sample::Chooser;
use crate::world::{State, World};

/// Whether another step could be packed now. A sequence that waits for pages is not ready: whoever asks may as well
/// wait for the steps in flight.
pub fn can_schedule(world: &World) -> bool {
    let most = world.plan.max_bounds().tokens;
    let goes_on = |row: usize| {
        let n = ready(world, row).min(most);
        n > 0 && !is_short(world, row, n)
    };
    has_room(world) && world.sequences.live().any(goes_on)
}

/// Whether a step may follow those in flight.
fn has_room(world: &World) -> bool {
    world.in_flight.len() < MAX_IN_FLIGHT && world.in_flight.back().is_none_or(|newest| newest.is_chosen)
}

/// Tokens that a sequence could put into a step now.
fn ready(world: &World, row: usize) -> u32 {
    let sequences = &world.sequences;
    let known = sequences.tokens[row].len() as u32;
    let scheduled = sequences.n_scheduled[row];
    match sequences.state[row] {
        State::Prefill => (known - scheduled).min(world.max_chunk),
        State::Decode if known > scheduled => 1,
        // The next token is being chosen. It can be fed on the device if the device chooses, and if the answer may have a
        // token more than those known and in flight.
        State::Decode => {
            let answered = known - sequences.n_prompt[row] + sequences.n_in_flight[row];
            let feeds = world.backend.feeds_back()
                && sequences.chooser[row] != Chooser::Host
                && sequences.sampled_row[row].is_some();
            let room = answered < sequences.max_tokens[row] && scheduled < world.plan.max_context;
            u32::from(feeds && room)
        }
        State::Free | State::Waiting | State::SetBack | State::Done(_) => 0,
    }
}

/// Runs the system.
pub fn schedule(world: &mut World) {
    world.sequences.n_step.fill(0);
    if !has_room(world) {
        return;
    }
    let bounds = world.plan.max_bounds();
    let (mut tokens, mut sequences, mut rows) = (bounds.tokens, bounds.sequences, bounds.rows);
    for state in [State::Decode, State::Prefill] {
        for ix in 0..world.sequences.by_age.len() {
            let row = world.sequences.by_age[ix];
            if world.sequences.state[row] != state || tokens == 0 || sequences == 0 || rows == 0 {
                continue;
            }
            let mut n = ready(world, row).min(tokens);
            if world.sequences.prompt_logits[row] {
                n = n.min(rows);
            }
            if n > 0 {
                world.sequences.n_step[row] = n;
                tokens -= n;
                sequences -= 1;
                rows -= if world.sequences.prompt_logits[row] { n } else { 1 };
            }
        }
    }
}
