//! Operations: what the megakernel can do, as the host runs it.
//!
//! Invariants
//! - The answer depends on arguments and windows only, never on how tiles were scheduled.
//! - A tile is well under 250 us, so that cancel, stop and fairness are prompt.

pub mod aggregate;
pub(crate) mod blake3;
pub(crate) mod blake3_many;
pub(crate) mod crc32c;
mod crc32c_pages;
mod error;
mod noop;
pub(crate) mod output;
mod simd;
pub mod topk;
mod view;

use std::sync::Arc;

use orlop_saga::id::TenantId;
use smallvec::SmallVec;

pub use self::aggregate::FilterAggregate;
pub use self::blake3::Blake3;
pub use self::blake3_many::Blake3Many;
pub use self::crc32c::Crc32c;
pub use self::crc32c_pages::Crc32cPages;
pub use self::error::OpError;
pub use self::noop::Noop;
pub use self::output::Output;
pub use self::topk::VectorTopk;
use crate::entry::Opcode;
use crate::opcodes::{InstallError, LocalOpcode, OpcodeWindow, Opcodes};

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

/// Scratch memory of one task, in words of 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Of each tile, while it runs.
    pub tile: usize,
    /// Of the task, from before its first tile to its reduction.
    pub task: usize,
}

impl Scratch {
    /// None.
    pub const NONE: Self = Self { tile: 0, task: 0 };
}

/// The most words of scratch memory, of a tile and of a task: 1 MiB each.
pub const SCRATCH_WORDS_MAX: usize = 1 << 17;

