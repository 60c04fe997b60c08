//! Epochs: the device that there is now, and the next one when it is lost.
//!
//! Invariants
//! - A new epoch has new memory, and is opened only once nothing touches the old one's.
//! - Whoever is registered when an epoch begins is registered in it before anybody can publish
//!   there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use orlop_saga::id::TenantId;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::child::DeviceHost;
use crate::device::{Device, TenantError};
use crate::ops::HostOp;
use crate::options::{DeviceOptions, OpenError};

/// The waits between attempts to open the next epoch.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// A device that comes again when it was lost. Dropping it closes it.
#[derive(Debug)]
pub struct Epochs {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    options: DeviceOptions,
    ops: Vec<Arc<dyn HostOp>>,
    current: RwLock<Arc<Device>>,
    /// The registered life of each slot.
    tenants: Mutex<BTreeMap<u32, TenantId>>,
    state: Mutex<State>,
    changed: Condvar,
    /// It is closed: no process is waited for to become ready.
    unwanted: Arc<AtomicBool>,
    losses: AtomicU64,
    /// Who is told that everything in the memory of an epoch is gone.
    told: OnceLock<Heir>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("current", &self.current)
            .field("losses", &self.losses)
            .finish_non_exhaustive()
    }
}

/// Told of the device of an epoch that begins.
type Heir = Box<dyn Fn(&Arc<Device>) + Send + Sync>;

#[derive(Debug, Default)]
struct State {
    lost: bool,
    closed: bool,
}

impl Epochs {
    /// Opens the first epoch.
    ///
    /// # Errors
    /// [`OpenError`]: nothing runs and nothing is held.
    pub fn open(options: &DeviceOptions, ops: Vec<Arc<dyn HostOp>>) -> Result<Self, OpenError> {
        let first = Arc::new(Device::open(options, ops.clone())?);
        let shared = Arc::new(Shared {
            options: options.clone(),
            ops,
            current: RwLock::new(Arc::clone(&first)),
            tenants: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            unwanted: Arc::default(),
            losses: AtomicU64::new(0),
            told: OnceLock::new(),
        });
        let succeeds = match options.host {
            // It is lost with the process.
            DeviceHost::InProcess => false,
            DeviceHost::Child(_) => true,
        };
        let thread = succeeds
            .then(|| {
                shared.attend(&first);
                let successor = Arc::clone(&shared);
                let thread = std::thread::Builder::new().name("orlop-epochs".to_owned());
                thread.spawn(move || successor.succeed())
            })
            .transpose()
            .map_err(|source| OpenError::Thread { worker: 0, source })?;
        let thread = Mutex::new(thread);
        Ok(Self { shared, thread })
    }

    /// The device of this moment. It may be lost: then it refuses what is published, and another
    /// one follows.
    pub fn current(&self) -> Arc<Device> {
        Arc::clone(&self.shared.current.read())
    }

    /// Who is told of each loss, with the device of the next epoch and before that is the
    /// [`current`](Self::current) one: what lay in memory of an earlier one is gone. Set once.
    pub fn when_lost(&self, tell: impl Fn(&Arc<Device>) + Send + Sync + 'static) {
        let _ = self.shared.told.set(Box::new(tell));
    }

    /// How many devices were lost.
    pub fn losses(&self) -> u64 {
        self.shared.losses.load(Ordering::Relaxed)
    }

    /// [`Device::register_tenant_generation`], in this epoch and those that follow.
    ///
    /// # Errors
    /// [`TenantError`]: nothing changed.
    pub fn register_tenant_generation(&self, tenant: TenantId) -> Result<(), TenantError> {
        let mut tenants = self.shared.tenants.lock();
        let device = self.current();
        match device.register_tenant_generation(tenant) {
            Err(error) if device.lost().is_none() => return Err(error),
            // The next epoch knows it from its beginning.
            Ok(()) | Err(_) => tenants.insert(tenant.slot(), tenant),
        };
        Ok(())
    }

    /// [`Device::revoke_tenant_generation`], in this epoch and those that follow.
    ///
    /// # Errors
    /// [`TenantError`]: nothing changed.
    pub fn revoke_tenant_generation(&self, tenant: TenantId) -> Result<(), TenantError> {
        let mut tenants = self.shared.tenants.lock();
        let device = self.current();
        if tenants.get(&tenant.slot()) != Some(&tenant) {
            return Err(TenantError::Stale { tenant });
        }
        match device.revoke_tenant_generation(tenant) {
            Err(error) if device.lost().is_none() => return Err(error),
            Ok(()) | Err(_) => tenants.remove(&tenant.slot()),
        };
        Ok(())
    }

    /// [`Device::close`], and no further epoch. Idempotent.
    pub fn close(&self) {
        let device = self.current();
        if device.is_forked() {
            return;
        }
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
        // What opens the next epoch may be waiting for a process that never becomes ready.
        self.shared.unwanted.store(true, Ordering::SeqCst);
        device.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        self.current().close();
    }
}

impl Drop for Epochs {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Hears of the loss of `device`.
    fn attend(self: &Arc<Self>, device: &Device) {
        let shared: Weak<Self> = Arc::downgrade(self);
        device.when_lost(Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.lost();
            }
        }));
        if device.is_settled() {
            // Lost, and over, before anybody was told.
            self.lost();
        }
    }

    fn lost(&self) {
        self.state.lock().lost = true;
        self.changed.notify_all();
    }

    /// The life of the thread that opens the next epoch.
    fn succeed(self: &Arc<Self>) {
        let mut epoch = self.options.epoch;
        loop {
            let mut state = self.state.lock();
            while !state.lost && !state.closed {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            state.lost = false;
            drop(state);
            self.losses.fetch_add(1, Ordering::Relaxed);
            let Some(device) = self.open_next(&mut epoch) else {
                return;
            };
            let device = Arc::new(device);
            let tenants = self.tenants.lock();
            for tenant in tenants.values() {
                // Fails only if this one is lost too, and then another one follows.
                let _ = device.register_tenant_generation(*tenant);
            }
            if let Some(tell) = self.told.get() {
                tell(&device);
            }
            let old = std::mem::replace(&mut *self.current.write(), Arc::clone(&device));
            drop(tenants);
            // Its memory goes with whoever still holds a result or a buffer in it.
            drop(old);
            self.attend(&device);
        }
    }

    /// `None` once it was closed.
    fn open_next(&self, epoch: &mut u32) -> Option<Device> {
        let (mut wait, longest) = BACKOFF;
        loop {
            // Zero is no epoch.
            *epoch = epoch.checked_add(1).unwrap_or(1);
            let options = DeviceOptions {
                epoch: *epoch,
                ..self.options.clone()
            };
            let opened = Device::open_unless(&self.unwanted, &options, self.ops.clone());
            if let Ok(device) = opened {
                return Some(device);
            }
            let mut state = self.state.lock();
            if !state.closed {
                self.changed.wait_for(&mut state, wait);
            }
            if state.closed {
                return None;
            }
            wait = (wait * 2).min(longest);
        }
    }
}
