//! `filter_aggregate`: of the rows that lie in ranges, counts, sums, least and greatest values.
//!
//! A tile is 16,384 rows. What does not depend on an order is merged as tiles end; sums of numbers
//! are its partial, and are added in the order of the tiles.
#![expect(
    clippy::inline_always,
    reason = "see `simd`: what runs wide must be inlined"
)]

mod exact;
mod number;
pub mod program;
mod rows;
mod scan;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use self::number::Value;
use self::program::{AGGREGATES_MAX, Bounds, Function};
pub use self::rows::TILE_ROWS;
use self::rows::{ColumnRows, Columns, Mask, Table, Values};
use self::scan::{LANES, Lanes};
use self::state::State;
use super::simd::wide;
use super::{HostOp, OpError, Output, Partial, Scratch, TaskArgs};
use crate::entry::Opcode;

/// Functions over the rows of columns that lie in ranges.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilterAggregate;

impl FilterAggregate {
    /// Its opcode.
    pub const OPCODE: Opcode = Opcode::new(6);
}

/// What a function came to in one tile, and the sum if it is one of numbers.
type Outcome = (State, f64);

impl ColumnRows<'_> {
    /// Takes the rows whose value is outside of `bounds` out of `mask`.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounds are values of the column"
    )]
    fn retain_within(&self, bounds: Bounds, mask: &mut Mask) {
        match (self.values, bounds) {
            (Values::I32(values), Bounds::Integers { least, greatest }) => {
                retain_within(values, least as i32, greatest as i32, mask);
            }
            (Values::I64(values), Bounds::Integers { least, greatest }) => {
                retain_within(values, least, greatest, mask);
            }
            (Values::F32(values), Bounds::Numbers { least, greatest }) => {
                retain_within(values, least as f32, greatest as f32, mask);
            }
            (Values::F64(values), Bounds::Numbers { least, greatest }) => {
                retain_within(values, least, greatest, mask);
            }
            // A program that decodes has none of these.
            (Values::I32(_) | Values::I64(_), Bounds::Numbers { .. })
            | (Values::F32(_) | Values::F64(_), Bounds::Integers { .. }) => mask.fill(0),
        }
    }

    /// Takes NaN out of `mask`.
    fn retain_numbers(&self, mask: &mut Mask) {
        match self.values {
            Values::I32(_) | Values::I64(_) => {}
            Values::F32(values) => wide(
                #[inline(always)]
                || {
                    scan::retain(
                        values,
                        mask,
                        #[inline(always)]
                        |value| !value.is_nan(),
                    );
                },
            ),
            Values::F64(values) => wide(
                #[inline(always)]
                || {
                    scan::retain(
                        values,
                        mask,
                        #[inline(always)]
                        |value| !value.is_nan(),
                    );
                },
            ),
        }
    }

    fn sum(&self, mask: &Mask) -> Outcome {
        let counted = scan::count(mask);
        match self.values {
            Values::I32(values) => exact(
                counted,
                #[inline(always)]
                || scan::sum_integers(values, mask),
            ),
            Values::I64(values) => exact(
                counted,
                #[inline(always)]
                || scan::sum_integers(values, mask),
            ),
            Values::F32(values) => rounded(
                counted,
                #[inline(always)]
                |lanes| scan::sum_numbers(values, mask, lanes),
            ),
            Values::F64(values) => rounded(
                counted,
                #[inline(always)]
                |lanes| scan::sum_numbers(values, mask, lanes),
            ),
        }
    }

    fn sum_of_products(&self, by: &Self, mask: &Mask) -> Option<Outcome> {
        use Values::{F32, F64, I32, I64};
        let counted = scan::count(mask);
        Some(match (self.values, by.values) {
            (I32(one), I32(by)) => exact(
                counted,
                #[inline(always)]
                || scan::sum_products(one, by, mask),
            ),
            (I32(one), I64(by)) => exact(
                counted,
                #[inline(always)]
                || scan::sum_products(one, by, mask),
            ),
            (I64(one), I32(by)) => exact(
                counted,
                #[inline(always)]
                || scan::sum_products(one, by, mask),
            ),
            (I64(one), I64(by)) => exact(
                counted,
                #[inline(always)]
                || scan::sum_products(one, by, mask),
            ),
            (F32(one), F32(by)) => rounded(
                counted,
                #[inline(always)]
                |to| scan::sum_number_products(one, by, mask, to),
            ),
            (F32(one), F64(by)) => rounded(
                counted,
                #[inline(always)]
                |to| scan::sum_number_products(one, by, mask, to),
            ),
            (F64(one), F32(by)) => rounded(
                counted,
                #[inline(always)]
                |to| scan::sum_number_products(one, by, mask, to),
            ),
            (F64(one), F64(by)) => rounded(
                counted,
                #[inline(always)]
                |to| scan::sum_number_products(one, by, mask, to),
            ),
            (I32(_) | I64(_), F32(_) | F64(_)) | (F32(_) | F64(_), I32(_) | I64(_)) => {
                return None;
            }
        })
    }

    /// The least and the greatest rank.
    fn extremes(&self, mask: &Mask) -> (i64, i64) {
        match self.values {
            Values::I32(values) => extremes(values, mask),
            Values::I64(values) => extremes(values, mask),
            Values::F32(values) => extremes(values, mask),
            Values::F64(values) => extremes(values, mask),
        }
    }
}

