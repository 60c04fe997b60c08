//! Placement: which of several executors an operation is cheapest on, by what was measured of each.
//!
//! An executor is a device or the host's threads. What an operation costs there is the wait for
//! what is out, the upload of what is cold, and its run; the last two are learnt from what work took.
//! Pure: no clock and no device; whoever runs the work says what it took.
//!
//! Invariants
//! - Among executors that were all measured, the one chosen is never dearer by these figures.
//! - One that was not measured is tried by one operation at a time.
//! - What is out is counted while its [`Placed`] lives, however that ends.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::entry::Opcode;

/// One executor, before anything was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executor {
    /// Its name, for people.
    pub name: String,
    /// How many operations it runs side by side; 0 counts as 1.
    pub parallel: u32,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The operation.
    pub opcode: Opcode,
    /// Bytes that it reads.
    pub bytes: u64,
    /// How many of these each executor would have to be sent first, in the order of the executors;
    /// 0 for those beyond.
    pub cold: &'a [u64],
}

/// What an operation is expected to take on one executor, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Until what is out before it is done.
    pub wait: u64,
    /// To send what is cold; `None` if nothing was ever sent there.
    pub upload: Option<u64>,
    /// To run; `None` if the operation never ran there.
    pub run: Option<u64>,
}

impl Estimate {
    /// All of it, if all of it is known.
    pub fn total(&self) -> Option<u64> {
        let parts = self.upload?.saturating_add(self.run?);
        Some(self.wait.saturating_add(parts))
    }
}

/// Why an executor was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no other.
    Only,
    /// Some of what it would take there was never measured.
    Unmeasured,
    /// None is cheaper.
    Cheapest,
}

/// What was decided, and by which figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The index of the executor.
    pub executor: usize,
    /// Why.
    pub why: Why,
    /// What it would take on each.
    pub estimates: SmallVec<[Estimate; 2]>,
    names: Arc<[Executor]>,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |at: usize| self.names.get(at).map_or("?", |one| one.name.as_str());
        let why = match self.why {
            Why::Only => "the only one",
            Why::Unmeasured => "to be measured",
            Why::Cheapest => "cheapest",
        };
        write!(f, "{} ({why})", name(self.executor))?;
        for (at, estimate) in self.estimates.iter().enumerate() {
            write!(f, "; {}: wait {} ns", name(at), estimate.wait)?;
            match estimate.upload {
                Some(nanos) => write!(f, ", upload {nanos} ns")?,
                None => f.write_str(", upload unknown")?,
            }
            match estimate.run {
                Some(nanos) => write!(f, ", run {nanos} ns")?,
                None => f.write_str(", run unknown")?,
            }
        }
        Ok(())
    }
}

/// The weight of one sample among those before it: an eighth.
const WEIGHT: u64 = 8;

/// A mean that follows what it is told; the first sample is believed.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Option<u64>);

impl Mean {
    fn learn(&mut self, sample: u64) {
        self.0 = Some(match self.0 {
            None => sample,
            // Rounded towards the sample, so that it is reached and not only neared.
            Some(mean) if mean < sample => mean + (sample - mean).div_ceil(WEIGHT),
            Some(mean) => mean - (mean - sample).div_ceil(WEIGHT),
        });
    }
}

/// What was measured of one executor, and what is out there.
#[derive(Debug, Default)]
struct Figures {
    /// Nanoseconds of an operation that reads about so many bytes: by the logarithm.
    runs: BTreeMap<(Opcode, u32), Mean>,
    /// Picoseconds to send one byte.
    link: Mean,
    /// Nanoseconds that are out, as estimated.
    out: u64,
    /// Operations out that are to measure something.
    trials: u32,
}

fn bucket(bytes: u64) -> u32 {
    u64::BITS - bytes.leading_zeros()
}

impl Figures {
    /// By work of about the same size; else by the nearest smaller, in proportion, or the nearest
    /// larger.
    fn run(&self, opcode: Opcode, bytes: u64) -> Option<u64> {
        let own = bucket(bytes);
        let mut smaller = self.runs.range((opcode, 0)..=(opcode, own)).rev();
        if let Some(((_, near), mean)) = smaller.next() {
            let factor = 1_u64.checked_shl(own - near).unwrap_or(u64::MAX);
            return mean.0.map(|nanos| nanos.saturating_mul(factor));
        }
        let mut larger = self.runs.range((opcode, own)..=(opcode, u32::MAX));
        larger.next().and_then(|(_, mean)| mean.0)
    }

