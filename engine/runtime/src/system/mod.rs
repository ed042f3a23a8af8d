//! The systems of the tick, one a file, in the order in which they run.

mod choose;
mod clear_cache;
mod admit;
mod match_prefix;
mod schedule;
mod allocate_pages;
mod pack_batch;
mod submit;
mod read_back;
mod advance;
mod commit_pages;
mod retire;

pub use admit::admit;
pub use advance::advance;
pub use allocate_pages::allocate_pages;
pub use choose::choose;
pub use clear_cache::clear_cache;
pub use commit_pages::commit_pages;
pub use match_prefix::match_prefix;
pub use pack_batch::pack_batch;
pub use read_back::{read_back, wait_for_masks};
pub use retire::retire;
pub use schedule::{can_schedule, schedule};
pub use submit::submit;
