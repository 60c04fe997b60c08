//! The projector's thread: what it does, in which order, and when it sleeps.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use orlop_saga::blob::BlobRef;
use orlop_saga::compat::Format;
use orlop_saga::effect::EffectId;
use orlop_saga::id::{Lsn, SagaId, StoreId, TenantId};
use orlop_saga::saga::SagaState;
use orlop_saga::time::{Monotonic, WallMillis};

use crate::blob::Keeper;
use crate::checkpoint::{self, Checkpoint};
use crate::disk::Disk;
use crate::log::{Batch, Log};
use crate::projection::{self, Retained};
use crate::projector::blobs::{BlobReader, DeadBlobs};
use crate::projector::fold::Applier;
use crate::projector::inbox::{Inbox, Request, Stop};
use crate::projector::job::{self, Exported, Job};
use crate::projector::retention::{RetentionClock, expired};
use crate::projector::{Answer, Projected, ProjectorError, ProjectorOptions, Start};
use crate::retained::RetainedKeys;
use crate::tables::{Change, Tables, TablesError, TablesHome};

/// What the thread owns.
pub(crate) struct Worker<'a> {
    inbox: &'a Inbox,
    log: Arc<OnceLock<Weak<dyn Log>>>,
    store: StoreId,
    format: Format,
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    home: Box<dyn TablesHome>,
    tables: Option<Box<dyn Tables>>,
    applier: Applier,
    retained: Arc<RetainedKeys>,
    keeper: Arc<Keeper>,
    dead: DeadBlobs,
    blobs: BlobReader,
    projected: Arc<dyn Projected>,
    retention: RetentionClock,
    clock: Arc<dyn orlop_saga::time::Clock>,
    options: ProjectorOptions,
    job: Option<Job>,
    /// Why the last export was not written, for whoever asked for it.
    given_up: Option<ProjectorError>,
    /// Backups that wait for their turn.
    backups: VecDeque<(PathBuf, Answer<Exported, ProjectorError>)>,
    checkpointed: Option<Lsn>,
    bytes_since_checkpoint: u64,
    bytes_since_export: u64,
    export_bytes_last: u64,
    /// The earliest expiry there may be, and when retention last ran.
    expiry_next: Option<WallMillis>,
    swept: Option<Monotonic>,
    failed: bool,
}

impl<'a> Worker<'a> {
    /// The thread's whole life. Whatever happens in it, everybody who waits is answered.
    pub(super) fn run(mut start: Start, inbox: &'a Inbox, log: Arc<OnceLock<Weak<dyn Log>>>) {
        let hold = start.hold.take();
        let ended = catch_unwind(AssertUnwindSafe(|| Self::new(start, inbox, log).serve()));
        if ended.is_err() {
            inbox.fail(ProjectorError::Panicked);
        }
        // Unlocked before anybody is told that all has ended.
        drop(hold);
        inbox.end();
    }

    fn new(start: Start, inbox: &'a Inbox, log: Arc<OnceLock<Weak<dyn Log>>>) -> Self {
        inbox.projected(0, start.live.lsn());
        Self {
            inbox,
            log,
            store: start.store,
            blobs: BlobReader {
                disk: Arc::clone(&start.disk),
                store: start.folder.clone(),
            },
            keeper: start.keeper,
            dead: start.dead,
            format: start.format,
            disk: start.disk,
            folder: start.folder,
            home: start.home,
            tables: Some(start.tables),
            applier: Applier::new(start.live, start.format),
            retained: start.retained,
            projected: start.projected,
            retention: start.retention,
            clock: start.clock,
            options: start.options,
            job: None,
            given_up: None,
            backups: VecDeque::new(),
            checkpointed: start.checkpointed,
            bytes_since_checkpoint: start.replayed_bytes,
            bytes_since_export: start.unexported_bytes,
            export_bytes_last: start.export_bytes,
            // Before the first pass nobody knows.
            expiry_next: Some(WallMillis::new(0)),
            swept: None,
            failed: false,
        }
    }

