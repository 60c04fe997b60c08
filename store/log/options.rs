//! Bounds of a log, checked at open.

use super::OpenLogError;
use super::frame::PAGE_BYTES;

/// Bounds of a log. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a segment, from 16 KiB to 4 GiB; a multiple of 4 KiB. Default 64 MiB.
    pub segment_bytes: u64,
    /// Size of the first segment after an open, at most `segment_bytes`: small, because opening
    /// waits until it is filled with zeros. Default 1 MiB.
    pub first_segment_bytes: u64,
    /// A group takes no further batch once it has this many bytes. Default 1 MiB.
    pub group_bytes_max: u64,
    /// Largest batch, in bytes with 4 for each record. It must fit into a segment. Default 16 MiB.
    pub batch_bytes_max: u64,
    /// Bytes of [`Purpose::New`](super::Purpose::New) that may wait for the disk; together with
    /// `Settle`, twice as many may. A lane that has batches waiting is refused earlier: it may have
    /// no more bytes waiting than are still free, so that no lane takes all. Default 64 MiB.
    pub backlog_bytes_max: u64,
    /// Size of the reserve that only [`Purpose::Settle`](super::Purpose::Settle) may use once the
    /// disk is full; 0 for none, else it must hold the largest
    /// batch and the largest group. Default 32 MiB.
    pub reserve_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            first_segment_bytes: 1 << 20,
            group_bytes_max: 1 << 20,
            batch_bytes_max: 16 << 20,
            backlog_bytes_max: 64 << 20,
            reserve_bytes: 32 << 20,
        }
    }
}

/// Pages of a segment that no batch can use: its head and the mark of a clean close.
const OVERHEAD_BYTES: u64 = 2 * PAGE_BYTES;

impl LogOptions {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`OpenLogError::Options`]: which option is out of which bounds.
    pub fn check(&self) -> Result<(), OpenLogError> {
        let gib = 1 << 30;
        let page = PAGE_BYTES;
        within("segment_bytes", self.segment_bytes, 4 * page, 4 * gib)?;
        whole_pages("segment_bytes", self.segment_bytes)?;
        within(
            "first_segment_bytes",
            self.first_segment_bytes,
            4 * page,
            self.segment_bytes,
        )?;
        whole_pages("first_segment_bytes", self.first_segment_bytes)?;
        // One page for the frame's own head, which shares its first page with the payload.
        let fits = (self.segment_bytes - OVERHEAD_BYTES - page).min(gib);
        within("batch_bytes_max", self.batch_bytes_max, 1, fits)?;
        within("group_bytes_max", self.group_bytes_max, 1, fits)?;
        within(
            "backlog_bytes_max",
            self.backlog_bytes_max,
            self.batch_bytes_max,
            64 * gib,
        )?;
        if self.reserve_bytes != 0 {
            let least = self.batch_bytes_max.max(self.group_bytes_max) + OVERHEAD_BYTES + page;
            within("reserve_bytes", self.reserve_bytes, least, 4 * gib)?;
            whole_pages("reserve_bytes", self.reserve_bytes)?;
        }
        Ok(())
    }
}

fn within(option: &'static str, value: u64, least: u64, most: u64) -> Result<(), OpenLogError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(OpenLogError::Options {
            option,
            value,
            least,
            most,
        })
    }
}

/// Refuses what is no multiple of a page, naming the multiples on either side.
fn whole_pages(option: &'static str, value: u64) -> Result<(), OpenLogError> {
    let least = value - value % PAGE_BYTES;
    if least == value {
        Ok(())
    } else {
        Err(OpenLogError::Options {
            option,
            value,
            least,
            most: least + PAGE_BYTES,
        })
    }
}
