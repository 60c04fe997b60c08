//! Operations: what the megakernel can do, as the host runs it.
//!
//! Invariants
//! - The answer depends on arguments and windows only, never on how tiles were scheduled.
//! - A tile is well under 250 us, so that cancel, stop and fairness are prompt.

pub mod aggregate;
mod blake3;
mod crc32c;
mod error;
mod noop;
pub(crate) mod output;
pub mod topk;

use std::sync::Arc;

use orlop_saga::id::TenantId;
use smallvec::SmallVec;

pub use self::blake3::Blake3;
pub use self::crc32c::Crc32c;
pub use self::error::OpError;
pub use self::noop::Noop;
pub use self::output::Output;
use crate::entry::Opcode;

/// The most bytes of one tile's partial result.
pub const PARTIAL_BYTES_MAX: usize = 64;

/// What an operation may see: its arguments and its windows, nothing else.
#[derive(Clone, Debug)]
pub struct TaskArgs<'a> {
    /// For whom.
    pub tenant: TenantId,
    /// The ordinal of the attempt.
    pub attempt: u32,
    args: &'a [u32],
    windows: SmallVec<[&'a [u8]; 2]>,
}

impl<'a> TaskArgs<'a> {
    /// Arguments outside a device, to run an operation directly.
    pub fn new(tenant: TenantId, attempt: u32, args: &'a [u32], windows: &[&'a [u8]]) -> Self {
        Self {
            tenant,
            attempt,
            args,
            windows: SmallVec::from_slice(windows),
        }
    }

    pub(crate) fn with_windows(
        tenant: TenantId,
        attempt: u32,
        args: &'a [u32],
        windows: SmallVec<[&'a [u8]; 2]>,
    ) -> Self {
        Self {
            tenant,
            attempt,
            args,
            windows,
        }
    }

    /// All argument words.
    pub const fn args(&self) -> &'a [u32] {
        self.args
    }

    /// One argument word.
    ///
    /// # Errors
    /// [`OpError::MISSING_ARGUMENT`]: there are fewer.
    pub fn arg(&self, index: usize) -> Result<u32, OpError> {
        self.args
            .get(index)
            .copied()
            .ok_or(OpError::MISSING_ARGUMENT)
    }

    /// The number of windows.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// The bytes of one window.
    ///
    /// # Errors
    /// [`OpError::MISSING_WINDOW`]: there are fewer.
    pub fn window(&self, index: usize) -> Result<&'a [u8], OpError> {
        self.windows
            .get(index)
            .copied()
            .ok_or(OpError::MISSING_WINDOW)
    }
}

/// What one tile hands to the reduction: up to 64 bytes, no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    bytes: [u8; PARTIAL_BYTES_MAX],
    length: usize,
}

impl Partial {
    /// Nothing.
    pub const EMPTY: Self = Self {
        bytes: [0; PARTIAL_BYTES_MAX],
        length: 0,
    };

    /// These bytes.
    ///
    /// # Errors
    /// [`OpError::PARTIAL_TOO_LONG`]: more than 64.
    pub fn new(bytes: &[u8]) -> Result<Self, OpError> {
        let mut partial = Self::EMPTY;
        let target = partial.bytes.get_mut(..bytes.len());
        target
            .ok_or(OpError::PARTIAL_TOO_LONG)?
            .copy_from_slice(bytes);
        partial.length = bytes.len();
        Ok(partial)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// An operation of the host megakernel.
///
/// `tiles` is asked once; then every tile runs once, on any thread and in any order; then `reduce`
/// runs once, on the thread that finished the last tile. With one tile all of it happens on one
/// thread and without allocation. A panic in any of them ends the task as faulted.
pub trait HostOp: Send + Sync + 'static {
    /// Its opcode: `0x4000_0000` or above.
    fn opcode(&self) -> Opcode;

    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// The only tenant that sees it; `None` is everyone.
    fn owner(&self) -> Option<TenantId> {
        None
    }

    /// Into how many tiles this task is cut; zero runs the reduction alone.
    ///
    /// # Errors
    /// [`OpError`]: the task fails, nothing ran.
    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        let _ = task;
        Ok(1)
    }

