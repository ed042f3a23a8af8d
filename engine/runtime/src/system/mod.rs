//! The systems of the tick, one a file, in the order in which they run.

mod admit;
mod schedule;
mod allocate_pages;
mod pack_batch;
mod submit;
mod read_back;
mod advance;
mod retire;

pub use admit::admit;
pub use advance::advance;
pub use allocate_pages::allocate_pages;
pub use pack_batch::pack_batch;
pub use read_back::{read_back, wait_for_masks};
pub use retire::retire;
pub use schedule::{can_schedule, schedule};
pub use submit::submit;
