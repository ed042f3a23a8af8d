//! Gives sequences that have nothing in the cache the pages of the longest beginning that earlier ones left there.

use crate::kv::find_prefix;
use crate::world::{Event, State, World};

/// Runs the system. A sequence that finds nothing looks again in the next tick, unless it has pages by then.
pub fn match_prefix(world: &mut World) {
    let World { plan, sequences, pools, windows, events, .. } = world;
    for row in 0..sequences.state.len() {
        let is_new = sequences.state[row] == State::Prefill && sequences.pages[row].iter().all(|list| list.is_empty());
        if !is_new || !sequences.cache_prompt[row] || sequences.prompt_logits[row] {
            continue;
        }
        // The last token is read in any case: the answer begins with its logits.
        let tokens = &sequences.tokens[row];
        let Some(prefix) = find_prefix(pools, windows, &tokens[..tokens.len() - 1]) else { continue };
        let n_tokens = prefix.n_tokens as u32;
        sequences.n_scheduled[row] = n_tokens;
        sequences.n_cached[row] = n_tokens;
        sequences.n_committed[row] = n_tokens / plan.page_tokens;
        sequences.committed[row] = prefix.hash;
        sequences.pages[row] = prefix.pages;
        events.push(Event::Matched { request: sequences.request[row], n_tokens });
    }
}