    /// Runs one tile, counted from zero.
    ///
    /// # Errors
    /// [`OpError`]: the task fails; tiles not yet started do not start.
    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>) -> Result<Partial, OpError>;

    /// Makes the result of all partials, in tile order.
    ///
    /// # Errors
    /// [`OpError`]: the task fails.
    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        partials: &[Partial],
        out: &mut Output<'_>,
    ) -> Result<(), OpError>;
}

/// Why an operation was not registered. The table is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Another operation has this opcode. Choose another.
    #[error("opcode {opcode:#x} is taken by {by}")]
    Taken {
        /// The opcode.
        opcode: u32,
        /// Whose it is.
        by: &'static str,
    },
    /// Opcodes below `0x4000_0000` are reserved. Choose one above.
    #[error("opcode {opcode:#x} is below the user range")]
    Reserved {
        /// The opcode.
        opcode: u32,
    },
    /// The table is at its bound.
    #[error("{ops_max} operations are registered already")]
    Full {
        /// The bound.
        ops_max: usize,
    },
}

/// The most operations of one device.
pub(crate) const OPS_MAX: usize = 4096;

/// Opcode to operation.
#[derive(Default)]
pub(crate) struct OpTable {
    ops: std::collections::HashMap<u32, Registered>,
}

/// What the table keeps, asked once, so that no foreign code runs in a lookup.
struct Registered {
    op: Arc<dyn HostOp>,
    name: &'static str,
    owner: Option<TenantId>,
}

impl OpTable {
    /// The table of the built-in operations.
    pub(crate) fn built_in() -> Self {
        let mut table = Self::default();
        table.insert(Arc::new(Noop));
        table.insert(Arc::new(Blake3));
        table.insert(Arc::new(Crc32c));
        table
    }

    pub(crate) fn register(&mut self, op: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        let opcode = op.opcode();
        if !opcode.is_user() {
            return Err(RegisterError::Reserved {
                opcode: opcode.get(),
            });
        }
        if let Some(taken) = self.ops.get(&opcode.get()) {
            let by = taken.name;
            return Err(RegisterError::Taken {
                opcode: opcode.get(),
                by,
            });
        }
        if self.ops.len() >= OPS_MAX {
            return Err(RegisterError::Full { ops_max: OPS_MAX });
        }
        self.insert(op);
        Ok(())
    }

    /// The operation, if this tenant sees it.
    pub(crate) fn find(&self, opcode: Opcode, tenant: TenantId) -> Option<&Arc<dyn HostOp>> {
        let found = self.ops.get(&opcode.get())?;
        found
            .owner
            .is_none_or(|owner| owner == tenant)
            .then_some(&found.op)
    }

    fn insert(&mut self, op: Arc<dyn HostOp>) {
        let registered = Registered {
            name: op.name(),
            owner: op.owner(),
            op,
        };
        self.ops.insert(registered.op.opcode().get(), registered);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::memory::Region;

    /// Runs an operation tile by tile in the given order and returns its result.
    pub(crate) fn run(op: &dyn HostOp, task: &TaskArgs<'_>, reverse: bool) -> (u32, Vec<u8>) {
        let tiles = op.tiles(task).unwrap();
        let mut partials = vec![Partial::EMPTY; tiles as usize];
        let order: Vec<u32> = if reverse {
            (0..tiles).rev().collect()
        } else {
            (0..tiles).collect()
        };
        for tile in order {
            partials[tile as usize] = op.run_tile(tile, task).unwrap();
        }
        let region = Region::new(4096).unwrap();
        let mut out = Output::new(&region, 0, 4096);
        op.reduce(task, &partials, &mut out).unwrap();
        (
            tiles,
            out.inline()[..usize::try_from(out.length()).unwrap()].to_vec(),
        )
    }

    pub(crate) fn bytes(length: usize) -> Vec<u8> {
        (0..=250_u8).cycle().take(length).collect()
    }
}
