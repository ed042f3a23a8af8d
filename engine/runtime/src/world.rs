//! The tables: entities are handles, components are columns. Systems (`system/`) are functions on the columns they need.
//!
//! Rows are created in `admit` and freed in `retire`, nowhere else. Columns keep their memory, so that a decode step
//! allocates nothing.

use crate::RuntimeError;
use crate::account::Cached;
use crate::backend::{Backend, StepOutput};
use crate::kv::{PageList, PageNames, PagePool};
use crate::sample::{Chooser, Constraint, Grammar, Sampling, Scratch};
use ingot_ir::kv::{KvGroupId, Window};
use ingot_ir::plan::Plan;
use ingot_ir::step::StepTables;
use std::collections::VecDeque;
use std::fmt;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The form that the answer keeps.
    pub grammar: Option<Box<dyn Grammar>>,
    /// Ids that end the answer.
    pub stop_ids: Vec<u32>,
    /// Most tokens of the answer; 0 only reads the prompt.
    pub max_tokens: u32,
    /// Whether the logits of every prompt token are wanted, as [`Event::Logits`].
    pub prompt_logits: bool,
    /// Whether keys and values of the prompt's beginning may be those of earlier requests, and later requests may find
    /// this one's. Prompts whose logits are wanted are always read whole.
    pub cache_prompt: bool,
}

impl Request {
    /// Whether a model with so many ids and room for so many tokens can take it.
    ///
    /// # Errors
    /// A prompt that is empty, too long or holds an unknown token; sampling parameters out of range.
    pub fn check(&self, n_vocab: u32, max_context: u32) -> Result<(), RuntimeError> {
        if self.prompt.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        let needs_room = u64::from(self.max_tokens > 0);
        if self.prompt.len() as u64 + needs_room > u64::from(max_context) {
            return Err(RuntimeError::PromptTooLong { n_prompt: self.prompt.len(), max_context });
        }
        if let Some(&id) = self.prompt.iter().find(|id| **id >= n_vocab) {
            return Err(RuntimeError::UnknownToken { id, n_vocab });
        }
        self.sampling.check(n_vocab)
    }
}

/// Names a request; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// A stop id, or the end of the form that was asked for.
    Stop,
    /// The most tokens asked for, or the end of the context.
    Length,
    /// No page was left for its keys and values, though it was alone.
    KvFull,
    /// The client went away.
    Cancelled,
}

impl fmt::Display for FinishReason {
    /// In one word, as programs read it: `stop`, `length`, `kv_full` or `cancelled`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::KvFull => "kv_full",
            Self::Cancelled => "cancelled",
        })
    }
}

/// What happened to a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The prompt's beginning was in the cache already, and is not read again.
    Matched {
        /// The request.
        request: RequestId,
        /// Its tokens.
        n_tokens: u32,
    },
    /// The prompt has been read so far.
    Prefilled {
        /// The request.
        request: RequestId,
        /// Prompt tokens in the cache.
        n_tokens: u32,
    },
    /// Log-probabilities of the token that the request's next event tells, where they are wanted.
    Logprobs {
        /// The request.
        request: RequestId,
        /// The token's.
        logprob: f32,
        /// The best ids and theirs, in falling order.
        best: Vec<(u32, f32)>,
    },
    /// A token of the answer.
    Token {
        /// The request.
        request: RequestId,
        /// The id.
        id: u32,
    },
    /// Logits of prompt tokens, `[token][vocabulary]`.
    Logits {
        /// The request.
        request: RequestId,
        /// Position of the first token.
        first: u32,
        /// Numbers.
        logits: Vec<f32>,
    },
    /// The answer cannot keep its form. It ends as if the client had gone away.
    Unfit {
        /// The request.
        request: RequestId,
        /// What does not fit.
        why: String,
    },
    /// The answer is complete.
    Finished {
        /// The request.
        request: RequestId,
        /// Why.
        reason: FinishReason,
    },
}

impl Event {
    /// Whom it concerns.
    pub fn request(&self) -> RequestId {
        let (Self::Matched { request, .. }
        | Self::Prefilled { request, .. }
        | Self::Logprobs { request, .. }
        | Self::Token { request, .. }
        | Self::Logits { request, .. }
        | Self::Unfit { request, .. }
        | Self::Finished { request, .. }) = self;
        *request
    }
}

/// Where a sequence stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The row is free.
    Free,
    /// Has no pages, and too few are free for it to begin, or to begin again.
    Waiting,
    /// Part of the tokens that are known is not in the cache.
    Prefill,
    /// One token a step.
    Decode,
    /// Leaves its pages to older ones once no step in flight uses them, and waits.
    SetBack,
    /// Ended; waits for steps in flight, then retires.
    Done(FinishReason),
}