    fn serve(&mut self) {
        loop {
            let taken = self.inbox.take(self.options.group_bytes_max, self.pause());
            // A lookup need not wait for what came before it, a checkpoint covers it.
            let (lookups, checkpoints): (Vec<_>, Vec<_>) =
                taken.requests.into_iter().partition(Request::is_lookup);
            for lookup in lookups {
                self.answer(lookup);
            }
            let worked = self.work(&taken.batches);
            self.settle(worked);
            for checkpoint in checkpoints {
                self.answer(checkpoint);
            }
            if let Some(stop) = taken.stop {
                self.stop(stop);
                return;
            }
        }
    }

    /// How long the thread may sleep; for ever if nothing is scheduled.
    fn pause(&self) -> Option<Duration> {
        if self.failed {
            return None;
        }
        if self.job.is_some() || !self.backups.is_empty() {
            return Some(Duration::ZERO);
        }
        let expiry = self.expiry_next?.since(self.retention.now());
        let rest = self.swept.map_or(Duration::ZERO, |swept| {
            let passed = self.clock.monotonic().since(swept);
            Duration::from_millis(self.options.retention_pause_ms).saturating_sub(passed)
        });
        Some(expiry.max(rest))
    }

    fn work(&mut self, batches: &[(Lsn, Batch)]) -> Result<(), ProjectorError> {
        if self.failed {
            return Ok(());
        }
        self.project(batches)?;
        if self.bytes_since_checkpoint >= self.options.checkpoint_bytes {
            let done = self.checkpoint().map(drop);
            self.tolerate(done)?;
            self.schedule()?;
        }
        self.step_job()?;
        if self.pause_of_retention_is_over() {
            self.sweep()?;
            // Nothing else may come that an export would be written for.
            if self.dead.bytes() >= self.options.export_bytes_min {
                self.schedule()?;
            }
        }
        Ok(())
    }

