//! Every dimension that a tenant's quotas bound: refused by name, held and counted, given back once.

use std::sync::Arc;
use std::time::Duration;

use orlop_admission::{
    Acquired, ByteRate, CostVector, Dimension, Kept, Permit, Quotas, Refusal, RegisterError,
    ReleaseError, Reservation, TenantAccount, TenantState,
};
use orlop_saga::amount::{BusyNanos, ByteCount};
use orlop_saga::time::Clock;
use proptest::prelude::*;

use crate::support::{House, filing, label, plenty, request, tenant};

const fn bytes(of: u64) -> ByteCount {
    ByteCount::new(of)
}

fn quotas(cap: u64) -> Quotas {
    Quotas {
        buffers_max: cap,
        device_bytes_max: bytes(cap),
        kernels_max: cap,
        retained_bytes_max: bytes(cap),
        ..plenty()
    }
}

/// A cost of `of` in one dimension, by its number.
fn cost(dimension: usize, of: u64) -> (Dimension, CostVector) {
    let plain = CostVector::default();
    match dimension {
        0 => (Dimension::TenantBuffers, plain.with_buffers(of, bytes(0))),
        1 => (
            Dimension::TenantDeviceBytes,
            plain.with_buffers(0, bytes(of)),
        ),
        2 => (Dimension::TenantKernels, plain.with_kernels(of)),
        _ => (
            Dimension::TenantRetainedBytes,
            plain.with_retained(bytes(of)),
        ),
    }
}

#[test]
fn every_dimension_is_refused_with_what_was_asked_is_used_and_may_be() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    house.tenants.set_quotas(&ada, quotas(10)).unwrap();
    for number in 0..4 {
        let (dimension, six) = cost(number, 6);
        let held = house.take(request(&ada).cost(six));
        let refusal = house.ask(0, request(&ada).cost(six)).unwrap_err();
        let exceeded = Refusal::QuotaExceeded {
            dimension,
            asked: 6,
            used: 6,
            cap: 10,
        };
        assert_eq!(refusal, exceeded);
        let (_, eleven) = cost(number, 11);
        let refusal = house.ask(0, request(&ada).cost(eleven)).unwrap_err();
        let never = Refusal::NeverFits {
            dimension,
            asked: 11,
            cap: 10,
        };
        assert_eq!(refusal, never);
        drop(held);
        drop(house.take(request(&ada).cost(cost(number, 10).1)));
    }
    house.assert_quiet();
}

#[test]
fn a_quota_of_zero_means_none_in_every_dimension() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    house.tenants.set_quotas(&ada, quotas(0)).unwrap();
    for number in 0..4 {
        let (dimension, one) = cost(number, 1);
        let refusal = house.ask(0, request(&ada).cost(one)).unwrap_err();
        let never = Refusal::NeverFits {
            dimension,
            asked: 1,
            cap: 0,
        };
        assert_eq!(refusal, never);
    }
    drop(house.take(request(&ada)));
}

#[test]
fn journal_bytes_over_the_rate_are_refused_until_their_time_has_come() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let limited = Quotas {
        journal: ByteRate::new(1_000, 500),
        ..plenty()
    };
    house.tenants.set_quotas(&ada, limited).unwrap();
    let writes = |of| request(&ada).cost(CostVector::default().with_journal(bytes(of)));
    let never = Refusal::NeverFits {
        dimension: Dimension::TenantJournalBytes,
        asked: 501,
        cap: 500,
    };
    assert_eq!(house.ask(0, writes(501)).unwrap_err(), never);
    drop(house.take(writes(400)));
    let retry_after = Duration::from_millis(100);
    let early = Refusal::RateLimited { retry_after };
    assert_eq!(house.ask(0, writes(200)).unwrap_err(), early);
    // What writes nothing is not held up by it.
    drop(house.take(request(&ada)));
    house.clock.advance(retry_after);
    drop(house.take(writes(200)));
}

