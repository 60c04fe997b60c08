//! Frames of a trail: some entries that were written and synced together.
//!
//! ```text
//! 0   magic "OAUD"        8   payload bytes, u32      24  checksum, u64
//! 4   version, u16       12   entries, u32            32  the head before, 32 bytes
//! 6   zero, u16          16   entries before, u64     64  payload, then zeros to the page's end
//! ```
//!
//! All numbers are little-endian. The payload is each entry behind its length (u32). The checksum is
//! BLAKE3 cut to 64 bits over the whole frame but itself. It tells writes that did not end; what
//! tells tampering is the chain, against a head that is kept elsewhere.

use orlop_saga::audit::{AuditEntry, ChainHead};
use orlop_saga::digest::Digest;

/// Frames begin at multiples of this.
pub(super) const PAGE: usize = 4096;
pub(super) const HEAD_BYTES: usize = 64;
/// No frame is larger.
pub(super) const FRAME_BYTES_MAX: usize = 1 << 20;
const MAGIC: [u8; 4] = *b"OAUD";
const VERSION: u16 = 1;
const CHECKSUM: std::ops::Range<usize> = 24..32;

/// The bytes of a frame and the head after it. What does not fit is left for the next frame: says
/// how many entries it took.
pub(super) fn seal(before: ChainHead, entries: &[Vec<u8>]) -> (Vec<u8>, ChainHead, usize) {
    let mut bytes = vec![0; HEAD_BYTES];
    let (mut after, mut taken) = (before, 0_u32);
    for entry in entries {
        if taken > 0 && bytes.len() + 4 + entry.len() > FRAME_BYTES_MAX {
            break;
        }
        // Entries are bounded by their types, far below.
        let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(entry);
        after = after.after(entry);
        taken += 1;
    }
    let payload = u32::try_from(bytes.len() - HEAD_BYTES).unwrap_or(u32::MAX);
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, 4, &VERSION.to_le_bytes());
    put(&mut bytes, 8, &payload.to_le_bytes());
    put(&mut bytes, 12, &taken.to_le_bytes());
    put(&mut bytes, 16, &before.entries.to_le_bytes());
    put(&mut bytes, 32, before.digest.as_bytes());
    let checksum = checksum(&bytes);
    put(&mut bytes, CHECKSUM.start, &checksum);
    (bytes, after, taken as usize)
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

fn checksum(frame: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(frame.get(..CHECKSUM.start).unwrap_or_default());
    hasher.update(frame.get(CHECKSUM.end..).unwrap_or_default());
    let mut short = [0; 8];
    hasher.finalize_xof().fill(&mut short);
    short
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A frame that verifies by itself.
#[derive(Debug)]
pub(super) struct Frame {
    /// Bytes that it takes.
    pub(super) bytes: usize,
    pub(super) before: ChainHead,
    pub(super) after: ChainHead,
    pub(super) entries: Vec<AuditEntry>,
}

/// The frame at the beginning of some bytes; `None` if there is none.
pub(super) fn read(bytes: &[u8]) -> Option<Frame> {
    if field(bytes, 0)? != MAGIC || u16::from_le_bytes(field(bytes, 4)?) != VERSION {
        return None;
    }
    let payload = u32::from_le_bytes(field(bytes, 8)?) as usize;
    let count = u32::from_le_bytes(field(bytes, 12)?);
    let end = HEAD_BYTES.checked_add(payload)?;
    let frame = bytes.get(..end.checked_next_multiple_of(PAGE)?)?;
    if field(frame, CHECKSUM.start)? != checksum(frame) {
        return None;
    }
    let before = ChainHead {
        entries: u64::from_le_bytes(field(frame, 16)?),
        digest: Digest::new(field(frame, 32)?),
    };
    let mut rest = frame.get(HEAD_BYTES..end)?;
    let (mut after, mut entries) = (before, Vec::new());
    for _ in 0..count {
        let length = u32::from_le_bytes(field(rest, 0)?) as usize;
        let entry = rest.get(4..4_usize.checked_add(length)?)?;
        rest = rest.get(4 + length..)?;
        after = after.after(entry);
        entries.push(AuditEntry::decode(entry)?);
    }
    rest.is_empty().then_some(Frame {
        bytes: frame.len(),
        before,
        after,
        entries,
    })
}
