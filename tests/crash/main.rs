//! Real processes over real files, ended by a real SIGKILL.
//!
//! `ORLOP_CRASH_KILLS` kills more often than the default, `ORLOP_CRASH_SEED` draws other moments.

mod child;
mod code;
mod ledger;
mod parent;
