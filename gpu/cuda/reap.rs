//! Reap: takes completions off the ring while something is outstanding.
//!
//! It spins until about when the next one is due, then sleeps 20 to 200 us between looks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::runner::{Shared, nap};
use crate::hub::Hub;

/// Work that takes longer than this is slept through, not spun.
const SPIN_MAX: Duration = Duration::from_micros(50);

/// Until the runner is over.
pub(super) fn reap(hub: &Arc<Hub>, shared: &Shared) {
    let spins = crate::DeviceOptions::cores() > 1;
    let mut predicted = Duration::ZERO;
    loop {
        let over = shared.over.load(Ordering::SeqCst);
        let begun = Instant::now();
        let mut seen = hub.reaped();
        hub.reap();
        if over {
            return;
        }
        let (mut idle, mut since) = (0, begun);
        while hub.outstanding() > 0 && !shared.over.load(Ordering::SeqCst) {
            if spins && since.elapsed() < predicted.min(SPIN_MAX) {
                std::hint::spin_loop();
            } else {
                std::thread::park_timeout(nap(idle));
                idle += 1;
            }
            hub.reap();
            let now = hub.reaped();
            if now != seen {
                // A running mean over about four of them.
                predicted = (predicted * 3 + since.elapsed()) / 4;
                (seen, idle, since) = (now, 0, Instant::now());
            }
        }
        if !shared.over.load(Ordering::SeqCst) {
            // Whoever publishes from now on leaves a token.
            std::thread::park();
        }
    }
}
