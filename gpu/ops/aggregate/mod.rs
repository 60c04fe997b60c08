//! `filter_aggregate`: of the rows that lie in ranges, counts, sums, least and greatest values.

pub mod program;
