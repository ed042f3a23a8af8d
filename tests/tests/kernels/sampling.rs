//! Tokens chosen on an adapter: bias, penalties, filters and draws against the processor's chain.

use ingot_runtime::sample::{Penalty, Sampling};
use ingot_tests::rig::{gpus, turn};
use ingot_tests::rng::Rng;
use ingot_tests::sampling::{Ask, SamplingRig};

/// Rows of logits that differ in kind: spread, peaked, all equal, of few values, with one far above the others, and far apart.
fn rows(n_vocab: u32, rng: &mut Rng) -> Vec<Vec<f32>> {
    let n = n_vocab as usize;
    let spread = |rng: &mut Rng, size: f32| -> Vec<f32> {
        (0..n).map(|_| (rng.signed() + rng.signed() + rng.signed()) * size).collect()
    };
    let mut peaked = spread(rng, 1.0);
    for _ in 0..6 {
        peaked[rng.below(n_vocab) as usize] = 9.0 + 4.0 * rng.signed();
    }
    let mut huge = spread(rng, 2.0);
    huge[rng.below(n_vocab) as usize] = 1e30;
    let few = (0..n).map(|_| rng.below(4) as f32).collect();
    vec![spread(rng, 0.7), spread(rng, 4.0), peaked, vec![2.5; n], few, huge, spread(rng, 300.0)]
}

fn one<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len() as u32) as usize].clone()
}

/// Some way to choose from `n_vocab` tokens.
fn ask(n_vocab: u32, n_rows: usize, rng: &mut Rng) -> Ask {
    // Few ids, so that they repeat, and of the whole range.
    let step = (n_vocab / 40).max(1);
    let tokens: Vec<u32> = (0..rng.below(200)).map(|_| rng.below(40) * step % n_vocab).collect();
    let n_prompt = rng.below(tokens.len() as u32 + 1) as usize;
    let ids = |rng: &mut Rng, n: u32| -> Vec<u32> { (0..rng.below(n)).map(|_| rng.below(n_vocab)).collect() };
    let mut penalty = |strengths: &[f32]| {
        let (strength, window) = (one(rng, strengths), one(rng, &[0, 1, 5, 20, 190]));
        Penalty { strength, window }
    };
    let repetition = penalty(&[0.0, 0.0, 1.0, 1.3, 0.7]);
    // Sums of these are exact: logits that differ by their rounding alone are one log-probability on the processor, and two
    // distances on a GPU.
    let presence = penalty(&[0.0, 0.0, 0.5, -0.375]);
    let frequency = penalty(&[0.0, 0.0, 0.25, -0.125]);
    let biased = ids(rng, 30);
    let mut logit_bias: Vec<(u32, f32)> = Vec::new();
    if rng.below(3) == 0 {
        logit_bias.extend(biased.iter().map(|id| (*id, one(rng, &[-40.0, -3.0, 0.5, 4.0]))));
        logit_bias.push((rng.below(n_vocab), -1e30));
    }
    let sampling = Sampling {
        temperature: one(rng, &[0.0, 0.1, 0.8, 1.0, 1.5, 50.0]),
        top_p: one(rng, &[1.0, 1.0, 0.03, 0.47, 0.9, 0.987, 0.9999]),
        min_p: one(rng, &[0.0, 0.0, 0.011, 0.13, 1.0]),
        min_tokens_to_keep: one(rng, &[1, 1, 3, 300]),
        top_k: one(rng, &[0, 0, 1, 7, 40, 700]).min(n_vocab - 1),
        xtc_probability: one(rng, &[0.0, 0.0, 0.5, 1.0]),
        // Not 0: where the processor has tiny probabilities a GPU has none.
        xtc_threshold: one(rng, &[0.0003, 0.0021, 0.0537, 0.31]),
        xtc_exempt: ids(rng, 4),
        repetition,
        presence,
        frequency,
        logit_bias,
        min_tokens: one(rng, &[0, 0, 1000]),
        n_logprobs: one(rng, &[None, None, Some(0), Some(5.min(n_vocab)), Some(20.min(n_vocab))]),
        adjust: None,
        seed: rng.next_u64(),
    };
    let mut stop_ids = ids(rng, 4);
    // Something must remain.
    stop_ids.truncate(n_vocab as usize - 1);
    let row = rng.below(n_rows as u32) as usize;
    Ask { row, sampling, tokens, n_prompt, stop_ids, allowed: None }
}

