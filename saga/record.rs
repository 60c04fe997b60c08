//! Records: the bytes of one event in the journal.
//!
//! Layout: one byte with the number of the [`Format`], then the event in the encoding of
//! [`canonical`](crate::canonical). The frame around it has the length and the checksum.

use crate::compat::{self, BodyError, Format, NotInFormat};
use crate::event::Event;

/// Why bytes are no record, or an event has none. The frame's checksum held, so other code wrote
/// them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No bytes at all.
    #[error("an empty record")]
    Empty,
    /// A newer version of the library wrote it. Open the store with that version.
    #[error("a record of format {format}, this version reads up to {format_max}")]
    Newer {
        /// Its format.
        format: u8,
        /// The newest that is read here.
        format_max: u8,
    },
    /// The store's format cannot say the event. Upgrade the store, or do without.
    #[error(transparent)]
    NotInFormat(#[from] NotInFormat),
    /// The bytes are no event.
    #[error("a record of {bytes} bytes is no event: {reason}")]
    Malformed {
        /// How many bytes.
        bytes: usize,
        /// What the decoder said.
        reason: String,
    },
}

impl RecordError {
    fn of(error: BodyError, bytes: usize) -> Self {
        match error {
            BodyError::NotInFormat(error) => Self::NotInFormat(error),
            BodyError::Newer { format, format_max } => Self::Newer { format, format_max },
            BodyError::Empty => Self::Empty,
            BodyError::Malformed { reason } => Self::Malformed { bytes, reason },
        }
    }
}

/// The bytes of an event in a format.
///
/// # Errors
/// [`RecordError::NotInFormat`]: the format has no such event. [`RecordError::Malformed`]: the
/// encoder refused; cannot happen for an event of this crate.
pub fn encode(format: Format, event: &Event) -> Result<Vec<u8>, RecordError> {
    compat::encode(format, event).map_err(|error| RecordError::of(error, 0))
}

/// The event of a record's bytes.
///
/// # Errors
/// [`RecordError`]: not written by this version or an older one.
pub fn decode(record: &[u8]) -> Result<Event, RecordError> {
    compat::decode(record).map_err(|error| RecordError::of(error, record.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::time::WallMillis;

    fn event() -> Event {
        Event::Opened {
            incarnation: Incarnation::new(3),
            at: WallMillis::new(500),
        }
    }

    /// A store written today must open for ever.
    #[test]
    fn the_bytes_of_a_record_are_pinned_in_every_format() {
        assert_eq!(encode(Format::V1, &event()).unwrap(), [1, 0, 3, 0xf4, 0x03]);
        assert_eq!(encode(Format::V2, &event()).unwrap(), [2, 0, 3, 0xf4, 0x03]);
        assert_eq!(encode(Format::V3, &event()).unwrap(), [3, 0, 3, 0xf4, 0x03]);
    }

    #[test]
    fn a_record_of_a_newer_format_is_refused_by_name() {
        assert_eq!(
            decode(&[4, 0]),
            Err(RecordError::Newer {
                format: 4,
                format_max: 3
            })
        );
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        assert_eq!(decode(&[]), Err(RecordError::Empty));
        for format in [Format::V1, Format::V2, Format::V3] {
            let bytes = encode(format, &event()).unwrap();
            for end in 1..bytes.len() {
                let cut = decode(&bytes[..end]);
                assert!(
                    matches!(cut, Err(RecordError::Malformed { .. })),
                    "{end}: {cut:?}"
                );
            }
        }
    }
}
