//! `vector_topk`: the nearest of many vectors.

pub mod query;
