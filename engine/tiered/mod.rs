//! Tiered storage: segments of a database move between its own disk and an object store.
//!
//! The pack binds four computations, one undo and one saga to an engine:
//!
//! | name | does |
//! | --- | --- |
//! | [`SegmentPut`] | uploads the local copy, as a version of its own |
//! | [`SegmentStat`] | reads a version back and checks its length and digest |
//! | [`SegmentGet`] | brings a version back to the local disk |
//! | [`SegmentDelete`] | takes away exactly one version; also the undo of a put |
//! | [`RetireLocal`] | removes the local copy |
//! | [`Evict`] | digest, upload, verify, pivot, retire |
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
//! # What the object store must do
//!
//! Conditional create (`PutMode::Create`), and reads that see completed writes. What it has
//! acknowledged must be durable: the local copy is removed on its word. `LocalFileSystem` keeps
//! that promise only `with_fsync(true)`; where a process is killed while it uploads, it leaves a
//! file whose name ends in `#` and a number, which is no object and may be removed. Two engines
//! with stores of their own do not share a root.
//!
//! | file | noun |
//! | --- | --- |
//! | `segment` | what is moved, and the versions of it |
//! | `object` | the names and the contents of objects |
//! | `tombstone` | what stands where a version must not be |
//! | `local` | the local copies, and one operation at a time on each |
//! | `pack` | what all of it shares, and the binding to an engine |
//! | `put`, `get`, `stat`, `delete`, `retire` | a computation each |
//! | `evict` | the saga |

mod delete;
mod evict;
mod get;
mod local;
mod object;
mod pack;
mod put;
mod retire;
mod segment;
mod stat;
mod tombstone;

pub use delete::SegmentDelete;
pub use evict::{Evict, Evicted, Eviction};
pub use get::SegmentGet;
pub use local::LocalSegments;
pub use pack::{Tiered, TieredOptions};
pub use put::SegmentPut;
pub use retire::RetireLocal;
pub use segment::{NameError, Segment, SegmentName, SegmentVersion, StoredSegment};
pub use stat::SegmentStat;
pub use tombstone::Tombstone;
