//! What the pages of one KV group hold, so that a sequence finds the pages of its beginning.
//!
//! A page's content is its own tokens and, by a hash, all tokens before them. A full page is found by the hash of
//! everything up to its end; a page that is not full, or that only begins as is wanted, through the hash before it.

use std::collections::HashMap;

/// Names all tokens of a sequence up to the end of a page: a hash of them in pieces of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PrefixHash([u8; 16]);

impl PrefixHash {
    /// No tokens.
    pub const EMPTY: Self = Self([0; 16]);

    /// These and the tokens of one more page. BLAKE3 cut to 128 bits: nobody finds another text of the same name.
    pub fn then(self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(bytemuck::cast_slice(tokens));
        let mut cut = [0; 16];
        cut.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(cut)
    }
}

/// No page.
const NONE: u32 = u32::MAX;
/// Pages with the same tokens before them that are looked through for the longest common beginning, the newest first.
const MAX_SIBLINGS: usize = 16;

/// Columns of pages, and where they are found.
#[derive(Debug)]
pub struct Contents {
    page_tokens: usize,
    /// `[page][page_tokens]`
    tokens: Vec<u32>,
    /// Tokens of each page that are known; 0: nothing is.
    n_filled: Vec<u32>,
    /// Tokens before the page.
    before: Vec<PrefixHash>,
    /// Of pages with the same tokens before them: the next older and the next newer.
    older: Vec<u32>,
    newer: Vec<u32>,
    /// Full pages by the tokens up to their end.
    full: HashMap<PrefixHash, u32>,
    /// The newest page by the tokens before it.
    newest: HashMap<PrefixHash, u32>,
}

impl Contents {
    /// Of so many pages nothing is known.
    pub fn new(n_pages: u32, page_tokens: u32) -> Self {
        let n = n_pages as usize;
        Self {
            page_tokens: page_tokens as usize,
            tokens: vec![0; n * page_tokens as usize],
            n_filled: vec![0; n],
            before: vec![PrefixHash::EMPTY; n],
            older: vec![NONE; n],
            newer: vec![NONE; n],
            // Room for all, so that recording allocates nothing.
            full: HashMap::with_capacity(n),
            newest: HashMap::with_capacity(n),
        }
    }

    /// Tokens a page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// Whether a page's content is known.
    pub fn knows(&self, page: u32) -> bool {
        self.n_filled[page as usize] > 0
    }

    /// Notes that a page holds `tokens` after those of `before`. A second full page of the same content is not noted.
    pub fn record(&mut self, page: u32, before: PrefixHash, tokens: &[u32]) {
        assert!((1..=self.page_tokens).contains(&tokens.len()), "{} tokens in a page", tokens.len());
        self.forget(page);
        if tokens.len() == self.page_tokens {
            let hash = before.then(tokens);
            if self.full.contains_key(&hash) {
                return;
            }
            self.full.insert(hash, page);
        }
        let ix = page as usize;
        self.tokens[ix * self.page_tokens..][..tokens.len()].copy_from_slice(tokens);
        self.n_filled[ix] = tokens.len() as u32;
        self.before[ix] = before;
        self.newer[ix] = NONE;
        self.older[ix] = self.newest.insert(before, page).unwrap_or(NONE);
        if self.older[ix] != NONE {
            self.newer[self.older[ix] as usize] = page;
        }
    }

    /// Forgets what a page holds.
    pub fn forget(&mut self, page: u32) {
        if !self.knows(page) {
            return;
        }
        if let Some(hash) = self.hash_if_full(page) {
            self.full.remove(&hash);
        }
        let ix = page as usize;
        let (older, newer) = (self.older[ix], self.newer[ix]);
        if older != NONE {
            self.newer[older as usize] = newer;
        }
        match (newer, older) {
            (NONE, NONE) => drop(self.newest.remove(&self.before[ix])),
            (NONE, _) => drop(self.newest.insert(self.before[ix], older)),
            _ => self.older[newer as usize] = older,
        }
        self.n_filled[ix] = 0;
    }

    /// Forgets everything.
    pub fn forget_all(&mut self) {
        self.n_filled.fill(0);
        self.full.clear();
        self.newest.clear();
    }

    /// The full page that ends with these tokens.
    pub fn full(&self, up_to_end: PrefixHash) -> Option<u32> {
        self.full.get(&up_to_end).copied()
    }

