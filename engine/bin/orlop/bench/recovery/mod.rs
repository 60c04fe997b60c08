//! The suite `recovery`: how soon an engine works again that left much behind.
//!
//! The stores are filled through the store's own code with what engines would have recorded: see
//! [`load`]. Nothing of what they have is in memory when they are opened, but for what the system
//! caches of their files.

mod load;

use std::time::{Duration, Instant};

use orlop::{Engine, EngineBuilder, Limits, Noop, Options, wait};
use tempfile::TempDir;

use super::BenchError;
use super::figure::Figure;
use super::sample::{Bound, ROUNDS, Round, Subject, count};
use super::stage::store_in;
use super::workflow::{Nothing, Waiting, Workflow};

const SUITE: &str = "recovery";
const FINISHED: u64 = 1_000_000;
const UNFINISHED: u64 = 10_000;
/// How many times less the shorter history is.
const SHORTER: u64 = 10;
/// How often is looked whether all sagas are in memory.
const LOOK_EVERY: Duration = Duration::from_micros(200);
const RESUMED_WITHIN: Duration = Duration::from_mins(1);

const OPEN: Subject = Subject {
    id: "recovery.open",
    suite: SUITE,
    name: "1,000,000 finished and 10,000 unfinished sagas: opened, and new work done",
    unit: "s",
    reference: "the same with a tenth of the finished ones",
};
const HISTORY: Subject = Subject {
    id: "recovery.history",
    suite: SUITE,
    name: "what ten times the history adds to that, for each GB of tables that it adds",
    unit: "s/GB",
    reference: "the longer opening",
};
const RESUME: Subject = Subject {
    id: "recovery.resume",
    suite: SUITE,
    name: "unfinished sagas that are played up to where they were",
    unit: "1/s",
    reference: "20,000/s",
};

/// Measures every figure. How long that takes follows from the work, not from a duration.
pub(crate) fn measure() -> Result<Vec<Figure>, BenchError> {
    let short = Store::filled(FINISHED / SHORTER)?;
    let long = Store::filled(FINISHED)?;
    let bytes = long.tables_bytes()?.saturating_sub(short.tables_bytes()?);
    let gigabytes = count(usize::try_from(bytes).unwrap_or(usize::MAX)) / 1e9;
    let (mut open, mut history, mut resume) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (brief, _) = short.open()?;
        let (whole, resumed) = long.open()?;
        let round = |value, reference| Round {
            value,
            reference,
            samples: 1,
        };
        open.push(round(whole, brief));
        history.push(round((whole - brief).max(0.0) / gigabytes, whole));
        resume.push(round(resumed, 20_000.0));
    }
    Ok(vec![
        OPEN.figure(&[Bound::Most(2.0)], open),
        HISTORY.figure(&[Bound::Most(1.0)], history),
        RESUME.figure(&[Bound::Least(20_000.0)], resume),
    ])
}

/// A closed store.
struct Store {
    folder: TempDir,
}

impl Store {
    fn filled(finished: u64) -> Result<Self, BenchError> {
        let folder = tempfile::tempdir().map_err(BenchError::Folder)?;
        let store = store_in(folder.path());
        let engine = Engine::builder(&store).open_blocking()?;
        let tenant = engine.blocking().tenant("bench")?.id();
        engine.blocking().close()?;
        load::fill(&store, tenant, finished, UNFINISHED)?;
        Ok(Self { folder })
    }

    fn builder(&self) -> EngineBuilder {
        let defaults = Options::default();
        let options = Options {
            limits: Limits {
                sagas_resident_max: usize::try_from(2 * UNFINISHED).unwrap_or(usize::MAX),
                ..defaults.limits
            },
            // The clean end of what was loaded is written without hurry.
            close_timeout: Duration::from_mins(2),
            ..defaults
        };
        Engine::builder(store_in(self.folder.path()))
            .options(options)
            .saga(Workflow)
            .saga(Waiting)
            .undo(Nothing, Nothing)
    }

    /// Seconds until new work was done, and unfinished sagas a second from there until all are
    /// in memory and where they were. Closes it again.
    fn open(&self) -> Result<(f64, f64), BenchError> {
        let begun = Instant::now();
        let engine = self.builder().open_blocking()?;
        let store_took = engine.recovery().took;
        let tenant = engine.blocking().tenant("bench")?;
        wait(tenant.submit(Noop, u64::from(begun.elapsed().subsec_nanos())))?;
        let opened = begun.elapsed();
        let unfinished = usize::try_from(UNFINISHED).unwrap_or(usize::MAX);
        while engine.snapshot().sagas_resident < unfinished {
            if begun.elapsed().saturating_sub(opened) > RESUMED_WITHIN {
                return Err(BenchError::NothingRan);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        // All that was not the store's part: rebuilding what they are in memory, and playing them.
        let played = begun.elapsed().saturating_sub(store_took).as_secs_f64();
        engine.blocking().close()?;
        Ok((opened.as_secs_f64(), count(unfinished) / played))
    }

    fn tables_bytes(&self) -> Result<u64, BenchError> {
        load::bytes_in(&store_in(self.folder.path()).join("tables"))
    }
}
