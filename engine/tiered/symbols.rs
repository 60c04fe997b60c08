//! Symbols: small named pieces of bytes, put many at a time and read in ranges.
//!
//! A batch is one object: an index of the names, and the bytes of all symbols behind it. So a batch
//! is there whole or not at all, by the one conditional write that makes it; a batch of which a
//! part arrived does not have the digest that it should have, and is cleared away before it is
//! written again. Batches of one symbol name do not meet: each has a name of its own, made of the
//! remote key, and whoever reads says which.

use std::collections::BTreeSet;

use bytes::Bytes;
use object_store::path::Path;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use orlop_saga::key::RemoteKey;
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};

use super::name::{SymbolName, TableName};
use super::object;
use super::pack::Tiered;
use super::places::{Placed, Places};
use super::record;
use crate::computation::{Computation, External, Undo};
use crate::host::{
    Attempt, Found, HostFunction, Late, Reconcile, Reconciled, UndoFunction, Undoing,
};

const MARK: &[u8] = b"orlop symbols 2e84d90b6a1f4c75 v1\n";

/// One symbol on its way in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Its name, unique in the batch.
    pub name: SymbolName,
    /// Its bytes; there may be none.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Symbol {
    /// The bytes are a tenant's, and logs are not.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, bytes } = self;
        write!(f, "Symbol({name}, {} bytes)", bytes.len())
    }
}

/// What is put in one go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolBatch {
    /// What the symbols belong to.
    pub table: TableName,
    /// The symbols. Together with their names at most `limits.input_bytes_max`.
    pub symbols: Vec<Symbol>,
}

/// One batch in the object store: what exactly one put wrote. Meaningful within the tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BatchVersion {
    /// What its symbols belong to.
    pub table: TableName,
    /// What the put is recognised by.
    pub remote_key: RemoteKey,
    /// Which place among those of the put, from 0.
    pub place: u32,
}

/// One symbol where it was put, and what it is known to hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoredSymbol {
    /// Its name.
    pub name: SymbolName,
    /// The batch that it is in.
    pub batch: BatchVersion,
    /// Where its bytes begin in the object of the batch, in bytes.
    pub offset: u64,
    /// How many there are, in bytes.
    pub length: u64,
    /// The BLAKE3 digest of them.
    pub digest: Digest,
}

/// What the index of a batch says of one symbol; its bytes follow those of the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    name: SymbolName,
    length: u64,
    digest: Digest,
}

/// A batch as the content of its object.
struct Packed {
    entries: Vec<Entry>,
    /// Where the bytes of the first symbol begin.
    body_at: u64,
    content: Bytes,
    digest: Digest,
}

impl Packed {
    /// # Errors
    /// [`Failure`]: the batch is none; the item at fault is named.
    fn of(batch: &SymbolBatch) -> Result<Self, Failure> {
        let mut names = BTreeSet::new();
        for (at, symbol) in batch.symbols.iter().enumerate() {
            if !names.insert(&symbol.name) {
                let why = format!("item {at}: symbol {} is in the batch twice", symbol.name);
                return Err(Failure::permanent(why));
            }
        }
        let entries: Vec<Entry> = batch
            .symbols
            .iter()
            .map(|symbol| Entry {
                name: symbol.name.clone(),
                length: symbol.bytes.len() as u64,
                digest: Digest::of(&symbol.bytes),
            })
            .collect();
        let index = record::seal(MARK, &entries, usize::MAX).map_err(Failure::permanent)?;
        let bodies = batch.symbols.iter().map(|symbol| symbol.bytes.as_slice());
        // The reader is told where a symbol is; the index is for who has nothing but the object.
        let index_bytes = (index.len() as u64).to_le_bytes();
        let head: [&[u8]; 2] = [&index_bytes, &index];
        let content: Vec<u8> = head.into_iter().chain(bodies).flatten().copied().collect();
        let content = Bytes::from(content);
        Ok(Self {
            entries,
            body_at: (index_bytes.len() + index.len()) as u64,
            digest: Digest::of(&content),
            content,
        })
    }

    /// Where each symbol is, once the batch has its place.
    fn stored(
        self,
        table: &TableName,
        remote_key: RemoteKey,
        placed: &Placed,
    ) -> Vec<StoredSymbol> {
        let batch = BatchVersion {
            table: table.clone(),
            remote_key,
            place: placed.place,
        };
        let mut offset = self.body_at;
        let entries = self.entries.into_iter();
        entries
            .map(|entry| {
                let at = offset;
                offset += entry.length;
                StoredSymbol {
                    name: entry.name,
                    batch: batch.clone(),
                    offset: at,
                    length: entry.length,
                    digest: entry.digest,
                }
            })
            .collect()
    }
}

