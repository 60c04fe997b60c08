//! Tombstones: small objects that stand where a version must not be.

/// Begins every tombstone, and no segment: a put refuses content that does.
const MARK: &[u8] = b"orlop tombstone 8b1f5d0c97e34a62 v1 ";

/// Why a version must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tombstone {
    /// The attempt never wrote it, and is kept from writing it late.
    Fenced,
    /// It was there, or may have been, and was taken away.
    Removed,
}

impl Tombstone {
    /// Reads the content of an object; `None` if it is no tombstone.
    pub fn read(content: &[u8]) -> Option<Self> {
        match content.strip_prefix(MARK)? {
            b"fenced\n" => Some(Self::Fenced),
            b"removed\n" => Some(Self::Removed),
            _ => None,
        }
    }

    /// What the object holds.
    pub(crate) fn content(self) -> Vec<u8> {
        let word: &[u8] = match self {
            Self::Fenced => b"fenced\n",
            Self::Removed => b"removed\n",
        };
        [MARK, word].concat()
    }

    /// Whether content could be taken for a tombstone, by this or a later version.
    pub(crate) fn is_like(content: &[u8]) -> bool {
        content.starts_with(MARK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_is_read_back_and_a_segment_is_none() {
        for tombstone in [Tombstone::Fenced, Tombstone::Removed] {
            let content = tombstone.content();
            assert_eq!(Tombstone::read(&content), Some(tombstone));
            assert!(Tombstone::is_like(&content));
        }
        assert_eq!(Tombstone::read(b""), None);
        assert_eq!(Tombstone::read(b"orlop tombstone"), None);
    }
}
