//! Sequences that leave their pages to older ones: each answer is as it would have been, told once, and the oldest never waits.

use crate::support::{Log, MAX_CONTEXT, MAX_PAGES, Story, TinyModel};
use ingot_runtime::sample::{Grammar, Penalty, Sampling};
use ingot_runtime::world::{FinishReason, Limits, Request, RequestId, World};
use ingot_tests::random::VOCAB;
use ingot_tests::rig::{Device, devices, turn};

fn request(seed: u32, sampling: Sampling) -> Request {
    let prompt = (0..9 + seed).map(|ix| (ix * ix * 5 + ix * 3 + seed * 31) % VOCAB).collect();
    Request {
        prompt,
        sampling,
        grammar: None,
        stop_ids: Vec::new(),
        max_tokens: 40,
        prompt_logits: false,
        cache_prompt: true,
    }
}

/// Ids in turn, so that a step that is lost or done twice breaks it.
#[derive(Clone, Debug)]
struct Counting(u32);

impl Grammar for Counting {
    fn allowed(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
        mask.clear();
        mask.resize(VOCAB.div_ceil(32) as usize, 0);
        mask[self.0 as usize / 32] |= 1 << (self.0 % 32);
        Ok(())
    }
    fn accept(&mut self, id: u32) -> Result<bool, String> {
        assert_eq!(id, self.0);
        self.0 += 1;
        Ok(false)
    }
    fn fork(&self) -> Box<dyn Grammar> {
        Box::new(self.clone())
    }
}

/// Greedy, drawn, with a memory of what came, of a form, with all logits, and one that shares nothing.
fn mixture() -> Vec<Request> {
    let drawn = Sampling { temperature: 0.9, top_p: 0.9, seed: 5, ..Sampling::default() };
    let remembers = Sampling {
        repetition: Penalty { strength: 1.3, window: 0 },
        frequency: Penalty { strength: 0.2, window: 12 },
        n_logprobs: Some(2),
        ..drawn.clone()
    };
    vec![
        request(0, Sampling::default()),
        request(1, drawn.clone()),
        request(2, remembers),
        Request { grammar: Some(Box::new(Counting(3))), ..request(3, drawn.clone()) },
        Request { prompt_logits: true, ..request(4, Sampling::default()) },
        Request { cache_prompt: false, ..request(5, drawn) },
    ]
}

fn run(world: &mut World, requests: &[Request]) -> Vec<Story> {
    let mut log = Log::default();
    let ids: Vec<RequestId> = requests.iter().map(|request| log.submit(world, request.clone())).collect();
    log.run_to_end(world);
    ids.iter().map(|id| log.stories[id].clone()).collect()
}

#[test]
fn answers_do_not_depend_on_who_was_set_back() {
    let model = TinyModel::new();
    for device in devices() {
        let _turn = turn(&device);
        let mut roomy = model.world(&device, 4, 4 * MAX_PAGES);
        let expected = run(&mut roomy, &mixture());
        assert_eq!(roomy.n_set_back, 0);
        // A software rasterizer plays once.
        for n_pages in if device.is_software() { &[6][..] } else { &[MAX_PAGES, 6, 9] } {
            let n_pages = *n_pages;
            let mut tight = model.world(&device, 4, n_pages);
            let found = run(&mut tight, &mixture());
            assert!(tight.n_set_back > 0, "{n_pages} pages are enough for all");
            for ((found, expected), ix) in found.iter().zip(&expected).zip(0..) {
                assert_eq!(found.reason, Some(FinishReason::Length), "{ix} of {n_pages} pages on {device:?}");
                assert_eq!(found.ids, expected.ids, "{ix} of {n_pages} pages on {device:?}");
                assert_eq!(found.logits.len(), expected.logits.len(), "each row is told once");
                assert_eq!(found.logprobs.len(), expected.logprobs.len());
            }
        }
    }
}

#[test]
fn the_oldest_goes_on_and_the_youngest_waits() {
    let model = TinyModel::new();
    let mut world = model.world(&Device::Cpu, 3, MAX_PAGES + 1);
    let mut log = Log::default();
    let ids = [0, 0, 0].map(|_| log.submit(&mut world, Request { max_tokens: 50, ..request(0, Sampling::default()) }));
    let mut n_ticks = 0;
    let mut ends = Vec::new();
    while !world.is_idle() {
        let before: Vec<usize> = ids.iter().map(|id| log.stories[id].ids.len()).collect();
        log.tick(&mut world);
        n_ticks += 1;
        let n: Vec<usize> = ids.iter().map(|id| log.stories[id].ids.len()).collect();
        assert!(n.is_sorted_by(|a, b| a >= b), "a younger one is ahead: {n:?}");
        if log.stories[&ids[0]].reason.is_none() && n_ticks > 1 {
            // It waits for pages of others while these leave, a tick a page.
            assert!(n[0] > before[0] || world.is_short, "the oldest stands still: {n:?}");
        }
        ends.extend(
            ids.iter()
                .filter(|id| log.stories[id].reason.is_some() && !ends.contains(*id))
                .copied()
                .collect::<Vec<_>>(),
        );
        assert!(n_ticks < 1000);
    }
    assert_eq!(ends, ids);
    // Each is set back a few times at most, and is not read again only to be set back once more.
    assert!((1..=4).contains(&world.n_set_back), "{}", world.n_set_back);
}

#[test]
fn who_is_set_back_finds_what_is_left_of_its_pages_and_may_leave_meanwhile() {
    let model = TinyModel::new();
    // A long text and a short one: when the first needs one page more the second leaves two.
    let mut world = model.world_with(&Device::Cpu, MAX_CONTEXT, |plan| Limits::uniform(plan, 2, 5));
    let mut log = Log::default();
    let [old, young] =
        [30, 20].map(|n| Request { prompt: (n..n + n).collect(), max_tokens: 30, ..request(0, Sampling::default()) });
    let requests = [old.clone(), young.clone()].map(|request| log.submit(&mut world, request));
    let mut n_read = 0;
    while !world.is_idle() {
        log.tick(&mut world);
        n_read += world.step.tokens.len();
    }
    for (id, request) in requests.iter().zip([&old, &young]) {
        assert_eq!(log.stories[id].ids, model.alone(request).ids);
    }
    assert_eq!(world.n_set_back, 1);
    // Every token but the last of each is read once, and of the young one's at most a page again.
    let once = 30 + 29 + 20 + 29;
    assert!((once..=once + 16 + 1).contains(&n_read), "{n_read} tokens read for {once}");

    let mut log = Log::default();
    let mut world = model.world_with(&Device::Cpu, MAX_CONTEXT, |plan| Limits::uniform(plan, 2, 5));
    let [first, second] = [old, young].map(|request| log.submit(&mut world, request));
    while world.n_set_back == 0 {
        log.tick(&mut world);
    }
    let n = log.stories[&second].ids.len();
    world.cancel(second);
    log.run_to_end(&mut world);
    assert_eq!((log.stories[&second].reason, log.stories[&second].ids.len()), (Some(FinishReason::Cancelled), n));
    assert_eq!(log.stories[&first].reason, Some(FinishReason::Length));
}
