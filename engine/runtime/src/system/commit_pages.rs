//! Notes what pages hold once their keys and values are written and their tokens known, so that later sequences find them.

use crate::kv::PagePool;
use crate::world::{Sequences, State, World};

/// Runs the system: full pages as they become full, the last one when the sequence has ended or is set back.
pub fn commit_pages(world: &mut World) {
    let World { plan, sequences, pools, .. } = world;
    let page_tokens = plan.page_tokens as usize;
    for row in 0..sequences.state.len() {
        if sequences.state[row] == State::Free || !sequences.cache_prompt[row] {
            continue;
        }
        // What ran past a stop has no token.
        let n_known = sequences.tokens[row].len().min(sequences.n_cached[row] as usize);
        while (sequences.n_committed[row] as usize + 1) * page_tokens <= n_known {
            record(sequences, pools, row, page_tokens);
            sequences.n_committed[row] += 1;
        }
        let leaves = matches!(sequences.state[row], State::Done(_) | State::SetBack);
        let is_over = leaves && sequences.n_in_flight[row] == 0;
        let n_rest = n_known - (sequences.n_committed[row] as usize * page_tokens).min(n_known);
        if is_over && n_rest > 0 {
            record(sequences, pools, row, n_rest);
        }
    }
}

/// Notes the first `n` tokens of the page after the committed ones, in every group that still has it.
fn record(sequences: &mut Sequences, pools: &mut [PagePool], row: usize, n: usize) {
    let (place, tokens) = (sequences.n_committed[row] as usize, &sequences.tokens[row]);
    for (pool, list) in pools.iter_mut().zip(&sequences.pages[row]) {
        if let Some(page) = list.get(place) {
            let page_tokens = pool.contents().page_tokens();
            let before = sequences.page_names[row].before(place, tokens, page_tokens);
            pool.record(page, before, &tokens[place * page_tokens..][..n]);
        }
    }
}
