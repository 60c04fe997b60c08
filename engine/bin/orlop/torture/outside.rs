//! The outside: what external effects change. It enforces fences, applies whatever passes them,
//! knows nothing of keys that were used before, and answers unreliably.
//!
//! Invariants
//! - Every change is an [`Entry`], told to the observer in the order in which it happened; the
//!   state is a fold of them.
//! - It never refuses a second application of one remote key: that there is none is what is tried.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::plan::REFUSED;

/// Incarnation and attempt.
pub(crate) type FenceOf = (u64, u32);

/// What is asked of the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// To write.
    Put,
    /// Whether it is written.
    Stat,
    /// To remove what was written.
    Remove,
}

/// One question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) ask: Ask,
    pub(crate) key: String,
    pub(crate) fence: FenceOf,
    pub(crate) name: String,
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is written, by this fence.
    There(FenceOf),
    /// It is not written, or not any more.
    Away,
    /// A newer fence was seen: nothing was done.
    Stale,
    /// Nothing was done.
    Busy,
    /// Nothing was done, and never will be.
    Refused,
    /// What is known here may be old.
    Behind,
    /// No answer: anything may have happened.
    Silence,
}

/// One thing that happened to a remote key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) deed: Deed,
    pub(crate) key: String,
    pub(crate) fence: FenceOf,
    pub(crate) name: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Deed {
    /// It was written.
    Put,
    /// It was removed.
    Removed,
    /// A fence was seen.
    Seen,
    /// A write was taken, and is still on its way.
    Delayed,
    /// A write that was on its way met a newer fence.
    CameTooLate,
}

/// What there is under one remote key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) puts: u32,
    pub(crate) removes: u32,
    put_by: FenceOf,
    newest: FenceOf,
}

impl Object {
    fn is_there(&self) -> bool {
        self.puts > self.removes
    }
}

/// How often the outside misbehaves, in percent of the requests.
#[derive(Clone, Copy, Debug)]
struct Moods {
    /// It is done, and the answer is lost.
    reply_lost: u8,
    /// It is done only after nobody waits for it any more.
    delayed: u8,
    /// It is not done, and there is no answer.
    request_lost: u8,
    /// It is not done, and the answer says so.
    busy: u8,
}

const MOODS: Moods = Moods {
    reply_lost: 9,
    delayed: 9,
    request_lost: 6,
    busy: 6,
};
/// A write that is delayed waits for up to so many later requests.
const DELAY_REQUESTS_MAX: u64 = 12;

type Observer = Box<dyn Fn(&Entry) + Send>;

/// See the module.
pub(crate) struct Outside(Mutex<Inner>);

struct Inner {
    random: fastrand::Rng,
    objects: BTreeMap<String, Object>,
    delayed: Vec<(u64, Entry)>,
    requests: u64,
    observer: Option<Observer>,
}

impl Outside {
    /// An outside in which `entries` have happened.
    pub(crate) fn new(seed: u64, entries: &[Entry]) -> Self {
        let mut inner = Inner {
            random: fastrand::Rng::with_seed(seed),
            objects: BTreeMap::new(),
            delayed: Vec::new(),
            requests: 0,
            observer: None,
        };
        for entry in entries {
            inner.fold(entry.clone());
        }
        Self(Mutex::new(inner))
    }

    /// Tells `observer` of everything from now on.
    pub(crate) fn observe(&self, observer: impl Fn(&Entry) + Send + 'static) {
        self.0.lock().observer = Some(Box::new(observer));
    }

    /// Does what is asked, or something near it.
    pub(crate) fn ask(&self, request: &Request) -> Answer {
        let mut inner = self.0.lock();
        inner.requests += 1;
        let now = inner.requests;
        inner.deliver(now);
        inner.ask(request)
    }

    /// Everything on its way arrives.
    pub(crate) fn settle(&self) {
        self.0.lock().deliver(u64::MAX);
    }

    /// What there is, by remote key.
    pub(crate) fn objects(&self) -> BTreeMap<String, Object> {
        self.0.lock().objects.clone()
    }
}

