//! Progress: what whoever drains a tenant wants to know of its work.

use super::{Flight, Phase};

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It will end by itself.
    Moving,
    /// It waits for an operator, or for the store to be opened again.
    Held,
    /// It has ended.
    Over,
}

impl Flight {
    /// Whether it moves, is held or is over.
    pub(crate) fn progress(&self) -> Progress {
        match self.state.lock().phase {
            Phase::Looking
            | Phase::Admitting(_)
            | Phase::Recording(_)
            | Phase::Running
            | Phase::BackingOff
            | Phase::Driven
            | Phase::Settling => Progress::Moving,
            Phase::Stuck(_) | Phase::Broken(_) => Progress::Held,
            Phase::Settled | Phase::Gone => Progress::Over,
        }
    }

    /// It ended or is held: whoever drains its tenant looks again. Called with no lock held.
    pub(crate) fn stir(&self) {
        if let Some(core) = self.core.upgrade() {
            core.tenures.stir(self.id.tenant);
        }
    }
}