#[test]
fn every_chain_chooses_as_the_processors_does() {
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let (mut n_all, mut n_other) = (0, 0);
        for n_vocab in [5, 1023, 4100, 20_002] {
            let mut rng = Rng::new(u64::from(n_vocab));
            let rows = rows(n_vocab, &mut rng);
            let n_rows = rows.len();
            let mut rig = SamplingRig::new(device, rows, 16);
            // Drivers take long to compile kernels for a processor, so there is one variant.
            for n in [16; 12] {
                let asks: Vec<Ask> = (0..n).map(|_| ask(n_vocab, n_rows, &mut rng)).collect();
                n_other += rig.check(&asks).unwrap_or_else(|why| panic!("{why}"));
                n_all += n;
            }
        }
        assert!(n_other * 100 <= n_all, "{n_other} of {n_all} ids are other ones, if equally good");
    }
}

/// A form that allows one id, some, and all but some, under every chain, in one submission and in two.
#[test]
fn only_ids_of_the_mask_are_chosen() {
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let n_vocab = 4_101;
        let mut rng = Rng::new(77);
        let rows = rows(n_vocab, &mut rng);
        let n_rows = rows.len();
        let mut rig = SamplingRig::new(device, rows, 16);
        for n in [16, 13, 16] {
            let mut formed = || {
                let mut ask = ask(n_vocab, n_rows, &mut rng);
                let (one_in, first) = (one(&mut rng, &[1, 2, 31, 1500]), rng.below(n_vocab));
                let among = (0..n_vocab).filter(|id| rng.below(one_in) == 0 || *id == first).collect();
                ask.allowed = one(&mut rng, &[None, Some(vec![first]), Some(vec![n_vocab - 1]), Some(among)]);
                if ask.allowed.is_some() {
                    // Such rows are the processor's: all that fits might be banned.
                    ask.sampling.min_tokens = 0;
                }
                ask
            };
            let asks: Vec<Ask> = (0..n).map(|_| formed()).collect();
            rig.check(&asks).unwrap_or_else(|why| panic!("{why}"));
            for (chosen, ask) in rig.choose(&asks).iter().zip(&asks) {
                assert!(ask.allowed.as_ref().is_none_or(|allowed| allowed.contains(&chosen.id)), "{ask:?}");
            }
            rig.chooses_later = !rig.chooses_later;
        }
    }
}

/// Many tokens that are equally far from the greatest, more than are ranked at once: order is by id then.
#[test]
fn ties_go_to_the_lower_ids() {
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let n_vocab = 9_000;
        let mut rig = SamplingRig::new(device, vec![vec![1.0; n_vocab], vec![-7.25; n_vocab]], 16);
        let hot = Sampling { temperature: 1.0, ..Sampling::default() };
        for (top_k, n_logprobs) in [(1, None), (300, None), (2_049, Some(20)), (8_999, Some(3))] {
            let ask = |seed| Ask {
                row: seed as usize % 2,
                sampling: Sampling { top_k, n_logprobs, seed, ..hot.clone() },
                ..Ask::default()
            };
            let asks: Vec<Ask> = (0..16).map(ask).collect();
            let n_other = rig.check(&asks).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(n_other, 0, "noise alone decides");
        }
        let ids = |rig: &mut SamplingRig, sampling: Sampling| -> Vec<u32> {
            let asks: Vec<Ask> =
                (0..16).map(|seed| Ask { sampling: Sampling { seed, ..sampling.clone() }, ..Ask::default() }).collect();
            rig.choose(&asks).iter().map(|chosen| chosen.id).collect()
        };
        assert_eq!(ids(&mut rig, Sampling { top_k: 1, ..hot.clone() }), [0; 16]);
        let all = ids(&mut rig, Sampling { top_p: 0.3, ..hot });
        assert!(all.iter().any(|id| *id > 6_000), "a tie with the last of top-p stays: {all:?}");
    }
}

