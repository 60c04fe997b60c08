//! The local copies: a file per segment, called by the digest of the segment's name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use orlop::tiered::{LocalSegments, SegmentName};
use orlop::{BufferSource, Digest, TenantId};

use crate::plan::Planned;

/// The file of a segment. The plan gives no name to two tenants.
pub(crate) fn file(folder: &Path, name: &SegmentName) -> PathBuf {
    folder.join(Digest::of(name.as_bytes()).to_string())
}

/// See the module.
pub(crate) struct LocalFolder(pub(crate) PathBuf);

impl LocalFolder {
    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl LocalSegments for LocalFolder {
    fn read(&self, _tenant: TenantId, name: &SegmentName) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(file(&self.0, name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn restore(&self, _tenant: TenantId, name: &SegmentName, content: &[u8]) -> io::Result<()> {
        let path = file(&self.0, name);
        let fresh = path.with_extension("new");
        let mut writing = File::create(&fresh)?;
        writing.write_all(content)?;
        writing.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        self.sync()
    }

    fn remove(&self, _tenant: TenantId, name: &SegmentName) -> io::Result<()> {
        match std::fs::remove_file(file(&self.0, name)) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.sync(),
            Err(error) => Err(error),
        }
    }
}

/// Where the device finds the bytes of a buffer again after a restart.
pub(crate) struct LocalBuffers {
    folder: PathBuf,
    by_digest: HashMap<Digest, Vec<SegmentName>>,
}

impl LocalBuffers {
    pub(crate) fn new(folder: &Path, segments: &[Planned]) -> Self {
        let mut by_digest: HashMap<Digest, Vec<SegmentName>> = HashMap::new();
        for segment in segments {
            let names = by_digest.entry(segment.digest).or_default();
            names.push(segment.name.clone());
        }
        Self {
            folder: folder.to_owned(),
            by_digest,
        }
    }
}

impl BufferSource for LocalBuffers {
    fn load(&self, _tenant: TenantId, digest: &Digest) -> Option<Vec<u8>> {
        let names = self.by_digest.get(digest)?;
        names
            .iter()
            .find_map(|name| std::fs::read(file(&self.folder, name)).ok())
    }
}
