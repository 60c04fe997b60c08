//! Heart: whether the kernel still gets on.
//!
//! A tile that stands still, and a ring that does: both are told by comparing what was seen with
//! what is seen. Clocks of the device are not compared with ours, and of ours no more than a step is
//! counted between two looks: while this process stands still, the kernel is not blamed.

use std::time::{Duration, Instant};

use crate::lost::DeviceLost;
use crate::slot::{SlotData, join};

/// The most that is counted between two looks.
const STEP_MAX: Duration = Duration::from_millis(10);

/// What was seen, and for how long.
pub(super) struct Heart {
    bound: Duration,
    looked: Instant,
    beats: Vec<(SlotData, Duration)>,
    progress: (u64, Duration),
}

impl Heart {
    pub(super) const fn new(bound: Duration, now: Instant) -> Self {
        Self {
            bound,
            looked: now,
            beats: Vec::new(),
            progress: (0, Duration::ZERO),
        }
    }

    /// What stands still. `progress` is any count that rises when something ends, `waits` whether
    /// the device has something to do.
    pub(super) fn check(
        &mut self,
        now: Instant,
        beats: impl Iterator<Item = SlotData>,
        progress: u64,
        waits: bool,
    ) -> Option<DeviceLost> {
        let step = now.saturating_duration_since(self.looked).min(STEP_MAX);
        self.looked = now;
        let (mut runs, mut stuck) = (false, None);
        for (worker, beat) in beats.enumerate() {
            if self.beats.len() <= worker {
                self.beats.push((SlotData::default(), Duration::ZERO));
            }
            let Some((seen, waited)) = self.beats.get_mut(worker) else {
                continue;
            };
            let ticket = join(beat[0], beat[1]);
            if ticket == 0 || *seen != beat {
                runs |= ticket != 0;
                (*seen, *waited) = (beat, Duration::ZERO);
                continue;
            }
            runs = true;
            *waited += step;
            if *waited >= self.bound && stuck.is_none() {
                stuck = Some(DeviceLost::Stuck {
                    ticket,
                    tile: beat[4],
                    bound: self.bound,
                });
            }
        }
        if self.progress.0 != progress || !waits || runs {
            self.progress = (progress, Duration::ZERO);
        } else {
            self.progress.1 += step;
        }
        let bound = self.bound;
        stuck.or((self.progress.1 >= bound).then_some(DeviceLost::Silent { bound }))
    }

    /// Nothing was expected of the device meanwhile.
    pub(super) fn restart(&mut self, now: Instant) {
        self.looked = now;
        self.progress.1 = Duration::ZERO;
        for (_, waited) in &mut self.beats {
            *waited = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(20);

    fn beat(ticket: u32, since: u32, tile: u32) -> SlotData {
        let mut beat = SlotData::default();
        (beat[0], beat[2], beat[4]) = (ticket, since, tile);
        beat
    }

    /// Looks 5 ms after the last one.
    fn look(
        heart: &mut Heart,
        beats: [SlotData; 2],
        progress: u64,
        waits: bool,
    ) -> Option<DeviceLost> {
        let now = heart.looked + Duration::from_millis(5);
        heart.check(now, beats.into_iter(), progress, waits)
    }

    #[test]
    fn a_tile_that_stands_still_is_named_and_one_that_changes_is_not() {
        let mut heart = Heart::new(BOUND, Instant::now());
        let idle = SlotData::default();
        for tile in 0..20 {
            // The next tile of the same task, and the same tile of another one.
            assert_eq!(look(&mut heart, [idle, beat(7, 1, tile)], 0, true), None);
            assert_eq!(look(&mut heart, [idle, beat(7, 2, tile)], 0, true), None);
        }
        for _ in 0..3 {
            assert_eq!(look(&mut heart, [idle, beat(7, 2, 19)], 0, true), None);
        }
        let stuck = DeviceLost::Stuck {
            ticket: 7,
            tile: 19,
            bound: BOUND,
        };
        assert_eq!(
            look(&mut heart, [idle, beat(7, 2, 19)], 0, true),
            Some(stuck)
        );
    }

    #[test]
    fn a_ring_that_nobody_reads_is_a_hang_and_an_empty_one_is_not() {
        let mut heart = Heart::new(BOUND, Instant::now());
        let idle = [SlotData::default(); 2];
        for _ in 0..20 {
            assert_eq!(look(&mut heart, idle, 0, false), None);
        }
        for _ in 0..3 {
            assert_eq!(look(&mut heart, idle, 0, true), None);
        }
        // Something ended.
        for _ in 0..4 {
            assert_eq!(look(&mut heart, idle, 1, true), None);
        }
        let silent = DeviceLost::Silent { bound: BOUND };
        assert_eq!(look(&mut heart, idle, 1, true), Some(silent));
        heart.restart(heart.looked);
        assert_eq!(look(&mut heart, idle, 1, true), None);
    }

    #[test]
    fn while_this_process_stands_still_the_kernel_is_not_blamed() {
        let mut heart = Heart::new(BOUND, Instant::now());
        let runs = [beat(7, 1, 0), SlotData::default()];
        assert_eq!(look(&mut heart, runs, 0, true), None);
        let late = heart.looked + Duration::from_hours(1);
        assert_eq!(heart.check(late, runs.into_iter(), 0, true), None);
    }
}
