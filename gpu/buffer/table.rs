//! The table: which slot and which bytes of the arena belong to which life of which buffer.
//!
//! Pure accounting under one short lock; no bytes are touched and no order is given here.
//!
//! Invariants
//! - Free slots + live slots = all slots; free bytes + live bytes = the arena, of each memory
//!   class. Both are counted where they change, so neither can underflow.
//! - A slot's generation changes when the slot is recycled, before it can be taken again.
//! - A digest names at most one buffer of a tenant, and only one that may still be read.

use std::collections::{HashMap, VecDeque};

use offset_allocator::{Allocation, Allocator};
use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;

use super::error::{AccessError, CreateError, FreeError, Stale};
use super::{BufferId, Evicted, Freed, Header, MemoryClass};

/// Granularity of the arena: a cache line pair, so that neighbours never share one.
pub(crate) const UNIT_BYTES: u64 = 256;
/// The most units the sub-allocator can be asked for without overflow in its size classes.
pub(crate) const UNITS_MAX: u64 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Writing,
    Sealed(Digest),
    /// Transient: leaves with its only guard.
    Staged,
    /// Freed while pinned: leaves with its last pin.
    Condemned,
    /// Nobody can reach it; the device is being told.
    Leaving,
}

struct Life {
    tenant: TenantId,
    arena: usize,
    offset: u64,
    length: u64,
    units: u32,
    allocation: Allocation,
    phase: Phase,
    pins: u64,
    shares: u64,
}

impl Life {
    const fn is_gone(&self) -> bool {
        match self.phase {
            Phase::Condemned | Phase::Leaving => true,
            Phase::Writing | Phase::Sealed(_) | Phase::Staged => false,
        }
    }
}

struct SlotState {
    generation: u32,
    life: Option<Life>,
}

/// The bytes of one memory class: a part of the arena that windows are told in.
struct Arena {
    class: MemoryClass,
    /// Its first unit.
    first: u32,
    allocator: Allocator,
    units: u32,
    units_free: u32,
}

impl Arena {
    fn allocate(&mut self, length: u64) -> Result<(u32, Allocation), CreateError> {
        let units = length.div_ceil(UNIT_BYTES).max(1);
        let fitting = u32::try_from(units)
            .ok()
            .filter(|units| *units <= self.units_free);
        if let Some(units) = fitting
            && let Some(allocation) = self.allocator.allocate(units)
        {
            return Ok((units, allocation));
        }
        let largest = self.allocator.storage_report().largest_free_region;
        Err(CreateError::OutOfMemory {
            asked: ByteCount::new(length),
            largest_free: ByteCount::new(u64::from(largest) * UNIT_BYTES),
            total_free: ByteCount::new(u64::from(self.units_free) * UNIT_BYTES),
        })
    }
}

pub(super) struct Table {
    slots: Vec<SlotState>,
    free: VecDeque<u32>,
    arenas: Vec<Arena>,
    digests: HashMap<(TenantId, Digest), u32>,
}

/// The place of a buffer in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The caller must unmap the buffer and then call [`Table::depart`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Departure(pub(super) BufferId);

impl Table {
    /// `classes` lie in the arena one after the other, each so many units long.
    pub(super) fn new(slots: u32, classes: &[(MemoryClass, u32)]) -> Self {
        // Each live allocation may leave one free neighbour; one more for the rest of the arena,
        // and the allocator keeps some nodes back.
        let nodes = slots.saturating_mul(2).saturating_add(8);
        let slot = |_| SlotState {
            generation: 1,
            life: None,
        };
        let mut end = 0_u32;
        let arenas = classes.iter().map(|&(class, units)| {
            let first = end;
            end = end.saturating_add(units);
            Arena {
                class,
                first,
                allocator: Allocator::with_max_allocs(units, nodes),
                units,
                units_free: units,
            }
        });
        Self {
            slots: (0..slots).map(slot).collect(),
            free: (0..slots).collect(),
            arenas: arenas.collect(),
            digests: HashMap::new(),
        }
    }

    pub(super) fn slots(&self) -> (u32, u32) {
        let free = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        (u32::try_from(self.slots.len()).unwrap_or(u32::MAX), free)
    }

    /// Bytes in all and free bytes, of one class or of all.
    pub(super) fn bytes(&self, class: Option<MemoryClass>) -> (u64, u64) {
        let asked = self
            .arenas
            .iter()
            .filter(|arena| class.is_none_or(|class| arena.class == class));
        asked.fold((0, 0), |(all, free), arena| {
            (
                all + u64::from(arena.units) * UNIT_BYTES,
                free + u64::from(arena.units_free) * UNIT_BYTES,
            )
        })
    }

