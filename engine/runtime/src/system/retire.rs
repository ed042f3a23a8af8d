//! Frees the rows and pages of sequences that ended, once no step in flight writes to them.

use crate::world::{Event, State, World};

/// Runs the system.
pub fn retire(world: &mut World) {
    let World { sequences, pools, events, .. } = world;
    for row in 0..sequences.state.len() {
        let State::Done(reason) = sequences.state[row] else { continue };
        if sequences.n_in_flight[row] > 0 {
            continue;
        }
        for (pages, pool) in sequences.pages[row].iter_mut().zip(pools.iter_mut()) {
            // The last first: of what is found again the beginning is worth most, so it is handed out last.
            pages.pages().rev().for_each(|page| pool.release(page));
            pages.clear();
        }
        sequences.constraint[row] = None;
        sequences.state[row] = State::Free;
        events.push(Event::Finished { request: sequences.request[row], reason });
    }
}
