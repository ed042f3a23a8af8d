//! What a GPU is told so that it chooses a sequence's tokens itself: lists that are written when the sequence begins, and
//! a [`Choice`] a token.

use super::{Penalty, Random, Sampling};
use ingot_ir::step::{Choice, LIST_WORDS, MAX_BEST};

/// Who chooses a sequence's tokens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Chooser {
    /// The device, which takes the greatest logit.
    Greedy,
    /// The device, by a [`Choice`].
    Device(Lists),
    /// The processor, from logits that are read back.
    Host,
}

/// Lengths of a sequence's lists on a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lists {
    /// Pairs of an id and its bias.
    pub n_biases: u32,
    /// Ids that XTC spares.
    pub n_exempt: u32,
    /// Ids that would end the answer.
    pub n_banned: u32,
}

/// What a GPU holds of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Size of the vocabulary.
    pub n_vocab: u32,
    /// Longest sequence.
    pub max_context: u32,
    /// Tokens of its history.
    pub history: u32,
}

/// A sequence's lists into `words` (emptied first); `None` if a GPU cannot choose so: too long lists, a window beyond its
/// history, more best ids than it tells, or a temperature whose inverse is no number.
pub fn lists(sampling: &Sampling, stop_ids: &[u32], room: Room, words: &mut Vec<u32>) -> Option<Lists> {
    words.clear();
    let sees_all = penalties(sampling).iter().all(|(_, window)| (*window).min(room.max_context) <= room.history);
    let divides = sampling.temperature == 0.0 || (1.0 / sampling.temperature).is_finite();
    if !sees_all || !divides || sampling.n_logprobs.unwrap_or(0) > MAX_BEST {
        return None;
    }
    for &(id, bias) in &sampling.logit_bias {
        // An id may be named twice.
        match (0..words.len()).step_by(2).find(|at| words[*at] == id) {
            Some(at) => words[at + 1] = (f32::from_bits(words[at + 1]) + bias).to_bits(),
            None => words.extend([id, bias.to_bits()]),
        }
        if words.len() > LIST_WORDS as usize {
            return None;
        }
    }
    let n_biases = words.len() as u32 / 2;
    let mut add_ids = |ids: &[u32], is_wanted: bool| {
        let first = words.len();
        for &id in ids.iter().filter(|id| is_wanted && **id < room.n_vocab) {
            if !words[first..].contains(&id) {
                words.push(id);
            }
        }
        (words.len() - first) as u32
    };
    let n_exempt = add_ids(&sampling.xtc_exempt, sampling.xtc_probability > 0.0);
    let n_banned = add_ids(stop_ids, sampling.min_tokens > 0);
    (words.len() <= LIST_WORDS as usize).then_some(Lists { n_biases, n_exempt, n_banned })
}

/// Whether tokens must be kept for penalties.
pub fn remembers(sampling: &Sampling) -> bool {
    penalties(sampling).iter().any(|(_, window)| *window > 0)
}

/// Where the newest tokens lie in a ring of `history`, in which each has its position's place: pieces and their first place.
pub fn ring(tokens: &[u32], history: u32) -> impl Iterator<Item = (u32, &[u32])> {
    let length = history.max(1) as usize;
    let newest = tokens.len().saturating_sub(length);
    // The ring begins anew at multiples of its length.
    let turn = (tokens.len() / length * length).max(newest);
    let pieces = [(newest, turn), (turn, tokens.len())].into_iter().filter(|(first, end)| first < end);
    pieces.map(move |(first, end)| ((first % length) as u32, &tokens[first..end]))
}

/// Strengths and windows of the repetition, presence and frequency penalties; a window of 0 is off, of [`u32::MAX`] all.
fn penalties(sampling: &Sampling) -> [(f32, u32); 3] {
    let window = |penalty: Penalty, is_on: bool| match (is_on, penalty.window) {
        (false, _) => 0,
        (true, 0) => u32::MAX,
        (true, n) => n,
    };
    let Sampling { repetition, presence, frequency, .. } = *sampling;
    [
        (repetition.strength, window(repetition, !matches!(repetition.strength, 0.0 | 1.0))),
        (presence.strength, window(presence, presence.strength != 0.0)),
        (frequency.strength, window(frequency, frequency.strength != 0.0)),
    ]
}