/// Its tenant's quota may be lowered between when it is measured and when it is asked for.
#[test]
fn what_was_promised_waits_for_its_share_of_the_journal_and_is_never_too_large_for_it() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let limited = Quotas {
        journal: ByteRate::new(1_000, 100),
        ..plenty()
    };
    house.tenants.set_quotas(&ada, limited).unwrap();
    let writes = |of| request(&ada).cost(CostVector::default().with_journal(bytes(of)));
    let refusal = house.ask(0, writes(150).accepted(true)).unwrap_err();
    let retry_after = Duration::from_millis(50);
    assert_eq!(refusal, Refusal::RateLimited { retry_after });
    let refusal = house.ask(0, writes(150)).unwrap_err();
    assert!(matches!(refusal, Refusal::NeverFits { .. }), "{refusal:?}");
}

/// What asks for no permit is in no bulkhead's queue, and its quota is as live.
#[test]
fn what_was_written_without_a_permit_counts_in_proportion_once_the_share_is_raised() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    let share = |per_second| Quotas {
        journal: ByteRate::new(per_second, 100),
        ..plenty()
    };
    house.tenants.set_quotas(&ada, share(1)).unwrap();
    let write = |of| ada.write(bytes(of), house.clock.monotonic());
    write(100).unwrap();
    let retry_after = Duration::from_secs(100);
    assert_eq!(write(100), Err(Refusal::RateLimited { retry_after }));
    house.tenants.set_quotas(&ada, share(1_000)).unwrap();
    let retry_after = Duration::from_millis(100);
    assert_eq!(write(100), Err(Refusal::RateLimited { retry_after }));
    let asks = request(&ada).cost(CostVector::default().with_journal(bytes(100)));
    let refusal = house.ask(0, asks).unwrap_err();
    assert_eq!(refusal, Refusal::RateLimited { retry_after });
    house.clock.advance(retry_after);
    write(100).unwrap();
}

#[test]
fn the_device_memory_quota_counts_what_is_kept_and_what_runs() {
    let house = House::new(8);
    let ada = tenant(&house.tenants, "ada");
    house.tenants.set_quotas(&ada, quotas(100)).unwrap();
    let kept = ada.reserve(Kept::buffer(bytes(70))).unwrap();
    let needs = |of| request(&ada).cost(CostVector::default().with_buffers(0, bytes(of)));
    let exceeded = |asked, used| Refusal::QuotaExceeded {
        dimension: Dimension::TenantDeviceBytes,
        asked,
        used,
        cap: 100,
    };
    assert_eq!(house.ask(0, needs(31)).unwrap_err(), exceeded(31, 70));
    let permit = house.take(needs(30));
    let more = ada.reserve(Kept::buffer(bytes(1)));
    assert_eq!(more.unwrap_err(), exceeded(1, 100));
    drop(kept);
    let kept = ada.reserve(Kept::buffer(bytes(70))).unwrap();
    drop((permit, kept));
    assert_eq!(ada.snapshot().kept, Kept::default());
    house.assert_quiet();
}

#[test]
fn releasing_more_than_is_reserved_is_an_error_and_releases_nothing() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let mut kept = ada.reserve(Kept::staging(bytes(10))).unwrap();
    let underflow = ReleaseError::Underflow {
        dimension: Dimension::TenantStagingBytes,
        asked: 11,
        held: 10,
    };
    assert_eq!(kept.release(Kept::staging(bytes(11))), Err(underflow));
    assert_eq!(ada.snapshot().kept, Kept::staging(bytes(10)));
    assert_eq!(kept.release(Kept::staging(bytes(4))), Ok(()));
    assert_eq!(ada.snapshot().kept, Kept::staging(bytes(6)));
    drop(kept);
    assert_eq!(ada.snapshot().kept, Kept::default());
}

