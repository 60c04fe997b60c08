//! Folding the journal, and comparing what comes of it with checkpoints, exports and tables.

use std::path::{Path, PathBuf};

use orlop_saga::budget::Books;
use orlop_saga::compat::{self, Format};
use orlop_saga::id::Lsn;
use orlop_saga::live::{Finished, Live};
use orlop_saga::record;

use super::tables::CopiedTables;
use super::{Check, OF_JOURNAL};
use crate::log::{Inspected, Inspection, Seen};
use crate::projection;
use crate::tables::Tables;

/// A fold that a file says there was.
pub(super) struct Snapshot {
    pub(super) file: PathBuf,
    pub(super) live: Live,
    pub(super) advice: &'static str,
}

/// Something to be found once the journal has been read.
type Found = (PathBuf, Option<u64>, String, &'static str);

struct Folding<'a> {
    live: Live,
    snapshots: Vec<Snapshot>,
    tables: Option<&'a mut CopiedTables>,
    now: orlop_saga::time::WallMillis,
    records: u64,
    found: Vec<Found>,
    findings_max: usize,
    broken: bool,
}

impl Check<'_> {
    /// Folds the journal from the oldest snapshot that it reaches.
    pub(super) fn fold(
        &mut self,
        log: &Inspected,
        mut snapshots: Vec<Snapshot>,
        mut tables: Option<CopiedTables>,
    ) {
        let Some(first) = log.first else {
            return;
        };
        snapshots.sort_by_key(|snapshot| snapshot.live.lsn());
        let reached = |live: &Live| live.lsn().next() >= first;
        let live = if first <= Lsn::new(1) {
            Live::default()
        } else if let Some(base) = snapshots.iter().find(|base| reached(&base.live)) {
            base.live.clone()
        } else {
            let what = format!("it begins at {first}, and nothing that is left reaches up to it");
            self.find(self.path.join(crate::folder::LOG), None, what, OF_JOURNAL);
            return;
        };
        for beyond in &snapshots {
            if log.last.is_some_and(|last| beyond.live.lsn() > last) {
                let what = format!("it stands at {}, beyond the journal", beyond.live.lsn());
                self.find(beyond.file.clone(), None, what, OF_JOURNAL);
            }
        }
        snapshots.retain(|snapshot| snapshot.live.lsn() > live.lsn());
        snapshots.reverse();
        let mut folding = Folding {
            live,
            snapshots,
            tables: tables.as_mut(),
            now: self.options.now,
            records: 0,
            found: Vec::new(),
            findings_max: self.options.findings_max,
            broken: false,
        };
        Inspection {
            disk: self.disk,
            store: self.report.store,
            fault: &mut |_| {},
            seen: &mut |seen| folding.record(seen),
        }
        .run(&self.path.join(crate::folder::LOG));
        self.report.records = folding.records;
        for (file, offset, what, advice) in folding.found {
            self.find(file, offset, what, advice);
        }
    }
}

impl Folding<'_> {
    fn record(&mut self, seen: &Seen<'_>) {
        if self.broken || seen.lsn <= self.live.lsn() {
            return;
        }
        let applied = record::decode(seen.record)
            .map_err(|error| error.to_string())
            .and_then(|event| {
                let applied = self.live.apply(seen.lsn, &event);
                applied.map_err(|error| error.to_string())
            });
        match applied {
            Ok(finished) => {
                self.records += 1;
                if let Some(finished) = finished {
                    self.is_kept(seen.lsn, &finished);
                }
                self.compare();
            }
            Err(what) => {
                // Whatever follows does not fold either.
                self.broken = true;
                self.keep(seen.file, Some(seen.offset), what, OF_JOURNAL);
            }
        }
    }

    fn keep(&mut self, file: &Path, offset: Option<u64>, what: String, advice: &'static str) {
        if self.found.len() < self.findings_max {
            self.found.push((file.to_path_buf(), offset, what, advice));
        }
    }

    /// Compares the fold with whoever stands at the same lsn.
    fn compare(&mut self) {
        while let Some(snapshot) = self.snapshots.pop_if(|at| at.live.lsn() <= self.live.lsn()) {
            if !same(&snapshot.live, &self.live) {
                let what = "its fold is not what the journal says".to_owned();
                self.keep(&snapshot.file, None, what, snapshot.advice);
            }
        }
    }

    /// What the journal finished and has not expired is in the tables.
    fn is_kept(&mut self, lsn: Lsn, finished: &Finished) {
        let now = self.now;
        let Some(tables) = self.tables.as_deref_mut() else {
            return;
        };
        if lsn > tables.tree.applied() || finished.settlement.expires_at <= now {
            return;
        }
        let row = tables.tree.get(&projection::outcome_key(finished.id));
        let what = match row {
            Ok(Some(_)) => return,
            Ok(None) => format!("the outcome that record {lsn} has is not in them"),
            Err(error) => error.to_string(),
        };
        let file = tables.file.clone();
        self.keep(&file, None, what, super::tables::OF_TABLES);
    }
}

/// Whether two folds are the same, but for what a store of an older format does not keep.
fn same(one: &Live, other: &Live) -> bool {
    if one == other {
        return true;
    }
    let frozen = |format, live: &Live| compat::encode(format, live).ok();
    let equal = |format| {
        let bytes = frozen(format, one);
        bytes.is_some() && frozen(format, other) == bytes
    };
    // Formats before the third keep no books: those of one of the two are empty then.
    let bare = |live: &Live| *live.books() == Books::default();
    if one.tenancies() != other.tenancies() {
        return false;
    }
    equal(Format::V1) || ((bare(one) || bare(other)) && equal(Format::V2))
}
