//! Halfway marks: a limit is worth a warning before it bites, once and not at every call.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether a limit has been warned of. Any number of threads may look at once.
///
/// A *level* is something there is more or less of: it warns when it comes to half of its limit,
/// and again only after it had fallen below a quarter. A *size* is of one thing: the first of at
/// least half the limit warns, then only one that reaches an eighth of the limit that none has.
#[derive(Debug, Default)]
pub struct Halfway(AtomicU8);

impl Halfway {
    /// Nothing was warned of yet.
    pub const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// Looks at a level; true if it is to be warned of now.
    pub fn level(&self, value: u64, limit: u64) -> bool {
        if value.saturating_mul(2) >= limit {
            return self.0.swap(4, Ordering::Relaxed) == 0;
        }
        if value.saturating_mul(4) < limit && self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
        false
    }

    /// Looks at a size; true if it is to be warned of now.
    pub fn size(&self, value: u64, limit: u64) -> bool {
        let eighth = value.saturating_mul(8).checked_div(limit).unwrap_or(8);
        let eighth = u8::try_from(eighth.min(8)).unwrap_or(8);
        eighth >= 4
            && self.0.load(Ordering::Relaxed) < eighth
            && self.0.fetch_max(eighth, Ordering::Relaxed) < eighth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_warns_at_each_crossing_of_half_and_not_while_it_stays_about_there() {
        let mark = Halfway::new();
        let levels = [0, 49, 50, 51, 49, 50, 99, 30, 50, 24, 49, 50, 60];
        let warned: Vec<u64> = levels
            .into_iter()
            .filter(|level| mark.level(*level, 100))
            .collect();
        assert_eq!(warned, [50, 50]);
    }

    #[test]
    fn a_size_warns_once_for_each_eighth_from_half_on() {
        let mark = Halfway::new();
        let sizes = [10, 399, 400, 400, 450, 10, 500, 499, 700, 400, 800, 799];
        let warned: Vec<u64> = sizes
            .into_iter()
            .filter(|size| mark.size(*size, 800))
            .collect();
        assert_eq!(warned, [400, 500, 700, 800]);
    }
}