/// Tokens that a bias or a stop rule forbids never come, however little is left.
#[test]
fn what_is_forbidden_never_comes() {
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let n_vocab = 1_500;
        let mut rig = SamplingRig::new(device, vec![vec![0.0; n_vocab]], 16);
        let logit_bias = (0..400).map(|id| (id, f32::MIN)).collect();
        let hot = Sampling { temperature: 2.0, logit_bias, min_tokens: 5, ..Sampling::default() };
        let stop_ids: Vec<u32> = (1_400..1_500).collect();
        for top_p in [1.0, 0.5] {
            for round in 0..8 {
                let ask = |seed| Ask {
                    sampling: Sampling { seed, top_p, ..hot.clone() },
                    tokens: vec![3; 4],
                    stop_ids: stop_ids.clone(),
                    ..Ask::default()
                };
                let asks: Vec<Ask> = (0..16).map(|ix| ask(round * 16 + ix)).collect();
                let ids: Vec<u32> = rig.choose(&asks).iter().map(|chosen| chosen.id).collect();
                assert!(ids.iter().all(|id| (400..1_400).contains(id)), "{ids:?}");
            }
        }
    }
}

/// Draws follow the softmax of the logits over the temperature, and of what a filter leaves of it.
#[test]
fn draws_follow_their_distribution() {
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let logits: Vec<f32> =
            (0..2_000).map(|id| if id % 400 == 7 { 3.0 - id as f32 / 800.0 } else { -60.0 }).collect();
        let likely: Vec<usize> = (0..2_000).filter(|id| logits[*id] > 0.0).collect();
        let mut rig = SamplingRig::new(device, vec![logits.clone()], 64);
        for (temperature, top_k) in [(0.7, 0), (2.0, 0), (1.0, 3)] {
            let mut counts = vec![0u32; logits.len()];
            let n_steps = 40;
            for step in 0..n_steps {
                // One seed, a position each.
                let asks: Vec<Ask> = (0..64)
                    .map(|ix| Ask {
                        sampling: Sampling { temperature, top_k, seed: 5, ..Sampling::default() },
                        tokens: vec![0; (step * 64 + ix) % 250],
                        ..Ask::default()
                    })
                    .map(|ask| Ask { sampling: Sampling { seed: (step * 64) as u64 / 250, ..ask.sampling }, ..ask })
                    .collect();
                rig.choose(&asks).iter().for_each(|chosen| counts[chosen.id as usize] += 1);
            }
            let kept = if top_k == 0 { &likely[..] } else { &likely[..top_k as usize] };
            let weights: Vec<f64> = kept.iter().map(|id| f64::from(logits[*id] / temperature).exp()).collect();
            let (total, n) = (weights.iter().sum::<f64>(), (64 * n_steps) as f64);
            assert_eq!(kept.iter().map(|id| counts[*id]).sum::<u32>() as f64, n, "others are drawn");
            let chi_square: f64 = kept
                .iter()
                .zip(&weights)
                .map(|(id, weight)| (f64::from(counts[*id]) - n * weight / total).powi(2) / (n * weight / total))
                .sum();
            // Up to 4 degrees of freedom: one draw in 10,000 is beyond 23.5.
            assert!(chi_square < 23.5, "{chi_square} at {temperature} and {top_k}");
        }
    }
}
