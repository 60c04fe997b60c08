//! Loading: bytes of an absent buffer on their way back to the device.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use orlop_admission::{Refusal, Reservation};
use orlop_gpu::{BufferId, BufferRef, BufferWriter, PutError};
use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;

use super::{Buffer, BufferError, BufferSource, Desk, SourceBytes};
use crate::executor::panic_text;

/// How much is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Why an absent buffer was not brought back.
pub(crate) struct LoadError(pub(crate) BufferError);

impl LoadError {
    /// The tenant has no such bytes, as far as its source says.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.0, BufferError::Lost { .. } | BufferError::NoSource)
    }
}

/// Brings an absent buffer back from its source, and leaves it in the tenant's cache.
///
/// With `is_admitted` it is for work that was admitted before its tenant was suspended, say, and
/// goes on: then it is held for this work alone.
pub(crate) fn load(
    desk: Desk<'_>,
    source: Option<&dyn BufferSource>,
    digest: &Digest,
    is_admitted: bool,
) -> Result<Buffer, LoadError> {
    let brought = brought(desk, source, digest, is_admitted);
    desk.unless_lost(brought).map_err(LoadError)
}

fn brought(
    desk: Desk<'_>,
    source: Option<&dyn BufferSource>,
    digest: &Digest,
    is_admitted: bool,
) -> Result<Buffer, BufferError> {
    let source = source.ok_or(BufferError::NoSource)?;
    let tenant = desk.tenant;
    let opened = guarded(digest, || Ok(source.open(tenant, digest)))?;
    let Some(bytes) = opened else {
        desk.cache.lost(tenant);
        return Err(BufferError::Lost { digest: *digest });
    };
    let length = bytes.length;
    let reserved = reserve(desk, ByteCount::new(length), is_admitted)?;
    let writer = desk
        .create(ByteCount::new(length))
        .map_err(PutError::from)?;
    let id = guarded(digest, || filled(writer, bytes, digest))?;
    let reference = BufferRef {
        digest: *digest,
        offset: 0,
        length,
    };
    let is_reserved = reserved.is_some();
    let buffer = desk.hold(id, reference, reserved);
    desk.cache.loaded(tenant, length);
    if is_reserved {
        desk.cache.keep(&buffer);
    }
    Ok(buffer)
}

fn reserve(
    desk: Desk<'_>,
    bytes: ByteCount,
    is_admitted: bool,
) -> Result<Option<Reservation>, Refusal> {
    match desk.reserve(bytes) {
        Ok(reserved) => Ok(reserved),
        Err(refusal) if is_admitted && refusal.is_of_state() => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Reads, hashes and uploads, chunk by chunk.
fn filled(
    mut writer: BufferWriter,
    mut bytes: SourceBytes,
    digest: &Digest,
) -> Result<BufferId, BufferError> {
    let room = usize::try_from(bytes.length).unwrap_or(CHUNK_BYTES);
    let mut chunk = vec![0; room.min(CHUNK_BYTES)];
    let mut left = bytes.length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK_BYTES);
        let most = most.min(chunk.len());
        let into = chunk.get_mut(..most).unwrap_or_default();
        let read = match bytes.reader.read(into) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(BufferError::Source {
                    digest: *digest,
                    reason: error.to_string(),
                });
            }
        };
        let read = into.get(..read).unwrap_or_default();
        writer.write(read).map_err(PutError::from)?;
        left -= read.len() as u64;
    }
    let sealed = writer.seal_expecting(*digest);
    sealed.map_err(|error| BufferError::of_seal(error, *digest))
}

/// Runs the embedder's code; a panic in it is a failure of the source.
fn guarded<T>(
    digest: &Digest,
    code: impl FnOnce() -> Result<T, BufferError>,
) -> Result<T, BufferError> {
    catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|panic| {
        Err(BufferError::Source {
            digest: *digest,
            reason: panic_text(&*panic),
        })
    })
}
