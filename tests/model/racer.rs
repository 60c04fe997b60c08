//! A saga whose steps race and whose path depends on who wins, replayed from every prefix.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join};
use futures_util::stream::{FuturesUnordered, StreamExt};
use orlop::{Key, Reply, Saga, SagaContext, SagaError, SubmitError};

use crate::disks::Shape;
use crate::life::{World, close, together};
use crate::outside::{Put, Remove, Weather, Worth};

/// Three lanes at once; whoever comes in decides the name of the next step.
#[derive(Debug)]
pub(crate) struct Racer;

impl Saga for Racer {
    const NAME: &'static str = "racer";
    type Input = String;
    type Output = Vec<u64>;

    async fn run(&self, saga: SagaContext, name: String) -> Result<Vec<u64>, SagaError> {
        let mut order = Vec::new();
        let mut racing = FuturesUnordered::new();
        for lane in 0..3_u64 {
            let (scope, name) = (saga.scope("lane", lane), format!("{name} {lane}"));
            racing.push(async move {
                let put = scope.step("put", Put, name.clone());
                put.undo(Remove, name.clone()).await?;
                scope.step("worth", Worth, name).await?;
                Ok::<u64, SagaError>(lane)
            });
        }
        while let Some(lane) = racing.next().await {
            let lane = lane?;
            let scope = saga.scope("place", order.len() as u64);
            let (drawn, step) = (scope.random("draw")? % 2, format!("after lane {lane}"));
            let one = scope.step(&step, Worth, format!("{name} drew {drawn}"));
            let other = scope.step("beside", Worth, format!("{name} beside {lane}"));
            let (one, other) = join(one.into_future(), other.into_future()).await;
            one?;
            other?;
            order.push(lane);
        }
        Ok(order)
    }
}

const SHAPE: Shape = Shape {
    checkpoint_bytes: 2048,
    slots: 3,
    // Each outcome is told to a function that is played again from its beginning.
    resident_max: 0,
};

impl World {
    /// Starts the race, or comes back to it, until it is over or the power goes; its outcome, if
    /// it is over.
    fn race(&mut self, groups: Option<u64>) -> Option<Result<Reply<Vec<u64>>, SubmitError>> {
        let engine = self.open(SHAPE).unwrap();
        let mut off = self.disks.power_off();
        if let Some(groups) = groups {
            self.disks.log.power_off_after(groups);
        }
        let mut outcome = None;
        let caller: BoxFuture<'_, ()> = async {
            let tenant = engine.tenant("racing").await.unwrap();
            let ticket = tenant.start::<Racer>(Key::named("race"), "race").await;
            outcome = Some(ticket.unwrap().await);
        }
        .boxed();
        let over = together(vec![caller], &mut off, &engine);
        if groups.is_none() {
            close(&engine);
        }
        outcome.filter(|_| over)
    }
}

#[test]
fn steps_that_race_are_decided_alike_on_every_replay() {
    crate::hush();
    let mut prefixes = 0;
    loop {
        let mut world = World::default();
        // Who wins differs from prefix to prefix.
        let late = format!("race {}", prefixes % 3);
        let weather = [Weather::Retryable, Weather::DoubtAfter];
        world.outside.forecast(&late, &weather);
        let first = world.race(Some(prefixes));
        world.crash(prefixes, false);
        let second = world.race(Some(prefixes % 7));
        world.crash(prefixes + 1, false);
        let third = world.race(None);
        let order = third.unwrap().unwrap().output;
        for told in [&first, &second].into_iter().flatten() {
            assert_eq!(told.as_ref().unwrap().output, order);
        }
        let mut lanes = order.clone();
        lanes.sort_unstable();
        assert_eq!(lanes, [0, 1, 2]);
        for lane in lanes {
            let entries = world.outside.entries(&format!("race {lane}"));
            let puts: Vec<u32> = entries.iter().map(|entry| entry.puts).collect();
            assert_eq!(puts, [1], "lane {lane}");
        }
        world.outside.check();
        prefixes += 1;
        if first.is_some() {
            break;
        }
    }
    assert!(prefixes > 10, "only {prefixes} prefixes");
}
