//! Many prompts at once.

use crate::answering::Answering;
use crate::generate::{Answer, GenerateOptions, Piece};
use crate::{Error, Model};

impl Model {
    /// Generates answers to many prompts together, as many at a time as the model was loaded for, in the prompts' order.
    /// Each is what [`Model::generate`] gives alone, with the seed of `options` plus the prompt's index. `on_piece` sees the
    /// pieces of all as they come, with the prompt's index, and ends an answer by returning false.
    ///
    /// ```
    /// # use ingot::{DeviceChoice, GenerateOptions, LoadOptions, Model};
    /// let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 4, ..LoadOptions::default() };
    /// let mut model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
    /// let prompts = ["a cat", "a dog", "a bird"].map(|hero| model.chat_prompt(&format!("Tell me about {hero}.")));
    /// let prompts = prompts.into_iter().collect::<Result<Vec<_>, _>>()?;
    /// let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    /// let answers = model.batch_generate(&prompts, &options, |_, _| true)?;
    /// assert_eq!(answers.len(), 3);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Model::stream`], for the first prompt that is refused; then nothing was generated.
    pub fn batch_generate(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_piece: impl FnMut(usize, &Piece) -> bool,
    ) -> Result<Vec<Answer>, Error> {
        let answers = self.answers(prompts, options, on_piece);
        if answers.is_err() {
            self.abandon();
        }
        answers
    }

    fn answers(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        mut on_piece: impl FnMut(usize, &Piece) -> bool,
    ) -> Result<Vec<Answer>, Error> {
        let mut under_way = Vec::with_capacity(prompts.len());
        for (ix, prompt) in (0..).zip(prompts) {
            let mut options = options.clone();
            options.sampling.seed = options.sampling.seed.wrapping_add(ix);
            under_way.push((Answering::begin(self, prompt, &options)?, true));
        }
        while !self.world.is_idle() {
            for event in self.next_events()? {
                let ix = under_way.iter().position(|(answering, _)| answering.request() == event.request());
                let Some((ix, (answering, is_wanted))) = ix.map(|ix| (ix, &mut under_way[ix])) else { continue };
                if let Some(piece) = answering.hear(event, &mut self.world)?
                    && *is_wanted
                    && !on_piece(ix, &piece)
                {
                    *is_wanted = false;
                    answering.stop(&mut self.world);
                }
            }
        }
        Ok(under_way.into_iter().map(|(answering, _)| answering.answer(&self.world)).collect())
    }
}
