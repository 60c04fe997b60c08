use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::canonical::Payload;
use crate::effect::{CodeRef, EffectEvent, EffectId, Settlement};
use crate::event::Event;
use crate::id::Fence;
use crate::key::{Fingerprint, Key};
use crate::live::Live;
use crate::outcome::Outcome;
use crate::tenant::TenantEvent;
use crate::time::WallMillis;

fn audit(organisation: u64, engagement: u64) -> AuditTag {
    AuditTag {
        organisation,
        engagement,
    }
}

fn nanos(nanos: u64) -> BusyNanos {
    BusyNanos::new(nanos)
}

fn label(name: &str) -> TenantLabel {
    TenantLabel::new(name).unwrap()
}

fn settled(tenant: TenantId, audit: AuditTag, cost: u64) -> Event {
    let input = Payload::default();
    Event::Effect {
        id: EffectId {
            tenant,
            key: Key::named("k"),
        },
        event: EffectEvent::Settled(Box::new(Settlement {
            fingerprint: Fingerprint::of("c", 1, &input),
            code: CodeRef::new("c", 1),
            saga: None,
            fence: Fence::default(),
            outcome: Outcome::Done(input),
            cost: nanos(cost),
            audit,
            at: WallMillis::new(1),
            expires_at: WallMillis::new(2),
        })),
    }
}

fn apply(live: &mut Live, event: &Event) {
    live.apply(live.lsn().next(), event).unwrap();
}

fn budget(event: BudgetEvent) -> Event {
    Event::Budget(event)
}

fn grant(limit: u64) -> Event {
    budget(BudgetEvent::Granted {
        audit: audit(1, 1),
        limit: nanos(limit),
    })
}

fn draw(amount: u64) -> Event {
    budget(BudgetEvent::Drawn {
        audit: audit(1, 1),
        amount: nanos(amount),
    })
}

fn registered(live: &mut Live, tenant: TenantId, name: &str) {
    let event = TenantEvent::Registered {
        tenant,
        label: label(name),
    };
    apply(live, &Event::Tenant(event));
}

#[test]
fn an_outcome_is_billed_to_the_life_that_ran_it_and_no_later_life_of_the_slot() {
    let mut live = Live::default();
    let (old, new) = (TenantId::new(3, 1), TenantId::new(3, 2));
    registered(&mut live, old, "acme");
    registered(&mut live, new, "bolt");
    // The new life is there when the old one's work completes.
    apply(&mut live, &settled(old, audit(1, 1), 70));
    apply(&mut live, &settled(new, audit(1, 1), 5));
    let lines = live.books().lines();
    let of = |tenant| {
        let key = LineKey {
            tenant,
            audit: audit(1, 1),
        };
        lines
            .get(&key)
            .map(|line| (line.label.clone(), line.spent.get()))
    };
    // Its name went with its life, before the line began.
    assert_eq!(of(old), Some((None, 70)));
    assert_eq!(of(new), Some((Some(label("bolt")), 5)));
}

#[test]
fn two_organisations_with_the_same_engagement_have_two_lines_and_two_budgets() {
    let mut live = Live::default();
    let tenant = TenantId::new(0, 1);
    apply(&mut live, &grant(100));
    apply(&mut live, &draw(100));
    apply(&mut live, &settled(tenant, audit(1, 1), 30));
    apply(&mut live, &settled(tenant, audit(2, 1), 50));
    let books = live.books();
    let sums: Vec<u64> = books
        .lines()
        .values()
        .map(|line| line.spent.get())
        .collect();
    assert_eq!(sums, [30, 50]);
    assert_eq!(books.budgets()[&audit(1, 1)].spent, nanos(30));
    assert_eq!(books.budgets().len(), 1);
}

#[test]
fn what_no_draw_covers_is_booked_beside_and_counts_against_the_limit() {
    let mut live = Live::default();
    apply(&mut live, &grant(100));
    apply(&mut live, &draw(40));
    apply(&mut live, &settled(TenantId::new(0, 1), audit(1, 1), 55));
    let budget = live.books().budgets()[&audit(1, 1)];
    assert_eq!((budget.spent, budget.beside), (nanos(40), nanos(15)));
    assert_eq!(budget.undrawn(), nanos(45));
}

