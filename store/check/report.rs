//! What a check found.

use std::fmt;
use std::path::PathBuf;

use orlop_saga::audit::ChainHead;
use orlop_saga::compat::Format;
use orlop_saga::id::{Lsn, StoreId};

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// In which file or folder.
    pub file: PathBuf,
    /// The byte in it, as near as it can be told.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at {offset}")?;
        }
        write!(f, ": {}; {}", self.what, self.advice)
    }
}

/// What a check found, and how much it looked at.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Whose folder it is, if anything says so.
    pub store: Option<StoreId>,
    /// What it is written in.
    pub format: Option<Format>,
    /// Segments of the journal that were read.
    pub segments: u64,
    /// Frames that verify.
    pub frames: u64,
    /// Records that were folded.
    pub records: u64,
    /// The newest record.
    pub last: Lsn,
    /// Whether something behind the last frame was never finished. Opening cuts it off.
    pub torn: bool,
    /// Checkpoints that verify.
    pub checkpoints: u64,
    /// Exports that verify.
    pub exports: u64,
    /// Rows of the tables that were read.
    pub rows: u64,
    /// Blobs that verify.
    pub blobs: u64,
    /// The end of the audit trail, if there is one.
    pub audit_head: Option<ChainHead>,
    /// What is wrong, at most as many as were asked for.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}
