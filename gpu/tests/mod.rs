//! What the device promises an embedder, through its public face.
#![allow(clippy::wildcard_enum_match_arm, clippy::single_match_else)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use orlop_saga::digest::Digest;
use orlop_saga::id::TenantId;
use parking_lot::Mutex;

use crate::*;

mod callers;
mod cancels;
mod endings;
mod faults;
mod forks;
mod hostile;
mod lending;
mod operations;
mod refusals;
mod results;
mod windows;
mod workers;

pub(crate) const ALICE: TenantId = TenantId::new(0, 1);
pub(crate) const BOB: TenantId = TenantId::new(1, 1);
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) fn options(workers: u32) -> DeviceOptions {
    DeviceOptions {
        entry_slots: 16,
        tickets_max: 64,
        workers,
        arena_bytes: 8 << 20,
        buffer_slots: 64,
        ..DeviceOptions::default()
    }
}

pub(crate) fn device(workers: u32, ops: Vec<Arc<dyn HostOp>>) -> Device {
    let device = Device::open(&options(workers), ops).unwrap();
    device.register_tenant_generation(ALICE).unwrap();
    device.register_tenant_generation(BOB).unwrap();
    device
}

pub(crate) fn listener() -> (Arc<dyn Completion>, Receiver<Completed>) {
    let (sender, receiver): (Sender<Completed>, _) = channel();
    let sender = Mutex::new(sender);
    let done = move |completed| drop(sender.lock().send(completed));
    (Arc::new(done), receiver)
}

fn next(receiver: &Receiver<Completed>) -> Completed {
    receiver.recv_timeout(LIMIT).expect("a completion comes")
}

/// An operation that tells when a tile starts and ends it when told so.
struct Gated {
    opcode: u32,
    tiles: u32,
    started: Mutex<Sender<u32>>,
    go: Mutex<Receiver<()>>,
    owner: Option<TenantId>,
}

fn gated(opcode: u32, tiles: u32) -> (Arc<Gated>, Receiver<u32>, Sender<()>) {
    let (started, starts) = channel();
    let (go, gate) = channel();
    let op = Gated {
        opcode,
        tiles,
        started: Mutex::new(started),
        go: Mutex::new(gate),
        owner: None,
    };
    (Arc::new(op), starts, go)
}

const USER: u32 = 0x4000_0000;

impl HostOp for Gated {
    fn opcode(&self) -> Opcode {
        Opcode::new(self.opcode)
    }
    fn name(&self) -> &'static str {
        "gated"
    }
    fn owner(&self) -> Option<TenantId> {
        self.owner
    }
    fn tiles(&self, _: &TaskArgs<'_>) -> Result<u32, OpError> {
        Ok(self.tiles)
    }
    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        // The first argument tells tasks apart, if there is one.
        let tag = task.arg(0).unwrap_or(tile);
        let _ = self.started.lock().send(tag);
        // A closed gate stands open, so that a failing test ends.
        let _ = self.go.lock().recv();
        Ok(Partial::EMPTY)
    }
    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        p: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        out.write(&u32::try_from(p.len()).unwrap().to_le_bytes())
    }
}

/// An operation made of closures.
struct Free<T, R>(u32, T, R);

impl<T, R> HostOp for Free<T, R>
where
    T: Fn(&TaskArgs<'_>) -> Result<u32, OpError> + Send + Sync + 'static,
    R: Fn(u32, &TaskArgs<'_>, Option<&mut Output<'_>>) -> Result<Partial, OpError>
        + Send
        + Sync
        + 'static,
{
    fn opcode(&self) -> Opcode {
        Opcode::new(self.0)
    }
    fn name(&self) -> &'static str {
        "free"
    }
    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        (self.1)(task)
    }
    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        (self.2)(tile, task, None)
    }
    fn reduce(
        &self,
        t: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        o: &mut Output<'_>,
    ) -> Result<(), OpError> {
        (self.2)(u32::MAX, t, Some(o)).map(drop)
    }
}

fn quiet(device: &Device) {
    device.drain(LIMIT).unwrap();
    let snapshot = device.snapshot();
    assert_eq!(snapshot.credits, 16, "credits held = credits counted");
    assert_eq!(snapshot.permits, 64, "permits held = permits counted");
    assert_eq!(
        (snapshot.outstanding, snapshot.waiting, snapshot.active),
        (0, 0, 0)
    );
    assert_eq!(snapshot.stale_completions, 0);
    device.resume();
}

fn fastrand_lite(seed: u32) -> impl FnMut() -> u32 {
    let mut state = u64::from(seed) * 2 + 1;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 33).unwrap()
    }
}
