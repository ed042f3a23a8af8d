//! The pages of one sequence in one KV group.

use std::ops::Range;

/// Pages by place: the page at place `i` holds tokens `i * page_tokens ..`. Where a window has moved on, places are
/// without a page: one range of them, after those of the tokens that stay visible.
#[derive(Clone, Debug, Default)]
pub struct PageList {
    /// A number without meaning in a place without a page.
    pages: Vec<u32>,
    gone: Range<usize>,
}

impl PageList {
    /// Places.
    pub fn len(&self) -> usize {
        self.pages.len()
    }
    /// Whether there is no place.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
    /// Pages, without the places that have none.
    pub fn n_pages(&self) -> u32 {
        (self.pages.len() - self.gone.len()) as u32
    }
    /// The page at a place, if it has one.
    pub fn get(&self, place: usize) -> Option<u32> {
        self.pages.get(place).copied().filter(|_| !self.gone.contains(&place))
    }
    /// The page of the next place.
    pub fn push(&mut self, page: u32) {
        self.pages.push(page);
    }
    /// The next place, which has no page: follows others of that kind or begins their range.
    pub fn push_gone(&mut self) {
        let place = self.pages.len();
        if self.gone.is_empty() {
            self.gone = place..place;
        }
        assert!(self.gone.end == place, "places without a page are one range");
        self.gone.end = place + 1;
        self.pages.push(0);
    }
    /// What a page table is told of places `from ..`. Nothing reads the entries of places without a page.
    pub fn table(&self, from: usize) -> &[u32] {
        &self.pages[from..]
    }
    /// Pages in the order of their places.
    pub fn pages(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        (0..self.pages.len()).filter_map(|place| self.get(place))
    }
    /// Pages in a range of places.
    pub fn pages_in(&self, places: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        places.filter_map(|place| self.get(place))
    }
    /// Takes the pages of a range of places away, of which some may have gone before.
    pub fn remove(&mut self, places: Range<usize>, mut released: impl FnMut(u32)) {
        let places = places.start..places.end.min(self.pages.len());
        if places.is_empty() {
            return;
        }
        self.pages_in(places.clone()).for_each(&mut released);
        assert!(self.gone.is_empty() || self.gone.start == places.start, "places without a page are one range");
        self.gone = places.start..self.gone.end.max(places.end);
    }
    /// Forgets all places.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.gone = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_from_the_middle() {
        let mut list = PageList::default();
        (10..16).for_each(|page| list.push(page));
        let mut released = Vec::new();
        list.remove(1..3, |page| released.push(page));
        list.remove(1..5, |page| released.push(page));
        list.remove(1..2, |page| released.push(page));
        assert_eq!(released, [11, 12, 13, 14]);
        assert_eq!((list.pages().collect::<Vec<_>>(), list.n_pages()), (vec![10, 15], 2));
        assert_eq!(
            (list.len(), list.get(0), list.get(4), list.get(5), list.get(6)),
            (6, Some(10), None, Some(15), None)
        );
        list.clear();
        list.push(7);
        list.push_gone();
        list.push_gone();
        list.push(8);
        assert_eq!(list.pages().collect::<Vec<_>>(), [7, 8]);
        assert_eq!(list.table(3), [8]);
    }
}
