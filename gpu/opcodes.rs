//! Opcode windows: ranges of opcodes that one life of a tenant has to itself.
//!
//! A tenant counts its opcodes from zero. What stands on the ring is the opcode of the device: it
//! is translated where the operation is published, and refused where it is out of the window.
//!
//! Invariants
//! - Windows do not overlap, and no operation outside of them has an opcode in their range.
//! - A life of a tenant has at most one window, and no other life is served through it.
//! - The opcodes of a window are given again only when its life has left the device and nothing
//!   that was translated through it is in flight.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use orlop_saga::id::TenantId;

use crate::entry::Opcode;

/// The first opcode of the first window.
const WINDOWS_FIRST: u32 = 0x8000_0000;
/// How many opcodes all windows have together.
pub const WINDOWED_OPCODES_MAX: u32 = 1 << 16;

/// An opcode as its tenant counts it: from zero, within the tenant's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalOpcode(u32);

impl LocalOpcode {
    /// The opcode of this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A range of opcodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpcodeWindow {
    first: Opcode,
    count: u32,
}

impl OpcodeWindow {
    /// The opcode that is number zero in it, as the device knows it.
    pub const fn first(self) -> Opcode {
        self.first
    }

    /// How many opcodes it has.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Whether the device's opcode lies in it.
    pub const fn contains(self, opcode: Opcode) -> bool {
        opcode.get().wrapping_sub(self.first.get()) < self.count
    }

    /// The opcode as the device knows it.
    ///
    /// # Errors
    /// [`TranslateError::OutOfRange`].
    pub fn global(self, local: LocalOpcode) -> Result<Opcode, TranslateError> {
        let (asked, count) = (local.0, self.count);
        let global = self.first.get().checked_add(asked);
        global
            .filter(|_| asked < count)
            .map(Opcode::new)
            .ok_or(TranslateError::OutOfRange { asked, count })
    }
}

/// Why an opcode of a tenant's own names nothing on the device. Nothing was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TranslateError {
    /// The window has fewer opcodes. Ask for one below `count`.
    #[error("local opcode {asked} is out of range, the window has {count}")]
    OutOfRange {
        /// Which was asked for, counted from zero.
        asked: u32,
        /// How many there are.
        count: u32,
    },
    /// This life of the tenant has no window, or has left the device.
    #[error("tenant {tenant} has no opcodes of its own")]
    NoWindow {
        /// Which life.
        tenant: TenantId,
    },
}

/// Why a tenant got no window. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// This life has a window already. Use that.
    #[error("tenant {tenant} has a window of {count} opcodes already")]
    Given {
        /// Which life.
        tenant: TenantId,
        /// How many opcodes it has.
        count: u32,
    },
    /// A window has at least one opcode.
    #[error("a window of no opcodes was asked for")]
    Empty,
    /// Another process runs the operations, and tenants have none of their own there. Run the
    /// device in this process, or make the operation everybody's.
    #[error("operations of a tenant's own run in this process only")]
    Elsewhere,
    /// No gap between windows is as long. Ask for less, or wait until windows of lives that have
    /// left are free.
    #[error("{asked} opcodes were asked for, the longest gap has {longest}")]
    Full {
        /// How many were asked for.
        asked: u32,
        /// How many could be given.
        longest: u32,
    },
    /// An operation lies outside of the window that was asked for.
    #[error(transparent)]
    Range(#[from] TranslateError),
    /// Two operations have one opcode. Choose another for one of them.
    #[error("two operations have local opcode {local}")]
    Twice {
        /// The opcode, counted from zero.
        local: u32,
    },
    /// The device is a chip, and an operation has code for host threads only.
    #[error("operation {name} has no code for the device")]
    HostOnly {
        /// The operation.
        name: &'static str,
    },
    /// The device's table has no room for as many operations.
    #[error("the device holds {ops_max} operations at most")]
    TableFull {
        /// The bound.
        ops_max: usize,
    },
}

#[derive(Debug)]
struct Given {
    tenant: TenantId,
    window: OpcodeWindow,
}

/// An opcode of the device that stays its tenant's for as long as this lives: to be kept until the
/// operation is over.
#[derive(Debug)]
pub struct PinnedOpcode {
    opcode: Opcode,
    _given: Arc<Given>,
}

