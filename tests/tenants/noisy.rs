//! A tenant that asks for a hundred times as much as another: what it changes for the other one,
//! counted in turns by a clock that the test turns.

use std::future::IntoFuture;

use futures_util::future::join_all;
use orlop::testkit::SimClock;
use orlop::{BulkheadOptions, Reply, SubmitError, Tenant};

use crate::hall::{Began, Hall, NARROW, Turn, Turns};

const VICTIMS_TURNS: u64 = 20;
const FLOOD: u64 = 100 * VICTIMS_TURNS;

async fn take(tenant: &Tenant, who: &str, turns: u64) -> Vec<Result<Reply<u64>, SubmitError>> {
    let submit = |number| tenant.submit(Turn, (who.to_owned(), number)).ephemeral();
    join_all((0..turns).map(|number| submit(number).into_future())).await
}

/// The turns in the order in which they began, with the flood there before the victim came.
fn flooded(flooders_millis: u64) -> Vec<Began> {
    let clock = SimClock::new(1);
    let turns = Turns::lasting(&clock, move |who| match who {
        "flooder" => flooders_millis,
        _ => 1,
    });
    let bulkhead = BulkheadOptions {
        in_flight_max: 1,
        queue_max: 8192,
        queue_per_tenant_max: 4096,
        ..BulkheadOptions::new(NARROW)
    };
    let hall = Hall::with(clock, turns, bulkhead);
    let (flooder, victim) = (hall.tenant("flooder"), hall.tenant("victim"));
    let both = async {
        let flood = take(&flooder, "flooder", FLOOD);
        let (_, served) = futures_util::join!(flood, take(&victim, "victim", VICTIMS_TURNS));
        served
    };
    let served = hall.clock.run(both).unwrap();
    assert!(served.iter().all(Result::is_ok), "the victim was refused");
    let began = hall.turns.began();
    hall.engine.blocking().close().unwrap();
    began
}

/// While both have something waiting, neither is ahead of the other by more than one turn of each,
/// in time.
fn assert_within_the_bound(began: &[Began], longest: u64) {
    let (mut flooder, mut victim) = (0, 0);
    let last = began.iter().rposition(|turn| turn.who == "victim").unwrap();
    for turn in &began[1..=last] {
        if turn.who == "victim" {
            victim += turn.millis;
        } else {
            flooder += turn.millis;
        }
        assert!(
            flooder <= victim + longest + 1,
            "{flooder} ms to {victim} ms, longest {longest} ms"
        );
    }
}

#[test]
fn a_hundred_times_noisy_neighbour_takes_no_more_turns_than_the_victim_while_that_has_some() {
    let began = flooded(1);
    assert_within_the_bound(&began, 1);
    let victims: Vec<u64> = began
        .iter()
        .filter(|turn| turn.who == "victim")
        .map(|turn| turn.number)
        .collect();
    assert_eq!(victims, (0..VICTIMS_TURNS).collect::<Vec<_>>(), "its order");
    let last = began.iter().rposition(|turn| turn.who == "victim").unwrap();
    assert!(
        last <= usize::try_from(2 * VICTIMS_TURNS + 1).unwrap(),
        "{last}"
    );
}

#[test]
fn turns_twenty_times_longer_than_they_say_do_not_get_a_neighbour_more_time() {
    assert_within_the_bound(&flooded(20), 20);
}
