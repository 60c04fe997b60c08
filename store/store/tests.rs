//! The store on simulated parts and on real files.

mod blobs;
mod harness;
mod real;
mod simulated;
