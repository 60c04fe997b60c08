//! Loading: fills a store with finished and unfinished sagas, without running them.
//!
//! The records are those that an engine writes, appended through the store in large batches; the
//! tables, checkpoints and exports follow as they always do.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use orlop::{
    BusyNanos, Clock, Computation, Key, Noop, Saga, SystemClock, TenantId, Undo, WallMillis,
};
use orlop_saga::canonical::{self, Payload};
use orlop_saga::effect::{CodeRef, EffectId};
use orlop_saga::event::Event;
use orlop_saga::id::{Attempt, Fence, SagaId, StepIndex};
use orlop_saga::key::Fingerprint;
use orlop_saga::path::StepPath;
use orlop_saga::saga::{CallIntent, SagaEvent, SagaStart, UndoIntent};
use orlop_saga::step::StepOutcome;
use orlop_saga::tenant::{AuditTag, Class};
use orlop_saga::trace::TraceContext;
use orlop_store::log::{AppendError, Lane, LsnRange, Purpose};
use orlop_store::projector::Unobserved;
use orlop_store::store::{AppendRefused, Store, StoreOptions};

use crate::bench::BenchError;
use crate::bench::workflow::{Nothing, SIGNAL, STEPS, STEPS_BEFORE, Waiting, Workflow};

/// Sagas whose records are appended together.
const TOGETHER: u64 = 512;
/// Batches on their way to the disk.
const UNDER_WAY: usize = 8;
const CLOSED_WITHIN: Duration = Duration::from_mins(10);
/// Until the tables have caught up a little.
const PAUSE: Duration = Duration::from_millis(5);
const PAYLOAD_BYTES_MAX: usize = 64;

/// Fills the closed store of an engine. The sagas are this tenant's.
pub(super) fn fill(
    path: &Path,
    tenant: TenantId,
    finished: u64,
    unfinished: u64,
) -> Result<(), BenchError> {
    let clock = Arc::new(SystemClock::default());
    let at = clock.wall();
    let (store, recovered) =
        Store::open(path, StoreOptions::default(), clock, Arc::new(Unobserved))
            .map_err(BenchError::load)?;
    let history = History {
        tenant,
        fence: Fence::new(recovered.incarnation, Attempt::new(1)),
        at,
    };
    let first = recovered.live.saga_last().get() + 1;
    let mut loader = Loader {
        store: &store,
        under_way: Vec::new(),
    };
    let mut events = Vec::new();
    for number in 0..finished + unfinished {
        let id = SagaId::new(first + number);
        // The unfinished ones are the oldest, so that every checkpoint has them.
        if number < unfinished {
            history.unfinished(id, &mut events)?;
        } else {
            history.finished(id, &mut events)?;
        }
        if (number + 1) % TOGETHER == 0 {
            loader.append(&std::mem::take(&mut events))?;
        }
    }
    events.push(Event::Closed { at });
    loader.append(&events)?;
    loader.wait_for_all()?;
    store.close(CLOSED_WITHIN).map_err(BenchError::load)
}

type Answer = Result<LsnRange, AppendError>;

struct Loader<'a> {
    store: &'a Store,
    under_way: Vec<Receiver<Answer>>,
}

impl Loader<'_> {
    fn append(&mut self, events: &[Event]) -> Result<(), BenchError> {
        if self.under_way.len() >= UNDER_WAY {
            heard(&self.under_way.remove(0))?;
        }
        loop {
            let (tell, told) = channel();
            let ack = move |answer: Answer| {
                // The receiver waits for it.
                let _ = tell.send(answer);
            };
            let ack = Box::new(ack);
            match self.store.append(Lane(0), Purpose::New, events, ack) {
                Ok(()) => {
                    self.under_way.push(told);
                    return Ok(());
                }
                Err(AppendRefused::Backlogged { .. }) => std::thread::sleep(PAUSE),
                Err(refused) => return Err(BenchError::load(refused)),
            }
        }
    }

    fn wait_for_all(&mut self) -> Result<(), BenchError> {
        self.under_way.drain(..).try_for_each(|told| heard(&told))
    }
}

