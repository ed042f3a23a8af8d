//! Tokens that an adapter draws: as far ahead as greedy ones, and those that the processor's chain takes from the same logits.

use crate::support::{Log, MAX_PAGES, Story, TinyModel};
use ingot_runtime::sample::{Chooser, Penalty, Sampling};
use ingot_runtime::world::{Event, Request};
use ingot_tests::random::VOCAB;
use ingot_tests::rig::{Device, gpus, turn};
use ingot_tests::tolerance::draw;

const N_TOKENS: u32 = 24;

/// Best ids that no adapter tells, so that the processor chooses.
const BEYOND: u32 = 21;

fn request(ix: u32, sampling: Sampling) -> Request {
    let prompt: Vec<u32> = (0..3 + 5 * ix).map(|at| (at * 29 + ix * 7) % VOCAB).collect();
    let stop_ids = if sampling.min_tokens > 0 { (0..VOCAB / 2).collect() } else { Vec::new() };
    Request {
        prompt,
        sampling,
        grammar: None,
        stop_ids,
        max_tokens: N_TOKENS,
        prompt_logits: false,
        cache_prompt: true,
    }
}

fn samplings() -> Vec<Sampling> {
    let warm = Sampling { temperature: 0.8, seed: 3, ..Sampling::default() };
    let penalty = |strength, window| Penalty { strength, window };
    vec![
        warm.clone(),
        Sampling { top_p: 0.8, n_logprobs: Some(3), ..warm.clone() },
        Sampling {
            top_k: 9,
            repetition: penalty(1.4, 0),
            presence: penalty(0.3, 5),
            frequency: penalty(0.2, 0),
            ..warm.clone()
        },
        Sampling { min_p: 0.02, xtc_probability: 0.5, xtc_threshold: 0.02, xtc_exempt: vec![1, 2], ..warm.clone() },
        Sampling { min_tokens: 9, logit_bias: vec![(60, 1.5), (61, -2.0)], ..warm },
        Sampling { repetition: penalty(1.8, 6), n_logprobs: Some(0), ..Sampling::default() },
    ]
}

/// Runs requests together; gives their stories and how many tokens were fed before they were read.
fn play(model: &TinyModel, device: &Device, requests: &[Request]) -> (Vec<Story>, usize) {
    let mut world = model.world(device, 4, 4 * MAX_PAGES);
    let mut log = Log::default();
    let ids: Vec<_> = requests.iter().map(|request| log.submit(&mut world, request.clone())).collect();
    log.run_to_end(&mut world);
    (ids.iter().map(|id| log.stories[id].clone()).collect(), log.n_fed_back)
}

#[test]
fn drawn_answers_are_the_processors_and_a_step_ahead() {
    let model = TinyModel::new();
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        for (ix, sampling) in (0..).zip(samplings()) {
            let own = request(ix, sampling.clone());
            let (drawn, n_fed_back) = play(&model, device, std::slice::from_ref(&own));
            let read = request(ix, Sampling { n_logprobs: Some(BEYOND), ..sampling.clone() });
            let (chosen, none) = play(&model, device, std::slice::from_ref(&read));
            assert_eq!(none, 0, "the processor's choices are read before they are fed");
            assert_eq!(drawn[0].ids, chosen[0].ids, "{sampling:?}");
            assert!(n_fed_back + 2 >= drawn[0].ids.len(), "{n_fed_back} of {} ids were fed", drawn[0].ids.len());
            let Some(n_best) = sampling.n_logprobs else { continue };
            assert_eq!(drawn[0].logprobs.len(), drawn[0].ids.len());
            for (found, expected) in drawn[0].logprobs.iter().zip(&chosen[0].logprobs) {
                let is_close = |a: f32, b: f32| (a - b).abs() <= draw::LOGPROB * (1.0 + b.abs());
                assert!(is_close(found.0, expected.0), "{} for {}", found.0, expected.0);
                assert_eq!(found.1.len(), n_best as usize);
                let pairs = found.1.iter().zip(&expected.1);
                assert!(pairs.into_iter().all(|(a, b)| a.0 == b.0 && is_close(a.1, b.1)), "{found:?} for {expected:?}");
            }
        }
    }
}

/// Greedy, drawn, adjusted and read-back rows in the same steps, more requests than rows.
#[test]
fn rows_of_every_kind_share_steps() {
    let model = TinyModel::new();
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let mut requests: Vec<Request> = (0..).zip(samplings()).map(|(ix, sampling)| request(ix, sampling)).collect();
        requests.insert(1, request(7, Sampling::default()));
        requests.insert(3, request(8, Sampling { temperature: 1.0, n_logprobs: Some(BEYOND), ..Sampling::default() }));
        let (together, n_fed_back) = play(&model, device, &requests);
        assert!(n_fed_back > 0, "a step is encoded while the one before runs");
        for (request, story) in requests.iter().zip(&together) {
            let alone = play(&model, device, std::slice::from_ref(request)).0;
            assert_eq!(story.ids, alone[0].ids, "{:?}", request.sampling);
        }
    }
}

/// Whoever wants the prompt's logits gets them as the model left them, so that the processor adjusts its own.
#[test]
fn wanted_logits_are_not_adjusted() {
    let model = TinyModel::new();
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let sampling = Sampling { temperature: 1.0, logit_bias: vec![(5, 30.0)], ..Sampling::default() };
        let mut world = model.world(device, 1, MAX_PAGES);
        world.submit(Request { prompt_logits: true, ..request(0, sampling) }).expect("it is possible");
        let mut last = Vec::new();
        while !world.is_idle() {
            ingot_runtime::tick::run(&mut world).expect("it runs");
            assert!(world.sequences.chooser[0] != Chooser::Greedy);
            for event in world.events.drain(..) {
                match event {
                    Event::Logits { logits, .. } => last = logits,
                    Event::Token { id, .. } => assert_eq!(id, 5, "the bias decides"),
                    _ => {}
                }
            }
        }
        assert!(last[last.len() - VOCAB as usize + 5] < 20.0, "the logits are the model's own");
    }
}
