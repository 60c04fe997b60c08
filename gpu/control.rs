//! Control: orders to the device, in order, and their replies.
//!
//! Invariants
//! - An order takes effect after every entry that was visible when the device read it was fetched.
//! - Each order has exactly one reply; `Unmap` replies only once nothing pins the window, `Drain`
//!   only once nothing that was published before it is queued or running.
//! - Unanswered orders never exceed the ring.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use orlop_saga::id::TenantId;
use parking_lot::{Condvar, Mutex};

use crate::layout::control_word;
use crate::ring::Ring;
use crate::slot::{SlotData, high, join, low};

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Entries of `tenant` may use these bytes of the arena as a window from the reply on.
    Map {
        /// The buffer's slot.
        slot: u32,
        /// Its life.
        generation: u32,
        /// First byte in the arena.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// Who may use it.
        tenant: TenantId,
    },
    /// Entries read from now on are refused the window; replies when nothing uses it.
    Unmap {
        /// The buffer's slot.
        slot: u32,
        /// Its life.
        generation: u32,
    },
    /// The tenant of this slot has this generation now.
    SetTenant(TenantId),
    /// The tenant may not publish any longer. What was already published still runs.
    ClearTenant(TenantId),
    /// Not started: never does. Running: stops at a tile boundary.
    Cancel {
        /// The ticket.
        ticket: u64,
    },
    /// Replies when everything published before it is over.
    Drain,
    /// What has not started is cancelled, what runs stops at a tile boundary, workers exit.
    Stop,
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Carried out.
    Done,
    /// It names a generation that is not the current one; nothing changed.
    Stale,
    /// It names something the device does not have; nothing changed.
    Unknown,
    /// The words are no order; nothing changed.
    Malformed,
}

impl Order {
    /// The order's slot.
    pub fn encode(&self, number: u64) -> SlotData {
        let mut words = SlotData::default();
        words[control_word::ORDER_LOW] = low(number);
        words[control_word::ORDER_HIGH] = high(number);
        let (command, body) = match *self {
            Self::Map {
                slot,
                generation,
                offset,
                length,
                tenant,
            } => {
                let at = [low(offset), high(offset), low(length), high(length)];
                let owner = [tenant.slot(), tenant.generation()];
                (
                    1,
                    [
                        slot, generation, at[0], at[1], at[2], at[3], owner[0], owner[1],
                    ],
                )
            }
            Self::Unmap { slot, generation } => (2, [slot, generation, 0, 0, 0, 0, 0, 0]),
            Self::SetTenant(tenant) => (3, [tenant.slot(), tenant.generation(), 0, 0, 0, 0, 0, 0]),
            Self::ClearTenant(tenant) => {
                (4, [tenant.slot(), tenant.generation(), 0, 0, 0, 0, 0, 0])
            }
            Self::Cancel { ticket } => (5, [low(ticket), high(ticket), 0, 0, 0, 0, 0, 0]),
            Self::Drain => (6, [0; 8]),
            Self::Stop => (7, [0; 8]),
        };
        words[control_word::COMMAND] = command;
        for (word, body) in words.iter_mut().skip(control_word::BODY).zip(body) {
            *word = body;
        }
        words
    }

    /// The number and the order in a slot; `None` in its place if the words are no order.
    pub fn decode(words: &SlotData) -> (u64, Option<Self>) {
        let number = join(
            words[control_word::ORDER_LOW],
            words[control_word::ORDER_HIGH],
        );
        let [_, _, _, one, two, three, four, five, six, seven, eight, ..] = *words;
        let order = match words[control_word::COMMAND] {
            1 => Some(Self::Map {
                slot: one,
                generation: two,
                offset: join(three, four),
                length: join(five, six),
                tenant: TenantId::new(seven, eight),
            }),
            2 => Some(Self::Unmap {
                slot: one,
                generation: two,
            }),
            3 => Some(Self::SetTenant(TenantId::new(one, two))),
            4 => Some(Self::ClearTenant(TenantId::new(one, two))),
            5 => Some(Self::Cancel {
                ticket: join(one, two),
            }),
            6 => Some(Self::Drain),
            7 => Some(Self::Stop),
            _ => None,
        };
        (number, order)
    }
}

impl Reply {
    /// The reply's slot.
    pub fn encode(self, number: u64) -> SlotData {
        let mut words = SlotData::default();
        words[control_word::COMMAND] = match self {
            Self::Done => 1,
            Self::Stale => 2,
            Self::Unknown => 3,
            Self::Malformed => 4,
        };
        words[control_word::ORDER_LOW] = low(number);
        words[control_word::ORDER_HIGH] = high(number);
        words
    }

    /// The number and the reply in a slot.
    pub fn decode(words: &SlotData) -> (u64, Self) {
        let number = join(
            words[control_word::ORDER_LOW],
            words[control_word::ORDER_HIGH],
        );
        let reply = match words[control_word::COMMAND] {
            1 => Self::Done,
            2 => Self::Stale,
            3 => Self::Unknown,
            _ => Self::Malformed,
        };
        (number, reply)
    }
}

/// The device's side as the host needs it: something that reads the rings.
pub(crate) trait Doorbell: Send + Sync {
    /// New entries stand on the ring.
    fn entries_written(&self);
    /// The same, of short operations: whoever wrote them lends this thread for a moment, if the
    /// device can use it.
    fn short_entries_written(&self) {
        self.entries_written();
    }
    /// Whichever of the two it is.
    fn written(&self, short: bool) {
        if short {
            self.short_entries_written();
        } else {
            self.entries_written();
        }
    }
    /// New orders stand on the ring; carried out on this thread where the device allows that.
    fn orders_written(&self);
}

