//! An engine whose clock the test turns, and work that takes as long as it is told to.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop::testkit::SimClock;
use orlop::{
    Attempt, BudgetOptions, BulkheadOptions, Clock, Computation, Engine, EngineBuilder, Failure,
    HostFunction, Options, Pure, Saga, SagaContext, SagaError, Tenant, TenantManager,
};
use tokio::sync::Semaphore;

/// The bulkhead of [`Turn`].
pub(crate) const NARROW: &str = "narrow";

/// One turn: who takes it, and its number.
#[derive(Clone, Copy)]
pub(crate) struct Turn;

impl Computation for Turn {
    const NAME: &'static str = "turn";
    type Input = (String, u64);
    type Output = u64;
    type Kind = Pure;
}

/// One turn that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    pub(crate) who: String,
    pub(crate) number: u64,
    pub(crate) millis: u64,
}

/// The code behind [`Turn`]: it waits to be let go, and for as long as whose turn it is takes.
#[derive(Clone)]
pub(crate) struct Turns {
    clock: SimClock,
    open: Arc<Semaphore>,
    began: Arc<Mutex<Vec<Began>>>,
    length: Arc<dyn Fn(&str) -> u64 + Send + Sync>,
}

impl Turns {
    /// Turns that take no time once they are let go.
    pub(crate) fn gated(clock: &SimClock) -> Self {
        Self {
            clock: clock.clone(),
            open: Arc::new(Semaphore::new(0)),
            began: Arc::default(),
            length: Arc::new(|_| 0),
        }
    }

    /// Turns that need not be let go and take so many milliseconds.
    pub(crate) fn lasting(
        clock: &SimClock,
        length: impl Fn(&str) -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            open: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            length: Arc::new(length),
            ..Self::gated(clock)
        }
    }

    /// Lets so many turns go, now or when they come.
    pub(crate) fn let_go(&self, turns: usize) {
        self.open.add_permits(turns);
    }

    /// The turns that have begun, in order.
    pub(crate) fn began(&self) -> Vec<Began> {
        self.began.lock().unwrap().clone()
    }

    /// The numbers of the turns that have begun, in order.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.began().iter().map(|turn| turn.number).collect()
    }
}

impl HostFunction<Turn> for Turns {
    async fn run(&self, _: Attempt, (who, number): (String, u64)) -> Result<u64, Failure> {
        let millis = (self.length)(&who);
        self.began.lock().unwrap().push(Began {
            who,
            number,
            millis,
        });
        self.open
            .acquire()
            .await
            .map_err(Failure::permanent)?
            .forget();
        if millis > 0 {
            self.clock.sleep(Duration::from_millis(millis)).await;
        }
        Ok(number)
    }

    fn bulkhead(&self) -> &'static str {
        NARROW
    }
}

/// Takes so many turns, one after the other.
pub(crate) struct Series;

impl Saga for Series {
    const NAME: &'static str = "series";
    type Input = (String, u64);
    type Output = ();

    async fn run(&self, saga: SagaContext, (who, turns): (String, u64)) -> Result<(), SagaError> {
        for number in 0..turns {
            let saga = saga.scope("turn", number);
            saga.step("take", Turn, (who.clone(), number)).await?;
        }
        Ok(())
    }
}

/// One slot and no queue.
pub(crate) fn no_queue() -> BulkheadOptions {
    BulkheadOptions {
        in_flight_max: 1,
        queue_max: 0,
        queue_per_tenant_max: 0,
        ..BulkheadOptions::new(NARROW)
    }
}

pub(crate) fn builder(
    folder: &Path,
    clock: &SimClock,
    turns: &Turns,
    bulkhead: BulkheadOptions,
) -> EngineBuilder {
    let options = Options {
        bulkheads: vec![bulkhead],
        ..Options::default()
    };
    Engine::builder(folder.join("store"))
        .options(options)
        .clock(Arc::new(clock.clone()))
        .pure(Turn, turns.clone())
        .saga(Series)
}

/// An engine, its clock, and the turns that are taken in it.
pub(crate) struct Hall {
    pub(crate) clock: SimClock,
    pub(crate) turns: Turns,
    pub(crate) engine: Engine,
    _folder: tempfile::TempDir,
}

impl Hall {
    pub(crate) fn new(bulkhead: BulkheadOptions) -> Self {
        let clock = SimClock::new(1);
        let turns = Turns::gated(&clock);
        Self::with(clock, turns, bulkhead)
    }

    pub(crate) fn with(clock: SimClock, turns: Turns, bulkhead: BulkheadOptions) -> Self {
        Self::budgeted(clock, turns, bulkhead, BudgetOptions::default())
    }

    pub(crate) fn budgeted(
        clock: SimClock,
        turns: Turns,
        bulkhead: BulkheadOptions,
        budgets: BudgetOptions,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            bulkheads: vec![bulkhead.clone()],
            budgets,
            ..Options::default()
        };
        let builder = builder(folder.path(), &clock, &turns, bulkhead).options(options);
        Self {
            engine: builder.open_blocking().unwrap(),
            clock,
            turns,
            _folder: folder,
        }
    }

    pub(crate) fn tenant(&self, name: &str) -> Tenant {
        self.clock.run(self.engine.tenant(name)).unwrap().unwrap()
    }

    pub(crate) fn manager(&self, name: &str) -> TenantManager {
        self.clock.run(self.engine.manage(name)).unwrap().unwrap()
    }

    /// Waits until so many wait in front of the bulkhead.
    pub(crate) fn until_waiting(&self, count: usize) {
        until(|| self.engine.snapshot().waiting == count);
    }

    /// Waits until so many turns have begun.
    pub(crate) fn until_began(&self, count: usize) {
        until(|| self.turns.began().len() == count);
    }

    pub(crate) fn millis(&self) -> u64 {
        self.clock.monotonic().get() / 1_000_000
    }
}

/// Waits for what another thread is about to do, without letting the clock's time pass. If it does
/// not do it, the test fails rather than hang.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_mins(1), "it never came");
        std::thread::yield_now();
    }
}
