//! What measures speed must run the model that it measures: made-up weights are the same on every device, and a step
//! that is looked at leaves nothing behind.

use ingot::ir::weight::{Format, ScaleType};
use ingot::{
    Cache, DeviceChoice, LoadOptions, Model, RandomExperts, RandomShape, Sampling, StepShape, Tiles, Workload,
};
use ingot_tests::rig::{Device, gpus, turn};
use ingot_tests::tolerance::{GPU_LOGITS, relative_l2};

fn shape() -> RandomShape {
    let format = Format::Affine { bits: 4, group: 64, scales: ScaleType::F16 };
    let known = RandomShape::named("smollm2-135m").expect("a known shape");
    // Layers that are alike, so that a device copies one to the other.
    RandomShape {
        n_layers: 2,
        hidden: 192,
        n_heads: 3,
        n_kv_heads: 1,
        intermediate: 128,
        n_vocab: 200,
        format,
        ..known
    }
}

fn load(device: &DeviceChoice, max_batch: u32) -> Model {
    load_shape(&shape(), device, max_batch)
}

fn load_shape(shape: &RandomShape, device: &DeviceChoice, max_batch: u32) -> Model {
    let options = LoadOptions {
        device: device.clone(),
        context: Some(128),
        max_batch,
        n_threads: Some(2),
        cache: Cache::Off,
        tiles: Tiles::BuiltIn,
        ..LoadOptions::default()
    };
    Model::load_random(shape, options).expect("a random model")
}

/// The processor and the first adapter, by name.
fn choices() -> Vec<(DeviceChoice, Option<&'static Device>)> {
    let name = |device: &'static Device| match device {
        Device::Cpu => (DeviceChoice::Cpu, None),
        Device::Gpu(gpu) => (DeviceChoice::Named(gpu.info().name.clone()), Some(device)),
    };
    std::iter::once((DeviceChoice::Cpu, None)).chain(gpus().iter().take(1).map(name)).collect()
}

#[test]
fn made_up_weights_are_the_same_everywhere_and_profiles_change_no_answer() {
    let prompt: Vec<u32> = (0..20).map(|ix| (ix * 37 + 5) % 200).collect();
    let (expected, _) = load(&DeviceChoice::Cpu, 1).logits(&prompt).expect("logits");
    for (choice, device) in choices() {
        let _turn = device.map(turn);
        let mut model = load(&choice, 2);
        for step in [
            StepShape { n_sequences: 1, n_tokens: 1, depth: 40 },
            StepShape { n_sequences: 2, n_tokens: 1, depth: 3 },
            StepShape { n_sequences: 1, n_tokens: 30, depth: 0 },
        ] {
            let facts = model.step_facts(step).expect("a step of the plan");
            let profile = model.profile(step, &Sampling::default(), 2).expect("a profile");
            let ran = profile.launches.iter().filter(|launch| launch.time_s > 0.0).count();
            assert!(ran >= facts.n_dispatches, "{ran} of {} launches took time", facts.n_dispatches);
            assert_eq!(profile.launches.iter().map(|launch| launch.cost).sum::<ingot::Cost>(), facts.cost);
            let in_order = |pair: &[ingot::ProfiledLaunch]| pair[0].start_s + pair[0].time_s <= pair[1].start_s + 1e-9;
            assert!(profile.launches.windows(2).all(in_order) && profile.step_s > 0.0);
            let n: usize = profile.by_kernel().iter().map(|kernel| kernel.n).sum();
            assert_eq!(n, profile.launches.len());
        }
        // Two layers: keys and values of one head of 64, for one token written and for those before it read too.
        let n_bytes = if choice == DeviceChoice::Cpu { 4 } else { 2 };
        let facts = model.step_facts(StepShape { n_sequences: 2, n_tokens: 1, depth: 9 }).expect("a step");
        assert_eq!(facts.cost.kv_bytes, 2 * 2 * 64 * n_bytes * 2 * (10 + 1));
        let (found, _) = model.logits(&prompt).expect("logits");
        let error = relative_l2(&found, &expected);
        assert!(error <= 2.0 * GPU_LOGITS, "{choice:?} is off by {error:.1e}");
    }
}

/// A token takes all experts, since a choice between two that are nearly as good may differ.
#[test]
fn a_made_up_mixture_is_the_same_everywhere() {
    let experts = Some(RandomExperts { n_experts: 4, n_active: 4 });
    let shape = RandomShape { experts, head_norms: true, ..shape() };
    let prompt: Vec<u32> = (0..20).map(|ix| (ix * 37 + 5) % 200).collect();
    let logits = |choice: &DeviceChoice| load_shape(&shape, choice, 1).logits(&prompt).expect("logits").0;
    let expected = logits(&DeviceChoice::Cpu);
    for (choice, device) in choices() {
        let _turn = device.map(turn);
        let error = relative_l2(&logits(&choice), &expected);
        assert!(error <= 2.0 * GPU_LOGITS, "{choice:?} is off by {error:.1e}");
    }
}

#[test]
fn a_workload_counts_every_token_once() {
    for (choice, device) in choices() {
        let _turn = device.map(turn);
        let mut model = load(&choice, 2);
        let drawn = Sampling { temperature: 0.8, top_p: 0.9, ..Sampling::default() };
        for (n_sequences, n_prompt, sampling) in [(1, 1, Sampling::default()), (2, 20, drawn)] {
            let workload = Workload { n_sequences, n_prompt, n_gen: 6 };
            let measured = model.measure(workload, &sampling).expect("a workload");
            let n = (n_sequences * 6) as usize;
            // Sequences that wait for the last prompt go on meanwhile, so that some may be a token ahead at the end.
            assert!((n..n + 2 * n_sequences as usize).contains(&measured.n_decoded), "{measured:?}");
            assert_eq!(measured.gaps.len(), measured.n_decoded);
            assert!(measured.n_steps >= 6 && measured.decode > measured.gaps[0] && !measured.first_token.is_zero());
            assert!(measured.device.is_none_or(|device| !device.is_zero()));
        }
        let none = model
            .measure(Workload { n_sequences: 1, n_prompt: 8, n_gen: 0 }, &Sampling::default())
            .expect("a workload");
        assert_eq!((none.n_decoded, none.gaps.len()), (0, 0));
        let error = model
            .measure(Workload { n_sequences: 1, n_prompt: 500, n_gen: 1 }, &Sampling::default())
            .expect_err("too long");
        assert!(error.to_string().contains("context holds 128"), "{error}");
        assert!(model.logits(&[1, 2]).is_ok(), "an error leaves the model usable");
    }
}
