//! The store on simulated parts and on real files.

mod backup;
mod blobs;
mod check;
mod damage;
mod faults;
mod harness;
mod real;
mod retention;
mod simulated;
