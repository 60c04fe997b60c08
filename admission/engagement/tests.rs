use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::sync::explored::{explore, switch_point};

const AUDIT: AuditTag = AuditTag {
    organisation: 7,
    engagement: 3,
};

fn ns(amount: u64) -> BusyNanos {
    BusyNanos::new(amount)
}

/// A purse of `limit`, all of it drawn.
fn purse(limit: u64) -> Purse {
    let purse = undrawn(limit);
    let amount = purse.begin_draw(ns(limit)).unwrap();
    purse.drawn(amount);
    purse
}

fn undrawn(limit: u64) -> Purse {
    let budget = Budget {
        limit: ns(limit),
        ..Budget::default()
    };
    Purse::new(AUDIT, &budget)
}

#[test]
fn nothing_is_reserved_before_it_was_drawn() {
    let purse = undrawn(100);
    let pending = Err(Refusal::BudgetPending { audit: AUDIT });
    assert_eq!(purse.reserve(ns(10)), pending);
    let amount = purse.begin_draw(ns(40)).unwrap();
    assert_eq!(amount, ns(40));
    // On its way to the disk is not on the disk.
    assert_eq!(purse.reserve(ns(10)), pending);
    purse.drawn(amount);
    assert_eq!(purse.reserve(ns(10)), Ok(ns(10)));
}

#[test]
fn a_budget_that_does_not_cover_it_says_what_remains() {
    let purse = purse(100);
    purse.reserve(ns(60)).unwrap();
    assert_eq!(
        purse.reserve(ns(41)),
        Err(Refusal::BudgetExhausted {
            audit: AUDIT,
            asked: ns(41),
            remaining: ns(40),
            limit: ns(100),
        })
    );
    purse.set_limit(ns(101));
    assert_eq!(
        purse.reserve(ns(41)),
        Err(Refusal::BudgetPending { audit: AUDIT })
    );
    purse.drawn(purse.begin_draw(ns(100)).unwrap());
    assert_eq!(purse.reserve(ns(41)), Ok(ns(41)));
}

#[test]
fn what_costs_more_than_expected_is_drawn_beyond_and_stops_what_has_not_started() {
    let purse = purse(100);
    let running = purse.reserve(ns(10)).unwrap();
    let waiting = purse.reserve(ns(10)).unwrap();
    assert_eq!(purse.check_start(waiting), None);
    // 80 were free.
    assert_eq!(purse.settle(running, ns(150)), ns(60));
    assert!(matches!(
        purse.check_start(waiting),
        Some(Refusal::BudgetExhausted { .. })
    ));
    let snapshot = purse.snapshot();
    assert_eq!((snapshot.debt, snapshot.reserved), (ns(60), ns(10)));
    // What waited gives its reservation back, and the debt is what is left of the overrun.
    purse.release(waiting);
    assert_eq!(purse.snapshot().debt, ns(50));
    assert!(purse.reserve(ns(1)).is_err());
    // A raise pays the debt first.
    purse.set_limit(ns(155));
    assert_eq!(purse.reserve(ns(5)), Ok(ns(5)));
    assert!(purse.reserve(ns(1)).is_err());
}

#[test]
fn undo_takes_what_is_free_first_and_then_runs_into_debt() {
    let purse = purse(100);
    assert_eq!(purse.settle(ns(0), ns(70)), ns(0));
    assert_eq!(purse.settle(ns(0), ns(70)), ns(40));
    assert_eq!(purse.snapshot().debt, ns(40));
    assert!(purse.reserve(ns(0)).is_err());
}

#[test]
fn the_next_chunk_is_drawn_before_the_last_is_gone_and_one_at_a_time() {
    let purse = undrawn(1_000);
    let chunk = ns(100);
    purse.drawn(purse.begin_draw(chunk).unwrap());
    assert_eq!(purse.begin_draw(chunk), None);
    purse.reserve(ns(50)).unwrap();
    assert_eq!(purse.begin_draw(chunk), None);
    purse.reserve(ns(1)).unwrap();
    let next = purse.begin_draw(chunk).unwrap();
    assert_eq!(next, chunk);
    assert_eq!(purse.begin_draw(chunk), None);
    purse.not_drawn(next);
    assert_eq!(purse.snapshot().remaining, ns(949));
    assert_eq!(purse.begin_draw(chunk), Some(chunk));
}