impl Inner {
    fn ask(&mut self, request: &Request) -> Answer {
        let Request {
            ask,
            key,
            fence,
            name,
        } = request;
        let drawn = self.random.u8(0..100);
        let entry = |deed| Entry {
            deed,
            key: key.clone(),
            fence: *fence,
            name: name.clone(),
        };
        let known = self.objects.get(key).cloned().unwrap_or_default();
        let below = |percents: &[u8]| drawn < percents.iter().sum();
        let lost = [MOODS.request_lost];
        let busy = [MOODS.request_lost, MOODS.busy];
        let late = [MOODS.request_lost, MOODS.busy, MOODS.delayed];
        if below(&lost) {
            return Answer::Silence;
        }
        if below(&busy) {
            return match ask {
                Ask::Put | Ask::Remove => Answer::Busy,
                Ask::Stat => Answer::Behind,
            };
        }
        if *fence < known.newest {
            return Answer::Stale;
        }
        let answer = match ask {
            Ask::Put if name.ends_with(REFUSED) => return Answer::Refused,
            Ask::Put if below(&late) => {
                self.happen(entry(Deed::Delayed));
                return Answer::Silence;
            }
            Ask::Put => {
                self.happen(entry(Deed::Put));
                Answer::There(*fence)
            }
            Ask::Stat => {
                self.happen(entry(Deed::Seen));
                if known.is_there() {
                    Answer::There(known.put_by)
                } else {
                    Answer::Away
                }
            }
            Ask::Remove => {
                let deed = if known.is_there() {
                    Deed::Removed
                } else {
                    Deed::Seen
                };
                self.happen(entry(deed));
                Answer::Away
            }
        };
        if drawn >= 100 - MOODS.reply_lost {
            Answer::Silence
        } else {
            answer
        }
    }

    /// Writes on their way that are due at request `now` arrive.
    fn deliver(&mut self, now: u64) {
        let (due, waiting) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.delayed = waiting;
        let due: Vec<(u64, Entry)> = due;
        for (_, entry) in due {
            let newest = self.objects.get(&entry.key).map(|known| known.newest);
            let deed = if newest.is_some_and(|newest| entry.fence < newest) {
                Deed::CameTooLate
            } else {
                Deed::Put
            };
            self.happen(Entry { deed, ..entry });
        }
    }

    fn happen(&mut self, entry: Entry) {
        if let Some(observer) = &self.observer {
            observer(&entry);
        }
        self.fold(entry);
    }

    fn fold(&mut self, entry: Entry) {
        let arrived = |(_, waiting): &(u64, Entry)| {
            waiting.key == entry.key && waiting.fence == entry.fence && entry.deed != Deed::Seen
        };
        self.delayed.retain(|waiting| !arrived(waiting));
        match entry.deed {
            Deed::Delayed => {
                let due = self.requests + self.random.u64(1..=DELAY_REQUESTS_MAX);
                self.delayed.push((due, entry));
            }
            Deed::CameTooLate => {}
            Deed::Put | Deed::Removed | Deed::Seen => {
                let object = self.objects.entry(entry.key).or_default();
                object.newest = object.newest.max(entry.fence);
                object.name = entry.name;
                match entry.deed {
                    Deed::Put => {
                        object.puts += 1;
                        object.put_by = entry.fence;
                    }
                    Deed::Removed => object.removes += 1,
                    Deed::Seen | Deed::Delayed | Deed::CameTooLate => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ask: Ask, attempt: u32) -> Request {
        Request {
            ask,
            key: "key".to_owned(),
            fence: (1, attempt),
            name: "name".to_owned(),
        }
    }

    /// Asks under newer and newer fences until the answer is one that was wanted.
    fn insist(outside: &Outside, ask: Ask, attempt: &mut u32, wanted: fn(Answer) -> bool) {
        loop {
            *attempt += 1;
            if wanted(outside.ask(&request(ask, *attempt))) {
                return;
            }
        }
    }

    #[test]
    fn a_write_that_arrives_after_its_undo_is_kept_out_by_the_fence() {
        let mut came_too_late = 0;
        for seed in 0..200 {
            let outside = Outside::new(seed, &[]);
            let _ = outside.ask(&request(Ask::Put, 1));
            let mut attempt = 1;
            insist(&outside, Ask::Remove, &mut attempt, |answer| {
                answer == Answer::Away
            });
            let delayed = outside.0.lock().delayed.len();
            outside.settle();
            came_too_late += delayed;
            let objects = outside.objects();
            assert!(objects.values().all(|object| !object.is_there()));
        }
        assert!(came_too_late > 0, "no write was late in 200 worlds");
    }

    #[test]
    fn one_remote_key_is_applied_as_often_as_it_is_asked_for() {
        let outside = Outside::new(1, &[]);
        let mut attempt = 0;
        for _ in 0..2 {
            insist(&outside, Ask::Put, &mut attempt, |answer| {
                matches!(answer, Answer::There(_))
            });
        }
        let objects = outside.objects();
        assert!(objects.values().any(|object| object.puts >= 2));
    }

    #[test]
    fn the_entries_of_an_outside_make_another_one_with_the_same_objects() {
        use std::sync::Arc;
        let entries = Arc::new(Mutex::new(Vec::new()));
        let outside = Outside::new(7, &[]);
        let seen = Arc::clone(&entries);
        outside.observe(move |entry| seen.lock().push(entry.clone()));
        for attempt in 1..100 {
            let ask = [Ask::Put, Ask::Stat, Ask::Remove][attempt as usize % 3];
            let _ = outside.ask(&request(ask, attempt));
        }
        let again = Outside::new(8, &entries.lock());
        assert_eq!(again.objects(), outside.objects());
        assert_eq!(again.0.lock().delayed.len(), outside.0.lock().delayed.len());
    }
}
