//! Gives waiting requests a sequence row, first come, first served.

use crate::kv::PrefixHash;
use crate::sample::Constraint;
use crate::world::{Event, FinishReason, State, World};

/// Runs the system.
pub fn admit(world: &mut World) {
    let World { waiting, cancelled, sequences, events, .. } = world;
    for request in cancelled.drain(..) {
        if let Some(at) = waiting.iter().position(|(id, _)| *id == request) {
            waiting.remove(at);
            events.push(Event::Finished { request, reason: FinishReason::Cancelled });
        }
        let running = (0..sequences.state.len()).find(|row| sequences.request[*row] == request);
        if let Some(row) = running.filter(|row| matches!(sequences.state[*row], State::Prefill | State::Decode)) {
            sequences.state[row] = State::Done(FinishReason::Cancelled);
        }
    }
    while let Some(row) = sequences.state.iter().position(|state| *state == State::Free) {
        let Some((id, request)) = waiting.pop_front() else { break };
        sequences.request[row] = id;
        sequences.state[row] = State::Prefill;
        sequences.n_prompt[row] = request.prompt.len() as u32;
        sequences.tokens[row].clear();
        sequences.tokens[row].extend_from_slice(&request.prompt);
        sequences.n_scheduled[row] = 0;
        sequences.n_cached[row] = 0;
        sequences.n_committed[row] = 0;
        sequences.committed[row] = PrefixHash::EMPTY;
        sequences.n_in_flight[row] = 0;
        sequences.max_tokens[row] = request.max_tokens;
        sequences.sampling[row] = request.sampling;
        sequences.constraint[row] = request.grammar.map(Constraint::start);
        sequences.stop_ids[row] = request.stop_ids;
        sequences.prompt_logits[row] = request.prompt_logits;
        sequences.cache_prompt[row] = request.cache_prompt;
        sequences.sampled_row[row] = None;
        sequences.n_step[row] = 0;
        sequences.n_pages_written[row].fill(0);
    }
}
