//! Many prompts at once.

use crate::answering::Answering;
use crate::generate::{Answer, GenerateOptions, Piece};
use crate::{Error, Model};
use ingot_runtime::world::{Event, RequestId, World};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Model {
    /// Generates answers to many prompts together, as many at a time as the model was loaded for, in the prompts' order.
    /// Each is what [`Model::generate`] gives alone, with the seed of `options` plus the prompt's index. `on_piece` sees the
    /// pieces of all as they come, with the prompt's index, and ends an answer by returning false.
    ///
    /// A prompt that is refused, or an answer that fails, e.g. since no token fits its form, has its error in its place and
    /// leaves the others alone. Where the device fails, the answers that were not complete have that error, each as an
    /// [`Error::Shared`].
    ///
    /// ```
    /// # use ingot::{DeviceChoice, GenerateOptions, LoadOptions, Model};
    /// let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 4, ..LoadOptions::default() };
    /// let mut model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
    /// let mut prompts = Vec::new();
    /// for hero in ["a cat", "a dog"] {
    ///     prompts.push(model.chat_prompt(&format!("Tell me about {hero}."))?);
    /// }
    /// prompts.push(Vec::new());
    /// let options = GenerateOptions { max_tokens: 8, ignore_eos: true, ..GenerateOptions::default() };
    /// let answers = model.batch_generate(&prompts, &options, |_, _| true);
    /// assert!(answers[..2].iter().flatten().all(|answer| answer.ids.len() == 8));
    /// assert!(answers[2].is_err(), "an empty prompt");
    /// # assert_eq!(answers[..2].iter().flatten().count(), 2);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn batch_generate(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        mut on_piece: impl FnMut(usize, &Piece) -> bool,
    ) -> Vec<Result<Answer, Error>> {
        let mut batch = Batch { under_way: BTreeMap::new(), done: BTreeMap::new() };
        for (ix, prompt) in prompts.iter().enumerate() {
            let mut options = options.clone();
            options.sampling.seed = options.sampling.seed.wrapping_add(ix as u64);
            batch.begin(self, ix, prompt, &options);
        }
        while !self.world.is_idle() {
            match self.next_events() {
                Ok(events) => events.into_iter().for_each(|event| batch.hear(&mut self.world, event, &mut on_piece)),
                Err(error) => {
                    batch.fail(&Arc::new(error));
                    self.abandon();
                    break;
                }
            }
        }
        batch.done.into_values().collect()
    }
}

struct Batch {
    under_way: BTreeMap<RequestId, Member>,
    /// By the prompt's index.
    done: BTreeMap<usize, Result<Answer, Error>>,
}

/// An answer under way.
struct Member {
    /// The prompt's index.
    ix: usize,
    answering: Answering,
    /// Whether its pieces are still told.
    is_wanted: bool,
}

impl Batch {
    fn begin(&mut self, model: &mut Model, ix: usize, prompt: &[u32], options: &GenerateOptions) {
        match Answering::begin(model, prompt, options) {
            Ok(answering) => {
                self.under_way.insert(answering.request(), Member { ix, answering, is_wanted: true });
            }
            Err(error) => {
                self.done.insert(ix, Err(error));
            }
        }
    }

    fn hear(&mut self, world: &mut World, event: Event, on_piece: &mut impl FnMut(usize, &Piece) -> bool) {
        let request = event.request();
        let Some(Member { ix, answering, is_wanted }) = self.under_way.get_mut(&request) else { return };
        let end = match answering.hear(event, world) {
            Ok(None) => return,
            Ok(Some(piece)) => {
                if *is_wanted && !on_piece(*ix, &piece) {
                    *is_wanted = false;
                    answering.stop(world);
                }
                piece.finish.map(|_| Ok(()))
            }
            Err(error) => {
                answering.stop(world);
                Some(Err(error))
            }
        };
        if let Some(end) = end
            && let Some(Member { ix, answering, .. }) = self.under_way.remove(&request)
        {
            self.done.insert(ix, end.map(|()| answering.answer(world)));
        }
    }

    /// Ends every answer that is not complete.
    fn fail(&mut self, error: &Arc<Error>) {
        for member in std::mem::take(&mut self.under_way).into_values() {
            self.done.insert(member.ix, Err(Error::Shared(Arc::clone(error))));
        }
    }
}
