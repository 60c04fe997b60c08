//! Children: started once, waited for, undone with their parents.

use std::time::Duration;

use orlop::{
    Attempt, ChildOf, Failure, Found, Key, Options, Origin, Saga, SagaContext, SagaError, SignalId,
    Signalled, StepError, StepPath, SubmitError, Undo, UndoFunction, Undoing, wait,
};

use crate::support::{Outside, Put, Remove, World};

const PATIENCE: Duration = Duration::from_mins(1);

/// Puts two names of its own, and pivots between them if it is told to.
struct Pair;

impl Saga for Pair {
    const NAME: &'static str = "pair";
    type Input = (String, bool);
    type Output = String;

    async fn run(&self, saga: SagaContext, input: (String, bool)) -> Result<String, SagaError> {
        let (name, pivots) = input;
        let (one, two) = (format!("{name} one"), format!("{name} two"));
        saga.step("one", Put, one.clone()).undo(Remove, one).await?;
        if pivots {
            let saga = saga.pivot().await?;
            saga.step("two", Put, two).await?;
        } else {
            saga.step("two", Put, two.clone()).undo(Remove, two).await?;
        }
        Ok(format!("{name} done"))
    }
}

/// Undoes a [`Pair`] that has pivoted.
#[derive(Clone, Copy)]
struct Unpair;

impl Undo for Unpair {
    const NAME: &'static str = "unpair";
    type Argument = String;
    type Step = ChildOf<Pair>;
}

impl UndoFunction<Unpair> for Outside {
    async fn undo(&self, _attempt: Attempt, undoing: Undoing<Unpair>) -> Result<(), Failure> {
        let name = undoing.argument;
        let Found::Done(output) = undoing.found else {
            return Err(Failure::permanent("a child that runs is not undone"));
        };
        assert_eq!(output, format!("{name} done"));
        let mut state = self.state.lock().unwrap();
        state
            .present
            .retain(|_, present| !present.starts_with(&name));
        state.ledger.push(format!("unpair {name}"));
        Ok(())
    }
}

/// What a parent does with its child.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
enum Care {
    /// Adopts it, and completes.
    Adopts,
    /// Adopts it, and fails.
    Fails,
    /// Adopts one that pivots.
    AdoptsPivot,
    /// Has an undo for one that pivots, and fails.
    Undoes,
    /// Starts one that pivots after its own pivot.
    After,
    /// Handles its failure.
    Handles,
}

struct Carer;

impl Saga for Carer {
    const NAME: &'static str = "carer";
    type Input = Care;
    type Output = String;

    async fn run(&self, saga: SagaContext, care: Care) -> Result<String, SagaError> {
        saga.step("a", Put, "a").undo(Remove, "a").await?;
        let child = |pivots| saga.child::<Pair>("pair", ("c".to_owned(), pivots));
        let told = match care {
            Care::Adopts | Care::Fails => child(false).await?,
            Care::AdoptsPivot => child(true).await?,
            Care::Undoes => child(true).undo(Unpair, "c").await?,
            Care::After => {
                let saga = saga.pivot().await?;
                return Ok(saga.child::<Pair>("pair", ("c".to_owned(), true)).await?);
            }
            Care::Handles => match child(false).await {
                Ok(_) => return Err(SagaError::failed("it was to fail")),
                Err(StepError::Failed { failure, .. }) => failure.reason().to_owned(),
                Err(error) => return Err(error.into()),
            },
        };
        saga.step("b", Put, "b").undo(Remove, "b").await?;
        match care {
            Care::Fails | Care::Undoes => Err(SagaError::failed("given up")),
            Care::Adopts | Care::AdoptsPivot | Care::After | Care::Handles => Ok(told),
        }
    }
}

fn care(world: &World, care: Care) -> Result<String, SubmitError> {
    let builder = world.builder().undo(Unpair, world.outside.clone());
    let engine = builder.saga(Carer).saga(Pair).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut ticket = wait(tenant.start::<Carer>(Key::named("s"), care)).unwrap();
    let ended = wait(ticket.wait_for(PATIENCE)).map(|reply| reply.output);
    engine.blocking().close().unwrap();
    ended
}

#[test]
fn a_child_is_a_saga_of_its_own_with_an_outcome_under_a_key_of_its_own() {
    let world = World::new();
    let builder = world.builder().saga(Carer).saga(Pair);
    let engine = builder.open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let ticket = wait(tenant.start::<Carer>(Key::named("s"), Care::Adopts)).unwrap();
    let parent = ticket.id().unwrap();
    assert_eq!(wait(ticket).unwrap().output, "c done");
    assert_eq!(
        world.outside.ledger(),
        ["put a", "put c one", "put c two", "put b"]
    );
    // It is let go once the end of its parent is durable.
    while engine.snapshot().sagas > 0 {
        std::thread::yield_now();
    }
    let key = Key::of_child(tenant.id(), parent, &StepPath::root("pair").unwrap());
    let child = wait(tenant.start::<Pair>(key, ("c".to_owned(), false))).unwrap();
    assert_ne!(child.id(), Some(parent));
    let reply = wait(child).unwrap();
    assert_eq!(
        (reply.output.as_str(), reply.origin),
        ("c done", Origin::Replayed)
    );
    engine.blocking().close().unwrap();
}

#[test]
fn a_child_that_is_done_is_undone_by_its_own_undos_in_the_order_of_its_parent() {
    let world = World::new();
    let failed = care(&world, Care::Fails).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("given up")));
    assert_eq!(
        world.outside.ledger()[4..],
        ["remove b", "remove c two", "remove c one", "remove a"]
    );
}

