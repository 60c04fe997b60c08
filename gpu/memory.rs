//! Memory: the one region that host and device share.
//!
//! Everything that crosses sides lies here: rings, heartbeats, results and buffers. Ring words are
//! reached only through atomics, by plain loads and stores. Pages are touched when first used, so
//! an idle device costs address space and little memory.
//!
//! Invariants
//! - Slots and byte ranges are handed out from disjoint sections (see `layout`).
//! - The region outlives every reference into it: references borrow it.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::slot::Slot;

/// Why there is no shared memory. Nothing was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The length is zero or exceeds the address space. Ask for less.
    #[error("a shared region of {bytes} bytes cannot be addressed")]
    Length {
        /// What was asked for.
        bytes: u64,
    },
    /// The system refused the memory. Ask for less, or raise the limit.
    #[error("the system refused a shared region of {bytes} bytes")]
    System {
        /// What was asked for.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Zeroed memory, page aligned, shared between threads and (on Linux) shareable with a child.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the region is plain memory that is owned by this value, not bound to a thread; who may
// touch which bytes when is the contract of `bytes` and `write`, not of the type.
unsafe impl Send for Region {}
// SAFETY: as above; slots are atomics, and byte ranges are reached through unsafe functions whose
// callers rule out a concurrent writer.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes` zeroed bytes.
    ///
    /// # Errors
    /// [`RegionError`]: nothing was mapped.
    pub fn new(bytes: u64) -> Result<Self, RegionError> {
        let length = usize::try_from(bytes)
            .ok()
            .filter(|length| *length > 0 && isize::try_from(*length).is_ok())
            .ok_or(RegionError::Length { bytes })?;
        let base = map(length).map_err(|source| RegionError::System { bytes, source })?;
        Ok(Self { base, length })
    }

    /// As [`Region::new`], with the file that another process may map.
    #[cfg(target_os = "linux")]
    pub(crate) fn shared(bytes: u64) -> Result<(Self, std::fs::File), RegionError> {
        let length = usize::try_from(bytes).map_err(|_| RegionError::Length { bytes })?;
        let mapped = map_file(length).map_err(|source| RegionError::System { bytes, source });
        let (base, file) = mapped?;
        Ok((Self { base, length }, file.into()))
    }

    /// Maps the whole of a file that another process made with [`Region::shared`].
    #[cfg(target_os = "linux")]
    pub(crate) fn of_file(file: impl rustix::fd::AsFd) -> Result<Self, std::io::Error> {
        let size = rustix::fs::fstat(&file)?.st_size;
        let length = usize::try_from(size).ok().filter(|length| *length > 0);
        let length = length.ok_or(std::io::ErrorKind::InvalidData)?;
        let base = map_shared(length, file)?;
        Ok(Self { base, length })
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// Where it is mapped.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// `count` slots from byte `offset` on, if they lie inside and are aligned.
    pub(crate) fn slots(&self, offset: u64, count: u64) -> Option<&[Slot]> {
        let bytes = count.checked_mul(size_of::<Slot>() as u64)?;
        let start = self.checked(offset, bytes)?;
        let count = usize::try_from(count).ok()?;
        if !start.addr().get().is_multiple_of(align_of::<Slot>()) {
            return None;
        }
        // SAFETY: `checked` proved that the bytes lie inside the mapping, which lives as long as
        // `self`; the alignment was tested; zeroed memory is a valid `Slot`, and all access to
        // slot sections is atomic because `bytes` and `write` are never used on them.
        Some(unsafe { std::slice::from_raw_parts(start.cast::<Slot>().as_ptr(), count) })
    }

    /// The 32-bit word at byte `offset` of the header's page, if it is one of those behind the
    /// header's slots.
    #[cfg(target_os = "linux")]
    pub(crate) fn host_word(&self, offset: u64) -> Option<&std::sync::atomic::AtomicU32> {
        use crate::layout::{PAGE_BYTES, host_word};
        if !(host_word::FIRST..PAGE_BYTES).contains(&offset) || !offset.is_multiple_of(4) {
            return None;
        }
        let start = self.checked(offset, 4)?;
        // SAFETY: inside the mapping, which lives as long as `self`; aligned, as was tested; these
        // bytes are reached through this function alone, so all access to them is atomic.
        Some(unsafe { start.cast::<std::sync::atomic::AtomicU32>().as_ref() })
    }

    /// `length` bytes from `offset` on, if they lie inside.
    ///
    /// # Safety
    /// Nothing writes to these bytes while the slice lives, and earlier writes happened before.
    pub(crate) unsafe fn bytes(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let start = self.checked(offset, length)?;
        let length = usize::try_from(length).ok()?;
        // SAFETY: inside the mapping, which lives as long as `self` and is initialised; the caller
        // promises that nothing writes meanwhile.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), length) })
    }

    /// Copies `from` to `offset`; `false` if it does not lie inside (then nothing was copied).
    ///
    /// # Safety
    /// Nothing else reads or writes these bytes during the call.
    pub(crate) unsafe fn write(&self, offset: u64, from: &[u8]) -> bool {
        let Some(start) = self.checked(offset, from.len() as u64) else {
            return false;
        };
        // SAFETY: the target lies inside the mapping; the caller promises exclusive access, so it
        // does not overlap `from`, which is borrowed for reading.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), start.as_ptr(), from.len()) };
        true
    }

    fn checked(&self, offset: u64, length: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(length)?;
        if end > self.length as u64 {
            return None;
        }
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: `offset` is at most the length of the mapping, which is one allocation.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        unmap(self.base, self.length);
    }
}

#[cfg(target_os = "linux")]
fn map(length: usize) -> Result<NonNull<u8>, std::io::Error> {
    Ok(map_file(length)?.0)
}

#[cfg(target_os = "linux")]
fn map_file(length: usize) -> Result<(NonNull<u8>, rustix::fd::OwnedFd), std::io::Error> {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    let file = memfd_create("orlop", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, length as u64)?;
    let base = map_shared(length, &file)?;
    Ok((base, file))
}

/// `file` has `length` bytes and is not shortened.
#[cfg(target_os = "linux")]
fn map_shared(length: usize, file: impl rustix::fd::AsFd) -> Result<NonNull<u8>, std::io::Error> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};

    let (protection, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::SHARED | MapFlags::NORESERVE,
    );
    // SAFETY: the address is left to the system and no existing mapping is replaced; the file has
    // `length` bytes, and whoever is given its descriptor keeps it that long.
    let base = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, &file, 0) }?;
    NonNull::new(base.cast()).ok_or_else(|| std::io::Error::other("mapped at address zero"))
}

