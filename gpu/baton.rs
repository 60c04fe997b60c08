//! The baton: one thread at a time does the work, and nobody waits for it.
//!
//! Whoever has work announces it and tries to take the baton. If another thread holds it, the
//! announcement stays behind, and the holder looks for one after it has let go.
//!
//! Invariants
//! - Work is done by one thread at a time.
//! - Every announcement is followed by a run of the work that began after it, whatever the
//!   interleaving; checked exhaustively by a model.

use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The two flags' memory operations; the model check supplies its own.
pub(crate) trait Flags {
    type Flag;
    fn new() -> Self::Flag;
    fn swap(flag: &Self::Flag, value: bool) -> bool;
    /// False to true; whether this thread did it. A failure writes nothing.
    fn raise(flag: &Self::Flag) -> bool;
    fn store(flag: &Self::Flag, value: bool);
    fn load(flag: &Self::Flag) -> bool;
    fn fence();
}

/// The machine's own.
#[derive(Debug)]
pub(crate) struct Native;

impl Flags for Native {
    type Flag = AtomicBool;
    fn new() -> AtomicBool {
        AtomicBool::new(false)
    }
    fn swap(flag: &AtomicBool, value: bool) -> bool {
        flag.swap(value, Ordering::AcqRel)
    }
    fn raise(flag: &AtomicBool) -> bool {
        flag.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
    fn store(flag: &AtomicBool, value: bool) {
        flag.store(value, Ordering::Release);
    }
    fn load(flag: &AtomicBool) -> bool {
        flag.load(Ordering::Acquire)
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Baton<F: Flags = Native> {
    held: F::Flag,
    announced: F::Flag,
}

struct LetGo<'a, F: Flags>(&'a Baton<F>);

impl<F: Flags> Drop for LetGo<'_, F> {
    fn drop(&mut self) {
        F::store(&self.0.held, false);
        // Pairs with the fence in `run`: either the other thread finds the baton free, or the
        // holder finds its announcement.
        F::fence();
    }
}

impl<F: Flags> Baton<F> {
    pub(crate) fn new() -> Self {
        Self {
            held: F::new(),
            announced: F::new(),
        }
    }

    /// Announces work and does it, unless another thread holds the baton and will.
    pub(crate) fn run(&self, mut work: impl FnMut()) {
        F::swap(&self.announced, true);
        F::fence();
        loop {
            if !F::raise(&self.held) {
                return;
            }
            let held = LetGo(self);
            if F::swap(&self.announced, false) {
                work();
            }
            drop(held);
            if !F::load(&self.announced) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicUsize, fence};

    use super::*;

    struct Model;

    impl Flags for Model {
        type Flag = AtomicBool;
        fn new() -> AtomicBool {
            AtomicBool::new(false)
        }
        fn swap(flag: &AtomicBool, value: bool) -> bool {
            flag.swap(value, Ordering::AcqRel)
        }
        fn raise(flag: &AtomicBool) -> bool {
            flag.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        }
        fn store(flag: &AtomicBool, value: bool) {
            flag.store(value, Ordering::Release);
        }
        fn load(flag: &AtomicBool) -> bool {
            flag.load(Ordering::Acquire)
        }
        fn fence() {
            fence(Ordering::SeqCst);
        }
    }

    struct Shared {
        baton: Baton<Model>,
        queued: AtomicUsize,
        inside: AtomicUsize,
        written: AtomicUsize,
    }

    impl Shared {
        fn submit(&self) {
            self.queued.fetch_add(1, Ordering::Relaxed);
            self.baton.run(|| {
                assert_eq!(
                    self.inside.fetch_add(1, Ordering::Relaxed),
                    0,
                    "two at once"
                );
                let found = self.queued.load(Ordering::Relaxed);
                self.written.store(found, Ordering::Relaxed);
                self.inside.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    fn no_entry_is_lost_between(threads: usize) {
        loom::model(move || {
            let shared = Arc::new(Shared {
                baton: Baton::new(),
                queued: AtomicUsize::new(0),
                inside: AtomicUsize::new(0),
                written: AtomicUsize::new(0),
            });
            let others: Vec<_> = (1..threads)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    loom::thread::spawn(move || shared.submit())
                })
                .collect();
            shared.submit();
            for other in others {
                other.join().unwrap();
            }
            // Every submitter has returned, so whoever ran last must have seen all of them.
            assert_eq!(shared.written.load(Ordering::SeqCst), threads);
        });
    }

    #[test]
    fn no_interleaving_of_two_submitters_loses_an_entry() {
        no_entry_is_lost_between(2);
    }

    #[test]
    fn the_baton_is_let_go_when_the_work_panics() {
        let baton = Baton::<Native>::new();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            baton.run(|| panic!("planted"));
        }));
        assert!(panicked.is_err());
        let mut ran = false;
        baton.run(|| ran = true);
        assert!(ran);
    }
}
