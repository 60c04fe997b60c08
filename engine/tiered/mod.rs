//! Tiered storage: segments of a database move between its own disk and an object store.
//!
//! The pack binds computations, their undos and four sagas to an engine:
//!
//! | name | does |
//! | --- | --- |
//! | [`SegmentPut`] | uploads the local copy, as a version of its own |
//! | [`SegmentStat`] | reads a version back and checks its length and digest |
//! | [`SegmentGet`] | brings a version back to the local disk |
//! | [`SegmentDelete`] | takes away exactly one version; also the undo of a put |
//! | [`RetireLocal`] | removes the local copy |
//! | [`SegmentRestore`] | brings a version back where there is no local copy |
//! | [`Evict`] | digest, upload, verify, pivot, retire |
//! | [`EvictionRollback`] | restore the local copy, pivot, delete the version |
//! | [`ManifestPut`], [`ManifestDelete`] | a list of segments as an object of its own, and its end |
//! | [`LocatorUpdate`] | makes a manifest current, if the one it was made from still is |
//! | [`CompactionPublish`] | stage segments, put the manifest, move the locator, pivot, retire |
//! | [`CompactionRollback`] | move the locator back, pivot, delete what was published |
//! | [`SymbolPutBatch`], [`SymbolDeleteBatch`] | many small named pieces of bytes, all or none |
//! | [`SymbolGetRange`] | reads a range of one of them, checked |
//!
//! All are `External`, also those that only read the outside: a key derived from their input
//! would replay an answer about a world that has changed since.
//!
//! # Versions
//!
//! Every put has object names of its own, made of the tenant, the segment, its epoch and the remote
//! key, and creates its object on the condition that nothing is there. So
//!
//! - no put ever touches what another one wrote: not that of another tenant, of another epoch, or
//!   of the same segment after it came back;
//! - a delete names one version and takes away that one;
//! - whoever creates a [`Tombstone`] under the name that a lost attempt was to write has stopped
//!   that attempt for good, wherever its request lingers; the put goes on under the next name.
//!   This is the fence: an object store does not compare fences, but it decides a conditional
//!   create.
//!
//! Tombstones stay, a few dozen bytes each. They may be swept once no request of that time can
//! still be on its way, say by a rule of the store on the age of what it holds.
//!
//! # Tables
//!
//! What a table consists of is a [`Manifest`]: an immutable object that means nothing until the
//! table's locator points to it. A locator is a row of numbered revisions; whoever creates the one
//! after the revision it started from has moved it, and nobody else who started there has. So a
//! compare-and-set needs nothing but a conditional create. [`Tiered::locate`] and
//! [`Tiered::manifest`] are what a reader needs.
//!
//! # What the object store must do
//!
//! Conditional create (`PutMode::Create`), and reads and listings that see completed writes. What it has
//! acknowledged must be durable: the local copy is removed on its word. `LocalFileSystem` keeps
//! that promise only `with_fsync(true)`; where a process is killed while it uploads, it leaves a
//! file whose name ends in `#` and a number, which is no object and may be removed. Two engines
//! with stores of their own do not share a root.
//!
//! | file | noun |
//! | --- | --- |
//! | `name` | what segments, tables and symbols are called |
//! | `segment` | what is moved, and the versions of it |
//! | `object` | the names and the contents of objects |
//! | `tombstone` | what stands where a version must not be |
//! | `local` | the local copies, and one operation at a time on each |
//! | `pack` | what all of it shares, and the binding to an engine |
//! | `put`, `get`, `stat`, `delete`, `retire`, `restore` | a computation each |
//! | `places` | the names that one put may use, and how the lost ones are fenced off |
//! | `record` | objects that carry a value and can tell whether they are whole |
//! | `manifest`, `locator`, `update` | what a table consists of, and which list of it is current |
//! | `symbols`, `range` | batches of small pieces, and reading them |
//! | `evict`, `recall`, `compact`, `rollback` | the sagas |

mod compact;
mod delete;
mod evict;
mod get;
mod local;
mod locator;
mod manifest;
mod name;
mod object;
mod pack;
mod places;
mod put;
mod range;
mod recall;
mod record;
mod restore;
mod retire;
mod rollback;
mod segment;
mod stat;
mod symbols;
mod tombstone;
mod update;

pub use compact::{Compaction, CompactionPublish, Published};
pub use delete::SegmentDelete;
pub use evict::{Evict, Evicted, Eviction};
pub use get::SegmentGet;
pub use local::LocalSegments;
pub use locator::{LocateError, Located};
pub use manifest::{
    Manifest, ManifestDelete, ManifestError, ManifestPut, ManifestVersion, TableManifest,
};
pub use name::{NameError, SegmentName, SymbolName, TableName};
pub use pack::{Tiered, TieredOptions};
pub use put::SegmentPut;
pub use range::{SymbolGetRange, SymbolRange};
pub use recall::EvictionRollback;
pub use restore::SegmentRestore;
pub use retire::RetireLocal;
pub use rollback::CompactionRollback;
pub use segment::{Segment, SegmentVersion, StoredSegment};
pub use stat::SegmentStat;
pub use symbols::{
    BatchVersion, StoredSymbol, Symbol, SymbolBatch, SymbolDeleteBatch, SymbolPutBatch,
};
pub use tombstone::Tombstone;
pub use update::{LocatorMove, LocatorMoved, LocatorRestore, LocatorUpdate};
