//! Watch: whether a device's process still moves.
//!
//! Bounds are counted in looks and not read off a clock: while this process stands still, or the
//! whole machine sleeps, nothing is counted.

use std::time::Duration;

use super::options::ChildOptions;
use crate::lost::DeviceLost;
use crate::slot::{SlotData, join};

/// Looks per bound, of the shorter one.
const LOOKS: u32 = 8;

/// See the module.
pub(super) struct Watch {
    period: Duration,
    silence: (u32, Duration),
    tile: (u32, Duration),
    /// What was asked last, and for how many looks there was no answer.
    asked: Option<u32>,
    silent: u32,
    /// What each worker ran at the last look, and for how many looks.
    ran: Vec<(SlotData, u32)>,
}

impl Watch {
    pub(super) fn new(options: &ChildOptions) -> Self {
        let period = options.silence_max.min(options.tile_max) / LOOKS;
        let looks = |bound: Duration| {
            let looks = bound.as_nanos().div_ceil(period.as_nanos().max(1));
            (u32::try_from(looks).unwrap_or(u32::MAX), bound)
        };
        Self {
            period,
            silence: looks(options.silence_max),
            tile: looks(options.tile_max),
            asked: None,
            silent: 0,
            ran: Vec::new(),
        }
    }

    /// The time between two looks.
    pub(super) const fn period(&self) -> Duration {
        self.period
    }

    /// There is nothing to watch: the next look is the first again.
    pub(super) fn rest(&mut self) {
        self.asked = None;
        self.silent = 0;
        self.ran.clear();
    }

    /// One look. `heard` is the last ring that was heard, `beats` what each worker says that it
    /// runs; `ring` rings once more, and says how often that was.
    pub(super) fn look(
        &mut self,
        heard: u32,
        beats: impl Iterator<Item = SlotData>,
        ring: impl FnOnce() -> u32,
    ) -> Option<DeviceLost> {
        // Counts wrap; what was asked is never half of them ahead.
        let answered = |asked: u32| heard.wrapping_sub(asked) <= u32::MAX / 2;
        if self.asked.is_none_or(answered) {
            self.silent = 0;
            self.asked = Some(ring());
        } else {
            self.silent += 1;
            let (looks, bound) = self.silence;
            if self.silent >= looks {
                return Some(DeviceLost::Silent { bound });
            }
        }
        for (worker, beat) in beats.enumerate() {
            if self.ran.len() <= worker {
                self.ran.push((SlotData::default(), 0));
            }
            let Some((ran, looks)) = self.ran.get_mut(worker) else {
                continue;
            };
            let ticket = join(beat[0], beat[1]);
            if ticket == 0 || *ran != beat {
                (*ran, *looks) = (beat, 0);
                continue;
            }
            *looks += 1;
            let (looks_max, bound) = self.tile;
            if *looks >= looks_max {
                let tile = beat[4];
                return Some(DeviceLost::Stuck {
                    ticket,
                    tile,
                    bound,
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch::new(&ChildOptions {
            silence_max: Duration::from_millis(80),
            tile_max: Duration::from_millis(160),
            ..ChildOptions::default()
        })
    }

    fn beat(ticket: u32, since: u32, tile: u32) -> SlotData {
        let mut beat = SlotData::default();
        (beat[0], beat[2], beat[4]) = (ticket, since, tile);
        beat
    }

    #[test]
    fn a_process_that_answers_is_never_silent_and_one_that_does_not_is_after_its_bound() {
        let mut watch = watch();
        for rung in 1..1000 {
            let lost = watch.look(rung - 1, std::iter::empty(), || rung);
            assert_eq!(lost, None);
        }
        for _ in 0..7 {
            assert_eq!(watch.look(998, std::iter::empty(), || 0), None);
        }
        let bound = Duration::from_millis(80);
        let lost = watch.look(998, std::iter::empty(), || 0);
        assert_eq!(lost, Some(DeviceLost::Silent { bound }));
    }

    #[test]
    fn a_count_that_wraps_is_an_answer() {
        let mut watch = watch();
        assert_eq!(watch.look(0, std::iter::empty(), || u32::MAX), None);
        for _ in 0..100 {
            assert_eq!(watch.look(3, std::iter::empty(), || 2), None);
        }
    }

    #[test]
    fn the_tile_that_stands_still_is_stuck_and_one_that_goes_on_is_not() {
        let mut watch = watch();
        let mut rung = 0;
        let mut look = |beats: [SlotData; 2]| {
            rung += 1;
            watch.look(rung - 1, beats.into_iter(), || rung)
        };
        for tile in 0..100 {
            assert_eq!(look([beat(7, 1, tile), beat(0, 0, 0)]), None);
        }
        for _ in 0..15 {
            assert_eq!(look([beat(7, 1, 99), beat(9, 3, 0)]), None);
        }
        let bound = Duration::from_millis(160);
        let stuck = DeviceLost::Stuck {
            ticket: 7,
            tile: 99,
            bound,
        };
        assert_eq!(look([beat(7, 1, 99), beat(9, 4, 0)]), Some(stuck));
    }
}
