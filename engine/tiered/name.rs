//! Names: what segments, tables and symbols are called within their tenant.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why bytes are no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There are none.
    #[error("a name is empty")]
    Empty,
    /// There are more than a name may have: 1024.
    #[error("a name of {bytes} bytes is longer than {bytes_max}")]
    TooLong {
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        bytes_max: usize,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Vec<u8>);

        impl $name {
            /// The longest name, in bytes.
            pub const BYTES_MAX: usize = 1024;

            /// A name.
            ///
            /// # Errors
            /// [`NameError`]: empty or too long.
            pub fn new(name: impl Into<Vec<u8>>) -> Result<Self, NameError> {
                let name = name.into();
                match name.len() {
                    0 => Err(NameError::Empty),
                    bytes if bytes > Self::BYTES_MAX => Err(NameError::TooLong {
                        bytes,
                        bytes_max: Self::BYTES_MAX,
                    }),
                    _ => Ok(Self(name)),
                }
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            /// On one line, with everything that is not plain ASCII escaped.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.escape_ascii(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(\"{}\")"), self)
            }
        }
    };
}

name! {
    /// The name of a segment within its tenant: 1 to 1024 bytes, any bytes.
    SegmentName
}

name! {
    /// The name of a table, or of whatever has one manifest at a time, within its tenant: 1 to
    /// 1024 bytes, any bytes.
    TableName
}

name! {
    /// The name of a symbol within its batch: 1 to 1024 bytes, any bytes.
    SymbolName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_to_1024_bytes() {
        assert_eq!(SegmentName::new(""), Err(NameError::Empty));
        assert!(SegmentName::new([0xff; 1024]).is_ok());
        assert_eq!(
            SegmentName::new([b'a'; 1025]),
            Err(NameError::TooLong {
                bytes: 1025,
                bytes_max: 1024
            })
        );
    }

    #[test]
    fn a_name_is_shown_on_one_line_of_ascii() {
        let name = SegmentName::new(b"a\n\xff\"".to_vec()).unwrap();
        assert_eq!(name.to_string(), "a\\n\\xff\\\"");
        assert_eq!(format!("{name:?}"), "SegmentName(\"a\\n\\xff\\\"\")");
    }
}