    fn upload(&self, cold: u64) -> Option<u64> {
        if cold == 0 {
            return Some(0);
        }
        let picos = u128::from(self.link.0?) * u128::from(cold);
        Some(u64::try_from(picos.div_ceil(1000)).unwrap_or(u64::MAX))
    }
}

/// Chooses among executors and learns from what work took. Cheap to clone; clones share figures.
#[derive(Clone, Debug)]
pub struct Placer {
    executors: Arc<[Executor]>,
    figures: Arc<Mutex<Vec<Figures>>>,
}

impl Placer {
    /// Over these executors, of which nothing is known yet.
    pub fn new(executors: Vec<Executor>) -> Self {
        let figures = executors.iter().map(|_| Figures::default());
        Self {
            figures: Arc::new(Mutex::new(figures.collect())),
            executors: executors.into(),
        }
    }

    /// Decides where an operation is to run, and counts it as out there. `None` without executors.
    pub fn place(&self, ask: Ask<'_>) -> Option<Placed> {
        let mut figures = self.figures.lock();
        let estimates: SmallVec<[Estimate; 2]> = figures
            .iter()
            .zip(&*self.executors)
            .enumerate()
            .map(|(at, (figures, executor))| Estimate {
                wait: figures.out / u64::from(executor.parallel.max(1)),
                upload: figures.upload(ask.cold.get(at).copied().unwrap_or(0)),
                run: figures.run(ask.opcode, ask.bytes),
            })
            .collect();
        let trial = |(estimate, figures): (&Estimate, &Figures)| {
            estimate.total().is_none() && figures.trials == 0
        };
        let untried = estimates.iter().zip(figures.iter()).position(trial);
        let known = estimates.iter().enumerate();
        let known = known.filter_map(|(at, estimate)| Some((estimate.total()?, at)));
        let (executor, why) = match (self.executors.len(), untried, known.min()) {
            (0, _, _) => return None,
            (1, _, _) => (0, Why::Only),
            (_, Some(at), _) => (at, Why::Unmeasured),
            (_, None, Some((_, at))) => (at, Why::Cheapest),
            // All are being tried.
            (_, None, None) => (0, Why::Unmeasured),
        };
        let chosen = estimates.get(executor)?;
        let out = chosen
            .upload
            .unwrap_or(0)
            .saturating_add(chosen.run.unwrap_or(0));
        let is_trial = why == Why::Unmeasured;
        if let Some(figures) = figures.get_mut(executor) {
            figures.out = figures.out.saturating_add(out);
            figures.trials += u32::from(is_trial);
        }
        drop(figures);
        let decision = Decision {
            executor,
            why,
            estimates,
            names: Arc::clone(&self.executors),
        };
        Some(Placed {
            placer: self.clone(),
            opcode: ask.opcode,
            bytes: ask.bytes,
            decision,
            out,
            is_trial,
        })
    }
}

/// An operation that is out on the executor that was chosen for it. Dropped, it is out no longer.
#[derive(Debug)]
#[must_use = "dropped, it counts as out no longer"]
pub struct Placed {
    placer: Placer,
    opcode: Opcode,
    bytes: u64,
    decision: Decision,
    out: u64,
    is_trial: bool,
}

impl Placed {
    /// Where, and why there.
    pub const fn decision(&self) -> &Decision {
        &self.decision
    }

    /// So many bytes were sent there in so many nanoseconds.
    pub fn uploaded(&self, bytes: u64, nanos: u64) {
        if bytes > 0 {
            let picos = u128::from(nanos) * 1000 / u128::from(bytes);
            let picos = u64::try_from(picos).unwrap_or(u64::MAX);
            self.learn(|figures| figures.link.learn(picos));
        }
    }

    /// It ran for so many nanoseconds, and is over.
    pub fn ran(self, nanos: u64) {
        let key = (self.opcode, bucket(self.bytes));
        self.learn(|figures| figures.runs.entry(key).or_default().learn(nanos));
    }

    fn learn(&self, what: impl FnOnce(&mut Figures)) {
        let mut figures = self.placer.figures.lock();
        if let Some(figures) = figures.get_mut(self.decision.executor) {
            what(figures);
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let (out, is_trial) = (self.out, self.is_trial);
        self.learn(|figures| {
            figures.out = figures.out.saturating_sub(out);
            figures.trials = figures.trials.saturating_sub(u32::from(is_trial));
        });
    }
}