#[test]
fn a_limit_lowered_while_a_draw_is_under_way_leaves_what_is_covered_to_be_reserved() {
    let purse = undrawn(100);
    purse.drawn(purse.begin_draw(ns(50)).unwrap());
    purse.release(purse.reserve(ns(40)).unwrap());
    let held = purse.reserve(ns(30)).unwrap();
    let amount = purse.begin_draw(ns(50)).unwrap();
    purse.set_limit(ns(70));
    assert_eq!(purse.reserve(ns(20)), Ok(ns(20)));
    purse.drawn(amount);
    purse.release(held);
    // 50 remain of 70, whatever was drawn.
    assert!(purse.reserve(ns(51)).is_err());
    assert_eq!(purse.reserve(ns(50)), Ok(ns(50)));
}

#[test]
fn one_piece_of_work_larger_than_a_chunk_is_drawn_for() {
    let purse = undrawn(1_000);
    assert!(purse.reserve(ns(700)).is_err());
    purse.drawn(purse.begin_draw(ns(100)).unwrap());
    assert_eq!(purse.reserve(ns(700)), Ok(ns(700)));
}

#[test]
fn what_a_process_that_ended_had_drawn_counts_as_spent_until_it_is_reconciled() {
    let budget = Budget {
        limit: ns(100),
        drawn: ns(60),
        spent: ns(25),
        beside: ns(5),
    };
    let purse = Purse::new(AUDIT, &budget);
    let snapshot = purse.snapshot();
    assert_eq!(snapshot.remaining, ns(35));
    assert_eq!((snapshot.unaccounted, snapshot.reserved), (ns(35), ns(0)));
    let taken = purse.take_unaccounted();
    assert_eq!(taken, ns(35));
    assert_eq!(purse.take_unaccounted(), ns(0));
    purse.reconciled(taken);
    assert_eq!(purse.snapshot().remaining, ns(70));
}

