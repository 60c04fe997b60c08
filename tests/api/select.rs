//! Selecting: the branch that was delivered first, live and on replay.

use std::future::IntoFuture;
use std::time::Duration;

use orlop::{
    Failure, Key, RetryPolicy, Saga, SagaContext, SagaError, Selected, SignalId, Signalled,
    SubmitError, wait,
};

use crate::support::{Double, Put, Remove, World};

const PATIENCE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Waits for a signal, a long sleep or a step, and then for a word that ends it.
struct Chooser;

impl Saga for Chooser {
    const NAME: &'static str = "chooser";
    type Input = ();
    type Output = (u64, String);

    async fn run(&self, saga: SagaContext, (): ()) -> Result<(u64, String), SagaError> {
        let mut stop = saga.signal::<u64>("stop");
        let mut sleep = saga.sleep("late", HOUR);
        let slow = RetryPolicy {
            attempts_max: 100,
            base: Duration::from_secs(5),
            cap: Duration::from_secs(5),
        };
        let mut step = saga.step("one", Put, "one").retry(slow).into_future();
        let won = match saga.select((&mut stop, &mut sleep, &mut step)).await {
            Selected::First(stop) => stop?,
            Selected::Second(sleep) => {
                sleep?;
                0
            }
            Selected::Third(step) => step? + 100,
        };
        let word: String = saga.signal("end").await?;
        // What lost is still there to be awaited.
        if won >= 100 {
            stop.await?;
        }
        Ok((won, word))
    }
}

#[test]
fn the_branch_that_was_delivered_first_wins_and_wins_again_on_replay() {
    for signal_first in [true, false] {
        let world = World::new();
        let key = Key::named("s");
        {
            let engine = world.builder().saga(Chooser).open_blocking().unwrap();
            let tenant = engine.blocking().tenant("a").unwrap();
            if signal_first {
                // The step is between two attempts for as long as that takes.
                world.outside.fail("one", [Failure::retryable("later")]);
            }
            let _ticket = wait(tenant.start::<Chooser>(key, ())).unwrap();
            if !signal_first {
                while world.outside.ledger().is_empty() {
                    std::thread::yield_now();
                }
                // Once this is durable the step is long since settled: closing records it.
                engine.blocking().close().unwrap();
            }
            if signal_first {
                let told = wait(tenant.signal(key, "stop", SignalId::named("1"), &7_u64));
                assert_eq!(told, Ok(Signalled::Recorded));
                engine.blocking().close().unwrap();
            }
        }
        let engine = world.builder().saga(Chooser).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        if !signal_first {
            let told = wait(tenant.signal(key, "stop", SignalId::named("1"), &7_u64));
            assert_eq!(told, Ok(Signalled::Recorded));
        }
        let told = wait(tenant.signal(key, "end", SignalId::named("2"), &"end"));
        assert_eq!(told, Ok(Signalled::Recorded));
        let mut ticket = wait(tenant.start::<Chooser>(key, ())).unwrap();
        let won = wait(ticket.wait_for(PATIENCE)).unwrap().output.0;
        assert_eq!(won, if signal_first { 7 } else { 103 });
        assert_eq!(
            world.outside.ledger(),
            ["put one"],
            "a step that lost still runs"
        );
        engine.blocking().close().unwrap();
    }
}

/// Selects among equal branches, and gives up over one that lost.
struct Detacher;

impl Saga for Detacher {
    const NAME: &'static str = "detacher";
    type Input = bool;
    type Output = u64;

    async fn run(&self, saga: SagaContext, gives_up: bool) -> Result<u64, SagaError> {
        let word = saga.signal::<u64>("word");
        let put = saga.step("one", Put, "one").undo(Remove, "one");
        if let Selected::Second(put) = saga.select((word, put)).await {
            put?;
            return Err(SagaError::failed("the word was to come first"));
        }
        let doubles = (1..4_u64).map(|i| saga.scope("part", i).step("double", Double, i));
        let (position, double) = saga.select(doubles.collect::<Vec<_>>()).await;
        if gives_up {
            return Err(SagaError::failed("given up"));
        }
        assert_eq!(double?, (position as u64 + 1) * 2);
        Ok(position as u64)
    }
}

#[test]
fn a_saga_ends_only_once_the_steps_that_lost_have_and_undoes_them_too() {
    for gives_up in [false, true] {
        let world = World::new();
        let engine = world.builder().saga(Detacher).open_blocking().unwrap();
        let manager = wait(engine.manage("a")).unwrap();
        let tenant = manager.tenant();
        let key = Key::named("s");
        let paused = wait(tenant.start::<Detacher>(key, gives_up).paused()).unwrap();
        drop(paused);
        // Delivered at the very call of the wait, and so before any step.
        let told = wait(tenant.signal(key, "word", SignalId::named("1"), &7_u64));
        assert_eq!(told, Ok(Signalled::Recorded));
        assert!(manager.retry(key));
        let ended = loop {
            let ticket = wait(tenant.start::<Detacher>(key, gives_up)).unwrap();
            let ended = wait(ticket);
            if !matches!(ended, Err(SubmitError::Stuck { .. })) {
                break ended;
            }
        };
        if gives_up {
            assert_eq!(
                ended.unwrap_err(),
                SubmitError::Failed(Failure::permanent("given up"))
            );
            assert!(
                world.outside.present().is_empty(),
                "{:?}",
                world.outside.ledger()
            );
        } else {
            assert!(ended.unwrap().output < 3);
            assert_eq!(world.outside.ledger(), ["put one"]);
            assert_eq!(world.doubler.runs.lock().unwrap().len(), 3);
        }
        engine.blocking().close().unwrap();
    }
}
