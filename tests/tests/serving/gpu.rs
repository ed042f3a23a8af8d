//! Steps in flight on an adapter: ids are fed back before they are read, and what ran past a stop is dropped.

use crate::support::{Log, MAX_CONTEXT, MAX_PAGES, Story, TinyModel};
use ingot_runtime::sample::Sampling;
use ingot_runtime::world::{FinishReason, Request};
use ingot_tests::random::VOCAB;
use ingot_tests::rig::{Device, gpus, turn};
use ingot_tests::rng::Rng;

fn request(prompt: Vec<u32>, max_tokens: u32, stop_ids: Vec<u32>) -> Request {
    let sampling = Sampling::default();
    Request { prompt, sampling, grammar: None, stop_ids, max_tokens, prompt_logits: false, cache_prompt: true }
}

/// Every choice is the processor's, but where two logits are as good as equal.
fn check_greedy(model: &TinyModel, prompt: &[u32], story: &Story) {
    let mut forced = prompt.to_vec();
    forced.extend(&story.ids[..story.ids.len().saturating_sub(1)]);
    let judge = Request { prompt_logits: true, ..request(forced, 0, Vec::new()) };
    let logits = model.alone(&judge).logits;
    let rows = logits.chunks_exact(VOCAB as usize).skip(prompt.len() - 1);
    for (ix, (row, id)) in rows.zip(&story.ids).enumerate() {
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(row[*id as usize] > best - 0.02, "id {ix} of {story:?}: logit {} of {best}", row[*id as usize]);
    }
}

fn play(device: &Device, n_pages: u32, seed: u64) {
    let model = TinyModel::new();
    let mut rng = Rng::new(seed);
    let prompts: Vec<Vec<u32>> = [3, 30, 1, 17, 8, 40].map(|n| (0..n).map(|_| rng.below(VOCAB)).collect()).to_vec();
    let run = |requests: Vec<Request>| -> Vec<Story> {
        let mut world = model.world(device, 4, n_pages);
        let mut log = Log::default();
        let ids: Vec<_> = requests.into_iter().map(|request| log.submit(&mut world, request)).collect();
        log.run_to_end(&mut world);
        assert!(log.n_fed_back > 0, "a step is encoded while the one before runs");
        ids.iter().map(|id| log.stories[id].clone()).collect()
    };
    let free = run(prompts.iter().map(|prompt| request(prompt.clone(), 12, Vec::new())).collect());
    for (prompt, story) in prompts.iter().zip(&free) {
        check_greedy(&model, prompt, story);
        match story.reason {
            Some(FinishReason::Length) => assert_eq!(story.ids.len(), 12),
            reason => panic!("{reason:?} of {story:?}"),
        }
    }
    // The same with stops that the first run ran past, and without a limit.
    let stop_of = |story: &Story| story.ids.get(4).copied().into_iter().collect::<Vec<_>>();
    let stopped =
        run(prompts.iter().zip(&free).map(|(prompt, story)| request(prompt.clone(), 1000, stop_of(story))).collect());
    for ((prompt, story), free) in prompts.iter().zip(&stopped).zip(&free) {
        check_greedy(&model, prompt, story);
        let stop_at = story.ids.iter().position(|id| stop_of(free).contains(id));
        match story.reason {
            Some(FinishReason::Stop) => assert_eq!(stop_at, Some(story.ids.len() - 1), "{story:?}"),
            Some(FinishReason::Length) => {
                assert!(stop_at.is_none(), "{story:?} ran past its stop");
                assert!(prompt.len() + story.ids.len() == MAX_CONTEXT as usize, "{story:?}");
            }
            other => panic!("{other:?} of {story:?}"),
        }
    }
    assert!(stopped.iter().any(|story| story.reason == Some(FinishReason::Stop)), "no stop was met: {stopped:?}");
}

#[test]
fn steps_in_flight_change_no_answer() {
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        play(device, 4 * MAX_PAGES, 1);
        play(device, 6, 2);
    }
}

/// Cancelled while steps are in flight, among others that go on.
#[test]
fn cancelled_in_flight() {
    for device in gpus().iter().take(1) {
        let _turn = turn(device);
        let model = TinyModel::new();
        let mut world = model.world(device, 4, 4 * MAX_PAGES);
        let mut log = Log::default();
        let prompt = |seed: u32| (0..10).map(|ix| (seed * 31 + ix * 7) % VOCAB).collect::<Vec<_>>();
        let ids = [0, 1, 2, 3, 4].map(|seed| log.submit(&mut world, request(prompt(seed), 20, Vec::new())));
        for n in 0..12 {
            log.tick(&mut world);
            if n == 4 {
                world.cancel(ids[1]);
                world.cancel(ids[4]);
            }
            if n == 8 {
                world.cancel(ids[2]);
                world.cancel(ids[2]);
            }
        }
        log.run_to_end(&mut world);
        for (seed, id) in (0..).zip(&ids) {
            check_greedy(&model, &prompt(seed), &log.stories[id]);
        }
        let reasons = ids.map(|id| log.stories[&id].reason.expect("it ended"));
        use FinishReason::{Cancelled, Length};
        assert_eq!(reasons, [Length, Cancelled, Cancelled, Length, Cancelled]);
        assert_eq!(log.stories[&ids[0]].ids.len(), 20);
    }
}
