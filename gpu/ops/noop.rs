//! `noop`: does nothing; measures the way there and back.

use super::{HostOp, OpError, Output, Partial, TaskArgs};
use crate::entry::Opcode;

/// One tile, no result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noop;

impl Noop {
    /// Its opcode.
    pub const OPCODE: Opcode = Opcode::new(1);
}

impl HostOp for Noop {
    fn opcode(&self) -> Opcode {
        Self::OPCODE
    }

    fn name(&self) -> &'static str {
        "noop"
    }

    fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        Ok(Partial::EMPTY)
    }

    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        _: &mut Output<'_>,
    ) -> Result<(), OpError> {
        Ok(())
    }
}
