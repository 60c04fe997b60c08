//! Budgets: what engagements may spend, drawn durably in chunks and spent in memory.
//!
//! | file | noun |
//! | --- | --- |
//! | `mod` | the treasury: all purses, and what draws for them |
//! | `options` | bounds, and whether anything is refused |
//! | `charge` | a measured cost on its way to a record |
//! | `pot` | costs that ride in no outcome, until they are recorded together |
//! | `verbs` | granting, raising, lowering and reconciling |
//!
//! Invariants
//! - Nothing is spent from a chunk before the record that draws it is durable.
//! - A measured cost reaches the journal once: in its outcome's record, or through the pot. What
//!   a crash takes of it stays drawn and counts as spent until it is reconciled.
//! - No record is made per piece of work.

mod charge;
mod options;
mod pot;
mod verbs;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use orlop_admission::{Dimension, Lane, Payer, Purse, PurseSnapshot, Refusal};
use orlop_saga::amount::BusyNanos;
use orlop_saga::budget::{Books, Budget, BudgetEvent, LineKey};
use orlop_saga::event::Event;
use orlop_saga::id::TenantId;
use orlop_saga::tenant::AuditTag;
use orlop_store::log::{AppendError, Purpose};
use parking_lot::{Condvar, Mutex};

pub(crate) use self::charge::{Charge, Fee};
pub use self::options::BudgetOptions;
use self::pot::Pot;
pub use self::verbs::{BudgetError, Budgets};
use crate::core::Core;
use crate::executor::Demand;

/// How long a draw waits that found no room in the journal.
const PATIENCE: Duration = Duration::from_millis(20);

/// Whose turns in the journal records of budgets take: nobody's who may have work of its own, so
/// that no tenant that floods the journal holds up what others may spend.
const BOOKKEEPER: TenantId = TenantId::new(u32::MAX, 0);

/// What is done once a draw has ended, durably or not.
type Waiting = Box<dyn FnOnce(&Arc<Core>, Result<(), AppendError>) + Send>;

/// What is done once the pot that was taken is recorded, or is not.
type Flushed = Box<dyn FnOnce(Result<(), AppendError>) + Send>;

/// Records of the pot on their way to the disk.
#[derive(Default)]
struct Flushing {
    count: usize,
    waiting: Vec<Flushed>,
}

/// Whether an engagement was granted what is in its purse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// It is on its way to the disk. What is under way is settled from the purse already: costs
    /// are in the journal behind the grant, and are to be drawn.
    Asked,
    /// It was, durably.
    Given,
    /// Its record was refused: the engagement is unknown.
    Denied,
}

/// What is known of an engagement.
struct Known {
    purse: Arc<Purse>,
    grant: Grant,
}

/// See the module.
pub(crate) struct Treasury {
    options: BudgetOptions,
    purses: DashMap<AuditTag, Known>,
    /// Those that were granted something once more: looking through the table allocates.
    listed: Mutex<Vec<Arc<Purse>>>,
    /// Whose turn it is to grant or to reconcile, until that is durable or refused.
    turn: Arc<tokio::sync::Mutex<()>>,
    lines: DashMap<LineKey, ()>,
    /// How many lines each life of a tenant has.
    lines_of: DashMap<TenantId, usize>,
    /// How many lines there are: counting them would take all their locks.
    lines_count: AtomicUsize,
    pot: Pot,
    flushing: Mutex<Flushing>,
    waiting: Mutex<Vec<(AuditTag, Waiting)>>,
    /// How many draws are on their way to the disk.
    draws: Mutex<usize>,
    drawn: Condvar,
    core: Arc<OnceLock<Weak<Core>>>,
}

/// Who pays for one piece of work.
pub(crate) enum Paying {
    Anybody,
    Purse(Arc<Purse>),
    Unknown,
}

impl Paying {
    pub(crate) const fn payer(&self) -> Payer<'_> {
        match self {
            Self::Anybody => Payer::Anybody,
            Self::Purse(purse) => Payer::Purse(purse),
            Self::Unknown => Payer::Unknown,
        }
    }
}

fn too_many_lines(used: usize, cap: usize) -> Refusal {
    Refusal::QuotaExceeded {
        dimension: Dimension::LedgerLines,
        asked: 1,
        used: used as u64,
        cap: cap as u64,
    }
}

