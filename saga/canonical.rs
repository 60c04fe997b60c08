//! Canonical bytes: the one encoding of an input or an output.
//!
//! The encoding is postcard 1: integers as LEB128 variable-length, strings and sequences behind
//! their length, structs as their fields in order, enums as the variant's index. It is
//! deterministic for every type whose serialisation is: use ordered maps, not hashed ones.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Canonical bytes: immutable, cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload(Bytes);

impl Payload {
    /// Wraps bytes that are canonical already.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Payload {
    /// The length only: a payload is a tenant's, and logs are not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// Why a value has no canonical bytes. Nothing was kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The bytes are over the limit. Pass large data as a buffer, by digest.
    #[error(
        "a payload of {bytes} bytes is over the limit of {bytes_max}; nothing was kept; pass large data as a buffer"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The type's `Serialize` refused, or asked for what the encoding lacks.
    #[error("the value cannot be encoded: {reason}")]
    Unsupported {
        /// What the encoder said.
        reason: String,
    },
}

/// Why bytes are no value of a type: written by other code, or not canonical.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes are no value of the expected type: {reason}")]
pub struct DecodeError {
    /// How many bytes there were.
    pub bytes: usize,
    /// What the decoder said.
    pub reason: String,
}

/// The canonical bytes of a value.
///
/// # Errors
/// [`EncodeError`]: over `bytes_max`, or not encodable.
pub fn encode<T: Serialize + ?Sized>(value: &T, bytes_max: usize) -> Result<Payload, EncodeError> {
    let bytes = postcard::to_stdvec(value).map_err(|error| EncodeError::Unsupported {
        reason: error.to_string(),
    })?;
    if bytes.len() > bytes_max {
        return Err(EncodeError::TooLarge {
            bytes: bytes.len(),
            bytes_max,
        });
    }
    Ok(Payload::new(bytes))
}

/// The value of canonical bytes. Bytes left over are an error.
///
/// # Errors
/// [`DecodeError`]: not a value of `T`.
pub fn decode<T: DeserializeOwned>(payload: &Payload) -> Result<T, DecodeError> {
    let bytes = payload.len();
    let failed = |reason: String| DecodeError { bytes, reason };
    let (value, rest) =
        postcard::take_from_bytes(payload.as_bytes()).map_err(|error| failed(error.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(failed(format!("{} bytes left over", rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_payload_over_the_limit_is_refused_with_both_sizes() {
        assert_eq!(
            encode(&[0_u8; 9], 8),
            Err(EncodeError::TooLarge {
                bytes: 9,
                bytes_max: 8
            })
        );
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let payload = Payload::new(vec![1, 2]);
        let error = decode::<u8>(&payload).unwrap_err();
        assert_eq!(error.reason, "1 bytes left over");
    }

    proptest! {
        #[test]
        fn a_value_survives_its_canonical_bytes(value: (u64, String, Vec<Option<i32>>)) {
            let payload = encode(&value, usize::MAX).unwrap();
            prop_assert_eq!(decode::<(u64, String, Vec<Option<i32>>)>(&payload).unwrap(), value);
        }
    }
}
