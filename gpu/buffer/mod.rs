//! Buffers: sealed, immutable, digest-named bytes of the arena, each owned by a tenant.
//!
//! Writing -> sealed -> freed when the last pin goes. Ids carry a generation, so an old one is
//! refused and never served. Names that may be persisted are digests (`BufferRef`); slots and
//! generations are bound when work is published and never leave the process.
//!
//! Invariants
//! - Bytes of a sealed buffer never change; all of them were written by its owner.
//! - A pinned buffer keeps its slot and bytes, whatever is freed meanwhile. Freeing never waits.
//! - The device maps a buffer before it can be named, and unmaps it before its bytes are reused.
#![allow(unsafe_code)]

pub(crate) mod copy;
pub(crate) mod error;
mod result;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::copy::CopyEngine;
use self::error::{AccessError, BindError, CreateError, FreeError, PutError};
pub use self::result::{KeepError, ResultBuffer, ResultWindow};
use self::table::{Departure, Place, Table};
pub(crate) use self::table::{UNIT_BYTES, UNITS_MAX};
pub use self::writer::{BufferWriter, Named};
use crate::control::{Control, Order};
use crate::entry::Window;
use crate::memory::Region;

/// One life of one buffer slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl fmt::Display for BufferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// The persisted name of a range of a buffer: content, not place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BufferRef {
    /// Digest of the whole buffer.
    pub digest: Digest,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Where a buffer's bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryClass {
    /// Host memory that the device reaches.
    Host,
    /// Memory of the `n`-th device.
    Device(u32),
}

impl fmt::Display for MemoryClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Device(number) => write!(f, "device {number}"),
        }
    }
}

/// What is known of a sealed buffer without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length.
    pub length: ByteCount,
    /// Its digest.
    pub digest: Digest,
    /// Where it lies.
    pub class: MemoryClass,
    /// Its owner.
    pub tenant: TenantId,
}

/// What a free did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// Slot and bytes are free.
    Now,
    /// The id is stale from now on; slot and bytes are free with the last pin.
    WhenUnpinned {
        /// Pins held.
        pins: u64,
    },
    /// The same content was put more often; the buffer stays.
    Shared {
        /// How many owners are left.
        shares: u64,
    },
}

/// What an eviction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The id is stale, slot and bytes are free.
    Now,
    /// Something uses it: nothing changed.
    Pinned {
        /// Pins held.
        pins: u64,
    },
    /// The same content was put more often; one share less, and the bytes stay.
    Shared {
        /// How many owners are left.
        shares: u64,
    },
}

/// Slots and bytes of the arena, free and in all, of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Slots.
    pub slots: u32,
    /// Bytes.
    pub bytes: ByteCount,
}

struct Shared {
    region: Arc<Region>,
    arena: u64,
    control: Arc<Control>,
    copy: Box<dyn CopyEngine>,
    table: Mutex<Table>,
}

/// The buffers of one device. Cheap to clone.
#[derive(Clone)]
pub struct Buffers {
    shared: Arc<Shared>,
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers")
            .field("capacity", &self.capacity())
            .field("available", &self.available())
            .finish()
    }
}

fn room((slots, bytes): (u32, u64)) -> Room {
    Room {
        slots,
        bytes: ByteCount::new(bytes),
    }
}

