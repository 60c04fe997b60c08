//! The store on simulated parts and on real files.

mod harness;
mod real;
mod simulated;
