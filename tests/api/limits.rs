//! Limits: whoever reaches one is told which and how many, and nothing else suffers.

use std::future::IntoFuture;
use std::time::Duration;

use futures_util::poll;
use orlop::{
    Engine, Key, Limits, OpenError, Options, Saga, SagaContext, SagaError, SubmitError,
    TenantError, wait,
};

use crate::gate::{Gate, Pass, builder};
use crate::support::{Double, World};

/// An engine at the gate with these limits.
fn limited(folder: &tempfile::TempDir, gate: &Gate, limits: Limits) -> Engine {
    let options = Options {
        limits,
        ..Gate::options()
    };
    let builder = builder(folder.path(), gate).options(options).saga(Waits);
    builder.open_blocking().unwrap()
}

fn overloaded(what: &'static str, count: usize, count_max: usize) -> SubmitError {
    SubmitError::Overloaded {
        what,
        count,
        count_max,
    }
}

/// One step, at the gate.
struct Waits;

impl Saga for Waits {
    const NAME: &'static str = "waits";
    type Input = ();
    type Output = u64;

    async fn run(&self, saga: SagaContext, (): ()) -> Result<u64, SagaError> {
        Ok(saga.step("gate", Pass, 7_u64).await?)
    }
}

#[test]
fn one_effect_more_than_may_be_unfinished_is_refused_until_one_has_ended() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let limits = Limits {
        effects_max: 2,
        ..Limits::default()
    };
    let engine = limited(&folder, &gate, limits);
    let tenant = engine.blocking().tenant("a").unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    let first = wait(tenant.enqueue(Pass, 1_u64)).unwrap();
    let second = wait(tenant.enqueue(Pass, 2_u64)).unwrap();
    let error = wait(other.submit(Pass, 3_u64)).unwrap_err();
    assert_eq!(error, overloaded("effects unfinished", 2, 2));
    assert!(error.is_retryable());
    // Whoever joins what is unfinished already is no further effect.
    let joined = wait(tenant.enqueue(Pass, 2_u64)).unwrap();
    gate.let_go(3);
    assert_eq!(wait(first).unwrap().output, 1);
    assert_eq!(wait(second).unwrap().output, 2);
    assert_eq!(wait(joined).unwrap().output, 2);
    while engine.snapshot().effects > 0 {
        std::thread::yield_now();
    }
    assert_eq!(wait(other.submit(Pass, 3_u64)).unwrap().output, 3);
    engine.blocking().close().unwrap();
}

#[test]
fn one_saga_more_than_may_be_unfinished_is_refused_until_one_has_ended() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let limits = Limits {
        sagas_max: 1,
        ..Limits::default()
    };
    let engine = limited(&folder, &gate, limits);
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = wait(tenant.start::<Waits>(Key::named("first"), ())).unwrap();
    let second = Key::named("second");
    let error = wait(tenant.start::<Waits>(second, ())).unwrap_err();
    assert_eq!(error, overloaded("sagas unfinished", 1, 1));
    assert!(error.is_retryable());
    gate.let_go(2);
    assert_eq!(wait(first).unwrap().output, 7);
    while engine.snapshot().sagas > 0 {
        std::thread::yield_now();
    }
    let second = wait(tenant.start::<Waits>(second, ())).unwrap();
    assert_eq!(wait(second).unwrap().output, 7);
    engine.blocking().close().unwrap();
}

#[test]
fn one_caller_more_than_may_wait_for_an_effect_is_refused_and_the_others_are_told() {
    let (folder, gate) = (tempfile::tempdir().unwrap(), Gate::new());
    let limits = Limits {
        joiners_max: 2,
        ..Limits::default()
    };
    let engine = limited(&folder, &gate, limits);
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut first = tenant.submit(Pass, 1_u64).into_future();
    let mut second = tenant.submit(Pass, 1_u64).into_future();
    assert!(wait(async { poll!(&mut first) }).is_pending());
    assert!(wait(async { poll!(&mut second) }).is_pending());
    let error = wait(tenant.submit(Pass, 1_u64)).unwrap_err();
    assert_eq!(error, overloaded("callers of one effect", 2, 2));
    gate.let_go(1);
    assert_eq!(wait(first).unwrap().output, 1);
    assert_eq!(wait(second).unwrap().output, 1);
    assert_eq!(gate.runs(), 1);
    engine.blocking().close().unwrap();
}

