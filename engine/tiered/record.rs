//! Records: objects that carry a value and can tell whether they are whole.
//!
//! A mark of its kind in ASCII, 32 bytes of BLAKE3 over what follows, the canonical bytes.

use bytes::Bytes;
use orlop_saga::canonical::{self, EncodeError, Payload};
use orlop_saga::digest::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value as the content of an object.
pub(super) fn seal<T: Serialize>(
    mark: &[u8],
    value: &T,
    bytes_max: usize,
) -> Result<Bytes, EncodeError> {
    let body = canonical::encode(value, bytes_max)?;
    let digest = Digest::of(body.as_bytes());
    Ok([mark, digest.as_bytes(), body.as_bytes()].concat().into())
}

/// The value of an object; `None` if it is of another kind, or not whole.
pub(super) fn unseal<T: DeserializeOwned>(mark: &[u8], content: &Bytes) -> Option<T> {
    let sealed = content.strip_prefix(mark)?;
    let (digest, body) = sealed.split_first_chunk::<32>()?;
    if Digest::of(body) != Digest::new(*digest) {
        return None;
    }
    canonical::decode(&Payload::new(content.slice_ref(body))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8] = b"orlop example v1\n";

    #[test]
    fn a_record_is_read_back_only_if_it_is_whole_and_of_its_kind() {
        let sealed = seal(MARK, &vec![7_u64, 9], 100).unwrap();
        assert_eq!(unseal::<Vec<u64>>(MARK, &sealed), Some(vec![7, 9]));
        assert_eq!(unseal::<Vec<u64>>(b"orlop another v1\n", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(unseal::<Vec<u64>>(MARK, &sealed.slice(..cut)), None);
            let mut damaged = sealed.to_vec();
            damaged[cut] ^= 1;
            assert_eq!(unseal::<Vec<u64>>(MARK, &damaged.into()), None, "{cut}");
        }
    }
}
