//! Outputs: where an operation puts its result.
//!
//! Invariant: up to 32 bytes stay inline; one byte more and all of them lie in the permit's
//! result area, or in the window that the entry has for them. Nobody else reads or writes these
//! until the completion is posted.
#![allow(unsafe_code)]

use crate::layout::INLINE_BYTES;
use crate::memory::Region;
use crate::ops::OpError;

/// A result under construction.
#[derive(Debug)]
pub struct Output<'a> {
    region: &'a Region,
    offset: u64,
    capacity: u64,
    length: u64,
    inline: [u8; INLINE_BYTES],
}

impl<'a> Output<'a> {
    /// An empty output over the result area of one permit, or the result window of its entry. The
    /// caller owns that permit, which no other thread does: this is what makes the copies below
    /// exclusive.
    pub(crate) fn new(region: &'a Region, offset: u64, capacity: u64) -> Self {
        Self {
            region,
            offset,
            capacity,
            length: 0,
            inline: [0; INLINE_BYTES],
        }
    }

    /// Appends to the result.
    ///
    /// # Errors
    /// [`OpError::RESULT_TOO_LONG`]: it exceeds what there is room for; nothing was appended.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OpError> {
        let length = self.length + bytes.len() as u64;
        if length <= INLINE_BYTES as u64 {
            let start = usize::try_from(self.length).unwrap_or(INLINE_BYTES);
            let target = self.inline.get_mut(start..start + bytes.len());
            target
                .ok_or(OpError::RESULT_TOO_LONG)?
                .copy_from_slice(bytes);
        } else {
            if length > self.capacity {
                return Err(OpError::RESULT_TOO_LONG);
            }
            self.spill()?;
            self.copy(self.length, bytes)?;
        }
        self.length = length;
        Ok(())
    }

    /// The longest result that there is room for.
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes so far.
    pub const fn length(&self) -> u64 {
        self.length
    }

    pub(crate) const fn inline(&self) -> [u8; INLINE_BYTES] {
        self.inline
    }

    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let length = usize::try_from(self.length).unwrap();
        if length <= INLINE_BYTES {
            return self.inline[..length].to_vec();
        }
        // SAFETY: a test owns the region, and nobody writes to it any more.
        unsafe { self.region.bytes(self.offset, self.length) }
            .unwrap()
            .to_vec()
    }

    /// Forgets what was written.
    pub(crate) fn clear(&mut self) {
        self.length = 0;
        self.inline = [0; INLINE_BYTES];
    }

    fn spill(&mut self) -> Result<(), OpError> {
        if self.length > INLINE_BYTES as u64 {
            return Ok(());
        }
        let inline = self.inline;
        let held = usize::try_from(self.length).unwrap_or(INLINE_BYTES);
        self.copy(0, inline.get(..held).unwrap_or_default())?;
        self.inline = [0; INLINE_BYTES];
        Ok(())
    }

    fn copy(&self, at: u64, bytes: &[u8]) -> Result<(), OpError> {
        // SAFETY: the range lies in this permit's result area or window (`write` tested the length
        // against its capacity), which only this thread touches between fetch and completion; the host
        // reads it after the completion and hands the permit out again only when it is done.
        let copied = unsafe { self.region.write(self.offset + at, bytes) };
        copied.then_some(()).ok_or(OpError::RESULT_TOO_LONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_inline_up_to_32_bytes_and_whole_in_the_area_beyond() {
        let region = Region::new(4096).unwrap();
        let mut out = Output::new(&region, 1024, 100);
        out.write(&[1; 20]).unwrap();
        out.write(&[2; 12]).unwrap();
        assert_eq!(out.inline()[19..21], [1, 2]);
        out.write(&[3; 68]).unwrap();
        assert_eq!(out.length(), 100);
        // SAFETY: no other thread knows this region.
        let area = unsafe { region.bytes(1024, 101) }.unwrap();
        assert_eq!(area[..20], [1; 20]);
        assert_eq!(area[20..32], [2; 12]);
        assert_eq!(area[32..100], [3; 68]);
        assert_eq!(area[100], 0);
        assert_eq!(out.write(&[4]), Err(OpError::RESULT_TOO_LONG));
        assert_eq!(out.length(), 100);
    }
}
