//! Options of a store: every bound, checked before anything is touched.

use super::OpenError;
use crate::log::LogOptions;
use crate::projector::ProjectorOptions;
use crate::tables::SledOptions;

/// Bounds of a store, checked at open.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Whether a store is created in a missing or empty folder.
    pub create: bool,
    /// Whether a store in an older format moves on to the newest: an older version of this library
    /// cannot open it from then on. Otherwise it stays as it is, and what its format cannot say is
    /// refused. New stores are made in the newest format.
    pub upgrade: bool,
    /// Bounds of the journal.
    pub log: LogOptions,
    /// Bounds of the tables.
    pub sled: SledOptions,
    /// Bounds of the projector.
    pub projector: ProjectorOptions,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            create: true,
            upgrade: false,
            log: LogOptions::default(),
            sled: SledOptions::default(),
            projector: ProjectorOptions::default(),
        }
    }
}

impl StoreOptions {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`OpenError::Options`]: which option is out of which bounds.
    pub fn check(&self) -> Result<(), OpenError> {
        self.log.check()?;
        check_projector(&self.projector)?;
        within("cache_bytes", self.sled.cache_bytes, 1 << 20, 64 << 30)?;
        within("key_bytes_max", self.sled.key_bytes_max, 64, 1024)?;
        within("value_bytes_max", self.sled.value_bytes_max, 4096, 1 << 30)?;
        within("bloated_bytes_min", self.sled.bloated_bytes_min, 1, 1 << 50)?;
        within("quarantined_max", self.sled.quarantined_max.into(), 0, 64)
    }
}

pub(super) fn check_projector(options: &ProjectorOptions) -> Result<(), OpenError> {
    let p = options;
    within(
        "projector.backlog_bytes_max",
        p.backlog_bytes_max,
        1,
        64 << 30,
    )?;
    within("group_bytes_max", p.group_bytes_max, 1, 256 << 10)?;
    within("checkpoint_bytes", p.checkpoint_bytes, 1, 64 << 30)?;
    within("export_bytes_min", p.export_bytes_min, 1, 1 << 40)?;
    within("exports_kept", p.exports_kept.into(), 1, 16)?;
    within("expired_rows_max", p.expired_rows_max.into(), 1, 4096)?;
    within("retention_pause_ms", p.retention_pause_ms, 1, 86_400_000)?;
    within("blobs.bytes_min", p.blobs.bytes_min, 4096, 1 << 30)?;
    within(
        "blobs.tenant_bytes_max",
        p.blobs.tenant_bytes_max,
        1,
        1 << 50,
    )
}

fn within(option: &'static str, value: u64, least: u64, most: u64) -> Result<(), OpenError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(OpenError::Options {
            option,
            value,
            least,
            most,
        })
    }
}
