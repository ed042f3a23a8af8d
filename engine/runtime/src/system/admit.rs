//! Gives waiting requests a sequence row, first come, first served, and tells the device how their tokens are chosen.

use crate::backend::Backend;
use crate::sample::{self, Chooser, Constraint, Room};
use crate::world::{Event, FinishReason, Request, State, World};
use ingot_ir::plan::Plan;
use ingot_ir::step::LIST_WORDS;

/// Runs the system.
pub fn admit(world: &mut World) {
    let World { plan, backend, waiting, cancelled, sequences, words, events, .. } = world;
    for request in cancelled.drain(..) {
        if let Some(at) = waiting.iter().position(|(id, _)| *id == request) {
            waiting.remove(at);
            events.push(Event::Finished { request, reason: FinishReason::Cancelled });
        }
        let running = (0..sequences.state.len()).find(|row| sequences.request[*row] == request);
        if let Some(row) = running.filter(|row| sequences.state[*row] == State::Waiting || sequences.is_under_way(*row))
        {
            sequences.state[row] = State::Done(FinishReason::Cancelled);
        }
    }
    while let Some(row) = sequences.state.iter().position(|state| *state == State::Free) {
        let Some((id, request)) = waiting.pop_front() else { break };
        sequences.chooser[row] = chooser(plan, backend, row as u32, &request, words);
        sequences.by_age.push(row);
        sequences.request[row] = id;
        sequences.state[row] = State::Waiting;
        sequences.n_prompt[row] = request.prompt.len() as u32;
        sequences.tokens[row].clear();
        sequences.tokens[row].extend_from_slice(&request.prompt);
        sequences.n_scheduled[row] = 0;
        sequences.n_cached[row] = 0;
        sequences.n_told[row] = 0;
        sequences.n_committed[row] = 0;
        sequences.page_names[row].clear();
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

/// A lower bias takes a token away, whatever its logit.
const FORBIDS: f32 = -1e9;

/// Who chooses a request's tokens. Where it is the device, its columns of lists and history are written.
fn chooser(plan: &Plan, backend: &mut Backend, row: u32, request: &Request, words: &mut Vec<u32>) -> Chooser {
    let Request { prompt, sampling, grammar, stop_ids, prompt_logits, .. } = request;
    if sampling.is_greedy() && grammar.is_none() {
        return Chooser::Greedy;
    }
    // A program's own change of logits is the processor's, and so is a form where all that it allows might be forbidden. A
    // device adjusts logits in place, and who wants them wants them as they were.
    let forbids = sampling.min_tokens > 0 || sampling.logit_bias.iter().any(|(_, bias)| *bias < FORBIDS);
    let is_told = sampling.adjust.is_none() && !(grammar.is_some() && forbids);
    if !backend.feeds_back() || *prompt_logits || !is_told {
        return Chooser::Host;
    }
    let history = plan.history_tokens();
    let room = Room { n_vocab: plan.n_vocab, max_context: plan.max_context, history };
    let Some(lists) = sample::lists(sampling, stop_ids, room, words) else { return Chooser::Host };
    backend.write_columns(row, 0, words);
    if sample::remembers(sampling) {
        for (at, tokens) in sample::ring(prompt, history) {
            backend.write_columns(row, LIST_WORDS + at, tokens);
        }
    }
    Chooser::Device(lists)
}
