//! The ledger: which blobs there are, and what keeps each of them. In memory only.

use std::collections::HashMap;

use orlop_saga::blob::BlobRef;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use parking_lot::Mutex;

/// One file.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    bytes: u64,
    /// Rows that name it.
    rows: u64,
    /// Records on their way to the tables that name it.
    pins: u64,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<(TenantId, Digest), Entry>,
    tenants: HashMap<TenantId, u64>,
    holds: u64,
    /// Files whose record was not appended, and that nothing else named then.
    orphans: Vec<(TenantId, BlobRef)>,
}

/// See the module. Every file there is has an entry: a blob with one need not be written again.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<State>);

impl State {
    fn entry(&mut self, tenant: TenantId, blob: BlobRef) -> &mut Entry {
        let entry = self.files.entry((tenant, blob.digest));
        if let std::collections::hash_map::Entry::Vacant(_) = &entry {
            let bytes = self.tenants.entry(tenant).or_default();
            *bytes = bytes.saturating_add(blob.bytes);
        }
        let entry = entry.or_default();
        entry.bytes = blob.bytes;
        entry
    }
}

impl Ledger {
    /// A row that names a blob was found at open.
    pub(crate) fn found(&self, tenant: TenantId, blob: BlobRef) {
        let mut state = self.0.lock();
        let entry = state.entry(tenant, blob);
        entry.rows = entry.rows.saturating_add(1);
    }

    /// A blob was found at open that only waits to be unlinked.
    pub(crate) fn found_dead(&self, tenant: TenantId, blob: BlobRef) {
        self.0.lock().entry(tenant, blob);
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, tenant: TenantId, digest: Digest) -> bool {
        self.0.lock().files.contains_key(&(tenant, digest))
    }

    /// A file is there, whole, for a record on its way.
    pub(crate) fn written(&self, tenant: TenantId, blob: BlobRef) {
        let mut state = self.0.lock();
        let entry = state.entry(tenant, blob);
        entry.pins = entry.pins.saturating_add(1);
    }

    /// The record that was on its way is a row now.
    pub(crate) fn landed(&self, tenant: TenantId, blob: BlobRef) {
        let mut state = self.0.lock();
        let entry = state.entry(tenant, blob);
        entry.rows = entry.rows.saturating_add(1);
        entry.pins = entry.pins.saturating_sub(1);
    }

    /// The record that was on its way was not appended.
    pub(crate) fn unpin(&self, tenant: TenantId, blob: BlobRef) {
        let mut state = self.0.lock();
        let entry = state.files.get_mut(&(tenant, blob.digest));
        let orphaned = entry.is_some_and(|entry| {
            entry.pins = entry.pins.saturating_sub(1);
            entry.pins == 0 && entry.rows == 0
        });
        if orphaned {
            state.orphans.push((tenant, blob));
        }
    }

    /// They are still there, and are taken again.
    pub(crate) fn put_back_orphans(&self, orphans: Vec<(TenantId, BlobRef)>) {
        self.0.lock().orphans.extend(orphans);
    }

    /// Files whose record was not appended. Something may name one again.
    pub(crate) fn take_orphans(&self) -> Vec<(TenantId, BlobRef)> {
        std::mem::take(&mut self.0.lock().orphans)
    }

    /// A row that names it is removed; true if it was the last.
    pub(crate) fn removed(&self, tenant: TenantId, digest: Digest) -> bool {
        let mut state = self.0.lock();
        let entry = state.files.get_mut(&(tenant, digest));
        entry.is_some_and(|entry| {
            entry.rows = entry.rows.saturating_sub(1);
            entry.rows == 0
        })
    }

    /// Whether nothing keeps the file. The caller is the one thread that adds pins.
    pub(crate) fn is_unnamed(&self, tenant: TenantId, digest: Digest) -> bool {
        let state = self.0.lock();
        let entry = state.files.get(&(tenant, digest));
        entry.is_none_or(|entry| entry.rows == 0 && entry.pins == 0)
    }

    /// Whether there is such a file and nothing keeps it.
    pub(crate) fn is_orphan(&self, tenant: TenantId, digest: Digest) -> bool {
        self.has(tenant, digest) && self.is_unnamed(tenant, digest)
    }

    /// The file is gone.
    pub(crate) fn unlinked(&self, tenant: TenantId, digest: Digest) {
        let mut state = self.0.lock();
        let Some(entry) = state.files.remove(&(tenant, digest)) else {
            return;
        };
        let left = state.tenants.get_mut(&tenant).map(|bytes| {
            *bytes = bytes.saturating_sub(entry.bytes);
            *bytes
        });
        if left == Some(0) {
            state.tenants.remove(&tenant);
        }
    }

    /// Bytes of one tenant's blobs.
    pub(crate) fn bytes_of(&self, tenant: TenantId) -> u64 {
        let state = self.0.lock();
        state.tenants.get(&tenant).copied().unwrap_or_default()
    }

    /// Nothing is unlinked until [`let_go`](Self::let_go).
    pub(crate) fn hold(&self) {
        let mut state = self.0.lock();
        state.holds = state.holds.saturating_add(1);
    }

    pub(crate) fn let_go(&self) {
        let mut state = self.0.lock();
        state.holds = state.holds.saturating_sub(1);
    }

    /// Whether somebody copies the store.
    pub(crate) fn is_held(&self) -> bool {
        self.0.lock().holds > 0
    }
}
