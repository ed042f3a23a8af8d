//! What changes logits before their log-probabilities are taken: bias, then repetition, presence and frequency penalties.

use super::{History, Penalty, Sampling};

/// Applies all processors in their order.
pub fn process(logits: &mut [f32], sampling: &Sampling, history: &History<'_>) {
    for &(id, bias) in &sampling.logit_bias {
        logits[id as usize] += bias;
    }
    let Penalty { strength, .. } = sampling.repetition;
    for_each_distinct(window(history.tokens, sampling.repetition), logits, |logit| {
        *logit = if *logit < 0.0 { *logit * strength } else { *logit / strength };
    });
    for_each_distinct(window(history.tokens, sampling.presence), logits, |logit| {
        *logit -= sampling.presence.strength;
    });
    for &id in window(history.tokens, sampling.frequency) {
        logits[id as usize] -= sampling.frequency.strength;
    }
    let n_answer = history.tokens.len() - history.n_prompt;
    if n_answer < sampling.min_tokens as usize {
        for &id in history.stop_ids {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// The tokens that a penalty counts; none if it is off.
fn window(tokens: &[u32], penalty: Penalty) -> &[u32] {
    match (penalty.strength, penalty.window as usize) {
        (0.0, _) => &[],
        (_, 0) => tokens,
        (_, n) => &tokens[tokens.len().saturating_sub(n)..],
    }
}

/// Windows up to which looking back costs less than a table.
const SHORT: usize = 128;

/// Each id's logit once.
fn for_each_distinct(tokens: &[u32], logits: &mut [f32], f: impl Fn(&mut f32)) {
    let mut seen = vec![false; if tokens.len() > SHORT { logits.len() } else { 0 }];
    for (ix, &id) in tokens.iter().enumerate() {
        let is_new = match seen.get_mut(id as usize) {
            Some(seen) => !std::mem::replace(seen, true),
            None => !tokens[..ix].contains(&id),
        };
        if is_new {
            f(&mut logits[id as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processed(sampling: &Sampling, tokens: &[u32], n_prompt: usize) -> Vec<f32> {
        let mut logits = vec![2.0, -2.0, 0.0, 1.0];
        process(&mut logits, sampling, &History { tokens, n_prompt, stop_ids: &[3] });
        logits
    }

    #[test]
    fn windows_count_prompt_and_answer_from_the_end() {
        let penalty = |strength, window| Penalty { strength, window };
        let repetition = |p| processed(&Sampling { repetition: p, ..Sampling::default() }, &[0, 1, 1, 2], 2);
        assert_eq!(repetition(penalty(2.0, 20)), [1.0, -4.0, 0.0, 1.0], "once an id, whatever its sign");
        assert_eq!(repetition(penalty(2.0, 2)), [2.0, -4.0, 0.0, 1.0]);
        assert_eq!(repetition(penalty(2.0, 0)), [1.0, -4.0, 0.0, 1.0], "0 counts all");
        let presence = Sampling { presence: penalty(0.5, 3), ..Sampling::default() };
        assert_eq!(processed(&presence, &[0, 1, 1, 2], 4), [2.0, -2.5, -0.5, 1.0]);
        let frequency = Sampling { frequency: penalty(0.5, 3), ..Sampling::default() };
        assert_eq!(processed(&frequency, &[0, 1, 1, 2], 4), [2.0, -3.0, -0.5, 1.0]);
        assert_eq!(processed(&frequency, &[], 0), [2.0, -2.0, 0.0, 1.0]);
    }

    #[test]
    fn long_windows_count_each_id_once_too() {
        let sampling = Sampling { presence: Penalty { strength: 0.5, window: 0 }, ..Sampling::default() };
        let tokens: Vec<u32> = (0..3 * SHORT as u32).map(|ix| ix % 3).collect();
        assert_eq!(processed(&sampling, &tokens, 4), processed(&sampling, &[2, 0, 1], 3));
    }

    #[test]
    fn end_tokens_wait_for_the_shortest_answer() {
        let sampling = Sampling { min_tokens: 2, ..Sampling::default() };
        assert_eq!(processed(&sampling, &[0, 1], 1)[3], f32::NEG_INFINITY);
        assert_eq!(processed(&sampling, &[0, 1, 1], 1)[3], 1.0);
    }
}
