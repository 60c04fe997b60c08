//! The tiered-storage pack, on object stores that fail in every way that object stores fail.

mod crash;
mod evict;
mod late;
mod outside;
mod support;
mod versions;