#[test]
fn a_pivot_in_an_adopted_child_is_an_error_that_says_so() {
    let world = World::new();
    let failed = care(&world, Care::AdoptsPivot).unwrap_err();
    let why = "step pair failed: a pivot in a child whose parent has no undo for it";
    assert_eq!(failed, SubmitError::Failed(Failure::permanent(why)));
    assert_eq!(
        world.outside.ledger(),
        ["put a", "put c one", "remove c one", "remove a"]
    );
}

#[test]
fn a_child_that_pivots_is_undone_by_the_undo_of_its_parent() {
    let world = World::new();
    let failed = care(&world, Care::Undoes).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("given up")));
    assert_eq!(
        world.outside.ledger()[4..],
        ["remove b", "unpair c", "remove a"]
    );
}

#[test]
fn a_child_after_the_pivot_may_pivot() {
    let world = World::new();
    assert_eq!(care(&world, Care::After).unwrap(), "c done");
    assert_eq!(world.outside.present(), ["a", "c one", "c two"]);
}

#[test]
fn a_failed_child_is_compensated_and_an_error_of_the_call() {
    let world = World::new();
    world.outside.fail("c two", [Failure::permanent("no")]);
    assert_eq!(care(&world, Care::Handles).unwrap(), "step two failed: no");
    assert_eq!(
        world.outside.ledger(),
        ["put a", "put c one", "remove c one", "put b"]
    );
}

/// Waits for a word, below as many others as its input says.
struct Nested;

impl Saga for Nested {
    const NAME: &'static str = "nested";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, below: u64) -> Result<u64, SagaError> {
        let name = format!("n{below}");
        saga.step("put", Put, name.clone())
            .undo(Remove, name)
            .await?;
        if below == 0 {
            return Ok(saga.signal("word").await?);
        }
        Ok(saga.child::<Self>("below", below - 1).await? + 1)
    }
}

#[test]
fn a_cancel_of_the_parent_cancels_the_children_that_run_first() {
    let world = World::new();
    let engine = world.builder().saga(Nested).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut ticket = wait(tenant.start::<Nested>(Key::named("s"), 2_u64)).unwrap();
    while world.outside.ledger().len() < 3 {
        std::thread::yield_now();
    }
    assert_eq!(engine.snapshot().sagas, 3);
    wait(ticket.cancel()).unwrap();
    let failed = wait(ticket.wait_for(PATIENCE)).unwrap_err();
    assert_eq!(failed, SubmitError::Failed(Failure::permanent("cancelled")));
    assert_eq!(
        world.outside.ledger()[3..],
        ["remove n0", "remove n1", "remove n2"]
    );
    engine.blocking().close().unwrap();
}

#[test]
fn a_stuck_child_shows_in_its_parents_and_goes_on_when_the_uppermost_is_retried() {
    let world = World::new();
    let key = Key::named("s");
    {
        let engine = world.builder().saga(Nested).open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        drop(wait(tenant.start::<Nested>(key, 2_u64)).unwrap());
        while world.outside.ledger().len() < 3 {
            std::thread::yield_now();
        }
        engine.blocking().close().unwrap();
    }
    let engine = world.builder().saga(Nested).open_blocking().unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    let tenant = manager.tenant();
    let mut ticket = wait(tenant.start::<Nested>(key, 2_u64)).unwrap();
    let parent = ticket.id().unwrap();
    let path = StepPath::root("below").unwrap();
    let middle = Key::of_child(tenant.id(), parent, &path);
    let below = wait(manager.operator().find(middle)).unwrap();
    let innermost = Key::of_child(tenant.id(), below, &path);
    let lowest = wait(manager.operator().find(innermost)).unwrap();
    wait(manager.operator().pause(lowest, "to be looked at")).unwrap();
    let stuck = wait(ticket.wait_for(PATIENCE)).unwrap_err();
    assert!(
        matches!(&stuck, SubmitError::Stuck { reason, .. } if reason.contains("child below: child below:") && reason.contains("to be looked at")),
        "{stuck:?}"
    );
    assert!(manager.retry(key));
    let told = wait(tenant.signal(innermost, "word", SignalId::named("1"), &40_u64));
    assert_eq!(told, Ok(Signalled::Recorded));
    let output = loop {
        let mut ticket = wait(tenant.start::<Nested>(key, 2_u64)).unwrap();
        match wait(ticket.wait_for(PATIENCE)) {
            Ok(reply) => break reply.output,
            Err(SubmitError::Stuck { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(output, 42);
    engine.blocking().close().unwrap();
}

#[test]
fn a_child_too_deep_or_too_many_holds_its_parent_with_the_reason() {
    for (depth_max, children_max, why) in [
        (1, 10, "below is a child at depth 2 of 1"),
        (8, 0, "after 0 of 0"),
    ] {
        let world = World::new();
        let mut options = Options::default();
        options.limits.saga_depth_max = depth_max;
        options.limits.saga_children_max = children_max;
        let builder = world.builder().options(options).saga(Nested);
        let engine = builder.open_blocking().unwrap();
        let tenant = engine.blocking().tenant("a").unwrap();
        let mut ticket = wait(tenant.start::<Nested>(Key::named("s"), 2_u64)).unwrap();
        let stuck = wait(ticket.wait_for(PATIENCE)).unwrap_err();
        assert!(
            matches!(&stuck, SubmitError::Stuck { reason, .. } if reason.contains(why)),
            "{stuck:?}"
        );
        engine.blocking().close().unwrap();
    }
}