/// How the token of a position is chosen. `sequence` is the row of the sequence's columns.
pub fn choice(sampling: &Sampling, lists: Lists, sequence: u32, position: u32, n_prompt: u32) -> Choice {
    let [(repetition, repetition_window), (presence, presence_window), (frequency, frequency_window)] =
        penalties(sampling);
    let random = Random::at(sampling.seed, position);
    let draws = sampling.temperature > 0.0;
    let excludes = excludes(sampling, &random);
    let by_mass = sampling.top_p > 0.0 && sampling.top_p < 1.0;
    let n_best = sampling.n_logprobs.unwrap_or(0);
    let filters = draws && (by_mass || sampling.min_p > 0.0 || excludes || sampling.top_k > 0);
    let n_banned = if position - n_prompt.min(position) < sampling.min_tokens { lists.n_banned } else { 0 };
    let adjusts = remembers(sampling) || lists.n_biases > 0 || n_banned > 0;
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    Choice {
        sequence,
        position,
        flags: flag(filters || n_best > 0, Choice::FILTERS)
            | flag(adjusts, Choice::ADJUSTS)
            | flag(remembers(sampling), Choice::REMEMBERS)
            | flag(sampling.n_logprobs.is_some(), Choice::TELLS),
        inverse_temperature: if draws { 1.0 / sampling.temperature } else { 0.0 },
        noise: random.noise,
        top_p: if by_mass { sampling.top_p } else { 0.0 },
        farthest: if sampling.min_p > 0.0 { sampling.min_p.ln().abs() } else { -1.0 },
        least_kept: sampling.min_tokens_to_keep,
        xtc_threshold: if excludes { sampling.xtc_threshold } else { -1.0 },
        top_k: sampling.top_k,
        n_best,
        repetition,
        repetition_window,
        presence,
        presence_window,
        frequency,
        frequency_window,
        n_biases: lists.n_biases,
        n_banned,
        n_exempt: lists.n_exempt,
        reserved: [0; 3],
    }
}

/// Whether XTC is applied to this token.
pub(super) fn excludes(sampling: &Sampling, random: &Random) -> bool {
    sampling.xtc_probability > 0.0 && random.coin <= f64::from(sampling.xtc_probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { n_vocab: 100, max_context: 1000, history: 500 };

    #[test]
    fn lists_hold_every_id_once_and_none_that_is_not_there() {
        let mut words = vec![9];
        let sampling = Sampling {
            logit_bias: vec![(4, 1.0), (7, -2.0), (4, 0.5)],
            xtc_probability: 0.5,
            xtc_exempt: vec![3, 200, 3, 8],
            min_tokens: 2,
            ..Sampling::default()
        };
        let found = lists(&sampling, &[1, 1, 100], ROOM, &mut words);
        assert_eq!(found, Some(Lists { n_biases: 2, n_exempt: 2, n_banned: 1 }));
        assert_eq!(words, [4, 1.5f32.to_bits(), 7, (-2.0f32).to_bits(), 3, 8, 1]);
        let found = lists(&Sampling { min_tokens: 0, xtc_probability: 0.0, ..sampling }, &[1], ROOM, &mut words);
        assert_eq!(found, Some(Lists { n_biases: 2, n_exempt: 0, n_banned: 0 }));
    }

    #[test]
    fn a_ring_holds_each_token_at_its_position() {
        for n in [0u32, 3, 9, 10, 11, 25, 30] {
            let tokens: Vec<u32> = (100..100 + n).collect();
            let mut held = [0; 10];
            for (at, piece) in ring(&tokens, 10) {
                held[at as usize..at as usize + piece.len()].copy_from_slice(piece);
            }
            for position in n.saturating_sub(10)..n {
                assert_eq!(held[position as usize % 10], 100 + position, "{n} tokens");
            }
        }
    }

    #[test]
    fn what_a_gpu_has_no_room_for_is_the_processors() {
        let mut words = Vec::new();
        let mut told = |sampling: Sampling| lists(&sampling, &[1], ROOM, &mut words).is_some();
        let plain = Sampling::default;
        let on = |window| Penalty { strength: 0.5, window };
        assert!(told(plain()) && told(Sampling { presence: on(500), n_logprobs: Some(20), ..plain() }));
        assert!(!told(Sampling { presence: on(501), ..plain() }) && !told(Sampling { frequency: on(0), ..plain() }));
        assert!(
            !told(Sampling { n_logprobs: Some(21), ..plain() }) && !told(Sampling { temperature: 1e-40, ..plain() })
        );
        assert!(!told(Sampling { logit_bias: (0..600).map(|id| (id, 1.0)).collect(), ..plain() }));
        let windowless = Penalty { strength: 1.0, window: 0 };
        assert!(told(Sampling { repetition: windowless, ..plain() }), "a penalty that is off sees nothing");
    }

    #[test]
    fn a_choice_says_what_must_be_done() {
        let flags = |sampling: &Sampling, position| {
            choice(sampling, Lists { n_banned: 1, ..Lists::default() }, 3, position, 10).flags
        };
        let warm = Sampling { temperature: 0.5, ..Sampling::default() };
        assert_eq!((flags(&warm, 10), choice(&warm, Lists::default(), 3, 10, 10).inverse_temperature), (0, 2.0));
        assert_eq!(flags(&Sampling { top_p: 0.9, ..warm.clone() }, 10), Choice::FILTERS);
        assert_eq!(flags(&Sampling { top_p: 0.9, temperature: 0.0, ..warm.clone() }, 10), 0, "greedy has no filters");
        let patient = Sampling { min_tokens: 2, ..warm.clone() };
        assert_eq!((flags(&patient, 11), flags(&patient, 12)), (Choice::ADJUSTS, 0));
        let presence = Penalty { strength: 0.5, window: 5 };
        let penalized = Sampling { presence, n_logprobs: Some(0), ..warm };
        assert_eq!(flags(&penalized, 10), Choice::ADJUSTS | Choice::REMEMBERS | Choice::TELLS);
    }
}