#[test]
fn no_more_is_returned_than_was_drawn_and_not_spent() {
    let mut live = Live::default();
    apply(&mut live, &grant(100));
    apply(&mut live, &draw(40));
    apply(&mut live, &settled(TenantId::new(0, 1), audit(1, 1), 25));
    let returned = BudgetEvent::Returned {
        audit: audit(1, 1),
        amount: nanos(1_000),
    };
    apply(&mut live, &budget(returned));
    let budget = live.books().budgets()[&audit(1, 1)];
    assert_eq!((budget.drawn, budget.undrawn()), (nanos(25), nanos(75)));
}

fn any_event() -> impl Strategy<Value = Event> {
    let tag = || (1..3_u64, 1..3_u64).prop_map(|(o, e)| audit(o, e));
    let tenant = || (0..2_u32, 1..3_u32).prop_map(|(s, g)| TenantId::new(s, g));
    let amount = || 0..1_000_u64;
    prop_oneof![
        (tag(), amount()).prop_map(|(audit, limit)| budget(BudgetEvent::Granted {
            audit,
            limit: nanos(limit)
        })),
        (tag(), amount()).prop_map(|(audit, amount)| budget(BudgetEvent::Drawn {
            audit,
            amount: nanos(amount)
        })),
        (tag(), amount()).prop_map(|(audit, amount)| budget(BudgetEvent::Returned {
            audit,
            amount: nanos(amount)
        })),
        (tenant(), tag(), amount()).prop_map(|(tenant, audit, cost)| budget(BudgetEvent::Spent {
            bills: vec![Bill {
                tenant,
                audit,
                cost: nanos(cost)
            }]
        })),
        (tenant(), tag(), amount()).prop_map(|(tenant, audit, cost)| settled(tenant, audit, cost)),
    ]
}

proptest! {
    /// The oracle adds up what the events say, and knows nothing of how it is booked.
    #[test]
    fn every_prefix_adds_up_and_no_line_ever_falls(
        events in proptest::collection::vec(any_event(), 0..60)
    ) {
        let mut live = Live::default();
        let mut lines: BTreeMap<LineKey, u64> = BTreeMap::new();
        let mut since_grant: BTreeMap<AuditTag, u64> = BTreeMap::new();
        for event in &events {
            let mut cost = |tenant, audit, cost: BusyNanos| {
                if cost.get() > 0 {
                    *lines.entry(LineKey { tenant, audit }).or_default() += cost.get();
                    if let Some(sum) = since_grant.get_mut(&audit) {
                        *sum += cost.get();
                    }
                }
            };
            match event {
                Event::Effect { id, event: EffectEvent::Settled(settlement) } => {
                    cost(id.tenant, settlement.audit, settlement.cost);
                }
                Event::Budget(BudgetEvent::Spent { bills }) => {
                    for bill in bills {
                        cost(bill.tenant, bill.audit, bill.cost);
                    }
                }
                Event::Budget(
                    BudgetEvent::Granted { audit, .. } | BudgetEvent::Drawn { audit, .. },
                ) => {
                    since_grant.entry(*audit).or_default();
                }
                Event::Opened { .. }
                | Event::Tenant(_)
                | Event::Effect { .. }
                | Event::Saga { .. }
                | Event::Closed { .. }
                | Event::Recovered
                | Event::Budget(BudgetEvent::Returned { .. }) => {}
            }
            apply(&mut live, event);
            let books = live.books();
            let booked: BTreeMap<LineKey, u64> = books
                .lines()
                .iter()
                .map(|(key, line)| (*key, line.total().get()))
                .collect();
            prop_assert_eq!(&booked, &lines);
            for (audit, budget) in books.budgets() {
                prop_assert!(budget.drawn >= budget.spent, "{:?}", budget);
                let all = budget.spent.saturating_add(budget.beside);
                prop_assert_eq!(all.get(), since_grant[audit]);
            }
        }
    }
}
