//! The home of the tables: which tree is the current one, and how another takes its place.
//!
//! Invariants
//! - The current tree is named by one durable pointer, replaced atomically.
//! - A fresh tree becomes the current one only by [`TablesHome::promote`], complete and synced.
//! - A tree found damaged is set aside, not deleted; how many are kept is bounded.

use std::fmt::Debug;

use orlop_saga::id::Lsn;

use crate::tables::{Tables, TablesError, TablesSize};

/// What the checkpoint says of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Everything up to here was durable in them.
    pub applied_min: Lsn,
}

/// Why there are no tables to go on with. The store rebuilds them, except after
/// [`OpenTablesError::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenTablesError {
    /// There is no current tree. Nothing was changed.
    #[error("there are no tables: {reason}")]
    Missing {
        /// What is missing.
        reason: String,
    },
    /// The current tree is not what was written. It is set aside once another is promoted.
    #[error("the tables are damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
    /// The tree could not be read. Nothing was changed; correct the cause and open again.
    #[error(transparent)]
    Failed(TablesError),
}

impl From<TablesError> for OpenTablesError {
    fn from(error: TablesError) -> Self {
        match error {
            TablesError::Damaged { reason } => Self::Damaged { reason },
            TablesError::Io { .. }
            | TablesError::Poisoned
            | TablesError::TooLarge { .. }
            | TablesError::Blob { .. }
            | TablesError::Closed => Self::Failed(error),
        }
    }
}

/// Where trees are opened, created and exchanged.
pub trait TablesHome: Send + Debug {
    /// Opens the current tree, believes nothing of it unread, and compares it with the checkpoint.
    ///
    /// # Errors
    /// [`OpenTablesError`]: there is no tree to go on with.
    fn open(&mut self, expected: Expected) -> Result<Box<dyn Tables>, OpenTablesError>;

    /// Creates an empty tree beside the current one, in the place of any that was never promoted.
    ///
    /// # Errors
    /// [`TablesError`]: there is none; the current tree is as it was.
    fn fresh(&mut self) -> Result<Box<dyn Tables>, TablesError>;

    /// Makes the fresh tree, which the caller has synced, the current one. The old one is set
    /// aside if it was damaged, otherwise removed; it must have been closed.
    ///
    /// # Errors
    /// [`TablesError`]: after a crash either tree may be the current one. Reopen the store.
    fn promote(&mut self) -> Result<(), TablesError>;

    /// Removes the fresh tree, if there is one; it must have been closed.
    ///
    /// # Errors
    /// [`TablesError`]: it is removed at the next open.
    fn discard(&mut self) -> Result<(), TablesError>;

    /// Has the current tree rebuilt at the next open: after a failed sync, what can be read of it
    /// need not be on the disk. As good as can be done on a disk that fails.
    fn distrust(&mut self);

    /// Whether so little of the files is live that rows should move to a fresh tree.
    fn is_bloated(&self, size: TablesSize) -> bool;
}
