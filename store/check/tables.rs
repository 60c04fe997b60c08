//! Checking the tables, on a copy: opening sled writes.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use orlop_saga::id::{Lsn, StoreId};

use super::Check;
use crate::blob::read_blob;
use crate::projection::{self, BLOBS, EXPIRIES, OUTCOMES, SAGAS, TENANTS};
use crate::tables::sled::current_tree;
use crate::tables::{SledOptions, SledTables, Tables};

pub(super) const OF_TABLES: &str =
    "open the store: they are rebuilt from the newest export and the journal";
const OF_BLOB: &str = "restore the file from a backup";
/// Rows that are looked at together.
const SLICE_ROWS: usize = 256;

/// A copy of the tables that are current.
pub(super) struct CopiedTables {
    pub(super) tree: SledTables,
    /// The original.
    pub(super) file: PathBuf,
    _copy: Copied,
}

/// Removes the copy at the end.
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a copy of tables is left");
        }
    }
}

type Row = (Vec<u8>, Vec<u8>);

impl Check<'_> {
    /// Copies the current tables, opens them there and looks at every row.
    pub(super) fn tables(
        &mut self,
        store: StoreId,
        checkpointed: Option<Lsn>,
        last: Option<Lsn>,
    ) -> Option<CopiedTables> {
        let folder = self.tables_folder();
        let file = match current_tree(&folder) {
            Ok(file) => file,
            Err(error) => {
                self.find(folder, None, error.to_string(), OF_TABLES);
                return None;
            }
        };
        let name = format!("orlop-check-{:016x}", fastrand::u64(..));
        let copy = Copied(self.options.scratch.join(name));
        if let Err(error) = copy_folder(&file, &copy.0) {
            self.find(
                file,
                None,
                format!("it cannot be copied: {error}"),
                OF_TABLES,
            );
            return None;
        }
        let opened = SledTables::open(&copy.0, SledOptions::default(), store);
        let mut tree = match opened {
            Ok(tree) => tree,
            Err(error) => {
                self.find(file, None, error.to_string(), OF_TABLES);
                return None;
            }
        };
        let applied = tree.applied();
        if checkpointed.is_some_and(|lsn| applied < lsn) {
            let what = format!("they stand at {applied}, behind the checkpoint");
            self.find(file.clone(), None, what, OF_TABLES);
        }
        if last.is_some_and(|last| applied > last) {
            let what = format!("they stand at {applied}, beyond the journal");
            self.find(file.clone(), None, what, super::OF_JOURNAL);
        }
        self.rows(&mut tree, &file);
        Some(CopiedTables {
            tree,
            file,
            _copy: copy,
        })
    }

    fn rows(&mut self, tree: &mut SledTables, file: &Path) {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let mut rows: Vec<Row> = Vec::new();
            let scanned = tree.scan(&[], after.as_deref(), &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                if rows.len() < SLICE_ROWS {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            if let Err(error) = scanned {
                self.find(file, None, error.to_string(), OF_TABLES);
                return;
            }
            let Some((last, _)) = rows.last() else {
                return;
            };
            after = Some(last.clone());
            for (key, value) in rows {
                self.report.rows += 1;
                if let Err(what) = self.row(tree, &key, &value) {
                    self.find(file, None, what, OF_TABLES);
                }
            }
        }
    }

    /// Whether a row is understood, and has the others that belong to it.
    fn row(&mut self, tree: &mut SledTables, key: &[u8], value: &[u8]) -> Result<(), String> {
        let text = |error: projection::RowError| error.to_string();
        match key.first() {
            Some(&OUTCOMES) => {
                let id = projection::outcome_id(key).ok_or("a key of another length")?;
                let settlement = projection::decode_outcome(value).map_err(text)?;
                let place = projection::expiry_key(settlement.expires_at, id);
                match tree.get(&place) {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => Err("an outcome has no place in the retention index".into()),
                    Err(error) => Err(error.to_string()),
                }
            }
            Some(&SAGAS) => projection::decode_saga(value).map(drop).map_err(text),
            Some(&TENANTS) => projection::decode_tenant(value).map(drop).map_err(text),
            Some(&EXPIRIES) => {
                projection::expiry_id(key).ok_or("a key of another length")?;
                projection::decode_expiry(value).map(drop).map_err(text)
            }
            Some(&BLOBS) => {
                let (tenant, blob) = projection::decode_blob(key, value).map_err(text)?;
                match read_blob(self.disk, self.path, tenant, blob) {
                    Ok(_) => self.report.blobs += 1,
                    Err(error) => {
                        let name = crate::blob::blob_path(self.path, tenant, blob.digest);
                        self.find(name, None, error.to_string(), OF_BLOB);
                    }
                }
                Ok(())
            }
            Some(&projection::DEAD_BLOBS) => projection::decode_dead_blob(key, value)
                .map(drop)
                .map_err(text),
            Some(_) | None => Err("a row of no known kind".into()),
        }
    }
}

fn copy_folder(from: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir(into)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = into.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