impl Buffers {
    /// Over several memory classes, which lie in the arena one after the other; `copy` moves bytes
    /// into all of them.
    pub(crate) fn with_classes(
        region: Arc<Region>,
        arena: u64,
        classes: &[(MemoryClass, u32)],
        slots: u32,
        control: Arc<Control>,
        copy: Box<dyn CopyEngine>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                region,
                arena,
                control,
                copy,
                table: Mutex::new(Table::new(slots, classes)),
            }),
        }
    }

    pub(crate) fn same_as(&self, window: &PinnedWindow) -> bool {
        Arc::ptr_eq(&self.shared, &window.shared)
    }

    /// Slots and bytes in all.
    pub fn capacity(&self) -> Room {
        let table = self.shared.table.lock();
        room((table.slots().0, table.bytes(None).0))
    }

    /// Slots and bytes that are free at this moment. Free bytes may lie apart.
    pub fn available(&self) -> Room {
        let table = self.shared.table.lock();
        room((table.slots().1, table.bytes(None).1))
    }

    /// Bytes of one memory class that are free at this moment, of how many.
    pub fn available_of(&self, class: MemoryClass) -> (ByteCount, ByteCount) {
        let (all, free) = self.shared.table.lock().bytes(Some(class));
        (ByteCount::new(free), ByteCount::new(all))
    }

    /// Takes a slot and `length` bytes, to be written and sealed: in the device's own memory, if it
    /// was opened with any, else in the host's.
    ///
    /// # Errors
    /// [`CreateError`]: nothing is held.
    pub fn create(&self, tenant: TenantId, length: u64) -> Result<BufferWriter, CreateError> {
        let mut table = self.shared.table.lock();
        let class = table.class_of_names();
        let (id, place) = table.create(tenant, class, length)?;
        drop(table);
        Ok(BufferWriter::new(&self.shared, id, tenant, place))
    }

    /// The same in a memory class of the caller's choice.
    ///
    /// # Errors
    /// [`CreateError`]: nothing is held.
    pub fn create_in(
        &self,
        tenant: TenantId,
        class: MemoryClass,
        length: u64,
    ) -> Result<BufferWriter, CreateError> {
        let (id, place) = self.shared.table.lock().create(tenant, class, length)?;
        Ok(BufferWriter::new(&self.shared, id, tenant, place))
    }

    /// Stores content, or shares the tenant's buffer of the same content; each put is undone by
    /// one free.
    ///
    /// # Errors
    /// [`PutError`]: nothing is held.
    pub fn put(&self, tenant: TenantId, content: &[u8]) -> Result<BufferId, PutError> {
        let named = Named::of(content);
        match self.share(tenant, &named.digest()) {
            Some(id) => Ok(id),
            None => self.create(tenant, content.len() as u64)?.put(&named),
        }
    }

    /// One more owner of the tenant's buffer of this content, if there is one; undone by one free.
    pub fn share(&self, tenant: TenantId, digest: &Digest) -> Option<BufferId> {
        self.shared.table.lock().share(tenant, digest)
    }

    /// A transient window over a copy of `content`, without digest and name; its bytes are free
    /// again when the guard is dropped. For the small inputs of one operation.
    ///
    /// # Errors
    /// [`PutError`]: nothing is held.
    pub fn stage(&self, tenant: TenantId, content: &[u8]) -> Result<PinnedWindow, PutError> {
        let mut writer = self.create_in(tenant, MemoryClass::Host, content.len() as u64)?;
        writer.write_known(content)?;
        Ok(writer.stage()?)
    }

    /// Takes `length` bytes for the result of one operation, which is longer than a permit's result
    /// area; see [`Task::result`](crate::Task::result).
    ///
    /// # Errors
    /// [`PutError`]: nothing is held.
    pub fn result(&self, tenant: TenantId, length: u64) -> Result<ResultWindow, PutError> {
        let writer = self.create(tenant, length)?;
        Ok(ResultWindow::new(writer.stage_unwritten()?))
    }

    /// The tenant's buffer of this content.
    pub fn find(&self, tenant: TenantId, digest: &Digest) -> Option<BufferId> {
        self.shared.table.lock().find(tenant, digest)
    }

    /// Length, digest, class and owner, without pinning the bytes.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn header(&self, tenant: TenantId, id: BufferId) -> Result<Header, AccessError> {
        self.shared.table.lock().header(tenant, id)
    }

    /// Pins a whole buffer; many may read at once, and a free meanwhile does not wait.
    ///
    /// # Errors
    /// [`AccessError`]: nothing was pinned.
    pub fn read(&self, tenant: TenantId, id: BufferId) -> Result<PinnedWindow, AccessError> {
        let place = self.shared.table.lock().pin(tenant, id)?;
        Ok(self.pinned(tenant, id, place, 0, place.length))
    }

    /// Binds a persisted name to a pinned window.
    ///
    /// # Errors
    /// [`BindError`]: nothing was pinned.
    pub fn bind(&self, tenant: TenantId, name: &BufferRef) -> Result<PinnedWindow, BindError> {
        let unknown = BindError::Unknown {
            digest: name.digest,
        };
        let mut table = self.shared.table.lock();
        let id = table.find(tenant, &name.digest).ok_or(unknown)?;
        let bytes = table.header(tenant, id).map_err(|_| unknown)?.length;
        let end = name.offset.checked_add(name.length);
        if end.is_none_or(|end| end > bytes.get()) {
            return Err(BindError::Bounds {
                offset: name.offset,
                length: name.length,
                bytes,
            });
        }
        let place = table.pin(tenant, id).map_err(|_| unknown)?;
        drop(table);
        Ok(self.pinned(tenant, id, place, name.offset, name.length))
    }

    /// Frees one share of a buffer. With the last one the id is stale and the name unknown at
    /// once; slot and bytes are free as soon as nothing pins them. Never waits for a reader.
    ///
    /// # Errors
    /// [`FreeError`]: nothing changed.
    pub fn free(&self, tenant: TenantId, id: BufferId) -> Result<Freed, FreeError> {
        let (freed, departure) = self.shared.table.lock().free(tenant, id)?;
        self.shared.leave(departure, true);
        Ok(freed)
    }

    /// Frees one share of a buffer, unless something pins it: then nothing changes. For whoever can
    /// bring the bytes back.
    ///
    /// # Errors
    /// [`FreeError`]: nothing changed.
    pub fn evict(&self, tenant: TenantId, id: BufferId) -> Result<Evicted, FreeError> {
        let (evicted, departure) = self.shared.table.lock().evict(tenant, id)?;
        self.shared.leave(departure, true);
        Ok(evicted)
    }

    fn pinned(
        &self,
        tenant: TenantId,
        id: BufferId,
        place: Place,
        offset: u64,
        length: u64,
    ) -> PinnedWindow {
        PinnedWindow {
            shared: Arc::clone(&self.shared),
            id,
            tenant,
            place,
            offset,
            length,
        }
    }
}