    /// Folds batches, applies what they leave, and announces the keys.
    fn project(&mut self, batches: &[(Lsn, Batch)]) -> Result<(), ProjectorError> {
        let mut keys: Vec<(EffectId, usize)> = Vec::new();
        let mut blobs: Vec<(TenantId, BlobRef)> = Vec::new();
        let mut bytes: u64 = 0;
        for (first, batch) in batches {
            let mut lsn = *first;
            for record in batch.iter() {
                let applied = self.tables()?.applied();
                if let Some(folded) = self.applier.record(lsn, record, applied)? {
                    keys.extend(folded.row_bytes.map(|bytes| (folded.id, bytes)));
                    blobs.extend(folded.blob.map(|blob| (folded.id.tenant, blob)));
                    let at = folded.expires_at;
                    self.expiry_next = Some(self.expiry_next.map_or(at, |next| next.min(at)));
                }
                if self.applier.byte_len() as u64 >= self.options.group_bytes_max {
                    self.flush()?;
                }
                lsn = lsn.next();
            }
            bytes = bytes.saturating_add(batch.byte_len());
        }
        self.flush()?;
        for (tenant, blob) in &blobs {
            self.keeper.ledger.landed(*tenant, *blob);
        }
        // What is in blobs counts as if it were in the journal: it is given back with that.
        let outside = blobs.iter().map(|(_, blob)| blob.bytes).sum();
        let grown = bytes.saturating_add(outside);
        self.bytes_since_checkpoint = self.bytes_since_checkpoint.saturating_add(grown);
        self.bytes_since_export = self.bytes_since_export.saturating_add(grown);
        for (id, row_bytes) in &keys {
            self.retained.insert(*id, *row_bytes);
        }
        let lsn = self.applier.live.lsn();
        self.inbox.projected(bytes, lsn);
        if !keys.is_empty() {
            let keys: Vec<_> = keys.iter().map(|(id, _)| (id.tenant, id.key)).collect();
            self.projected.projected(&keys, lsn);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ProjectorError> {
        let tables = self.tables.as_deref_mut().ok_or(TablesError::Closed)?;
        let changes = self.applier.flush(tables)?;
        self.follow(&changes)
    }

    /// Passes changes on to the copy under way. A copy that fails is given up, not the tables.
    fn follow(&mut self, changes: &[Change]) -> Result<(), ProjectorError> {
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        match job.follow(changes) {
            Ok(()) => Ok(()),
            Err(error) => self.give_up(&error),
        }
    }

    fn give_up(&mut self, error: &ProjectorError) -> Result<(), ProjectorError> {
        tracing::warn!(%error, "a copy of the tables was given up");
        match self.job.take() {
            Some(Job::Move { fresh, .. }) => {
                self.bytes_since_export = 0;
                // It failed already; whatever closing it says changes nothing.
                let _ = fresh.close();
                self.home.discard()?;
            }
            Some(Job::Backup { answer, .. }) => answer(Err(error.clone())),
            Some(Job::Export { .. }) | None => {
                self.bytes_since_export = 0;
                self.given_up = Some(error.clone());
                job::remove_unfinished(&*self.disk, &self.folder);
            }
        }
        Ok(())
    }

    /// Starts the next backup that waits, if nothing is under way.
    fn next_backup(&mut self) {
        while self.job.is_none()
            && let Some((folder, answer)) = self.backups.pop_front()
        {
            match Job::backup(&*self.disk, folder, self.store, self.format, answer) {
                Ok(job) => self.job = Some(job),
                Err((error, answer)) => answer(Err(error)),
            }
        }
    }

    /// Nobody will write the backups that are under way or wait.
    fn refuse_backups(&mut self, error: &ProjectorError) {
        let waiting = std::mem::take(&mut self.backups).into_iter();
        waiting.for_each(|(_, answer)| answer(Err(error.clone())));
        match self.job.take() {
            Some(Job::Backup { answer, .. }) => answer(Err(error.clone())),
            other @ (Some(Job::Export { .. } | Job::Move { .. }) | None) => self.job = other,
        }
    }

    /// Syncs the tables and writes the fold that stands at the same lsn.
    fn checkpoint(&mut self) -> Result<Lsn, ProjectorError> {
        self.flush()?;
        self.tables()?.sync()?;
        let lsn = self.applier.live.lsn();
        if self.checkpointed != Some(lsn) {
            let checkpoint = Checkpoint {
                store: self.store,
                at: self.clock.wall(),
                unexported_bytes: self.bytes_since_export,
                live: self.applier.live.clone(),
            };
            checkpoint::write(&*self.disk, &self.folder, &checkpoint, self.format)?;
            self.checkpointed = Some(lsn);
        }
        self.bytes_since_checkpoint = 0;
        let export = job::prune(&*self.disk, &self.folder, self.options.exports_kept)?;
        self.free(export)?;
        let changes = self.dead.unlink(&self.keeper, export);
        if !changes.is_empty() {
            let applied = self.tables()?.applied();
            self.tables()?.apply(&changes, applied)?;
            self.follow(&changes)?;
        }
        Ok(lsn)
    }

    /// A checkpoint for which there was no space, or an export that was not written or removed,
    /// takes nothing from the tables: the journal has everything since those before, and another
    /// is tried after half as much again.
    fn tolerate(&mut self, done: Result<(), ProjectorError>) -> Result<(), ProjectorError> {
        let tolerable = match &done {
            Ok(()) => return Ok(()),
            Err(ProjectorError::Checkpoint(error)) => error.is_no_space(),
            Err(ProjectorError::Export(_)) => true,
            Err(
                ProjectorError::Tables(_)
                | ProjectorError::Fold(_)
                | ProjectorError::Record { .. }
                | ProjectorError::Row(_)
                | ProjectorError::Panicked
                | ProjectorError::Closed,
            ) => false,
        };
        if !tolerable {
            return done;
        }
        tracing::warn!(?done, "no checkpoint or export; the ones before stay");
        self.bytes_since_checkpoint = self.options.checkpoint_bytes / 2;
        Ok(())
    }

    /// Lets the log free what neither a kept checkpoint nor a kept export needs.
    fn free(&self, export: Option<Lsn>) -> Result<(), ProjectorError> {
        let checkpoint = checkpoint::oldest(&*self.disk, &self.folder)?;
        let (Some(export), Some(checkpoint)) = (export, checkpoint) else {
            return Ok(());
        };
        if let Some(log) = self.log.get().and_then(Weak::upgrade)
            && let Err(error) = log.forget_before(export.min(checkpoint).next())
        {
            tracing::warn!(%error, "the log kept segments that nothing needs");
        }
        Ok(())
    }

    /// Starts a copy if one is due.
    fn schedule(&mut self) -> Result<(), ProjectorError> {
        if self.job.is_some() {
            return Ok(());
        }
        let size = self.tables()?.size()?;
        let export_due = self.options.export_bytes_min.max(self.export_bytes_last);
        let job = if self.home.is_bloated(size) {
            Job::move_rows(&mut *self.home)
        } else if self.bytes_since_export.max(self.dead.bytes()) >= export_due {
            Job::export(&*self.disk, &self.folder, self.store, self.format)
        } else {
            return Ok(());
        };
        match job {
            Ok(job) => self.job = Some(job),
            Err(error) => self.give_up(&error)?,
        }
        Ok(())
    }

    fn step_job(&mut self) -> Result<(), ProjectorError> {
        // Whatever was under way before, a backup may wait for its end.
        self.next_backup();
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let tables = self.tables.as_deref_mut().ok_or(TablesError::Closed)?;
        match job.step(tables) {
            Ok(true) => self.end_job(),
            Ok(false) => Ok(()),
            Err(error) => self.give_up(&error),
        }
    }

    fn end_job(&mut self) -> Result<(), ProjectorError> {
        match self.job.take() {
            None => Ok(()),
            Some(Job::Export { writer, .. }) => {
                let tables = self.tables.as_deref().ok_or(TablesError::Closed)?;
                let live = &self.applier.live;
                let disk = &*self.disk;
                let ended = job::end_export(writer, disk, &self.folder, self.store, tables, live);
                match ended {
                    Ok(bytes) => {
                        self.bytes_since_export = 0;
                        self.export_bytes_last = bytes;
                        // Frees the journal, and needs the checkpoint that goes with it.
                        let done = self.checkpoint().map(drop);
                        self.tolerate(done)
                    }
                    Err(error) => self.give_up(&error),
                }
            }
            Some(Job::Move { fresh, .. }) => {
                job::end_move(fresh, &mut self.tables, &mut *self.home)
            }
            Some(Job::Backup {
                writer,
                folder,
                answer,
                ..
            }) => {
                let tables = self.tables.as_deref().ok_or(TablesError::Closed)?;
                let live = &self.applier.live;
                let disk = &*self.disk;
                answer(job::end_backup(
                    writer, disk, &folder, self.store, tables, live,
                ));
                Ok(())
            }
        }
    }

    fn pause_of_retention_is_over(&self) -> bool {
        self.job.is_none() && self.pause() == Some(Duration::ZERO)
    }

    /// One pass of retention; true if more has expired.
    fn sweep(&mut self) -> Result<bool, ProjectorError> {
        let now = self.retention.now();
        let rows_max = self.options.expired_rows_max;
        let found = expired(self.tables()?, now, rows_max)?;
        let more = found.next.is_some_and(|at| at <= now);
        // With more to remove the next pass only lets other work go first.
        self.swept = (!more).then(|| self.clock.monotonic());
        self.expiry_next = found.next;
        if !found.changes.is_empty() {
            let applied = self.tables()?.applied();
            let mut changes = found.changes;
            let ledger = &self.keeper.ledger;
            self.dead
                .removed(ledger, &found.blobs, applied, &mut changes)?;
            self.tables()?.apply(&changes, applied)?;
            self.follow(&changes)?;
            for id in &found.keys {
                self.retained.remove(*id);
            }
            if !more {
                self.retained.shrink();
            }
        }
        Ok(more)
    }

    fn answer(&mut self, request: Request) {
        if self.failed {
            request.refuse(TablesError::Poisoned);
            return;
        }
        match request {
            Request::Outcome { id, answer } => {
                let found = self.outcome(id);
                let failed = failure_of(&found);
                answer(found);
                self.settle(failed);
            }
            Request::Saga { id, answer } => {
                let found = self.saga(id);
                let failed = failure_of(&found);
                answer(found);
                self.settle(failed);
            }
            Request::Books { answer } => {
                let batches = self.inbox.take_batches();
                let projected = self.project(&batches);
                let books = self.applier.live.books();
                answer(projected.clone().map(|()| books.clone()));
                self.settle(projected);
            }
            Request::Checkpoint { export, answer } => {
                let done = self.checkpoint_now(export);
                answer(done.clone());
                let done = self.tolerate(done.map(drop));
                self.settle(done);
            }
            Request::Backup { folder, answer } => {
                // What was acknowledged before it was asked for is in it.
                let batches = self.inbox.take_batches();
                let projected = self.project(&batches);
                self.backups.push_back((folder, answer));
                self.next_backup();
                self.settle(projected);
            }
        }
    }

    /// A checkpoint of everything that is durable now, after retention has had its way.
    fn checkpoint_now(&mut self, export: bool) -> Result<Lsn, ProjectorError> {
        let batches = self.inbox.take_batches();
        self.project(&batches)?;
        while self.sweep()? {}
        let mut exported = Ok(());
        if export {
            while self.job.is_some() {
                self.step_job()?;
            }
            exported = self.export_now();
        }
        let lsn = self.checkpoint()?;
        exported.map(|()| lsn)
    }

    /// Writes an export from its beginning to its end.
    fn export_now(&mut self) -> Result<(), ProjectorError> {
        self.given_up = None;
        match Job::export(&*self.disk, &self.folder, self.store, self.format) {
            Ok(job) => self.job = Some(job),
            Err(error) => self.give_up(&error)?,
        }
        while matches!(self.job, Some(Job::Export { .. })) {
            self.step_job()?;
        }
        self.given_up.take().map_or(Ok(()), Err)
    }

    fn outcome(&mut self, id: EffectId) -> Result<Option<Retained>, TablesError> {
        let now = self.retention.now();
        let Some(value) = self.tables()?.get(&projection::outcome_key(id))? else {
            return Ok(None);
        };
        let retained = projection::decode_outcome(&value).map_err(|e| not_a_row(&e))?;
        if retained.expires_at <= now {
            return Ok(None);
        }
        self.blobs.outcome(id.tenant, retained).map(Some)
    }

    fn saga(&mut self, id: SagaId) -> Result<Option<SagaState>, TablesError> {
        let value = self.tables()?.get(&projection::saga_key(id))?;
        let Some(value) = value else {
            return Ok(None);
        };
        let state = projection::decode_saga(&value).map_err(|e| not_a_row(&e))?;
        self.blobs.saga(state).map(Some)
    }

    fn tables(&mut self) -> Result<&mut (dyn Tables + 'static), TablesError> {
        self.tables.as_deref_mut().ok_or(TablesError::Closed)
    }

    /// After the first failure nothing is applied any more, and a tree whose sync failed is not
    /// opened again.
    fn settle(&mut self, result: Result<(), ProjectorError>) {
        let Err(error) = result else {
            return;
        };
        if !self.failed {
            self.failed = true;
            tracing::error!(%error, "the projector stopped; the journal has everything");
            if matches!(error, ProjectorError::Tables(_)) {
                self.home.distrust();
            }
            self.refuse_backups(&error);
            self.inbox.fail(error);
        }
    }

    fn stop(&mut self, stop: Stop) {
        let mut result = Ok(());
        if stop.checkpoint {
            result = if self.failed {
                Err(self.inbox.failure().unwrap_or(ProjectorError::Closed))
            } else {
                self.checkpoint().map(drop)
            };
            self.settle(result.clone());
        }
        self.refuse_backups(&ProjectorError::Closed);
        if let Some(Job::Move { fresh, .. }) = self.job.take() {
            let _ = fresh.close();
            let _ = self.home.discard();
        }
        if let Some(tables) = self.tables.take() {
            let closed = tables.close().map_err(ProjectorError::from);
            result = result.and(closed);
        }
        for answer in stop.answers {
            answer(result.clone());
        }
    }
}

/// What an answer says of the tables themselves.
fn failure_of<T>(found: &Result<T, TablesError>) -> Result<(), ProjectorError> {
    match found {
        Ok(_) | Err(TablesError::Blob { .. }) => Ok(()),
        Err(
            error @ (TablesError::Io { .. }
            | TablesError::Damaged { .. }
            | TablesError::Poisoned
            | TablesError::TooLarge { .. }
            | TablesError::Closed),
        ) => Err(error.clone().into()),
    }
}

fn not_a_row(error: &projection::RowError) -> TablesError {
    TablesError::damaged(error.to_string())
}
