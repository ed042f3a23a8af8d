//! Finds the longest beginning of a prompt whose keys and values are in the cache, in every KV group.

use super::contents::PrefixHash;
use super::list::PageList;
use super::pool::PagePool;
use ingot_ir::kv::Window;

/// Names of a text's full pages, as many as somebody has asked for: no page is hashed twice.
#[derive(Clone, Debug, Default)]
pub struct PageNames(Vec<PrefixHash>);

impl PageNames {
    /// Names all tokens before the page at a place. `tokens` are the text's, which may have grown since the last question.
    pub fn before(&mut self, place: usize, tokens: &[u32], page_tokens: usize) -> PrefixHash {
        for page in tokens.chunks_exact(page_tokens).take(place).skip(self.0.len()) {
            let before = self.0.last().copied().unwrap_or(PrefixHash::EMPTY);
            self.0.push(before.then(page));
        }
        place.checked_sub(1).map_or(PrefixHash::EMPTY, |last| self.0[last])
    }
    /// Forgets the text.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// A beginning that was found. Its pages are still those of others, or nobody's.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// Its tokens.
    pub n_tokens: usize,
    /// Its full pages.
    pub n_full: usize,
    /// In each group the page of which a part fits after them, and how much; nothing if a group has none.
    tails: Vec<(u32, usize)>,
}

/// Finds the longest beginning of `tokens` in the groups' pools. Pages that the queries after it do not see need not be there.
pub fn find_prefix(pools: &[PagePool], windows: &[Window], tokens: &[u32], names: &mut PageNames) -> Option<Prefix> {
    let page_tokens = pools.first()?.contents().page_tokens();
    let [seen, almost] = longest_full(pools, windows, tokens, names, page_tokens);
    // A part of one more page may be what moves the windows past what is missing.
    let mut tails_after = |full: &Full| {
        let before = names.before(full.n_pages, tokens, page_tokens);
        part_of_next(pools, before, &tokens[full.n_pages * page_tokens..], page_tokens)
    };
    let tails = tails_after(&almost);
    let (full, tails) = if almost.is_seen(windows, almost.n_pages * page_tokens + shortest(&tails), page_tokens) {
        (almost, tails)
    } else {
        let tails = tails_after(&seen);
        (seen, tails)
    };
    let n_tokens = full.n_pages * page_tokens + shortest(&tails);
    (n_tokens > 0).then_some(Prefix { n_tokens, n_full: full.n_pages, tails })
}

impl Prefix {
    /// The full page of a group's pool at a place, if the queries after the beginning see it.
    fn seen(
        &self,
        pool: &PagePool,
        window: Window,
        place: usize,
        (tokens, names): (&[u32], &mut PageNames),
    ) -> Option<u32> {
        let page_tokens = pool.contents().page_tokens();
        let is_seen = !window.unseen(self.n_tokens, page_tokens).contains(&place);
        is_seen.then(|| pool.contents().full(names.before(place + 1, tokens, page_tokens))).flatten()
    }

    /// Pages of a group that others use: who takes the beginning shares them.
    pub fn n_shared(&self, pool: &PagePool, window: Window, tokens: &[u32], names: &mut PageNames) -> u32 {
        let page =
            |place: usize| self.seen(pool, window, place, (tokens, names)).filter(|page| pool.n_users(*page) > 0);
        (0..self.n_full).filter_map(page).count() as u32
    }

    /// Takes the pages, by KV group: full pages are shared, a last page of which a part fits has no other user.
    pub fn take(
        self,
        pools: &mut [PagePool],
        windows: &[Window],
        tokens: &[u32],
        names: &mut PageNames,
    ) -> Vec<PageList> {
        let mut pages = vec![PageList::default(); pools.len()];
        for ((pool, window), list) in pools.iter_mut().zip(windows).zip(&mut pages) {
            for place in 0..self.n_full {
                match self.seen(pool, *window, place, (tokens, names)) {
                    Some(page) => {
                        pool.share(page);
                        list.push(page);
                    }
                    None => list.push_gone(),
                }
            }
        }
        if shortest(&self.tails) > 0 {
            for ((pool, list), (page, _)) in pools.iter_mut().zip(&mut pages).zip(self.tails) {
                pool.reopen(page);
                list.push(page);
            }
        }
        pages
    }
}

