//! What a program embeds: streams, batches, engines, conversations, memory, devices of its own.

use ingot::runtime::RuntimeError;
use ingot::runtime::gpu::useful_features;
use ingot::{
    Adjust, Conversation, DeviceChoice, Engine, Error, FinishReason, GenerateOptions, Gpu, Grammar, LoadOptions,
    MAX_WAITING, Memory, Model, Piece, Sampling, wgpu,
};
use ingot_tests::rig::{Device, gpus, turn};
use ingot_tests::shared::root;

fn load(max_batch: u32, memory: &Memory) -> Model {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        max_batch,
        context: Some(256),
        cache: ingot::Cache::Off,
        memory: memory.clone(),
        ..LoadOptions::default()
    };
    Model::load(&root().join("models/ingot-tales-1m"), options).expect("the model loads")
}

fn options(max_tokens: u32) -> GenerateOptions {
    let sampling = Sampling { temperature: 0.8, seed: 5, ..Sampling::default() };
    GenerateOptions { max_tokens, sampling, ignore_eos: true, ..GenerateOptions::default() }
}

fn prompts(model: &Model, n: usize) -> Vec<Vec<u32>> {
    let heroes = ["a cat", "a dragon who loves pizza", "two friends", "a robot", "the moon"];
    heroes
        .iter()
        .cycle()
        .take(n)
        .map(|hero| model.chat_prompt(&format!("Tell me about {hero}.")).expect("a prompt"))
        .collect()
}

#[test]
fn models_engines_and_errors_may_change_threads() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    is_send::<Model>();
    is_send::<ingot::Pieces>();
    is_send::<LoadOptions>();
    is_shared::<Engine>();
    is_shared::<Memory>();
    is_shared::<Error>();
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let mut model = load(1, &Memory::default());
    let prompt = prompts(&model, 1).remove(0);
    let mut options = options(20);
    options.sampling.n_logprobs = Some(2);
    let answer = model.generate(&prompt, &options, |_| true).expect("an answer");
    let pieces: Vec<Piece> = model.stream(&prompt, &options).expect("it begins").map(|piece| piece.unwrap()).collect();
    let (last, tokens) = pieces.split_last().expect("pieces");
    assert_eq!(tokens.iter().filter_map(|piece| piece.id).collect::<Vec<_>>(), answer.ids);
    assert_eq!(pieces.iter().map(|piece| &*piece.text).collect::<String>(), answer.text);
    assert_eq!(tokens.iter().filter_map(|piece| piece.logprobs.clone()).collect::<Vec<_>>(), answer.logprobs);
    assert!(tokens.iter().all(|piece| piece.finish.is_none() && !piece.from_draft));
    assert_eq!((last.id, last.finish), (None, Some(FinishReason::Length)));
    for (ix, piece) in tokens.iter().enumerate() {
        assert_eq!((piece.stats.n_prompt, piece.stats.n_generated), (prompt.len(), ix + 1));
        assert!(piece.stats.memory.peak > 0);
    }
    assert_eq!((answer.stats.n_cached, last.stats.n_read()), (0, prompt.len() - last.stats.n_cached));
}

/// A prompt is read in chunks, between which its reader is asked.
#[test]
fn an_answer_may_be_ended_while_its_prompt_is_read() {
    let chunks = LoadOptions {
        device: DeviceChoice::Cpu,
        adjust_target: Some(Box::new(|target| target.prefill_tokens = 16)),
        ..LoadOptions::default()
    };
    let mut model = Model::load(&root().join("models/ingot-tales-1m"), chunks).expect("it loads");
    let prompt: Vec<u32> = prompts(&model, 1).remove(0).into_iter().cycle().take(100).collect();
    let mut n_told = Vec::new();
    let answer = model.generate(&prompt, &options(5), |piece| {
        assert_eq!((piece.id, piece.finish, piece.text.as_str()), (None, None, ""));
        n_told.push(piece.stats.n_prefilled);
        n_told.len() < 3
    });
    let answer = answer.expect("an answer");
    assert_eq!(n_told, [16, 32, 48]);
    assert_eq!((answer.ids.len(), answer.finish), (0, FinishReason::Cancelled));
    let whole = model.generate(&prompt, &options(5), |_| true).expect("an answer");
    assert_eq!((whole.ids.len(), whole.stats.n_prefilled), (5, 100));
}

