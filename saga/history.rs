//! Histories: what one run of a saga has done so far, as bytes that leave the store.
//!
//! Layout: magic `orlopHIS` (8 bytes), format (4, little-endian), length of the body (8), body,
//! BLAKE3 of everything before (32). The body is the store's id, the saga's id, the time of the
//! export and the saga's state, in the encoding of [`canonical`](crate::canonical).
//!
//! Invariants
//! - No bytes make the decoder panic, or allocate more than a small multiple of their length.
//! - A decoded history can be replayed: what it says of its own calls is consistent.

use serde::{Deserialize, Serialize};

use crate::id::{SagaId, StoreId};
use crate::saga::SagaState;
use crate::time::WallMillis;

/// The first bytes of a history.
const MAGIC: [u8; 8] = *b"orlopHIS";

/// The format that this code writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// Everything that one run of a saga has recorded, up to the moment of its export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The store that it was exported from.
    pub store: StoreId,
    /// Which run, within that store.
    pub saga: SagaId,
    /// When it was exported.
    pub exported_at: WallMillis,
    /// What its events made of it: its start, its calls and what its code was told, in order.
    pub state: SagaState,
}

/// Why a history has no bytes. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history cannot be encoded: {reason}")]
pub struct EncodeHistoryError {
    /// What the encoder said.
    pub reason: String,
}

/// Why bytes are no history. Nothing of them is to be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// Another kind of file. Pass what an export wrote.
    #[error("it does not start with the magic of a history")]
    Foreign,
    /// A newer version of the library wrote it. Read it with that version.
    #[error("a history of format {format}, this version reads up to {format_max}")]
    Newer {
        /// Its format.
        format: u32,
        /// The newest that is read here.
        format_max: u32,
    },
    /// Bytes are missing or changed. Export it again.
    #[error("it does not match its checksum")]
    Damaged,
    /// It is whole, and no history all the same: other code wrote it.
    #[error("a history of {bytes} bytes is not understood: {reason}")]
    Malformed {
        /// How many bytes.
        bytes: usize,
        /// What the decoder said.
        reason: String,
    },
}

impl History {
    /// Its bytes.
    ///
    /// # Errors
    /// [`EncodeHistoryError`]: the encoder refused. Cannot happen for a state of this crate.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeHistoryError> {
        let body = postcard::to_stdvec(self).map_err(|error| EncodeHistoryError {
            reason: error.to_string(),
        })?;
        let mut bytes = Vec::with_capacity(body.len().saturating_add(52));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&body);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        Ok(bytes)
    }

    /// The history of bytes that [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// [`HistoryError`]: they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, HistoryError> {
        let body = unseal(bytes)?;
        let malformed = |reason: String| HistoryError::Malformed {
            bytes: bytes.len(),
            reason,
        };
        let history: Self = match postcard::take_from_bytes(body) {
            Ok((history, [])) => history,
            Ok((_, rest)) => return Err(malformed(format!("{} bytes left over", rest.len()))),
            Err(error) => return Err(malformed(error.to_string())),
        };
        let checked = history.state.check_consistent();
        checked.map_err(|why| malformed(why.to_owned()))?;
        Ok(history)
    }
}

/// The body of sealed bytes.
fn unseal(bytes: &[u8]) -> Result<&[u8], HistoryError> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or(HistoryError::Foreign)?;
    let (sealed, digest) = bytes
        .split_last_chunk::<32>()
        .ok_or(HistoryError::Damaged)?;
    if blake3::hash(sealed).as_bytes() != digest {
        return Err(HistoryError::Damaged);
    }
    let (format, rest) = rest.split_first_chunk::<4>().ok_or(HistoryError::Damaged)?;
    let format = u32::from_le_bytes(*format);
    if format > FORMAT {
        return Err(HistoryError::Newer {
            format,
            format_max: FORMAT,
        });
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or(HistoryError::Damaged)?;
    let body = rest
        .split_last_chunk::<32>()
        .map(|(body, _)| body)
        .ok_or(HistoryError::Damaged)?;
    if u64::from_le_bytes(*length) == body.len() as u64 {
        Ok(body)
    } else {
        Err(HistoryError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::saga::tests::{call, run, settle};

    fn history() -> History {
        History {
            store: StoreId::new([7; 16]),
            saga: SagaId::new(9),
            exported_at: WallMillis::new(5),
            state: run(&[call("a", true), settle(0), call("b", false)]).unwrap(),
        }
    }

    /// Bytes around a body, sealed as a history is.
    fn sealed(format: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&format.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(body);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    #[test]
    fn a_history_survives_its_bytes_and_no_changed_bit_or_cut_of_them_is_believed() {
        let bytes = history().encode().unwrap();
        assert_eq!(History::decode(&bytes), Ok(history()));
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[at / 8] ^= 1 << (at % 8);
            let refused = History::decode(&changed).unwrap_err();
            assert!(
                matches!(refused, HistoryError::Damaged | HistoryError::Foreign),
                "bit {at}: {refused:?}"
            );
        }
        for end in 0..bytes.len() {
            assert!(History::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_history_of_a_newer_format_is_refused_by_name() {
        let newer = sealed(FORMAT + 1, b"whatever");
        let refused = HistoryError::Newer {
            format: FORMAT + 1,
            format_max: FORMAT,
        };
        assert_eq!(History::decode(&newer), Err(refused));
    }

    #[test]
    fn a_history_that_was_told_of_a_call_it_never_made_is_refused() {
        // Well encoded, and no fold of events: its last call is taken out, its deliveries stay.
        let mut state = run(&[call("a", true), settle(0)]).unwrap();
        state.truncate_calls(0);
        let broken = History { state, ..history() };
        let refused = History::decode(&broken.encode().unwrap()).unwrap_err();
        assert!(
            matches!(&refused, HistoryError::Malformed { reason, .. } if reason.contains("call")),
            "{refused:?}"
        );
    }

    proptest! {
        #[test]
        fn no_sealed_body_makes_the_decoder_panic(
            body in proptest::collection::vec(any::<u8>(), 0..512),
        ) {
            let _ = History::decode(&sealed(FORMAT, &body));
        }

        #[test]
        fn no_changed_body_makes_the_decoder_panic(
            changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8),
        ) {
            let mut body = postcard::to_stdvec(&history()).unwrap();
            for (at, byte) in changes {
                let at = usize::from(at) % body.len();
                body[at] = byte;
            }
            if let Ok(history) = History::decode(&sealed(FORMAT, &body)) {
                // What is believed can be asked.
                let _ = (history.state.next_undo(), history.state.settlement(history.saga));
            }
        }
    }
}