#[expect(
    clippy::needless_bitwise_bool,
    reason = "both comparisons, and no branch"
)]
fn retain_within<T: Value>(values: &[T], least: T, greatest: T, mask: &mut Mask) {
    wide(
        #[inline(always)]
        || {
            scan::retain(
                values,
                mask,
                #[inline(always)]
                |value| (value >= least) & (value <= greatest),
            );
        },
    );
}

fn extremes<T: Value>(values: &[T], mask: &Mask) -> (i64, i64) {
    wide(
        #[inline(always)]
        || scan::extremes(values, mask),
    )
}

#[inline(always)]
fn exact(counted: u64, sum: impl FnOnce() -> exact::Exact) -> Outcome {
    let value = wide(sum).to_words();
    (State { counted, value }, -0.0)
}

#[inline(always)]
fn rounded(counted: u64, sum: impl FnOnce(&mut Lanes)) -> Outcome {
    let mut lanes = [-0.0; LANES];
    wide(
        #[inline(always)]
        || sum(&mut lanes),
    );
    let value = [0; 3];
    (State { counted, value }, scan::fold(lanes))
}

/// What a function comes to, over the rows that `mask` selects.
fn apply(function: Function, columns: &Columns<'_>, mask: &Mask) -> Option<Outcome> {
    let column = |column: u8| columns.get(usize::from(column));
    let mut mask = *mask;
    Some(match function {
        Function::Count { column: of } => {
            column(of)?.retain_present(&mut mask);
            (State::of_rank(scan::count(&mask), 0), -0.0)
        }
        Function::Sum { column: of } => {
            column(of)?.retain_present(&mut mask);
            column(of)?.sum(&mask)
        }
        Function::Min { column: of } | Function::Max { column: of } => {
            let values = column(of)?;
            values.retain_present(&mut mask);
            values.retain_numbers(&mut mask);
            let (least, greatest) = values.extremes(&mask);
            let is_max = matches!(function, Function::Max { .. });
            let rank = if is_max { greatest } else { least };
            (State::of_rank(scan::count(&mask), rank), -0.0)
        }
        Function::SumOfProducts { column: of, by } => {
            column(of)?.retain_present(&mut mask);
            column(by)?.retain_present(&mut mask);
            column(of)?.sum_of_products(column(by)?, &mask)?
        }
    })
}

impl HostOp for FilterAggregate {
    fn opcode(&self) -> Opcode {
        Self::OPCODE
    }

    fn name(&self) -> &'static str {
        "filter_aggregate"
    }

    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        Table::of(task)?.tiles()
    }

    fn scratch(&self, task: &TaskArgs<'_>) -> Result<Scratch, OpError> {
        let words = State::words_of(&Table::of(task)?.program);
        Ok(Scratch {
            tile: words,
            task: words,
        })
    }

    fn run_tile(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &mut [u64],
    ) -> Result<Partial, OpError> {
        let table = Table::of(task)?;
        let (columns, mut mask) = table.tile(tile);
        for (column, rows) in table.program.columns.iter().zip(&columns) {
            if let Some(bounds) = column.range {
                rows.retain_present(&mut mask);
                rows.retain_within(bounds, &mut mask);
            }
        }
        let mut found = own.iter_mut();
        if let Some(selected) = found.next() {
            *selected = scan::count(&mask);
        }
        let mut sums = [0; 8 * AGGREGATES_MAX];
        for (function, sum) in table.program.functions.iter().zip(sums.as_chunks_mut().0) {
            let outcome = apply(*function, &columns, &mask).ok_or(OpError::BAD_ARGUMENT)?;
            let (state, numbers) = outcome;
            for (word, to) in state.to_words().iter().zip(&mut found) {
                *to = *word;
            }
            *sum = numbers.to_bits().to_le_bytes();
        }
        Partial::new(&sums)
    }

    fn merge(
        &self,
        _: u32,
        task: &TaskArgs<'_>,
        own: &[u64],
        all: &mut [u64],
    ) -> Result<(), OpError> {
        state::merge(&Table::of(task)?.program, own, all)
    }

    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        partials: &[Partial],
        all: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let program = Table::of(task)?.program;
        let mut sums = [-0.0; AGGREGATES_MAX];
        for partial in partials {
            for (sum, bytes) in sums.iter_mut().zip(partial.as_bytes().as_chunks::<8>().0) {
                *sum += f64::from_bits(u64::from_le_bytes(*bytes));
            }
        }
        let (selected, states) = state::states(all)?;
        out.write(&selected.to_le_bytes())?;
        for ((state, function), sum) in states.zip(&program.functions).zip(sums) {
            out.write(&state.counted.to_le_bytes())?;
            out.write(&state.value_bytes(&program, *function, sum)?)?;
        }
        Ok(())
    }
}
