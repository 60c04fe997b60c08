//! States: what a task knows of each function, in words of its scratch memory.
//!
//! The first word is the number of selected rows; then each function has four: how many values it
//! took, and three of what they come to. Zeros are the state of no rows. Sums of numbers are not in
//! it: they depend on an order, and travel as partials.

use super::super::OpError;
use super::exact::Exact;
use super::number::number_of;
use super::program::{Function, Program};

/// Words of one function.
const WORDS: usize = 4;

/// What a function came to, of the rows of one tile or of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) counted: u64,
    pub(super) value: [u64; 3],
}

impl State {
    pub(super) fn words_of(program: &Program) -> usize {
        1 + WORDS * program.functions.len()
    }

    fn of_words(words: &[u64; WORDS]) -> Self {
        let [counted, one, two, three] = *words;
        Self {
            counted,
            value: [one, two, three],
        }
    }

    pub(super) fn to_words(self) -> [u64; WORDS] {
        let [one, two, three] = self.value;
        [self.counted, one, two, three]
    }

    fn rank(&self) -> i64 {
        self.value.first().map_or(0, |rank| rank.cast_signed())
    }

    pub(super) const fn of_rank(counted: u64, rank: i64) -> Self {
        Self {
            counted,
            value: [rank.cast_unsigned(), 0, 0],
        }
    }

    fn merge(&self, function: Function, other: &Self) -> Self {
        let counted = self.counted + other.counted;
        match function {
            Function::Count { .. } => Self { counted, ..*self },
            Function::Sum { .. } | Function::SumOfProducts { .. } => {
                let mut sum = Exact::of_words(self.value);
                sum.merge(&Exact::of_words(other.value));
                Self {
                    counted,
                    value: sum.to_words(),
                }
            }
            Function::Min { .. } | Function::Max { .. } => {
                let rank = match (self.counted, other.counted, function) {
                    (0, ..) => other.rank(),
                    (_, 0, _) => self.rank(),
                    (.., Function::Max { .. }) => self.rank().max(other.rank()),
                    (
                        ..,
                        Function::Min { .. }
                        | Function::Count { .. }
                        | Function::Sum { .. }
                        | Function::SumOfProducts { .. },
                    ) => self.rank().min(other.rank()),
                };
                Self::of_rank(counted, rank)
            }
        }
    }

    /// The 16 bytes of the value; `sum` is that of numbers.
    pub(super) fn value_bytes(
        &self,
        program: &Program,
        function: Function,
        sum: f64,
    ) -> Result<[u8; 16], OpError> {
        let integer = |column: u8| {
            let column = program.columns.get(usize::from(column));
            column.is_some_and(|column| column.kind.is_integer())
        };
        let number = |number: f64| {
            let number = if number.is_nan() { f64::NAN } else { number };
            u128::from(number.to_bits()).to_le_bytes()
        };
        if self.counted == 0 {
            return Ok([0; 16]);
        }
        Ok(match function {
            Function::Count { .. } => [0; 16],
            Function::Sum { column } | Function::SumOfProducts { column, .. } => {
                if integer(column) {
                    let sum = Exact::of_words(self.value).get();
                    sum.ok_or(OpError::OVERFLOW)?.to_le_bytes()
                } else {
                    number(sum)
                }
            }
            Function::Min { column } | Function::Max { column } => {
                if integer(column) {
                    i128::from(self.rank()).to_le_bytes()
                } else {
                    number(number_of(self.rank()))
                }
            }
        })
    }
}

/// Brings what a tile found into what is known of all.
pub(super) fn merge(program: &Program, own: &[u64], all: &mut [u64]) -> Result<(), OpError> {
    let bad = OpError::BAD_PARTIAL;
    let (selected, own) = own.split_first().ok_or(bad)?;
    let (all_selected, all) = all.split_first_mut().ok_or(bad)?;
    *all_selected += selected;
    let states = own
        .as_chunks::<WORDS>()
        .0
        .iter()
        .zip(all.as_chunks_mut::<WORDS>().0);
    for (function, (own, all)) in program.functions.iter().zip(states) {
        let merged = State::of_words(all).merge(*function, &State::of_words(own));
        *all = merged.to_words();
    }
    Ok(())
}

/// The selected rows, and the state of each function.
pub(super) fn states(all: &[u64]) -> Result<(u64, impl Iterator<Item = State>), OpError> {
    let (selected, all) = all.split_first().ok_or(OpError::BAD_PARTIAL)?;
    Ok((
        *selected,
        all.as_chunks::<WORDS>().0.iter().map(State::of_words),
    ))
}
