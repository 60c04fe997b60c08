//! Projection: which rows an event leaves behind.
//!
//! Pure: no I/O, no clock. The projector runs it on durable records, a rebuild runs it again.
//!
//! | row | key after the prefix | value |
//! | --- | --- | --- |
//! | `e` | tenant (8), key (16) | the settlement that is replayed |
//! | `s` | saga (8) | the whole history of a saga that ended |
//! | `t` | tenant (8) | the tenant's label |
//! | `x` | expiry (8), tenant (8), key (16) | the saga that expires with it, if any |
//! | `b` | expiry (8), tenant (8), key (16), digest (32) | bytes of the blob that the outcome is in |
//! | `d` | tenant (8), digest (32) | bytes of a blob that no outcome names any more, and since when |
//!
//! Numbers are big-endian, so that the order of keys is the order of numbers. A value is the number
//! of its format and its encoding there, see [`orlop_saga::compat`].
//!
//! Invariants
//! - Changes are derived from the journal alone and never read a row: applying them again, or
//!   again after retention has removed some, is harmless.
//! - An outcome and its place in the retention index are written together.

use orlop_saga::blob::BlobRef;
use orlop_saga::compat::{self, BodyError, Format, Persisted};
use orlop_saga::digest::Digest;
use orlop_saga::effect::{EffectId, Settlement};
use orlop_saga::event::Event;
use orlop_saga::id::{Lsn, SagaId, TenantId};
use orlop_saga::key::Key;
use orlop_saga::live::Finished;
use orlop_saga::outcome::Outcome;
use orlop_saga::saga::SagaState;
use orlop_saga::tenant::{TenantEvent, TenantLabel};
use orlop_saga::time::WallMillis;

use crate::tables::Change;

/// The prefix of retained outcomes.
pub const OUTCOMES: u8 = b'e';
/// The prefix of sagas that ended.
pub const SAGAS: u8 = b's';
/// The prefix of tenants.
pub const TENANTS: u8 = b't';
/// The prefix of the retention index.
pub const EXPIRIES: u8 = b'x';

/// The prefix of blobs that outcomes name.
pub const BLOBS: u8 = b'b';
/// The prefix of blobs that wait to be unlinked.
pub const DEAD_BLOBS: u8 = b'd';

/// An outcome that is kept: the row found by its key until its `expires_at`.
pub type Retained = Settlement;

/// Why a row was not written or read. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The encoder refused. Cannot happen for a value of the vocabulary.
    #[error("a row cannot be encoded: {reason}")]
    Encode {
        /// What the encoder said.
        reason: String,
    },
    /// The row's checksum held, so other code wrote it. Open the store with that version.
    #[error("a row of {bytes} bytes is not understood: {reason}")]
    Decode {
        /// Its length.
        bytes: usize,
        /// What the decoder said.
        reason: String,
    },
}

/// Adds to `changes` what `event`, which finished `finished`, leaves behind, in a format.
///
/// # Errors
/// [`RowError::Encode`]: nothing was added.
pub fn project(
    format: Format,
    event: &Event,
    finished: Option<&Finished>,
    changes: &mut Vec<Change>,
) -> Result<(), RowError> {
    match event {
        Event::Tenant(TenantEvent::Registered { tenant, label }) => changes.push(Change::Put {
            key: tenant_key(*tenant),
            value: encode(format, label)?,
        }),
        Event::Tenant(TenantEvent::Unregistered { tenant }) => changes.push(Change::Remove {
            key: tenant_key(*tenant),
        }),
        Event::Tenant(
            TenantEvent::QuotasChanged { .. }
            | TenantEvent::AllowListChanged { .. }
            | TenantEvent::Suspended { .. }
            | TenantEvent::Resumed { .. }
            | TenantEvent::Draining { .. }
            | TenantEvent::Drained { .. }
            | TenantEvent::Revoked { .. }
            | TenantEvent::EngagementsChanged { .. },
        )
        | Event::Opened { .. }
        | Event::Effect { .. }
        | Event::Saga { .. }
        | Event::Closed { .. }
        | Event::Recovered
        | Event::Budget(_) => {}
    }
    let Some(finished) = finished else {
        return Ok(());
    };
    let settlement = &*finished.settlement;
    let outcome = encode(format, settlement)?;
    let expiry = encode(format, &settlement.saga)?;
    if let (Some(id), Some(state)) = (settlement.saga, &finished.saga) {
        changes.push(Change::Put {
            key: saga_key(id),
            value: encode(format, &**state)?,
        });
    }
    changes.push(Change::Put {
        key: outcome_key(finished.id),
        value: outcome,
    });
    changes.push(Change::Put {
        key: expiry_key(settlement.expires_at, finished.id),
        value: expiry,
    });
    if let Some(blob) = blob_of(settlement) {
        changes.push(Change::Put {
            key: blob_key(settlement.expires_at, finished.id, blob.digest),
            value: encode(format, &blob.bytes)?,
        });
    }
    Ok(())
}

