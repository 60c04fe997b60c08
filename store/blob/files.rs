//! The files of blobs: their names, how they are written, read and found again.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use orlop_saga::blob::BlobRef;
use orlop_saga::canonical::Payload;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;

use super::{BlobError, Ledger};
use crate::checkpoint::read_file;
use crate::disk::Disk;

const FOLDER: &str = "blobs";
const NEW: &str = ".new";

/// Where a blob of a tenant is, in the folder of a store.
pub fn blob_path(store: &Path, tenant: TenantId, digest: Digest) -> PathBuf {
    tenant_path(store, tenant).join(digest.to_string())
}

fn tenant_path(store: &Path, tenant: TenantId) -> PathBuf {
    store.join(FOLDER).join(format!("{:016x}", tenant.to_u64()))
}

/// The bytes of a blob, verified by its digest.
///
/// # Errors
/// [`BlobError`]: nothing may be concluded about them.
pub fn read_blob(
    disk: &dyn Disk,
    store: &Path,
    tenant: TenantId,
    blob: BlobRef,
) -> Result<Payload, BlobError> {
    let file = blob_path(store, tenant, blob.digest);
    let damaged = |file: PathBuf, reason: String| BlobError::Damaged { blob, file, reason };
    let bytes = match read_file(disk, &file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(file, "it is missing".into()));
        }
        Err(source) => {
            return Err(BlobError::Io {
                operation: "read",
                file,
                source,
            });
        }
    };
    if bytes.len() as u64 != blob.bytes {
        return Err(damaged(file, format!("it has {} bytes", bytes.len())));
    }
    let payload = Payload::new(bytes);
    if Digest::of(payload.as_bytes()) == blob.digest {
        Ok(payload)
    } else {
        Err(damaged(file, "it has other bytes".into()))
    }
}

/// Writes and removes blobs; owned by one thread.
#[derive(Debug)]
pub(super) struct Files {
    store: PathBuf,
    /// Folders known to be there, durably.
    folders: HashSet<PathBuf>,
}

impl Files {
    pub(super) fn new(store: PathBuf) -> Self {
        Self {
            store,
            folders: HashSet::new(),
        }
    }

    /// The folder of the store.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// Writes the bytes and syncs them under their name; the name is durable only once
    /// [`sync`](Self::sync) says so.
    pub(super) fn write(
        &mut self,
        disk: &dyn Disk,
        tenant: TenantId,
        digest: Digest,
        bytes: &[u8],
    ) -> io::Result<()> {
        let store = self.store.clone();
        self.folder(disk, &store, &store.join(FOLDER))?;
        let dir = tenant_path(&store, tenant);
        self.folder(disk, &store.join(FOLDER), &dir)?;
        let name = blob_path(&store, tenant, digest);
        let new = dir.join(format!("{digest}{NEW}"));
        if disk.exists(&new)? {
            disk.remove(&new)?;
        }
        let file = disk.create(&new)?;
        let written = file
            .write_all_at(0, bytes)
            .and_then(|()| file.sync_data())
            .and_then(|()| disk.rename(&new, &name));
        if written.is_err() {
            // What it took is given back; if that fails, the next open sweeps it.
            let _ = disk.remove(&new);
        }
        written
    }

    fn folder(&mut self, disk: &dyn Disk, parent: &Path, dir: &Path) -> io::Result<()> {
        if self.folders.contains(dir) {
            return Ok(());
        }
        if !disk.exists(dir)? {
            disk.create_dir(dir)?;
        }
        // It may be left from a process that died before its sync.
        disk.sync_dir(parent)?;
        self.folders.insert(dir.to_path_buf());
        Ok(())
    }

    /// Makes the names of a tenant's blobs durable.
    pub(super) fn sync(&self, disk: &dyn Disk, tenant: TenantId) -> io::Result<()> {
        disk.sync_dir(&tenant_path(&self.store, tenant))
    }

    /// Removes a blob; one that is gone already is no error.
    pub(super) fn remove(
        &self,
        disk: &dyn Disk,
        tenant: TenantId,
        digest: Digest,
    ) -> io::Result<()> {
        match disk.remove(&blob_path(&self.store, tenant, digest)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Removes every file among the blobs that `ledger` does not know: what a crash left before the
/// record that would have named it. Answers how many there were.
pub(crate) fn sweep_leftovers(
    disk: &dyn Disk,
    store: &Path,
    ledger: &Ledger,
) -> Result<u64, BlobError> {
    let root = store.join(FOLDER);
    let failed = |operation, file: &Path| {
        let file = file.to_path_buf();
        move |source| BlobError::Io {
            operation,
            file,
            source,
        }
    };
    if !disk.exists(&root).map_err(failed("look", &root))? {
        return Ok(0);
    }
    let mut swept = 0;
    for dir in disk.list(&root).map_err(failed("list", &root))? {
        let Some(tenant) = tenant_of(&dir) else {
            continue;
        };
        let mut removed = false;
        for file in disk.list(&dir).map_err(failed("list", &dir))? {
            let known = digest_of(&file).is_some_and(|digest| ledger.has(tenant, digest));
            if !known {
                disk.remove(&file).map_err(failed("remove", &file))?;
                removed = true;
                swept += 1;
            }
        }
        if removed {
            disk.sync_dir(&dir).map_err(failed("sync", &dir))?;
        }
    }
    Ok(swept)
}

fn tenant_of(dir: &Path) -> Option<TenantId> {
    let raw = u64::from_str_radix(dir.file_name()?.to_str()?, 16).ok()?;
    let (slot, generation) = (raw & u64::from(u32::MAX), raw >> 32);
    let tenant = TenantId::new(u32::try_from(slot).ok()?, u32::try_from(generation).ok()?);
    Some(tenant)
}

fn digest_of(file: &Path) -> Option<Digest> {
    let name = file.file_name()?.to_str()?;
    let mut raw = [0_u8; 32];
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    for (index, byte) in raw.iter_mut().enumerate() {
        *byte = u8::from_str_radix(name.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(Digest::new(raw))
}
