//! The runner at this end: starts a device's process, hears it, watches it, and reaps it.
//!
//! Invariants
//! - One thread starts the process and lives until it is reaped: the system ends the process with
//!   the thread that started it.
//! - Nothing of a lost device is given back before its process is reaped.
//! - Who looks for replies runs no callback: a callback may wait for a reply.
//! - With nothing in flight nobody looks at anything.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use orlop_saga::id::TenantId;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::thread::futex;

use super::bell::Bell;
use super::options::{ChildOptions, HostError};
use super::watch::Watch;
use super::{ARG0, STAGE_OPERATIONS, STAGE_READY, main};
use crate::control::Doorbell;
use crate::entry::Opcode;
use crate::host::Listener;
use crate::hub::{Hub, beats};
use crate::layout::host_word;
use crate::lost::DeviceLost;
use crate::memory::Region;
use crate::opcodes::{InstallError, LocalOpcode, OpcodeWindow};
use crate::ops::{HostOp, OpTable, RegisterError};
use crate::options::DeviceOptions;
use crate::runner::Runner;
use crate::slot::{high, low};

/// See the module.
pub(crate) struct ChildRunner {
    region: Arc<Region>,
    options: ChildOptions,
    /// Nobody wants it any more: a process that is not ready is not waited for.
    unwanted: Arc<AtomicBool>,
    /// What the process has too; asked for owners alone.
    ops: OpTable,
    work: Bell,
    posted: Bell,
    replied: Bell,
    /// Wakes the watching thread.
    alarm: OwnedFd,
    watching: AtomicBool,
    closing: AtomicBool,
    /// The process is reaped.
    over: AtomicBool,
    wakes: AtomicU64,
    process: AtomicU32,
    hub: OnceLock<Weak<Hub>>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    own: Mutex<Vec<ThreadId>>,
}