/// The blob that an outcome is in, if it is in one.
pub(crate) fn blob_of(settlement: &Settlement) -> Option<BlobRef> {
    match &settlement.outcome {
        Outcome::Blob(blob) => Some(*blob),
        Outcome::Done(_) | Outcome::Failed(_) => None,
    }
}

/// The key of a retained outcome.
pub fn outcome_key(id: EffectId) -> Vec<u8> {
    let mut key = vec![OUTCOMES];
    push_id(&mut key, id);
    key
}

/// Whose outcome a key of an [`OUTCOMES`] row is.
pub fn outcome_id(key: &[u8]) -> Option<EffectId> {
    read_id(key.strip_prefix(&[OUTCOMES])?)
}

/// The key of a saga that ended.
pub fn saga_key(saga: SagaId) -> Vec<u8> {
    let mut key = vec![SAGAS];
    key.extend_from_slice(&saga.get().to_be_bytes());
    key
}

/// The key of a tenant.
pub fn tenant_key(tenant: TenantId) -> Vec<u8> {
    let mut key = vec![TENANTS];
    key.extend_from_slice(&tenant.to_u64().to_be_bytes());
    key
}

/// The key of a place in the retention index.
pub fn expiry_key(expires_at: WallMillis, id: EffectId) -> Vec<u8> {
    let mut key = vec![EXPIRIES];
    key.extend_from_slice(&expires_at.get().to_be_bytes());
    push_id(&mut key, id);
    key
}

/// What expires when, by a key of an [`EXPIRIES`] row.
pub fn expiry_id(key: &[u8]) -> Option<(WallMillis, EffectId)> {
    let (at, rest) = key.strip_prefix(&[EXPIRIES])?.split_first_chunk::<8>()?;
    Some((WallMillis::new(u64::from_be_bytes(*at)), read_id(rest)?))
}

/// The key of a blob that the outcome of `id` with this expiry names. Beside the outcome, so that
/// removing a later run's outcome of the key leaves it.
pub fn blob_key(expires_at: WallMillis, id: EffectId, digest: Digest) -> Vec<u8> {
    let mut key = blobs_of(expires_at, id);
    key.extend_from_slice(digest.as_bytes());
    key
}

/// What the keys of all blobs of one outcome begin with.
pub fn blobs_of(expires_at: WallMillis, id: EffectId) -> Vec<u8> {
    let mut key = vec![BLOBS];
    key.extend_from_slice(&expires_at.get().to_be_bytes());
    push_id(&mut key, id);
    key
}

/// Whose blob a row of [`BLOBS`] keeps.
///
/// # Errors
/// [`RowError::Decode`]: other code wrote it.
pub fn decode_blob(key: &[u8], value: &[u8]) -> Result<(TenantId, BlobRef), RowError> {
    let parts = key
        .strip_prefix(&[BLOBS])
        .and_then(|rest| rest.split_last_chunk::<32>())
        .and_then(|(rest, digest)| Some((read_id(rest.get(8..)?)?, digest)));
    let (id, digest) = parts.ok_or_else(|| not_a_key(key))?;
    let blob = BlobRef {
        digest: Digest::new(*digest),
        bytes: decode(value)?,
    };
    Ok((id.tenant, blob))
}

/// The key of a blob that waits to be unlinked.
pub fn dead_blob_key(tenant: TenantId, digest: Digest) -> Vec<u8> {
    let mut key = vec![DEAD_BLOBS];
    key.extend_from_slice(&tenant.to_u64().to_be_bytes());
    key.extend_from_slice(digest.as_bytes());
    key
}

/// Whose blob waits to be unlinked, and since when.
///
/// # Errors
/// [`RowError::Decode`]: other code wrote it.
pub fn decode_dead_blob(key: &[u8], value: &[u8]) -> Result<(TenantId, BlobRef, Lsn), RowError> {
    let parts = key
        .strip_prefix(&[DEAD_BLOBS])
        .and_then(|rest| rest.split_last_chunk::<32>())
        .and_then(|(tenant, digest)| Some((read_tenant(tenant)?, digest)));
    let (tenant, digest) = parts.ok_or_else(|| not_a_key(key))?;
    let (bytes, since): (u64, Lsn) = decode(value)?;
    let blob = BlobRef {
        digest: Digest::new(*digest),
        bytes,
    };
    Ok((tenant, blob, since))
}

