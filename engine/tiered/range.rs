//! Reading a range of a symbol.

use std::ops::Range;

use bytes::Bytes;
use object_store::{Error, GetOptions, GetRange};
use orlop_saga::digest::Digest;
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};

use super::object::{self, ReadError};
use super::pack::Tiered;
use super::symbols::StoredSymbol;
use crate::computation::{Computation, External};
use crate::host::{Attempt, HostFunction, Late, Reconcile, Reconciled};

/// Which bytes of which symbol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SymbolRange {
    /// The symbol.
    pub symbol: StoredSymbol,
    /// From which byte of it on.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

impl SymbolRange {
    /// All of a symbol.
    pub fn all(symbol: StoredSymbol) -> Self {
        let length = symbol.length;
        Self {
            symbol,
            offset: 0,
            length,
        }
    }

    /// # Errors
    /// [`Failure`]: it goes beyond the symbol.
    fn within(&self) -> Result<Range<usize>, Failure> {
        let (offset, length) = (self.offset, self.length);
        let whole = self.symbol.length;
        let range = offset
            .checked_add(length)
            .filter(|end| *end <= whole)
            .and_then(|end| Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?));
        range.ok_or_else(|| {
            let name = &self.symbol.name;
            Failure::permanent(format!(
                "{length} bytes from {offset} are beyond the {whole} bytes of symbol {name}"
            ))
        })
    }
}

/// Reads a range of a symbol, checked against the digest of the symbol. It fails for good if the
/// range goes beyond the symbol, or the symbol is gone or holds anything else than it should.
///
/// The whole symbol is read, and nothing else of its batch: only all of its bytes can be held
/// against the digest, and there are at most `limits.input_bytes_max` of them. A symbol of no
/// bytes is read from its digest alone.
#[derive(Clone, Copy, Debug)]
pub struct SymbolGetRange;

impl Computation for SymbolGetRange {
    const NAME: &'static str = "symbol_get_range";
    type Input = SymbolRange;
    type Output = Vec<u8>;
    type Kind = External;
}

impl HostFunction<SymbolGetRange> for Tiered {
    async fn run(&self, attempt: Attempt, asked: SymbolRange) -> Result<Vec<u8>, Failure> {
        let wanted = asked.within()?;
        let StoredSymbol {
            name,
            batch,
            digest,
            length,
            ..
        } = &asked.symbol;
        let path = self.batch_path(attempt.tenant, batch);
        let gone = || Failure::permanent(format!("symbol {name} is not in the object store"));
        let content = self.symbol_bytes(&path, &asked.symbol).await?;
        let content = content.ok_or_else(gone)?;
        let found = Digest::of(&content);
        if found == *digest && content.len() as u64 == *length {
            return Ok(content.get(wanted).unwrap_or_default().to_vec());
        }
        let inspected = object::inspect(self.store(), &path, self.options().segment_bytes_max);
        match inspected
            .await
            .map_err(|error| object::read_failure(&error))?
        {
            object::Content::Absent | object::Content::Tombstone(_) => Err(gone()),
            object::Content::Bytes { .. } => Err(Failure::permanent(format!(
                "symbol {name} in {path} holds {found}, not {digest}"
            ))),
        }
    }
}

impl Tiered {
    /// The bytes where a symbol should be; `None` if its batch is not there, or shorter.
    async fn symbol_bytes(
        &self,
        path: &object_store::path::Path,
        symbol: &StoredSymbol,
    ) -> Result<Option<Bytes>, Failure> {
        let StoredSymbol { offset, length, .. } = *symbol;
        if length > self.options().segment_bytes_max {
            return Err(Failure::permanent("the symbol is longer than any may be"));
        }
        if length == 0 {
            return Ok(Some(Bytes::new()));
        }
        let range = Some(GetRange::Bounded(offset..offset.saturating_add(length)));
        let options = GetOptions {
            range,
            ..GetOptions::default()
        };
        let read = async { self.store().get_opts(path, options).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            // A tombstone is shorter than what was asked for; what a store says to that differs.
            Err(error) => {
                let length_max = self.options().segment_bytes_max;
                let failure = object::read_failure(&ReadError::Store(error));
                match object::inspect(self.store(), path, length_max).await {
                    Ok(object::Content::Absent | object::Content::Tombstone(_)) => Ok(None),
                    Ok(object::Content::Bytes { .. }) | Err(_) => Err(failure),
                }
            }
        }
    }
}

impl Reconcile<SymbolGetRange> for Tiered {
    /// A read has no effect that could come late.
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, _attempt: Attempt, _asked: SymbolRange) -> Reconciled<Vec<u8>> {
        Reconciled::NotDone
    }
}
