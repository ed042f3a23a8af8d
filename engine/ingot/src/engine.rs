//! A model on a thread of its own, for programs that serve many clients.

use crate::answering::{Answering, request};
use crate::generate::{GenerateOptions, Piece};
use crate::language::Language;
use crate::line::{Command, Desk, Door, line};
use crate::model::PlanFacts;
use crate::{Error, Model};
use async_channel::{Receiver, Sender};
use futures_core::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A handle to a model that runs on a thread of its own. Requests of all clones run together, as many at a time as the
/// model was loaded for. The thread ends once all handles and answers are dropped.
///
/// ```
/// # use ingot::{DeviceChoice, Engine, GenerateOptions, LoadOptions, Model};
/// # let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, ..LoadOptions::default() };
/// let engine = Engine::start(Model::load("../../models/ingot-tales-1m".as_ref(), options)?)?;
/// let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
/// let answers = ["a cat", "a dog"].map(|hero| {
///     let prompt = engine.language().chat_prompt(&format!("Tell me a story about {hero}.")).unwrap();
///     engine.stream(prompt, options.clone())
/// });
/// for pieces in answers {
///     let text: String = pieces.into_iter().map(|piece| Ok(piece?.text)).collect::<Result<_, ingot::Error>>()?;
///     assert!(!text.is_empty());
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    door: Door,
    language: Arc<Language>,
    device: Arc<str>,
    facts: PlanFacts,
}

/// Requests that wait at most, besides those that have a place among the model's sequences or stand before one.
///
/// ```
/// use ingot::{Error, MAX_WAITING};
///
/// let refused = Error::Busy { n_waiting: MAX_WAITING };
/// assert_eq!(refused.to_string(), "1024 requests wait already; try again later");
/// ```
pub const MAX_WAITING: usize = 1024;

impl Engine {
    /// Puts a model on a thread.
    ///
    /// ```
    /// use ingot::{Engine, GenerateOptions};
    ///
    /// # let cpu = ingot::LoadOptions { device: ingot::DeviceChoice::Cpu, ..Default::default() };
    /// # let mut model = ingot::Model::load("../../models/ingot-tales-1m".as_ref(), cpu)?;
    /// let engine = Engine::start(model)?;
    /// let client = engine.clone();
    /// let answer = std::thread::spawn(move || client.stream(vec![1, 2, 3], GenerateOptions::default()).into_iter().last());
    /// let last = answer.join().unwrap().unwrap()?;
    /// assert!(last.finish.is_some());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Thread`] if the system gives none.
    pub fn start(model: Model) -> Result<Self, Error> {
        let (door, desk) = line();
        let (language, device, facts) = (Arc::clone(&model.language), model.device().into(), model.facts());
        let builder = std::thread::Builder::new().name("ingot engine".into());
        builder.spawn(move || serve(model, &desk)).map_err(Error::Thread)?;
        Ok(Self { door, language, device, facts })
    }

    /// Tokenizer and chat template, as the model had them when the engine was started.
    ///
    /// ```
    /// # use ingot::{DeviceChoice, Engine, GenerateOptions, LoadOptions, Model};
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, ..LoadOptions::default() };
    /// # let engine = Engine::start(Model::load("../../models/ingot-tales-1m".as_ref(), options)?)?;
    /// let prompt = engine.language().chat_prompt("Tell me a story.")?;
    /// assert!(!prompt.is_empty());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn language(&self) -> &Language {
        &self.language
    }

    /// Name of the device that runs the model.
    ///
    /// ```
    /// # use ingot::{DeviceChoice, Engine, GenerateOptions, LoadOptions, Model};
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, ..LoadOptions::default() };
    /// # let engine = Engine::start(Model::load("../../models/ingot-tales-1m".as_ref(), options)?)?;
    /// assert!(engine.device().starts_with("CPU"));
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What the model's plan does.
    ///
    /// ```
    /// # use ingot::{DeviceChoice, Engine, GenerateOptions, LoadOptions, Model};
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, ..LoadOptions::default() };
    /// # let engine = Engine::start(Model::load("../../models/ingot-tales-1m".as_ref(), options)?)?;
    /// assert_eq!(engine.facts().max_context, 1024);
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn facts(&self) -> PlanFacts {
        self.facts
    }

    /// Begins an answer. What is wrong with the request is the first thing that comes, at once; [`Error::Busy`] if
    /// [`MAX_WAITING`] wait already whose answers were not dropped.
    ///
    /// The form of an answer is parsed here, on the caller's thread, and the first one takes as long as tables of the vocabulary
    /// do, seconds for a large one. [`Model::form`] before [`Engine::start`] makes them beforehand.
    ///
    /// ```
    /// # use ingot::{DeviceChoice, Engine, GenerateOptions, LoadOptions, Model};
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, ..LoadOptions::default() };
    /// # let engine = Engine::start(Model::load("../../models/ingot-tales-1m".as_ref(), options)?)?;
    /// let options = GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() };
    /// let pieces = engine.stream(engine.language().chat_prompt("Hi")?, options.clone());
    /// assert_eq!(pieces.into_iter().filter(|piece| piece.as_ref().is_ok_and(|piece| piece.id.is_some())).count(), 4);
    ///
    /// let mut pieces = engine.stream(Vec::new(), options).into_iter();
    /// assert!(pieces.next().is_some_and(|first| first.is_err()), "an empty prompt");
    /// # Ok::<(), ingot::Error>(())
    /// ```
    pub fn stream(&self, prompt: Vec<u32>, options: GenerateOptions) -> Pieces {
        let (pieces, receiver) = async_channel::unbounded();
        let PlanFacts { n_vocab, max_context, .. } = self.facts;
        let entered = request(&self.language, prompt, &options, n_vocab).and_then(|request| {
            request.check(n_vocab, max_context)?;
            self.door.enter(Command { request, options, pieces: pieces.clone() })
        });
        if let Err(error) = entered {
            let _ = pieces.try_send(Err(error));
        }
        Pieces { pieces: Box::pin(receiver), is_over: false }
    }
}

