//! The cache: buffers on the device that nobody holds, and that their tenant's need of room evicts.
//!
//! Invariants
//! - What is in the cache counts against its tenant's quotas, and makes way for whatever else the
//!   tenant is to have: it is never a reason for a refusal, unless work uses it.
//! - One tenant's need evicts nothing of another's.
//! - What work uses is not evicted; of the rest, what was used longest ago goes first.
//! - Nothing of a device that was succeeded by another one stays or comes here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use orlop_gpu::Device;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use parking_lot::{ReentrantMutex, RwLock};

use super::{Buffer, HeldBuffer};

/// What one tenant has in the cache, and what became of what it asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferUse {
    /// Buffers in the cache.
    pub buffers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often work named a buffer in the cache that was on the device.
    pub hits: u64,
    /// How often a buffer was brought back from the source.
    pub loads: u64,
    /// Bytes brought back.
    pub loaded_bytes: u64,
    /// How many were evicted.
    pub evicted: u64,
    /// How often the source did not have what was named.
    pub lost: u64,
}

/// What became of a wish to have a buffer leave the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// It is not in the cache any more. Its bytes are free unless a [`Buffer`] holds them.
    Evicted,
    /// Work uses it: nothing changed.
    InUse,
    /// It is not in the cache.
    Absent,
}

#[derive(Default)]
struct Shelf {
    by_digest: HashMap<Digest, Entry>,
    /// By when each was used last.
    by_use: BTreeMap<u64, Digest>,
    /// Rises with each use.
    uses: u64,
    counts: BufferUse,
    /// Entered again by whoever is woken by what it frees, and launches.
    turn: Arc<ReentrantMutex<()>>,
}

struct Entry {
    buffer: Buffer,
    used: u64,
}

/// See the module.
pub(crate) struct Cache {
    tenants: DashMap<TenantId, Shelf>,
    /// The device that succeeded the first one, or a later one.
    successor: RwLock<Option<Weak<Device>>>,
    bytes_max: u64,
}