#[test]
fn unregistering_zeroes_no_reservation_and_its_release_credits_no_later_life() {
    let house = House::new(1);
    let ada = tenant(&house.tenants, "ada");
    let kept = ada.reserve(Kept::retained(bytes(10))).unwrap();
    house.tenants.unregister(&ada).unwrap();
    assert_eq!(ada.snapshot().kept, Kept::retained(bytes(10)));
    let tenant = ada.id();
    let stale = ada.reserve(Kept::retained(bytes(1)));
    assert_eq!(stale.unwrap_err(), Refusal::StaleTenant { tenant });
    // Registering anew would double what it may hold.
    let again = || house.tenants.register_next(label("ada"), plenty());
    let taken = RegisterError::LabelTaken {
        holder: tenant,
        state: TenantState::Unregistered,
    };
    assert_eq!(again().unwrap_err(), taken);
    let bob = house.tenants.register_next(label("bob"), plenty()).unwrap();
    assert_ne!(bob.id().slot(), tenant.slot());
    drop(kept);
    let next = again().unwrap();
    assert_eq!(next.id().slot(), tenant.slot());
    assert_eq!(next.snapshot().kept, Kept::default());
}

#[derive(Clone, Debug)]
enum Op {
    Ask { amounts: [u64; 4] },
    Settle(usize),
    Reserve { buffers: u64, device: u64 },
    Shrink(usize, u64),
    Release(usize),
    Quotas(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::array::uniform4(0..6_u64).prop_map(|amounts| Op::Ask { amounts }),
        3 => any::<usize>().prop_map(Op::Settle),
        2 => (0..3_u64, 0..8_u64)
            .prop_map(|(buffers, device)| Op::Reserve { buffers, device }),
        1 => (any::<usize>(), 0..8_u64).prop_map(|(at, by)| Op::Shrink(at, by)),
        1 => any::<usize>().prop_map(Op::Release),
        1 => (0..20_u64).prop_map(Op::Quotas),
    ]
}

/// What is held, kept plainly: amounts of each permit that waits or runs, and of each reservation.
#[derive(Default)]
struct Plain {
    cap: u64,
    permits: Vec<(Permit, [u64; 4])>,
    kept: Vec<(Reservation, [u64; 4])>,
}

impl Plain {
    fn used(&self) -> [u64; 4] {
        let permits = self.permits.iter().map(|(_, amounts)| amounts);
        let all = permits.chain(self.kept.iter().map(|(_, amounts)| amounts));
        all.fold([0; 4], |sum, amounts| {
            std::array::from_fn(|at| sum[at] + amounts[at])
        })
    }

    fn fits(&self, asked: [u64; 4]) -> bool {
        let used = self.used();
        (0..4).all(|at| asked[at] == 0 || used[at] + asked[at] <= self.cap)
    }

    fn check(&self, account: &Arc<TenantAccount>) {
        let snapshot = account.snapshot();
        let (held, kept) = (snapshot.ordinary, snapshot.kept);
        let counted = [
            held.buffers + kept.buffers,
            held.device.get() + kept.device.get(),
            held.kernels,
            held.retained.get() + kept.retained.get(),
        ];
        assert_eq!(counted, self.used());
    }
}

