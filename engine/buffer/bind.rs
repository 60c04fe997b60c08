//! Binding: from the names in a plan to windows of this device.

use std::sync::Arc;

use orlop_gpu::{BindError, BufferRef, Device, PinnedWindow};
use orlop_saga::id::TenantId;
use orlop_saga::outcome::Failure;
use smallvec::SmallVec;

use super::{Cache, Desk, stage};
use crate::device::Source;

/// Windows, pinned until their operation is over.
pub(crate) type Windows = SmallVec<[PinnedWindow; 2]>;

/// Why the sources of a plan are not bound.
pub(crate) enum BindPlanError {
    /// A buffer is not on the device.
    Absent(BufferRef),
    /// It cannot be bound.
    Failed(Failure),
}

/// Binds ids and generations to the sources of a plan.
pub(crate) fn bind(
    device: &Arc<Device>,
    cache: &Cache,
    tenant: TenantId,
    sources: &[Source],
) -> Result<Windows, BindPlanError> {
    let buffers = device.buffers();
    let desk = Desk {
        device,
        cache,
        tenant,
        account: None,
    };
    let mut windows = Windows::new();
    for source in sources {
        let window = match source {
            Source::Buffer(reference) => match buffers.bind(tenant, reference) {
                Ok(window) => {
                    cache.used(tenant, &reference.digest);
                    window
                }
                Err(BindError::Unknown { .. }) => {
                    return Err(BindPlanError::Absent(*reference));
                }
                Err(error) => return Err(BindPlanError::Failed(Failure::permanent(error))),
            },
            Source::Inline(bytes) => stage(desk, bytes.as_bytes())
                .map_err(|error| BindPlanError::Failed(Failure::retryable(error)))?,
        };
        windows.push(window);
    }
    Ok(windows)
}
