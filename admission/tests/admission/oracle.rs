//! The oracle: admission again, one request at a time, with plain vectors and no sharing.

use std::collections::HashMap;
use std::time::Duration;

use orlop_admission::{
    ClassWeights, Dimension, GroupId, Lane, Quotas, Refusal, Scope, Share, TenantState,
};
use orlop_saga::id::TenantId;
use orlop_saga::tenant::Class;
use orlop_saga::time::Monotonic;

use crate::fair::{Classes, Fair};

#[derive(Clone, Debug)]
pub struct Item {
    pub id: u32,
    pub life: usize,
    pub class: Class,
    pub lane: Lane,
    pub slots: u64,
    pub staging: u64,
    pub deadline: Option<Monotonic>,
    pub since: Monotonic,
    pub timeout_at: Option<Monotonic>,
    pub charged: u64,
    /// What it was known to cost when it came.
    pub known: u64,
}

impl Item {
    fn expiry(&self) -> Option<(Monotonic, bool)> {
        [
            self.deadline.map(|at| (at, false)),
            self.timeout_at.map(|at| (at, true)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn overdue(&self, now: Monotonic) -> Option<Refusal> {
        let (at, timed_out) = self.expiry()?;
        if at > now {
            None
        } else if timed_out {
            let waited = now.since(self.since);
            Some(Refusal::QueueTimeout { waited })
        } else {
            Some(Refusal::Expired)
        }
    }
}

/// The refusal of what would be done `nanos` from now, if that is too late.
fn late(deadline: Monotonic, now: Monotonic, nanos: u64) -> Option<Refusal> {
    let done = now.get() + nanos;
    (done > deadline.get()).then(|| Refusal::PredictedLate {
        retry_after: Duration::from_nanos(done - deadline.get()),
    })
}

#[derive(Debug)]
pub struct Life {
    pub id: TenantId,
    pub state: TenantState,
    pub quotas: Quotas,
}

#[derive(Debug, Default)]
pub struct PoolModel {
    pub slots_max: u64,
    pub per_tenant: u64,
    pub queue_max: u64,
    pub queue_per_tenant: u64,
    pub staging_max: u64,
    pub timeout: Option<Duration>,
    pub waiting: Vec<Item>,
    pub running: Vec<Item>,
    pub fair: Fair,
    /// The average cost, in sixteenths of a nanosecond, once one is known.
    pub average: Option<u64>,
    /// When it was last believed to be less.
    pub doubted: u64,
    pub guess: u64,
    pub backfill_max: u32,
    /// How many went ahead of each item while it was in front.
    pub overtaken: HashMap<u32, u32>,
    pub weights: ClassWeights,
    pub classes: HashMap<usize, Classes>,
    pub workers: u64,
    pub published_max: Option<u64>,
    /// Whether turns are kept count of: since somebody had to wait, or always.
    pub contended: bool,
    pub always: bool,
    /// After how many admissions and settlements in a row nobody waited.
    pub calm: u32,
    /// Which measurements of each life are learnt from while nobody waits.
    pub lots: HashMap<usize, u32>,
}

/// What a node serves until a child of `weight` was served `ahead`.
fn until(node: u64, weights: u64, ahead: u64, weight: u64) -> u64 {
    (ahead * weights / weight).min(node)
}

fn sum<'a>(items: impl Iterator<Item = &'a Item>, of: impl Fn(&Item) -> u64) -> u64 {
    items.map(of).sum()
}

impl PoolModel {
    pub fn slots(&self) -> u64 {
        sum(self.running.iter(), |item| item.slots)
    }

    pub fn staging(&self) -> u64 {
        sum(self.running.iter().chain(&self.waiting), |item| {
            item.staging
        })
    }

    fn in_flight(&self, life: usize) -> u64 {
        sum(self.running.iter().filter(|i| i.life == life), |i| i.slots)
    }

    fn queued(&self, life: usize) -> u64 {
        sum(self.waiting.iter().filter(|i| i.life == life), |_| 1)
    }

    fn known(&self) -> u64 {
        self.average.map_or(0, |average| average / 16)
    }

    /// Whether one more may be out.
    pub fn has_room(&self) -> bool {
        let out = self.published();
        self.published_max.is_none_or(|max| out < max) || self.running.len() as u64 <= self.workers
    }

    /// The cost that is out; what is expected to cost nothing counts as something.
    fn published(&self) -> u64 {
        sum(self.running.iter(), |item| item.charged.max(1))
    }

    /// Whether what is out stays within its bound with one more.
    fn stays_within_cost(&self) -> bool {
        let more = self.average.map_or(self.guess, |average| average / 16);
        let out = self.published() + more.max(1);
        self.published_max.is_none_or(|max| out <= max)
    }

    fn has_free(&self, slots: u64) -> bool {
        self.slots() + slots <= self.slots_max && self.has_room()
    }

    fn starts_at_once(&self, item: &Item) -> bool {
        self.fair.order().is_empty()
            && self.queued(item.life) == 0
            && self.in_flight(item.life) + item.slots <= self.per_tenant
            && self.has_free(item.slots)
    }

    /// How long what goes ahead of a request takes, if all that wait get their shares.
    fn wait(&self, item: &Item) -> u64 {
        let cost = |wanted: &dyn Fn(&Item) -> bool| {
            sum(self.waiting.iter().filter(|item| wanted(item)), |item| {
                item.known
            })
        };
        let any = |wanted: &dyn Fn(&Item) -> bool| self.waiting.iter().any(wanted);
        let (life, share) = (item.life, self.fair.share(item.life));
        let mine = |other: &Item| other.life == life;
        let classes = Class::ALL.into_iter().filter(|&class| {
            class == item.class || any(&|other| mine(other) && other.class == class)
        });
        let weights = classes.map(|class| u64::from(self.weights.of(class).get()));
        let own = until(
            cost(&mine),
            weights.sum(),
            cost(&|other| mine(other) && other.class == item.class),
            self.weights.of(item.class).get().into(),
        );
        let own = if any(&mine) { own } else { 0 };
        let grouped = |other: &Item| self.fair.share(other.life).group == share.group;
        let mut lives: Vec<usize> = self.waiting.iter().map(|item| item.life).collect();
        lives.push(life);
        lives.sort_unstable();
        lives.dedup();
        let shares: Vec<Share> = lives.iter().map(|&life| self.fair.share(life)).collect();
        let in_group = shares.iter().filter(|other| other.group == share.group);
        let weights = in_group.map(|other| u64::from(other.weight.get())).sum();
        let of_group = until(cost(&grouped), weights, own, share.weight.get().into());
        let groups: HashMap<GroupId, u64> = shares
            .iter()
            .map(|other| (other.group, other.group_weight.get().into()))
            .collect();
        let weights = groups.values().sum();
        let all = until(
            cost(&|_| true),
            weights,
            of_group,
            share.group_weight.get().into(),
        );
        let alone = self.workers.min(self.per_tenant).max(1);
        (all / self.workers.max(1)).max(own / alone)
    }

    fn predicted_late(&self, item: &Item, now: Monotonic) -> Option<Refusal> {
        let wait = if self.starts_at_once(item) {
            0
        } else {
            self.wait(item)
        };
        late(item.deadline?, now, wait + self.known())
    }

    fn head(&self, life: usize) -> Option<&Item> {
        let class = self.classes.get(&life)?.first()?;
        let mut of_life = self.waiting.iter().filter(|item| item.life == life);
        of_life.find(|item| item.class == class)
    }

    fn may_start(&self, life: usize) -> bool {
        self.head(life)
            .is_some_and(|head| self.in_flight(life) + head.slots <= self.per_tenant)
    }

    fn classes_of(&mut self, life: usize) -> &mut Classes {
        let weights = self.weights;
        let classes = self.classes.entry(life);
        classes.or_insert_with(|| Classes::of(weights))
    }

    fn refresh(&mut self, life: usize) {
        for class in Class::ALL {
            let mut of_life = self.waiting.iter().filter(|item| item.life == life);
            let waits = of_life.any(|item| item.class == class);
            self.classes_of(life).set_waiting(class, waits);
        }
        if self.queued(life) == 0 && self.in_flight(life) == 0 {
            self.classes.remove(&life);
        }
        let may_start = self.may_start(life);
        self.fair.set_waiting(life, may_start);
        if self.waiting.is_empty() && self.running.is_empty() {
            self.fair.reset();
        }
    }

    fn start(&mut self, mut item: Item) {
        item.charged = self.average.map_or(self.guess, |average| average / 16);
        let charged = item.charged;
        if self.contended {
            self.classes_of(item.life).charge(item.class, charged);
            self.fair.charge(item.life, item.charged);
        }
        self.running.push(item);
    }

    /// From now on turns are kept count of, and what is in flight counts.
    pub fn contend(&mut self) {
        if self.contended {
            return;
        }
        (self.contended, self.calm) = (true, 0);
        self.fair.reset();
        self.classes.clear();
        let mut charged: HashMap<(usize, Class), u64> = HashMap::new();
        for item in &self.running {
            *charged.entry((item.life, item.class)).or_default() += item.charged;
        }
        let mut lives: HashMap<usize, u64> = HashMap::new();
        for ((life, class), charged) in charged {
            self.classes_of(life).owe(class, charged);
            *lives.entry(life).or_default() += charged;
        }
        for (life, charged) in lives {
            self.fair.owe(life, charged);
        }
    }

    /// After sixteen times in a row that nobody waited, nobody is owed anything.
    fn relax(&mut self) {
        if !self.contended || self.always {
            return;
        }
        let exceeded = self.published_max.is_some_and(|max| self.published() > max);
        if !self.waiting.is_empty() || exceeded {
            self.calm = 0;
            return;
        }
        self.calm += 1;
        if self.calm == 16 {
            self.contended = false;
            self.fair.reset();
            self.classes.clear();
        }
    }

    pub fn remove_waiting(&mut self, id: u32) -> Option<Item> {
        let at = self.waiting.iter().position(|item| item.id == id)?;
        let item = self.waiting.remove(at);
        self.refresh(item.life);
        Some(item)
    }

    pub fn remove_running(&mut self, id: u32, actual: Option<u64>) {
        let at = self.running.iter().position(|item| item.id == id).unwrap();
        let item = self.running.remove(at);
        if let Some(actual) = actual {
            let mut moves = true;
            if self.contended {
                self.fair.correct(item.life, item.charged, actual);
                self.classes_of(item.life)
                    .correct(item.class, item.charged, actual);
            } else {
                let lot = self.lots.entry(item.life).or_default();
                *lot = lot.wrapping_mul(0x915F_77F5).wrapping_add(1);
                moves = *lot >> 29 == 0;
            }
            let sixteenths = actual * 16;
            self.average = Some(match self.average {
                None => sixteenths,
                Some(average) if moves => average - average / 8 + sixteenths / 8,
                Some(average) => average,
            });
        }
        self.refresh(item.life);
    }

    /// Whoever is next, whether it goes ahead of the one in front, and whether it may start.
    fn next(&self) -> Option<(Item, bool, bool)> {
        let order = self.fair.order();
        let front = self.head(*order.first()?).unwrap();
        let free = self.slots_max - self.slots();
        if self.has_free(front.slots) {
            return Some((front.clone(), false, true));
        }
        let ahead = self.overtaken.get(&front.id).copied().unwrap_or(0);
        let small = order.iter().take(16).filter_map(|&life| self.head(life));
        let small = small.clone().find(|item| item.slots <= free);
        match small {
            Some(item) if ahead < self.backfill_max && self.has_room() => {
                Some((item.clone(), true, true))
            }
            _ => Some((front.clone(), false, false)),
        }
    }

    /// Ids granted and ids refused, in order.
    pub fn dispatch(&mut self, now: Monotonic, told: &mut Vec<(u32, Option<Refusal>)>) {
        while let Some((item, ahead, starts)) = self.next() {
            let too_late = || late(item.deadline?, now, self.average? / 16);
            if let Some(refusal) = item.overdue(now).or_else(too_late) {
                self.remove_waiting(item.id);
                told.push((item.id, Some(refusal)));
                continue;
            }
            if !starts {
                break;
            }
            if ahead {
                let front = self.head(self.fair.order()[0]).unwrap().id;
                *self.overtaken.entry(front).or_default() += 1;
            }
            self.waiting.retain(|other| other.id != item.id);
            let (id, life) = (item.id, item.life);
            self.start(item);
            self.refresh(life);
            told.push((id, None));
        }
    }
}

#[derive(Debug)]
pub struct Oracle {
    pub ordinary: PoolModel,
    pub reserved: PoolModel,
    pub lives: Vec<Life>,
    pub draining: bool,
}

impl Oracle {
    pub fn pool(&mut self, lane: Lane) -> &mut PoolModel {
        match lane {
            Lane::Ordinary => &mut self.ordinary,
            Lane::Reserved => &mut self.reserved,
        }
    }

    /// Items of one life: those that wait and those that run, of one lane.
    pub fn of_life(&self, life: usize, lane: Lane) -> (Vec<&Item>, Vec<&Item>) {
        let pool = match lane {
            Lane::Ordinary => &self.ordinary,
            Lane::Reserved => &self.reserved,
        };
        (
            pool.waiting
                .iter()
                .filter(|item| item.life == life)
                .collect(),
            pool.running
                .iter()
                .filter(|item| item.life == life)
                .collect(),
        )
    }

    pub fn live_of(&self, life: usize) -> usize {
        [Lane::Ordinary, Lane::Reserved]
            .into_iter()
            .map(|lane| {
                let (waiting, running) = self.of_life(life, lane);
                waiting.len() + running.len()
            })
            .sum()
    }

    fn refusal(&self, item: &Item, now: Monotonic) -> Option<Refusal> {
        let life = &self.lives[item.life];
        let tenant = life.id;
        let ordinary = item.lane == Lane::Ordinary;
        let pool = if ordinary {
            &self.ordinary
        } else {
            &self.reserved
        };
        let by_state = match life.state {
            TenantState::Unregistered => Some(Refusal::StaleTenant { tenant }),
            _ if !ordinary => None,
            TenantState::Active => None,
            TenantState::Suspended => Some(Refusal::Suspended { tenant }),
            TenantState::Revoked => Some(Refusal::Revoked { tenant }),
            TenantState::Draining => Some(Refusal::Draining {
                scope: Scope::Tenant,
            }),
        };
        if by_state.is_some() {
            return by_state;
        }
        if self.draining {
            return Some(Refusal::Draining {
                scope: Scope::Bulkhead,
            });
        }
        let (waiting, running) = self.of_life(item.life, item.lane);
        let held = || waiting.iter().chain(&running).copied();
        let mut bounds = vec![
            (Dimension::BulkheadSlots, item.slots, None, pool.slots_max),
            (
                Dimension::BulkheadTenantSlots,
                item.slots,
                None,
                pool.per_tenant,
            ),
            (
                Dimension::BulkheadStagingBytes,
                item.staging,
                Some(pool.staging()),
                pool.staging_max,
            ),
        ];
        if ordinary {
            bounds.push((
                Dimension::TenantSlots,
                item.slots,
                Some(sum(held(), |i| i.slots)),
                life.quotas.slots_max,
            ));
            bounds.push((
                Dimension::TenantStagingBytes,
                item.staging,
                Some(sum(held(), |i| i.staging)),
                life.quotas.staging_bytes_max.get(),
            ));
        }
        for &(dimension, asked, _, cap) in &bounds {
            if asked > cap {
                return Some(Refusal::NeverFits {
                    dimension,
                    asked,
                    cap,
                });
            }
        }
        if item.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Refusal::Expired);
        }
        if let Some(refusal) = pool.predicted_late(item, now) {
            return Some(refusal);
        }
        // The tenant's own quotas are told before the bulkhead's.
        bounds.sort_by_key(|(dimension, ..)| *dimension == Dimension::BulkheadStagingBytes);
        for (dimension, asked, used, cap) in bounds {
            if let Some(used) = used
                && asked > 0
                && used + asked > cap
            {
                return Some(Refusal::QuotaExceeded {
                    dimension,
                    asked,
                    used,
                    cap,
                });
            }
        }
        None
    }