/// Full pages at the beginning of a text.
#[derive(Clone)]
struct Full {
    n_pages: usize,
    /// By group: pages that are there from the first on, and pages that are there up to the last.
    runs: Vec<(usize, usize)>,
}

impl Full {
    /// Whether those that the query after `n_tokens` sees are there in every group.
    fn is_seen(&self, windows: &[Window], n_tokens: usize, page_tokens: usize) -> bool {
        windows.iter().zip(&self.runs).all(|(window, &(from_first, to_last))| {
            let unseen = window.unseen(n_tokens, page_tokens);
            let beginning = from_first >= unseen.start.min(self.n_pages);
            beginning && (self.n_pages - to_last <= unseen.end || from_first == self.n_pages)
        })
    }
}

/// The most full pages whose seen ones are there in every group; and the most of which that may be so with a part of the next.
fn longest_full(
    pools: &[PagePool],
    windows: &[Window],
    tokens: &[u32],
    names: &mut PageNames,
    page_tokens: usize,
) -> [Full; 2] {
    let mut full = Full { n_pages: 0, runs: vec![(0, 0); pools.len()] };
    let (mut seen, mut almost) = (full.clone(), full.clone());
    while (full.n_pages + 1) * page_tokens <= tokens.len() {
        let up_to_end = names.before(full.n_pages + 1, tokens, page_tokens);
        for ((pool, window), (from_first, to_last)) in pools.iter().zip(windows).zip(&mut full.runs) {
            if pool.contents().full(up_to_end).is_some() {
                *from_first += usize::from(*from_first == full.n_pages);
                *to_last += 1;
            } else if window.window == 0 {
                return [seen, almost];
            } else {
                *to_last = 0;
            }
        }
        full.n_pages += 1;
        let n_tokens = full.n_pages * page_tokens;
        if full.is_seen(windows, n_tokens, page_tokens) {
            seen.clone_from(&full);
        }
        if full.is_seen(windows, (n_tokens + page_tokens - 1).min(tokens.len()), page_tokens) {
            almost.clone_from(&full);
        }
    }
    [seen, almost]
}

/// In each group the page of which most fits after the tokens `before`, and how much; nothing if a group has none.
fn part_of_next(pools: &[PagePool], before: PrefixHash, rest: &[u32], page_tokens: usize) -> Vec<(u32, usize)> {
    let rest = &rest[..rest.len().min(page_tokens)];
    let part = |pool: &PagePool| pool.contents().longest(before, rest, |page| pool.n_users(page) == 0);
    pools.iter().map(part).collect::<Option<_>>().unwrap_or_default()
}

