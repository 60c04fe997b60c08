//! Ids: what things are called in the journal, in the tables and on the ring.
//!
//! Invariants
//! - An id that can be recycled carries a generation; equality covers both.
//! - No `usize` here: every id has the same width on every machine.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number.
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The number after this one; saturates at the largest.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Log sequence number: the position of one record in the journal. The first record is 1.
    Lsn(u64)
}
number! {
    /// How often the store has been opened for writing. Rises durably before anything is launched.
    Incarnation(u64)
}
number! {
    /// The ordinal of one attempt of an effect or step. The first attempt is 1.
    Attempt(u32)
}
number! {
    /// How often a step's effect has been undone for good; part of its remote key.
    Epoch(u32)
}
number! {
    /// One run of a saga, unique within a store for ever.
    SagaId(u64)
}
number! {
    /// The ordinal of one call of a saga, in the order of intents. The first is 0.
    StepIndex(u32)
}

/// Names a store. Drawn at random when the store is created; kept by a restored backup.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId([u8; 16]);

impl StoreId {
    /// Wraps 16 random bytes.
    pub const fn new(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::digest::hex(f, &self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// A tenant: a recycled slot and the generation that tells its lives apart. The default is nobody:
/// generations start at 1.
#[derive(
    Clone, Default, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TenantId {
    slot: u32,
    generation: u32,
}

impl TenantId {
    /// A tenant in `slot`, in its `generation`-th life (the first is 1).
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The slot, dense and recycled.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// The life of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// `slot` in the low and `generation` in the high half.
    pub const fn to_u64(self) -> u64 {
        ((self.generation as u64) << 32) | self.slot as u64
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// Which run of the engine and which attempt an action belongs to. Ordered: a later one wins.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Fence {
    /// The incarnation of the engine that launched the attempt.
    pub incarnation: Incarnation,
    /// The ordinal of the attempt, counted across incarnations.
    pub attempt: Attempt,
}

impl Fence {
    /// The fence of `attempt` under `incarnation`.
    pub const fn new(incarnation: Incarnation, attempt: Attempt) -> Self {
        Self {
            incarnation,
            attempt,
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.incarnation, self.attempt)
    }
}