    /// An admission or a settlement is over.
    pub fn relax(&mut self, lane: Lane) {
        if lane == Lane::Ordinary && !self.draining {
            self.ordinary.relax();
        }
    }

    /// `Ok(true)`: granted at once. `Ok(false)`: queued, and maybe others told meanwhile.
    pub fn acquire(
        &mut self,
        item: Item,
        now: Monotonic,
        told: &mut Vec<(u32, Option<Refusal>)>,
    ) -> Result<bool, Refusal> {
        let lane = item.lane;
        let asked = self.ask(item, now, told);
        if self.pool(lane).contended {
            self.relax(lane);
        }
        asked
    }

    fn ask(
        &mut self,
        mut item: Item,
        now: Monotonic,
        told: &mut Vec<(u32, Option<Refusal>)>,
    ) -> Result<bool, Refusal> {
        if item.lane == Lane::Reserved {
            item.deadline = None;
            item.class = Class::Standard;
        }
        let share = self.lives[item.life].quotas.share;
        self.pool(item.lane).fair.set_share(item.life, share);
        if let Some(refusal) = self.refusal(&item, now) {
            if let (Refusal::PredictedLate { .. }, Some(deadline)) = (&refusal, item.deadline) {
                let pool = self.pool(item.lane);
                let again = pool.doubted + pool.known() <= now.get();
                if late(deadline, now, pool.known()).is_some() && again {
                    pool.doubted = now.get();
                    pool.average = pool.average.map(|average| average - average / 8);
                }
            }
            if let Refusal::QuotaExceeded {
                dimension: Dimension::BulkheadStagingBytes,
                ..
            } = refusal
            {
                // What is free has to be brought together to be sure.
                self.pool(item.lane).contend();
            }
            return Err(refusal);
        }
        let pool = self.pool(item.lane);
        item.known = pool.known();
        item.timeout_at = pool.timeout.map(|timeout| now.after(timeout));
        if pool.starts_at_once(&item) {
            if !pool.stays_within_cost() {
                pool.contend();
            }
            pool.start(item);
            return Ok(true);
        }
        pool.contend();
        for (scope, queued, queued_max) in [
            (Scope::Tenant, pool.queued(item.life), pool.queue_per_tenant),
            (Scope::Bulkhead, pool.waiting.len() as u64, pool.queue_max),
        ] {
            if queued >= queued_max {
                return Err(Refusal::QueueFull {
                    scope,
                    queued: u32::try_from(queued).unwrap(),
                    queued_max: u32::try_from(queued_max).unwrap(),
                });
            }
        }
        let life = item.life;
        pool.waiting.push(item);
        pool.refresh(life);
        pool.dispatch(now, told);
        Ok(false)
    }

