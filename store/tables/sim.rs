//! Simulated tables: rows in memory with a copy of what is synced, for model tests.
//!
//! A [`SimShelf`] stands for the disk: it outlives the tables, and [`SimShelf::crash`] leaves what
//! a crash may leave: what was synced, and any prefix of what was applied after that.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use orlop_saga::id::Lsn;
use parking_lot::Mutex;

use crate::tables::home::{Expected, OpenTablesError, TablesHome};
use crate::tables::row::checksum;
use crate::tables::{Change, RowSum, Tables, TablesError, TablesSize, Visit};

/// The rows of one tree at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Image {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    applied: Lsn,
    sum: RowSum,
}

impl Image {
    fn apply(&mut self, changes: &[Change], applied: Lsn) {
        for change in changes {
            let key = change.key();
            if let Some(old) = self.rows.remove(key) {
                let bytes = old.len() as u64;
                self.sum = self.sum.without(key, bytes, checksum(key, &old));
            }
            if let Some(value) = change.value() {
                let bytes = value.len() as u64;
                self.sum = self.sum.with(key, bytes, checksum(key, value));
                self.rows.insert(key.to_vec(), value.to_vec());
            }
        }
        self.applied = self.applied.max(applied);
    }

    /// The sum of the rows there are, which damage makes another than the one kept.
    fn counted(&self) -> RowSum {
        self.rows
            .iter()
            .fold(RowSum::default(), |sum, (key, value)| {
                sum.with(key, value.len() as u64, checksum(key, value))
            })
    }
}

#[derive(Debug, Default)]
struct SimTree {
    synced: Image,
    unsynced: Vec<(Vec<Change>, Lsn)>,
    visible: Image,
}

#[derive(Debug, Default)]
struct State {
    trees: BTreeMap<u64, SimTree>,
    current: Option<u64>,
    power: u64,
    fail_after: Option<u64>,
}

impl State {
    fn tree(&mut self, number: u64) -> Result<&mut SimTree, TablesError> {
        self.trees.get_mut(&number).ok_or(TablesError::Closed)
    }

