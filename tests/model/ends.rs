//! Ends: how a chain may end, told from its plan alone, and what the outside must show then.

use orlop::CancelError;

use crate::chain::{Fate, Link, Placed, Plan, output_of};
use crate::outside::Outside;

/// How a chain ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With these outputs.
    Completed(Vec<u64>),
    /// Everything before its pivot is undone.
    Compensated,
    /// After its pivot, where there is no way back.
    Stuck,
}

/// What a chain's caller knows of its cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// It was never asked for.
    None,
    /// It was asked for, or something else may have unwound the chain, and nobody was told.
    Unknown,
    /// What was answered.
    Told(Result<(), CancelError>),
}

/// Whether a step is done on the way to the end that its plan has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Done,
    /// It runs beside what fails.
    Maybe,
    Never,
}

/// The end of a plan that nobody cancels.
fn natural(plan: &Plan) -> End {
    if plan.gives_up {
        return End::Compensated;
    }
    match first_doom(plan) {
        Some(doomed) if doomed.pivoted => End::Stuck,
        Some(_) => End::Compensated,
        None => End::Completed(Vec::new()),
    }
}

/// The first step whose failure ends the chain.
fn first_doom(plan: &Plan) -> Option<Placed> {
    plan.steps().into_iter().find(ends_chain)
}

/// Whether the chain does not go on after this step.
fn ends_chain(placed: &Placed) -> bool {
    placed.step.is_doomed() && (!placed.step.tolerant || halts(placed))
}

/// Whether the engine halts the chain here and asks for an operator, whatever the code would do.
fn halts(placed: &Placed) -> bool {
    match placed.step.fate {
        Fate::Tires => placed.pivoted,
        Fate::Sound | Fate::Fails => false,
    }
}

fn reach(plan: &Plan, placed: &Placed) -> Reach {
    if plan.gives_up && placed.pivoted {
        return Reach::Never;
    }
    let steps = plan.steps();
    let ends: Vec<&Placed> = steps.iter().filter(|other| ends_chain(other)).collect();
    let Some(link) = ends.first().map(|first| first.link) else {
        return Reach::Done;
    };
    let blocked = ends.iter().any(|end| end.precedes(placed));
    if placed.link > link || blocked {
        return Reach::Never;
    }
    let here: Vec<&&Placed> = ends.iter().filter(|end| end.link == link).collect();
    let leads_there = here.iter().any(|end| placed.precedes(end));
    let halted = here.iter().any(|end| halts(end));
    let (eager, alone) = (halted || is_eager(plan, link), here.len() == 1);
    if placed.link < link || !eager || (alone && leads_there) {
        Reach::Done
    } else {
        Reach::Maybe
    }
}

fn is_eager(plan: &Plan, link: usize) -> bool {
    match plan.links().nth(link) {
        Some((Link::Group { eager, .. }, _)) => *eager,
        Some((Link::Step(_) | Link::Nap | Link::Note | Link::Signal, _)) | None => false,
    }
}

/// Whether a chain may end so, if its cancel was answered so.
pub(crate) fn check_end(plan: &Plan, end: &End, cancel: &Cancel) {
    let mut natural = natural(plan);
    if let (End::Completed(expected), End::Completed(outputs)) = (&mut natural, end) {
        *expected = output_of(plan).unwrap_or_else(|| outputs.clone());
    }
    let name = &plan.name;
    match cancel {
        Cancel::None | Cancel::Told(Err(CancelError::Ended)) => {
            assert_eq!(*end, natural, "{name}, {cancel:?}");
        }
        Cancel::Told(Ok(())) => assert_eq!(*end, End::Compensated, "{name} was cancelled"),
        Cancel::Told(Err(CancelError::RollbackRequired { .. })) => {
            assert_eq!(*end, natural, "{name} had pivoted");
            assert!(plan.after.is_some() && !plan.gives_up, "{name} has a pivot");
        }
        Cancel::Unknown | Cancel::Told(Err(_)) => {
            assert!(
                *end == natural || *end == End::Compensated,
                "{name}: {end:?}"
            );
        }
    }
}

/// How often a step's name was written and removed.
fn counts(outside: &Outside, name: &str) -> (u32, u32) {
    let entries = outside.entries(name);
    let puts = entries.iter().map(|entry| entry.puts).sum();
    let removes = entries.iter().map(|entry| entry.removes).sum();
    (puts, removes)
}

/// What the outside must show of a chain that ended so; `cut` says that it may have been cut off
/// anywhere on its way.
pub(crate) fn check_effects(plan: &Plan, end: &End, cut: bool, outside: &Outside) {
    let steps = plan.steps();
    for placed in &steps {
        let (name, doomed) = (&placed.name, placed.step.is_doomed());
        let reach = match reach(plan, placed) {
            // Nothing after a pivot is ever undone.
            _ if placed.pivoted && *end == End::Compensated => Reach::Never,
            Reach::Done | Reach::Maybe if cut => Reach::Maybe,
            reach => reach,
        };
        let called = outside.calls(name) > 0;
        match reach {
            Reach::Done => assert!(called, "{name} was not called"),
            Reach::Never => assert!(!called, "{name} was called"),
            Reach::Maybe => {}
        }
        let (puts, removes) = counts(outside, name);
        let least = u32::from(reach == Reach::Done && !doomed && placed.step.external);
        let most = u32::from(reach != Reach::Never && !doomed && placed.step.external);
        assert!(
            (least..=most).contains(&puts),
            "{name} was written {puts} times, {reach:?}, {end:?}"
        );
        let undone = *end == End::Compensated && placed.has_undo();
        assert_eq!(removes, if undone { puts } else { 0 }, "{name}, {end:?}");
        if !undone {
            let undos = outside.calls(&format!("undo {name}"));
            assert_eq!(undos, 0, "{name} has nothing to undo, {end:?}");
        }
    }
    check_order(&steps, &outside.history());
}

/// Steps happen in the order of the code, and are undone newest first.
fn check_order(steps: &[Placed], history: &[String]) {
    let when = |deed: &str, placed: &Placed| {
        let line = format!("{deed} {}", placed.name);
        history.iter().position(|found| *found == line)
    };
    for (older, newer) in steps.iter().flat_map(|a| steps.iter().map(move |b| (a, b))) {
        if older.precedes(newer)
            && let (Some(first), Some(then)) = (when("put", older), when("put", newer))
        {
            assert!(first < then, "{} before {}", newer.name, older.name);
        }
        if older.is_older(newer)
            && let (Some(last), Some(first)) = (when("remove", older), when("remove", newer))
        {
            assert!(first < last, "{} undone before {}", older.name, newer.name);
        }
    }
}

/// What the outside must show of a chain that never was.
pub(crate) fn check_nothing(plan: &Plan, outside: &Outside) {
    for placed in plan.steps() {
        assert_eq!(counts(outside, &placed.name), (0, 0), "{}", placed.name);
    }
}
