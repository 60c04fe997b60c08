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
        #[serde(try_from = "Vec<u8>")]
        #[serde(into = "Vec<u8>")]
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

        impl TryFrom<Vec<u8>> for $name {
            type Error = NameError;

            fn try_from(name: Vec<u8>) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for Vec<u8> {
            fn from(name: $name) -> Self {
                name.0
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
    use orlop_saga::canonical;

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
    fn what_is_decoded_is_a_name_too() {
        let read = |bytes: &[u8]| {
            let encoded = canonical::encode(&bytes.to_vec(), 2048).unwrap();
            canonical::decode::<SegmentName>(&encoded)
        };
        assert!(read(b"").is_err());
        assert!(read(&[b'a'; 1025]).is_err());
        let name = SegmentName::new(b"s").unwrap();
        assert_eq!(read(b"s").unwrap(), name);
        // A name is encoded as its bytes are.
        let bytes = canonical::encode(&b"s".to_vec(), 16).unwrap();
        assert_eq!(canonical::encode(&name, 16).unwrap(), bytes);
    }

    #[test]
    fn a_name_is_shown_on_one_line_of_ascii() {
        let name = SegmentName::new(b"a\n\xff\"".to_vec()).unwrap();
        assert_eq!(name.to_string(), "a\\n\\xff\\\"");
        assert_eq!(format!("{name:?}"), "SegmentName(\"a\\n\\xff\\\"\")");
    }
}
