//! The paged KV cache's book-keeping: which page belongs to whom. Plain CPU code; the pages themselves are a backend's.

mod pool;

pub use pool::PagePool;
