//! Halfway marks of the engine's limits: one for each, warned of through `tracing`.

use orlop_saga::halfway::Halfway;

/// One mark for each limit of [`Limits`](crate::Limits) that fills up, and for the blobs.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) input_bytes: Halfway,
    pub(crate) output_bytes: Halfway,
    pub(crate) batch_items: Halfway,
    pub(crate) joiners: Halfway,
    pub(crate) effects: Halfway,
    pub(crate) sagas: Halfway,
    pub(crate) saga_calls: Halfway,
    pub(crate) saga_bytes: Halfway,
    pub(crate) tenants: Halfway,
    pub(crate) blob_bytes: Halfway,
}

/// Warns of a level at half of its limit, once until it has fallen again.
pub(crate) fn level(mark: &Halfway, limit: &'static str, value: usize, max: usize) {
    if mark.level(value as u64, max as u64) {
        tracing::warn!(limit, value, max, "half of a limit is reached");
    }
}

/// Warns of a size of at least half its limit, once for each eighth.
pub(crate) fn size(mark: &Halfway, limit: &'static str, value: usize, max: usize) {
    if mark.size(value as u64, max as u64) {
        tracing::warn!(limit, value, max, "half of a limit is reached");
    }
}