impl Tiered {
    /// The name of the object that holds a batch of symbols.
    pub fn batch_path(&self, tenant: TenantId, batch: &BatchVersion) -> Path {
        let BatchVersion {
            table,
            remote_key,
            place,
        } = batch;
        object::named(&self.options().root, tenant, table.as_bytes())
            .join("symbols")
            .join(format!("{remote_key}.{place}"))
    }

    fn batch_places<'a>(
        &'a self,
        tenant: TenantId,
        remote_key: RemoteKey,
        table: &'a TableName,
    ) -> Places<'a, impl Fn(u32) -> Path + Send + Sync + 'a> {
        let path = move |place| {
            let batch = BatchVersion {
                table: table.clone(),
                remote_key,
                place,
            };
            self.batch_path(tenant, &batch)
        };
        Places { pack: self, path }
    }
}

/// Puts a batch of symbols, all of them or none, and reads it back. The output says of every
/// symbol, in the order of the input, where it is; the failure of one item names it and is the
/// failure of all.
#[derive(Clone, Copy, Debug)]
pub struct SymbolPutBatch;

impl Computation for SymbolPutBatch {
    const NAME: &'static str = "symbol_put_batch";
    type Input = SymbolBatch;
    type Output = Vec<StoredSymbol>;
    type Kind = External;
}

impl HostFunction<SymbolPutBatch> for Tiered {
    async fn run(
        &self,
        attempt: Attempt,
        batch: SymbolBatch,
    ) -> Result<Vec<StoredSymbol>, Failure> {
        let packed = Packed::of(&batch)?;
        let (table, key) = (&batch.table, attempt.remote_key);
        let places = self.batch_places(attempt.tenant, key, table);
        let placed = places
            .put_checked(attempt.fence, &packed.content, packed.digest)
            .await?;
        Ok(packed.stored(table, key, &placed))
    }
}

impl Reconcile<SymbolPutBatch> for Tiered {
    /// Fenced, as the put of a segment is.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(
        &self,
        attempt: Attempt,
        batch: SymbolBatch,
    ) -> Reconciled<Vec<StoredSymbol>> {
        let packed = match Packed::of(&batch) {
            Ok(packed) => packed,
            Err(failure) => return Reconciled::Unknown(failure.reason().to_owned()),
        };
        let (table, key) = (&batch.table, attempt.remote_key);
        let places = self.batch_places(attempt.tenant, key, table);
        match places.fence_off(attempt.fence, packed.digest).await {
            Ok(Some(placed)) => Reconciled::Done(packed.stored(table, key, &placed)),
            Ok(None) => Reconciled::NotDone,
            Err(reason) => Reconciled::Unknown(reason),
        }
    }
}

/// Takes a batch of symbols away, all of them, and keeps it from coming back. As an undo it takes
/// away what its put wrote.
#[derive(Clone, Copy, Debug)]
pub struct SymbolDeleteBatch;

impl Computation for SymbolDeleteBatch {
    const NAME: &'static str = "symbol_delete_batch";
    type Input = BatchVersion;
    type Output = ();
    type Kind = External;
}

impl Undo for SymbolDeleteBatch {
    const NAME: &'static str = "symbol_put_batch.undo";
    type Argument = TableName;
    type Step = SymbolPutBatch;
}

impl HostFunction<SymbolDeleteBatch> for Tiered {
    async fn run(&self, attempt: Attempt, batch: BatchVersion) -> Result<(), Failure> {
        self.bury(&self.batch_path(attempt.tenant, &batch)).await
    }
}

impl Reconcile<SymbolDeleteBatch> for Tiered {
    /// By time, as the delete of a segment is.
    fn late(&self) -> Late {
        Late::Settles(self.options().delete_settles)
    }

    async fn reconcile(&self, attempt: Attempt, batch: BatchVersion) -> Reconciled<()> {
        self.is_buried(&self.batch_path(attempt.tenant, &batch))
            .await
    }
}

impl UndoFunction<SymbolDeleteBatch> for Tiered {
    async fn undo(
        &self,
        attempt: Attempt,
        undoing: Undoing<SymbolDeleteBatch>,
    ) -> Result<(), Failure> {
        let places = self.batch_places(attempt.tenant, undoing.step_key, &undoing.argument);
        match &undoing.found {
            Found::Done(stored) => match stored.first() {
                Some(symbol) => {
                    let path = self.batch_path(attempt.tenant, &symbol.batch);
                    self.bury(&path).await
                }
                // A batch of nothing does not say where it is.
                None => places.take_away().await,
            },
            Found::InDoubt => places.take_away().await,
        }
    }
}
