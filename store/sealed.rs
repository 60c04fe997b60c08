//! Sealed bytes: a small file that is believed only whole.
//!
//! Layout: magic (8 bytes), version (4, little-endian), length of the body (8), body, BLAKE3 of
//! everything before (32).

/// What a sealed file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its first bytes.
    pub(crate) magic: [u8; 8],
    /// The version of its body that this code writes, and the newest it reads.
    pub(crate) version: u32,
}

/// Why bytes are not what was sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsealError {
    /// Another kind of file, or no file of ours.
    #[error("it does not start with the right magic")]
    Foreign,
    /// A newer version of the library wrote it. Open it with that version.
    #[error("it has version {version}, this library reads up to {version_max}")]
    Newer {
        /// Its version.
        version: u32,
        /// The newest that is read here.
        version_max: u32,
    },
    /// Bytes are missing or changed.
    #[error("it does not match its checksum")]
    Damaged,
}

/// Seals a body.
pub(crate) fn seal(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len().saturating_add(52));
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(body);
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

/// The body of sealed bytes.
pub(crate) fn unseal(kind: Kind, bytes: &[u8]) -> Result<&[u8], UnsealError> {
    unseal_versioned(kind, bytes).map(|(_, body)| body)
}

/// The version of sealed bytes, and their body.
pub(crate) fn unseal_versioned(kind: Kind, bytes: &[u8]) -> Result<(u32, &[u8]), UnsealError> {
    let (sealed, digest) = bytes.split_last_chunk::<32>().ok_or(UnsealError::Damaged)?;
    let rest = sealed
        .strip_prefix(&kind.magic)
        .ok_or(UnsealError::Foreign)?;
    if blake3::hash(sealed).as_bytes() != digest {
        return Err(UnsealError::Damaged);
    }
    let (version, rest) = rest.split_first_chunk::<4>().ok_or(UnsealError::Damaged)?;
    let version = u32::from_le_bytes(*version);
    if version > kind.version {
        return Err(UnsealError::Newer {
            version,
            version_max: kind.version,
        });
    }
    let (length, body) = rest.split_first_chunk::<8>().ok_or(UnsealError::Damaged)?;
    if u64::from_le_bytes(*length) == body.len() as u64 {
        Ok((version, body))
    } else {
        Err(UnsealError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        magic: *b"orlopTST",
        version: 2,
    };

    #[test]
    fn every_flipped_bit_and_every_cut_of_sealed_bytes_is_refused() {
        let sealed = seal(KIND, b"body");
        assert_eq!(unseal(KIND, &sealed), Ok(&b"body"[..]));
        for at in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let refused = unseal(KIND, &bytes).unwrap_err();
            assert!(matches!(
                refused,
                UnsealError::Damaged | UnsealError::Foreign
            ));
        }
        for end in 0..sealed.len() {
            assert!(unseal(KIND, &sealed[..end]).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let newer = Kind { version: 3, ..KIND };
        assert_eq!(
            unseal(KIND, &seal(newer, b"body")),
            Err(UnsealError::Newer {
                version: 3,
                version_max: 2
            })
        );
    }
}
