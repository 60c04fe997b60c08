//! Formats: what older versions of this library wrote, and how it is read and written still.
//!
//! A format is a set of encodings that a store keeps until it is asked to move on. Every encoded
//! value begins with the number of its format, so that a store which moved on still reads what it
//! wrote before.
//!
//! Invariants
//! - Whatever a format wrote is read for ever; the types of a format that is not the newest are
//!   never changed.
//! - A value goes into an older format whole, or is refused: nothing that decides what happens next
//!   is left out silently.

pub mod v1;
pub mod v2;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{Lsn, SagaId};
use crate::tenant::TenantLabel;

/// A set of encodings, by its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Effects, and sagas of steps, sleeps, times and random numbers.
    V1,
    /// Signals, children, deadlines, forks, operators' verbs, blobs, backups.
    V2,
    /// Budgets and the ledger; what is decided about tenants.
    #[default]
    V3,
}

impl Format {
    /// What new stores are made in.
    pub const NEWEST: Self = Self::V3;

    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// The format of a number; `None` for one that this version does not know.
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// An older format cannot say this. Nothing was written. Upgrade the store, or do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} needs a store of format {needed}, this one has format {format}")]
pub struct NotInFormat {
    /// What it is.
    pub what: &'static str,
    /// The format that was to be written.
    pub format: Format,
    /// The oldest that can.
    pub needed: Format,
}

impl NotInFormat {
    /// Version 1 has no such thing.
    pub const fn since_v2(what: &'static str) -> Self {
        Self {
            what,
            format: Format::V1,
            needed: Format::V2,
        }
    }

    /// Versions 1 and 2 have no such thing.
    pub const fn since_v3(what: &'static str, format: Format) -> Self {
        Self {
            what,
            format,
            needed: Format::V3,
        }
    }
}

/// Why a value has no bytes, or bytes no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The format cannot say it.
    #[error(transparent)]
    NotInFormat(#[from] NotInFormat),
    /// A newer version of the library wrote it. Open the store with that version.
    #[error("its format is {format}, this version reads up to {format_max}")]
    Newer {
        /// Its format.
        format: u8,
        /// The newest that is read here.
        format_max: u8,
    },
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// The encoder or the decoder refused.
    #[error("{reason}")]
    Malformed {
        /// What it said.
        reason: String,
    },
}

impl BodyError {
    fn malformed(error: &postcard::Error) -> Self {
        Self::Malformed {
            reason: error.to_string(),
        }
    }
}

/// What is kept on a disk: every format has an encoding of it.
pub trait Persisted: Serialize + DeserializeOwned {
    /// Adds its bytes in version 1.
    ///
    /// # Errors
    /// [`BodyError`]: it has none there; what was added may not be used.
    fn push_v1(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError>;

    /// The value at the beginning of bytes of version 1, and the bytes after it.
    ///
    /// # Errors
    /// [`BodyError::Malformed`]: there is none.
    fn take_v1(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError>;

    /// Adds its bytes in version 2: those of today, unless that could not say them.
    ///
    /// # Errors
    /// [`BodyError`]: it has none there; what was added may not be used.
    fn push_v2(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        push(self, bytes)
    }

    /// The value at the beginning of bytes of version 2, and the bytes after it.
    ///
    /// # Errors
    /// [`BodyError::Malformed`]: there is none.
    fn take_v2(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        take(bytes)
    }
}

/// The number of the format, and the value in it.
///
/// # Errors
/// [`BodyError`]: the format cannot say it, or the encoder refused.
pub fn encode<T: Persisted>(format: Format, value: &T) -> Result<Vec<u8>, BodyError> {
    let mut bytes = vec![format.number()];
    match format {
        Format::V1 => value.push_v1(&mut bytes)?,
        Format::V2 => value.push_v2(&mut bytes)?,
        Format::V3 => push(value, &mut bytes)?,
    }
    Ok(bytes)
}

/// The value behind the number of its format; every byte must be used.
///
/// # Errors
/// [`BodyError`]: other code wrote it.
pub fn decode<T: Persisted>(bytes: &[u8]) -> Result<T, BodyError> {
    let (number, body) = bytes.split_first().ok_or(BodyError::Empty)?;
    let (value, rest) = match Format::of_number(*number) {
        Some(Format::V1) => T::take_v1(body)?,
        Some(Format::V2) => T::take_v2(body)?,
        Some(Format::V3) => take(body)?,
        None => {
            return Err(BodyError::Newer {
                format: *number,
                format_max: Format::NEWEST.number(),
            });
        }
    };
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(BodyError::Malformed {
            reason: format!("{} bytes left over", rest.len()),
        })
    }
}

/// Adds the bytes of a value.
///
/// # Errors
/// [`BodyError::Malformed`]: the encoder refused.
pub fn push<T: Serialize>(value: &T, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
    *bytes = postcard::to_extend(value, std::mem::take(bytes))
        .map_err(|error| BodyError::malformed(&error))?;
    Ok(())
}

/// The value at the beginning of bytes, and the bytes after it.
///
/// # Errors
/// [`BodyError::Malformed`]: there is none.
pub fn take<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), BodyError> {
    postcard::take_from_bytes(bytes).map_err(|error| BodyError::malformed(&error))
}

/// The same in every format: what has been encoded before never changes.
macro_rules! unchanged {
    ($($type:ty),*) => {$(
        impl Persisted for $type {
            fn push_v1(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
                push(self, bytes)
            }

            fn take_v1(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
                take(bytes)
            }
        }
    )*};
}

/// A row's key, and its value unless it was removed.
pub type RowChange = (Vec<u8>, Option<Vec<u8>>);

unchanged!(TenantLabel, Option<SagaId>, Vec<RowChange>, u64, (u64, Lsn));
