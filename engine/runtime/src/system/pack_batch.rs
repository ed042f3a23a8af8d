//! Packs the scheduled tokens into the step's tables.

use crate::sample::{Chooser, choice};
use crate::world::{InFlight, World};
use ingot_ir::step::{Choice, SAMPLED};

/// Runs the system. The step's record goes to the end of `in_flight`; `submit` starts it.
pub fn pack_batch(world: &mut World) {
    let World { plan, sequences, step, words, in_flight, spare, .. } = world;
    step.clear();
    words.clear();
    if sequences.n_step.iter().all(|n| *n == 0) {
        return;
    }
    let mut record: InFlight = spare.pop().unwrap_or_default();
    record.sequences.clear();
    record.spans.clear();
    for row in 0..sequences.state.len() {
        let n = sequences.n_step[row];
        if n == 0 {
            continue;
        }
        let start = sequences.n_scheduled[row];
        let known = &sequences.tokens[row];
        let sampled_row = sequences.sampled_row[row];
        let id = |position: u32| match (known.get(position as usize), sampled_row) {
            (Some(id), _) => *id,
            (None, Some(row)) => SAMPLED | row,
            (None, None) => unreachable!("a token is scheduled once it is known or being sampled"),
        };
        let first_token = step.tokens.len() as u32;
        step.push_sequence((start..start + n).map(id), start, row as u32);
        let first_row = step.rows.len() as u32;
        if sequences.prompt_logits[row] {
            step.rows.extend(first_token..first_token + n);
        } else {
            step.rows.push(first_token + n - 1);
        }
        let samples = (start + n) as usize >= known.len() && sequences.max_tokens[row] > 0;
        if let (Chooser::Device(lists), true) = (sequences.chooser[row], samples) {
            let (sampling, n_prompt) = (&sequences.sampling[row], sequences.n_prompt[row]);
            let mut choice = choice(sampling, lists, row as u32, start + n, n_prompt);
            if sequences.constraint[row].is_some() {
                choice.flags |= Choice::KEEPS_FORM;
            }
            step.choose(step.rows.len() as u32 - 1, choice);
        }
        record.sequences.push(row);
        record.spans.push((n, first_row, step.rows.len() as u32 - first_row));
    }
    let page_tokens = plan.page_tokens;
    for group in 0..plan.kv.groups.len() {
        for token in &step.tokens {
            let row = step.sequences[token.sequence as usize].page_row as usize;
            let page = sequences.pages[row][group].get((token.position / page_tokens) as usize);
            let page = page.unwrap_or_else(|| unreachable!("allocate_pages has given every token of the step a page"));
            step.slots.push(page * page_tokens + token.position % page_tokens);
        }
    }
    in_flight.push_back(record);
}
