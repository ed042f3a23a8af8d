//! What can go wrong between the engine and a device.

use ingot_ir::memory::Bytes;
use thiserror::Error;

/// An error of the device layer; the message names the thing and says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No adapter answers to the selector.
    #[error("no device matches `{selector}`; {found}")]
    NoAdapter {
        /// What was asked for: `gpu` or a part of a name.
        selector: String,
        /// A sentence that lists what there is.
        found: String,
    },
    /// The driver refused to open the adapter.
    #[error("{adapter} could not be opened: {reason}; choose another with --device, or use --device cpu")]
    Open {
        /// The adapter's name.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// The device is gone (reset, unplugged, driver crash). The `Gpu` and all that it made are useless.
    #[error("the device {adapter} was lost: {reason}; load the model again")]
    Lost {
        /// The adapter's name.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// wgpu reported an error outside of any error scope: a bug of the plan or of the executor.
    #[error("{adapter} reported an error: {reason}")]
    Uncaptured {
        /// The adapter's name.
        adapter: String,
        /// wgpu's words.
        reason: String,
    },
    /// An allocation would pass the budget; nothing was allocated.
    #[error(
        "{what} needs {} but only {} of {} are free; use a shorter context, a smaller or more quantized model, or raise --memory-budget",
        Bytes(*.wanted_bytes), Bytes(.budget_bytes.saturating_sub(*.active_bytes)), Bytes(*.budget_bytes)
    )]
    OverBudget {
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        wanted_bytes: u64,
        /// Bytes in use.
        active_bytes: u64,
        /// Bytes that may be in use.
        budget_bytes: u64,
    },
    /// One buffer may not be that large on this adapter; the compiler splits such tensors.
    #[error("{what} needs one buffer of {}, the adapter allows {}", Bytes(*.wanted_bytes), Bytes(*.limit_bytes))]
    TooLarge {
        /// What the buffer was for.
        what: String,
        /// Bytes asked for.
        wanted_bytes: u64,
        /// The adapter's limit.
        limit_bytes: u64,
    },
    /// The driver has no memory left although the budget had.
    #[error("the device ran out of memory while allocating {what} ({}); close other programs or lower --memory-budget", Bytes(*.wanted_bytes))]
    OutOfMemory {
        /// What the buffer was for.
        what: String,
        /// Bytes asked for.
        wanted_bytes: u64,
    },
    /// A buffer could not be made or mapped for a reason other than memory.
    #[error("buffer {what}: {reason}")]
    Buffer {
        /// What the buffer is for.
        what: String,
        /// wgpu's words.
        reason: String,
    },
    /// The source of a weight failed while its bytes were copied to the device.
    #[error("{what}: {source}")]
    Fill {
        /// What was being uploaded.
        what: String,
        /// The reader's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A kernel's text, layout or binary was refused.
    #[error("kernel {kernel} was refused: {reason}")]
    Kernel {
        /// The pipeline's label.
        kernel: String,
        /// wgpu's or the driver's words.
        reason: String,
    },
    /// Kernels cannot be timed one by one.
    #[error(
        "{n_dispatches} kernels cannot be timed on {adapter}: it has no timestamps, or a query set holds too few; use --device cpu"
    )]
    NoTimestamps {
        /// The adapter's name.
        adapter: String,
        /// Dispatches of the step.
        n_dispatches: usize,
    },
    /// All read-back slots are in flight: more steps were submitted than the ring has slots.
    #[error("all {n_slots} read-back slots are in flight; read one before submitting the next step")]
    RingFull {
        /// Slots of the ring.
        n_slots: usize,
    },
    /// The bytes to read back don't fit a slot or break wgpu's alignment.
    #[error("a read-back of {wanted_bytes} bytes (parts must be multiples of 4) doesn't fit a slot of {slot_bytes}")]
    ReadBackSize {
        /// Bytes asked for.
        wanted_bytes: u64,
        /// Bytes of a slot.
        slot_bytes: u64,
    },
    /// There is nothing in flight to wait for.
    #[error("no read-back is in flight")]
    NothingInFlight,
    /// The device did not finish in time.
    #[error("the device did not answer within {waited_ms} ms")]
    Timeout {
        /// How long was waited.
        waited_ms: u128,
    },
}
