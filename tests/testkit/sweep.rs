//! What a sweep goes through, and the mistakes that it finds.

use orlop::testkit::{FaultPlan, Finding, Outside, SweepError, SweepPoint};

use crate::pair::{Mistake, counting, sweep};

/// What the sweep finds of a mistake; the same again when only that point is run.
fn found(mistake: Mistake) -> SweepError {
    let sweep = || sweep(mistake, counting(FaultPlan::new())).seed(3);
    let error = sweep().run().unwrap_err();
    let point: SweepPoint = error.point.to_string().parse().unwrap();
    let again = sweep().only(&point).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    assert!(error.to_string().contains(".seed(3).only("), "{error}");
    error
}

#[test]
fn a_saga_without_a_mistake_survives_every_crash_and_the_next_one() {
    let report = sweep(Mistake::None, counting(FaultPlan::new()))
        .run()
        .unwrap();
    println!("{report}");
    let all = [
        report.forward,
        report.unwinding,
        report.again_forward,
        report.again_unwinding,
    ];
    for counts in all {
        assert!(counts.writes_lost > 0, "{report}");
        assert!(counts.writes_kept > 0, "{report}");
        assert!(counts.before_calls > 0, "{report}");
        assert!(counts.after_calls > 0, "{report}");
    }
    assert!(report.endings.iter().all(|count| *count > 0), "{report}");
    assert_eq!(report.points.len() as u64, report.crashes());
}

#[test]
fn the_same_seed_gives_the_same_points_and_another_one_another_order() {
    let report = |seed| {
        let sweep = sweep(Mistake::None, counting(FaultPlan::new()));
        sweep.depth(1).seed(seed).run().unwrap()
    };
    let first = report(5);
    assert_eq!(report(5), first);
    // Which of the two steps side by side goes first is drawn: some seed has the other order.
    assert!((6..12).any(|seed| report(seed).points != first.points));
}

#[test]
fn an_undo_that_takes_doubt_for_nothing_is_found() {
    let error = found(Mistake::ForgetsDoubt);
    match *error.finding {
        Finding::Invariant { reason, .. } => assert!(reason.contains("stand"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reconciliation_that_does_not_ask_is_found() {
    let error = found(Mistake::NeverAsks);
    match *error.finding {
        Finding::Invariant { reason, .. } => assert!(reason.contains("put twice"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_saga_that_does_something_else_in_the_next_process_is_found() {
    let error = found(Mistake::Strays);
    match *error.finding {
        Finding::Invariant { reason, .. } => {
            assert!(reason.contains("nondeterminism"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_invariant_that_never_holds_is_found_at_once() {
    let outside = counting(FaultPlan::new());
    let error = orlop::testkit::CrashSweep::<crate::pair::Pair, Outside>::new(
        outside,
        |outside, builder| crate::pair::bind(&crate::pair::code(outside), builder),
        |_, _| "p".to_owned(),
        |_, _| Err("never".to_owned()),
    )
    .run()
    .unwrap_err();
    assert_eq!(error.point.to_string(), "forward()");
}
