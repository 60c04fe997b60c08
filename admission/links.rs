//! Doubly linked lists threaded through a slab: unlinking anywhere is O(1), nothing is allocated.
//!
//! Invariants
//! - An element is in at most one list; who owns the slab knows which.
//! - `front` has no predecessor, the last element no successor.

use slab::Slab;

/// The neighbours of one element.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    previous: Option<usize>,
    next: Option<usize>,
}

/// An element of a slab that can be in a list.
pub(crate) trait Linked {
    fn links(&mut self) -> &mut Links;
}

/// The ends of one list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct List {
    front: Option<usize>,
    back: Option<usize>,
}

impl List {
    /// The key of the first element.
    pub(crate) const fn front(self) -> Option<usize> {
        self.front
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.front.is_none()
    }

    /// Links `key`, which is in no list, behind the last element.
    pub(crate) fn push_back<T: Linked>(&mut self, slab: &mut Slab<T>, key: usize) {
        let links = Links {
            previous: self.back,
            next: None,
        };
        relink(slab, key, |element| *element = links);
        match self.back {
            Some(back) => relink(slab, back, |element| element.next = Some(key)),
            None => self.front = Some(key),
        }
        self.back = Some(key);
    }

    /// Unlinks `key`, which is in this list.
    pub(crate) fn unlink<T: Linked>(&mut self, slab: &mut Slab<T>, key: usize) {
        let Some(element) = slab.get_mut(key) else {
            debug_assert!(false, "unlinked an element that is not there");
            return;
        };
        let Links { previous, next } = std::mem::take(element.links());
        match previous {
            Some(previous) => relink(slab, previous, |element| element.next = next),
            None => self.front = next,
        }
        match next {
            Some(next) => relink(slab, next, |element| element.previous = previous),
            None => self.back = previous,
        }
    }
}

fn relink<T: Linked>(slab: &mut Slab<T>, key: usize, change: impl FnOnce(&mut Links)) {
    match slab.get_mut(key) {
        Some(element) => change(element.links()),
        None => debug_assert!(false, "a list names an element that is not there"),
    }
}
