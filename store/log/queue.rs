//! The queue in front of the disk: who waits, who is refused, and who rides in the next group.
//!
//! Invariants
//! - FIFO within a lane; round-robin over lanes, one batch a turn, and the turn goes on where the
//!   last group ended: a lane waits at most one batch of every other lane.
//! - Bytes waiting are bounded, for `New` at half of what `Settle` may use. A lane with batches
//!   waiting may hold no more than what is still free, so a flooding lane always leaves room.

use std::collections::{HashMap, VecDeque};

use super::{Acknowledge, AppendError, Batch, Lane, LogOptions, Purpose};

/// One batch and who waits for it.
pub(super) struct Waiting {
    pub(super) purpose: Purpose,
    pub(super) batch: Batch,
    pub(super) ack: Box<dyn Acknowledge>,
}

/// Batches of one lane.
#[derive(Default)]
struct LaneQueue {
    waiting: VecDeque<Waiting>,
    bytes: u64,
}

/// The batches accepted and not composed yet.
#[derive(Default)]
pub(super) struct Queue {
    lanes: HashMap<Lane, LaneQueue>,
    /// Lanes that have something waiting, whose turn is next in front.
    turns: VecDeque<Lane>,
    bytes: u64,
}

/// What was composed.
#[derive(Default)]
pub(super) struct Group {
    /// To be written, in order.
    pub(super) members: Vec<Waiting>,
    /// Met on the way and not to be written, as there is no space for new work.
    pub(super) refused: Vec<Waiting>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether `batch` may wait here.
    pub(super) fn admit(
        &self,
        options: &LogOptions,
        lane: Lane,
        purpose: Purpose,
        batch: &Batch,
    ) -> Result<(), AppendError> {
        if batch.is_empty() {
            return Err(AppendError::Empty);
        }
        let bytes = batch.byte_len();
        if bytes > options.batch_bytes_max {
            return Err(AppendError::TooLarge {
                bytes,
                bytes_max: options.batch_bytes_max,
            });
        }
        let bytes_max = match purpose {
            Purpose::New => options.backlog_bytes_max,
            Purpose::Settle => options.backlog_bytes_max.saturating_mul(2),
        };
        let free = bytes_max.saturating_sub(self.bytes);
        let held = self.lanes.get(&lane).map_or(0, |lane| lane.bytes);
        let fair = match purpose {
            Purpose::New => held == 0 || held.saturating_add(bytes) <= free,
            Purpose::Settle => true,
        };
        if bytes <= free && fair {
            Ok(())
        } else {
            Err(AppendError::Backlogged {
                bytes: self.bytes,
                bytes_max,
            })
        }
    }

    /// Adds what was admitted at the end of its lane.
    pub(super) fn push(&mut self, lane: Lane, waiting: Waiting) {
        let bytes = waiting.batch.byte_len();
        let queue = self.lanes.entry(lane).or_default();
        if queue.waiting.is_empty() {
            self.turns.push_back(lane);
        }
        queue.bytes += bytes;
        queue.waiting.push_back(waiting);
        self.bytes += bytes;
    }

    /// Takes a group of at most `bytes_max` bytes, but at least one batch if any waits.
    pub(super) fn compose(&mut self, bytes_max: u64, takes_new: bool) -> Group {
        let mut group = Group::default();
        let mut bytes = 0_u64;
        while let Some(lane) = self.turns.front().copied() {
            let Some(next) = self
                .lanes
                .get(&lane)
                .and_then(|queue| queue.waiting.front())
            else {
                self.turns.pop_front();
                continue;
            };
            let refused = !takes_new && next.purpose == Purpose::New;
            let with_next = bytes.saturating_add(next.batch.byte_len());
            if !refused && !group.members.is_empty() && with_next > bytes_max {
                break;
            }
            self.turns.pop_front();
            let Some(waiting) = self.pop(lane) else {
                continue;
            };
            if refused {
                group.refused.push(waiting);
            } else {
                bytes = with_next;
                group.members.push(waiting);
            }
        }
        group
    }