#[cfg(target_os = "linux")]
fn unmap(base: NonNull<u8>, length: usize) {
    // SAFETY: exactly the mapping that `map` made; it is dropped once, and all references into it
    // borrowed the region that is being dropped.
    let unmapped = unsafe { rustix::mm::munmap(base.as_ptr().cast(), length) };
    debug_assert!(unmapped.is_ok());
}

#[cfg(not(target_os = "linux"))]
fn plan(length: usize) -> Result<std::alloc::Layout, std::io::Error> {
    std::alloc::Layout::from_size_align(length, 4096).map_err(std::io::Error::other)
}

#[cfg(not(target_os = "linux"))]
fn map(length: usize) -> Result<NonNull<u8>, std::io::Error> {
    let plan = plan(length)?;
    // SAFETY: the size is not zero; `new` tested it.
    let base = unsafe { std::alloc::alloc_zeroed(plan) };
    NonNull::new(base).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
}

#[cfg(not(target_os = "linux"))]
fn unmap(base: NonNull<u8>, length: usize) {
    if let Ok(plan) = plan(length) {
        // SAFETY: allocated by `map` with the same plan, and freed once.
        unsafe { std::alloc::dealloc(base.as_ptr(), plan) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_outside_the_region_is_refused() {
        let region = Region::new(8192).unwrap();
        assert!(region.slots(0, 64).is_some());
        assert!(region.slots(0, 65).is_none());
        assert!(region.slots(64, 1).is_none());
        assert!(region.slots(u64::MAX, 1).is_none());
        // SAFETY: no other thread knows this region.
        assert!(unsafe { region.bytes(8000, 192) }.is_some());
        // SAFETY: as above.
        assert!(unsafe { region.bytes(8000, 193) }.is_none());
        // SAFETY: as above.
        assert!(!unsafe { region.write(8191, b"ab") });
    }

    #[test]
    fn an_impossible_length_is_a_typed_error() {
        assert!(matches!(
            Region::new(0),
            Err(RegionError::Length { bytes: 0 })
        ));
        let refused = Region::new(u64::MAX);
        assert!(matches!(
            refused,
            Err(RegionError::Length { bytes: u64::MAX })
        ));
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_is_zero() {
        let region = Region::new(4096).unwrap();
        // SAFETY: no other thread knows this region.
        assert!(unsafe { region.write(100, b"orlop") });
        // SAFETY: as above; nothing writes while the slice lives.
        let bytes = unsafe { region.bytes(99, 7) }.unwrap();
        assert_eq!(bytes, b"\0orlop\0");
    }
}
