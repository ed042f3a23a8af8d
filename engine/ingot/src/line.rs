//! The line of requests before an engine: bounded, and without those whose clients have left.

use crate::generate::{GenerateOptions, Piece};
use crate::{Error, MAX_WAITING};
use async_channel::{Receiver, Sender, TrySendError};
use ingot_runtime::world::Request;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A request of a client, checked.
pub(crate) struct Command {
    pub(crate) request: Request,
    pub(crate) options: GenerateOptions,
    pub(crate) pieces: Sender<Result<Piece, Error>>,
}

type Waiting = Arc<Mutex<VecDeque<Command>>>;

/// The end of the line where clients come. It is the line's only end once the engine has gone.
#[derive(Clone)]
pub(crate) struct Door {
    waiting: Waiting,
    wake: Sender<()>,
}

/// The end of the line before the engine.
pub(crate) struct Desk {
    waiting: Waiting,
    woken: Receiver<()>,
}

/// An empty line.
pub(crate) fn line() -> (Door, Desk) {
    let (wake, woken) = async_channel::bounded(1);
    let waiting = Waiting::default();
    (Door { waiting: Arc::clone(&waiting), wake }, Desk { waiting, woken })
}

impl Door {
    /// Puts a request at the line's end. If the engine is gone, so is the request, and its pieces end.
    pub(crate) fn enter(&self, command: Command) -> Result<(), Error> {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= MAX_WAITING {
            waiting.retain(|command| !command.pieces.is_closed());
        }
        if waiting.len() >= MAX_WAITING {
            return Err(Error::Busy { n_waiting: MAX_WAITING });
        }
        waiting.push_back(command);
        // One that was not woken for an earlier request will be.
        if let Err(TrySendError::Closed(())) = self.wake.try_send(()) {
            waiting.clear();
        }
        Ok(())
    }
}

impl Desk {
    /// The first request whose client is still there.
    pub(crate) fn next(&self) -> Option<Command> {
        let mut waiting = lock(&self.waiting);
        while let Some(command) = waiting.pop_front() {
            if !command.pieces.is_closed() {
                return Some(command);
            }
        }
        None
    }

    /// Waits until somebody comes. False if nobody can any more.
    pub(crate) fn wait(&self) -> bool {
        self.woken.recv_blocking().is_ok()
    }
}

impl Drop for Desk {
    /// Those in line hear that nobody will serve them.
    fn drop(&mut self) {
        self.woken.close();
        lock(&self.waiting).clear();
    }
}

fn lock(waiting: &Mutex<VecDeque<Command>>) -> MutexGuard<'_, VecDeque<Command>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