impl PinnedOpcode {
    /// The opcode, as the device knows it.
    pub const fn get(&self) -> Opcode {
        self.opcode
    }
}

/// Who has which window.
#[derive(Debug)]
pub(crate) struct Opcodes {
    /// How many opcodes there are.
    capacity: u32,
    /// Windows by their first opcode, counted from the first of all; also of lives that have left.
    given: BTreeMap<u32, Arc<Given>>,
    /// Where the window of each life is that has not left.
    places: HashMap<TenantId, u32>,
}

impl Default for Opcodes {
    fn default() -> Self {
        Self::new(WINDOWED_OPCODES_MAX)
    }
}

impl Opcodes {
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            capacity,
            given: BTreeMap::new(),
            places: HashMap::new(),
        }
    }

    /// Whether an opcode is in the range of windows, given or not.
    pub(crate) const fn reserves(opcode: Opcode) -> bool {
        opcode.get().wrapping_sub(WINDOWS_FIRST) < WINDOWED_OPCODES_MAX
    }

    /// Gives a life a window: the first gap that is long enough.
    pub(crate) fn give(
        &mut self,
        tenant: TenantId,
        count: u32,
    ) -> Result<OpcodeWindow, InstallError> {
        if count == 0 {
            return Err(InstallError::Empty);
        }
        if let Some(window) = self.window(tenant) {
            let count = window.count;
            return Err(InstallError::Given { tenant, count });
        }
        let place = self.gap(count)?;
        let window = OpcodeWindow {
            first: Opcode::new(WINDOWS_FIRST + place),
            count,
        };
        self.given.insert(place, Arc::new(Given { tenant, window }));
        self.places.insert(tenant, place);
        Ok(window)
    }

    fn gap(&self, count: u32) -> Result<u32, InstallError> {
        let (mut begin, mut longest) = (0, 0);
        let ends = self.given.iter().map(|(at, given)| (*at, given.window));
        let end = (
            self.capacity,
            OpcodeWindow {
                first: Opcode::PAD,
                count: 0,
            },
        );
        for (at, window) in ends.chain([end]) {
            let length = at - begin;
            if length >= count {
                return Ok(begin);
            }
            longest = longest.max(length);
            begin = at + window.count;
        }
        let asked = count;
        Err(InstallError::Full { asked, longest })
    }

    /// The window of a life that has not left.
    pub(crate) fn window(&self, tenant: TenantId) -> Option<OpcodeWindow> {
        let place = self.places.get(&tenant)?;
        self.given.get(place).map(|given| given.window)
    }

    /// The device's opcode for a tenant's own.
    pub(crate) fn translate(
        &self,
        tenant: TenantId,
        local: LocalOpcode,
    ) -> Result<PinnedOpcode, TranslateError> {
        let place = self.places.get(&tenant);
        let given = place.and_then(|place| self.given.get(place));
        let given = given.ok_or(TranslateError::NoWindow { tenant })?;
        Ok(PinnedOpcode {
            opcode: given.window.global(local)?,
            _given: Arc::clone(given),
        })
    }

    /// This life is served no longer.
    pub(crate) fn leave(&mut self, tenant: TenantId) {
        self.places.remove(&tenant);
    }

    /// Undoes a giving from which nothing was translated.
    pub(crate) fn take_back(&mut self, tenant: TenantId) {
        if let Some(place) = self.places.remove(&tenant) {
            self.given.remove(&place);
        }
    }

    /// The slot of this life is its own now: other lives of it are served no longer.
    pub(crate) fn succeed(&mut self, tenant: TenantId) {
        self.places
            .retain(|other, _| other.slot() != tenant.slot() || *other == tenant);
    }

    /// Takes back the windows of lives that have left and have nothing in flight.
    pub(crate) fn reclaim(&mut self) -> Vec<OpcodeWindow> {
        let places = &self.places;
        let mut free = Vec::new();
        self.given.retain(|place, given| {
            // Whoever could pin it anew has to find it among the places, under the same lock.
            let is_free = places.get(&given.tenant) != Some(place) && Arc::strong_count(given) == 1;
            if is_free {
                free.push(given.window);
            }
            !is_free
        });
        free
    }
}

#[cfg(test)]
mod tests;
