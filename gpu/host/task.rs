//! Tasks on the device's side: fetched entries, and tasks that were cut into tiles.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Instant;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::entry::Entry;
use crate::layout::Layout;
use crate::memory::Region;
use crate::ops::{HostOp, Output, Partial, Scratch, TaskArgs};
use crate::status::Status;

/// A validated entry.
pub(super) struct Task {
    pub(super) entry: Entry,
    pub(super) op: Arc<dyn HostOp>,
    /// Where each window begins in the arena.
    pub(super) offsets: SmallVec<[u64; 2]>,
    pub(super) deadline: Option<Instant>,
}

impl Task {
    /// What the operation sees. Valid while the task is not completed.
    pub(super) fn args<'a>(&'a self, region: &'a Region, layout: &Layout) -> TaskArgs<'a> {
        let given = self.entry.windows.len() - usize::from(self.entry.has_result_window());
        let windows = self.entry.windows.iter().zip(&self.offsets).take(given);
        let windows = windows.map(|(window, offset)| {
            let at = layout.arena + offset;
            // SAFETY: the dispatcher checked generation, owner and bounds against the window
            // table and pinned the window until this task's completion; mapped bytes are sealed
            // or staged, so nothing writes to them, and the acquire fence of the fetch made them
            // visible.
            let bytes = unsafe { region.bytes(at, window.length) };
            bytes.unwrap_or_default()
        });
        let (tenant, attempt) = (self.entry.tenant, self.entry.attempt);
        TaskArgs::with_windows(tenant, attempt, &self.entry.args, windows.collect())
    }

    /// Where its result goes: into its last window, if that is there for it, or else into the area
    /// of its permit.
    pub(super) fn output<'a>(&self, region: &'a Region, layout: &Layout) -> Output<'a> {
        let last = self.entry.windows.last().zip(self.offsets.last());
        if let Some((window, offset)) = last.filter(|_| self.entry.has_result_window()) {
            return Output::new(region, layout.arena + offset, window.length);
        }
        let area = layout.result_of(self.entry.ticket);
        Output::new(region, area, u64::from(layout.sizes.result_bytes))
    }

    pub(super) fn expired(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// Scratch memory that a worker lends to what it runs, kept from one task to the next.
#[derive(Default)]
pub(super) struct Lent {
    pub(super) own: Vec<u64>,
    pub(super) all: Vec<u64>,
}

impl Lent {
    /// So many words, whatever they hold; allocates only to grow.
    pub(super) fn words(memory: &mut Vec<u64>, words: usize) -> &mut [u64] {
        if memory.len() < words {
            memory.resize(words, 0);
        }
        memory.get_mut(..words).unwrap_or_default()
    }
}

/// How a task ended early, and what there is to say about it.
pub(super) type Verdict = (Status, Option<String>);

/// A task of several tiles.
pub(super) struct Run {
    pub(super) task: Task,
    pub(super) tiles: u32,
    /// Tiles neither finished nor withdrawn; whoever takes it to zero finishes the task.
    pub(super) left: AtomicU32,
    pub(super) cost: AtomicU64,
    pub(super) partials: Mutex<Vec<Partial>>,
    pub(super) scratch: Scratch,
    /// The task's scratch memory.
    pub(super) all: Mutex<Vec<u64>>,
    /// Set at most once; then no further tile starts.
    pub(super) verdict: Mutex<Option<Verdict>>,
}

impl Run {
    pub(super) fn new(task: Task, tiles: u32, scratch: Scratch, cost: u64) -> Self {
        Self {
            task,
            tiles,
            left: AtomicU32::new(tiles),
            cost: AtomicU64::new(cost),
            partials: Mutex::new(vec![Partial::EMPTY; tiles as usize]),
            scratch,
            all: Mutex::new(vec![0; scratch.task]),
            verdict: Mutex::new(None),
        }
    }
}
