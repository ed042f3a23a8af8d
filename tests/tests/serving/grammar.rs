//! Answers of a form inside the batch: each keeps its own, none disturbs its neighbours, and no tick waits for a mask.

use crate::support::{Log, MAX_PAGES, TinyModel};
use ingot_runtime::sample::{Adjust, Grammar, Sampling};
use ingot_runtime::system;
use ingot_runtime::world::{FinishReason, Request, RequestId, World};
use ingot_tests::random::VOCAB;
use ingot_tests::rig::{devices, turn};
use std::sync::{Arc, Mutex};

/// Multiples of a number, so many of them. The first mask waits until the gate is open.
#[derive(Clone, Debug)]
struct Multiples {
    of: u32,
    left: u32,
    gate: Arc<Mutex<()>>,
    /// The mask at which it fails.
    fails_at: Option<u32>,
}

impl Multiples {
    fn new(of: u32, left: u32) -> Self {
        Self { of, left, gate: Arc::default(), fails_at: None }
    }
}

impl Grammar for Multiples {
    fn allowed(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
        drop(self.gate.lock().expect("no panic"));
        if self.fails_at == Some(self.left) {
            return Err("nothing fits any more".into());
        }
        mask.clear();
        mask.resize(VOCAB.div_ceil(32) as usize, 0);
        (0..VOCAB).step_by(self.of as usize).for_each(|id| mask[id as usize / 32] |= 1 << (id % 32));
        Ok(())
    }
    fn accept(&mut self, id: u32) -> Result<bool, String> {
        assert!(id.is_multiple_of(self.of), "{id} was forbidden");
        self.left -= 1;
        Ok(self.left == 0)
    }
    fn fork(&self) -> Box<dyn Grammar> {
        Box::new(self.clone())
    }
}

fn request(form: Option<Multiples>, sampling: Sampling) -> Request {
    let grammar = form.map(|form| Box::new(form) as Box<dyn Grammar>);
    let (prompt, stop_ids) = ((3..30).collect(), Vec::new());
    Request { prompt, sampling, grammar, stop_ids, max_tokens: 20, prompt_logits: false, cache_prompt: true }
}

fn drawn(seed: u64) -> Sampling {
    Sampling { temperature: 1.2, top_p: 0.95, seed, ..Sampling::default() }
}

/// Requests with and without a form, greedy and drawn.
fn mixture() -> Vec<(Request, Option<(u32, usize)>)> {
    let form = |of, left, sampling| (request(Some(Multiples::new(of, left)), sampling), Some((of, left as usize)));
    vec![
        form(7, 5, Sampling::default()),
        (request(None, Sampling::default()), None),
        form(3, 12, drawn(1)),
        (request(None, drawn(2)), None),
        form(5, 1, Sampling { temperature: 2.0, top_k: 2, xtc_probability: 0.5, ..drawn(3) }),
        form(11, 9, Sampling { n_logprobs: Some(20), ..drawn(4) }),
        // The processor's, on every device.
        form(13, 4, Sampling { logit_bias: vec![(0, -1e30), (26, f32::MIN)], ..drawn(6) }),
    ]
}

#[test]
fn each_keeps_its_own_form() {
    let model = TinyModel::new();
    for device in devices() {
        let _turn = turn(&device);
        let mut world = model.world(&device, 4, 4 * MAX_PAGES);
        let mut log = Log::default();
        let ids: Vec<RequestId> = mixture().into_iter().map(|(request, _)| log.submit(&mut world, request)).collect();
        log.run_to_end(&mut world);
        for (id, (request, form)) in ids.iter().zip(mixture()) {
            let story = &log.stories[id];
            match form {
                Some((of, n)) => {
                    assert!(story.ids.iter().all(|id| id.is_multiple_of(of)), "{of}: {:?}", story.ids);
                    assert_eq!(
                        (story.ids.len(), story.reason),
                        (n, Some(FinishReason::Stop)),
                        "the form's end is the answer's"
                    );
                }
                None => assert_eq!((story.ids.len(), story.reason), (20, Some(FinishReason::Length))),
            }
            if device.is_cpu() {
                assert_eq!(story.ids, model.alone(&request).ids);
            }
            for (logprob, best) in &story.logprobs {
                assert!(best.len() == VOCAB.div_ceil(11).min(20) as usize && *logprob <= best[0].1, "{best:?}");
                assert!(best.iter().all(|(id, logprob)| id % 11 == 0 && logprob.is_finite()), "{best:?}");
            }
        }
    }
}

