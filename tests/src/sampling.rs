//! The kernels that choose tokens, by themselves: rows of given logits on a device, beside the processor's chain.

use crate::random::GraphBuilder;
use crate::rig::{Device, finish};
use crate::stored::StoredTensors;
use crate::tolerance::{draw, is_as_good};
use ingot_compiler::{Options, TargetProfile, compile};
use ingot_ir::graph::Op;
use ingot_ir::plan::Plan;
use ingot_ir::step::{Choice, LIST_WORDS, StepTables, mask_words};
use ingot_ir::weight::Format;
use ingot_runtime::backend::{Backend, StepInput, StepOutput};
use ingot_runtime::sample::{self, History, Random, Room, Sampling, Scratch};
use ingot_runtime::world::Limits;
use std::sync::Arc;

/// Longest sequence, and the length of its history on the device.
const CONTEXT: u32 = 256;

/// A token to be chosen.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Which of the rig's rows of logits.
    pub row: usize,
    /// How.
    pub sampling: Sampling,
    /// Prompt and answer before it.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Ids that would end the answer.
    pub stop_ids: Vec<u32>,
    /// Ids that the answer's form allows, at least one; `None` without a form.
    pub allowed: Option<Vec<u32>>,
}

/// A chosen token.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Chosen {
    /// The id.
    pub id: u32,
    /// Its log-probability and those of the best ids, where they were asked for.
    pub logprobs: Option<(f32, Vec<(u32, f32)>)>,
    /// Logits after bias and penalties.
    pub logits: Vec<f32>,
}

/// Rows of logits on a device.
pub struct SamplingRig {
    rows: Vec<Vec<f32>>,
    plan: Plan,
    backend: Backend,
    output: StepOutput,
    words: Vec<u32>,
    tables: StepTables,
    /// Whether tokens are chosen by a submission of their own.
    pub chooses_later: bool,
}

impl SamplingRig {
    /// Puts rows of logits, equally long, on a device, of which `max_batch` tokens are asked at one time.
    pub fn new(device: &Device, rows: Vec<Vec<f32>>, max_batch: u32) -> Self {
        let n_vocab = rows[0].len() as u32;
        let mut b = GraphBuilder::new("sampling");
        let table = b.matrix("embed", rows.len() as u32, n_vocab, Format::F32);
        let x = b.op(Op::Embed { parts: vec![table] });
        let logits = b.op(Op::GatherRows { x });
        let ids = b.op(Op::Argmax { x: logits });
        let graph = b.finish(vec![logits, ids]);
        let mut stored = StoredTensors::random(&graph, 1);
        stored.set("embed", rows.concat());
        let target = TargetProfile { prefill_tokens: max_batch.max(2), max_rows: max_batch.max(2), ..device.target() };
        let plan = compile(&graph, &target, Options { max_batch, ..Options::new(CONTEXT) })
            .unwrap_or_else(|error| panic!("{error}"));
        let backend = device.load(
            &plan,
            &Arc::new(stored),
            Limits { max_sequences: max_batch, n_pages: vec![1; plan.kv.groups.len()] },
        );
        let (output, words, tables) = (StepOutput::default(), Vec::new(), StepTables::default());
        Self { rows, plan, backend, output, words, tables, chooses_later: false }
    }

    /// Size of the vocabulary.
    pub fn n_vocab(&self) -> u32 {
        self.plan.n_vocab
    }

    /// Packs a step that answers asks, one a row.
    pub fn pack(&mut self, asks: &[Ask]) {
        let (n_vocab, history) = (self.plan.n_vocab, self.plan.history_tokens());
        let room = Room { n_vocab, max_context: CONTEXT, history };
        self.tables.clear();
        for (row, ask) in (0u32..).zip(asks) {
            self.tables.push_sequence([ask.row as u32], 0, row);
            self.tables.rows.push(row);
            if ask.sampling.is_greedy() && ask.allowed.is_none() {
                continue;
            }
            let lists = sample::lists(&ask.sampling, &ask.stop_ids, room, &mut self.words).expect("it has room");
            self.backend.write_columns(row, 0, &self.words);
            self.backend.write_columns(row, LIST_WORDS, &ask.tokens);
            let (position, n_prompt) = (ask.tokens.len() as u32, ask.n_prompt as u32);
            let mut choice = sample::choice(&ask.sampling, lists, row, position, n_prompt);
            if let Some(allowed) = &ask.allowed {
                choice.flags |= Choice::KEEPS_FORM;
                self.words.clear();
                self.words.resize(mask_words(n_vocab) as usize, 0);
                allowed.iter().for_each(|id| self.words[*id as usize / 32] |= 1 << (id % 32));
                self.backend.write_columns(row, self.plan.mask_at(), &self.words);
            }
            self.tables.choose(row, choice);
        }
        self.backend.poison(true);
    }

