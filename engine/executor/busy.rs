//! Who is busy: how many attempts run whose owners have not heard the end.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::timers::Work;

/// Attempts that were launched and whose owners have not heard the end.
#[derive(Default)]
pub(crate) struct Busy {
    count: Mutex<usize>,
    quiet: Condvar,
}

impl Busy {
    pub(super) fn begin(self: &Arc<Self>, work: Work) -> BusyGuard {
        *self.count.lock() += 1;
        BusyGuard {
            busy: Arc::clone(self),
            _work: work,
        }
    }

    /// Waits until every owner has heard, at most until `deadline`.
    pub(crate) fn wait_quiet(&self, deadline: Instant) -> bool {
        let mut count = self.count.lock();
        let waiting = |count: &mut usize| *count > 0;
        !self
            .quiet
            .wait_while_until(&mut count, waiting, deadline)
            .timed_out()
    }
}

pub(super) struct BusyGuard {
    busy: Arc<Busy>,
    _work: Work,
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let mut count = self.busy.count.lock();
        *count -= 1;
        if *count == 0 {
            self.busy.quiet.notify_all();
        }
    }
}
