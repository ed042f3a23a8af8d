//! Frees the rows and pages of sequences that ended, and the pages of those that are set back, once no step in flight writes
//! to them.

use crate::world::{Event, Sequences, State, World};

/// Runs the system.
pub fn retire(world: &mut World) {
    let World { sequences, pools, events, .. } = world;
    for row in 0..sequences.state.len() {
        let leaves = matches!(sequences.state[row], State::Done(_) | State::SetBack);
        if !leaves || sequences.n_in_flight[row] > 0 {
            continue;
        }
        for (pages, pool) in sequences.pages[row].iter_mut().zip(pools.iter_mut()) {
            // The last first: of what is found again the beginning is worth most, so it is handed out last.
            pages.pages().rev().for_each(|page| pool.release(page));
            pages.clear();
        }
        let State::Done(reason) = sequences.state[row] else {
            wait(sequences, row);
            continue;
        };
        sequences.constraint[row] = None;
        sequences.state[row] = State::Free;
        sequences.by_age.retain(|other| *other != row);
        events.push(Event::Finished { request: sequences.request[row], reason });
    }
}

/// What a sequence is stays: its tokens, how the next ones are chosen, its form. It begins again by reading all of them.
fn wait(sequences: &mut Sequences, row: usize) {
    sequences.state[row] = State::Waiting;
    sequences.n_scheduled[row] = 0;
    sequences.n_cached[row] = 0;
    sequences.n_committed[row] = 0;
    sequences.n_pages_written[row].fill(0);
    sequences.sampled_row[row] = None;
}
