//! Views: windows as the values they hold.

use bytemuck::{AnyBitPattern, PodCastError};

use super::OpError;

/// The values that a window holds.
///
/// # Errors
/// [`OpError::MISALIGNED`], or [`OpError::BAD_LENGTH`] if it ends within a value.
pub(super) fn values<T: AnyBitPattern>(window: &[u8]) -> Result<&[T], OpError> {
    if window.is_empty() {
        return Ok(&[]);
    }
    bytemuck::try_cast_slice(window).map_err(|error| match error {
        PodCastError::TargetAlignmentGreaterAndInputNotAligned => OpError::MISALIGNED,
        PodCastError::OutputSliceWouldHaveSlop
        | PodCastError::SizeMismatch
        | PodCastError::AlignmentMismatch => OpError::BAD_LENGTH,
    })
}
