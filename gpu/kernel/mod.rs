//! The CUDA megakernel: its image, and the proofs of its source that need no GPU.
//!
//! The source lies beside this file and is compiled by two compilers: for devices (`build.py`), and
//! with `shim.h` for this machine, which is what the tests run.

#[cfg(test)]
mod changes;
#[cfg(test)]
pub(crate) mod compiler;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod header;
pub mod image;
#[cfg(test)]
mod operands;
#[cfg(test)]
mod query6;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod script;
#[cfg(test)]
mod starved;