    /// Counts one change of the disk; fails it if that was planned.
    fn operate(&mut self) -> Result<(), TablesError> {
        match &mut self.fail_after {
            Some(0) => Err(TablesError::io("simulated operation", &"planned failure")),
            Some(left) => {
                *left = left.saturating_sub(1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// The disk of simulated tables. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimShelf(Arc<Mutex<State>>);

impl SimShelf {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power fails: of what was applied since the last sync a random prefix is left, and
    /// tables opened before can do nothing more.
    pub fn crash(&self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut state = self.0.lock();
        state.power = state.power.saturating_add(1);
        state.fail_after = None;
        for tree in state.trees.values_mut() {
            let keep = random.usize(..=tree.unsynced.len());
            for (changes, applied) in tree.unsynced.drain(..).take(keep) {
                tree.synced.apply(&changes, applied);
            }
            tree.visible = tree.synced.clone();
        }
    }

    /// After `operations` more changes (applies, syncs, promotions) every one fails.
    pub fn fail_after(&self, operations: u64) {
        self.0.lock().fail_after = Some(operations);
    }

    /// Loses one row of the current tree in the middle, as a disk that forgets a page would.
    /// False if there was none.
    pub fn lose_row(&self) -> bool {
        let mut state = self.0.lock();
        let Some(tree) = state
            .current
            .and_then(|number| state.trees.get_mut(&number))
        else {
            return false;
        };
        let middle = tree.synced.rows.len() / 2;
        let Some(key) = tree.synced.rows.keys().nth(middle).cloned() else {
            return false;
        };
        tree.synced.rows.remove(&key);
        tree.visible.rows.remove(&key);
        true
    }

    /// Loses every tree.
    pub fn lose_all(&self) {
        let mut state = self.0.lock();
        state.trees.clear();
        state.current = None;
    }

    /// The visible rows of the current tree.
    pub fn rows(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let state = self.0.lock();
        let tree = state.current.and_then(|number| state.trees.get(&number));
        tree.map(|tree| tree.visible.rows.clone())
            .unwrap_or_default()
    }
}

/// Where simulated trees are opened and exchanged.
#[derive(Debug)]
pub struct SimHome {
    shelf: SimShelf,
    fresh: Option<u64>,
    power: u64,
}

impl SimHome {
    /// The trees on `shelf`, until its power fails.
    pub fn new(shelf: SimShelf) -> Self {
        let power = shelf.0.lock().power;
        Self {
            shelf,
            fresh: None,
            power,
        }
    }

    /// Fails once the power has failed: whoever still runs then has no disk any more.
    fn powered(&self, state: &State) -> Result<(), TablesError> {
        if state.power == self.power {
            Ok(())
        } else {
            Err(TablesError::io("simulated operation", &"the power failed"))
        }
    }
}

impl TablesHome for SimHome {
    fn open(&mut self, expected: Expected) -> Result<Box<dyn Tables>, OpenTablesError> {
        let mut state = self.shelf.0.lock();
        let number = state.current.ok_or_else(|| OpenTablesError::Missing {
            reason: "no tree is current".into(),
        })?;
        let power = state.power;
        let image = &state.tree(number)?.visible;
        let damaged = |reason: &str| OpenTablesError::Damaged {
            reason: reason.into(),
        };
        if image.counted() != image.sum {
            return Err(damaged("rows are missing"));
        }
        if image.applied < expected.applied_min {
            return Err(damaged("the tables went back"));
        }
        drop(state);
        Ok(Box::new(SimTables::attach(
            self.shelf.clone(),
            number,
            power,
        )))
    }

    fn fresh(&mut self) -> Result<Box<dyn Tables>, TablesError> {
        let mut state = self.shelf.0.lock();
        self.powered(&state)?;
        state.operate()?;
        let number = state
            .trees
            .keys()
            .last()
            .map_or(1, |last| last.saturating_add(1));
        state.trees.insert(number, SimTree::default());
        let power = state.power;
        drop(state);
        self.fresh = Some(number);
        Ok(Box::new(SimTables::attach(
            self.shelf.clone(),
            number,
            power,
        )))
    }

    fn promote(&mut self) -> Result<(), TablesError> {
        let number = self.fresh.take();
        let mut state = self.shelf.0.lock();
        self.powered(&state)?;
        state.operate()?;
        let Some(number) = number else {
            return Err(TablesError::damaged("there is no fresh tree to promote"));
        };
        state.current = Some(number);
        state.trees.retain(|other, _| *other == number);
        Ok(())
    }

    fn discard(&mut self) -> Result<(), TablesError> {
        if let Some(number) = self.fresh.take() {
            self.shelf.0.lock().trees.remove(&number);
        }
        Ok(())
    }

    fn distrust(&mut self) {
        let mut state = self.shelf.0.lock();
        if state.power == self.power {
            state.current = None;
        }
    }

    fn is_bloated(&self, size: TablesSize) -> bool {
        size.file_bytes > size.live_bytes.saturating_mul(4)
    }
}

/// One simulated tree.
#[derive(Debug)]
pub struct SimTables {
    shelf: SimShelf,
    number: u64,
    power: u64,
    poisoned: bool,
    applied: Lsn,
    sum: RowSum,
}

impl SimTables {
    fn attach(shelf: SimShelf, number: u64, power: u64) -> Self {
        let mut tables = Self {
            shelf,
            number,
            power,
            poisoned: false,
            applied: Lsn::default(),
            sum: RowSum::default(),
        };
        // Fails only if the tree is gone, which every later use reports.
        let _ = tables
            .with(|state, number| {
                let image = &state.tree(number)?.visible;
                Ok((image.applied, image.sum))
            })
            .map(|(applied, sum)| {
                tables.applied = applied;
                tables.sum = sum;
            });
        tables
    }

    fn with<T>(
        &mut self,
        call: impl FnOnce(&mut State, u64) -> Result<T, TablesError>,
    ) -> Result<T, TablesError> {
        if self.poisoned {
            return Err(TablesError::Poisoned);
        }
        let mut state = self.shelf.0.lock();
        let result = if state.power == self.power {
            call(&mut state, self.number)
        } else {
            Err(TablesError::io("simulated operation", &"the power failed"))
        };
        self.poisoned = result.is_err();
        result
    }
}

impl Tables for SimTables {
    fn applied(&self) -> Lsn {
        self.applied
    }

    fn sum(&self) -> RowSum {
        self.sum
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.with(|state, number| Ok(state.tree(number)?.visible.rows.get(key).cloned()))
    }

    fn scan(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TablesError> {
        self.with(|state, number| {
            let lower = match after {
                Some(after) if after >= prefix => Bound::Excluded(after),
                Some(_) | None => Bound::Included(prefix),
            };
            let rows = &state.tree(number)?.visible.rows;
            for (key, value) in rows.range::<[u8], _>((lower, Bound::Unbounded)) {
                if !key.starts_with(prefix) || visit(key, value) == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn apply(&mut self, changes: &[Change], applied: Lsn) -> Result<(), TablesError> {
        let (applied, sum) = self.with(|state, number| {
            state.operate()?;
            let tree = state.tree(number)?;
            tree.visible.apply(changes, applied);
            tree.unsynced.push((changes.to_vec(), applied));
            Ok((tree.visible.applied, tree.visible.sum))
        })?;
        self.applied = applied;
        self.sum = sum;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), TablesError> {
        self.with(|state, number| {
            state.operate()?;
            let tree = state.tree(number)?;
            tree.synced = tree.visible.clone();
            tree.unsynced.clear();
            Ok(())
        })
    }

    fn size(&mut self) -> Result<TablesSize, TablesError> {
        Ok(TablesSize {
            file_bytes: self.sum.bytes,
            live_bytes: self.sum.bytes,
        })
    }

    fn close(self: Box<Self>) -> Result<(), TablesError> {
        Ok(())
    }
}