    /// Where buffers go that are named: to the device's own memory, if there is any.
    pub(super) fn class_of_names(&self) -> MemoryClass {
        self.arenas
            .last()
            .map_or(MemoryClass::Host, |arena| arena.class)
    }

    /// Takes a slot and its bytes, for writing.
    pub(super) fn create(
        &mut self,
        tenant: TenantId,
        class: MemoryClass,
        length: u64,
    ) -> Result<(BufferId, Place), CreateError> {
        let slots_max = self.slots().0;
        let Some(&slot) = self.free.front() else {
            return Err(CreateError::NoFreeSlot { slots_max });
        };
        let found = self
            .arenas
            .iter_mut()
            .enumerate()
            .find(|(_, arena)| arena.class == class);
        let Some((arena, from)) = found else {
            return Err(CreateError::NoSuchClass { class });
        };
        let (units, allocation) = from.allocate(length)?;
        let offset = (u64::from(from.first) + u64::from(allocation.offset)) * UNIT_BYTES;
        let Some(state) = self.slots.get_mut(slot as usize) else {
            from.allocator.free(allocation);
            return Err(CreateError::NoFreeSlot { slots_max });
        };
        self.free.pop_front();
        from.units_free -= units;
        let generation = state.generation;
        state.life = Some(Life {
            tenant,
            arena,
            offset,
            length,
            units,
            allocation,
            phase: Phase::Writing,
            pins: 0,
            shares: 0,
        });
        Ok((BufferId { slot, generation }, Place { offset, length }))
    }

    /// A buffer that was written (and is mapped) becomes readable under its digest; or, if the
    /// tenant has the same content already, that buffer is shared and this one leaves.
    pub(super) fn seal(
        &mut self,
        id: BufferId,
        digest: Digest,
    ) -> Result<(BufferId, Option<Departure>), AccessError> {
        let tenant = self.life(id)?.tenant;
        if let Some(shared) = self.share(tenant, &digest) {
            return Ok((shared, self.abandon(id)));
        }
        let life = self.life_mut(id)?;
        life.phase = Phase::Sealed(digest);
        life.shares = 1;
        self.digests.insert((tenant, digest), id.slot);
        Ok((id, None))
    }

    /// One more owner of the tenant's buffer of this content, if there is one.
    pub(super) fn share(&mut self, tenant: TenantId, digest: &Digest) -> Option<BufferId> {
        let id = self.find(tenant, digest)?;
        self.life_mut(id).ok()?.shares += 1;
        Some(id)
    }

    pub(super) fn find(&self, tenant: TenantId, digest: &Digest) -> Option<BufferId> {
        let slot = *self.digests.get(&(tenant, *digest))?;
        let generation = self.slots.get(slot as usize)?.generation;
        Some(BufferId { slot, generation })
    }

    /// A written and mapped buffer becomes a transient window with one pin.
    pub(super) fn stage(&mut self, id: BufferId) -> Result<(), AccessError> {
        let life = self.life_mut(id)?;
        life.phase = Phase::Staged;
        life.pins = 1;
        Ok(())
    }

    /// A transient buffer, whose only pin its owner has, becomes readable under its digest; or, if
    /// the tenant has the same content already, that buffer is shared and this one leaves with its
    /// pin.
    pub(super) fn keep(
        &mut self,
        id: BufferId,
        digest: Digest,
        length: u64,
    ) -> Result<BufferId, AccessError> {
        let tenant = self.life(id)?.tenant;
        if let Some(shared) = self.share(tenant, &digest) {
            return Ok(shared);
        }
        let life = self.life_mut(id)?;
        life.phase = Phase::Sealed(digest);
        life.shares = 1;
        life.length = length;
        self.digests.insert((tenant, digest), id.slot);
        Ok(id)
    }

    /// A writer gives up.
    pub(super) fn abandon(&mut self, id: BufferId) -> Option<Departure> {
        let life = self.life_mut(id).ok()?;
        life.phase = Phase::Leaving;
        Some(Departure(id))
    }

    pub(super) fn pin(&mut self, tenant: TenantId, id: BufferId) -> Result<Place, AccessError> {
        let life = self.readable(tenant, id)?;
        life.pins += 1;
        Ok(Place {
            offset: life.offset,
            length: life.length,
        })
    }

    pub(super) fn unpin(&mut self, id: BufferId) -> Option<Departure> {
        let life = self.life_mut(id).ok()?;
        debug_assert!(life.pins > 0, "unpinned more often than pinned");
        life.pins = life.pins.saturating_sub(1);
        match life.phase {
            Phase::Staged | Phase::Condemned if life.pins == 0 => {
                life.phase = Phase::Leaving;
                Some(Departure(id))
            }
            Phase::Staged
            | Phase::Condemned
            | Phase::Writing
            | Phase::Sealed(_)
            | Phase::Leaving => None,
        }
    }

