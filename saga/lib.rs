//! Vocabulary and pure state machines of `orlop`.
//!
//! Ids, keys, amounts, time, events, and the folds that turn events into states. Nothing here
//! performs I/O, reads a clock or knows a device: `store` writes the events, `engine` acts on the
//! states, and recovery runs the very same folds.
//!
//! Invariants
//! - A state is a fold of its events; nothing else is persisted.
//! - Every encoding that reaches a disk or a digest is described beside the code that writes it.

pub mod amount;
pub mod audit;
pub mod blob;
pub mod budget;
pub mod canonical;
pub mod compat;
pub mod digest;
pub mod effect;
pub mod event;
pub mod halfway;
pub mod histogram;
pub mod history;
pub mod id;
pub mod key;
pub mod live;
pub mod outcome;
pub mod path;
pub mod record;
pub mod saga;
pub mod step;
pub mod tenancy;
pub mod tenant;
pub mod time;
pub mod trace;