#[test]
fn an_engine_keeps_no_endless_line() {
    let engine = Engine::start(load(1, &Memory::default())).expect("a thread");
    let prompt: Vec<u32> = (3..150).collect();
    let mut line: Vec<_> = (0..MAX_WAITING + 100).map(|_| engine.stream(prompt.clone(), options(100))).collect();
    let last = line.pop().expect("answers").into_iter().next().expect("a word");
    assert!(matches!(last, Err(Error::Busy { .. })), "{last:?}");
    // What is wrong is told at once, whoever waits.
    let too_long = engine.stream(vec![3; 5000], options(2)).into_iter().next().expect("a word");
    assert!(
        matches!(too_long, Err(Error::Runtime(RuntimeError::PromptTooLong { n_prompt: 5000, .. }))),
        "{too_long:?}"
    );
    // Those who go away leave the line.
    drop(line);
    let pieces: Result<Vec<Piece>, Error> = engine.stream(vec![3, 4, 5], options(2)).into_iter().collect();
    assert_eq!(pieces.expect("an answer").iter().filter(|piece| piece.id.is_some()).count(), 2);
}

#[test]
fn who_drops_a_stream_ends_its_answer() {
    let mut model = load(1, &Memory::default());
    let prompt = prompts(&model, 1).remove(0);
    let whole = model.generate(&prompt, &options(30), |_| true).expect("an answer");
    let mut stream = model.stream(&prompt, &options(30)).expect("it begins");
    assert!(stream.next().is_some_and(|piece| piece.is_ok()));
    drop(stream);
    let mut n = 0;
    let cut = model.generate(&prompt, &options(30), |_| {
        n += 1;
        n < 4
    });
    let cut = cut.expect("an answer");
    assert_eq!((cut.finish, &cut.ids[..]), (FinishReason::Cancelled, &whole.ids[..4]));
    assert_eq!(model.generate(&prompt, &options(30), |_| true).expect("an answer").ids, whole.ids);
    let mut stream = model.stream(&prompt, &options(30)).expect("it begins");
    stream.next();
    stream.stop();
    assert_eq!(stream.answer().expect("as far as it came").finish, FinishReason::Cancelled);
    assert!(matches!(model.stream(&[], &options(3)).map(drop), Err(Error::Runtime(_))));
}

#[test]
fn a_program_changes_logits() {
    let mut model = load(2, &Memory::default());
    let prompts = prompts(&model, 2);
    let with = |adjust: Adjust, temperature| GenerateOptions {
        max_tokens: 6,
        ignore_eos: true,
        sampling: Sampling { adjust: Some(adjust), temperature, ..Sampling::default() },
        ..GenerateOptions::default()
    };
    // The next token is the number of tokens before it.
    let count = Adjust::new(|tokens, logits| {
        logits.fill(0.0);
        logits[tokens.len()] = 100.0;
    });
    for answer in model.batch_generate(&prompts, &with(count, 0.0), |_, _| true) {
        let answer = answer.expect("an answer");
        let first = answer.stats.n_prompt as u32;
        assert_eq!(answer.ids, (first..first + 6).collect::<Vec<_>>());
    }
    // Whatever a program leaves, something is chosen.
    for bad in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        for temperature in [0.0, 1.0] {
            let options = with(Adjust::new(move |_, logits| logits.fill(bad)), temperature);
            assert_eq!(model.generate(&prompts[0], &options, |_| true).expect("an answer").ids.len(), 6);
        }
        let one = Adjust::new(move |_, logits| {
            logits.fill(bad);
            logits[9] = 1.0;
        });
        if bad != f32::INFINITY {
            assert_eq!(model.generate(&prompts[0], &with(one, 1.0), |_| true).expect("an answer").ids, [9; 6]);
        }
    }
}

#[test]
fn a_batch_answers_each_prompt_as_if_alone() {
    let mut model = load(2, &Memory::default());
    let prompts = prompts(&model, 5);
    let mut n_pieces = [0; 5];
    let answers = model.batch_generate(&prompts, &options(12), |ix, _| {
        n_pieces[ix] += 1;
        ix != 3 || n_pieces[ix] < 2
    });
    let mut alone = load(1, &Memory::default());
    for (ix, (prompt, answer)) in prompts.iter().zip(&answers).enumerate() {
        let answer = answer.as_ref().expect("an answer");
        let mut options = options(12);
        options.sampling.seed += ix as u64;
        let expected = alone.generate(prompt, &options, |_| true).expect("an answer");
        if ix == 3 {
            assert_eq!((&answer.ids[..], answer.finish), (&expected.ids[..2], FinishReason::Cancelled));
        } else {
            assert_eq!((&answer.text, answer.finish, n_pieces[ix]), (&expected.text, FinishReason::Length, 13));
        }
    }
    assert_eq!(model.batch_generate(&[], &options(3), |_, _| true).len(), 0);
}

