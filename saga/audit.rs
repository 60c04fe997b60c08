//! Audit: what is kept of attempts to reach what is another tenant's, and of refusals.
//!
//! A trail is a chain: the head after an entry is the BLAKE3 hash of the head before it, the
//! entry's sequence and its bytes. Whoever keeps a head elsewhere can tell later that nothing up
//! to it was changed, removed or put in between.
//!
//! Invariants
//! - The bytes of an entry are its canonical encoding; new variants are added at the end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::{Lsn, SagaId, StoreId, TenantId};
use crate::key::Key;
use crate::tenant::AuditTag;
use crate::time::WallMillis;

/// What is never hashed with anything else.
const HEAD_DOMAIN: &str = "orlop 2026-11 audit chain head";
const GENESIS_DOMAIN: &str = "orlop 2026-11 audit chain genesis";

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Which life of which slot.
    pub tenant: TenantId,
    /// Its name; empty if that life is not registered any more.
    pub label: Box<str>,
    /// On whose account, if the operation says.
    pub tag: AuditTag,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// To look at something.
    Look,
    /// To change something that runs: an operator's verb, a retry.
    Change,
    /// To cancel.
    Cancel,
    /// To send a signal.
    Signal,
    /// To take back what a saga did.
    RollBack,
    /// To run something.
    Run,
    /// To use a handle.
    Use,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "look at",
            Self::Change => "change",
            Self::Cancel => "cancel",
            Self::Signal => "signal",
            Self::RollBack => "roll back",
            Self::Run => "run",
            Self::Use => "use",
        })
    }
}

/// What it was tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Object {
    /// What another tenant has under a key.
    Key(Key),
    /// A saga.
    Saga(SagaId),
    /// The sagas of a tenant.
    SagasOf(TenantId),
    /// A buffer.
    Buffer(Digest),
    /// A window of an entry on the ring, by its index if that is known.
    Window(Option<u32>),
    /// An opcode, as the device knows it.
    Opcode(u32),
    /// A tenant's ledger.
    Ledger(TenantId),
    /// A tenant's handle of a life that the device does not know.
    Life(TenantId),
    /// The account of an engagement.
    Engagement(AuditTag),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "key {key}"),
            Self::Saga(saga) => write!(f, "saga {saga}"),
            Self::SagasOf(tenant) => write!(f, "sagas of {tenant}"),
            Self::Buffer(digest) => write!(f, "buffer {digest}"),
            Self::Window(Some(index)) => write!(f, "window {index}"),
            Self::Window(None) => f.write_str("a window"),
            Self::Opcode(opcode) => write!(f, "opcode {opcode:#x}"),
            Self::Ledger(tenant) => write!(f, "ledger of {tenant}"),
            Self::Life(tenant) => write!(f, "life {tenant}"),
            Self::Engagement(tag) => write!(
                f,
                "engagement {} of organisation {}",
                tag.engagement, tag.organisation
            ),
        }
    }
}

/// An attempt to reach what is another's. It was refused, with an answer that reveals nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Who tried.
    pub who: Actor,
    /// What.
    pub operation: Operation,
    /// On what.
    pub object: Object,
    /// Whose it is, if that is known.
    pub owner: Option<TenantId>,
}

/// What is audited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuditEvent {
    /// A cross-tenant attempt.
    Denied(Denial),
    /// More cross-tenant attempts of one tenant in one interval than are told one by one.
    Suppressed {
        /// Who tried.
        who: Actor,
        /// How many more.
        count: u64,
        /// Since when.
        since: WallMillis,
    },
    /// Refusals of one tenant for one reason in one interval.
    Refused {
        /// Who was refused.
        who: Actor,
        /// The reason's name, as in the metrics.
        reason: Box<str>,
        /// How many.
        count: u64,
        /// Since when.
        since: WallMillis,
    },
    /// The oldest part of the trail ended here and was removed, as its bound says.
    Pruned {
        /// The last entry that was removed and the head after it.
        through: ChainHead,
    },
}