/// An answer of an [`Engine`]: an asynchronous stream, or in a `for` loop an iterator that waits for each piece. Its last
/// piece tells why it ended. Dropping it ends the answer.
///
/// ```
/// use futures_util::TryStreamExt;
/// use ingot::{GenerateOptions, Pieces};
///
/// # use ingot::{DeviceChoice, Engine, LoadOptions, Model};
/// # let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, ..LoadOptions::default() };
/// # let engine = Engine::start(Model::load("../../models/ingot-tales-1m".as_ref(), options)?)?;
/// # pollster::block_on(async {
/// let prompt = engine.language().chat_prompt("Tell me a story.")?;
/// let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
/// let mut pieces: Pieces = engine.stream(prompt, options);
/// let mut text = String::new();
/// while let Some(piece) = pieces.try_next().await? {
///     text += &piece.text;
/// }
/// assert!(!text.is_empty());
/// # Ok::<(), ingot::Error>(())
/// # })?;
/// # Ok::<(), ingot::Error>(())
/// ```
pub struct Pieces {
    pieces: Pin<Box<Receiver<Result<Piece, Error>>>>,
    is_over: bool,
}

impl Pieces {
    /// Nothing follows an error or the last piece; a channel that ends without either has lost its thread.
    fn note(&mut self, piece: Option<Result<Piece, Error>>) -> Option<Result<Piece, Error>> {
        let piece = piece.unwrap_or(Err(Error::EngineGone));
        self.is_over = piece.as_ref().map_or(true, |piece| piece.finish.is_some());
        Some(piece)
    }
}

impl IntoIterator for Pieces {
    type Item = Result<Piece, Error>;
    type IntoIter = WaitingPieces;

    fn into_iter(self) -> WaitingPieces {
        WaitingPieces(self)
    }
}

/// Pieces of an [`Engine`], waited for. Not for asynchronous code, whose thread it blocks.
///
/// ```
/// use ingot::{GenerateOptions, WaitingPieces};
///
/// # use ingot::{DeviceChoice, Engine, LoadOptions, Model};
/// # let options = LoadOptions { device: DeviceChoice::Cpu, max_batch: 2, ..LoadOptions::default() };
/// # let engine = Engine::start(Model::load("../../models/ingot-tales-1m".as_ref(), options)?)?;
/// let prompt = engine.language().chat_prompt("Tell me a story.")?;
/// let pieces: WaitingPieces = engine.stream(prompt, GenerateOptions::default()).into_iter();
/// for piece in pieces {
///     print!("{}", piece?.text);
/// }
/// # Ok::<(), ingot::Error>(())
/// ```
pub struct WaitingPieces(Pieces);

impl Iterator for WaitingPieces {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_over {
            return None;
        }
        let piece = self.0.pieces.recv_blocking().ok();
        self.0.note(piece)
    }
}

impl Stream for Pieces {
    type Item = Result<Piece, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.pieces.as_mut().poll_next(context).map(|piece| self.note(piece))
    }
}

/// A client and its answer.
struct Client {
    answering: Answering,
    pieces: Sender<Result<Piece, Error>>,
    is_over: bool,
}

/// The thread.
fn serve(mut model: Model, desk: &Desk) {
    let mut clients: Vec<Client> = Vec::new();
    let max_sequences = model.world.sequences.state.len();
    loop {
        // As many as can run, and as many that are told at once when a place is free; others wait in line.
        while clients.len() < 2 * max_sequences
            && let Some(command) = desk.next()
        {
            clients.extend(begin(&mut model, command));
        }
        if clients.is_empty() {
            // Nothing to do until somebody asks; when nobody can any more, the end.
            if desk.wait() {
                continue;
            }
            return;
        }
        for client in clients.iter_mut().filter(|client| client.pieces.is_closed()) {
            client.answering.stop(&mut model.world);
        }
        if let Err(error) = advance(&mut model, &mut clients) {
            let error = Arc::new(error);
            for client in clients.drain(..) {
                let _ = client.pieces.try_send(Err(Error::Shared(Arc::clone(&error))));
            }
            model.abandon();
        }
        clients.retain(|client| !client.is_over);
    }
}

fn begin(model: &mut Model, command: Command) -> Option<Client> {
    let Command { request, options, pieces } = command;
    match Answering::of(model, request, &options) {
        Ok(answering) => Some(Client { answering, pieces, is_over: false }),
        Err(error) => {
            let _ = pieces.try_send(Err(error));
            None
        }
    }
}

/// Runs until something happens, and tells whom it concerns. Fails where the device does.
fn advance(model: &mut Model, clients: &mut [Client]) -> Result<(), Error> {
    for event in model.next_events()? {
        let Some(client) = clients.iter_mut().find(|client| client.answering.request() == event.request()) else {
            continue;
        };
        let told = match client.answering.hear(event, &mut model.world) {
            Ok(None) => continue,
            Ok(Some(piece)) => {
                client.is_over = piece.finish.is_some();
                Ok(piece)
            }
            // An answer's own failure, e.g. a form that no token fits, is its client's alone.
            Err(error) => {
                client.answering.stop(&mut model.world);
                client.is_over = true;
                Err(error)
            }
        };
        // A client that is gone is seen before the next step.
        let _ = client.pieces.try_send(told);
    }
    Ok(())
}
