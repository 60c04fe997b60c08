//! What befalls requests, and what a remote without fences comes to.

use orlop::testkit::{Fault, FaultPlan, Finding, Outside, Request};

use crate::pair::{Mistake, counting, sweep};

#[test]
fn whatever_befalls_one_request_nothing_is_doubled_and_nothing_is_left_behind() {
    for plan in FaultPlan::each(&["p left"]) {
        let report = sweep(Mistake::None, counting(plan.clone())).depth(0).run();
        report.unwrap_or_else(|error| panic!("{plan}: {error}"));
    }
    let late = FaultPlan::new().and(Request::Put, "p left", 0, Fault::AppliedAfterTimeout);
    let report = sweep(Mistake::None, counting(late)).depth(1).run().unwrap();
    assert!(report.crashes() > 0, "{report}");
}

#[test]
fn a_put_that_arrives_after_its_undo_is_found_where_the_remote_knows_no_fences() {
    let plan = FaultPlan::new().and(Request::Put, "p left", 0, Fault::AppliedAfterUndo);
    let unfenced = plan.clone();
    let outside = move |clock: &orlop::testkit::SimClock| {
        Outside::new(clock)
            .with_faults(unfenced.clone())
            .without_fences()
    };
    let error = sweep(Mistake::None, outside).depth(0).run().unwrap_err();
    match *error.finding {
        Finding::Invariant { reason, .. } => {
            assert!(reason.contains("put after its undo"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    sweep(Mistake::None, counting(plan)).depth(0).run().unwrap();
}

#[test]
fn a_reconciliation_that_believes_a_stale_stat_is_found_and_one_under_a_fence_is_not() {
    let plan = FaultPlan::new()
        .and(Request::Put, "p left", 0, Fault::LostReply)
        .and(Request::Look, "p left", 0, Fault::StaleStat);
    let error = sweep(Mistake::OnlyLooks, counting(plan.clone()))
        .depth(0)
        .run()
        .unwrap_err();
    match *error.finding {
        Finding::Invariant { reason, .. } => assert!(reason.contains("put twice"), "{reason}"),
        other => panic!("{other:?}"),
    }
    sweep(Mistake::None, counting(plan)).depth(0).run().unwrap();
}