fn shortest(tails: &[(u32, usize)]) -> usize {
    tails.iter().map(|(_, n)| *n).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4;
    const FULL: Window = Window::FULL;
    const WINDOW: Window = Window { window: 6, keep: 2 };

    /// Pools in which a sequence of these tokens has been and gone.
    fn after(tokens: &[u32], windows: &[Window], gone: &[(usize, usize)]) -> Vec<PagePool> {
        let mut pools: Vec<PagePool> = windows.iter().map(|_| PagePool::new(16, PAGE as u32)).collect();
        for (group, pool) in pools.iter_mut().enumerate() {
            let mut before = PrefixHash::EMPTY;
            let mut pages = Vec::new();
            for (place, piece) in tokens.chunks(PAGE).enumerate() {
                let page = pool.take().expect("there is room");
                if !gone.contains(&(group, place)) {
                    pool.record(page, before, piece);
                }
                before = before.then(piece);
                pages.push(page);
            }
            pages.into_iter().rev().for_each(|page| pool.release(page));
        }
        pools
    }

    fn found(pools: &mut [PagePool], windows: &[Window], tokens: &[u32]) -> usize {
        let before: Vec<u32> = pools.iter().map(PagePool::n_free).collect();
        let mut names = PageNames::default();
        let Some(prefix) = find_prefix(pools, windows, tokens, &mut names) else { return 0 };
        let n_tokens = prefix.n_tokens;
        assert_eq!(prefix.n_full, n_tokens / PAGE);
        let pages = prefix.take(pools, windows, tokens, &mut names);
        for ((pool, list), before) in pools.iter_mut().zip(&pages).zip(before) {
            assert_eq!(list.len(), n_tokens.div_ceil(PAGE));
            assert_eq!(pool.n_free() + list.n_pages(), before, "each page is taken once");
            list.pages().for_each(|page| pool.release(page));
        }
        n_tokens
    }

    #[test]
    fn the_longest_beginning_is_found_to_the_token() {
        let tokens: Vec<u32> = (0..14).collect();
        for windows in [vec![FULL], vec![FULL, WINDOW], vec![WINDOW]] {
            for n_same in 0..14 {
                let mut pools = after(&tokens, &windows, &[]);
                let mut other = tokens.clone();
                other[n_same..].fill(99);
                // A page that others follow is not cut: up to its beginning, then.
                let expected = if n_same >= 12 { n_same } else { n_same / PAGE * PAGE };
                assert_eq!(found(&mut pools, &windows, &other), expected, "{n_same} the same under {windows:?}");
            }
        }
    }

    #[test]
    fn pages_that_nobody_sees_may_be_gone() {
        let tokens: Vec<u32> = (0..24).collect();
        // The query at 23 sees 18 and later, and 0 and 1: pages 0, 4 and 5.
        for (gone, expected) in [(vec![1, 2, 3], 23), (vec![1, 2], 23), (vec![0], 0), (vec![4], 16), (vec![5], 20)] {
            let gone: Vec<(usize, usize)> = gone.into_iter().map(|place| (1, place)).collect();
            let mut pools = after(&tokens, &[FULL, WINDOW], &gone);
            assert_eq!(found(&mut pools, &[FULL, WINDOW], &tokens[..23]), expected, "without {gone:?}");
        }
        let mut pools = after(&tokens, &[FULL, WINDOW], &[(0, 2)]);
        assert_eq!(found(&mut pools, &[FULL, WINDOW], &tokens), 8, "all is seen where there is no window");
    }

    #[test]
    fn what_is_in_use_is_shared_but_not_written() {
        let tokens: Vec<u32> = (0..6).collect();
        let (mut pools, mut names) = (after(&tokens, &[FULL], &[]), PageNames::default());
        let mut find = |pools: &mut [PagePool]| {
            let prefix = find_prefix(pools, &[FULL], &tokens, &mut names).expect("it is there");
            let n_shared = prefix.n_shared(&pools[0], FULL, &tokens, &mut names);
            (prefix.n_tokens, n_shared, prefix.take(pools, &[FULL], &tokens, &mut names))
        };
        let (n_tokens, n_shared, first) = find(&mut pools);
        assert_eq!((n_tokens, n_shared), (6, 0));
        let (n_tokens, n_shared, second) = find(&mut pools);
        assert_eq!((n_tokens, n_shared, second[0].get(0)), (4, 1, first[0].get(0)));
        assert_eq!(pools[0].n_users(first[0].get(0).expect("a page")), 2);
    }

    #[test]
    fn names_are_those_of_pages_hashed_one_after_the_other() {
        let mut tokens: Vec<u32> = (0..9).collect();
        let mut names = PageNames::default();
        let second = PrefixHash::EMPTY.then(&tokens[..4]).then(&tokens[4..8]);
        assert_eq!(names.before(2, &tokens, PAGE), second);
        // What was named is not looked at again; what has come since is.
        tokens[..4].fill(99);
        tokens.extend([9, 10, 11]);
        assert_eq!(
            [0, 2, 3].map(|place| names.before(place, &tokens, PAGE)),
            [PrefixHash::EMPTY, second, second.then(&tokens[8..])]
        );
        names.clear();
        assert_eq!(names.before(1, &tokens, PAGE), PrefixHash::EMPTY.then(&[99; 4]));
    }
}
