//! What stays in the cache after a request: the next one reads only what is new, and answers as if it had read all.

use crate::support::{Log, MAX_CONTEXT, MAX_PAGES, Story, TinyModel};
use ingot_runtime::sample::Sampling;
use ingot_runtime::world::{FinishReason, Limits, Request, World};
use ingot_tests::random::VOCAB;
use ingot_tests::rig::{Device, devices, turn};

fn request(prompt: &[u32], max_tokens: u32) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: Sampling::default(),
        grammar: None,
        stop_ids: Vec::new(),
        max_tokens,
        prompt_logits: false,
        cache_prompt: true,
    }
}

fn prompt(n: u32, seed: u32) -> Vec<u32> {
    (0..n).map(|ix| (ix * ix * 7 + ix * 3 + seed * 31) % VOCAB).collect()
}

fn answer(world: &mut World, request: Request) -> Story {
    let mut log = Log::default();
    let id = log.submit(world, request);
    log.run_to_end(world);
    log.stories.remove(&id).expect("it was submitted")
}

/// The steps of a GPU that ran past an end are as good as tokens read.
fn reads_at_most(story: &Story, n: u32) {
    let n_read = story.n_prompt - story.n_matched;
    assert!((1..=n).contains(&n_read), "read {n_read} tokens, {n} are new: {story:?}");
}

#[test]
fn a_turn_reads_only_its_new_tokens() {
    let model = TinyModel::new();
    for device in devices() {
        let _turn = turn(&device);
        let mut world = model.world(&device, 2, 2 * MAX_PAGES);
        let mut text = Vec::new();
        for seed in 0..4 {
            text.extend(prompt(7, seed));
            let story = answer(&mut world, request(&text, 6));
            // The answer's last token was never read.
            reads_at_most(&story, if seed == 0 { 7 } else { 8 });
            assert_eq!(story.ids, model.alone(&request(&text, 6)).ids, "turn {seed} on {device:?}");
            text.extend(&story.ids);
        }
    }
}

#[test]
fn another_end_is_read_anew() {
    let model = TinyModel::new();
    let mut world = model.world(&Device::Cpu, 2, 2 * MAX_PAGES);
    let text = prompt(44, 1);
    answer(&mut world, request(&text, 1));
    for (n_same, n_matched) in [(44, 43), (43, 43), (40, 40), (35, 35), (31, 16), (20, 16), (5, 0)] {
        let mut other = text.clone();
        other[n_same..].iter_mut().for_each(|id| *id = (*id + 1) % VOCAB);
        let story = answer(&mut world, request(&other, 4));
        assert_eq!(story.n_matched, n_matched, "{n_same} tokens the same");
        assert_eq!(story.ids, model.alone(&request(&other, 4)).ids);
        // Puts back what the other text has cut.
        answer(&mut world, request(&text, 1));
    }
}

#[test]
fn who_wants_no_cache_has_none() {
    let model = TinyModel::new();
    let mut world = model.world(&Device::Cpu, 2, 2 * MAX_PAGES);
    let text = prompt(40, 2);
    let shy = Request { cache_prompt: false, ..request(&text, 3) };
    answer(&mut world, shy.clone());
    assert_eq!((answer(&mut world, request(&text, 3)).n_matched, world.cached_bytes() > 0), (0, true));
    assert_eq!(answer(&mut world, shy).n_matched, 0);
    let judge = Request { prompt_logits: true, ..request(&text, 0) };
    assert_eq!(answer(&mut world, judge).logits.len(), (40 * VOCAB) as usize);
    assert!(answer(&mut world, request(&text, 3)).n_matched >= 32);
    world.forget_prefixes();
    assert_eq!((answer(&mut world, request(&text, 3)).n_matched, world.cached_bytes() > 0), (0, true));
}

#[test]
fn sequences_share_pages_while_they_run() {
    let model = TinyModel::new();
    // Without sharing, four sequences of 40 tokens need twelve pages.
    let mut world = model.world_with(&Device::Cpu, MAX_CONTEXT, |plan| Limits::uniform(plan, 4, 7));
    let common = prompt(34, 3);
    answer(&mut world, request(&common, 1));
    let mut log = Log::default();
    let texts: Vec<Vec<u32>> = (0..4).map(|seed| [common.clone(), prompt(3, seed + 9)].concat()).collect();
    let ids: Vec<_> = texts.iter().map(|text| log.submit(&mut world, request(text, 5))).collect();
    log.run_to_end(&mut world);
    for (id, text) in ids.iter().zip(&texts) {
        let story = &log.stories[id];
        assert_eq!((&story.ids, story.reason), (&model.alone(&request(text, 5)).ids, Some(FinishReason::Length)));
        assert!(story.n_matched >= 32, "{story:?}");
    }
}

#[test]
fn a_window_keeps_its_pages_few() {
    let model = TinyModel::new();
    const CONTEXT: u32 = 400;
    let text = prompt(150, 4);
    let mut whole = model.world_with(&Device::Cpu, CONTEXT, |plan| Limits::uniform(plan, 1, CONTEXT / 16));
    let expected = answer(&mut whole, request(&text, 200));
    for device in devices() {
        let _turn = turn(&device);
        let mut world = model.world_with(&device, CONTEXT, |plan| Limits::new(plan, 1, CONTEXT));
        // Of 20 tokens of window, 2 kept, 24 a step and 16 to go back: seven pages instead of 25.
        assert_eq!(world.pools.iter().map(|pool| pool.n_pages()).collect::<Vec<_>>(), [25, 7]);
        let story = answer(&mut world, request(&text, 200));
        assert_eq!((story.ids.len(), story.reason), (200, Some(FinishReason::Length)), "on {device:?}");
        if device.is_cpu() {
            assert_eq!(story.ids, expected.ids);
        }
        // The next turn sees the window's pages; a text that leaves the first long before its end finds
        // what is kept of the beginning.
        let longer = [text.clone(), story.ids.clone(), prompt(9, 5)].concat();
        reads_at_most(&answer(&mut world, request(&longer, 3)), 10);
        let other = [text[..140].to_vec(), prompt(20, 6)].concat();
        assert_eq!(answer(&mut world, request(&other, 3)).n_matched, 16);
        assert_eq!(world.plan.pages_for(3, CONTEXT), [75, 19]);
    }
}
