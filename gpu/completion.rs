//! Completions: what the device says of an entry when it is over, in one slot.
//!
//! Invariants
//! - Decoding what was encoded gives the same completion.
//! - Words that are no completion are refused, never guessed at.

use orlop_saga::amount::BusyNanos;

use crate::layout::{INLINE_BYTES, completion_word};
use crate::slot::{SlotData, high, join, low};
use crate::status::Status;

/// One completion as it stands on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionEntry {
    /// The entry's ticket.
    pub ticket: u64,
    /// How it ended.
    pub status: Status,
    /// The entry's attempt.
    pub attempt: u32,
    /// Sum of the durations of its tiles.
    pub cost: BusyNanos,
    /// Bytes of result; above 32 they lie in the permit's result area. Zero unless the status
    /// has a result.
    pub length: u64,
    /// The result if it has up to 32 bytes, zero beyond its length.
    pub inline: [u8; INLINE_BYTES],
}

impl CompletionEntry {
    /// A completion without a result.
    pub const fn bare(ticket: u64, attempt: u32, status: Status, cost: BusyNanos) -> Self {
        Self {
            ticket,
            status,
            attempt,
            cost,
            length: 0,
            inline: [0; INLINE_BYTES],
        }
    }

    /// The slot's words.
    pub fn encode(&self) -> SlotData {
        let mut words = SlotData::default();
        let (kind, code) = self.status.to_words();
        words[completion_word::TICKET_LOW] = low(self.ticket);
        words[completion_word::TICKET_HIGH] = high(self.ticket);
        words[completion_word::STATUS] = kind;
        words[completion_word::ATTEMPT] = self.attempt;
        words[completion_word::COST_LOW] = low(self.cost.get());
        words[completion_word::COST_HIGH] = high(self.cost.get());
        if self.status.has_result() {
            words[completion_word::LENGTH_LOW] = low(self.length);
            words[completion_word::LENGTH_HIGH] = high(self.length);
            let inline = self.inline.as_chunks::<4>().0;
            for (word, bytes) in words.iter_mut().skip(completion_word::INLINE).zip(inline) {
                *word = u32::from_le_bytes(*bytes);
            }
        } else {
            words[completion_word::INLINE] = code;
        }
        words
    }

    /// The completion that these words are, or `None` if they are none.
    pub fn decode(words: &SlotData) -> Option<Self> {
        let status = Status::of_words(
            words[completion_word::STATUS],
            words[completion_word::INLINE],
        )?;
        let mut completion = Self::bare(
            join(
                words[completion_word::TICKET_LOW],
                words[completion_word::TICKET_HIGH],
            ),
            words[completion_word::ATTEMPT],
            status,
            BusyNanos::new(join(
                words[completion_word::COST_LOW],
                words[completion_word::COST_HIGH],
            )),
        );
        if status.has_result() {
            completion.length = join(
                words[completion_word::LENGTH_LOW],
                words[completion_word::LENGTH_HIGH],
            );
            let inline = completion.inline.as_chunks_mut::<4>().0;
            for (bytes, word) in inline
                .iter_mut()
                .zip(words.iter().skip(completion_word::INLINE))
            {
                *bytes = word.to_le_bytes();
            }
        }
        Some(completion)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::status::RefusedWhy;

    fn status() -> impl Strategy<Value = Status> {
        prop_oneof![
            Just(Status::Done),
            any::<u32>().prop_map(|code| Status::Failed { code }),
            Just(Status::Cancelled),
            Just(Status::Expired),
            (1_u32..=7).prop_map(|why| Status::of_words(5, why).unwrap()),
            Just(Status::Faulted),
        ]
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_same_completion(
            ticket: u64, status in status(), attempt: u32, cost: u64, length: u64,
            inline: [u8; 32],
        ) {
            let mut completion =
                CompletionEntry::bare(ticket, attempt, status, BusyNanos::new(cost));
            if status.has_result() {
                completion.length = length;
                completion.inline = inline;
            }
            prop_assert_eq!(CompletionEntry::decode(&completion.encode()), Some(completion));
        }
    }

    #[test]
    fn words_of_an_unknown_status_or_reason_are_no_completion() {
        let done = CompletionEntry::bare(7, 1, Status::Done, BusyNanos::new(5)).encode();
        for kind in [0, 7, u32::MAX] {
            let mut words = done;
            words[completion_word::STATUS] = kind;
            assert_eq!(CompletionEntry::decode(&words), None);
        }
        let refused = Status::Refused(RefusedWhy::StaleTenant);
        let mut words = CompletionEntry::bare(7, 1, refused, BusyNanos::new(0)).encode();
        words[completion_word::INLINE] = 99;
        assert_eq!(CompletionEntry::decode(&words), None);
    }
}
