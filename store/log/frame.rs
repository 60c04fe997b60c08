//! Frames: the unit that is written, synced and verified. One frame holds one group of batches.
//!
//! ```text
//! 0   magic "OFRM"        8   payload bytes, u32      16  lsn of the first record, u64
//! 4   format, u16        12   records, u32            24  checksum, u64
//! 6   kind, u16                                       32  payload, then zeros to the page's end
//! ```
//!
//! All numbers are little-endian. The payload is each record behind its length (u32).
//!
//! The checksum is BLAKE3, keyed with the segment's random salt and cut to 64 bits, over the whole
//! frame but itself, the zeros at its end included. Keyed, because a recycled segment is full of
//! frames that were valid once, and because records are chosen by tenants: bytes in a payload can
//! only pass for a frame to someone who knows the salt, which a CRC would not ask for. 64 bits,
//! because a segment has thousands of pages and each is tried as a frame after a crash.
//!
//! Invariants
//! - A frame begins on a page of its own: writing one never touches a page that holds bytes which
//!   were acknowledged, so not even a page that comes back as noise can damage them.
//! - A batch is never split over frames: it is atomic because the frame is.

use orlop_saga::id::Lsn;

use super::Batch;
use super::batch::Records;

/// Frames begin at multiples of this.
pub(super) const PAGE_BYTES: u64 = 4096;
/// The same, for slices.
pub(super) const PAGE: usize = 4096;
/// Bytes in front of the payload.
pub(super) const HEAD_BYTES: usize = 32;
/// The newest format known.
pub(super) const FORMAT: u16 = 1;

/// More than any group or batch may have.
const PAYLOAD_BYTES_MAX: usize = 1 << 31;
const MAGIC: [u8; 4] = *b"OFRM";
const CHECKSUM_AT: usize = 24;

/// A segment's salt: the key of its frames' checksums.
pub(super) type Salt = [u8; 32];

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Batches.
    Records,
    /// A log was opened here: says the next lsn where there was no frame to copy.
    Opened,
    /// The log was closed cleanly: all before it is durable and was acknowledged.
    Closed,
}

impl Kind {
    const fn to_u16(self) -> u16 {
        match self {
            Self::Records => 1,
            Self::Opened => 2,
            Self::Closed => 3,
        }
    }

    const fn from_u16(raw: u16) -> Option<Self> {
        match raw {
            1 => Some(Self::Records),
            2 => Some(Self::Opened),
            3 => Some(Self::Closed),
            _ => None,
        }
    }
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) payload_bytes: usize,
    pub(super) records: u32,
    pub(super) first: Lsn,
}

impl Head {
    /// The lsn after its last record.
    pub(super) const fn end(&self) -> Lsn {
        Lsn::new(self.first.get().saturating_add(self.records as u64))
    }

    /// Bytes it takes on the disk.
    pub(super) const fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes)
    }
}

/// Bytes a frame of `payload_bytes` takes on the disk: whole pages.
pub(super) const fn frame_bytes(payload_bytes: usize) -> usize {
    (HEAD_BYTES + payload_bytes).next_multiple_of(PAGE)
}

/// A frame under construction, reused from group to group.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    bytes: Vec<u8>,
    records: u32,
}

impl FrameBuffer {
    /// Begins anew.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(HEAD_BYTES, 0);
        self.records = 0;
    }

    /// Adds a batch.
    pub(super) fn push(&mut self, batch: &Batch) {
        self.push_raw(batch.as_bytes(), batch.len());
    }

    /// Adds `records` records that are encoded already.
    pub(super) fn push_raw(&mut self, payload: &[u8], records: u32) {
        self.bytes.extend_from_slice(payload);
        self.records = self.records.saturating_add(records);
    }

    /// Completes the frame and gives its bytes: whole pages.
    pub(super) fn seal(&mut self, salt: &Salt, kind: Kind, first: Lsn) -> &[u8] {
        let payload = self.bytes.len().saturating_sub(HEAD_BYTES);
        // Options bound a group far below 4 GiB.
        let payload_bytes = u32::try_from(payload).unwrap_or(u32::MAX);
        self.bytes.resize(frame_bytes(payload), 0);
        let fields = [
            (0, &MAGIC[..]),
            (4, &FORMAT.to_le_bytes()),
            (6, &kind.to_u16().to_le_bytes()),
            (8, &payload_bytes.to_le_bytes()),
            (12, &self.records.to_le_bytes()),
            (16, &first.get().to_le_bytes()),
        ];
        for (at, field) in fields {
            put(&mut self.bytes, at, field);
        }
        let sum = checksum(salt, &self.bytes);
        put(&mut self.bytes, CHECKSUM_AT, &sum.to_le_bytes());
        &self.bytes
    }
}

