//! Typed `u32` handles and the containers indexed by them. A handle's `Display` is the text form of the
//! IR (`v3`, `k12`), so logs, dumps and tests speak one language.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A `u32` that names an item of one [`Arena`].
pub trait Handle: Copy + Eq + std::fmt::Display {
    /// The letter before the number in text.
    const PREFIX: &'static str;
    /// The handle of the item at `ix`.
    fn from_ix(ix: usize) -> Self;
    /// The position of the item.
    fn ix(self) -> usize;
    /// Reads `v3`.
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten().map(|n| Self::from_ix(n as usize))
    }
}

/// Declares handle types: `handle!(/// docs ValueId "v")`.
macro_rules! handle {
    ($($(#[$doc:meta])* $name:ident $prefix:literal)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub u32);
        impl $crate::handle::Handle for $name {
            const PREFIX: &'static str = $prefix;
            fn from_ix(ix: usize) -> Self { Self(u32::try_from(ix).expect("an arena holds fewer than 2^32 items")) }
            fn ix(self) -> usize { self.0 as usize }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{self}") }
        }
    )+};
}
pub(crate) use handle;

/// Owns items and hands out their handles, in order. Items may refer to earlier items only.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Arena<H, T> {
    items: Vec<T>,
    #[serde(skip)]
    handle: PhantomData<H>,
}

impl<H: Handle, T> Arena<H, T> {
    /// An empty arena.
    pub fn new() -> Self {
        Self { items: Vec::new(), handle: PhantomData }
    }
    /// Appends an item.
    pub fn push(&mut self, item: T) -> H {
        self.items.push(item);
        H::from_ix(self.items.len() - 1)
    }
    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    /// The item, if the handle is of this arena.
    pub fn get(&self, handle: H) -> Option<&T> {
        self.items.get(handle.ix())
    }
    /// Handles in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = H> + ExactSizeIterator + use<H, T> {
        (0..self.items.len()).map(H::from_ix)
    }
    /// Handles with their items, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (H, &T)> + ExactSizeIterator {
        self.items.iter().enumerate().map(|(ix, item)| (H::from_ix(ix), item))
    }
    /// The items in order.
    pub fn as_slice(&self) -> &[T] {
        &self.items
    }
}

impl<H: Handle, T> Default for Arena<H, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Handle, T> FromIterator<T> for Arena<H, T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self { items: items.into_iter().collect(), handle: PhantomData }
    }
}

impl<H: Handle, T> Index<H> for Arena<H, T> {
    type Output = T;
    fn index(&self, handle: H) -> &T {
        &self.items[handle.ix()]
    }
}

impl<H: Handle, T> IndexMut<H> for Arena<H, T> {
    fn index_mut(&mut self, handle: H) -> &mut T {
        &mut self.items[handle.ix()]
    }
}

/// A side table: one `T` for each item of an arena, e.g. the result of an analysis.
#[derive(Clone, PartialEq, Debug)]
pub struct Column<H, T> {
    items: Vec<T>,
    handle: PhantomData<H>,
}

impl<H: Handle, T: Clone> Column<H, T> {
    /// A column for an arena of `len` items.
    pub fn new(len: usize, value: T) -> Self {
        Self { items: vec![value; len], handle: PhantomData }
    }
    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<H: Handle, T> Index<H> for Column<H, T> {
    type Output = T;
    fn index(&self, handle: H) -> &T {
        &self.items[handle.ix()]
    }
}

impl<H: Handle, T> IndexMut<H> for Column<H, T> {
    fn index_mut(&mut self, handle: H) -> &mut T {
        &mut self.items[handle.ix()]
    }
}
