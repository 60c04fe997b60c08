//! Tombstones: small objects that stand where a version must not be.

use orlop_saga::id::{Attempt, Fence, Incarnation};

/// Begins every tombstone, and no segment: a put refuses content that does.
const MARK: &[u8] = b"orlop tombstone 8b1f5d0c97e34a62 v1 ";

/// Why a version must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tombstone {
    /// It never was there, and what may be on its way is kept out.
    Fenced {
        /// Who gave it up: attempts up to this one do not write any more.
        by: Fence,
    },
    /// It was there, or may have been, and was taken away.
    Removed,
}

impl Tombstone {
    /// Reads the content of an object; `None` if it is no tombstone.
    pub fn read(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content.strip_prefix(MARK)?).ok()?;
        let words: Vec<&str> = text.strip_suffix('\n')?.split(' ').collect();
        match words.as_slice() {
            ["fenced", incarnation, attempt] => {
                let incarnation = Incarnation::new(incarnation.parse().ok()?);
                let attempt = Attempt::new(attempt.parse().ok()?);
                let by = Fence::new(incarnation, attempt);
                Some(Self::Fenced { by })
            }
            ["removed"] => Some(Self::Removed),
            _ => None,
        }
    }

    /// What the object holds.
    pub(crate) fn content(self) -> Vec<u8> {
        let text = match self {
            Self::Fenced { by } => {
                format!("fenced {} {}\n", by.incarnation, by.attempt)
            }
            Self::Removed => "removed\n".to_owned(),
        };
        [MARK, text.as_bytes()].concat()
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
        let by = Fence::new(Incarnation::new(7), Attempt::new(3));
        for tombstone in [Tombstone::Fenced { by }, Tombstone::Removed] {
            let content = tombstone.content();
            assert_eq!(Tombstone::read(&content), Some(tombstone));
            assert!(Tombstone::is_like(&content));
        }
        assert_eq!(Tombstone::read(b""), None);
        assert_eq!(Tombstone::read(b"orlop tombstone"), None);
    }
}
