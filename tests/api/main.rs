//! The public API, used as an embedder uses it.

mod support;

mod effects;
mod sagas;
