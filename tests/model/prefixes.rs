//! Every prefix: one fixed workload, cut off after each group of the journal, twice in a row.

use crate::chain::{Link, Plan};
use crate::disks::Shape;
use crate::life::{World, close};
use crate::outside::Weather;
use crate::plan::{Op, Task, Then, Work};

/// Groups of the second life, counted from its opening, after which it is cut off too.
const SECOND: [u64; 5] = [0, 1, 2, 4, 7];

fn op(key: u8, task: Task, weather: &[(&str, &[Weather])]) -> Vec<Op> {
    let weather = weather
        .iter()
        .map(|(name, weather)| ((*name).to_owned(), weather.to_vec()))
        .collect();
    vec![Op {
        tenant: key % 2,
        key: Some(key),
        task,
        weather,
    }]
}

fn chain(name: &str, before: &[Link], after: Option<&[Link]>, gives_up: bool) -> Work {
    Work::Chain(Plan {
        name: name.to_owned(),
        before: before.to_vec(),
        after: after.map(<[Link]>::to_vec),
        gives_up,
    })
}

/// One caller after the other: effects of every kind, and sagas forward and backward.
fn workload() -> Vec<Vec<Op>> {
    let put = |name: &str| Work::Put(name.to_owned());
    let worth = |name: &str| Work::Worth(name.to_owned());
    let forward = chain(
        "forward",
        &[Link::PUT, Link::Note, Link::pair()],
        Some(&[Link::PUT, Link::WORTH]),
        false,
    );
    let backward = chain(
        "backward",
        &[Link::PUT, Link::WORTH, Link::pair(), Link::PUT],
        None,
        true,
    );
    vec![
        op(0, Task::Submit(worth("first")), &[]),
        op(
            1,
            Task::Submit(put("second")),
            &[("second", &[Weather::DoubtAfter])],
        ),
        op(
            2,
            Task::Enqueue(put("third"), Then::Await),
            &[("third", &[Weather::Retryable, Weather::DoubtBefore])],
        ),
        op(3, Task::Enqueue(worth("fourth"), Then::Leave), &[]),
        op(
            4,
            Task::Enqueue(forward, Then::Await),
            &[
                ("forward/2.1.0", &[Weather::DoubtAfter]),
                ("forward/3", &[Weather::PanicAfter]),
            ],
        ),
        op(
            5,
            Task::Enqueue(backward, Then::Await),
            &[
                ("backward/3", &[Weather::DoubtAfter]),
                ("undo backward/2.1.0", &[Weather::PanicAfter]),
                ("undo backward/0", &[Weather::Retryable]),
            ],
        ),
        op(
            6,
            Task::Enqueue(put("seventh"), Then::Cancel),
            &[("seventh", &[Weather::Retryable])],
        ),
    ]
}

impl World {
    /// Works until all is done or the power goes after `groups` more groups; true if all was done.
    fn work(&mut self, workload: &[Vec<Op>], groups: Option<u64>) -> bool {
        // Every other prefix keeps no function of a waiting saga.
        let scarce = groups.is_some_and(|groups| groups % 2 == 1);
        let shape = Shape {
            checkpoint_bytes: 2048,
            slots: 4,
            resident_max: if scarce { 0 } else { 1 << 14 },
        };
        let engine = self.open(shape).unwrap();
        let mut off = self.disks.power_off();
        if let Some(groups) = groups {
            self.disks.log.power_off_after(groups);
        }
        let done = workload
            .iter()
            .all(|round| self.round(&engine, round, &mut off, true, false));
        if done && groups.is_none() {
            close(&engine);
        }
        done
    }
}

#[test]
fn every_prefix_of_the_journal_recovers_and_ends_as_if_nothing_had_happened() {
    crate::hush();
    let workload = workload();
    let mut prefixes = 0;
    loop {
        let mut done = false;
        for (seed, second) in SECOND.into_iter().enumerate() {
            let seed = seed as u64 + prefixes * 5;
            let mut world = World::default();
            done = world.work(&workload, Some(prefixes));
            world.crash(seed, seed.is_multiple_of(2));
            world.work(&workload, Some(second));
            world.crash(seed + 1, seed.is_multiple_of(3));
            assert!(world.work(&workload, None), "nothing cuts this life off");
            world.crash(seed + 2, false);
            world.conclude(seed + 3);
        }
        prefixes += 1;
        if done {
            break;
        }
    }
    assert!(prefixes > 20, "only {prefixes} prefixes");
}