impl Treasury {
    pub(crate) fn new(options: BudgetOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            purses: DashMap::new(),
            listed: Mutex::default(),
            turn: Arc::default(),
            lines: DashMap::new(),
            lines_of: DashMap::new(),
            lines_count: AtomicUsize::new(0),
            pot: Pot::default(),
            flushing: Mutex::default(),
            waiting: Mutex::default(),
            draws: Mutex::default(),
            drawn: Condvar::new(),
            core: Arc::default(),
        })
    }

    /// Takes over what the journal says.
    pub(crate) fn recover(&self, core: &Arc<Core>, books: &Books) {
        let _ = self.core.set(Arc::downgrade(core));
        for (audit, budget) in books.budgets() {
            self.found(*audit, budget);
        }
        for key in books.lines().keys() {
            self.lines.insert(*key, ());
            *self.lines_of.entry(key.tenant).or_default() += 1;
        }
        self.lines_count.store(self.lines.len(), Ordering::Relaxed);
    }

    fn core(&self) -> Option<Arc<Core>> {
        self.core.get()?.upgrade()
    }

    /// A purse that tells whoever waits for what comes into it.
    fn purse_of(&self, audit: AuditTag, budget: &Budget) -> Arc<Purse> {
        let core = self.core.clone();
        let purse = Purse::new(audit, budget);
        purse.on_lift(move || {
            let Some(core) = core.get().and_then(Weak::upgrade) else {
                return;
            };
            let room = core.executor.room.clone();
            let work = core.executor.runtime.timers().work();
            // Not from here: locks may be held.
            core.executor.runtime.spawn(async move {
                room.budget_changed(audit);
                drop(work);
            });
        });
        Arc::new(purse)
    }

    /// An engagement found in the store.
    fn found(&self, audit: AuditTag, budget: &Budget) {
        let purse = self.purse_of(audit, budget);
        self.listed.lock().push(Arc::clone(&purse));
        let grant = Grant::Given;
        self.purses.insert(audit, Known { purse, grant });
    }

    /// An engagement is about to be granted something. Called in turn.
    fn ask(&self, audit: AuditTag) -> Result<Arc<Purse>, BudgetError> {
        match self.purses.entry(audit) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                match known.grant {
                    Grant::Given => {}
                    Grant::Asked | Grant::Denied => {
                        self.check_engagements()?;
                        known.grant = Grant::Asked;
                    }
                }
                Ok(Arc::clone(&known.purse))
            }
            Entry::Vacant(vacant) => {
                self.check_engagements()?;
                let purse = self.purse_of(audit, &Budget::default());
                let grant = Grant::Asked;
                let known = vacant.insert(Known { purse, grant });
                Ok(Arc::clone(&known.purse))
            }
        }
    }

    fn check_engagements(&self) -> Result<(), BudgetError> {
        let engagements_max = self.options.engagements_max;
        if self.listed.lock().len() < engagements_max {
            return Ok(());
        }
        Err(BudgetError::Full { engagements_max })
    }

    /// The grant is durable. Whoever waits for it goes on.
    fn give(self: &Arc<Self>, core: &Arc<Core>, purse: &Arc<Purse>, limit: BusyNanos) {
        let audit = purse.audit();
        purse.set_limit(limit);
        if let Some(mut known) = self.purses.get_mut(&audit)
            && known.grant != Grant::Given
        {
            known.grant = Grant::Given;
            self.listed.lock().push(Arc::clone(purse));
        }
        self.tend(purse);
        let (room, work) = (
            core.executor.room.clone(),
            core.executor.runtime.timers().work(),
        );
        core.executor.runtime.spawn(async move {
            room.budget_changed(audit);
            drop(work);
        });
    }

    /// The grant is not in the journal: the engagement is as unknown as it was, if it was.
    fn deny(&self, audit: AuditTag) {
        if let Some(mut known) = self.purses.get_mut(&audit) {
            known.grant = match known.grant {
                Grant::Given => Grant::Given,
                Grant::Asked | Grant::Denied => Grant::Denied,
            };
        }
    }

    /// The purse of an engagement that was granted something.
    pub(crate) fn purse(&self, audit: AuditTag) -> Option<Arc<Purse>> {
        let known = self.purses.get(&audit)?;
        match known.grant {
            Grant::Given => Some(Arc::clone(&known.purse)),
            Grant::Asked | Grant::Denied => None,
        }
    }

    /// The purse that a cost is settled from.
    fn payer_at_the_end(&self, audit: AuditTag) -> Option<Arc<Purse>> {
        let known = self.purses.get(&audit)?;
        match known.grant {
            Grant::Given | Grant::Asked => Some(Arc::clone(&known.purse)),
            Grant::Denied => None,
        }
    }

    /// Every purse, in the order of their engagements.
    pub(crate) fn snapshots(&self) -> Vec<PurseSnapshot> {
        let mut all = Vec::new();
        self.snapshot_into(&mut all);
        all
    }

    /// The same, into storage that is there already.
    pub(crate) fn snapshot_into(&self, into: &mut Vec<PurseSnapshot>) {
        into.clear();
        into.extend(self.listed.lock().iter().map(|purse| purse.snapshot()));
        into.sort_unstable_by_key(|snapshot| snapshot.audit);
    }

    /// Who pays for what is asked for, which has its line in the ledger from here on.
    ///
    /// # Errors
    /// [`Refusal::QuotaExceeded`]: the ledger has as many lines as it may have, in all or of the
    /// tenant.
    pub(crate) fn payer_of(&self, demand: &Demand) -> Result<Paying, Refusal> {
        let paying = self.paying(demand.audit);
        match (&paying, demand.lane) {
            // Refused by admission, in its place among the reasons.
            (Paying::Unknown, _) | (_, Lane::Reserved) => {}
            (Paying::Anybody | Paying::Purse(_), Lane::Ordinary) => {
                self.check_line(demand.account.id(), demand.audit)?;
            }
        }
        Ok(paying)
    }

    /// Admission has answered: the next chunk is drawn, if it is time for that.
    pub(crate) fn answered(self: &Arc<Self>, purse: &Arc<Purse>, refusal: Option<&Refusal>) {
        if matches!(refusal, None | Some(Refusal::BudgetPending { .. })) {
            self.tend(purse);
        }
    }

    /// Who pays for work of an engagement.
    pub(crate) fn paying(&self, audit: AuditTag) -> Paying {
        if !self.options.enforced {
            return Paying::Anybody;
        }
        self.purse(audit).map_or(Paying::Unknown, Paying::Purse)
    }

    /// Whether work may begin whose parts are admitted one by one later.
    ///
    /// # Errors
    /// [`Refusal::EngagementUnknown`].
    pub(crate) fn check_known(&self, audit: AuditTag) -> Result<(), Refusal> {
        match self.paying(audit) {
            Paying::Anybody | Paying::Purse(_) => Ok(()),
            Paying::Unknown => Err(Refusal::EngagementUnknown { audit }),
        }
    }

    /// Makes sure of a line for the tenant and whoever pays.
    ///
    /// # Errors
    /// [`Refusal::QuotaExceeded`]: the ledger has as many lines as it may have, in all or of the
    /// tenant.
    fn check_line(&self, tenant: TenantId, audit: AuditTag) -> Result<(), Refusal> {
        let key = LineKey { tenant, audit };
        if self.lines.contains_key(&key) {
            return Ok(());
        }
        // Held to the end: the lines of one tenant are counted one after the other.
        let mut own = self.lines_of.entry(tenant).or_default();
        if self.lines.contains_key(&key) {
            return Ok(());
        }
        let own_max = self.options.lines_of_tenant_max;
        if *own >= own_max {
            return Err(too_many_lines(*own, own_max));
        }
        let lines_max = self.options.lines_max;
        let room = |count: usize| (count < lines_max).then(|| count.saturating_add(1));
        let counted = self
            .lines_count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, room);
        if let Err(count) = counted {
            return Err(too_many_lines(count, lines_max));
        }
        *own += 1;
        self.lines.insert(key, ());
        Ok(())
    }

    /// Has the next chunk drawn, if it is time for that.
    pub(crate) fn tend(self: &Arc<Self>, purse: &Arc<Purse>) {
        let Some(amount) = purse.begin_draw(self.options.chunk) else {
            return;
        };
        let Some(core) = self.core() else {
            purse.not_drawn(amount);
            return;
        };
        self.flush_if_due(&core);
        *self.draws.lock() += 1;
        let audit = purse.audit();
        let event = Event::Budget(BudgetEvent::Drawn { audit, amount });
        let (treasury, purse) = (Arc::clone(self), Arc::clone(purse));
        core.append(BOOKKEEPER, Purpose::New, &[event], move |core, result| {
            match &result {
                Ok(_) => purse.drawn(amount),
                Err(error) => {
                    tracing::warn!(?audit, %amount, %error, "a budget was not drawn");
                    purse.not_drawn(amount);
                    Self::try_later(core, audit);
                }
            }
            *treasury.draws.lock() -= 1;
            treasury.drawn.notify_all();
            treasury.draw_ended(core, audit, &result.map(drop));
        });
    }

    /// What waits for a draw that found no room in the journal asks again in a while.
    fn try_later(core: &Arc<Core>, audit: AuditTag) {
        let weak = Arc::downgrade(core);
        core.executor.runtime.after(PATIENCE, move || {
            if let Some(core) = weak.upgrade()
                && !core.has_ended()
                && !core.is_poisoned()
            {
                core.executor.room.budget_changed(audit);
            }
        });
    }

    /// Calls `then` once the draw under way has ended; at once, and never from here, if there is
    /// none.
    pub(crate) fn when_drawn(&self, core: &Arc<Core>, audit: AuditTag, then: Waiting) {
        let mut waiting = self.waiting.lock();
        if self.purse(audit).is_some_and(|purse| purse.is_drawing()) {
            waiting.push((audit, then));
            return;
        }
        drop(waiting);
        Self::tell(core, vec![then], Ok(()));
    }

    fn draw_ended(&self, core: &Arc<Core>, audit: AuditTag, result: &Result<(), AppendError>) {
        let mine = |(of, _): &mut (AuditTag, Waiting)| *of == audit;
        let mut waiting = self.waiting.lock();
        let told: Vec<Waiting> = waiting.extract_if(.., mine).map(|(_, then)| then).collect();
        drop(waiting);
        if !told.is_empty() {
            Self::tell(core, told, result.clone());
        }
    }

    /// On the engine's own threads: what is told asks for permits, and may be many.
    fn tell(core: &Arc<Core>, told: Vec<Waiting>, result: Result<(), AppendError>) {
        let wait = match &result {
            Ok(()) => Duration::ZERO,
            Err(_) => PATIENCE,
        };
        let weak = Arc::downgrade(core);
        core.executor.runtime.after(wait, move || {
            if let Some(core) = weak.upgrade()
                && !core.has_ended()
            {
                for then in told {
                    then(&core, result.clone());
                }
            }
        });
    }

    /// Keeps costs that will ride in no outcome.
    fn put(&self, key: LineKey, cost: BusyNanos, beyond: BusyNanos) {
        self.pot.put(key, cost, beyond);
    }

    /// Records what is in the pot, if that is much.
    pub(crate) fn flush_if_due(self: &Arc<Self>, core: &Arc<Core>) {
        if self.pot.total() >= self.options.chunk {
            self.flush_then(core, |_| {});
        }
    }

    /// Records what is in the pot and calls `then`, never from here, once that is durable, or is
    /// not.
    pub(crate) fn flush_then(
        self: &Arc<Self>,
        core: &Arc<Core>,
        then: impl FnOnce(Result<(), AppendError>) + Send + 'static,
    ) {
        let mut flushing = self.flushing.lock();
        let taken = self.pot.take();
        let events = taken.events();
        if events.is_empty() || core.check_format_3("a budget or a ledger").is_err() {
            if flushing.count > 0 {
                // What was taken before is not durable yet.
                flushing.waiting.push(Box::new(then));
            } else {
                core.executor.runtime.spawn(async move { then(Ok(())) });
            }
            return;
        }
        flushing.count += 1;
        drop(flushing);
        let treasury = Arc::clone(self);
        core.append(BOOKKEEPER, Purpose::Settle, &events, move |_, result| {
            if result.is_err() {
                treasury.pot.put_back(taken);
            }
            let result = result.map(drop);
            for waiting in treasury.flushed() {
                waiting(result.clone());
            }
            then(result);
        });
    }

    /// Waits until no draw is on its way to the disk, at most until `deadline`.
    pub(crate) fn wait_drawn(&self, deadline: Instant) {
        let mut draws = self.draws.lock();
        let waiting = |draws: &mut usize| *draws > 0;
        // Late, it is not returned, and counts as spent until it is reconciled.
        let _late = self.drawn.wait_while_until(&mut draws, waiting, deadline);
    }

    /// A flush has ended; who waits for that, if it was the last one.
    fn flushed(&self) -> Vec<Flushed> {
        let mut flushing = self.flushing.lock();
        flushing.count -= 1;
        if flushing.count > 0 {
            return Vec::new();
        }
        std::mem::take(&mut flushing.waiting)
    }

    /// What a clean close records: all that was spent, and what is left of what was drawn.
    pub(crate) fn close_events(&self, quiet: bool) -> Vec<Event> {
        let mut events = self.pot.take().events();
        // What still runs may still spend what is free.
        if quiet {
            for purse in self.listed.lock().iter() {
                let (audit, amount) = (purse.audit(), purse.take_free());
                if amount > BusyNanos::default() {
                    events.push(Event::Budget(BudgetEvent::Returned { audit, amount }));
                }
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use orlop_admission::Tenants;

    use super::*;

    #[test]
    fn records_of_budgets_wait_for_their_turn_behind_no_tenant() {
        assert!(BOOKKEEPER.slot() >= Tenants::TENANTS_MAX);
    }
}