/// Overwrites bytes of a buffer that is long enough.
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at + field.len()) {
        target.copy_from_slice(field);
    }
}

/// Reads a fixed-size field.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn checksum(salt: &Salt, frame: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new_keyed(salt);
    hasher.update(frame.get(..CHECKSUM_AT).unwrap_or_default());
    hasher.update(frame.get(HEAD_BYTES..).unwrap_or_default());
    cut_to_u64(&hasher.finalize())
}

/// The first 64 bits of a digest.
pub(super) fn cut_to_u64(digest: &blake3::Hash) -> u64 {
    let first = digest.as_bytes().first_chunk().copied();
    u64::from_le_bytes(first.unwrap_or_default())
}

/// What a page looks like as the first of a frame, before anything is verified.
pub(super) fn peek(page: &[u8]) -> Option<(u16, usize)> {
    if field::<4>(page, 0)? != MAGIC {
        return None;
    }
    let format = u16::from_le_bytes(field(page, 4)?);
    let payload = usize::try_from(u32::from_le_bytes(field(page, 8)?)).ok()?;
    if payload > PAYLOAD_BYTES_MAX {
        return None;
    }
    Some((format, frame_bytes(payload)))
}

/// What bytes turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A frame that verifies.
    Valid(Head),
    /// A frame that verifies, of a format that is not known here.
    Newer(u16),
    /// Anything else.
    Invalid,
}

/// Verifies the bytes of one whole frame.
pub(super) fn verify(salt: &Salt, frame: &[u8]) -> Verdict {
    parse(salt, frame).unwrap_or(Verdict::Invalid)
}

fn parse(salt: &Salt, frame: &[u8]) -> Option<Verdict> {
    let (format, bytes) = peek(frame)?;
    let sum = u64::from_le_bytes(field(frame, CHECKSUM_AT)?);
    if bytes != frame.len() || sum != checksum(salt, frame) {
        return None;
    }
    if format > FORMAT {
        return Some(Verdict::Newer(format));
    }
    let head = Head {
        kind: Kind::from_u16(u16::from_le_bytes(field(frame, 6)?))?,
        payload_bytes: usize::try_from(u32::from_le_bytes(field(frame, 8)?)).ok()?,
        records: u32::from_le_bytes(field(frame, 12)?),
        first: Lsn::new(u64::from_le_bytes(field(frame, 16)?)),
    };
    // Records beyond the last lsn there is: no log wrote them.
    head.first.get().checked_add(u64::from(head.records))?;
    let mut records = Records::new(payload(frame, &head));
    let counted = records.by_ref().count();
    let whole = records.rest().is_empty() && u32::try_from(counted).ok()? == head.records;
    // Opening copies records alone: those in a mark would count there and be missing afterwards.
    let placed = match head.kind {
        Kind::Records => true,
        Kind::Opened | Kind::Closed => head.payload_bytes == 0,
    };
    (whole && placed).then_some(Verdict::Valid(head))
}

/// The payload of a frame that verified.
pub(super) fn payload<'a>(frame: &'a [u8], head: &Head) -> &'a [u8] {
    frame
        .get(HEAD_BYTES..HEAD_BYTES + head.payload_bytes)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_beyond_the_last_lsn_are_no_frame() {
        let salt = [7; 32];
        let mut verdicts = Vec::new();
        for first in [u64::MAX - 2, u64::MAX - 1] {
            let mut batch = Batch::new();
            batch.push(b"one");
            batch.push(b"two");
            let mut frame = FrameBuffer::default();
            frame.clear();
            frame.push(&batch);
            let bytes = frame.seal(&salt, Kind::Records, Lsn::new(first));
            verdicts.push(matches!(verify(&salt, bytes), Verdict::Valid(_)));
        }
        assert_eq!(verdicts, [true, false]);
    }

    #[test]
    fn a_mark_with_records_is_no_frame() {
        let salt = [7; 32];
        for (kind, valid) in [
            (Kind::Records, true),
            (Kind::Opened, false),
            (Kind::Closed, false),
        ] {
            let mut batch = Batch::new();
            batch.push(b"one");
            let mut frame = FrameBuffer::default();
            frame.clear();
            frame.push(&batch);
            let bytes = frame.seal(&salt, kind, Lsn::new(1));
            let verdict = matches!(verify(&salt, bytes), Verdict::Valid(_));
            assert_eq!(verdict, valid, "{kind:?}");
        }
    }
}
