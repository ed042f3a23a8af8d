//! A pool of pages with reference counts. Allocation and release are O(1) and allocate no memory.
//!
//! A free page keeps what it holds until it is handed out again: those that have been free longest go first, before them
//! those of which nothing is known. So what was read once is found again while memory suffices.

use super::contents::{Contents, PrefixHash};

/// The pages of one KV group.
#[derive(Debug)]
pub struct PagePool {
    /// Users of each page; 0 if free.
    references: Vec<u32>,
    /// Free pages as a ring; its last entry is no page but begin and end. Of each the next to be handed out after it.
    next: Vec<u32>,
    /// And the one before it.
    previous: Vec<u32>,
    n_free: u32,
    /// Free pages whose content is known.
    n_cached: u32,
    contents: Contents,
}

impl PagePool {
    /// A pool of `n_pages` free pages.
    pub fn new(n_pages: u32, page_tokens: u32) -> Self {
        let n_links = n_pages + 1;
        Self {
            references: vec![0; n_pages as usize],
            next: (0..n_links).map(|page| (page + 1) % n_links).collect(),
            previous: (0..n_links).map(|page| (page + n_pages) % n_links).collect(),
            n_free: n_pages,
            n_cached: 0,
            contents: Contents::new(n_pages, page_tokens),
        }
    }
    /// Pages in all.
    pub fn n_pages(&self) -> u32 {
        self.references.len() as u32
    }
    /// Free pages.
    pub fn n_free(&self) -> u32 {
        self.n_free
    }
    /// Free pages that hold what a later sequence may find.
    pub fn n_cached(&self) -> u32 {
        self.n_cached
    }
    /// What pages hold.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }
    /// Users of a page.
    pub fn n_users(&self, page: u32) -> u32 {
        self.references[page as usize]
    }
    /// Takes a page, if one is free. What it held is forgotten.
    pub fn take(&mut self) -> Option<u32> {
        let page = self.next[self.head()];
        if page as usize == self.head() {
            return None;
        }
        self.unlink(page);
        self.contents.forget(page);
        self.references[page as usize] = 1;
        Some(page)
    }
    /// Another user of a page that is in use, or free with known content.
    pub fn share(&mut self, page: u32) {
        if self.references[page as usize] == 0 {
            assert!(self.contents.knows(page), "page {page} is free and cannot be shared");
            self.unlink(page);
        }
        self.references[page as usize] += 1;
    }
    /// The only user of a free page with known content, who keeps a part of it and writes the rest.
    pub fn reopen(&mut self, page: u32) {
        assert!(self.references[page as usize] == 0, "page {page} is in use and cannot be written");
        self.share(page);
        self.contents.forget(page);
    }
    /// One user fewer; the last one frees the page.
    pub fn release(&mut self, page: u32) {
        let references = &mut self.references[page as usize];
        assert!(*references > 0, "page {page} is released twice");
        *references -= 1;
        if *references > 0 {
            return;
        }
        self.n_free += 1;
        let (before, after) = if self.contents.knows(page) {
            self.n_cached += 1;
            (self.previous[self.head()], self.head() as u32)
        } else {
            (self.head() as u32, self.next[self.head()])
        };
        self.link(before, page);
        self.link(page, after);
    }
    /// Notes what a page in use holds: `tokens` after those of `before`.
    pub fn record(&mut self, page: u32, before: PrefixHash, tokens: &[u32]) {
        assert!(self.references[page as usize] > 0, "page {page} is nobody's, so nobody knows what it holds");
        self.contents.record(page, before, tokens);
    }
    /// Forgets what all pages hold.
    pub fn forget_all(&mut self) {
        self.contents.forget_all();
        self.n_cached = 0;
    }

    fn head(&self) -> usize {
        self.references.len()
    }
    fn link(&mut self, before: u32, after: u32) {
        self.next[before as usize] = after;
        self.previous[after as usize] = before;
    }
    fn unlink(&mut self, page: u32) {
        self.link(self.previous[page as usize], self.next[page as usize]);
        self.n_free -= 1;
        self.n_cached -= u32::from(self.contents.knows(page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pool: &mut PagePool) -> u32 {
        pool.take().expect("a page is free")
    }

    #[test]
    fn pages_come_back_once_their_last_user_leaves() {
        let mut pool = PagePool::new(3, 4);
        let (a, b) = (take(&mut pool), take(&mut pool));
        assert_eq!((a, b, pool.n_free()), (0, 1, 1));
        pool.share(a);
        pool.release(a);
        assert_eq!(pool.n_free(), 1, "still shared");
        pool.release(a);
        pool.release(b);
        assert_eq!(pool.n_free(), 3);
        assert_eq!((0..4).filter_map(|_| pool.take()).count(), 3, "no page is handed out twice");
    }

    #[test]
    fn free_pages_keep_what_they_hold_as_long_as_there_are_others() {
        let mut pool = PagePool::new(4, 4);
        let pages: Vec<u32> = (0..4).map(|_| take(&mut pool)).collect();
        let name = |text: u32| PrefixHash::EMPTY.then(&[text; 4]);
        pool.record(pages[1], PrefixHash::EMPTY, &[1; 4]);
        pool.record(pages[2], PrefixHash::EMPTY, &[2; 4]);
        [2, 0, 1, 3].into_iter().for_each(|ix: usize| pool.release(pages[ix]));
        assert_eq!((pool.n_free(), pool.n_cached()), (4, 2));
        pool.share(pages[1]);
        assert_eq!((pool.n_free(), pool.n_cached(), pool.n_users(pages[1])), (3, 1, 1));
        // First those of which nothing is known, then what has been free longest.
        assert_eq!([take(&mut pool), take(&mut pool)].map(|page| page == pages[0] || page == pages[3]), [true; 2]);
        assert_eq!(pool.contents().full(name(2)), Some(pages[2]));
        assert_eq!(take(&mut pool), pages[2]);
        assert_eq!(pool.contents().full(name(2)), None);
        assert_eq!(pool.take(), None);
        pool.release(pages[1]);
        assert_eq!((pool.contents().full(name(1)), pool.n_cached()), (Some(pages[1]), 1));
        pool.reopen(pages[1]);
        assert_eq!((pool.contents().full(name(1)), pool.n_cached(), pool.n_free()), (None, 0, 0));
    }

    #[test]
    fn all_is_forgotten() {
        let mut pool = PagePool::new(2, 4);
        let page = take(&mut pool);
        pool.record(page, PrefixHash::EMPTY, &[1, 2]);
        pool.release(page);
        pool.forget_all();
        assert_eq!((pool.n_free(), pool.n_cached()), (2, 0));
        assert_eq!((0..3).filter_map(|_| pool.take()).count(), 2);
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_double_release_is_a_fault() {
        let mut pool = PagePool::new(1, 4);
        let page = take(&mut pool);
        pool.release(page);
        pool.release(page);
    }
}
