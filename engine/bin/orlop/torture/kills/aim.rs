//! The aim: in which phase a child is to die, and how long after that phase began.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::life::Phase;

/// How often each phase is aimed at, of a store that exists.
const WEIGHTS: [(Phase, u32); 6] = [
    (Phase::Start, 4),
    (Phase::Recovery, 28),
    (Phase::Work, 34),
    (Phase::Checkpoint, 16),
    (Phase::Backup, 12),
    (Phase::Close, 16),
];
/// How often a child that creates its store is killed while it does.
const CREATING_PERCENT: u32 = 75;
/// How long a phase is believed to take before one was seen.
const FIRST_GUESS: Duration = Duration::from_millis(5);

/// What was learned of how long phases take.
#[derive(Debug, Default)]
pub(crate) struct Aim {
    lengths: BTreeMap<Phase, Duration>,
}

impl Aim {
    /// The phase to kill in, and how long after its beginning.
    pub(crate) fn take(&self, random: &mut fastrand::Rng, fresh: bool) -> (Phase, Duration) {
        let phase = if fresh && random.u32(0..100) < CREATING_PERCENT {
            Phase::Open
        } else {
            let sum = WEIGHTS.iter().map(|(_, weight)| weight).sum();
            let mut drawn = random.u32(0..sum);
            let mut phases = WEIGHTS.iter();
            let hit = phases.find(|(_, weight)| match drawn.checked_sub(*weight) {
                Some(rest) => {
                    drawn = rest;
                    false
                }
                None => true,
            });
            match hit {
                Some((Phase::Recovery, _)) if fresh => Phase::Work,
                Some((phase, _)) => *phase,
                None => Phase::Work,
            }
        };
        let length = self.lengths.get(&phase).copied().unwrap_or(FIRST_GUESS);
        // A little longer than it takes, so that its end is met too.
        (phase, length.mul_f64(random.f64() * 1.2))
    }

    /// A phase was seen to its end.
    pub(crate) fn learn(&mut self, phase: Phase, length: Duration) {
        let known = self.lengths.entry(phase).or_insert(length);
        *known = (*known * 7 + length) / 8;
    }
}

/// The phases of one child, as they are heard.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) phase: Phase,
    since: Instant,
}

impl Course {
    pub(crate) fn start() -> Self {
        Self {
            phase: Phase::Start,
            since: Instant::now(),
        }
    }

    pub(crate) fn go_over(&mut self, phase: Phase, aim: &mut Aim) {
        aim.learn(self.phase, self.since.elapsed());
        self.phase = phase;
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_aimed_at() {
        let aim = Aim::default();
        let mut random = fastrand::Rng::with_seed(1);
        let mut met: BTreeMap<Phase, u32> = BTreeMap::new();
        for turn in 0..2000 {
            let (phase, _) = aim.take(&mut random, turn % 20 == 0);
            *met.entry(phase).or_default() += 1;
        }
        let aimed_at = WEIGHTS.iter().map(|(phase, _)| *phase);
        for phase in aimed_at.chain([Phase::Open]) {
            let times = met.get(&phase).copied().unwrap_or_default();
            assert!(times > 40, "{phase:?} {times} times");
        }
    }
}