fn heard(told: &Receiver<Answer>) -> Result<(), BenchError> {
    let answer = told.recv().map_err(BenchError::load)?;
    answer.map(drop).map_err(BenchError::load)
}

/// What engines record of sagas that nothing goes wrong with.
struct History {
    tenant: TenantId,
    fence: Fence,
    at: WallMillis,
}

impl History {
    fn finished(&self, id: SagaId, events: &mut Vec<Event>) -> Result<(), BenchError> {
        self.begun::<Workflow>(id, STEPS.len(), events)?;
        let output = payload(&())?;
        let event = SagaEvent::Completed {
            output,
            at: self.at,
        };
        events.push(Event::Saga { id, event });
        Ok(())
    }

    fn unfinished(&self, id: SagaId, events: &mut Vec<Event>) -> Result<(), BenchError> {
        self.begun::<Waiting>(id, STEPS_BEFORE, events)?;
        let path = StepPath::root(SIGNAL).map_err(BenchError::load)?;
        let intent = CallIntent::Signal {
            name: SIGNAL.into(),
        };
        let event = SagaEvent::Called { path, intent };
        events.push(Event::Saga { id, event });
        Ok(())
    }

    /// The start and so many steps.
    fn begun<S: Saga<Input = u64>>(
        &self,
        id: SagaId,
        steps: usize,
        events: &mut Vec<Event>,
    ) -> Result<(), BenchError> {
        let mut record = |event| events.push(Event::Saga { id, event });
        let input = payload(&id.get())?;
        let day = Duration::from_hours(24);
        record(SagaEvent::Started(Box::new(SagaStart {
            id: EffectId {
                tenant: self.tenant,
                key: Key::named(&format!("loaded {}", id.get())),
            },
            fingerprint: Fingerprint::of(S::NAME, S::INPUT_SCHEMA, &input),
            code: CodeRef::new(S::NAME, S::VERSION),
            input: input.clone(),
            class: Class::default(),
            audit: AuditTag::default(),
            trace: TraceContext::default(),
            at: self.at,
            retention_ms: u64::try_from(day.as_millis()).unwrap_or(u64::MAX),
            paused: false,
            deadline: None,
            parent: None,
        })));
        for (step, name) in (0..).zip(STEPS.into_iter().take(steps)) {
            record(SagaEvent::Called {
                path: StepPath::root(name).map_err(BenchError::load)?,
                intent: CallIntent::Step {
                    code: CodeRef::new(Noop::NAME, Noop::VERSION),
                    fingerprint: Fingerprint::of(Noop::NAME, Noop::INPUT_SCHEMA, &input),
                    fence: self.fence,
                    undo: Some(UndoIntent {
                        code: CodeRef::new(Nothing::NAME, Nothing::VERSION),
                        argument: input.clone(),
                    }),
                },
            });
            record(SagaEvent::Settled {
                step: StepIndex::new(step),
                fence: self.fence,
                outcome: StepOutcome::Done(payload(&())?),
                cost: BusyNanos::new(1_000),
            });
        }
        Ok(())
    }
}

fn payload<T: serde::Serialize>(value: &T) -> Result<Payload, BenchError> {
    canonical::encode(value, PAYLOAD_BYTES_MAX).map_err(BenchError::load)
}

/// Bytes of all files in a folder and those below it.
pub(super) fn bytes_in(folder: &Path) -> Result<u64, BenchError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(BenchError::Folder)? {
        let entry = entry.map_err(BenchError::Folder)?;
        let found = entry.metadata().map_err(BenchError::Folder)?;
        bytes += if found.is_dir() {
            bytes_in(&entry.path())?
        } else {
            found.len()
        };
    }
    Ok(bytes)
}
