//! Deliveries: what must run once no lock is held.
//!
//! Invariants
//! - Callbacks, wakers and the drops of both run with no lock of this crate held.
//! - A callback that frees a slot does not deepen the stack: what it causes is delivered by the
//!   outermost delivery of the thread, after it returns.
//! - One panicking callback loses no other delivery, and never unwinds out of a drop.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use orlop_saga::id::TenantId;
use orlop_saga::time::Monotonic;
use smallvec::SmallVec;

use crate::bulkhead::Alarm;
use crate::held::{BulkheadId, Unheld};
use crate::permit::Permit;
use crate::refusal::Refusal;
use crate::request::Grantee;
use crate::sync::switch_point;
use crate::waiting::Shared;

/// One thing to do outside the locks.
pub(crate) enum Delivery {
    Grant(Arc<dyn Grantee>, Permit),
    Refuse(Arc<dyn Grantee>, Refusal),
    Wake(Waker),
    Alarm(Arc<dyn Alarm>, Monotonic),
    /// Only to be dropped: a drop may run foreign code too.
    Forget(Arc<dyn Grantee>),
    /// Something of a tenant was given back in a bulkhead.
    Freed(Arc<Shared>, BulkheadId, TenantId),
}

impl Delivery {
    fn run(self) {
        match self {
            Self::Grant(grantee, permit) => grantee.granted(permit),
            Self::Refuse(grantee, refusal) => grantee.refused(refusal),
            Self::Wake(waker) => waker.wake(),
            Self::Alarm(alarm, next) => alarm.earlier(next),
            Self::Forget(grantee) => drop(grantee),
            Self::Freed(room, bulkhead, tenant) => room.freed(bulkhead, tenant),
        }
    }
}

thread_local! {
    static DELIVERING: Cell<bool> = const { Cell::new(false) };
    static CAUSED: RefCell<VecDeque<Delivery>> = const { RefCell::new(VecDeque::new()) };
}

/// What one critical section leaves to be done after it. Declare it before the lock's guard, so
/// that it is dropped after it.
#[derive(Default)]
pub(crate) struct Outbox {
    deliveries: SmallVec<[Delivery; 2]>,
}

impl Outbox {
    pub(crate) fn push(&mut self, delivery: Delivery) {
        self.deliveries.push(delivery);
    }

    pub(crate) fn wake_all(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.deliveries
            .extend(wakers.into_iter().map(Delivery::Wake));
    }

    /// Runs everything. Call with no lock held.
    #[inline]
    pub(crate) fn deliver(self) {
        if !self.deliveries.is_empty() {
            self.deliver_all();
        }
    }

    #[inline(never)]
    fn deliver_all(self) {
        // While a thread is torn down its locals are gone; then deliveries nest instead.
        match DELIVERING.try_with(|delivering| delivering.replace(true)) {
            Ok(false) => {
                let _unheld = Unheld::enter();
                self.deliveries.into_iter().for_each(contained);
                while let Some(delivery) = next_caused() {
                    contained(delivery);
                }
                let _ = DELIVERING.try_with(|delivering| delivering.set(false));
            }
            Ok(true) => {
                let mut deliveries = Some(self.deliveries);
                let _ = CAUSED.try_with(|caused| {
                    caused
                        .borrow_mut()
                        .extend(deliveries.take().into_iter().flatten());
                });
                deliveries.into_iter().flatten().for_each(contained);
            }
            Err(_) => self.deliveries.into_iter().for_each(contained),
        }
    }
}

fn next_caused() -> Option<Delivery> {
    CAUSED
        .try_with(|caused| caused.borrow_mut().pop_front())
        .ok()
        .flatten()
}

fn contained(delivery: Delivery) {
    switch_point();
    if catch_unwind(AssertUnwindSafe(|| delivery.run())).is_err() {
        tracing::error!("a grantee or a waker panicked; the delivery is lost, its permit is not");
    }
}