/// The host's side of the control ring.
pub(crate) struct Control {
    orders: Ring,
    replies: Ring,
    device: Arc<dyn Doorbell>,
    state: Mutex<ControlState>,
    replied: Condvar,
    process: u32,
}

#[derive(Debug, Default)]
struct ControlState {
    written: u64,
    read: u64,
    waiting: HashMap<u64, Option<Reply>>,
    /// Nobody answers any more.
    lost: bool,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(orders: Ring, replies: Ring, device: Arc<dyn Doorbell>) -> Self {
        Self {
            orders,
            replies,
            device,
            state: Mutex::default(),
            replied: Condvar::new(),
            process: std::process::id(),
        }
    }

    /// Whether this is a fork of the process that opened the device: the rings are shared with
    /// it, and only it may write them.
    pub(crate) fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }

    /// Orders written so far.
    pub(crate) fn orders(&self) -> u64 {
        self.state.lock().written
    }

    /// Whether an order was given that is not answered.
    pub(crate) fn is_waiting(&self) -> bool {
        let state = self.state.lock();
        state.written != state.read
    }

    /// Replies read so far.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub(crate) fn answered(&self) -> u64 {
        self.state.lock().read
    }

    /// Nobody answers any more: whoever waits is told so, and no further order is given.
    pub(crate) fn lose(&self) {
        self.state.lock().lost = true;
        self.replied.notify_all();
    }

    /// Gives an order and waits for its reply, at most until `until`; `None` when that passed, or
    /// the device was lost.
    ///
    /// All orders but `Drain` (and an `Unmap` of a pinned window) are answered at once.
    pub(crate) fn call(&self, order: Order, until: Option<Instant>) -> Option<Reply> {
        if self.is_forked() {
            return None;
        }
        let number = self.give(order, until)?;
        self.device.orders_written();
        let mut state = self.state.lock();
        loop {
            self.collect(&mut state);
            if let Some(Some(reply)) = state.waiting.get(&number) {
                let reply = *reply;
                state.waiting.remove(&number);
                return Some(reply);
            }
            if !self.wait(&mut state, until) {
                // Should the reply still come, nobody will ask for it.
                state.waiting.remove(&number);
                return None;
            }
        }
    }

    /// Replies were posted.
    pub(crate) fn replied(&self) {
        let mut state = self.state.lock();
        self.collect(&mut state);
        drop(state);
        self.replied.notify_all();
    }

    fn give(&self, order: Order, until: Option<Instant>) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            self.collect(&mut state);
            if state.written - state.read < u64::from(self.orders.slots()) {
                break;
            }
            if !self.wait(&mut state, until) {
                return None;
            }
        }
        if state.lost {
            return None;
        }
        let number = state.written;
        state.written += 1;
        state.waiting.insert(number, None);
        // What the order refers to (a buffer's bytes) is visible before the order is.
        fence(Ordering::Release);
        self.orders.write(number, &order.encode(number));
        Some(number)
    }

    fn wait(
        &self,
        state: &mut parking_lot::MutexGuard<'_, ControlState>,
        until: Option<Instant>,
    ) -> bool {
        if state.lost {
            return false;
        }
        match until {
            None => {
                self.replied.wait(state);
                true
            }
            Some(until) => !self.replied.wait_until(state, until).timed_out(),
        }
    }

    fn collect(&self, state: &mut ControlState) {
        while let Some(words) = self.replies.read(state.read) {
            fence(Ordering::Acquire);
            state.read += 1;
            let (number, reply) = Reply::decode(&words);
            if let Some(waiting) = state.waiting.get_mut(&number) {
                *waiting = Some(reply);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order() -> impl Strategy<Value = Order> {
        let tenant = || any::<(u32, u32)>().prop_map(|(s, g)| TenantId::new(s, g));
        prop_oneof![
            (any::<(u32, u32, u64, u64)>(), tenant()).prop_map(|(m, tenant)| Order::Map {
                slot: m.0,
                generation: m.1,
                offset: m.2,
                length: m.3,
                tenant
            }),
            any::<(u32, u32)>().prop_map(|(slot, generation)| Order::Unmap { slot, generation }),
            tenant().prop_map(Order::SetTenant),
            tenant().prop_map(Order::ClearTenant),
            any::<u64>().prop_map(|ticket| Order::Cancel { ticket }),
            Just(Order::Drain),
            Just(Order::Stop),
        ]
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_same_order(order in order(), number: u64) {
            prop_assert_eq!(Order::decode(&order.encode(number)), (number, Some(order)));
        }

        #[test]
        fn decoding_what_was_encoded_gives_the_same_reply(number: u64, which in 0..4_usize) {
            let all = [Reply::Done, Reply::Stale, Reply::Unknown, Reply::Malformed];
            prop_assert_eq!(Reply::decode(&all[which].encode(number)), (number, all[which]));
        }
    }

    #[test]
    fn words_of_an_unknown_command_are_no_order() {
        let mut words = Order::Stop.encode(3);
        words[control_word::COMMAND] = 8;
        assert_eq!(Order::decode(&words), (3, None));
    }
}