    /// Takes the first batch of a lane, whose turn is over.
    fn pop(&mut self, lane: Lane) -> Option<Waiting> {
        let queue = self.lanes.get_mut(&lane)?;
        let waiting = queue.waiting.pop_front()?;
        let bytes = waiting.batch.byte_len();
        queue.bytes = queue.bytes.saturating_sub(bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        if queue.waiting.is_empty() {
            self.lanes.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        Some(waiting)
    }

    /// Takes everything, to be refused.
    pub(super) fn drain(&mut self) -> Vec<Waiting> {
        self.compose(u64::MAX, true).members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(purpose: Purpose, record: &[u8]) -> Waiting {
        let mut batch = Batch::new();
        batch.push(record);
        Waiting {
            purpose,
            batch,
            ack: Box::new(|_| {}),
        }
    }

    fn names(members: &[Waiting]) -> Vec<String> {
        members
            .iter()
            .flat_map(|member| member.batch.iter())
            .map(|record| String::from_utf8_lossy(record).into_owned())
            .collect()
    }

    #[test]
    fn a_flooding_lane_gets_one_batch_a_turn_and_keeps_its_order() {
        let mut queue = Queue::default();
        for record in ["f1", "f2", "f3", "f4"] {
            queue.push(Lane(9), waiting(Purpose::New, record.as_bytes()));
        }
        queue.push(Lane(1), waiting(Purpose::New, b"a1"));
        queue.push(Lane(1), waiting(Purpose::New, b"a2"));
        queue.push(Lane(2), waiting(Purpose::New, b"b1"));
        let all = queue.compose(u64::MAX, true);
        assert_eq!(
            names(&all.members),
            ["f1", "a1", "b1", "f2", "a2", "f3", "f4"]
        );
        assert!(queue.is_empty() && queue.lanes.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn the_next_group_goes_on_with_the_lane_whose_turn_it_is() {
        let mut queue = Queue::default();
        for lane in 0..3 {
            for turn in 0..2 {
                let record = format!("{lane}{turn}");
                queue.push(Lane(lane), waiting(Purpose::New, record.as_bytes()));
            }
        }
        // Each batch has 6 bytes: two fit.
        assert_eq!(names(&queue.compose(12, true).members), ["00", "10"]);
        assert_eq!(names(&queue.compose(12, true).members), ["20", "01"]);
        assert_eq!(names(&queue.compose(1, true).members), ["11"]);
    }

    #[test]
    fn without_space_new_work_is_refused_and_the_rest_of_the_lane_goes_on() {
        let mut queue = Queue::default();
        queue.push(Lane(1), waiting(Purpose::New, b"n1"));
        queue.push(Lane(1), waiting(Purpose::Settle, b"s1"));
        queue.push(Lane(2), waiting(Purpose::New, b"n2"));
        let group = queue.compose(u64::MAX, false);
        assert_eq!(names(&group.members), ["s1"]);
        assert_eq!(names(&group.refused), ["n1", "n2"]);
    }

    #[test]
    fn a_lane_that_waits_leaves_as_much_free_as_it_holds() {
        let options = LogOptions {
            backlog_bytes_max: 100,
            batch_bytes_max: 100,
            ..LogOptions::default()
        };
        let mut queue = Queue::default();
        let big = waiting(Purpose::New, &[0; 36]);
        assert_eq!(
            queue.admit(&options, Lane(1), Purpose::New, &big.batch),
            Ok(())
        );
        queue.push(Lane(1), big);
        let more = waiting(Purpose::New, &[0; 36]).batch;
        let refusal = Err(AppendError::Backlogged {
            bytes: 40,
            bytes_max: 100,
        });
        assert_eq!(queue.admit(&options, Lane(1), Purpose::New, &more), refusal);
        assert_eq!(queue.admit(&options, Lane(2), Purpose::New, &more), Ok(()));
        assert_eq!(
            queue.admit(&options, Lane(1), Purpose::Settle, &more),
            Ok(())
        );
    }
}
