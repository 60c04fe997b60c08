//! Tables: what must be found again after the journal has forgotten it.
//!
//! The journal is the truth; tables are rows derived from it and can be thrown away. They are
//! owned by one thread, receive only what is durable in the journal, and are believed at open
//! only after every row has been read and its checksum compared.
//!
//! Invariants
//! - Rows and the applied mark change together: the rows are those of the journal up to it,
//!   less what retention has removed.
//! - Visible is not durable: only [`Tables::sync`] makes it so.
//! - The first failure poisons; nothing is retried, and the next open starts from what it can
//!   prove.

pub mod copy;
pub mod export;
pub mod home;
pub mod row;
pub mod sim;
pub mod sled;

use std::fmt::Debug;
use std::ops::ControlFlow;

use orlop_saga::id::Lsn;

pub use self::home::{Expected, OpenTablesError, TablesHome};
pub use self::row::RowSum;
pub use self::sim::{SimHome, SimTables};
pub use self::sled::{SledHome, SledOptions, SledTables};

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row is written, whether or not it exists.
    Put {
        /// Its key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// The row is removed, if it exists.
    Remove {
        /// Its key.
        key: Vec<u8>,
    },
}

impl Change {
    /// The key of the row that changes.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Remove { key } => key,
        }
    }

    /// The value after the change; none if the row is removed.
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Remove { .. } => None,
        }
    }

    /// Bytes of key and value together.
    pub fn byte_len(&self) -> usize {
        self.key()
            .len()
            .saturating_add(self.value().map_or(0, <[u8]>::len))
    }
}

/// How much room tables take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablesSize {
    /// Bytes of their files.
    pub file_bytes: u64,
    /// Bytes of the keys and values that are reachable.
    pub live_bytes: u64,
}

/// Why the tables did not answer or did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TablesError {
    /// The disk failed. Nothing of this call may be believed; the tables are poisoned. Reopen the
    /// store: it starts from what it can prove.
    #[error("the tables failed in {operation}: {reason}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        reason: String,
    },
    /// A row is not what was written. The tables are poisoned. Reopen the store: it sets them
    /// aside and rebuilds them from the last export and the journal.
    #[error("the tables are damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
    /// An earlier call failed. Nothing was read or changed. Reopen the store.
    #[error("the tables are poisoned by an earlier failure")]
    Poisoned,
    /// A key or value is over its bound. Nothing was changed.
    #[error("a row of {bytes} bytes is over the bound of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most that is accepted.
        bytes_max: u64,
    },
    /// The outcome is in a blob that is missing, damaged or cannot be read. The row that names it
    /// is sound and the tables go on. Restore the file that the reason names from a backup.
    #[error("{reason}")]
    Blob {
        /// Which blob, where, and what is wrong with it.
        reason: String,
    },
    /// The tables, or the thread that owns them, have been closed. Nothing was read or changed.
    #[error("the tables are closed")]
    Closed,
}

impl TablesError {
    /// A failed system call.
    pub(crate) fn io(operation: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Io {
            operation,
            reason: error.to_string(),
        }
    }

    /// A row that is not what was written.
    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged {
            reason: reason.into(),
        }
    }
}

/// Called with each row of a scan, key and value; stops the scan with a break.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Ordered rows with an applied mark, owned by one thread.
///
/// Reads take `&mut self` because finding damage poisons.
pub trait Tables: Send + Debug {
    /// The journal position that the rows stand for.
    fn applied(&self) -> Lsn;

    /// How many rows there are, and the sum of their checksums.
    fn sum(&self) -> RowSum;

    /// The value of one row.
    ///
    /// # Errors
    /// [`TablesError`]: nothing may be concluded about the row.
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError>;

    /// Visits the rows whose key starts with `prefix` and, given `after`, is larger than it, in
    /// the order of their keys.
    ///
    /// # Errors
    /// [`TablesError`]: rows visited so far were sound; there may be more.
    fn scan(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TablesError>;

    /// Changes rows in the given order and raises the applied mark with them. Visible at once,
    /// durable after [`sync`](Self::sync). After a crash either all of it is there or the mark
    /// is not raised; changes are idempotent, so the caller applies them again.
    ///
    /// # Errors
    /// [`TablesError`]: the tables are poisoned, except by [`TablesError::TooLarge`], which
    /// changes nothing.
    fn apply(&mut self, changes: &[Change], applied: Lsn) -> Result<(), TablesError>;

    /// Makes everything applied durable.
    ///
    /// # Errors
    /// [`TablesError`]: what was applied since the last sync may or may not be durable; the
    /// tables are poisoned.
    fn sync(&mut self) -> Result<(), TablesError>;

    /// How much room the tables take.
    ///
    /// # Errors
    /// [`TablesError`]: unknown.
    fn size(&mut self) -> Result<TablesSize, TablesError>;

    /// Lets go of the files. Does not sync.
    ///
    /// # Errors
    /// [`TablesError`]: closed all the same.
    fn close(self: Box<Self>) -> Result<(), TablesError>;
}
