//! `filter_aggregate`: what a query over columns asks, and what it is told.

use std::marker::PhantomData;
use std::ops::RangeBounds;

use orlop_gpu::aggregate::program::{self, Bounds, ColumnType, Function, Program};
use orlop_gpu::entry::slots_needed;
use orlop_gpu::{self as gpu, Opcode};
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::value::{AnswerValue, ColumnValue};
use super::{DeviceFunction, Plan, Source, records};
use crate::computation::{Computation, Pure};

/// A column of an [`Aggregate`], whose values are `T`.
#[derive(Debug, PartialEq, Eq)]
pub struct ColumnOf<T> {
    index: u8,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for ColumnOf<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ColumnOf<T> {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ColumnInput {
    kind: ColumnType,
    values: Source,
    bitmap: Option<Source>,
    range: Option<Bounds>,
}

/// Which rows of which columns, and what is computed of them.
///
/// ```
/// use orlop::{Aggregate, Source};
///
/// let price = Source::of_values(&[100_i64, 250, 75]);
/// let discount = Source::of_values(&[5_i64, 6, 10]);
/// let mut query = Aggregate::of_rows(3);
/// let price = query.column::<i64>(price);
/// let discount = query.column::<i64>(discount);
/// query.within(discount, 5..=7);
/// let revenue = query.sum_of_products(price, discount);
/// // tenant.submit(FilterAggregate, query).await?.output.get(revenue): 250 * 6
/// # let _ = revenue;
/// ```
///
/// At most 8 columns and 8 functions; more is a permanent failure of the effect. Semantics of null,
/// NaN, overflow and rounding: `docs/device-ops.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    rows: u64,
    columns: Vec<ColumnInput>,
    functions: Vec<Function>,
}

impl Aggregate {
    /// Over columns of so many rows.
    pub const fn of_rows(rows: u64) -> Self {
        Self {
            rows,
            columns: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// Adds a column. Its source shows one value per row, as [`le_bytes`](super::le_bytes) lays
    /// them out, and begins at a multiple of the size of a value.
    pub fn column<T: ColumnValue>(&mut self, values: impl Into<Source>) -> ColumnOf<T> {
        let index = u8::try_from(self.columns.len()).unwrap_or(u8::MAX);
        self.columns.push(ColumnInput {
            kind: T::TYPE,
            values: values.into(),
            bitmap: None,
            range: None,
        });
        ColumnOf {
            index,
            value: PhantomData,
        }
    }

    /// Says which rows of a column have a value: those whose bit (`i % 8` of byte `i / 8`) is 1.
    /// The source shows rows / 8 bytes, rounded up, and begins at a multiple of 8.
    pub fn present<T>(&mut self, column: ColumnOf<T>, bitmap: impl Into<Source>) {
        if let Some(input) = self.columns.get_mut(usize::from(column.index)) {
            input.bitmap = Some(bitmap.into());
        }
    }

    /// Selects rows whose value is not null and in the range; the last range of a column counts.
    /// A bound that is NaN is a permanent failure of the effect.
    pub fn within<T: ColumnValue>(&mut self, column: ColumnOf<T>, range: impl RangeBounds<T>) {
        if let Some(input) = self.columns.get_mut(usize::from(column.index)) {
            input.range = Some(T::bounds(&range));
        }
    }

    /// Asks how many values there are.
    pub fn count<T>(&mut self, column: ColumnOf<T>) -> Asked<()> {
        let column = column.index;
        self.ask(Function::Count { column })
    }

    /// Asks for the sum: exact of integers, rounded of numbers.
    pub fn sum<T: ColumnValue>(&mut self, column: ColumnOf<T>) -> Asked<T::Sum> {
        let column = column.index;
        self.ask(Function::Sum { column })
    }

    /// Asks for the least value.
    pub fn min<T: ColumnValue>(&mut self, column: ColumnOf<T>) -> Asked<T> {
        let column = column.index;
        self.ask(Function::Min { column })
    }

    /// Asks for the greatest value.
    pub fn max<T: ColumnValue>(&mut self, column: ColumnOf<T>) -> Asked<T> {
        let column = column.index;
        self.ask(Function::Max { column })
    }

    /// Asks for the sum of the products of two columns of integers, or of two of numbers.
    pub fn sum_of_products<A, B>(&mut self, one: ColumnOf<A>, by: ColumnOf<B>) -> Asked<A::Sum>
    where
        A: ColumnValue,
        B: ColumnValue<Sum = A::Sum>,
    {
        let (column, by) = (one.index, by.index);
        self.ask(Function::SumOfProducts { column, by })
    }

    fn ask<V>(&mut self, function: Function) -> Asked<V> {
        let index = self.functions.len();
        self.functions.push(function);
        Asked {
            index,
            value: PhantomData,
        }
    }

    fn program(&self) -> Program {
        let columns = self.columns.iter().map(|column| program::Column {
            kind: column.kind,
            nullable: column.bitmap.is_some(),
            range: column.range,
        });
        Program {
            rows: self.rows,
            columns: columns.collect(),
            functions: self.functions.iter().copied().collect(),
        }
    }
}

/// A function that an [`Aggregate`] asks for, whose value is `V`: how its answer is found in the
/// [`Aggregated`] of the same query.
#[derive(Debug)]
pub struct Asked<V> {
    index: usize,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for Asked<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Asked<V> {}

/// What an [`Aggregate`] came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregated {
    selected: u64,
    answers: Vec<(u64, [u8; VALUE_BYTES])>,
}

impl Aggregated {
    /// How many rows were selected.
    pub const fn selected(&self) -> u64 {
        self.selected
    }

    /// How many values a function took: those that are not null, and for the least and greatest
    /// value not NaN. 0 if it is of another query.
    pub fn counted<V>(&self, asked: Asked<V>) -> u64 {
        self.answers
            .get(asked.index)
            .map_or(0, |(counted, _)| *counted)
    }

    /// A function's value; none if it took no value, or is of another query.
    pub fn get<V: AnswerValue>(&self, asked: Asked<V>) -> Option<V> {
        let (counted, bytes) = self.answers.get(asked.index)?;
        (*counted > 0).then(|| V::of_bytes(*bytes)).flatten()
    }
}

/// Bytes of one function's value.
const VALUE_BYTES: usize = 16;

/// Counts, sums, least and greatest values of the rows of columns that lie in ranges.
#[derive(Clone, Copy, Debug)]
pub struct FilterAggregate;

impl Computation for FilterAggregate {
    const NAME: &'static str = "filter_aggregate";
    type Input = Aggregate;
    type Output = Aggregated;
    type Kind = Pure;
}

impl DeviceFunction<FilterAggregate> for FilterAggregate {
    fn opcode(&self) -> Opcode {
        gpu::FilterAggregate::OPCODE
    }

    fn plan(&self, input: Aggregate) -> Result<Plan, Failure> {
        let program = input.program();
        let words = program.encode().map_err(Failure::permanent)?;
        let mut plan = Plan::default();
        // What does not fit beside its windows travels as one.
        if slots_needed(words.len(), program.windows()).is_ok() {
            plan.args = SmallVec::from_vec(words);
        } else {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            plan.sources.push(bytes.into());
        }
        for column in input.columns {
            plan.sources.push(column.values);
            plan.sources.extend(column.bitmap);
        }
        Ok(plan)
    }

    fn output(&self, result: &[u8]) -> Result<Aggregated, Failure> {
        let malformed = || Failure::permanent("the device's result is shorter than its first word");
        let (selected, answers) = result.split_first_chunk().ok_or_else(malformed)?;
        let answers = records::<{ 8 + VALUE_BYTES }>(answers)?.iter();
        let answer = |record: &[u8; 8 + VALUE_BYTES]| {
            let (counted, value) = record.split_first_chunk()?;
            Some((
                u64::from_le_bytes(*counted),
                <[u8; VALUE_BYTES]>::try_from(value).ok()?,
            ))
        };
        Ok(Aggregated {
            selected: u64::from_le_bytes(*selected),
            answers: answers.filter_map(answer).collect(),
        })
    }
}
