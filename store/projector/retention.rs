//! Retention: when an outcome is past it, and removing what is.
//!
//! Time passes by the monotonic clock from the wall time at open: a wall clock that jumps ahead
//! while the store is open expires nothing early, one that jumps back keeps outcomes longer. At
//! the next open the wall clock is believed again. What ends while the wall clock is set back is
//! kept as if it had not been.

use std::ops::ControlFlow;
use std::sync::Arc;

use orlop_saga::blob::BlobRef;
use orlop_saga::effect::EffectId;
use orlop_saga::id::TenantId;
use orlop_saga::time::{Clock, Monotonic, WallMillis};

use crate::projection;
use crate::projector::ProjectorError;
use crate::tables::{Change, Tables};

/// The time that retention goes by.
#[derive(Debug)]
pub struct RetentionClock {
    clock: Arc<dyn Clock>,
    wall_at_open: WallMillis,
    monotonic_at_open: Monotonic,
}

impl RetentionClock {
    /// A clock for one opening, which is now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (wall_at_open, monotonic_at_open) = (clock.wall(), clock.monotonic());
        Self {
            clock,
            wall_at_open,
            monotonic_at_open,
        }
    }

    /// The earlier of the wall clock and what it would be had it not jumped: what has not expired
    /// by then has not expired.
    pub fn now(&self) -> WallMillis {
        self.clock.wall().min(self.unjumped())
    }

    /// The later of the two: when something ends, as far as its retention goes.
    pub fn ended_at(&self) -> WallMillis {
        self.clock.wall().max(self.unjumped())
    }

    fn unjumped(&self) -> WallMillis {
        let passed = self.clock.monotonic().since(self.monotonic_at_open);
        self.wall_at_open.after(passed)
    }
}

/// What one pass of retention found.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    /// The rows to remove.
    pub(crate) changes: Vec<Change>,
    /// The keys that are unknown once they are removed.
    pub(crate) keys: Vec<EffectId>,
    /// The blobs that one outcome less names then, each as often as it is named less.
    pub(crate) blobs: Vec<(TenantId, BlobRef)>,
    /// The earliest expiry that is left.
    pub(crate) next: Option<WallMillis>,
}

/// Looks for up to `rows_max` outcomes that have expired by `now`.
pub(crate) fn expired(
    tables: &mut dyn Tables,
    now: WallMillis,
    rows_max: u32,
) -> Result<Expired, ProjectorError> {
    let mut due: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut next = None;
    let rows_max = usize::try_from(rows_max).unwrap_or(usize::MAX);
    tables.scan(&[projection::EXPIRIES], None, &mut |key, value| {
        let at = projection::expiry_id(key).map(|(at, _)| at);
        if due.len() < rows_max && at.is_none_or(|at| at <= now) {
            due.push((key.to_vec(), value.to_vec()));
            return ControlFlow::Continue(());
        }
        next = at;
        ControlFlow::Break(())
    })?;
    let mut expired = Expired {
        next,
        ..Expired::default()
    };
    for (key, value) in due {
        if let Some(saga) = projection::decode_expiry(&value)? {
            expired.changes.push(Change::Remove {
                key: projection::saga_key(saga),
            });
        }
        if let Some((at, id)) = projection::expiry_id(&key) {
            let row = projection::outcome_key(id);
            // A later run of the key has another expiry and a place of its own in the index.
            if let Some(value) = tables.get(&row)?
                && projection::decode_outcome(&value)?.expires_at == at
            {
                expired.changes.push(Change::Remove { key: row });
                expired.keys.push(id);
            }
            blobs(tables, at, id, &mut expired)?;
        }
        expired.changes.push(Change::Remove { key });
    }
    Ok(expired)
}

/// The blobs that the outcome with this expiry names.
fn blobs(
    tables: &mut dyn Tables,
    at: WallMillis,
    id: EffectId,
    expired: &mut Expired,
) -> Result<(), ProjectorError> {
    let mut wrong = None;
    tables.scan(&projection::blobs_of(at, id), None, &mut |key, value| {
        match projection::decode_blob(key, value) {
            Ok(blob) => {
                expired.blobs.push(blob);
                expired.changes.push(Change::Remove { key: key.to_vec() });
            }
            Err(error) => wrong = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    match wrong {
        None => Ok(()),
        Some(error) => Err(error.into()),
    }
}