/// Submitters that look first and book later all find the budget unspent.
#[test]
fn concurrent_submitters_of_100_s_of_work_get_1_s_of_a_budget_of_1_s() {
    let second = 1_000_000_000;
    let purse = Arc::new(purse(second));
    let spent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..125 {
                    let cost = ns(second / 10);
                    if let Ok(reserved) = purse.reserve(cost) {
                        std::thread::yield_now();
                        assert_eq!(purse.settle(reserved, cost), ns(0));
                        spent.fetch_add(cost.get(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(spent.into_inner(), second);
    assert_eq!(purse.snapshot().remaining, ns(0));
}

/// Under every order of their steps: what is admitted at once is covered, a draw is made once,
/// and nothing is lost or made up.
#[test]
fn no_interleaving_reserves_more_than_was_drawn_or_loses_any_of_it() {
    explore(
        || {
            let purse = Arc::new(undrawn(100));
            let drawn = Arc::new(AtomicU64::new(0));
            let (admitted, spent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let work = |estimate: u64, cost: u64| {
                let purse = Arc::clone(&purse);
                let (drawn, admitted, spent) = (
                    Arc::clone(&drawn),
                    Arc::clone(&admitted),
                    Arc::clone(&spent),
                );
                shuttle::thread::spawn(move || {
                    for _ in 0..3 {
                        match purse.reserve_by(ns(estimate), switch_point) {
                            Ok(reserved) => {
                                let before = admitted.fetch_add(estimate, Ordering::SeqCst);
                                let known = drawn.load(Ordering::SeqCst);
                                let left = spent.load(Ordering::SeqCst);
                                assert!(before + estimate + left <= known.max(100));
                                switch_point();
                                spent.fetch_add(cost, Ordering::SeqCst);
                                admitted.fetch_sub(estimate, Ordering::SeqCst);
                                let beyond = purse.settle(reserved, ns(cost));
                                assert!(beyond.get() <= cost.saturating_sub(estimate));
                                drawn.fetch_add(beyond.get(), Ordering::SeqCst);
                            }
                            Err(_) => {
                                if let Some(amount) = purse.begin_draw(ns(40)) {
                                    switch_point();
                                    drawn.fetch_add(amount.get(), Ordering::SeqCst);
                                    purse.drawn(amount);
                                }
                            }
                        }
                    }
                })
            };
            let threads = [work(30, 30), work(30, 20), work(20, 20)];
            for thread in threads {
                thread.join().unwrap();
            }
            let snapshot = purse.snapshot();
            let (drawn, spent) = (drawn.load(Ordering::SeqCst), spent.load(Ordering::SeqCst));
            assert_eq!(snapshot.spent.get(), spent);
            assert_eq!(snapshot.reserved, ns(0));
            assert_eq!(snapshot.remaining.get(), 100 - spent);
            assert!(spent <= drawn && drawn <= 100, "{spent} of {drawn}");
            assert_eq!(purse.take_free().get(), drawn - spent);
        },
        3_000,
    );
}

#[test]
fn nobody_is_told_that_a_budget_is_gone_while_it_is_being_drawn() {
    explore(
        || {
            let purse = Arc::new(undrawn(100));
            let drawing = {
                let purse = Arc::clone(&purse);
                shuttle::thread::spawn(move || {
                    let amount = purse.begin_draw(ns(100)).unwrap();
                    purse.drawn(amount);
                })
            };
            match purse.reserve_by(ns(60), switch_point) {
                Ok(reserved) => assert_eq!(reserved, ns(60)),
                Err(refusal) => {
                    let audit = purse.audit();
                    assert_eq!(refusal, Refusal::BudgetPending { audit });
                }
            }
            drawing.join().unwrap();
        },
        3_000,
    );
}

/// No lost wake-up: either it finds what came in meanwhile, or it is told of it.
#[test]
fn whoever_finds_too_little_is_told_of_what_comes_in_under_every_order_of_steps() {
    explore(
        || {
            let purse = Arc::new(purse(100));
            let told = Arc::new(AtomicU64::new(0));
            let counts = Arc::clone(&told);
            purse.on_lift(move || {
                counts.fetch_add(1, Ordering::SeqCst);
            });
            let reserved = purse.reserve(ns(60)).unwrap();
            let ends = {
                let purse = Arc::clone(&purse);
                shuttle::thread::spawn(move || {
                    switch_point();
                    let beyond = purse.settle(reserved, ns(10));
                    assert_eq!(beyond, ns(0));
                })
            };
            let asks = |by_check: bool| {
                let purse = Arc::clone(&purse);
                shuttle::thread::spawn(move || {
                    if by_check {
                        purse.check(ns(80)).is_some()
                    } else {
                        purse.reserve_by(ns(80), switch_point).is_err()
                    }
                })
            };
            let asking = [asks(true), asks(false)];
            let refused = asking.map(|one| one.join().unwrap());
            ends.join().unwrap();
            // One that was told is refused again where the other one was quicker.
            if refused.contains(&true) && purse.snapshot().reserved == ns(0) {
                assert!(told.load(Ordering::SeqCst) > 0, "nobody is told");
            }
        },
        3_000,
    );
}

#[test]
fn a_purse_calls_once_for_all_who_found_too_little_and_not_for_a_draw_that_failed() {
    let purse = undrawn(100);
    let told = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&told);
    purse.on_lift(move || {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    let told = || told.load(Ordering::SeqCst);
    purse.reserve(ns(10)).unwrap_err();
    purse.check(ns(10)).unwrap();
    let amount = purse.begin_draw(ns(40)).unwrap();
    purse.not_drawn(amount);
    assert_eq!(told(), 0);
    let amount = purse.begin_draw(ns(40)).unwrap();
    purse.drawn(amount);
    assert_eq!(told(), 1);
    let reserved = purse.reserve(ns(40)).unwrap();
    assert_eq!(purse.settle(reserved, ns(40)), ns(0));
    // Nobody found too little since.
    purse.set_limit(ns(200));
    assert_eq!(told(), 1);
    purse.reserve(ns(150)).unwrap_err();
    purse.set_limit(ns(100));
    assert_eq!(told(), 1, "less is no more");
    purse.set_limit(ns(300));
    assert_eq!(told(), 2);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Reserve(u64),
    Settle(usize, u64),
    Release(usize),
    Undo(u64),
    BeginDraw(u64),
    EndDraw(bool),
    Limit(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..120_u64).prop_map(Op::Reserve),
        3 => (0..8_usize, 0..200_u64).prop_map(|(at, cost)| Op::Settle(at, cost)),
        1 => (0..8_usize).prop_map(Op::Release),
        1 => (0..100_u64).prop_map(Op::Undo),
        2 => (1..150_u64).prop_map(Op::BeginDraw),
        2 => any::<bool>().prop_map(Op::EndDraw),
        1 => (0..1_000_u64).prop_map(Op::Limit),
    ]
}

proptest! {
    /// The oracle keeps what was granted, drawn, spent and reserved apart, and adds it up anew.
    #[test]
    fn a_purse_answers_as_its_sums_say(
        limit in 0..1_000_u64,
        ops in proptest::collection::vec(any_op(), 0..80),
    ) {
        let purse = undrawn(limit);
        let (mut limit, mut drawn, mut spent) = (limit, 0_u64, 0_u64);
        let mut held: Vec<BusyNanos> = Vec::new();
        let mut drawing: Option<BusyNanos> = None;
        for op in ops {
            let reserved: u64 = held.iter().map(|amount| amount.get()).sum();
            let headroom = i128::from(limit) - i128::from(spent) - i128::from(reserved);
            match op {
                Op::Reserve(estimate) => {
                    let asked = estimate.max(1);
                    let covered = drawn >= spent + reserved + asked;
                    let expected = if i128::from(asked) > headroom {
                        Err(Refusal::BudgetExhausted {
                            audit: AUDIT,
                            asked: ns(asked),
                            remaining: ns(u64::try_from(headroom).unwrap_or(0)),
                            limit: ns(limit),
                        })
                    } else if covered {
                        Ok(ns(asked))
                    } else {
                        Err(Refusal::BudgetPending { audit: AUDIT })
                    };
                    prop_assert_eq!(purse.check(ns(estimate)), expected.clone().err());
                    let got = purse.reserve(ns(estimate));
                    prop_assert_eq!(&got, &expected);
                    held.extend(got);
                }
                Op::Settle(at, cost) if at < held.len() => {
                    let reservation = held.swap_remove(at);
                    let beyond = purse.settle(reservation, ns(cost)).get();
                    let others = reserved - reservation.get();
                    prop_assert_eq!(beyond, (spent + cost + others).saturating_sub(drawn));
                    drawn += beyond;
                    spent += cost;
                }
                Op::Release(at) if at < held.len() => purse.release(held.swap_remove(at)),
                Op::Undo(cost) => {
                    drawn += purse.settle(ns(0), ns(cost)).get();
                    spent += cost;
                }
                Op::BeginDraw(chunk) => {
                    if let Some(amount) = purse.begin_draw(ns(chunk)) {
                        prop_assert!(drawing.is_none());
                        prop_assert!(drawn + amount.get() <= limit);
                        drawing = Some(amount);
                    }
                }
                Op::EndDraw(durable) => {
                    if let Some(amount) = drawing.take() {
                        if durable {
                            drawn += amount.get();
                            purse.drawn(amount);
                        } else {
                            purse.not_drawn(amount);
                        }
                    }
                }
                Op::Limit(new) => {
                    limit = new;
                    purse.set_limit(ns(new));
                }
                Op::Settle(..) | Op::Release(_) => {}
            }
            let reserved: u64 = held.iter().map(|amount| amount.get()).sum();
            prop_assert!(drawn >= spent + reserved, "{} < {} + {}", drawn, spent, reserved);
            let snapshot = purse.snapshot();
            let left = i128::from(limit) - i128::from(spent) - i128::from(reserved);
            prop_assert_eq!(snapshot.spent, ns(spent));
            prop_assert_eq!(snapshot.reserved, ns(reserved));
            prop_assert_eq!(i128::from(snapshot.remaining.get()), left.max(0));
            prop_assert_eq!(i128::from(snapshot.debt.get()), (-left).max(0));
        }
    }
}