/// One entry of a trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, by the wall clock.
    pub at: WallMillis,
    /// What of the journal was durable then.
    pub lsn: Lsn,
    /// What.
    pub event: AuditEvent,
}

impl AuditEntry {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        // A vector takes all there is; an entry has no map and no unsized sequence.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// The entry of some bytes; `None` if they are none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((entry, [])) => Some(entry),
            Ok((_, [_, ..])) | Err(_) => None,
        }
    }
}

/// The place after an entry: how many there were, and the hash over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainHead {
    /// How many entries there are up to here.
    pub entries: u64,
    /// The hash over them.
    pub digest: Digest,
}

impl ChainHead {
    /// Before the first entry of a store's trail.
    pub fn genesis(store: StoreId) -> Self {
        let digest = blake3::derive_key(GENESIS_DOMAIN, store.as_bytes());
        Self {
            entries: 0,
            digest: Digest::new(digest),
        }
    }

    /// After an entry of these bytes.
    #[must_use]
    pub fn after(&self, entry: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(HEAD_DOMAIN);
        hasher.update(self.digest.as_bytes());
        hasher.update(&self.entries.to_le_bytes());
        hasher.update(&(entry.len() as u64).to_le_bytes());
        hasher.update(entry);
        Self {
            entries: self.entries.saturating_add(1),
            digest: Digest::new(*hasher.finalize().as_bytes()),
        }
    }
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.entries, self.digest)
    }
}

/// A text is no head of a chain: `ENTRIES:DIGEST`, the digest in 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head is written ENTRIES:DIGEST, with a digest of 64 hexadecimal digits")]
pub struct NoChainHead;

impl FromStr for ChainHead {
    type Err = NoChainHead;

    fn from_str(text: &str) -> Result<Self, NoChainHead> {
        let (entries, digits) = text.split_once(':').ok_or(NoChainHead)?;
        let digest = blake3::Hash::from_hex(digits).map_err(|_| NoChainHead)?;
        Ok(Self {
            entries: entries.parse().map_err(|_| NoChainHead)?,
            digest: Digest::new(*digest.as_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64) -> AuditEntry {
        AuditEntry {
            at: WallMillis::new(at),
            lsn: Lsn::new(7),
            event: AuditEvent::Denied(Denial {
                who: Actor {
                    tenant: TenantId::default(),
                    label: "mallory".into(),
                    tag: AuditTag::default(),
                },
                operation: Operation::Signal,
                object: Object::Saga(SagaId::new(3)),
                owner: None,
            }),
        }
    }

    #[test]
    fn every_entry_that_is_written_is_read_again_and_a_cut_one_is_none() {
        let bytes = entry(5).encode();
        assert_eq!(AuditEntry::decode(&bytes), Some(entry(5)));
        for end in 0..bytes.len() {
            assert_eq!(AuditEntry::decode(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_head_depends_on_every_entry_its_order_and_the_store() {
        let store = StoreId::new([1; 16]);
        let (one, two) = (entry(1).encode(), entry(2).encode());
        let genesis = ChainHead::genesis(store);
        let head = genesis.after(&one).after(&two);
        assert_eq!(head.entries, 2);
        assert_ne!(head, genesis.after(&two).after(&one));
        assert_ne!(head, genesis.after(&one).after(&one));
        let other = ChainHead::genesis(StoreId::new([2; 16]));
        assert_ne!(head, other.after(&one).after(&two));
    }

    #[test]
    fn a_head_is_read_from_the_text_that_it_is_shown_as() {
        let head = ChainHead::genesis(StoreId::new([1; 16])).after(b"entry");
        assert_eq!(head.to_string().parse(), Ok(head));
        for wrong in ["", "1", "1:", "x:00", &head.to_string()[..20]] {
            assert_eq!(wrong.parse::<ChainHead>(), Err(NoChainHead), "{wrong}");
        }
    }
}