/// A device chooses as the processor does from the same logits: a change of logits that changes none makes it the processor.
#[test]
fn a_device_keeps_forms_as_the_processor_does() {
    let model = TinyModel::new();
    for device in devices() {
        let _turn = turn(&device);
        let mut world = model.world(&device, 4, 4 * MAX_PAGES);
        let answers = |world: &mut World, adjust: &Option<Adjust>| -> Vec<Vec<u32>> {
            let mut log = Log::default();
            let ids: Vec<RequestId> = mixture()
                .into_iter()
                .map(|(request, _)| {
                    let sampling = Sampling { adjust: adjust.clone(), ..request.sampling };
                    log.submit(world, Request { sampling, ..request })
                })
                .collect();
            log.run_to_end(world);
            ids.iter().map(|id| log.stories[id].ids.clone()).collect()
        };
        let by_device = answers(&mut world, &None);
        assert_eq!(by_device, answers(&mut world, &Some(Adjust::new(|_, _| {}))), "on {device:?}");
    }
}

#[test]
fn a_tick_does_not_wait_for_a_mask() {
    let model = TinyModel::new();
    for device in devices() {
        let _turn = turn(&device);
        let mut world = model.world(&device, 2, 2 * MAX_PAGES);
        let mut log = Log::default();
        let form = Multiples::new(7, 4);
        let gate = Arc::clone(&form.gate);
        let closed = gate.lock().expect("no panic");
        let id = log.submit(&mut world, request(Some(form), Sampling::default()));
        // All that is left to do is to choose the token: from logits at hand, or by the device.
        let stands = |world: &World| {
            world.waits_for_masks || (world.in_flight.len() == 1 && world.in_flight.iter().all(|step| !step.is_chosen))
        };
        while !stands(&world) {
            log.tick(&mut world);
        }
        for _ in 0..20 {
            log.tick(&mut world);
        }
        assert!(log.stories[&id].ids.is_empty() && stands(&world), "the token is not chosen");
        drop(closed);
        // The next step may start before the token is read, if the device chooses it.
        while world.in_flight.iter().any(|step| !step.is_chosen) {
            system::choose(&mut world).expect("the device works");
        }
        assert_eq!(system::can_schedule(&world), !device.is_cpu(), "on {device:?}");
        while !world.is_idle() {
            log.tick(&mut world);
        }
        assert_eq!(log.stories[&id].ids.len(), 4);
    }
}

#[test]
fn a_form_that_breaks_ends_its_answer_alone() {
    let model = TinyModel::new();
    for device in devices() {
        let _turn = turn(&device);
        let mut world = model.world(&device, 4, 4 * MAX_PAGES);
        let mut log = Log::default();
        let broken = request(Some(Multiples { fails_at: Some(3), ..Multiples::new(2, 6) }), Sampling::default());
        // Ids of the vocabulary's end alone: nothing is left of it.
        let nothing = request(Some(Multiples::new(VOCAB * 2, 6)), Sampling { logit_bias: vec![(0, 1.0)], ..drawn(1) });
        let [broken, whole, other, nothing] =
            [broken, request(Some(Multiples::new(7, 6)), Sampling::default()), request(None, drawn(5)), nothing]
                .map(|request| log.submit(&mut world, request));
        log.run_to_end(&mut world);
        let story = &log.stories[&broken];
        assert_eq!((story.ids.len(), story.reason), (3, Some(FinishReason::Cancelled)));
        assert_eq!(story.unfit.as_deref(), Some("nothing fits any more"));
        assert_eq!((log.stories[&whole].ids.len(), &log.stories[&whole].unfit), (6, &None));
        assert_eq!(log.stories[&other].ids.len(), 20);
        if device.is_cpu() {
            assert_eq!(log.stories[&other].ids, model.alone(&request(None, drawn(5))).ids);
        }
        assert_eq!(log.stories[&nothing].ids, [0; 6], "one token fits");
    }
}

#[test]
fn a_cancelled_answer_leaves_its_form() {
    let model = TinyModel::new();
    for device in devices() {
        let _turn = turn(&device);
        let mut world = model.world(&device, 1, MAX_PAGES);
        let mut log = Log::default();
        let form = Multiples::new(7, 9);
        let gate = Arc::clone(&form.gate);
        let id = log.submit(&mut world, request(Some(form), Sampling::default()));
        let closed = gate.lock().expect("no panic");
        for _ in 0..5 {
            log.tick(&mut world);
        }
        world.cancel(id);
        log.run_to_end(&mut world);
        drop(closed);
        assert_eq!(log.stories[&id].reason, Some(FinishReason::Cancelled));
        let again = log.submit(&mut world, request(Some(Multiples::new(3, 2)), Sampling::default()));
        log.run_to_end(&mut world);
        assert_eq!(log.stories[&again].ids.len(), 2);
    }
}