    /// Refuses what waits in `lane`, of one life or of all.
    pub fn sweep(
        &mut self,
        lane: Lane,
        life: Option<usize>,
        reason: &Refusal,
        now: Monotonic,
        told: &mut Vec<(u32, Option<Refusal>)>,
    ) {
        let pool = self.pool(lane);
        let ids: Vec<u32> = pool
            .waiting
            .iter()
            .filter(|item| life.is_none_or(|life| item.life == life))
            .map(|item| item.id)
            .collect();
        if ids.is_empty() {
            return;
        }
        for id in ids {
            pool.remove_waiting(id);
            told.push((id, Some(reason.clone())));
        }
        pool.dispatch(now, told);
    }

    pub fn expire(&mut self, now: Monotonic, told: &mut Vec<(u32, Option<Refusal>)>) -> usize {
        let overdue: Vec<(u32, Refusal)> = self
            .ordinary
            .waiting
            .iter()
            .filter_map(|item| Some((item.id, item.overdue(now)?)))
            .collect();
        let expired = overdue.len();
        for (id, refusal) in overdue {
            self.ordinary.remove_waiting(id);
            told.push((id, Some(refusal)));
        }
        self.ordinary.dispatch(now, told);
        expired
    }

    pub fn next_expiry(&self) -> Option<Monotonic> {
        let expiries = self.ordinary.waiting.iter().filter_map(Item::expiry);
        expiries.map(|(at, _)| at).min()
    }
}
