//! The device's process: the embedder's binary, which never gets past [`DeviceMain::enter`].
//!
//! It maps the memory that it inherited, runs the host megakernel over it, and ends when it is
//! told to or when its parent is gone, whichever way that happened.
//!
//! Invariants
//! - It ends with its parent: by the system's signal, and by the end of the line between them.
//! - It keeps nothing open that the embedder had open when it was started.
#![allow(unsafe_code)]

use std::fmt;
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Signal, getpid, getppid, kill_process};
use rustix::thread::futex;

use super::bell::Bell;
use super::{ARG0, STAGE_OPERATIONS, STAGE_READY, STAGE_REFUSED};
use crate::control::Doorbell;
use crate::host::{HostKernel, KernelOptions, Listener};
use crate::layout::{LAYOUT_VERSION, Layout, MAGIC, Sizes, header_word, host_word};
use crate::memory::Region;
use crate::ops::{HostOp, OpTable};
use crate::slot::{high, low};

/// What runs in a device's process: the built-in operations and those that it is given. They must
/// be those that the engine's builder has.
#[derive(Default)]
pub struct DeviceMain {
    ops: Vec<Arc<dyn HostOp>>,
}

impl fmt::Debug for DeviceMain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.ops.iter().map(|op| op.name());
        f.debug_list().entries(names).finish()
    }
}

impl DeviceMain {
    /// The built-in operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// And this one.
    #[must_use]
    pub fn op(mut self, op: impl HostOp) -> Self {
        self.ops.push(Arc::new(op));
        self
    }

    /// In a device's process, runs it and never returns; anywhere else, returns at once. To be
    /// called first in `main`: before threads, arguments and files.
    pub fn enter(self) {
        if !is_device() {
            return;
        }
        // There is nobody to tell, whether it ran or could not: whoever started it sees how far it
        // came. At once: nothing that the embedder has run at exits belongs to this process.
        let _ = run(self.ops);
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort();
    }
}

/// Whether this process was started to be a device's.
pub(super) fn is_device() -> bool {
    std::env::args_os().next().is_some_and(|name| name == ARG0)
}

fn run(ops: Vec<Arc<dyn HostOp>>) -> Option<()> {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let (file, line) = inherited().ok()?;
    let region = Arc::new(Region::of_file(&file).ok()?);
    // The mapping keeps the memory.
    drop(file);
    let word = |at| {
        region
            .host_word(at)
            .map(|word| word.load(Ordering::Acquire))
    };
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent != word(host_word::PARENT) {
        // It died before the signal was asked for.
        return None;
    }
    watch_parent(line).ok()?;
    let stage = |stage: u32| {
        if let Some(word) = region.host_word(host_word::STAGE) {
            // What was said first stands.
            let _ = word.compare_exchange(0, stage, Ordering::AcqRel, Ordering::Acquire);
            let _ = futex::wake(word, futex::Flags::empty(), u32::MAX >> 1);
        }
    };
    let kernel = (|| {
        let mut table = OpTable::built_in();
        for op in ops {
            table.register(op).ok()?;
        }
        let digest = table.digest();
        let same = word(host_word::OPS_LOW) == Some(low(digest))
            && word(host_word::OPS_HIGH) == Some(high(digest));
        if !same {
            stage(STAGE_OPERATIONS);
            return None;
        }
        let options = KernelOptions {
            tiles_max: word(host_word::TILES_MAX)?,
            buffer_slots: word(host_word::BUFFER_SLOTS)?,
            spin: Duration::from_nanos(word(host_word::SPIN_NANOS)?.into()),
        };
        HostKernel::new(&region, layout(&region)?, table, &options)
    })();
    let Some(kernel) = kernel else {
        stage(STAGE_REFUSED);
        return None;
    };
    let Some(workers) = start(&region, kernel) else {
        stage(STAGE_REFUSED);
        return None;
    };
    stage(STAGE_READY);
    for worker in workers {
        let _ = worker.join();
    }
    Some(())
}