/// Sequences by column; the row is also the row of the page tables.
#[derive(Debug)]
pub struct Sequences {
    /// Rows in use, the oldest request first.
    pub by_age: Vec<usize>,
    /// The request served.
    pub request: Vec<RequestId>,
    /// Where it stands.
    pub state: Vec<State>,
    /// Prompt and answer.
    pub tokens: Vec<Vec<u32>>,
    /// Tokens of the prompt.
    pub n_prompt: Vec<u32>,
    /// Tokens whose keys and values are in the cache or in flight.
    pub n_scheduled: Vec<u32>,
    /// Those of them that are in the cache.
    pub n_cached: Vec<u32>,
    /// Those of which clients have been told that they are: more than are there, after a sequence was set back.
    pub n_told: Vec<u32>,
    /// Full pages whose content others may find, by KV group the same.
    pub n_committed: Vec<u32>,
    /// Names of pages' tokens.
    pub page_names: Vec<PageNames>,
    /// Steps in flight.
    pub n_in_flight: Vec<u32>,
    /// Tokens the answer may have.
    pub max_tokens: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Vec<Sampling>,
    /// The form that the answer keeps; `None` if it has none.
    pub constraint: Vec<Option<Constraint>>,
    /// Who chooses them.
    pub chooser: Vec<Chooser>,
    /// Ids that end the answer.
    pub stop_ids: Vec<Vec<u32>>,
    /// Whether the prompt's logits are wanted.
    pub prompt_logits: Vec<bool>,
    /// Whether pages are shared with other requests.
    pub cache_prompt: Vec<bool>,
    /// Pages by KV group.
    pub pages: Vec<Vec<PageList>>,
    /// Pages already written to the device's table, by KV group.
    pub n_pages_written: Vec<Vec<u32>>,
    /// Tokens scheduled for the step being packed.
    pub n_step: Vec<u32>,
    /// Row of the newest step in flight that samples its next token; `None` if the id is known.
    pub sampled_row: Vec<Option<u32>>,
}

impl Sequences {
    fn new(n: usize, n_groups: usize, max_context: u32) -> Self {
        Self {
            by_age: Vec::with_capacity(n),
            request: vec![RequestId(0); n],
            state: vec![State::Free; n],
            tokens: (0..n).map(|_| Vec::with_capacity(max_context as usize + 1)).collect(),
            n_prompt: vec![0; n],
            n_scheduled: vec![0; n],
            n_cached: vec![0; n],
            n_told: vec![0; n],
            n_committed: vec![0; n],
            page_names: vec![PageNames::default(); n],
            n_in_flight: vec![0; n],
            max_tokens: vec![0; n],
            sampling: vec![Sampling::default(); n],
            constraint: (0..n).map(|_| None).collect(),
            chooser: vec![Chooser::Greedy; n],
            stop_ids: vec![Vec::new(); n],
            prompt_logits: vec![false; n],
            cache_prompt: vec![false; n],
            pages: vec![vec![PageList::default(); n_groups]; n],
            n_pages_written: vec![vec![0; n_groups]; n],
            n_step: vec![0; n],
            sampled_row: vec![None; n],
        }
    }
    /// Whether the device chooses a row's tokens by a form.
    pub fn is_formed_by_device(&self, row: usize) -> bool {
        self.constraint[row].is_some() && matches!(self.chooser[row], Chooser::Device(_))
    }
    /// Whether a row's next token cannot be chosen yet, since the tokens that fit are still being computed. Never blocks.
    pub fn waits_for_mask(&mut self, row: usize) -> bool {
        self.is_under_way(row) && self.constraint[row].as_mut().is_some_and(|constraint| !constraint.is_ready())
    }
    /// Whether a step's results for a row are still wanted.
    pub fn is_under_way(&self, row: usize) -> bool {
        matches!(self.state[row], State::Prefill | State::Decode | State::SetBack)
    }
    /// Whether a row has pages.
    pub fn holds_pages(&self, row: usize) -> bool {
        self.pages[row].iter().any(|list| list.n_pages() > 0)
    }
    /// Rows in use, in order.
    pub fn live(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.state.len()).filter(|row| self.state[*row] != State::Free)
    }
}

/// A step in flight: who asked for which of its rows.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Sequence row of each entry.
    pub sequences: Vec<usize>,
    /// For each entry: tokens of the step, first wanted row, wanted rows.
    pub spans: Vec<(u32, u32, u32)>,
    /// Whether the device has been told to choose its tokens, and not only to compute the logits.
    pub is_chosen: bool,
}

/// Limits that a world is opened with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sequences at one time.
    pub max_sequences: u32,
    /// Pages of each KV group.
    pub n_pages: Vec<u32>,
}