#[test]
fn what_fails_in_a_batch_leaves_the_others_alone() {
    let mut model = load(2, &Memory::default());
    let three = prompts(&model, 3);
    let prompts = [three[0].clone(), Vec::new(), three[1].clone(), vec![1; 300], three[2].clone()];
    let answers = model.batch_generate(&prompts, &options(9), |ix, _| {
        assert!([0, 2, 4].contains(&ix), "{ix} began");
        true
    });
    let mut alone = load(1, &Memory::default());
    for (ix, (prompt, answer)) in prompts.iter().zip(answers).enumerate() {
        let mut options = options(9);
        options.sampling.seed += ix as u64;
        match alone.generate(prompt, &options, |_| true) {
            Ok(expected) => assert_eq!(answer.expect("an answer").ids, expected.ids),
            Err(expected) => assert_eq!(answer.expect_err("it is refused").to_string(), expected.to_string()),
        }
    }
    // What is wrong with the options is wrong with all.
    let refused = GenerateOptions { grammar: Some(Grammar::Regex("[a-".into())), ..options(3) };
    let answers = model.batch_generate(&prompts, &refused, |_, _| panic!("it began"));
    assert!(answers.iter().all(|answer| answer.is_err()) && answers.len() == 5);
    assert!(model.generate(&prompts[0], &options(3), |_| true).is_ok());
}

#[test]
fn an_engine_serves_several_clients_and_forgets_who_leaves() {
    let mut alone = load(1, &Memory::default());
    let prompts = prompts(&alone, 5);
    let engine = Engine::start(load(3, &Memory::default())).expect("a thread");
    let gone = engine.stream(prompts[4].clone(), options(1000));
    std::thread::scope(|scope| {
        for prompt in &prompts {
            let (engine, expected) =
                (engine.clone(), alone.generate(prompt, &options(12), |_| true).expect("an answer"));
            scope.spawn(move || {
                // One client waits, another is asynchronous.
                let pieces = engine.stream(prompt.clone(), options(12));
                let text: String = pieces.into_iter().map(|piece| piece.expect("a piece").text).collect();
                assert_eq!(text, expected.text);
                let mut pieces = std::pin::pin!(engine.stream(prompt.clone(), options(12)));
                let mut text = String::new();
                while let Some(piece) = next(pieces.as_mut()) {
                    text += &piece.expect("a piece").text;
                }
                assert_eq!(text, expected.text);
            });
        }
    });
    drop(gone);
    let mut refused = engine.stream(Vec::new(), options(3)).into_iter();
    assert!(matches!(refused.next(), Some(Err(Error::Runtime(_)))) && refused.next().is_none());
}

/// The next item of a stream, on this thread.
fn next<S: futures_core::Stream>(mut stream: std::pin::Pin<&mut S>) -> Option<S::Item> {
    pollster::block_on(std::future::poll_fn(|context| stream.as_mut().poll_next(context)))
}

#[test]
fn turns_of_a_conversation_read_what_is_new() {
    let mut model = load(1, &Memory::default());
    let mut talk = Conversation::with_system("Be brief.");
    let greedy = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    let mut n_before = 0;
    for turn in 0..12 {
        let answer = talk.say(&mut model, "And then?", &greedy, |_| true).expect("an answer");
        // Until the context is full and the oldest exchanges are dropped.
        if answer.stats.n_prompt > n_before {
            assert!(answer.stats.n_read() <= answer.stats.n_prompt - n_before, "turn {turn}: {:?}", answer.stats);
        }
        n_before = answer.stats.n_prompt;
    }
    assert!(talk.messages.len() < 24, "the context of 256 tokens does not hold all");
    let before = talk.clone();
    let bad = GenerateOptions { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..greedy };
    assert!(talk.say(&mut model, "x", &bad, |_| true).is_err());
    assert_eq!(talk, before);
}

#[test]
fn who_fills_the_cache_ends_with_that_reason() {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        max_batch: 2,
        context: Some(256),
        cache: ingot::Cache::Off,
        kv_tokens: Some(64),
        ..LoadOptions::default()
    };
    let mut model = Model::load(&root().join("models/ingot-tales-1m"), options).expect("the model loads");
    let prompts = prompts(&model, 3);
    let answers = model.batch_generate(&prompts, &self::options(1000), |_, _| true);
    let answers = answers.into_iter().collect::<Result<Vec<_>, _>>().expect("answers");
    let n_held: Vec<usize> = prompts.iter().zip(&answers).map(|(prompt, a)| prompt.len() + a.ids.len()).collect();
    assert!(answers.iter().all(|answer| answer.finish == FinishReason::KvFull), "{n_held:?}");
    // Each had all pages in the end. The last token of an answer is not read any more.
    assert_eq!(n_held, [65; 3]);
    let short = model.generate(&prompts[0], &self::options(10), |_| true).expect("an answer");
    assert_eq!(short.finish, FinishReason::Length);
}

