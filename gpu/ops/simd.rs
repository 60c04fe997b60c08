//! Wide code: a loop compiled for every vector extension, and run in the best one there is.
//!
//! What is run must be inlined into the call, so that the compiler sees it under the extension.
//! Which one it is changes no answer: the compiler reorders no floating-point operation.

/// Runs `work` with the vector extensions of this processor.
#[inline]
pub(super) fn wide<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}
