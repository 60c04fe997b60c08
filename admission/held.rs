//! Held scopes: which bulkheads' permits the running thread works under.
//!
//! Waiting for a bulkhead from inside work that occupies one of its slots can wait for itself.
//! Whoever runs such work enters a scope around it, and `acquire` refuses inside.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use smallvec::SmallVec;

/// Names a bulkhead; unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BulkheadId(u32);

impl BulkheadId {
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for BulkheadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

type Stack = SmallVec<[BulkheadId; 4]>;

thread_local! {
    static HELD: RefCell<Stack> = RefCell::default();
    /// How many scopes are open; mostly none, and then nothing else is looked at.
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// While it lives, this thread runs work that occupies a slot of one bulkhead.
///
/// Enter it around every poll of a future and every call of a function that runs under a permit,
/// and drop it before the thread does anything else. Scopes of several bulkheads may be open at
/// once and may be dropped in any order.
#[derive(Debug)]
#[must_use = "the scope ends when this is dropped"]
pub struct HeldScope {
    bulkhead: BulkheadId,
    // A scope belongs to the thread that entered it.
    thread_bound: PhantomData<*const ()>,
}

impl HeldScope {
    /// Enters the scope of `bulkhead` on this thread.
    pub fn enter(bulkhead: BulkheadId) -> Self {
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            held.push(bulkhead);
            OPEN.set(held.len());
        });
        Self {
            bulkhead,
            thread_bound: PhantomData,
        }
    }

    /// Whether this thread is inside a scope of `bulkhead`.
    #[inline]
    pub fn is_inside(bulkhead: BulkheadId) -> bool {
        OPEN.get() > 0 && Self::is_open(bulkhead)
    }

    fn is_open(bulkhead: BulkheadId) -> bool {
        HELD.try_with(|held| held.borrow().contains(&bulkhead))
            .unwrap_or(false)
    }
}

impl Drop for HeldScope {
    fn drop(&mut self) {
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|&id| id == self.bulkhead) {
                held.remove(at);
            }
            OPEN.set(held.len());
        });
    }
}

/// Hides the thread's scopes while it runs something that is not the work it was running.
pub(crate) struct Unheld(Stack);

impl Unheld {
    pub(crate) fn enter() -> Self {
        Self(
            HELD.try_with(|held| {
                OPEN.set(0);
                std::mem::take(&mut *held.borrow_mut())
            })
            .unwrap_or_default(),
        )
    }
}

impl Drop for Unheld {
    fn drop(&mut self) {
        let hidden = std::mem::take(&mut self.0);
        let _ = HELD.try_with(|held| {
            OPEN.set(hidden.len());
            *held.borrow_mut() = hidden;
        });
    }
}
