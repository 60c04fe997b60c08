//! Copying rows in slices while they change.
//!
//! Invariants
//! - A change of a row that was copied is passed on; a change of a row still ahead is copied when
//!   the copy gets there. When the copy is done, both sides have the same rows.

use std::ops::ControlFlow;

use crate::tables::{Change, Tables, TablesError};

/// How far a copy is.
#[derive(Debug, Default)]
pub struct RowCopy {
    cursor: Option<Vec<u8>>,
    done: bool,
}

impl RowCopy {
    /// A copy of all rows, at its start.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether every row has been copied.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The next rows, at least one and little over `bytes_max`; none once the copy is done.
    ///
    /// # Errors
    /// [`TablesError`]: the copy cannot go on.
    pub fn step(
        &mut self,
        from: &mut dyn Tables,
        bytes_max: usize,
    ) -> Result<Vec<Change>, TablesError> {
        let mut slice: Vec<Change> = Vec::new();
        if self.done {
            return Ok(slice);
        }
        let mut bytes: usize = 0;
        let mut stopped = false;
        from.scan(&[], self.cursor.as_deref(), &mut |key, value| {
            if bytes >= bytes_max {
                stopped = true;
                return ControlFlow::Break(());
            }
            bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
            slice.push(Change::Put {
                key: key.to_vec(),
                value: value.to_vec(),
            });
            ControlFlow::Continue(())
        })?;
        self.done = !stopped;
        if let Some(last) = slice.last() {
            self.cursor = Some(last.key().to_vec());
        }
        Ok(slice)
    }

    /// Of changes made meanwhile, those the copy will not come across.
    pub fn passed(&self, changes: &[Change]) -> Vec<Change> {
        let behind = |change: &&Change| {
            self.done
                || self
                    .cursor
                    .as_deref()
                    .is_some_and(|cursor| change.key() <= cursor)
        };
        changes.iter().filter(behind).cloned().collect()
    }
}