    pub(super) fn header(&self, tenant: TenantId, id: BufferId) -> Result<Header, AccessError> {
        let life = self.life(id)?;
        // What was freed is stale for everyone, whoever owned it.
        if life.is_gone() {
            return Err(self.stale(id).into());
        }
        if life.tenant != tenant {
            return Err(AccessError::NotOwner { tenant });
        }
        let digest = match life.phase {
            Phase::Sealed(digest) => digest,
            Phase::Writing | Phase::Staged => return Err(AccessError::NotSealed { id }),
            Phase::Condemned | Phase::Leaving => return Err(self.stale(id).into()),
        };
        Ok(Header {
            length: ByteCount::new(life.length),
            digest,
            class: self
                .arenas
                .get(life.arena)
                .map_or(MemoryClass::Host, |arena| arena.class),
            tenant,
        })
    }

    pub(super) fn free(
        &mut self,
        tenant: TenantId,
        id: BufferId,
    ) -> Result<(Freed, Option<Departure>), FreeError> {
        let stale = self.stale(id);
        let life = self.life_mut(id).map_err(|_| stale)?;
        if life.is_gone() {
            return Err(stale.into());
        }
        if life.tenant != tenant {
            return Err(FreeError::NotOwner { tenant });
        }
        let digest = match life.phase {
            Phase::Sealed(digest) => digest,
            Phase::Writing | Phase::Staged => return Err(FreeError::NotSealed { id }),
            Phase::Condemned | Phase::Leaving => return Err(stale.into()),
        };
        life.shares = life.shares.saturating_sub(1);
        if life.shares > 0 {
            let shares = life.shares;
            return Ok((Freed::Shared { shares }, None));
        }
        let pins = life.pins;
        let (freed, departure) = if pins > 0 {
            life.phase = Phase::Condemned;
            (Freed::WhenUnpinned { pins }, None)
        } else {
            life.phase = Phase::Leaving;
            (Freed::Now, Some(Departure(id)))
        };
        self.digests.remove(&(tenant, digest));
        Ok((freed, departure))
    }

    /// Frees one share, unless something pins the buffer: then nothing changes.
    pub(super) fn evict(
        &mut self,
        tenant: TenantId,
        id: BufferId,
    ) -> Result<(Evicted, Option<Departure>), FreeError> {
        if let Ok(life) = self.life(id)
            && life.tenant == tenant
            && matches!(life.phase, Phase::Sealed(_))
            && life.pins > 0
        {
            let pins = life.pins;
            return Ok((Evicted::Pinned { pins }, None));
        }
        let (freed, departure) = self.free(tenant, id)?;
        let evicted = match freed {
            Freed::Now => Evicted::Now,
            Freed::WhenUnpinned { pins } => Evicted::Pinned { pins },
            Freed::Shared { shares } => Evicted::Shared { shares },
        };
        Ok((evicted, departure))
    }

    /// The device has let go: slot and bytes are free again.
    pub(super) fn depart(&mut self, departed: &Departure) {
        let id = departed.0;
        let Some(state) = self.slots.get_mut(id.slot as usize) else {
            return;
        };
        if state.generation != id.generation {
            return;
        }
        if let Some(life) = state.life.take() {
            state.generation = state.generation.checked_add(1).unwrap_or(1);
            if let Some(arena) = self.arenas.get_mut(life.arena) {
                arena.units_free += life.units;
                arena.allocator.free(life.allocation);
            }
            self.free.push_back(id.slot);
        }
    }

    fn readable(&mut self, tenant: TenantId, id: BufferId) -> Result<&mut Life, AccessError> {
        self.header(tenant, id)?;
        self.life_mut(id)
    }

    fn stale(&self, id: BufferId) -> Stale {
        let current = self
            .slots
            .get(id.slot as usize)
            .map(|state| state.generation);
        Stale {
            id,
            current_generation: current,
        }
    }

    fn life(&self, id: BufferId) -> Result<&Life, AccessError> {
        let stale = self.stale(id);
        let found = self.slots.get(id.slot as usize);
        let found = found.filter(|found| found.generation == id.generation);
        Ok(found.and_then(|found| found.life.as_ref()).ok_or(stale)?)
    }

    fn life_mut(&mut self, id: BufferId) -> Result<&mut Life, AccessError> {
        let stale = self.stale(id);
        let found = self.slots.get_mut(id.slot as usize);
        let found = found.filter(|found| found.generation == id.generation);
        Ok(found.and_then(|found| found.life.as_mut()).ok_or(stale)?)
    }
}
