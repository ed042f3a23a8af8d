//! Answers of a given form: which tokens may come next is computed on a thread of the sequence's own, while the device
//! runs the step after whose end the next token is chosen.

use ingot_ir::step::mask_words;
use std::fmt::Debug;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

/// A form that an answer keeps, and how far the answer has come.
pub trait Grammar: Send + Debug {
    /// Writes the ids that may come next: id `i` is bit `i % 32` of word `i / 32`. Ids beyond the last word may not. An id
    /// that would end the answer is among them only where the answer may end.
    ///
    /// # Errors
    /// If no token fits; says why.
    fn allowed(&mut self, mask: &mut Vec<u32>) -> Result<(), String>;
    /// Takes the token that was chosen; true if the answer is complete.
    ///
    /// # Errors
    /// If the token does not fit; says why.
    fn accept(&mut self, id: u32) -> Result<bool, String>;
    /// A copy that goes its own way.
    fn fork(&self) -> Box<dyn Grammar>;
}

impl Clone for Box<dyn Grammar> {
    fn clone(&self) -> Self {
        self.fork()
    }
}

/// A grammar with the tokens that it allows next, or on its way to them.
#[derive(Debug)]
pub struct Constraint {
    /// To the thread; it ends when this is dropped.
    work: Sender<State>,
    done: Receiver<State>,
    /// `None` while the thread has it.
    here: Option<State>,
}

#[derive(Debug)]
struct State {
    grammar: Box<dyn Grammar>,
    mask: Vec<u32>,
    /// Whether `mask` is right.
    result: Result<(), String>,
}

impl Constraint {
    /// Begins to compute which tokens may be the answer's first.
    pub fn start(grammar: Box<dyn Grammar>) -> Self {
        let (work, jobs) = channel::<State>();
        let (results, done) = channel();
        let run = move || {
            for mut state in jobs {
                state.result = state.grammar.allowed(&mut state.mask);
                if results.send(state).is_err() {
                    return; // The sequence has ended.
                }
            }
        };
        // Without a thread the channel is closed, which is told when the state is asked for.
        let _ = std::thread::Builder::new().name("grammar".into()).spawn(run);
        let mut constraint = Self { work, done, here: None };
        constraint.send(State { grammar, mask: Vec::new(), result: Ok(()) });
        constraint
    }

    fn send(&mut self, state: State) {
        if let Err(error) = self.work.send(state) {
            self.here = Some(State { result: Err(NO_THREAD.into()), ..error.0 });
        }
    }

    /// Whether the allowed tokens are known. Never blocks.
    pub fn is_ready(&mut self) -> bool {
        if self.here.is_none() {
            match self.done.try_recv() {
                Ok(state) => self.here = Some(state),
                Err(TryRecvError::Empty) => return false,
                // The grammar panicked; `state` says so.
                Err(TryRecvError::Disconnected) => {}
            }
        }
        true
    }

    /// Waits until the allowed tokens are known. For the outer loop alone.
    pub fn wait(&mut self) {
        if self.here.is_none() {
            self.here = self.done.recv().ok();
        }
    }

    fn state(&self) -> Result<&State, String> {
        let state = self.here.as_ref().ok_or(NO_THREAD)?;
        state.result.clone()?;
        Ok(state)
    }

    /// The ids of a vocabulary that may come next, into `mask` (emptied first): a bit each, as [`Grammar::allowed`] writes them.
    ///
    /// # Errors
    /// If none of them may come.
    pub fn allowed(&self, n_vocab: u32, mask: &mut Vec<u32>) -> Result<(), String> {
        mask.clear();
        mask.extend_from_slice(&self.state()?.mask);
        mask.resize(mask_words(n_vocab) as usize, 0);
        if let (Some(last), n_ids @ 1..) = (mask.last_mut(), n_vocab % 32) {
            *last &= (1 << n_ids) - 1;
        }
        if mask.iter().all(|word| *word == 0) { Err(NONE_FITS.into()) } else { Ok(()) }
    }

