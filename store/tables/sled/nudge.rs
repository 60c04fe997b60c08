//! Nudges: waking sled's flush where sled forgets to.
//!
//! When the write of a buffer fails that was filled by a reservation (`Log::exit_reservation`),
//! sled stores the error and notifies nobody, so that a flush which waits by then waits for ever.
//! A second flush finds the error, and notifies all that wait.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Makes a call, and from another thread a nudge whenever it has waited for `pause` once more.
/// Nudges may wait as long as the call does; all have ended when this returns.
pub(super) fn nudged<T>(
    pause: Duration,
    nudge: impl Fn() + Clone + Send + 'static,
    call: impl FnOnce() -> T,
) -> T {
    let (ended, waits) = mpsc::channel::<()>();
    let watch = move || {
        let mut nudges = Vec::new();
        while waits.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            // Each in a thread of its own: one that came too early for the error waits as well.
            let spawned = thread::Builder::new()
                .name("orlop-nudge".to_owned())
                .spawn(nudge.clone());
            nudges.extend(spawned);
        }
        for nudge in nudges {
            // A nudge that panicked has nudged.
            let _ = nudge.join();
        }
    };
    let watcher = thread::Builder::new().name("orlop-nudges".to_owned());
    let watcher = watcher.spawn(watch);
    let result = call();
    drop(ended);
    if let Ok(watcher) = watcher {
        let _ = watcher.join();
    }
    result
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::{Condvar, Mutex};

    use super::*;

    /// What sled does: waits for a notice, and who comes after the error gives it.
    #[derive(Default)]
    struct Forgetful {
        waiting: Mutex<bool>,
        notice: Condvar,
    }

    #[test]
    fn a_flush_that_sled_forgets_to_wake_is_woken() {
        let sled = Arc::new(Forgetful::default());
        let (nudge, call) = (Arc::clone(&sled), sled);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let nudge = move || {
                if *nudge.waiting.lock() {
                    nudge.notice.notify_all();
                }
            };
            nudged(Duration::from_millis(1), nudge, || {
                let mut waiting = call.waiting.lock();
                *waiting = true;
                call.notice.wait(&mut waiting);
            });
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_secs(20)).expect("woken");
    }

    #[test]
    fn what_a_call_gives_is_passed_on() {
        let never = || unreachable!("nobody waits");
        assert_eq!(nudged(Duration::from_hours(1), never, || 7), 7);
    }
}
