//! The lock of this crate, with one addition: under test every acquisition is a point at which an
//! interleaving explorer may switch threads.
//!
//! The steps of the lock-free parts are such points too, also inside a critical section; who waits
//! for a lock under the explorer therefore gives way until it is free.

/// A mutual exclusion lock without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

pub(crate) type MutexGuard<'a, T> = parking_lot::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Waits for the lock. `switch_point` comes first, so that others may run up to here.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        switch_point();
        self.lock_nested()
    }

    /// Takes the lock inside another critical section.
    #[cfg(not(test))]
    #[inline]
    pub(crate) fn lock_nested(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    /// Takes the lock inside another critical section.
    #[cfg(test)]
    pub(crate) fn lock_nested(&self) -> MutexGuard<'_, T> {
        while explored::is_on() {
            if let Some(guard) = self.0.try_lock() {
                return guard;
            }
            // All threads are coroutines of one: blocking would block who has the lock.
            switch_point();
        }
        self.0.lock()
    }
}

#[cfg(not(test))]
#[inline]
pub(crate) const fn switch_point() {}

#[cfg(test)]
pub(crate) use explored::switch_point;

#[cfg(test)]
pub(crate) mod explored {
    use std::cell::Cell;

    thread_local! {
        /// The explorer runs all its threads as coroutines of one thread, so one flag serves them.
        static EXPLORED: Cell<bool> = const { Cell::new(false) };
    }

    pub(crate) fn is_on() -> bool {
        EXPLORED.get()
    }

    pub(crate) fn switch_point() {
        if EXPLORED.get() {
            // Not `yield_now`: that would also wake the thread's future, and hide lost wake-ups.
            let atomic = shuttle::sync::atomic::AtomicBool::new(false);
            atomic.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Runs `test` under random schedules, every lock acquisition being a place to switch.
    pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static, schedules: usize) {
        EXPLORED.set(true);
        shuttle::check_random(test, schedules);
        EXPLORED.set(false);
    }
}
