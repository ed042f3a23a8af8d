//! A tiny model, worlds of it, and a log of what happens to each request.

use ingot_compiler::{Options, TargetProfile, compile};
use ingot_ir::graph::Graph;
use ingot_ir::kv::Window;
use ingot_ir::plan::Plan;
use ingot_ir::step::SAMPLED;
use ingot_runtime::system::can_schedule;
use ingot_runtime::tick::{tick, wait};
use ingot_runtime::world::{Event, FinishReason, Limits, Request, RequestId, World};
use ingot_tests::random::{Shape, VOCAB};
use ingot_tests::rig::Device;
use ingot_tests::stored::StoredTensors;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest sequence: four pages.
pub(crate) const MAX_CONTEXT: u32 = 64;
/// Pages of the longest sequence.
pub(crate) const MAX_PAGES: u32 = 4;
/// Ticks after which a request that is still not done never will be.
const MANY_TICKS: usize = 5_000;

/// A model with two KV groups, and its tensors.
pub(crate) struct TinyModel {
    graph: Graph,
    stored: Arc<StoredTensors>,
}

impl TinyModel {
    pub(crate) fn new() -> Self {
        let graph = Shape { n_layers: 2, odd_window: Window { window: 20, keep: 2 }, ..Shape::llama() }.graph();
        let stored = Arc::new(StoredTensors::random(&graph, 11));
        Self { graph, stored }
    }

    /// A world on a device, whose chunks are short, so that prompts take several steps.
    pub(crate) fn world(&self, device: &Device, max_sequences: u32, n_pages: u32) -> World {
        self.world_with(device, MAX_CONTEXT, |plan| Limits::uniform(plan, max_sequences, n_pages))
    }

    /// The same with another context and limits.
    pub(crate) fn world_with(&self, device: &Device, context: u32, limits: impl Fn(&Plan) -> Limits) -> World {
        let target = TargetProfile { prefill_tokens: 24, max_rows: 10, prefill_q_tile: 4, ..device.target() };
        let plan = compile(&self.graph, &target, Options { max_batch: 4, ..Options::new(context) })
            .expect("the model compiles");
        let limits = limits(&plan);
        let mut backend = device.load(&plan, &self.stored, limits.clone());
        backend.poison(false);
        World::new(plan, backend, limits)
    }

    /// What a request gives where nothing else runs.
    pub(crate) fn alone(&self, request: &Request) -> Story {
        let mut world = self.world(&Device::Cpu, 1, MAX_PAGES);
        let mut log = Log::default();
        let id = log.submit(&mut world, request.clone());
        log.run_to_end(&mut world);
        log.stories.remove(&id).expect("it was submitted")
    }
}

/// What happened to one request.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Story {
    pub(crate) n_prompt: u32,
    /// Prompt tokens that were in the cache before.
    pub(crate) n_matched: u32,
    pub(crate) n_prefilled: u32,
    pub(crate) ids: Vec<u32>,
    pub(crate) logprobs: Vec<(f32, Vec<(u32, f32)>)>,
    pub(crate) logits: Vec<f32>,
    pub(crate) reason: Option<FinishReason>,
    /// Why the answer could not keep its form.
    pub(crate) unfit: Option<String>,
}

/// The requests of a world.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) stories: BTreeMap<RequestId, Story>,
    /// Tokens that were scheduled before they were read back.
    pub(crate) n_fed_back: usize,
}

impl Log {
    pub(crate) fn submit(&mut self, world: &mut World, request: Request) -> RequestId {
        let n_prompt = request.prompt.len() as u32;
        let id = world.submit(request).unwrap_or_else(|error| panic!("{error}"));
        let before = self.stories.insert(id, Story { n_prompt, ..Story::default() });
        assert!(before.is_none(), "{id:?} was given out twice");
        id
    }

    /// Ticks once and hears what happened; checks each event, and that every page is somewhere.
    pub(crate) fn tick(&mut self, world: &mut World) {
        tick(world).unwrap_or_else(|error| panic!("{error}"));
        self.n_fed_back += world.step.tokens.iter().filter(|token| token.id & SAMPLED != 0).count();
        for event in world.events.drain(..) {
            let request = event.request();
            let story = self.stories.get_mut(&request).unwrap_or_else(|| panic!("{event:?} of nobody"));
            assert!(story.reason.is_none(), "{event:?} after the end");
            match event {
                Event::Matched { n_tokens, .. } => {
                    assert!(story.n_prefilled == 0 && (1..story.n_prompt).contains(&n_tokens), "{n_tokens}: {story:?}");
                    (story.n_matched, story.n_prefilled) = (n_tokens, n_tokens);
                }
                Event::Prefilled { n_tokens, .. } => {
                    assert!(story.n_prefilled < n_tokens && n_tokens <= story.n_prompt, "{n_tokens} after {story:?}");
                    story.n_prefilled = n_tokens;
                }
                Event::Logprobs { logprob, best, .. } => story.logprobs.push((logprob, best)),
                Event::Token { id, .. } => {
                    assert!(story.n_prefilled == story.n_prompt && id < VOCAB, "{id} after {story:?}");
                    story.ids.push(id);
                }
                Event::Logits { first, logits, .. } => {
                    assert_eq!(story.logits.len(), (first * VOCAB) as usize, "logits come in order");
                    story.logits.extend(logits);
                }
                Event::Unfit { why, .. } => story.unfit = Some(why),
                Event::Finished { reason, .. } => story.reason = Some(reason),
            }
        }
        for (group, pool) in world.pools.iter().enumerate() {
            let users = world.sequences.pages.iter().flat_map(|pages| pages[group].pages());
            let held: BTreeMap<u32, u32> = users.fold(BTreeMap::new(), |mut held, page| {
                *held.entry(page).or_default() += 1;
                held
            });
            assert_eq!(pool.n_free() as usize + held.len(), pool.n_pages() as usize, "pages of group {group}");
            assert!(held.iter().all(|(page, n)| pool.n_users(*page) == *n), "users of group {group}: {held:?}");
        }
    }

    /// Ticks until nothing is left to do, then checks that everyone was answered and every page is free.
    pub(crate) fn run_to_end(&mut self, world: &mut World) {
        for _ in 0..MANY_TICKS {
            if world.is_idle() {
                break;
            }
            self.tick(world);
            if !world.in_flight.is_empty() && !can_schedule(world) {
                wait(world).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        assert!(world.is_idle(), "still busy after {MANY_TICKS} ticks: {:?}", world.sequences);
        for (id, story) in &self.stories {
            assert!(story.reason.is_some(), "{id:?} was not answered: {story:?}");
        }
        for pool in &world.pools {
            assert_eq!(pool.n_free(), pool.n_pages(), "pages leaked");
        }
    }
}
