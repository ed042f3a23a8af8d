//! A pool of pages with reference counts. Allocation and release are O(1) and allocate no memory.

/// The pages of one KV group.
#[derive(Debug)]
pub struct PagePool {
    /// Free pages, the next to be handed out last.
    free: Vec<u32>,
    /// Users of each page; 0 if free.
    references: Vec<u32>,
}

impl PagePool {
    /// A pool of `n_pages` free pages.
    pub fn new(n_pages: u32) -> Self {
        Self { free: (0..n_pages).rev().collect(), references: vec![0; n_pages as usize] }
    }
    /// Pages in all.
    pub fn n_pages(&self) -> u32 {
        self.references.len() as u32
    }
    /// Free pages.
    pub fn n_free(&self) -> u32 {
        self.free.len() as u32
    }
    /// Takes a page, if one is free.
    pub fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.references[page as usize] = 1;
        Some(page)
    }
    /// Another user of a page in use.
    pub fn share(&mut self, page: u32) {
        assert!(self.references[page as usize] > 0, "page {page} is free and cannot be shared");
        self.references[page as usize] += 1;
    }
    /// One user fewer; the last one frees the page.
    pub fn release(&mut self, page: u32) {
        let references = &mut self.references[page as usize];
        assert!(*references > 0, "page {page} is released twice");
        *references -= 1;
        if *references == 0 {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_once_their_last_user_leaves() {
        let mut pool = PagePool::new(3);
        let (a, b) = (pool.take().expect("free"), pool.take().expect("free"));
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
    #[should_panic(expected = "released twice")]
    fn a_double_release_is_a_fault() {
        let mut pool = PagePool::new(1);
        let page = pool.take().expect("free");
        pool.release(page);
        pool.release(page);
    }
}
