//! Bells: how one process tells another that there is something in their shared memory.
//!
//! A bell counts how often it was rung, and its one listener sleeps while that count is what it
//! knows. A ring while nobody sleeps is two memory operations and no call of the system.
//!
//! Invariants
//! - A ring after which the listener looked is heard: either the ringer sees it asleep, or the
//!   system finds another count than the one it was to sleep on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex::{self, Flags};

use crate::memory::Region;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    region: Arc<Region>,
    at: u64,
}

impl Bell {
    /// The bell at a place of the header's page.
    pub(super) fn at(region: &Arc<Region>, at: u64) -> Self {
        let region = Arc::clone(region);
        Self { region, at }
    }

    fn count(&self) -> Option<&AtomicU32> {
        self.region.host_word(self.at)
    }

    fn sleeping(&self) -> Option<&AtomicU32> {
        self.region.host_word(self.at + 4)
    }

    /// How often it was rung.
    #[cfg(test)]
    pub(super) fn rung(&self) -> u32 {
        self.count().map_or(0, |count| count.load(Ordering::SeqCst))
    }

    /// Rings; says how often it was rung by then.
    pub(super) fn ring(&self) -> u32 {
        let (Some(count), Some(sleeping)) = (self.count(), self.sleeping()) else {
            return 0;
        };
        let rung = count.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        if sleeping.load(Ordering::SeqCst) != 0 {
            // Nothing can be wrong with a word that is mapped.
            let _ = futex::wake(count, Flags::empty(), 1);
        }
        rung
    }

    /// Sleeps until it was rung more often than `heard`; says how often.
    pub(super) fn wait(&self, heard: u32) -> u32 {
        let (Some(count), Some(sleeping)) = (self.count(), self.sleeping()) else {
            return heard;
        };
        loop {
            let rung = count.load(Ordering::SeqCst);
            if rung != heard {
                return rung;
            }
            sleeping.store(1, Ordering::SeqCst);
            // Returns at once if the count is another by now; interrupted, it looks again.
            let _ = futex::wait(count, Flags::empty(), heard, None);
            sleeping.store(0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::host_word;

    #[test]
    fn every_ring_after_a_look_ends_the_sleep() {
        let region = Arc::new(Region::new(4096).unwrap());
        let there = Bell::at(&region, host_word::WORK_BELL);
        let back = Bell::at(&region, host_word::POSTED_BELL);
        let (theirs, echo) = (there.clone(), back.clone());
        let listener = std::thread::spawn(move || {
            let mut heard = 0;
            while heard < 2000 {
                heard = theirs.wait(heard);
                echo.ring();
            }
        });
        let mut answered = 0;
        for round in 1..=2000 {
            assert_eq!(there.ring(), round);
            // One lost wake-up, and neither side moves any more.
            answered = back.wait(answered);
        }
        listener.join().unwrap();
        assert_eq!((there.rung(), back.rung()), (2000, 2000));
    }
}
