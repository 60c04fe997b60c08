//! Terms: the quotas of a tenant as the journal has them.

use orlop_admission::{ByteRate, GroupId, Quotas, Rate, Share, Weight};
use orlop_saga::amount::ByteCount;
use orlop_saga::tenancy::{Term, Terms};

/// The terms that say `quotas`; what bounds nothing or is ordinary is left out.
pub(crate) fn of(quotas: &Quotas) -> Terms {
    let Quotas {
        slots_max,
        staging_bytes_max,
        buffers_max,
        device_bytes_max,
        kernels_max,
        retained_bytes_max,
        journal,
        rate,
        share,
    } = *quotas;
    let Share {
        weight,
        group,
        group_weight,
    } = share;
    let ordinary = Share::ORDINARY;
    let bound = |amount: u64| (amount != u64::MAX).then_some(amount);
    let number = |number: u32, ordinary: u32| (number != ordinary).then_some(u64::from(number));
    let all = [
        (Term::Slots, bound(slots_max)),
        (Term::StagingBytes, bound(staging_bytes_max.get())),
        (Term::RateIntervalNanos, rate.map(Rate::interval_nanos)),
        (Term::RateBurst, rate.map(|rate| u64::from(rate.burst()))),
        (Term::Weight, number(weight.get(), ordinary.weight.get())),
        (Term::Group, number(group.get(), ordinary.group.get())),
        (
            Term::GroupWeight,
            number(group_weight.get(), ordinary.group_weight.get()),
        ),
        (Term::Buffers, bound(buffers_max)),
        (Term::DeviceBytes, bound(device_bytes_max.get())),
        (Term::Kernels, bound(kernels_max)),
        (Term::RetainedBytes, bound(retained_bytes_max.get())),
        (
            Term::JournalBytesPerSecond,
            journal.map(ByteRate::per_second),
        ),
        (Term::JournalBurstBytes, journal.map(ByteRate::burst)),
    ];
    let set = all.into_iter();
    set.filter_map(|(term, amount)| Some((term, amount?)))
        .collect()
}

/// The quotas that `terms` say.
pub(crate) fn quotas(terms: &Terms) -> Quotas {
    let get = |term| terms.get(&term).copied();
    let amount = |term| get(term).unwrap_or(u64::MAX);
    let number = |term| get(term).and_then(|number| u32::try_from(number).ok());
    let weight = |term, ordinary| number(term).and_then(Weight::new).unwrap_or(ordinary);
    let ordinary = Share::ORDINARY;
    let interval = get(Term::RateIntervalNanos);
    let journal = get(Term::JournalBytesPerSecond);
    Quotas {
        slots_max: amount(Term::Slots),
        staging_bytes_max: ByteCount::new(amount(Term::StagingBytes)),
        buffers_max: amount(Term::Buffers),
        device_bytes_max: ByteCount::new(amount(Term::DeviceBytes)),
        kernels_max: amount(Term::Kernels),
        retained_bytes_max: ByteCount::new(amount(Term::RetainedBytes)),
        journal: journal.and_then(|rate| ByteRate::new(rate, get(Term::JournalBurstBytes)?)),
        rate: interval.and_then(|interval| Rate::every(interval, number(Term::RateBurst)?)),
        share: Share {
            weight: weight(Term::Weight, ordinary.weight),
            group: number(Term::Group).map_or(ordinary.group, GroupId::new),
            group_weight: weight(Term::GroupWeight, ordinary.group_weight),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>()]
    }

    proptest! {
        #[test]
        fn quotas_come_back_from_the_journal_as_they_were(
            (slots, staging, buffers) in (amount(), amount(), amount()),
            (device, kernels, retained) in (amount(), amount(), amount()),
            journal in prop::option::of((1_u64.., 1_u64..)),
            rate in prop::option::of((1_u32..=Rate::PER_SECOND_MAX, 1_u32..)),
            (weight, group, group_weight) in (1_u32..=Weight::MAX, any::<u32>(), 1_u32..=Weight::MAX),
        ) {
            let quotas = Quotas {
                slots_max: slots,
                staging_bytes_max: ByteCount::new(staging),
                buffers_max: buffers,
                device_bytes_max: ByteCount::new(device),
                kernels_max: kernels,
                retained_bytes_max: ByteCount::new(retained),
                journal: journal.and_then(|(per_second, burst)| ByteRate::new(per_second, burst)),
                rate: rate.and_then(|(per_second, burst)| Rate::new(per_second, burst)),
                share: Share {
                    weight: Weight::new(weight).unwrap(),
                    group: GroupId::new(group),
                    group_weight: Weight::new(group_weight).unwrap(),
                },
            };
            prop_assert_eq!(super::quotas(&of(&quotas)), quotas);
        }
    }

    #[test]
    fn what_bounds_nothing_needs_no_words() {
        assert!(of(&Quotas::UNLIMITED).is_empty());
    }
}
