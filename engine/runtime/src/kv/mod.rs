//! The paged KV cache's book-keeping: which page belongs to whom, and what pages hold. Plain CPU code; the pages
//! themselves are a backend's.

mod contents;
mod list;
mod pool;
mod prefix;

pub use contents::{Contents, PrefixHash};
pub use list::PageList;
pub use pool::PagePool;
pub use prefix::{PageNames, Prefix, find_prefix};