/// Takes the memory and the line to the parent from where they were inherited, leaves those places
/// to the operations, and closes everything else that was open.
fn inherited() -> Result<(OwnedFd, UnixStream), std::io::Error> {
    let file = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let line = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    // What operations print is the embedder's to read where it reads errors.
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    drop(null);
    let keep = [
        std::os::fd::AsRawFd::as_raw_fd(&file),
        std::os::fd::AsRawFd::as_raw_fd(&line),
    ];
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && !keep.contains(fd))
        .collect();
    for fd in open {
        // What listed them was open too, and is no longer.
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok() {
            // SAFETY: it is open, and it was inherited without anybody here having asked for it:
            // this runs first in `main`, so nothing in this process owns it.
            unsafe { rustix::io::close(fd) };
        }
    }
    Ok((file, UnixStream::from(line)))
}

/// Ends this process when the other end of the line is gone.
fn watch_parent(mut line: UnixStream) -> Result<(), std::io::Error> {
    let watch = std::thread::Builder::new().name("orlop-parent".to_owned());
    watch.spawn(move || {
        let mut byte = [0];
        while line.read(&mut byte).is_ok_and(|read| read > 0) {}
        // At once, whatever else runs: nobody reads what this would still write.
        let _ = kill_process(getpid(), Signal::KILL);
    })?;
    Ok(())
}

/// The layout that the header announces.
fn layout(region: &Region) -> Option<Layout> {
    let header = region.slots(0, 1)?.first()?;
    let word = |index| header.word(index).map(|word| word.load(Ordering::Acquire));
    let small = |index| word(index).and_then(|word| u32::try_from(word).ok());
    if word(header_word::MAGIC)? != MAGIC || word(header_word::VERSION)? != LAYOUT_VERSION {
        return None;
    }
    let layout = Layout::of(Sizes {
        entry_slots: small(header_word::ENTRY_SLOTS)?,
        tickets: small(header_word::TICKETS)?,
        result_bytes: small(header_word::RESULT_BYTES)?,
        workers: small(header_word::WORKERS)?,
        arena_bytes: word(header_word::ARENA_BYTES)?,
    })?;
    (layout.total == region.length()).then_some(layout)
}

/// Tells the other process what was posted.
struct Bells {
    posted: Bell,
    replied: Bell,
}

impl Listener for Bells {
    fn completions_posted(&self) {
        self.posted.ring();
    }

    fn replies_posted(&self) {
        self.replied.ring();
    }
}

fn start(region: &Arc<Region>, kernel: HostKernel) -> Option<Vec<std::thread::JoinHandle<()>>> {
    let workers = layout(region)?.sizes.workers;
    let kernel = Arc::new(kernel);
    let bells: Arc<dyn Listener> = Arc::new(Bells {
        posted: Bell::at(region, host_word::POSTED_BELL),
        replied: Bell::at(region, host_word::REPLIED_BELL),
    });
    kernel.listen(Arc::downgrade(&bells));
    let threads = (0..workers).map(|worker| {
        let (kernel, bells) = (Arc::clone(&kernel), Arc::clone(&bells));
        let thread = std::thread::Builder::new().name(format!("orlop-device-{worker}"));
        let run = move || {
            kernel.run(worker);
            drop(bells);
        };
        thread.spawn(run).ok()
    });
    let threads = threads.collect::<Option<Vec<_>>>()?;
    let (bell, region) = (Bell::at(region, host_word::WORK_BELL), Arc::clone(region));
    let hear = move || {
        let mut heard = 0;
        loop {
            heard = bell.wait(heard);
            kernel.orders_written();
            kernel.entries_written();
            // Said after it was acted on: who hangs in a lock here does not say so.
            if let Some(word) = region.host_word(host_word::HEARD) {
                word.store(heard, Ordering::Release);
            }
        }
    };
    let thread = std::thread::Builder::new().name("orlop-bell".to_owned());
    thread.spawn(hear).ok()?;
    Some(threads)
}