#[test]
fn a_batch_of_too_many_items_is_refused_whole() {
    let world = World::new();
    let limits = Limits {
        batch_items_max: 2,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let engine = world.builder().options(options).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let error = wait(tenant.submit_batch(Double, [1_u64, 2, 3])).unwrap_err();
    assert_eq!(error, overloaded("items of a batch", 3, 2));
    assert!(world.doubler.runs.lock().unwrap().is_empty());
    let replies = wait(tenant.submit_batch(Double, [1_u64, 2])).unwrap();
    let outputs = replies.into_iter().map(|reply| reply.unwrap().output);
    assert_eq!(outputs.collect::<Vec<_>>(), [2, 4]);
    engine.blocking().close().unwrap();
}

#[test]
fn one_tenant_more_than_may_be_registered_is_refused_and_the_known_ones_are_not() {
    let world = World::new();
    let limits = Limits {
        tenants_max: 1,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let engine = world.builder().options(options).open_blocking().unwrap();
    engine.blocking().tenant("a").unwrap();
    let error = engine.blocking().tenant("b").unwrap_err();
    assert!(matches!(error, TenantError::Register(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("all 1 places for tenants"), "{text}");
    let tenant = engine.blocking().tenant("a").unwrap();
    assert_eq!(wait(tenant.submit(Double, 1_u64)).unwrap().output, 2);
    engine.blocking().close().unwrap();
}

/// Draws so many random numbers.
struct Draws;

impl Saga for Draws {
    const NAME: &'static str = "draws";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, times: u64) -> Result<(), SagaError> {
        for index in 0..times {
            saga.scope("round", index).random("number")?;
        }
        Ok(())
    }
}

/// Doubles so many numbers.
struct Doubles;

impl Saga for Doubles {
    const NAME: &'static str = "doubles";
    type Input = u64;
    type Output = ();

    async fn run(&self, saga: SagaContext, times: u64) -> Result<(), SagaError> {
        for index in 0..times {
            let round = saga.scope("round", index);
            round.step("double", Double, 100_u64).await?;
        }
        Ok(())
    }
}

fn stuck<S: Saga<Input = u64, Output = ()>>(
    limits: Limits,
    few: u64,
    many: u64,
    saga: S,
) -> String {
    let world = World::new();
    let options = Options {
        limits,
        ..Options::default()
    };
    let builder = world.builder().options(options).saga(saga);
    let engine = builder.open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let fits = wait(tenant.start::<S>(Key::named("few"), few)).unwrap();
    assert_eq!(wait(fits).unwrap().output, ());
    let ticket = wait(tenant.start::<S>(Key::named("many"), many)).unwrap();
    let reason = match wait(ticket).unwrap_err() {
        SubmitError::Stuck { reason, key } if key == Key::named("many") => reason.to_string(),
        other => panic!("{other:?}"),
    };
    // It stands in nobody's way.
    let fits = wait(tenant.start::<S>(Key::named("again"), few)).unwrap();
    assert_eq!(wait(fits).unwrap().output, ());
    engine.blocking().close().unwrap();
    reason
}

#[test]
fn a_saga_that_makes_too_many_calls_is_stuck_and_says_how_many() {
    let limits = Limits {
        saga_calls_max: 4,
        ..Limits::default()
    };
    let reason = stuck(limits, 4, 5, Draws);
    assert!(reason.contains("4 calls"), "{reason}");
}

#[test]
fn a_saga_whose_history_grows_too_large_is_stuck_and_says_how_large() {
    let limits = Limits {
        input_bytes_max: 64,
        output_bytes_max: 64,
        saga_bytes_max: 256,
        ..Limits::default()
    };
    let reason = stuck(limits, 1, 1000, Doubles);
    assert!(reason.contains("bytes"), "{reason}");
}

type Set = fn(&mut Options, usize);

/// A number of options in a field of 32 bits.
fn short(value: usize) -> u32 {
    u32::try_from(value).unwrap()
}

/// Every option of the engine's own: its name in the error, its bounds, and how to set it.
const BOUNDS: [(&str, usize, usize, Set); 13] = [
    ("limits.input_bytes_max", 64, 16 << 20, |options, to| {
        options.limits.input_bytes_max = to;
    }),
    ("limits.output_bytes_max", 64, 16 << 20, |options, to| {
        options.limits.output_bytes_max = to;
    }),
    ("limits.batch_items_max", 1, 1 << 20, |options, to| {
        options.limits.batch_items_max = to;
    }),
    ("limits.joiners_max", 1, 1 << 20, |options, to| {
        options.limits.joiners_max = to;
    }),
    ("limits.effects_max", 1, 1 << 24, |options, to| {
        options.limits.effects_max = to;
    }),
    ("limits.sagas_max", 1, 1 << 24, |options, to| {
        options.limits.sagas_max = to;
    }),
    ("limits.saga_calls_max", 1, 1 << 20, |options, to| {
        options.limits.saga_calls_max = to;
    }),
    ("limits.tenants_max", 1, 1 << 20, |options, to| {
        options.limits.tenants_max = short(to);
    }),
    ("limits.retry.attempts_max", 1, 1 << 20, |options, to| {
        options.limits.retry.attempts_max = short(to);
    }),
    ("limits.reconciles_max", 1, 1 << 20, |options, to| {
        options.limits.reconciles_max = short(to);
    }),
    (
        "limits.settle_timeout in ms",
        1,
        86_400_000,
        |options, to| {
            options.limits.settle_timeout = Duration::from_millis(to as u64);
        },
    ),
    ("close_timeout in ms", 0, 86_400_000, |options, to| {
        options.close_timeout = Duration::from_millis(to as u64);
    }),
    ("io_threads", 1, 1024, |options, to| options.io_threads = to),
];

#[test]
fn every_limit_out_of_its_bounds_is_named_and_nothing_is_created() {
    let world = World::new();
    for (name, min, max, set) in BOUNDS {
        for value in min.checked_sub(1).into_iter().chain([max + 1]) {
            let mut options = Options::default();
            set(&mut options, value);
            let error = world.builder().options(options).open_blocking();
            match error.unwrap_err() {
                OpenError::Option(error) => assert_eq!(
                    (error.name, error.value, error.min, error.max),
                    (name, value, min, max)
                ),
                error => panic!("{name} {value}: {error:?}"),
            }
        }
    }
    assert!(!world.folder.path().join("store").exists());
}

#[test]
fn limits_that_do_not_fit_together_are_named_together() {
    let world = World::new();
    let opened = |limits: Limits| {
        let options = Options {
            limits,
            ..Options::default()
        };
        match world.builder().options(options).open_blocking() {
            Err(OpenError::Option(error)) => error.name,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let wide = opened(Limits {
        input_bytes_max: 8 << 20,
        ..Limits::default()
    });
    assert_eq!(wide, "limits.input_bytes_max + limits.output_bytes_max");
    let long = opened(Limits {
        saga_bytes_max: 64 << 20,
        ..Limits::default()
    });
    let both = ["limits.saga_bytes_max", "limits.saga_calls_max"];
    assert!(both.iter().all(|name| long.contains(name)), "{long}");
}