impl ChildRunner {
    /// Writes what the process has to know behind the header; starts nothing.
    pub(crate) fn new(
        region: &Arc<Region>,
        ops: OpTable,
        device: &DeviceOptions,
        options: &ChildOptions,
        unwanted: &Arc<AtomicBool>,
    ) -> Result<Self, HostError> {
        if main::is_device() {
            return Err(HostError::Nested);
        }
        let digest = ops.digest();
        let spin = device.spin_on(DeviceOptions::cores()).as_nanos();
        let words = [
            (host_word::PARENT, std::process::id()),
            (host_word::TILES_MAX, device.tiles_max),
            (host_word::BUFFER_SLOTS, device.buffer_slots),
            (host_word::SPIN_NANOS, u32::try_from(spin).unwrap_or(0)),
            (host_word::OPS_LOW, low(digest)),
            (host_word::OPS_HIGH, high(digest)),
        ];
        for (at, value) in words {
            if let Some(word) = region.host_word(at) {
                word.store(value, Ordering::Release);
            }
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            region: Arc::clone(region),
            options: options.clone(),
            unwanted: Arc::clone(unwanted),
            ops,
            work: Bell::at(region, host_word::WORK_BELL),
            posted: Bell::at(region, host_word::POSTED_BELL),
            replied: Bell::at(region, host_word::REPLIED_BELL),
            alarm: eventfd(0, flags).map_err(std::io::Error::from)?,
            watching: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            over: AtomicBool::new(false),
            wakes: AtomicU64::new(0),
            process: AtomicU32::new(0),
            hub: OnceLock::new(),
            supervisor: Mutex::default(),
            own: Mutex::default(),
        })
    }

    /// Starts the process over `memory`, and waits until it is ready.
    pub(crate) fn start(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        memory: OwnedFd,
    ) -> Result<(), HostError> {
        // Set once, here.
        let _ = self.hub.set(Arc::downgrade(hub));
        let (tell, told) = channel();
        let (runner, hub) = (Arc::clone(self), Arc::clone(hub));
        let thread = std::thread::Builder::new().name("orlop-device-host".to_owned());
        let thread = thread.spawn(move || runner.supervise(&hub, memory, &tell))?;
        *self.supervisor.lock() = Some(thread);
        told.recv().unwrap_or(Err(HostError::Ended))
    }

    fn supervise(
        self: Arc<Self>,
        hub: &Arc<Hub>,
        memory: OwnedFd,
        tell: &Sender<Result<(), HostError>>,
    ) {
        self.own.lock().push(std::thread::current().id());
        let (mut child, line) = match self.spawn(memory) {
            Ok(spawned) => spawned,
            Err(error) => return drop(tell.send(Err(error))),
        };
        let ready = self.wait_ready(&line);
        let listeners = ready.and_then(|()| Ok(self.listen(hub)?));
        let (listeners, told) = match listeners {
            Ok(listeners) => (listeners, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let works = told.is_ok();
        self.process.store(child.id(), Ordering::Release);
        if works {
            // Whoever opens it waits for this.
            let _ = tell.send(Ok(()));
            if let Some(why) = self.watch(hub, &line) {
                hub.lose(why);
            }
        }
        reap(&mut child);
        self.process.store(0, Ordering::Release);
        if !works {
            let _ = tell.send(told);
        }
        self.over.store(true, Ordering::SeqCst);
        self.posted.ring();
        self.replied.ring();
        for listener in listeners {
            let _ = listener.join();
        }
        // What was answered last may have been heard by nobody, and nothing is answered any more.
        hub.control.lose();
        if hub.lost().is_some() {
            hub.settle_loss();
        }
    }

    fn spawn(&self, memory: OwnedFd) -> Result<(Child, UnixStream), HostError> {
        let (line, theirs) = UnixStream::pair()?;
        // The same program, also where its file was replaced or removed.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(ARG0).args(&self.options.args);
        command.stdin(Stdio::from(memory));
        command.stdout(Stdio::from(OwnedFd::from(theirs)));
        // A signal for the embedder's group is the embedder's: it still wants to close.
        command.process_group(0);
        let child = command.spawn()?;
        // With it the other end of the line, which is the child's alone from here on.
        drop(command);
        Ok((child, line))
    }

    fn wait_ready(&self, line: &UnixStream) -> Result<(), HostError> {
        let began = Instant::now();
        let moment = timespec(Duration::from_millis(20));
        let stage = self.region.host_word(host_word::STAGE);
        let stage = stage.ok_or(HostError::Refused)?;
        loop {
            match stage.load(Ordering::Acquire) {
                0 => {}
                STAGE_READY => return Ok(()),
                STAGE_OPERATIONS => return Err(HostError::Operations),
                _ => return Err(HostError::Refused),
            }
            if hung_up(line, Some(Duration::ZERO)) {
                // What it said before it ended counts.
                return match stage.load(Ordering::Acquire) {
                    STAGE_OPERATIONS => Err(HostError::Operations),
                    super::STAGE_REFUSED => Err(HostError::Refused),
                    _ => Err(HostError::Ended),
                };
            }
            let waited = began.elapsed();
            let unwanted = self.unwanted.load(Ordering::SeqCst);
            if unwanted || waited >= self.options.start_max {
                return Err(HostError::NotReady { waited });
            }
            let _ = futex::wait(stage, futex::Flags::empty(), 0, Some(&moment));
        }
    }

    /// Starts who hears what is posted.
    fn listen(self: &Arc<Self>, hub: &Arc<Hub>) -> Result<Vec<JoinHandle<()>>, std::io::Error> {
        let hear = |name: &str, bell: &Bell, told: fn(&Hub)| {
            let (runner, hub, bell) = (Arc::clone(self), Arc::clone(hub), bell.clone());
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(move || {
                runner.own.lock().push(std::thread::current().id());
                let mut heard = 0;
                while !runner.over.load(Ordering::SeqCst) {
                    heard = bell.wait(heard);
                    runner.wakes.fetch_add(1, Ordering::Relaxed);
                    told(&hub);
                }
            })
        };
        let replies = hear("orlop-replies", &self.replied, Listener::replies_posted)?;
        match hear("orlop-reaper", &self.posted, Listener::completions_posted) {
            Ok(reaper) => Ok(vec![replies, reaper]),
            Err(error) => {
                self.over.store(true, Ordering::SeqCst);
                self.replied.ring();
                let _ = replies.join();
                Err(error)
            }
        }
    }

    /// Looks after the process until it is gone, or is to be; why the device is lost, if it is.
    fn watch(&self, hub: &Hub, line: &UnixStream) -> Option<DeviceLost> {
        let mut watch = Watch::new(&self.options);
        loop {
            let working = self.watching.load(Ordering::SeqCst);
            let wait = working.then(|| watch.period());
            match self.wait(line, wait) {
                Woken::HungUp => {
                    if !self.closing.load(Ordering::SeqCst) {
                        return Some(DeviceLost::Died);
                    }
                    // Before anything is delivered here: a callback may give an order.
                    hub.control.lose();
                    hub.reap();
                    return hub.is_in_flight().then_some(DeviceLost::Died);
                }
                Woken::Alarm => {}
                Woken::Late if !self.is_needed(hub) => watch.rest(),
                Woken::Late => {
                    let heard = self.region.host_word(host_word::HEARD);
                    let heard = heard.map_or(0, |word| word.load(Ordering::Acquire));
                    let beats = beats(&self.region, &hub.layout);
                    let lost = watch.look(heard, beats, || self.work.ring());
                    if lost.is_some() {
                        return lost;
                    }
                }
            }
        }
    }

    /// Whether anybody waits for the process; if not, nobody looks after it from here on.
    fn is_needed(&self, hub: &Hub) -> bool {
        let waits = || {
            self.closing.load(Ordering::SeqCst) || hub.is_in_flight() || hub.control.is_waiting()
        };
        if waits() {
            return true;
        }
        self.watching.store(false, Ordering::SeqCst);
        // Pairs with the fence in `rung`: either the writer sees that nobody watches, or this
        // look sees what was written.
        fence(Ordering::SeqCst);
        let needed = waits();
        if needed {
            self.watching.store(true, Ordering::SeqCst);
        }
        needed
    }

    fn wait(&self, line: &UnixStream, limit: Option<Duration>) -> Woken {
        let limit = limit.map(timespec);
        let (hung, rang) = {
            let mut fds = [
                PollFd::new(line, PollFlags::empty()),
                PollFd::new(&self.alarm, PollFlags::IN),
            ];
            match poll(&mut fds, limit.as_ref()) {
                Ok(0) => return Woken::Late,
                Ok(_) => {
                    let [line, alarm] = &fds;
                    (!line.revents().is_empty(), !alarm.revents().is_empty())
                }
                // Interrupted: nothing happened.
                Err(_) => return Woken::Alarm,
            }
        };
        if hung {
            return Woken::HungUp;
        }
        if rang {
            let _ = rustix::io::read(&self.alarm, &mut [0; 8]);
        }
        Woken::Alarm
    }

    /// Something was written for the process to see.
    fn rung(&self) {
        self.work.ring();
        fence(Ordering::SeqCst);
        if !self.watching.load(Ordering::SeqCst) && !self.watching.swap(true, Ordering::SeqCst) {
            self.alert();
        }
    }

    fn alert(&self) {
        // Full, it wakes as well.
        let _ = rustix::io::write(&self.alarm, &1_u64.to_ne_bytes());
    }
}

enum Woken {
    /// The other end of the line is gone.
    HungUp,
    /// Somebody wants to be looked at.
    Alarm,
    /// The time is over.
    Late,
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

fn hung_up(line: &UnixStream, limit: Option<Duration>) -> bool {
    let mut fds = [PollFd::new(line, PollFlags::empty())];
    let polled = poll(&mut fds, limit.map(timespec).as_ref());
    polled.is_ok_and(|ready| ready > 0)
}

/// Ends the process, also one that is stopped, and waits until the system has let go of it.
fn reap(child: &mut Child) {
    // It may have ended by itself, and somebody who waits for every child may have been first.
    let _ = child.kill();
    let _ = child.wait();
}

impl Doorbell for ChildRunner {
    fn entries_written(&self) {
        self.rung();
    }

    fn orders_written(&self) {
        self.rung();
    }
}

impl Runner for ChildRunner {
    fn register(&self, _: Arc<dyn HostOp>) -> Result<(), RegisterError> {
        Err(RegisterError::Elsewhere)
    }

    fn install(
        &self,
        _: TenantId,
        _: OpcodeWindow,
        _: &[(LocalOpcode, Arc<dyn HostOp>)],
    ) -> Result<(), InstallError> {
        Err(InstallError::Elsewhere)
    }

    fn uninstall(&self, _: &[OpcodeWindow]) -> Vec<Arc<dyn HostOp>> {
        Vec::new()
    }

    fn owner(&self, opcode: Opcode) -> Option<TenantId> {
        self.ops.owner(opcode)
    }

    fn active(&self) -> u64 {
        let hub = self.hub.get().and_then(Weak::upgrade);
        hub.map_or(0, |hub| {
            hub.outstanding().saturating_sub(hub.pump.waiting())
        })
    }

    fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    fn process(&self) -> Option<u32> {
        Some(self.process.load(Ordering::Acquire)).filter(|process| *process > 0)
    }

    fn runs_here(&self) -> bool {
        self.own.lock().contains(&std::thread::current().id())
    }

    fn stop(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.watching.store(true, Ordering::SeqCst);
        self.alert();
    }

    fn end(&self) {
        // Held while joining, so that a second closer waits for the first.
        let mut supervisor = self.supervisor.lock();
        if let Some(thread) = supervisor.take() {
            let _ = thread.join();
        }
    }
}