impl Cache {
    /// Of at most so many bytes for each tenant.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            tenants: DashMap::new(),
            successor: RwLock::default(),
            bytes_max,
        }
    }

    /// Makes those that look for room of one tenant go one at a time, so that none is refused what
    /// another one is about to free.
    pub(super) fn turn(&self, tenant: TenantId) -> Arc<ReentrantMutex<()>> {
        let shelf = self.tenants.get(&tenant);
        shelf.map_or_else(Arc::default, |shelf| Arc::clone(&shelf.turn))
    }

    /// From now on the tenant may have something here.
    pub(crate) fn enter(&self, tenant: TenantId) {
        self.tenants.entry(tenant).or_default();
    }

    /// Work uses a buffer that is on the device.
    pub(super) fn used(&self, tenant: TenantId, digest: &Digest) {
        if let Some(mut shelf) = self.tenants.get_mut(&tenant)
            && shelf.touch(digest)
        {
            shelf.counts.hits += 1;
        }
    }

    pub(super) fn loaded(&self, tenant: TenantId, bytes: u64) {
        if let Some(mut shelf) = self.tenants.get_mut(&tenant) {
            shelf.counts.loads += 1;
            shelf.counts.loaded_bytes += bytes;
        }
    }

    pub(super) fn lost(&self, tenant: TenantId) {
        if let Some(mut shelf) = self.tenants.get_mut(&tenant) {
            shelf.counts.lost += 1;
        }
    }

    /// Leaves a buffer in the cache, and evicts what its tenant has too much of there.
    pub(crate) fn keep(&self, buffer: &Buffer) {
        let tenant = buffer.held.tenant;
        if buffer.length() > self.bytes_max {
            return;
        }
        let turn = self.turn(tenant);
        let _turn = turn.lock();
        if let Some(mut shelf) = self.tenants.get_mut(&tenant)
            && self.is_of_this_device(buffer)
        {
            shelf.insert(buffer.clone());
        }
        while self.counts(tenant).bytes > self.bytes_max && self.evict_oldest(tenant) {}
    }

    /// Evicts what its tenant used longest ago, of what nothing uses; `false` if there is nothing.
    pub(super) fn evict_oldest(&self, tenant: TenantId) -> bool {
        let mut from = 0;
        loop {
            let Some(entry) = self.take_idle(tenant, from) else {
                return false;
            };
            from = entry.used + 1;
            if self.evict_taken(tenant, entry) {
                return true;
            }
        }
    }

    /// Evicts this one.
    pub(crate) fn evict(&self, tenant: TenantId, digest: &Digest) -> Eviction {
        let turn = self.turn(tenant);
        let _turn = turn.lock();
        let taken = {
            let Some(mut shelf) = self.tenants.get_mut(&tenant) else {
                return Eviction::Absent;
            };
            let Some(entry) = shelf.by_digest.get(digest) else {
                return Eviction::Absent;
            };
            if !entry.is_idle() {
                return Eviction::InUse;
            }
            shelf.remove(digest)
        };
        let Some(entry) = taken else {
            return Eviction::Absent;
        };
        if self.evict_taken(tenant, entry) {
            Eviction::Evicted
        } else {
            Eviction::InUse
        }
    }

    /// Forgets a tenant that is gone.
    pub(crate) fn clear(&self, tenant: TenantId) {
        // Dropped, and with that freed, once the table is unlocked.
        let shelf = self.tenants.remove(&tenant);
        drop(shelf);
    }

    /// The device was lost, and this is the next one: forgets what every tenant has here, and takes
    /// nothing of an earlier one any more.
    pub(crate) fn succeed(&self, next: &Arc<Device>) {
        // First this: who puts something here looks at it with the tenant's shelf locked, and so
        // either sees it or is seen below.
        *self.successor.write() = Some(Arc::downgrade(next));
        self.forget_all();
    }

    fn is_of_this_device(&self, buffer: &Buffer) -> bool {
        let successor = self.successor.read();
        let device = Arc::as_ptr(&buffer.held.device);
        successor
            .as_ref()
            .is_none_or(|successor| std::ptr::eq(successor.as_ptr(), device))
    }

    /// Forgets what every tenant has here: the memory that it lies in is lost.
    pub(crate) fn forget_all(&self) {
        let all = self.tenants.iter().map(|shelf| *shelf.key());
        for tenant in all.collect::<Vec<_>>() {
            let mut forgotten = Shelf::default();
            if let Some(mut shelf) = self.tenants.get_mut(&tenant) {
                forgotten.by_digest = std::mem::take(&mut shelf.by_digest);
                shelf.by_use.clear();
                (shelf.counts.buffers, shelf.counts.bytes) = (0, 0);
            }
            drop(forgotten);
        }
    }

    /// What a tenant has here, what was used longest ago first.
    #[cfg(test)]
    pub(super) fn in_order(&self, tenant: TenantId) -> Vec<Digest> {
        let shelf = self.tenants.get(&tenant).unwrap();
        shelf.by_use.values().copied().collect()
    }

    /// What a tenant has here.
    pub(crate) fn counts(&self, tenant: TenantId) -> BufferUse {
        self.tenants
            .get(&tenant)
            .map_or_else(BufferUse::default, |shelf| shelf.counts)
    }

    /// Takes the first that no load holds, of those that were used at `from` or later.
    fn take_idle(&self, tenant: TenantId, from: u64) -> Option<Entry> {
        let mut shelf = self.tenants.get_mut(&tenant)?;
        let digest = shelf.by_use.range(from..).find_map(|(_, digest)| {
            let entry = shelf.by_digest.get(digest)?;
            entry.is_idle().then_some(*digest)
        })?;
        shelf.remove(&digest)
    }

    /// Has it leave the device, with no table locked; puts it back if something pins it.
    fn evict_taken(&self, tenant: TenantId, entry: Entry) -> bool {
        let Entry { mut buffer, used } = entry;
        let is_evicted = Arc::get_mut(&mut buffer.held).is_some_and(HeldBuffer::evict);
        // Dropped here, and with it what it counted as given back, if it left.
        let mut back = (!is_evicted).then_some(buffer);
        if let Some(mut shelf) = self.tenants.get_mut(&tenant) {
            shelf.counts.evicted += u64::from(is_evicted);
            back = match back {
                Some(buffer) if self.is_of_this_device(&buffer) => shelf.put_back(buffer, used),
                gone => gone,
            };
        }
        // What has no place here any more is freed with its last pin.
        drop(back);
        is_evicted
    }
}

impl Entry {
    /// Whether nobody else has a handle. The table is locked, and handles are copied from it only
    /// under the same lock.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.buffer.held) == 1
    }
}

impl Shelf {
    fn touch(&mut self, digest: &Digest) -> bool {
        let Some(entry) = self.by_digest.get_mut(digest) else {
            return false;
        };
        self.uses += 1;
        self.by_use.remove(&entry.used);
        entry.used = self.uses;
        self.by_use.insert(self.uses, *digest);
        true
    }

    fn insert(&mut self, buffer: Buffer) {
        if !self.touch(&buffer.digest()) {
            self.uses += 1;
            let used = self.uses;
            let _ = self.put_back(buffer, used);
        }
    }

    /// Gives the buffer back if its content is here already.
    fn put_back(&mut self, buffer: Buffer, used: u64) -> Option<Buffer> {
        let digest = buffer.digest();
        if self.by_digest.contains_key(&digest) {
            return Some(buffer);
        }
        self.counts.buffers += 1;
        self.counts.bytes += buffer.length();
        self.by_use.insert(used, digest);
        self.by_digest.insert(digest, Entry { buffer, used });
        None
    }

    fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let entry = self.by_digest.remove(digest)?;
        self.by_use.remove(&entry.used);
        self.counts.buffers -= 1;
        self.counts.bytes -= entry.buffer.length();
        Some(entry)
    }
}
