//! Workers: threads that claim, run, finish, and sleep when there is nothing.
//!
//! Invariants
//! - A panic of an operation ends its task, never the worker.
//! - A worker sleeps only after it said so and then looked once more: no wake-up is lost.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use orlop_saga::amount::BusyNanos;

use super::HostKernel;
use super::schedule::{Claim, Due};
use super::task::{Lent, Run, Task, Verdict};
use crate::completion::CompletionEntry;
use crate::layout::INLINE_BYTES;
use crate::ops::{OpError, Output, Partial, SCRATCH_WORDS_MAX, Scratch};
use crate::status::{RefusedWhy, Status};

/// Runs foreign code; a panic becomes its text.
pub(crate) fn guarded<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        let text = text_of(payload.as_ref());
        // The payload is foreign too, and may panic when dropped.
        if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            std::mem::forget(second);
        }
        text
    })
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without text").to_owned()
}

fn verdict_of(outcome: Result<OpError, String>) -> Verdict {
    match outcome {
        Ok(OpError { code }) => (Status::Failed { code }, None),
        Err(text) => (Status::Faulted, Some(text)),
    }
}

/// Flattens what foreign code said and what became of it.
fn flat<T>(outcome: Result<Result<T, OpError>, String>) -> Result<T, Verdict> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(verdict_of(Ok(error))),
        Err(text) => Err(verdict_of(Err(text))),
    }
}

fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl HostKernel {
    /// The life of one worker.
    pub(super) fn work(&self, worker: u32) {
        if let Some(thread) = self.threads.get(worker as usize) {
            // Set once: each worker has its own place.
            let _ = thread.set(std::thread::current());
        }
        let mut beats = 0;
        let mut lent = Lent::default();
        loop {
            let claim = match self.claim(worker) {
                Claim::Idle => self.idle(worker),
                claim @ (Claim::Plan(_) | Claim::Tile(..) | Claim::Post(_) | Claim::Exit) => claim,
            };
            match claim {
                Claim::Plan(task) => self.plan(worker, task, &mut beats, &mut lent),
                Claim::Tile(run, tile) => self.tile(worker, &run, tile, &mut beats, &mut lent),
                Claim::Post(due) => self.post_due(due),
                Claim::Idle => {}
                Claim::Exit => break,
            }
        }
        // The next one finds out by itself.
        self.wake_one();
    }

    pub(super) fn claim(&self, worker: u32) -> Claim {
        let mut schedule = self.schedule.lock();
        let (claim, replied) = schedule.claim(worker);
        let more = schedule.has_work();
        drop(schedule);
        if replied {
            self.tell(|listener| listener.replies_posted());
        }
        if more {
            self.wake_one();
        }
        claim
    }

    /// Spins a little, then sleeps; returns what it found before it slept, if anything.
    fn idle(&self, worker: u32) -> Claim {
        if !self.spin.is_zero() && !self.spinning.swap(true, Ordering::AcqRel) {
            let start = Instant::now();
            while !self.looks_ready() && start.elapsed() < self.spin {
                std::hint::spin_loop();
            }
            self.spinning.store(false, Ordering::Release);
        }
        self.set_sleeping(worker, true);
        // Pairs with the fence in `wake_one`: either the writer sees this worker asleep, or this
        // look sees what was written.
        fence(Ordering::SeqCst);
        let claim = self.claim(worker);
        if matches!(claim, Claim::Idle) {
            std::thread::park();
        }
        self.set_sleeping(worker, false);
        claim
    }

    pub(super) fn plan(&self, worker: u32, task: Task, beats: &mut u64, lent: &mut Lent) {
        if task.expired() {
            return self.post_due(Due::of(&task.entry, Status::Expired));
        }
        let start = self.beat(worker, beats, task.entry.ticket, 0);
        match self.extent(&task) {
            Err(verdict) => self.conclude(&task, nanos_since(start), Err(verdict)),
            Ok((tiles @ 0..=1, scratch)) => {
                let outcome = self.run_alone(&task, tiles, scratch, lent);
                self.conclude(&task, nanos_since(start), outcome);
            }
            Ok((tiles, _)) if tiles > self.tiles_allowed(&task) => {
                let why = Status::Refused(RefusedWhy::TooManyTiles);
                self.conclude(&task, nanos_since(start), Err((why, None)));
            }
            Ok((tiles, scratch)) => {
                let run = Run::new(task, tiles, scratch, nanos_since(start));
                self.spread(worker, run);
            }
        }
        self.rest(worker, beats);
    }

    /// Tiles and scratch memory of a task, as its operation says.
    fn extent(&self, task: &Task) -> Result<(u32, Scratch), Verdict> {
        flat(guarded(|| {
            let args = task.args(&self.region, &self.layout);
            let (tiles, scratch) = (task.op.tiles(&args)?, task.op.scratch(&args)?);
            if scratch.tile.max(scratch.task) > SCRATCH_WORDS_MAX {
                return Err(OpError::SCRATCH_TOO_LONG);
            }
            Ok((tiles, scratch))
        }))
    }

    fn tiles_allowed(&self, task: &Task) -> u32 {
        match task.entry.tiles_max {
            0 => self.tiles_max,
            asked => asked.min(self.tiles_max),
        }
    }

    fn spread(&self, worker: u32, run: Run) {
        let run = Arc::new(run);
        let inserted = self.schedule.lock().insert(worker, &run);
        match inserted {
            Ok(()) => self.wake_one(),
            Err(status) => {
                let cost = run.cost.load(Ordering::Acquire);
                self.conclude(&run.task, cost, Err((status, None)));
            }
        }
    }

    /// A whole task on this thread: its tile, if it has one, and the reduction.
    fn run_alone(
        &self,
        task: &Task,
        tiles: u32,
        scratch: Scratch,
        lent: &mut Lent,
    ) -> Result<CompletionEntry, Verdict> {
        let args = task.args(&self.region, &self.layout);
        let own = Lent::words(&mut lent.own, scratch.tile);
        let all = Lent::words(&mut lent.all, scratch.task);
        all.fill(0);
        if tiles == 0 {
            return self.reduce(task, &[], all);
        }
        let partial = flat(guarded(|| {
            let partial = task.op.run_tile(0, &args, own)?;
            if scratch.task > 0 {
                task.op.merge(0, &args, own, all)?;
            }
            Ok(partial)
        }))?;
        self.reduce(task, &[partial], all)
    }

    fn reduce(
        &self,
        task: &Task,
        partials: &[Partial],
        all: &mut [u64],
    ) -> Result<CompletionEntry, Verdict> {
        let mut out = task.output(&self.region, &self.layout);
        let args = task.args(&self.region, &self.layout);
        flat(guarded(|| task.op.reduce(&args, partials, all, &mut out)))?;
        let mut done = CompletionEntry::bare(
            task.entry.ticket,
            task.entry.attempt,
            Status::Done,
            BusyNanos::new(0),
        );
        done.length = out.length();
        done.inline = out.inline();
        Ok(done)
    }

    pub(super) fn tile(
        &self,
        worker: u32,
        run: &Arc<Run>,
        tile: u32,
        beats: &mut u64,
        lent: &mut Lent,
    ) {
        let task = &run.task;
        if task.expired() {
            self.withdraw(run, (Status::Expired, None));
        }
        if run.verdict.lock().is_none() {
            let start = self.beat(worker, beats, task.entry.ticket, tile);
            let args = task.args(&self.region, &self.layout);
            let own = Lent::words(&mut lent.own, run.scratch.tile);
            let outcome = guarded(|| {
                let partial = task.op.run_tile(tile, &args, own)?;
                if run.scratch.task > 0 {
                    task.op.merge(tile, &args, own, &mut run.all.lock())?;
                }
                Ok(partial)
            });
            match flat(outcome) {
                Ok(partial) => {
                    if let Some(place) = run.partials.lock().get_mut(tile as usize) {
                        *place = partial;
                    }
                }
                Err(verdict) => self.withdraw(run, verdict),
            }
            run.cost.fetch_add(nanos_since(start), Ordering::AcqRel);
        }
        // Releases this tile's partial and cost to the finisher.
        if run.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish(run);
        }
        self.rest(worker, beats);
    }

    fn withdraw(&self, run: &Arc<Run>, verdict: Verdict) {
        // This thread's own tile is still counted, so nothing can be due yet.
        let due = self.schedule.lock().withdraw(run, verdict);
        debug_assert!(due.is_none());
        if let Some(due) = due {
            self.post_due(due);
        }
    }

    /// The last tile is over.
    fn finish(&self, run: &Run) {
        if run.verdict.lock().is_some() {
            return self.post_due(Due::of_run(run));
        }
        let start = Instant::now();
        let outcome = self.reduce(&run.task, &run.partials.lock(), &mut run.all.lock());
        let cost = run
            .cost
            .load(Ordering::Acquire)
            .saturating_add(nanos_since(start));
        self.conclude(&run.task, cost, outcome);
    }

    fn conclude(&self, task: &Task, cost: u64, outcome: Result<CompletionEntry, Verdict>) {
        let cost = BusyNanos::new(cost);
        match outcome {
            Ok(mut done) => {
                done.cost = cost;
                self.post(done, &task.entry.windows);
            }
            Err((status, text)) => {
                let mut due = Due::of(&task.entry, status);
                due.completion.cost = cost;
                due.text = text;
                self.post_due(due);
            }
        }
    }

    pub(super) fn post_due(&self, due: Due) {
        let mut completion = due.completion;
        if let Some(text) = due.text {
            let mut out = self.output(completion.ticket);
            out.clear();
            let bytes = text.as_bytes();
            let length = bytes.len().min(self.layout.sizes.result_bytes as usize);
            let bytes = bytes.get(..length).unwrap_or_default();
            if out.write(bytes).is_err() {
                out.clear();
            }
            completion.length = out.length();
            completion.inline = out.inline();
        }
        debug_assert!(completion.inline.len() == INLINE_BYTES);
        self.post(completion, &due.windows);
    }

    fn output(&self, ticket: u64) -> Output<'_> {
        let capacity = u64::from(self.layout.sizes.result_bytes);
        Output::new(&self.region, self.layout.result_of(ticket), capacity)
    }
}