    /// The page after `before` that begins most like `tokens`, and how many of them it holds. Only pages that are
    /// `usable` and that no known page follows: who takes a part of a page loses the rest.
    pub fn longest(&self, before: PrefixHash, tokens: &[u32], usable: impl Fn(u32) -> bool) -> Option<(u32, usize)> {
        let mut next = self.newest.get(&before).copied().unwrap_or(NONE);
        let mut best = None;
        for _ in 0..MAX_SIBLINGS {
            if next == NONE {
                break;
            }
            let page = next;
            next = self.older[page as usize];
            let n = self.tokens_of(page).iter().zip(tokens).take_while(|(a, b)| a == b).count();
            let followed = || self.hash_if_full(page).is_some_and(|hash| self.newest.contains_key(&hash));
            if n > best.map_or(0, |(_, n)| n) && usable(page) && !followed() {
                best = Some((page, n));
            }
        }
        best
    }

    fn tokens_of(&self, page: u32) -> &[u32] {
        &self.tokens[page as usize * self.page_tokens..][..self.n_filled[page as usize] as usize]
    }

    fn hash_if_full(&self, page: u32) -> Option<PrefixHash> {
        let tokens = self.tokens_of(page);
        (tokens.len() == self.page_tokens).then(|| self.before[page as usize].then(tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: [u32; 4] = [1, 2, 3, 4];

    fn filled() -> Contents {
        let mut contents = Contents::new(5, 4);
        contents.record(0, PrefixHash::EMPTY, &FIRST);
        contents.record(1, PrefixHash::EMPTY.then(&FIRST), &[5, 6]);
        contents.record(2, PrefixHash::EMPTY.then(&FIRST), &[5, 7, 8]);
        contents
    }

    #[test]
    fn pages_are_found_by_all_that_is_before_them() {
        let contents = filled();
        let after = PrefixHash::EMPTY.then(&FIRST);
        assert_eq!(contents.full(after), Some(0));
        assert_eq!(contents.full(PrefixHash::EMPTY.then(&[1, 2, 3, 5])), None);
        let any = |_| true;
        assert_eq!(contents.longest(after, &[5, 6, 9], any), Some((1, 2)));
        assert_eq!(contents.longest(after, &[5, 7, 8, 9], any), Some((2, 3)));
        assert_eq!(contents.longest(after, &[5, 7, 8, 9], |page| page != 2), Some((1, 1)));
        assert_eq!(contents.longest(after, &[6], any), None);
        assert_eq!(contents.longest(PrefixHash::EMPTY, &[5, 6], any), None);
    }

    #[test]
    fn a_page_that_others_follow_is_not_cut() {
        let mut contents = filled();
        assert_eq!(contents.longest(PrefixHash::EMPTY, &[1, 2], |_| true), None);
        contents.forget(1);
        contents.forget(2);
        assert_eq!(contents.longest(PrefixHash::EMPTY, &[1, 2], |_| true), Some((0, 2)));
    }

    #[test]
    fn what_is_forgotten_is_not_found_and_leaves_the_others() {
        for gone in 0..3 {
            let mut contents = filled();
            let after = PrefixHash::EMPTY.then(&FIRST);
            contents.forget(gone);
            contents.forget(gone);
            assert_eq!(contents.full(after), (gone != 0).then_some(0));
            for (page, tokens) in [(1, [5, 6].as_slice()), (2, &[5, 7, 8])] {
                let found = contents.longest(after, tokens, |_| true).filter(|(_, n)| *n == tokens.len());
                assert_eq!(found.map(|(page, _)| page), (page != gone).then_some(page));
            }
            assert!(!contents.knows(gone));
        }
        let mut contents = filled();
        contents.forget_all();
        assert!((0..5).all(|page| !contents.knows(page)));
        assert_eq!(contents.full(PrefixHash::EMPTY.then(&FIRST)), None);
    }

    #[test]
    fn a_page_that_is_recorded_anew_holds_the_new_tokens_alone() {
        let mut contents = filled();
        contents.record(0, PrefixHash::EMPTY, &[9, 9, 9, 9]);
        assert_eq!(contents.full(PrefixHash::EMPTY.then(&FIRST)), None);
        assert_eq!(contents.full(PrefixHash::EMPTY.then(&[9; 4])), Some(0));
        // The same content twice: the first page stays the one that is found.
        contents.record(3, PrefixHash::EMPTY, &[9, 9, 9, 9]);
        assert!(!contents.knows(3));
        assert_eq!(contents.full(PrefixHash::EMPTY.then(&[9; 4])), Some(0));
    }
}