proptest! {
    #[test]
    fn held_is_counted_in_every_dimension_at_every_step(
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let house = House::new(1 << 10);
        let ada = tenant(&house.tenants, "ada");
        house.tenants.set_quotas(&ada, quotas(12)).unwrap();
        let mut plain = Plain { cap: 12, ..Plain::default() };
        for op in ops {
            match op {
                Op::Ask { amounts } => {
                    let [buffers, device, kernels, retained] = amounts;
                    let cost = CostVector::default()
                        .with_buffers(buffers, bytes(device))
                        .with_kernels(kernels)
                        .with_retained(bytes(retained));
                    let asked = house.ask(0, request(&ada).cost(cost));
                    prop_assert_eq!(asked.is_ok(), plain.fits(amounts));
                    if let Ok(Acquired::Granted(permit)) = asked {
                        plain.permits.push((permit, amounts));
                    }
                }
                Op::Settle(at) if !plain.permits.is_empty() => {
                    let (permit, _) = plain.permits.swap_remove(at % plain.permits.len());
                    permit.settle(BusyNanos::new(1));
                }
                Op::Reserve { buffers, device } => {
                    let mut kept = Kept::default();
                    (kept.buffers, kept.device) = (buffers, bytes(device));
                    let amounts = [buffers, device, 0, 0];
                    let reserved = ada.reserve(kept);
                    prop_assert_eq!(reserved.is_ok(), plain.fits(amounts));
                    plain.kept.extend(reserved.ok().map(|kept| (kept, amounts)));
                }
                Op::Shrink(at, by) if !plain.kept.is_empty() => {
                    let at = at % plain.kept.len();
                    let (kept, amounts) = &mut plain.kept[at];
                    let mut part = Kept::default();
                    part.device = bytes(by);
                    prop_assert_eq!(kept.release(part).is_ok(), by <= amounts[1]);
                    if by <= amounts[1] {
                        amounts[1] -= by;
                    }
                }
                Op::Release(at) if !plain.kept.is_empty() => {
                    drop(plain.kept.swap_remove(at % plain.kept.len()));
                }
                Op::Quotas(cap) => {
                    house.tenants.set_quotas(&ada, quotas(cap)).unwrap();
                    plain.cap = cap;
                }
                Op::Settle(_) | Op::Shrink(..) | Op::Release(_) => {}
            }
            plain.check(&ada);
        }
        drop(plain);
        house.assert_quiet();
        prop_assert_eq!(ada.snapshot().kept, Kept::default());
    }

    /// Each answer of a batch is the one that the request gets alone, and nothing is lost.
    #[test]
    fn a_batch_answers_each_request_as_if_it_were_alone(
        slots in 1..6_u32,
        per_tenant in 1..9_u64,
        asks in prop::collection::vec((0..2_usize, 1..3_u32, 0..4_u64), 1..20),
    ) {
        let houses = [House::new(slots), House::new(slots)];
        let bounded = Quotas { slots_max: per_tenant, ..quotas(5) };
        let accounts = houses.each_ref().map(|house| {
            ["ada", "bob"].map(|name| {
                let account = tenant(&house.tenants, name);
                house.tenants.set_quotas(&account, bounded).unwrap();
                account
            })
        });
        let wanted = |of: usize| {
            let accounts = &accounts;
            asks.iter().map(move |&(who, slots, kernels)| {
                let cost = crate::support::cost(slots, 0).with_kernels(kernels);
                request(&accounts[of][who]).cost(cost)
            })
        };
        let alone: Vec<_> = (0_u32..)
            .zip(wanted(0))
            .map(|(id, request)| houses[0].ask(id, request))
            .collect();
        let (mut permits, all) = (Vec::new(), wanted(1).collect::<Vec<_>>());
        let grantee = |place: usize| filing(u32::try_from(place).unwrap(), &houses[1].inbox);
        let mut others = std::collections::BTreeMap::new();
        let other = |place, other| assert!(others.insert(place, other).is_none());
        houses[1].bulkhead.acquire_batch(&all, grantee, &mut permits, other);
        prop_assert_eq!(permits.len() + others.len(), alone.len());
        for (place, one) in alone.into_iter().enumerate() {
            match (one, others.remove(&place)) {
                (Ok(Acquired::Granted(one)), None) => drop(one),
                (Ok(Acquired::Queued(one)), Some(Ok(other))) => {
                    // Who is let through by that is given back with the rest.
                    one.cancel();
                    other.cancel();
                }
                (Err(one), Some(Err(other))) => prop_assert_eq!(one, other),
                (one, other) => panic!("{other:?} where alone it is {one:?}"),
            }
        }
        let granted = permits.len() as u64;
        Permit::settle_batch(&mut permits, &vec![BusyNanos::new(1); all.len()], |_, _| {});
        while !houses[1].inbox.lock().unwrap().is_empty() {
            drop(crate::support::take_all(&houses[1].inbox));
        }
        let lane = houses[1].bulkhead.snapshot().ordinary;
        prop_assert_eq!((lane.settled, lane.busy.get()), (granted, granted));
        houses[1].assert_quiet();
    }
}
