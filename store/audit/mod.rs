//! The audit trail: a chain of entries in files of its own beside the journal.
//!
//! It is not in the journal, for three reasons. Whoever is denied can be made to be denied often,
//! and must not fill the queue, the disk space and the checkpoints of everybody's work with it. A
//! trail that cannot be written must not poison the engine. And it has a bound of its own: the
//! journal is freed as the tables follow, while a trail is kept for those who come later.
//!
//! | file | noun |
//! | --- | --- |
//! | `frame` | the unit that is written, synced and verified |
//! | `trail` | the trail, open for appending |
//! | `verify` | a trail that is only read: verified, or copied into a backup |
//!
//! Invariants
//! - An append is durable when it returns; a frame never touches a page that holds another one.
//! - What was never acknowledged is cut at open; anything else that does not verify is damage, and
//!   nothing is appended behind it.
//! - After a failed write or sync nothing more is appended until the trail is opened again.

mod frame;
#[cfg(test)]
mod tests;
mod trail;
mod verify;

use std::io;
use std::path::PathBuf;

pub use self::trail::{Trail, TrailOptions};
pub(crate) use self::verify::copy;
pub use self::verify::{Verified, VerifyError, verify};

/// The folder of the trail in that of the store.
pub const AUDIT: &str = "audit";

/// Why a trail is not written. Entries that were not acknowledged may be lost; the work they tell
/// of is not touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrailError {
    /// It was damaged or tampered with. Keep the folder as evidence and move it away: another one
    /// begins.
    #[error("{file} at {offset}: {what}")]
    Damaged {
        /// In which file.
        file: PathBuf,
        /// The byte in it.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The system refused. Correct the cause and open the store again.
    #[error("{operation} failed in {file}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// Where.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It failed before. Open the store again.
    #[error("the trail failed before")]
    Failed,
}

impl TrailError {
    fn io(operation: &'static str, file: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_path_buf();
        move |source| Self::Io {
            operation,
            file,
            source,
        }
    }
}
