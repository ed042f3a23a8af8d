//! Finds the longest beginning of a prompt whose keys and values are in the cache, in every KV group.

use super::contents::PrefixHash;
use super::list::PageList;
use super::pool::PagePool;
use ingot_ir::kv::Window;

/// A beginning that was found, and taken.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// Its tokens.
    pub n_tokens: usize,
    /// Its full pages.
    pub n_full: usize,
    /// Names the tokens of the full pages.
    pub hash: PrefixHash,
    /// The pages, by KV group.
    pub pages: Vec<PageList>,
}

/// Finds the longest beginning of `tokens` in the groups' pools, and takes its pages: full pages are shared, a last page of
/// which a part fits has no other user. Pages that the queries after it do not see need not be there.
pub fn find_prefix(pools: &mut [PagePool], windows: &[Window], tokens: &[u32]) -> Option<Prefix> {
    let page_tokens = pools.first()?.contents().page_tokens();
    let [seen, almost] = longest_full(pools, windows, tokens, page_tokens);
    // A part of one more page may be what moves the windows past what is missing.
    let tails = part_of_next(pools, &almost, tokens, page_tokens);
    let (Full { n_pages, hash, .. }, tails) =
        if almost.is_seen(windows, n_tokens_of(&almost, &tails, page_tokens), page_tokens) {
            (almost, tails)
        } else {
            let tails = part_of_next(pools, &seen, tokens, page_tokens);
            (seen, tails)
        };
    let n_tail = shortest(&tails);
    let n_tokens = n_pages * page_tokens + n_tail;
    if n_tokens == 0 {
        return None;
    }
    let mut pages = vec![PageList::default(); pools.len()];
    let mut before = PrefixHash::EMPTY;
    for (place, full) in tokens.chunks_exact(page_tokens).take(n_pages).enumerate() {
        before = before.then(full);
        for ((pool, window), list) in pools.iter_mut().zip(windows).zip(&mut pages) {
            match pool.contents().full(before) {
                Some(page) if !window.unseen(n_tokens, page_tokens).contains(&place) => {
                    pool.share(page);
                    list.push(page);
                }
                _ => list.push_gone(),
            }
        }
    }
    if n_tail > 0 {
        for ((pool, list), (page, _)) in pools.iter_mut().zip(&mut pages).zip(tails) {
            pool.reopen(page);
            list.push(page);
        }
    }
    Some(Prefix { n_tokens, n_full: n_pages, hash, pages })
}

/// Full pages at the beginning of a text.
#[derive(Clone)]
struct Full {
    n_pages: usize,
    /// Names their tokens.
    hash: PrefixHash,
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
fn longest_full(pools: &[PagePool], windows: &[Window], tokens: &[u32], page_tokens: usize) -> [Full; 2] {
    let mut full = Full { n_pages: 0, hash: PrefixHash::EMPTY, runs: vec![(0, 0); pools.len()] };
    let (mut seen, mut almost) = (full.clone(), full.clone());
    for page in tokens.chunks_exact(page_tokens) {
        full.hash = full.hash.then(page);
        for ((pool, window), (from_first, to_last)) in pools.iter().zip(windows).zip(&mut full.runs) {
            if pool.contents().full(full.hash).is_some() {
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

/// In each group the page of which most fits after full ones, and how much; nothing if a group has none.
fn part_of_next(pools: &[PagePool], full: &Full, tokens: &[u32], page_tokens: usize) -> Vec<(u32, usize)> {
    let rest = &tokens[full.n_pages * page_tokens..];
    let rest = &rest[..rest.len().min(page_tokens)];
    let part = |pool: &PagePool| pool.contents().longest(full.hash, rest, |page| pool.n_users(page) == 0);
    pools.iter().map(part).collect::<Option<_>>().unwrap_or_default()
}

fn shortest(tails: &[(u32, usize)]) -> usize {
    tails.iter().map(|(_, n)| *n).min().unwrap_or(0)
}

fn n_tokens_of(full: &Full, tails: &[(u32, usize)], page_tokens: usize) -> usize {
    full.n_pages * page_tokens + shortest(tails)
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
        let Some(prefix) = find_prefix(pools, windows, tokens) else { return 0 };
        assert_eq!(prefix.n_full, prefix.n_tokens / PAGE);
        for ((pool, list), before) in pools.iter_mut().zip(&prefix.pages).zip(before) {
            assert_eq!(list.len(), prefix.n_tokens.div_ceil(PAGE));
            assert_eq!(pool.n_free() as usize + list.pages().count(), before as usize, "each page is taken once");
            list.pages().for_each(|page| pool.release(page));
        }
        prefix.n_tokens
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
        let mut pools = after(&tokens, &[FULL], &[]);
        let first = find_prefix(&mut pools, &[FULL], &tokens).expect("it is there");
        assert_eq!(first.n_tokens, 6);
        let second = find_prefix(&mut pools, &[FULL], &tokens).expect("its beginning is there");
        assert_eq!((second.n_tokens, second.pages[0].get(0)), (4, first.pages[0].get(0)));
        assert_eq!(pools[0].n_users(first.pages[0].get(0).expect("a page")), 2);
    }
}
