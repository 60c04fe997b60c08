//! Which keys have a retained outcome: an exact set in memory, so that an unknown key is told
//! from a known one without touching the tables. And how many bytes the rows of each tenant have.
//!
//! Invariants
//! - A key is in the set before anybody is told that its row can be found, and leaves it only
//!   after its row is gone: "no" is always true, "yes" may need a lookup.
//! - The bytes of a tenant are the sum over the rows of its keys that are in the set.
//! - Hashes are keyed at random for each run, so that no tenant can choose keys that collide.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use dashmap::DashMap;
use orlop_saga::effect::EffectId;
use orlop_saga::id::TenantId;
use parking_lot::Mutex;

/// Of a key: long enough that two of them never meet by chance.
type Hash = [u32; 3];

/// Passes on 8 bytes of what is a hash already.
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
}

/// Bytes of one place of the set: the hash, the length of the row and a mark.
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
    /// Each key's row has so many bytes.
    hashes: DashMap<Hash, u32, BuildHasherDefault<Passed>>,
    /// Sums of these. Under this lock what is summed up changes.
    tenants: Mutex<HashMap<TenantId, u64>>,
}

impl RetainedKeys {
    /// An empty set. `secret` must be random and is never written anywhere.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            hashes: DashMap::default(),
            tenants: Mutex::default(),
        }
    }

    /// Whether the key may have an outcome in the tables. No disk is touched.
    pub fn maybe(&self, id: EffectId) -> bool {
        self.hashes.contains_key(&self.hash(id))
    }

    /// Bytes of the rows of one tenant's outcomes.
    pub fn bytes_of(&self, tenant: TenantId) -> u64 {
        self.tenants
            .lock()
            .get(&tenant)
            .copied()
            .unwrap_or_default()
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

    /// A key has a row of so many bytes now, in place of the one it had, if it had one.
    pub(crate) fn insert(&self, id: EffectId, row_bytes: usize) {
        let row_bytes = u32::try_from(row_bytes).unwrap_or(u32::MAX);
        let mut tenants = self.tenants.lock();
        let before = self.hashes.insert(self.hash(id), row_bytes);
        let sum = tenants.entry(id.tenant).or_default();
        *sum = sum.saturating_sub(before.unwrap_or_default().into());
        *sum = sum.saturating_add(row_bytes.into());
    }

    pub(crate) fn remove(&self, id: EffectId) {
        let mut tenants = self.tenants.lock();
        let Some((_, row_bytes)) = self.hashes.remove(&self.hash(id)) else {
            return;
        };
        if let Some(sum) = tenants.get_mut(&id.tenant) {
            *sum = sum.saturating_sub(row_bytes.into());
            if *sum == 0 {
                tenants.remove(&id.tenant);
            }
        }
    }

    fn hash(&self, id: EffectId) -> Hash {
        let mut bytes = [0_u8; 24];
        let (tenant, key) = bytes.split_at_mut(8);
        tenant.copy_from_slice(&id.tenant.to_u64().to_le_bytes());
        key.copy_from_slice(id.key.as_bytes());
        let digest = blake3::keyed_hash(&self.secret, &bytes);
        let mut words = digest.as_bytes().chunks_exact(4);
        let mut word = || words.next().and_then(|word| word.try_into().ok());
        std::array::from_fn(|_| word().map_or(0, u32::from_le_bytes))
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
        keys.insert(id(1, 5), 30);
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
            keys.insert(id(n), 100);
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
