//! Records: the bytes of one event in the journal.
//!
//! Layout: one byte format version (1), then the event in the encoding of
//! [`canonical`](crate::canonical). The frame around it has the length and the checksum.

use crate::event::Event;

/// The version that this code writes.
pub const FORMAT: u8 = 1;

/// Why bytes are no record. The frame's checksum held, so other code wrote them.
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
    /// The bytes are no event.
    #[error("a record of {bytes} bytes is no event: {reason}")]
    Malformed {
        /// How many bytes.
        bytes: usize,
        /// What the decoder said.
        reason: String,
    },
}

/// The bytes of an event.
///
/// # Errors
/// [`RecordError::Malformed`]: the encoder refused. Cannot happen for an event of this crate.
pub fn encode(event: &Event) -> Result<Vec<u8>, RecordError> {
    postcard::to_extend(event, vec![FORMAT]).map_err(|error| RecordError::Malformed {
        bytes: 0,
        reason: error.to_string(),
    })
}

/// The event of a record's bytes.
///
/// # Errors
/// [`RecordError`]: not written by this version or an older one.
pub fn decode(record: &[u8]) -> Result<Event, RecordError> {
    let Some((format, body)) = record.split_first() else {
        return Err(RecordError::Empty);
    };
    if *format != FORMAT {
        return Err(RecordError::Newer {
            format: *format,
            format_max: FORMAT,
        });
    }
    let malformed = |reason: String| RecordError::Malformed {
        bytes: record.len(),
        reason,
    };
    match postcard::take_from_bytes(body) {
        Ok((event, [])) => Ok(event),
        Ok((_, rest)) => Err(malformed(format!("{} bytes left over", rest.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
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
    fn the_bytes_of_a_record_are_pinned() {
        assert_eq!(encode(&event()).unwrap(), [1, 0, 3, 0xf4, 0x03]);
    }

    #[test]
    fn a_record_of_a_newer_format_is_refused_by_name() {
        assert_eq!(
            decode(&[2, 0]),
            Err(RecordError::Newer {
                format: 2,
                format_max: 1
            })
        );
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let bytes = encode(&event()).unwrap();
        assert_eq!(decode(&[]), Err(RecordError::Empty));
        for end in 1..bytes.len() {
            let cut = decode(&bytes[..end]);
            assert!(
                matches!(cut, Err(RecordError::Malformed { .. })),
                "{end}: {cut:?}"
            );
        }
    }
}