/// An operation of the host megakernel.
///
/// `tiles` is asked once; then every tile runs once, on any thread and in any order, and is merged;
/// then `reduce` runs once, on the thread that finished the last tile. With one tile all of it
/// happens on one thread and without allocation. A panic in any of them ends the task as faulted.
///
/// What a tile gives is a partial of up to 64 bytes. An operation that needs more asks for scratch
/// memory: each tile has some to itself, and `merge` brings what it left there into the task's,
/// one tile at a time and in any order.
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

    /// How much scratch memory the task needs; at most [`SCRATCH_WORDS_MAX`] of either kind.
    ///
    /// # Errors
    /// [`OpError`]: the task fails, nothing ran.
    fn scratch(&self, task: &TaskArgs<'_>) -> Result<Scratch, OpError> {
        let _ = task;
        Ok(Scratch::NONE)
    }

    /// Runs one tile, counted from zero. `own` is the tile's scratch memory; what it holds before
    /// is arbitrary.
    ///
    /// # Errors
    /// [`OpError`]: the task fails; tiles not yet started do not start.
    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>, own: &mut [u64])
    -> Result<Partial, OpError>;

    /// Brings what a tile left in its scratch memory into the task's, which holds zeros before the
    /// first. Called with a lock of the task held, so it must be short. Not called for a task
    /// without scratch memory.
    ///
    /// # Errors
    /// [`OpError`]: the task fails; tiles not yet started do not start.
    fn merge(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &[u64],
        all: &mut [u64],
    ) -> Result<(), OpError> {
        let _ = (tile, task, own, all);
        Ok(())
    }

    /// Makes the result of all partials, in tile order, and of the task's scratch memory.
    ///
    /// # Errors
    /// [`OpError`]: the task fails.
    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        partials: &[Partial],
        all: &mut [u64],
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
    /// The opcode is in the range from which tenants get windows. Choose one below.
    #[error("opcode {opcode:#x} is in the range of tenants' own opcodes")]
    Windowed {
        /// The opcode.
        opcode: u32,
    },
    /// The device is a chip, and the operation has code for host threads only.
    #[error("operation {name} has no code for the device")]
    HostOnly {
        /// The operation.
        name: &'static str,
    },
    /// The table is at its bound.
    #[error("{ops_max} operations are registered already")]
    Full {
        /// The bound.
        ops_max: usize,
    },
    /// Another process runs the operations, and has those that it was started with.
    #[error("the device's process has the operations that it was started with")]
    Elsewhere,
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
        table.insert(Arc::new(Blake3Many));
        table.insert(Arc::new(Crc32cPages));
        table.insert(Arc::new(FilterAggregate));
        table.insert(Arc::new(VectorTopk));
        table
    }

    pub(crate) fn register(&mut self, op: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        let opcode = op.opcode();
        if !opcode.is_user() {
            return Err(RegisterError::Reserved {
                opcode: opcode.get(),
            });
        }
        if Opcodes::reserves(opcode) {
            return Err(RegisterError::Windowed {
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

    /// The same for two tables with the same operations under the same opcodes, told by name.
    #[cfg(target_os = "linux")]
    pub(crate) fn digest(&self) -> u64 {
        let mut ops: Vec<_> = self.ops.iter().map(|(op, found)| (*op, found)).collect();
        ops.sort_unstable_by_key(|(opcode, _)| *opcode);
        let mut hasher = ::blake3::Hasher::new();
        for (opcode, found) in ops {
            hasher.update(&opcode.to_le_bytes());
            hasher.update(&(found.name.len() as u64).to_le_bytes());
            hasher.update(found.name.as_bytes());
        }
        let digest = hasher.finalize();
        let first = digest.as_bytes().first_chunk::<8>();
        first.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The operation, if this tenant sees it.
    pub(crate) fn find(&self, opcode: Opcode, tenant: TenantId) -> Option<&Arc<dyn HostOp>> {
        let found = self.ops.get(&opcode.get())?;
        found
            .owner
            .is_none_or(|owner| owner == tenant)
            .then_some(&found.op)
    }

    /// Whose the operation is, if it is one tenant's.
    pub(crate) fn owner(&self, opcode: Opcode) -> Option<TenantId> {
        self.ops.get(&opcode.get())?.owner
    }

    /// Fills a tenant's window: all of these operations, or none.
    pub(crate) fn install(
        &mut self,
        tenant: TenantId,
        window: OpcodeWindow,
        ops: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<(), InstallError> {
        if ops.len() > OPS_MAX.saturating_sub(self.ops.len()) {
            return Err(InstallError::TableFull { ops_max: OPS_MAX });
        }
        let mut filled = std::collections::BTreeMap::new();
        for (local, op) in ops {
            let registered = Registered {
                name: op.name(),
                owner: Some(tenant),
                op: Arc::clone(op),
            };
            if filled
                .insert(window.global(*local)?.get(), registered)
                .is_some()
            {
                return Err(InstallError::Twice { local: local.get() });
            }
        }
        self.ops.extend(filled);
        Ok(())
    }

    /// Empties windows that are nobody's any more; gives what was in them.
    pub(crate) fn remove(&mut self, windows: &[OpcodeWindow]) -> Vec<Arc<dyn HostOp>> {
        let is_freed = |opcode: u32| {
            let opcode = Opcode::new(opcode);
            windows.iter().any(|window| window.contains(opcode))
        };
        let removed = self.ops.extract_if(|opcode, _| is_freed(*opcode));
        removed.map(|(_, registered)| registered.op).collect()
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

    /// Runs an operation tile by tile, first to last or last to first, and returns its result.
    pub(crate) fn run(op: &dyn HostOp, task: &TaskArgs<'_>, reverse: bool) -> (u32, Vec<u8>) {
        let tiles = op.tiles(task).unwrap();
        let mut order: Vec<u32> = (0..tiles).collect();
        if reverse {
            order.reverse();
        }
        (tiles, in_order(op, task, &order).unwrap())
    }

    /// What an operation answers to a task that it may refuse.
    pub(crate) fn answer(op: &dyn HostOp, task: &TaskArgs<'_>) -> Result<Vec<u8>, OpError> {
        let order: Vec<u32> = (0..op.tiles(task)?).collect();
        in_order(op, task, &order)
    }

    /// Runs the tiles in this order, each in scratch memory that holds what others left.
    pub(crate) fn in_order(
        op: &dyn HostOp,
        task: &TaskArgs<'_>,
        order: &[u32],
    ) -> Result<Vec<u8>, OpError> {
        let scratch = op.scratch(task)?;
        assert!(scratch.tile.max(scratch.task) <= SCRATCH_WORDS_MAX);
        let mut partials = vec![Partial::EMPTY; order.len()];
        let mut all = vec![0; scratch.task];
        let mut own = vec![0xdead_beef_dead_beef; scratch.tile];
        for tile in order {
            partials[*tile as usize] = op.run_tile(*tile, task, &mut own)?;
            op.merge(*tile, task, &own, &mut all)?;
        }
        result(op, task, &partials, &mut all)
    }

    pub(crate) fn result(
        op: &dyn HostOp,
        task: &TaskArgs<'_>,
        partials: &[Partial],
        all: &mut [u64],
    ) -> Result<Vec<u8>, OpError> {
        let capacity = u64::from(crate::layout::RESULT_BYTES_MAX);
        let region = Region::new(capacity).unwrap();
        let mut out = Output::new(&region, 0, capacity);
        op.reduce(task, partials, all, &mut out)?;
        Ok(out.to_vec())
    }

    /// Bytes that begin at a multiple of eight.
    pub(crate) struct Aligned {
        words: Vec<u64>,
        length: usize,
    }

    impl Aligned {
        pub(crate) fn of(bytes: &[u8]) -> Self {
            let mut words = vec![0; bytes.len().div_ceil(8)];
            let memory = bytemuck::cast_slice_mut::<u64, u8>(&mut words);
            memory[..bytes.len()].copy_from_slice(bytes);
            let length = bytes.len();
            Self { words, length }
        }

        pub(crate) fn bytes(&self) -> &[u8] {
            &bytemuck::cast_slice(&self.words)[..self.length]
        }
    }

    /// Numbers that look random and are always the same.
    pub(crate) fn random(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }
    }

    /// All tiles of a task in an order that looks random.
    pub(crate) fn shuffled(tiles: u32, seed: u64) -> Vec<u32> {
        let mut random = random(seed);
        let mut order: Vec<(u64, u32)> = (0..tiles).map(|tile| (random(), tile)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, tile)| tile).collect()
    }

    pub(crate) fn bytes(length: usize) -> Vec<u8> {
        (0..=250_u8).cycle().take(length).collect()
    }
}
