//! Proofs of the journal, over real files, over a disk that loses things, and in memory.

mod conformance;
mod crash;
mod damage;
mod model;
mod order;
mod rig;
mod space;