impl Shared {
    /// Tells the device, then gives slot and bytes back; with no lock held over the order.
    fn leave(&self, departure: Option<Departure>, mapped: bool) {
        let Some(departure) = departure else { return };
        let BufferId { slot, generation } = departure.0;
        if mapped {
            self.control.call(Order::Unmap { slot, generation }, None);
        }
        self.table.lock().depart(&departure);
    }
}

/// A pin on a range of a buffer: readable, nameable in an entry, and kept alive until dropped.
pub struct PinnedWindow {
    shared: Arc<Shared>,
    id: BufferId,
    tenant: TenantId,
    place: Place,
    offset: u64,
    length: u64,
}

impl PinnedWindow {
    /// What goes into an entry.
    pub const fn window(&self) -> Window {
        Window {
            slot: self.id.slot,
            generation: self.id.generation,
            offset: self.offset,
            length: self.length,
        }
    }

    /// The buffer.
    pub const fn id(&self) -> BufferId {
        self.id
    }

    /// Its owner.
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }
}

impl fmt::Debug for PinnedWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedWindow").field(&self.window()).finish()
    }
}

impl Deref for PinnedWindow {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let at = self.shared.arena + self.place.offset + self.offset;
        // SAFETY: the buffer is sealed, staged or a finished result, so nothing writes to it, and its bytes were
        // written before the lock through which this pin was made; the pin keeps them from being
        // given to another buffer.
        let bytes = unsafe { self.shared.region.bytes(at, self.length) };
        bytes.unwrap_or_default()
    }
}

impl Drop for PinnedWindow {
    fn drop(&mut self) {
        let departure = self.shared.table.lock().unpin(self.id);
        self.shared.leave(departure, true);
    }
}
