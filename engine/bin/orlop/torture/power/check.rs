//! The check of images: each is built, opened by a real engine, compared with what had been
//! acknowledged by then, worked on, and cut once more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::Failed;
use super::super::code::Remote;
use super::super::judge::{Problem, Verdict, judge};
use super::super::life::Life;
use super::super::outside::Entry;
use super::super::plan::Plan;
use super::super::platter::{Image, Platter};
use super::super::role::say;
use super::super::tape::{self, Event};
use super::super::told::Told;
use super::super::witness::{Witness, outside};
use super::record;

/// Which images to check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The recording that they are of.
    pub(crate) tape: PathBuf,
    /// For stores, and for the tapes of recoveries that went wrong.
    pub(crate) folder: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) seed: u64,
    pub(crate) images: Vec<u64>,
    /// Whether the tape is one of a recovery: its end is the point, and it is not cut again.
    pub(crate) recovery: bool,
}

/// What the process says of its work, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// It begins with an image.
    Begun(u64),
    /// It has checked one.
    Checked {
        image: u64,
        effects: u64,
        sagas: u64,
        /// Of how many events of how many the image is.
        point: (usize, usize),
        /// The tape of the recovery, if that was what went wrong.
        recovery: Option<PathBuf>,
        problems: Vec<Problem>,
    },
}

/// New items that an image is given.
const ITEMS: u64 = 3;
/// Their numbers begin here, and those of the second cut after them.
const FRESH: u64 = 1_000_000;

/// What is known at a point of a tape.
#[derive(Default)]
struct Past {
    told: Told,
    entries: Vec<Entry>,
    /// The same, as events.
    events: Vec<Event>,
}

impl Past {
    fn follow(&mut self, event: &Event) {
        match event {
            Event::Said(ack) => {
                // The recording was judged when it was made.
                let _ = self.told.hear(ack, true);
                self.events.push(event.clone());
            }
            Event::Outside(entry) => {
                self.entries.push(entry.clone());
                self.events.push(event.clone());
            }
            Event::CreatedFile { .. }
            | Event::CreatedFolder { .. }
            | Event::Linked { .. }
            | Event::Wrote { .. }
            | Event::WroteZeros { .. }
            | Event::SetLength { .. }
            | Event::Synced { .. }
            | Event::Renamed { .. }
            | Event::Removed { .. }
            | Event::Settled => {}
        }
    }
}

/// What came of one image.
struct Checked {
    problems: Vec<Problem>,
    told: Told,
    events: Vec<Event>,
    /// How many of them are the image itself.
    before: usize,
}

/// Checks all of them, in the order of their points.
pub(crate) fn check(order: &Order) -> Result<(), Failed> {
    let events = record::load(&order.tape)?;
    let mut due: Vec<(usize, u64)> = order
        .images
        .iter()
        .map(|image| {
            if order.recovery {
                (events.len(), *image)
            } else {
                (random(order.seed, *image).usize(0..=events.len()), *image)
            }
        })
        .collect();
    due.sort_unstable();
    let mut platter = Platter::new();
    let mut past = Past::default();
    let mut rest = events.iter();
    let mut at = 0;
    for (point, image) in due {
        for event in rest.by_ref().take(point - at) {
            platter.apply(event);
            past.follow(event);
        }
        at = point;
        say(&Line::Begun(image))?;
        let line = one(order, image, (point, events.len()), &platter, &past)?;
        say(&line)?;
    }
    Ok(())
}

fn random(seed: u64, image: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed ^ image.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Checks one image, and one of its recovery.
fn one(
    order: &Order,
    image: u64,
    point: (usize, usize),
    platter: &Platter,
    past: &Past,
) -> Result<Line, Failed> {
    let mut random = random(order.seed, image);
    // The draw that chose the point.
    let _ = random.usize(0..=point.1);
    let cut = platter.cut(&mut random);
    let first = guarded(order, &cut, past, FRESH, &mut random)?;
    let mut counted = (first.told.clone(), first.problems);
    let mut recovery = None;
    if counted.1.is_empty() && !order.recovery {
        let point = random.usize(first.before..=first.events.len());
        let mut platter = Platter::new();
        let mut past = Past::default();
        for event in first.events.iter().take(point) {
            platter.apply(event);
            past.follow(event);
        }
        let cut = platter.cut(&mut random);
        let second = guarded(order, &cut, &past, FRESH + ITEMS, &mut random)?;
        if !second.problems.is_empty() {
            let path = order.folder.join(format!("recovery-{image}"));
            let mut events = cut.events();
            events.extend(past.events.iter().cloned());
            record::save(&path, &events)?;
            recovery = Some(path);
        }
        counted = (second.told, second.problems);
    }
    let (told, problems) = counted;
    let sagas = told.done.keys();
    let sagas = sagas
        .filter(|item| order.plan.kind(**item).is_saga())
        .count();
    Ok(Line::Checked {
        image,
        effects: (told.done.len() - sagas) as u64,
        sagas: sagas as u64,
        point,
        recovery,
        problems,
    })
}

/// Checks an image; a panic in this thread is a problem like others.
fn guarded(
    order: &Order,
    image: &Image,
    past: &Past,
    fresh: u64,
    random: &mut fastrand::Rng,
) -> Result<Checked, Failed> {
    let seed = random.u64(..);
    let store = order.folder.join("store");
    let clear = || match std::fs::remove_dir_all(&store) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failed::of("an image cannot be removed", &error)),
    };
    clear()?;
    let made = std::fs::create_dir_all(&store).and_then(|()| image.write(&store));
    made.map_err(|e| Failed::of("an image cannot be written", &e))?;
    let checked = catch_unwind(AssertUnwindSafe(|| {
        open(order, &store, image, past, fresh, seed)
    }));
    let checked = checked.unwrap_or_else(|_| {
        tape::stop();
        Checked {
            problems: vec![Problem::new(
                Verdict::Lost,
                "the engine panicked in its caller",
            )],
            told: past.told.clone(),
            events: Vec::new(),
            before: 0,
        }
    });
    clear()?;
    Ok(checked)
}

/// Opens an image, has everything end and a little more done, and judges.
fn open(
    order: &Order,
    store: &std::path::Path,
    image: &Image,
    past: &Past,
    fresh: u64,
    seed: u64,
) -> Checked {
    let mut before = image.events();
    before.extend(past.events.iter().cloned());
    let length = before.len();
    let witness = Witness::new(past.told.clone());
    tape::record(store, before);
    let outside = outside(seed, &past.entries);
    let remote = Remote::Here(std::sync::Arc::clone(&outside));
    match Life::open(store, &remote, order.plan, &witness) {
        Ok(life) => {
            let known = past.told.known();
            let begun = past.told.begun.iter().copied();
            orlop::wait(async {
                life.probe(known).await;
                life.items(begun.chain(fresh..fresh + ITEMS)).await;
                if seed.is_multiple_of(3) {
                    life.checkpoint().await;
                }
            });
            life.close();
            outside.settle();
            let problems = judge(order.plan, &witness.told(), &outside.objects());
            for problem in problems {
                witness.object(problem);
            }
        }
        Err(error) => {
            let text = Failed::of("it does not open", &error).to_string();
            witness.object(Problem::new(Verdict::Lost, text));
        }
    }
    Checked {
        problems: witness.problems(),
        told: witness.told(),
        events: tape::stop().events,
        before: length,
    }
}