#[test]
fn a_batch_in_little_memory_takes_longer_and_says_the_same() {
    let mut roomy = load(4, &Memory::default());
    let little = LoadOptions {
        device: DeviceChoice::Cpu,
        max_batch: 4,
        context: Some(256),
        cache: ingot::Cache::Off,
        kv_tokens: Some(112),
        ..LoadOptions::default()
    };
    let mut little = Model::load(&root().join("models/ingot-tales-1m"), little).expect("the model loads");
    let prompts = prompts(&roomy, 5);
    let mut options = options(60);
    options.sampling.repetition.strength = 1.1;
    let texts = |model: &mut Model| -> Vec<(String, FinishReason)> {
        let answers = model.batch_generate(&prompts, &options, |_, _| true);
        answers.into_iter().map(|answer| answer.expect("an answer")).map(|of| (of.text, of.finish)).collect()
    };
    let expected = texts(&mut roomy);
    assert!(expected.iter().all(|(text, finish)| !text.is_empty() && *finish == FinishReason::Length));
    assert_eq!(texts(&mut little), expected);
}

#[test]
fn memory_is_counted_limited_and_forgotten() {
    let memory = Memory::default();
    let mut first = load(1, &memory);
    let one = memory.active();
    assert!(one > 0 && one == first.memory().active);
    let second = load(1, &memory);
    assert_eq!((memory.active(), memory.peak()), (2 * one, 2 * one));
    drop(second);
    assert_eq!((memory.active(), memory.peak()), (one, 2 * one));
    memory.set_limit(Some(2 * one - 1));
    let refused = LoadOptions {
        device: DeviceChoice::Cpu,
        context: Some(256),
        cache: ingot::Cache::Off,
        memory: memory.clone(),
        ..LoadOptions::default()
    };
    let refused = Model::load(&root().join("models/ingot-tales-1m"), refused).map(drop);
    assert!(refused.is_err_and(|error| error.memory_table().is_some()));
    let prompt = prompts(&first, 1).remove(0);
    assert_eq!(memory.cached(), 0);
    first.generate(&prompt, &options(3), |_| true).expect("an answer");
    assert!(memory.cached() > 0 && memory.cached() < one);
    memory.clear_cache();
    let answer = first.generate(&prompt, &options(3), |_| true).expect("an answer");
    assert_eq!(answer.stats.n_cached, 0);
    assert!(first.generate(&prompt, &options(3), |_| true).expect("an answer").stats.n_cached > 0);
    drop(first);
    assert_eq!((memory.active(), memory.cached()), (0, 0));
}

/// A device that the program opened, with as little as a browser gives and with all that there is; two models on it.
#[test]
fn models_run_on_a_device_of_the_program() {
    let Some(Device::Gpu(gpu)) = gpus().first() else { return };
    let _turn = turn(&Device::Gpu(gpu.clone()));
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let all = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = all.into_iter().find(|adapter| adapter.get_info().name == gpu.info().name).expect("the same");
    let little = (wgpu::Features::empty(), wgpu::Limits::default());
    for (features, limits) in [little, (adapter.features() & useful_features(), adapter.limits())] {
        let descriptor = wgpu::DeviceDescriptor {
            required_features: features,
            required_limits: limits,
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
        let gpu = Gpu::share(device, queue);
        let memory = Memory::default();
        let load = || {
            let options = LoadOptions {
                gpu: Some(gpu.clone()),
                context: Some(64),
                cache: ingot::Cache::Off,
                memory: memory.clone(),
                ..LoadOptions::default()
            };
            Model::load(&root().join("models/ingot-tales-1m"), options).expect("the model loads")
        };
        let (mut first, mut second) = (load(), load());
        let greedy = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
        let prompt = first.text_prompt("Once upon a time").expect("ids");
        let answers =
            [&mut first, &mut second].map(|model| model.generate(&prompt, &greedy, |_| true).expect("an answer"));
        assert_eq!(answers[0].ids, answers[1].ids);
        assert!(answers[0].ids.len() == 4 && memory.active() >= 2 * 1_000_000, "{} bytes", memory.active());
        assert_eq!(first.device(), gpu.info().name);
    }
}