fn not_a_key(key: &[u8]) -> RowError {
    RowError::Decode {
        bytes: key.len(),
        reason: "its key has another length".into(),
    }
}

/// The value of a row of [`OUTCOMES`].
///
/// # Errors
/// [`RowError::Decode`]: other code wrote it.
pub fn decode_outcome(value: &[u8]) -> Result<Retained, RowError> {
    decode(value)
}

/// The value of a row of [`SAGAS`].
///
/// # Errors
/// [`RowError::Decode`]: other code wrote it.
pub fn decode_saga(value: &[u8]) -> Result<SagaState, RowError> {
    decode(value)
}

/// The value of a row of [`TENANTS`].
///
/// # Errors
/// [`RowError::Decode`]: other code wrote it.
pub fn decode_tenant(value: &[u8]) -> Result<TenantLabel, RowError> {
    decode(value)
}

/// The value of a row of [`EXPIRIES`].
///
/// # Errors
/// [`RowError::Decode`]: other code wrote it.
pub fn decode_expiry(value: &[u8]) -> Result<Option<SagaId>, RowError> {
    decode(value)
}

fn push_id(key: &mut Vec<u8>, id: EffectId) {
    key.extend_from_slice(&id.tenant.to_u64().to_be_bytes());
    key.extend_from_slice(id.key.as_bytes());
}

fn read_id(bytes: &[u8]) -> Option<EffectId> {
    let (tenant, key) = bytes.split_first_chunk::<8>()?;
    Some(EffectId {
        tenant: read_tenant(tenant)?,
        key: Key::new(key.try_into().ok()?),
    })
}

fn read_tenant(bytes: &[u8]) -> Option<TenantId> {
    let (generation, slot) = bytes.split_first_chunk::<4>()?;
    let slot = slot.try_into().ok()?;
    Some(TenantId::new(
        u32::from_be_bytes(slot),
        u32::from_be_bytes(*generation),
    ))
}

/// A value's bytes in a format.
pub(crate) fn encode<T: Persisted>(format: Format, value: &T) -> Result<Vec<u8>, RowError> {
    compat::encode(format, value).map_err(|e| RowError::Encode {
        reason: e.to_string(),
    })
}

/// The value of bytes of any format; every byte must be used.
pub(crate) fn decode<T: Persisted>(bytes: &[u8]) -> Result<T, RowError> {
    compat::decode(bytes).map_err(|e: BodyError| RowError::Decode {
        bytes: bytes.len(),
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_read_back_and_ordered_by_expiry(
            slot: u32, generation: u32, raw: [u8; 16], a: u64, b: u64,
        ) {
            let id = EffectId { tenant: TenantId::new(slot, generation), key: Key::new(raw) };
            prop_assert_eq!(outcome_id(&outcome_key(id)), Some(id));
            let (ka, kb) = (
                expiry_key(WallMillis::new(a), id),
                expiry_key(WallMillis::new(b), id),
            );
            prop_assert_eq!(expiry_id(&ka), Some((WallMillis::new(a), id)));
            prop_assert_eq!(a.cmp(&b), ka.cmp(&kb));
        }
    }

    /// A store written today must open for ever.
    #[test]
    fn the_keys_of_rows_are_pinned() {
        let id = EffectId {
            tenant: TenantId::new(2, 1),
            key: Key::new([0xab; 16]),
        };
        let mut expected = vec![b'e', 0, 0, 0, 1, 0, 0, 0, 2];
        expected.extend_from_slice(&[0xab; 16]);
        assert_eq!(outcome_key(id), expected);
        assert_eq!(saga_key(SagaId::new(258)), [b's', 0, 0, 0, 0, 0, 0, 1, 2]);
        let expiry = expiry_key(WallMillis::new(3), id);
        assert_eq!(expiry[..9], [b'x', 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(expiry[9..], expected[1..]);
    }

    #[test]
    fn a_row_of_another_format_or_with_bytes_left_over_is_refused() {
        let row = encode(Format::NEWEST, &Some(SagaId::new(7))).unwrap();
        assert_eq!(decode_expiry(&row), Ok(Some(SagaId::new(7))));
        let mut longer = row.clone();
        longer.push(0);
        let mut other = row;
        other[0] = 9;
        for bytes in [longer, other, Vec::new()] {
            assert!(matches!(
                decode_expiry(&bytes),
                Err(RowError::Decode { .. })
            ));
        }
    }
}