    /// Makes the logits of tokens that may not come next minus infinity. Where those of all that may are minus infinity too
    /// they become `plain`, the model's own: the form goes before whoever wanted none of them.
    ///
    /// # Errors
    /// If no token may come next.
    pub fn mask(&self, logits: &mut [f32], plain: &[f32]) -> Result<(), String> {
        let mask = &self.state()?.mask;
        let (mut n_allowed, mut n_left) = (0, 0);
        for (id, logit) in logits.iter_mut().enumerate() {
            if is_set(mask, id) {
                n_allowed += 1;
                n_left += usize::from(*logit > f32::NEG_INFINITY);
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
        if n_allowed == 0 {
            return Err(NONE_FITS.into());
        }
        if n_left == 0 {
            let fitting = (0..logits.len()).filter(|id| is_set(mask, *id));
            fitting.for_each(|id| logits[id] = plain[id]);
        }
        Ok(())
    }

    /// Takes the token that was chosen, and begins to compute what may follow; true if nothing may, since the answer is
    /// complete.
    ///
    /// # Errors
    /// If the token does not fit.
    pub fn accept(&mut self, id: u32) -> Result<bool, String> {
        let mut state = self.here.take().ok_or(NO_THREAD)?;
        let is_complete = state.grammar.accept(id)?;
        if is_complete {
            self.here = Some(state);
        } else {
            self.send(state);
        }
        Ok(is_complete)
    }
}

const NONE_FITS: &str = "no token of the vocabulary fits";
const NO_THREAD: &str = "the thread that keeps the answer's form has ended";

fn is_set(mask: &[u32], id: usize) -> bool {
    mask.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts down: allows the next lower id, and is complete at 0.
    #[derive(Clone, Debug)]
    struct Down(u32);

    impl Grammar for Down {
        fn allowed(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
            assert_ne!(self.0, 13, "a grammar with a fault");
            mask.clear();
            mask.resize(self.0 as usize / 32 + 1, 0);
            mask[self.0 as usize / 32] |= 1 << (self.0 % 32);
            Ok(())
        }
        fn accept(&mut self, id: u32) -> Result<bool, String> {
            if id != self.0 {
                return Err(format!("{id} is not {}", self.0));
            }
            self.0 = self.0.saturating_sub(1);
            Ok(id == 0)
        }
        fn fork(&self) -> Box<dyn Grammar> {
            Box::new(self.clone())
        }
    }

    fn ready(constraint: &mut Constraint) {
        constraint.wait();
        assert!(constraint.is_ready());
    }

    #[test]
    fn tokens_that_do_not_fit_lose_their_logits() {
        let mut constraint = Constraint::start(Box::new(Down(2)));
        for id in [2, 1, 0] {
            ready(&mut constraint);
            // A logit that nobody has lost stays as it is; where all are lost the model's comes back.
            for (logit, expected) in [(1.0, 1.0), (f32::NEG_INFINITY, 2.0)] {
                let mut logits = [logit; 4];
                constraint.mask(&mut logits, &[2.0; 4]).expect("one fits");
                let left: Vec<u32> = (0..4).filter(|id| logits[*id as usize] > f32::NEG_INFINITY).collect();
                assert_eq!((left, logits[id as usize]), (vec![id], expected));
            }
            assert_eq!(constraint.accept(id), Ok(id == 0));
        }
        let mut words = vec![9; 3];
        let mut low = Constraint::start(Box::new(Down(2)));
        ready(&mut low);
        assert_eq!((low.allowed(70, &mut words), &words[..]), (Ok(()), &[4, 0, 0][..]));
        assert!(low.allowed(2, &mut words).is_err_and(|why| why.contains("no token")), "id 2 is not of it");
        let mut wide = Constraint::start(Box::new(Down(40)));
        ready(&mut wide);
        assert!(
            wide.mask(&mut [0.0; 4], &[0.0; 4]).is_err_and(|why| why.contains("no token")),
            "the vocabulary ends before it"
        );
        assert!(wide.accept(3).is_err_and(|why| why == "3 is not 40"));
    }

    #[test]
    fn a_grammar_that_panics_ends_its_answer_alone() {
        let mut constraint = Constraint::start(Box::new(Down(14)));
        ready(&mut constraint);
        assert_eq!(constraint.accept(14), Ok(false));
        ready(&mut constraint);
        assert!(constraint.mask(&mut [0.0; 32], &[0.0; 32]).is_err_and(|why| why.contains("thread")));
        assert!(constraint.accept(13).is_err());
    }
}