    /// Runs the packed step; gives the time that the device took, where it can tell.
    pub fn run(&mut self, want_logits: bool) -> Option<u64> {
        let variant = self.plan.fit(&mut self.tables).expect("a variant takes it");
        self.tables.verify(0, &[]).expect("the step is right");
        self.tables.write(&mut self.words);
        let input = StepInput {
            variant,
            dims: self.tables.dims(),
            words: &self.words,
            want_logits,
            chooses_later: self.chooses_later,
        };
        self.backend.submit(&input).unwrap_or_else(|error| panic!("{error}"));
        if self.chooses_later {
            self.backend.choose().unwrap_or_else(|error| panic!("{error}"));
        }
        finish(&mut self.backend, &mut self.output);
        self.output.device_ns
    }

    /// What the device chooses.
    pub fn choose(&mut self, asks: &[Ask]) -> Vec<Chosen> {
        self.pack(asks);
        self.run(true);
        let n_vocab = self.n_vocab() as usize;
        let chosen = asks.iter().enumerate().map(|(row, ask)| Chosen {
            id: self.output.sampled[row],
            logprobs: ask.sampling.n_logprobs.map(|n| self.output.logprobs(row, (n as usize).min(n_vocab))),
            logits: self.output.logits[row * n_vocab..(row + 1) * n_vocab].to_vec(),
        });
        chosen.collect()
    }

    /// What the processor's chain chooses.
    pub fn expected(&self, ask: &Ask) -> Chosen {
        let history = History { tokens: &ask.tokens, n_prompt: ask.n_prompt, stop_ids: &ask.stop_ids };
        let mut scratch = Scratch::default();
        let forbid = |logits: &mut [f32]| {
            for (id, logit) in (0u32..).zip(logits) {
                if ask.allowed.as_ref().is_some_and(|allowed| !allowed.contains(&id)) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        };
        let mut logits = self.rows[ask.row].clone();
        sample::process(&mut logits, &ask.sampling, &history);
        forbid(&mut logits);
        // Neither bias nor penalties bring back what is forbidden.
        let mut fitting = self.rows[ask.row].clone();
        forbid(&mut fitting);
        let id = sample::sample(&fitting, &ask.sampling, &history, &mut scratch);
        let logprobs = ask.sampling.n_logprobs.map(|n| sample::logprobs(id, n as usize, &mut scratch));
        Chosen { id, logprobs, logits }
    }

    /// Asks the device and checks every answer against the processor's: the same id, or one that is as good but for rounding.
    /// Gives the number of ids that differ.
    pub fn check(&mut self, asks: &[Ask]) -> Result<usize, String> {
        let mut n_other = 0;
        for (found, ask) in self.choose(asks).iter().zip(asks) {
            let expected = self.expected(ask);
            let told = |why: String| Err(format!("{why}; {ask:?} of {} logits", self.n_vocab()));
            let kept = self.kept(ask, &expected.logits);
            if !kept.get(found.id as usize).is_some_and(|logprob| logprob.is_finite()) {
                return told(format!("id {} does not stay; the processor chooses {}", found.id, expected.id));
            }
            let (logit, best) = (expected.logits[found.id as usize], expected.logits[expected.id as usize]);
            if !is_as_good(&ask.sampling, ask.tokens.len() as u32, (found.id, logit), (expected.id, best)) {
                return told(format!("id {} for {}", found.id, expected.id));
            }
            n_other += usize::from(found.id != expected.id);
            let (Some((logprob, best)), Some((_, expected_best))) = (&found.logprobs, &expected.logprobs) else {
                continue;
            };
            let mut logprobs = Vec::new();
            sample::log_softmax(&expected.logits, &mut logprobs);
            let is_close = |a: f32, b: f32| a == b || (a - b).abs() <= draw::LOGPROB * (1.0 + b.abs());
            if !is_close(*logprob, logprobs[found.id as usize]) || best.len() != expected_best.len() {
                return told(format!("log-probability {logprob} for {}", logprobs[found.id as usize]));
            }
            for (ix, (a, b)) in best.iter().zip(expected_best).enumerate() {
                let own = logprobs.get(a.0 as usize).copied().unwrap_or(f32::NAN);
                let again = best[..ix].iter().any(|other| other.0 == a.0);
                if again || !is_close(a.1, b.1) || !is_close(own, b.1) {
                    return told(format!("best id {ix} is {a:?} for {b:?}"));
                }
            }
        }
        Ok(n_other)
    }

    /// Log-probabilities after the filters, negative infinity where a token does not stay.
    fn kept(&self, ask: &Ask, logits: &[f32]) -> Vec<f32> {
        let (mut logprobs, mut order) = (Vec::new(), Vec::new());
        sample::log_softmax(logits, &mut logprobs);
        let sampling = &ask.sampling;
        if sampling.temperature > 0.0 {
            let coin = Random::at(sampling.seed, ask.tokens.len() as u32).coin;
            let excludes = sampling.xtc_probability > 0.0 && coin <= f64::from(sampling.xtc_probability);
            sample::filter(&mut logprobs, sampling, excludes, &mut order);
        }
        logprobs
    }
}
