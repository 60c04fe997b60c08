//! Which keys have a retained outcome: an exact set in memory, so that an unknown key is told
//! from a known one without touching the tables.
//!
//! Invariants
//! - A key is in the set before anybody is told that its row can be found, and leaves it only
//!   after its row is gone: "no" is always true, "yes" may need a lookup.
//! - Hashes are keyed at random for each run, so that no tenant can choose keys that collide.

use std::hash::{BuildHasherDefault, Hasher};

use dashmap::DashSet;
use orlop_saga::effect::EffectId;

/// Passes on the first 8 bytes of what is a hash already.
#[derive(Clone, Copy, Debug, Default)]
struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        // The low half: the set takes its shards and buckets from these bits.
        self.0 = u64::try_from(hash & u128::from(u64::MAX)).unwrap_or_default();
    }
}

/// Bytes of one place of the set: the hash and a mark.
const PLACE_BYTES: u64 = 17;
/// Below this many keys nothing is given back.
const SHRINK_KEYS_MIN: usize = 4096;

/// The set of keys with a retained outcome.
///
/// Its memory follows from the number of keys: 20 to 40 bytes for each while they grow in number,
/// and after retention has removed many at most four times that, see
/// `shrink`.
#[derive(Debug)]
pub struct RetainedKeys {
    secret: [u8; 32],
    hashes: DashSet<u128, BuildHasherDefault<Passed>>,
}

impl RetainedKeys {
    /// An empty set. `secret` must be random and is never written anywhere.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            hashes: DashSet::default(),
        }
    }

    /// Whether the key may have an outcome in the tables. No disk is touched.
    pub fn maybe(&self, id: EffectId) -> bool {
        self.hashes.contains(&self.hash(id))
    }

    /// How many keys have one.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether none has one.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Bytes of memory that it has taken.
    pub fn byte_len(&self) -> u64 {
        // A table holds seven keys in eight places.
        let places = (self.hashes.capacity() as u64)
            .div_ceil(7)
            .saturating_mul(8);
        places.saturating_mul(PLACE_BYTES)
    }

    /// Gives memory back if most of it is empty.
    pub(crate) fn shrink(&self) {
        let capacity = self.hashes.capacity();
        if capacity > SHRINK_KEYS_MIN && capacity / 4 > self.hashes.len() {
            self.hashes.shrink_to_fit();
        }
    }

    pub(crate) fn insert(&self, id: EffectId) {
        self.hashes.insert(self.hash(id));
    }

    pub(crate) fn remove(&self, id: EffectId) {
        self.hashes.remove(&self.hash(id));
    }

    fn hash(&self, id: EffectId) -> u128 {
        let mut bytes = [0_u8; 24];
        let (tenant, key) = bytes.split_at_mut(8);
        tenant.copy_from_slice(&id.tenant.to_u64().to_le_bytes());
        key.copy_from_slice(id.key.as_bytes());
        let digest = blake3::keyed_hash(&self.secret, &bytes);
        digest
            .as_bytes()
            .first_chunk::<16>()
            .map_or(0, |first| u128::from_le_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use orlop_saga::id::TenantId;
    use orlop_saga::key::Key;

    use super::*;

    #[test]
    fn a_key_is_known_only_to_its_tenant_and_only_until_it_is_removed() {
        let keys = RetainedKeys::new([7; 32]);
        let id = |slot: u32, key: u8| EffectId {
            tenant: TenantId::new(slot, 1),
            key: Key::new([key; 16]),
        };
        keys.insert(id(1, 5));
        assert!(keys.maybe(id(1, 5)));
        assert!(!keys.maybe(id(2, 5)));
        assert!(!keys.maybe(id(1, 6)));
        keys.remove(id(1, 5));
        assert!(!keys.maybe(id(1, 5)) && keys.is_empty());
    }

    #[test]
    fn its_memory_follows_the_number_of_keys_up_and_down() {
        let keys = RetainedKeys::new([7; 32]);
        let id = |n: u64| EffectId {
            tenant: TenantId::new(1, 1),
            key: Key::named(&n.to_string()),
        };
        for n in 0..200_000 {
            keys.insert(id(n));
        }
        let full = keys.byte_len();
        assert!((20 * 200_000..=40 * 200_000).contains(&full), "{full}");
        for n in 0..199_000 {
            keys.remove(id(n));
            keys.shrink();
        }
        assert_eq!(keys.len(), 1_000);
        assert!((199_000..200_000).all(|n| keys.maybe(id(n))));
        let left = keys.byte_len();
        assert!(left <= 40 * 5 * SHRINK_KEYS_MIN as u64, "{left}");
    }
}
