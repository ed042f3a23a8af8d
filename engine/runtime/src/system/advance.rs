//! Hands a finished step's results to its sequences: chooses tokens, appends them, checks stop rules.

use crate::sample::{Chooser, History, Scratch, logprobs, sample, sample_fitting};
use crate::world::{Event, FinishReason, Sequences, State, World};

/// Runs the system on [`World::output`], the result of the oldest step in flight.
pub fn advance(world: &mut World) {
    let World { plan, sequences, in_flight, spare, output, scratch, events, .. } = world;
    let Some(record) = in_flight.pop_front() else { return };
    let n_vocab = plan.n_vocab as usize;
    for (&row, &(n, first_row, n_rows)) in record.sequences.iter().zip(&record.spans) {
        sequences.n_in_flight[row] -= 1;
        sequences.n_cached[row] += n;
        if !sequences.is_under_way(row) {
            continue; // What ran past a stop is dropped.
        }
        let request = sequences.request[row];
        // What a sequence that was set back reads again has been told.
        let (n_cached, n_told) = (sequences.n_cached[row], sequences.n_told[row]);
        sequences.n_told[row] = n_told.max(n_cached);
        let first = n_told.clamp(n_cached - n, n_cached);
        if sequences.prompt_logits[row] && first < n_cached {
            let first_row = first_row + first - (n_cached - n);
            let rows = first_row as usize * n_vocab..(first_row + n_cached - first) as usize * n_vocab;
            events.push(Event::Logits { request, first, logits: output.logits[rows].to_vec() });
        }
        if n_told < n_cached && n_cached <= sequences.n_prompt[row] {
            events.push(Event::Prefilled { request, n_tokens: n_cached });
        }
        if (n_cached as usize) < sequences.tokens[row].len() {
            continue;
        }
        if sequences.max_tokens[row] == 0 {
            sequences.state[row] = State::Done(FinishReason::Length);
            continue;
        }
        let last = (first_row + n_rows - 1) as usize;
        let chosen = match sequences.chooser[row] {
            Chooser::Greedy => Ok((output.sampled[last], false)),
            Chooser::Device(_) => {
                let id = output.sampled[last];
                let accepted = sequences.constraint[row].as_mut().map_or(Ok(false), |form| form.accept(id));
                if let (Some(n_best), Ok(_)) = (sequences.sampling[row].n_logprobs, &accepted) {
                    let (logprob, mut best) = output.logprobs(last, n_best.min(plan.n_vocab) as usize);
                    // What cannot come next has no logarithm.
                    best.retain(|(_, logprob)| logprob.is_finite());
                    events.push(Event::Logprobs { request, logprob, best });
                }
                accepted.map(|is_complete| (id, is_complete))
            }
            Chooser::Host => {
                let logits = &output.logits[last * n_vocab..(last + 1) * n_vocab];
                fitting(sequences, row, logits, scratch, events)
            }
        };
        let (id, is_complete) = match chosen {
            Ok(chosen) => chosen,
            Err(why) => {
                events.push(Event::Unfit { request, why });
                sequences.state[row] = State::Done(FinishReason::Cancelled);
                continue;
            }
        };
        sequences.tokens[row].push(id);
        if sequences.n_in_flight[row] == 0 {
            sequences.sampled_row[row] = None;
        }
        // A stop id is part of the count and of the ids; who shows text leaves it out.
        events.push(Event::Token { request, id });
        let n_answer = sequences.tokens[row].len() as u32 - sequences.n_prompt[row];
        let at_end = n_answer >= sequences.max_tokens[row] || sequences.tokens[row].len() as u32 >= plan.max_context;
        if is_complete || sequences.stop_ids[row].contains(&id) {
            sequences.state[row] = State::Done(FinishReason::Stop);
        } else if at_end {
            sequences.state[row] = State::Done(FinishReason::Length);
        }
    }
    spare.push(record);
}

/// Chooses a token on the processor, of those that fit if the answer keeps a form; true if that form is then complete. Tells
/// its log-probabilities if they are wanted.
fn fitting(
    sequences: &mut Sequences,
    row: usize,
    logits: &[f32],
    scratch: &mut Scratch,
    events: &mut Vec<Event>,
) -> Result<(u32, bool), String> {
    let (sampling, n_prompt) = (&sequences.sampling[row], sequences.n_prompt[row] as usize);
    let history = History { tokens: &sequences.tokens[row], n_prompt, stop_ids: &sequences.stop_ids[row] };
    let id = match &sequences.constraint[row] {
        Some(form) => sample_fitting(logits, sampling, &history, form, scratch)?,
        None => sample(logits, sampling, &history, scratch),
    };
    let is_complete = match &mut sequences.constraint[row] {
        Some(form) => form.accept(id)?,
        None => false,
    };
    if let Some(n_best) = sampling.n_logprobs {
        let (logprob, mut best) = logprobs(id, n_best as usize, scratch);
        // What cannot come next has no logarithm.
        best.retain(|(_, logprob)| logprob.is_finite());
        events.push(Event::Logprobs { request: sequences.request[row], logprob, best });
    }
    Ok((id, is_complete))
}
