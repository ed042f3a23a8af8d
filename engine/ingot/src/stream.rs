//! An answer as an iterator of pieces.

use crate::answering::Answering;
use crate::generate::{Answer, GenerateOptions, Piece};
use crate::{Error, Model};
use ingot_runtime::tick;
use ingot_runtime::world::Event;

/// An answer under way, piece by piece. Its last piece tells why it ended. Dropping it ends the answer.
///
/// ```
/// use ingot::{GenerateOptions, Stream};
///
/// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
/// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
/// let prompt = model.chat_prompt("Tell me a story.")?;
/// let options = GenerateOptions { max_tokens: 8, ignore_eos: true, ..GenerateOptions::default() };
/// let pieces: Stream<'_> = model.stream(&prompt, &options)?;
/// for piece in pieces {
///     let piece = piece?;
///     print!("{}", piece.text);
///     if let Some(finish) = piece.finish {
///         println!("\n{finish} after {} tokens", piece.stats.n_generated);
///         # assert_eq!(piece.stats.n_generated, 8);
///     }
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
pub struct Stream<'a> {
    model: &'a mut Model,
    /// `None` once it has failed.
    answering: Option<Answering>,
    /// Events that no piece has been made of, the next last.
    events: Vec<Event>,
    is_over: bool,
}

impl Model {
    /// Begins an answer to a prompt.
    ///
    /// ```
    /// use ingot::GenerateOptions;
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let prompt = model.text_prompt("Once upon a time")?;
    /// let mut pieces = model.stream(&prompt, &GenerateOptions::default())?;
    /// let first = pieces.next().unwrap()?;
    /// assert_eq!((first.stats.n_prompt, first.stats.n_generated), (prompt.len(), 1));
    /// drop(pieces); // ends the answer
    /// assert!(model.stream(&[], &GenerateOptions::default()).is_err(), "an empty prompt");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// A prompt that is empty, too long or holds an unknown token; sampling parameters out of range; a form that is none.
    pub fn stream(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Stream<'_>, Error> {
        let answering = Some(Answering::begin(self, prompt, options)?);
        Ok(Stream { model: self, answering, events: Vec::new(), is_over: false })
    }

    /// What happened until something did.
    pub(crate) fn next_events(&mut self) -> Result<Vec<Event>, Error> {
        tick::run(&mut self.world)?;
        Ok(std::mem::take(&mut self.world.events))
    }
}

impl Stream<'_> {
    /// Ends the answer. Its last piece still comes.
    ///
    /// ```
    /// # use ingot::{FinishReason, GenerateOptions};
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let prompt = model.chat_prompt("Tell me a story.")?;
    /// # let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    /// let mut pieces = model.stream(&prompt, &options)?;
    /// pieces.next();
    /// pieces.stop();
    /// assert_eq!(pieces.last().unwrap()?.finish, Some(FinishReason::Cancelled));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn stop(&mut self) {
        if let Some(answering) = &mut self.answering {
            answering.stop(&mut self.model.world);
        }
    }

    /// Runs to the end and gives the whole answer, pieces that were taken included.
    ///
    /// ```
    /// # use ingot::{FinishReason, GenerateOptions};
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// # let prompt = model.chat_prompt("Tell me a story.")?;
    /// # let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    /// let mut pieces = model.stream(&prompt, &options)?;
    /// let first = pieces.next().unwrap()?;
    /// let answer = pieces.answer()?;
    /// assert_eq!(Some(answer.ids[0]), first.id);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the device and the tokenizer.
    pub fn answer(mut self) -> Result<Answer, Error> {
        for piece in &mut self {
            piece?;
        }
        let answering = self.answering.take().ok_or(Error::StreamFailed)?;
        Ok(answering.answer(&self.model.world))
    }

    fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        let Some(answering) = &mut self.answering else { return Ok(None) };
        while !self.is_over {
            while let Some(event) = self.events.pop() {
                if event.request() != answering.request() {
                    continue;
                }
                if let Some(piece) = answering.hear(event, &mut self.model.world)? {
                    self.is_over = piece.finish.is_some();
                    return Ok(Some(piece));
                }
            }
            self.events = self.model.next_events()?;
            self.events.reverse();
        }
        Ok(None)
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.next_piece();
        if piece.is_err() {
            // Nothing comes after an error, and the next request finds nothing of this one.
            self.answering = None;
            self.model.abandon();
        }
        piece.transpose()
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.answering.is_some() {
            self.stop();
            // A device that fails here will say so to the next request.
            while self.next().is_some_and(|piece| piece.is_ok()) {}
        }
    }
}