impl Limits {
    /// Pages for so many sequences of `context` tokens each: fewer in groups of which a window is seen.
    pub fn new(plan: &Plan, max_sequences: u32, context: u32) -> Self {
        Self { max_sequences, n_pages: plan.pages_for(max_sequences, context) }
    }
    /// As many pages in every group.
    pub fn uniform(plan: &Plan, max_sequences: u32, n_pages: u32) -> Self {
        Self { max_sequences, n_pages: vec![n_pages; plan.kv.groups.len()] }
    }
}

/// Everything that the tick works on.
pub struct World {
    /// The plan that runs.
    pub plan: Plan,
    /// The device.
    pub backend: Backend,
    /// Requests that wait, in order of arrival.
    pub waiting: VecDeque<(RequestId, Request)>,
    /// Requests whose client went away.
    pub cancelled: Vec<RequestId>,
    /// Sequences.
    pub sequences: Sequences,
    /// Free pages by KV group, and what pages hold.
    pub pools: Vec<PagePool>,
    /// What is seen of each KV group.
    pub windows: Vec<Window>,
    /// Whether a sequence under way found too few free pages when it was last asked. Until it has them nobody begins.
    pub is_short: bool,
    /// How often a sequence was set back.
    pub n_set_back: u64,
    /// The step being packed.
    pub step: StepTables,
    /// Its words.
    pub words: Vec<u32>,
    /// Steps in flight, oldest first.
    pub in_flight: VecDeque<InFlight>,
    /// Records of finished steps, to be used again.
    pub spare: Vec<InFlight>,
    /// The newest finished step.
    pub output: StepOutput,
    /// Whether that is the oldest step in flight, of which no tokens have been chosen yet.
    pub waits_for_masks: bool,
    /// Memory of the sampler.
    pub scratch: Scratch,
    /// What happened since the events were last taken.
    pub events: Vec<Event>,
    /// Time that the device spent on finished steps, in ns, where it can tell.
    pub device_ns: u64,
    /// Time that submitting steps took on this thread, in ns: on a GPU encoding, on the CPU the work itself.
    pub submit_ns: u64,
    /// Steps submitted.
    pub n_steps: u64,
    /// Tokens of a prompt that one step takes at most; the plan has a limit besides.
    pub max_chunk: u32,
    /// What the account is told of pages that hold prefixes.
    pub(crate) cached: Cached,
    /// How often the account has had everything forgotten.
    pub(crate) n_clearings: u64,
    next_request: u64,
}

impl World {
    /// A world for a plan that a backend has loaded.
    pub fn new(plan: Plan, backend: Backend, limits: Limits) -> Self {
        let sequences = Sequences::new(limits.max_sequences as usize, plan.kv.groups.len(), plan.max_context);
        let pools = limits.n_pages.iter().map(|n_pages| PagePool::new(*n_pages, plan.page_tokens)).collect();
        let windows = plan.kv.groups.as_slice().iter().map(|group| group.window).collect();
        let account = backend.account();
        let (cached, n_clearings) = (Cached::new(account), account.n_clearings());
        Self {
            plan,
            backend,
            waiting: VecDeque::new(),
            cancelled: Vec::new(),
            sequences,
            pools,
            windows,
            is_short: false,
            n_set_back: 0,
            step: StepTables::default(),
            words: Vec::new(),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            output: StepOutput::default(),
            waits_for_masks: false,
            scratch: Scratch::default(),
            events: Vec::new(),
            device_ns: 0,
            submit_ns: 0,
            n_steps: 0,
            max_chunk: u32::MAX,
            cached,
            n_clearings,
            next_request: 0,
        }
    }

    /// Puts a request in line, once it is checked.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, RuntimeError> {
        request.check(self.plan.n_vocab, self.plan.max_context)?;
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.waiting.push_back((id, request));
        Ok(id)
    }

    /// Ends a request; its memory is free once no step in flight uses it.
    pub fn cancel(&mut self, request: RequestId) {
        self.cancelled.push(request);
    }

    /// Whether nothing is waiting, running or in flight.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty() && self.sequences.live().next().is_none()
    }

    /// Bytes of free pages that hold what later requests may find.
    pub fn cached_bytes(&self) -> u64 {
        let bytes =
            |(group, pool): (KvGroupId, &PagePool)| self.plan.page_bytes_all_layers(group) * u64::from(pool.n_cached());
        self.groups().zip(&self.pools).map(bytes).sum()
    }

    /// Forgets what pages hold: later requests find nothing of earlier ones.
    pub fn forget_prefixes(&mut self) {
        self.pools.iter_mut().for_each(PagePool::forget_all);
        self.cached.set(0);
    }

    /// KV groups in order.
    pub fn groups(&self) -> impl Iterator<Item = KvGroupId> + use<> {
        self.plan.kv.groups.ids()
    }
}
