//! The machine: everything of a simulated computer that outlives a crash.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use orlop_saga::event::Event;
use orlop_saga::id::{Lsn, SagaId, StoreId};
use orlop_saga::outcome::Disposition;
use orlop_saga::record;
use orlop_saga::saga::SagaEvent;
use orlop_saga::step::StepOutcome;
use orlop_store::disk::{Disk, SimDisk};
use orlop_store::log::{LogOptions, Opened, Replay, ReplayError, SimLogDisk};
use orlop_store::store::Parts;
use orlop_store::tables::sim::{SimHome, SimShelf};

use super::past::Past;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) log: SimLogDisk,
    shelf: SimShelf,
    disk: SimDisk,
}

impl Machine {
    pub(crate) fn parts(&self) -> Parts {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        Parts {
            store: StoreId::new(*b"orlop crash test"),
            log: Box::new(self.log.open(LogOptions::default())),
            home: Box::new(SimHome::new(self.shelf.clone())),
            disk,
            folder: PathBuf::from("/"),
        }
    }

    /// What the machine finds when it has power again; whoever ran before has lost its disks.
    /// What of the journal was written and not synced is there if it is `kept`; what became of the
    /// other disks is drawn from `seed`.
    ///
    /// The journal stops first, so that an engine that is only being dropped gets no further.
    pub(crate) fn crash(&self, kept: bool, seed: u64) -> Self {
        self.log.power_off_after(0);
        self.disk.power_off_after(0);
        self.shelf.crash(seed);
        Self {
            log: self.log.crash_keeping(if kept { u64::MAX } else { 0 }),
            shelf: self.shelf.clone(),
            disk: self.disk.crash(seed.rotate_left(31)),
        }
    }

    /// What would be left of the journal if the power went now.
    pub(crate) fn durable(log: &SimLogDisk) -> Past {
        Self {
            log: log.crash_keeping(0),
            ..Self::default()
        }
        .past()
    }

    /// What the journal has.
    pub(crate) fn past(&self) -> Past {
        Past::of(&self.events())
    }

    /// The steps that failed for good, each with its reason, as the journal says. What was given up
    /// because the saga unwinds anyway did not fail.
    pub(crate) fn failures(&self) -> Vec<(String, String)> {
        let mut paths: BTreeMap<SagaId, Vec<String>> = BTreeMap::new();
        let mut failures = Vec::new();
        for (saga, event) in self.events() {
            let paths = paths.entry(saga).or_default();
            if let SagaEvent::Called { path, .. } = &event {
                paths.push(path.to_string());
            }
            if let SagaEvent::Settled {
                step,
                outcome: StepOutcome::FailedNoEffect(failure),
                ..
            } = &event
                && failure.disposition() == Disposition::Permanent
            {
                let index = usize::try_from(step.get()).unwrap_or(usize::MAX);
                let path = paths.get(index).cloned().unwrap_or_default();
                failures.push((path, failure.reason().to_owned()));
            }
        }
        failures
    }

    /// The events of sagas that the journal has.
    fn events(&self) -> Vec<(SagaId, SagaEvent)> {
        let mut events = Events(Vec::new());
        let log = self.log.open(LogOptions::default());
        // A journal that cannot be read is found by whoever opens it.
        let _ = log.replay(log.first_lsn(), &mut events);
        events.0
    }
}

struct Events(Vec<(SagaId, SagaEvent)>);

impl Replay for Events {
    fn record(&mut self, _lsn: Lsn, bytes: &[u8]) -> Result<(), ReplayError> {
        if let Ok(Event::Saga { id, event }) = record::decode(bytes) {
            self.0.push((id, event));
        }
        Ok(())
    }
}
