//! The feed: what changes about sagas, told to subscribers once it is durable.
//!
//! Invariants
//! - Whoever tells never waits: a subscriber that is full misses notices, and is told how many.
//! - A subscriber of one tenant is told of that tenant alone.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use orlop_saga::effect::EffectId;
use orlop_saga::id::{SagaId, TenantId};
use orlop_saga::path::StepPath;
use orlop_saga::saga::SagaStatus;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::SubscribeError;

/// What a subscriber is told. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A saga has another status.
    Changed {
        /// Which one.
        saga: SagaId,
        /// Whose, and the key it was started under.
        id: EffectId,
        /// Its definition.
        name: Box<str>,
        /// Where it is now.
        status: SagaStatus,
    },
    /// The attempts of a step, or of its undo, are used up.
    Exhausted {
        /// Of which saga.
        saga: SagaId,
        /// Whose, and the key it was started under.
        id: EffectId,
        /// Which step.
        path: StepPath,
        /// What the last attempt said.
        reason: String,
    },
    /// A plain effect waits for an operator.
    EffectStuck {
        /// Whose, and its key.
        id: EffectId,
        /// Why.
        reason: String,
    },
    /// So many notices came while there was no room.
    Missed(u64),
}

impl Notice {
    fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::Changed { id, .. }
            | Self::Exhausted { id, .. }
            | Self::EffectStuck { id, .. } => Some(id.tenant),
            Self::Missed(_) => None,
        }
    }
}

/// Everybody who subscribed.
#[derive(Default)]
pub(crate) struct Feed {
    subscribers: Mutex<Vec<Weak<Mailbox>>>,
}

struct Mailbox {
    scope: Option<TenantId>,
    capacity: usize,
    letters: Mutex<Letters>,
    news: Notify,
}

#[derive(Default)]
struct Letters {
    queue: VecDeque<Notice>,
    closed: bool,
}

impl Mailbox {
    fn put(&self, notice: &Notice) {
        if self.scope.is_some() && self.scope != notice.tenant() {
            return;
        }
        let mut letters = self.letters.lock();
        let full = letters.queue.len() >= self.capacity;
        // Until there is room again, all that is kept is the count.
        if !full {
            letters.queue.push_back(notice.clone());
        } else if let Some(Notice::Missed(missed)) = letters.queue.back_mut() {
            *missed = missed.saturating_add(1);
        } else {
            letters.queue.push_back(Notice::Missed(1));
        }
        drop(letters);
        self.news.notify_one();
    }
}

impl Feed {
    pub(crate) const CAPACITY_MAX: usize = 65_536;

    pub(super) fn subscribe(
        &self,
        scope: Option<TenantId>,
        capacity: usize,
        subscribers_max: usize,
    ) -> Result<Subscription, SubscribeError> {
        if !(1..=Self::CAPACITY_MAX).contains(&capacity) {
            return Err(SubscribeError::Capacity {
                capacity,
                capacity_max: Self::CAPACITY_MAX,
            });
        }
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        if subscribers.len() >= subscribers_max {
            return Err(SubscribeError::TooMany { subscribers_max });
        }
        let mailbox = Arc::new(Mailbox {
            scope,
            capacity,
            letters: Mutex::default(),
            news: Notify::new(),
        });
        subscribers.push(Arc::downgrade(&mailbox));
        Ok(Subscription { mailbox })
    }

    /// Tells everybody whom it concerns.
    pub(crate) fn publish(&self, notice: impl FnOnce() -> Notice) {
        let subscribers: Vec<_> = {
            let subscribers = self.subscribers.lock();
            subscribers.iter().filter_map(Weak::upgrade).collect()
        };
        if subscribers.is_empty() {
            return;
        }
        let notice = notice();
        for subscriber in subscribers {
            subscriber.put(&notice);
        }
    }

    /// Nothing more will be told.
    pub(crate) fn close(&self) {
        let subscribers = std::mem::take(&mut *self.subscribers.lock());
        for subscriber in subscribers.iter().filter_map(Weak::upgrade) {
            subscriber.letters.lock().closed = true;
            subscriber.news.notify_one();
        }
    }
}

/// A place at the feed. Dropped, it is told nothing more.
#[must_use = "a subscription is told only while it is kept"]
pub struct Subscription {
    mailbox: Arc<Mailbox>,
}

impl Subscription {
    /// The next notice; `None` once the engine has ended and all were told. Cancel-safe.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            let news = self.mailbox.news.notified();
            {
                let mut letters = self.mailbox.letters.lock();
                if let Some(notice) = letters.queue.pop_front() {
                    return Some(notice);
                }
                if letters.closed {
                    return None;
                }
            }
            news.await;
        }
    }

    /// The next notice, if one waits.
    pub fn try_next(&mut self) -> Option<Notice> {
        self.mailbox.letters.lock().queue.pop_front()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("scope", &self.mailbox.scope)
            .field("capacity", &self.mailbox.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use orlop_saga::key::Key;

    use super::*;

    fn stuck(slot: u32, reason: &str) -> Notice {
        Notice::EffectStuck {
            id: EffectId {
                tenant: TenantId::new(slot, 1),
                key: Key::new([1; 16]),
            },
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn a_slow_subscriber_is_told_how_many_it_missed_where_they_were() {
        let feed = Feed::default();
        let mut slow = feed.subscribe(None, 2, 8).unwrap();
        for reason in ["a", "b", "c", "d"] {
            feed.publish(|| stuck(1, reason));
        }
        assert_eq!(slow.try_next(), Some(stuck(1, "a")));
        assert_eq!(slow.try_next(), Some(stuck(1, "b")));
        feed.publish(|| stuck(1, "e"));
        assert_eq!(slow.try_next(), Some(Notice::Missed(2)));
        assert_eq!(slow.try_next(), Some(stuck(1, "e")));
        assert_eq!(slow.try_next(), None);
    }

    #[test]
    fn a_subscriber_of_one_tenant_is_told_of_no_other() {
        let feed = Feed::default();
        let mut own = feed.subscribe(Some(TenantId::new(1, 1)), 4, 8).unwrap();
        feed.publish(|| stuck(2, "theirs"));
        feed.publish(|| stuck(1, "ours"));
        assert_eq!(own.try_next(), Some(stuck(1, "ours")));
        assert_eq!(own.try_next(), None);
    }

    #[test]
    fn subscribers_are_bounded_and_leave_by_being_dropped() {
        let feed = Feed::default();
        let first = feed.subscribe(None, 1, 1).unwrap();
        let second = feed.subscribe(None, 1, 1).map(|_| ());
        assert_eq!(second, Err(SubscribeError::TooMany { subscribers_max: 1 }));
        drop(first);
        let mut third = feed.subscribe(None, 1, 1).unwrap();
        feed.close();
        assert_eq!(pollster::block_on(third.next()), None);
    }
}
