//! Writing: what a tenant may write to the journal, asked beside a request for a permit.

use orlop_saga::amount::ByteCount;
use orlop_saga::time::Monotonic;

use crate::rate::ByteRate;
use crate::refusal::{Dimension, Refusal};
use crate::request::Lane;
use crate::tenant::{Ledger, TenantAccount};

impl Ledger {
    /// Counts bytes that are written at `now`, if the rate allows that.
    fn write(&mut self, bytes: ByteCount, now: Monotonic) -> Result<(), Refusal> {
        let Some(rate) = self.journal(Lane::Ordinary) else {
            return Ok(());
        };
        let (asked, cap) = (bytes.get(), rate.burst());
        if asked > cap {
            let dimension = Dimension::TenantJournalBytes;
            return Err(Refusal::NeverFits {
                dimension,
                asked,
                cap,
            });
        }
        self.write_at(rate, asked, now)
            .map_err(|retry_after| Refusal::RateLimited { retry_after })
    }
}

impl TenantAccount {
    /// The most bytes that it may write to the journal at once; `None`: as many as it likes.
    pub fn journal_burst(&self) -> Option<u64> {
        if !self.is_timed() {
            return None;
        }
        let ledger = self.ledger.lock();
        ledger.journal(Lane::Ordinary).map(ByteRate::burst)
    }

    /// Counts bytes that it writes to the journal at `now`, for work that asks for no permit or has
    /// asked before.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`], [`Refusal::NeverFits`]: nothing is counted.
    pub fn write(&self, bytes: ByteCount, now: Monotonic) -> Result<(), Refusal> {
        if !self.is_timed() {
            return Ok(());
        }
        self.ledger.lock().write(bytes, now)
    }
}
