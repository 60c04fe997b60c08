//! Programs: what one `filter_aggregate` asks for, as words of the ring.
//!
//! Words 0 to 2 are the shape and the number of rows; then five words per column; then one word per
//! aggregate. `docs/device-ops.md` has the table.
//!
//! Invariants
//! - Decoding what was encoded gives the same program; anything else is an error, never a guess.
//! - A program that decodes names columns that exist, and functions that take their types.

use smallvec::SmallVec;

use super::super::OpError;
use crate::slot::{high, join, low};

/// The most columns of one program.
pub const COLUMNS_MAX: usize = 8;
/// The most aggregates of one program.
pub const AGGREGATES_MAX: usize = 8;
/// Words before the first column.
pub const HEADER_WORDS: usize = 3;
/// Words of one column.
pub const COLUMN_WORDS: usize = 5;
/// The bit of a column's first word that says that a bitmap of nulls follows its values.
pub const NULLABLE: u32 = 1 << 8;
/// The bit of a column's first word that says that it has a range.
pub const RANGED: u32 = 1 << 9;

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum ColumnType {
    /// 32-bit signed integers.
    I32 = 1,
    /// 64-bit signed integers.
    I64 = 2,
    /// 32-bit IEEE 754 numbers.
    F32 = 3,
    /// 64-bit IEEE 754 numbers.
    F64 = 4,
}

impl ColumnType {
    /// Bytes of one value; values begin at a multiple of it.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// Whether sums of it are exact integers.
    pub const fn is_integer(self) -> bool {
        match self {
            Self::I32 | Self::I64 => true,
            Self::F32 | Self::F64 => false,
        }
    }

    const fn of_word(word: u32) -> Option<Self> {
        Some(match word {
            1 => Self::I32,
            2 => Self::I64,
            3 => Self::F32,
            4 => Self::F64,
            _ => return None,
        })
    }
}

/// A closed range of a column's values. A NaN is in no range.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Bounds {
    /// Of integers; for `I32`, both are 32-bit values.
    Integers {
        /// The least value that is in it.
        least: i64,
        /// The greatest value that is in it.
        greatest: i64,
    },
    /// Of numbers, neither of which is NaN; for `F32`, both are 32-bit values. `-0.0` equals `0.0`.
    Numbers {
        /// The least value that is in it.
        least: f64,
        /// The greatest value that is in it.
        greatest: f64,
    },
}

/// One column: a window of values, and another one of its bitmap if it is nullable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// The type of its values.
    pub kind: ColumnType,
    /// Whether a bitmap follows: bit `i % 8` of byte `i / 8` is 1 if row `i` has a value.
    pub nullable: bool,
    /// Rows whose value is null or outside are not selected.
    pub range: Option<Bounds>,
}

/// What is computed of the selected rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Function {
    /// How many values there are.
    Count {
        /// Whose.
        column: u8,
    },
    /// The sum.
    Sum {
        /// Of which column.
        column: u8,
    },
    /// The least value; NaN is passed over, and `-0.0` is less than `0.0`.
    Min {
        /// Of which column.
        column: u8,
    },
    /// The greatest value; NaN is passed over, and `-0.0` is less than `0.0`.
    Max {
        /// Of which column.
        column: u8,
    },
    /// The sum of the products of two columns: both integers, or both numbers.
    SumOfProducts {
        /// One column.
        column: u8,
        /// The other.
        by: u8,
    },
}

/// Columns of equally many rows, the rows that are selected, and what is computed of those.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Rows of every column.
    pub rows: u64,
    /// 1 to 8 columns.
    pub columns: SmallVec<[Column; COLUMNS_MAX]>,
    /// Up to 8 functions; how many rows are selected is always told.
    pub functions: SmallVec<[Function; AGGREGATES_MAX]>,
}

impl Program {
    /// The program's words.
    ///
    /// # Errors
    /// [`OpError::BAD_ARGUMENT`]: it has too many columns or functions, or a part that does not fit
    /// the others.
    pub fn encode(&self) -> Result<Vec<u32>, OpError> {
        self.check()?;
        let shape = [self.columns.len(), self.functions.len(), 0, 0];
        let shape = shape.map(|part| u8::try_from(part).unwrap_or(u8::MAX));
        let mut words = vec![u32::from_le_bytes(shape), low(self.rows), high(self.rows)];
        for column in &self.columns {
            let mut kind = column.kind as u32;
            if column.nullable {
                kind |= NULLABLE;
            }
            let (least, greatest) = match column.range {
                None => (0, 0),
                Some(Bounds::Integers { least, greatest }) => {
                    (least.cast_unsigned(), greatest.cast_unsigned())
                }
                Some(Bounds::Numbers { least, greatest }) => (least.to_bits(), greatest.to_bits()),
            };
            if column.range.is_some() {
                kind |= RANGED;
            }
            words.extend([kind, low(least), high(least), low(greatest), high(greatest)]);
        }
        words.extend(self.functions.iter().map(|function| function.word()));
        Ok(words)
    }

    /// The program that these words are.
    ///
    /// # Errors
    /// [`OpError::BAD_ARGUMENT`]: they are none.
    pub fn decode(words: &[u32]) -> Result<Self, OpError> {
        let bad = OpError::BAD_ARGUMENT;
        let (header, rest) = words.split_first_chunk::<HEADER_WORDS>().ok_or(bad)?;
        let [columns, functions, 0, 0] = header[0].to_le_bytes() else {
            return Err(bad);
        };
        let column_words = usize::from(columns) * COLUMN_WORDS;
        let (of_columns, of_functions) = rest.split_at_checked(column_words).ok_or(bad)?;
        if of_functions.len() != usize::from(functions)
            || of_functions.len() > AGGREGATES_MAX
            || usize::from(columns) > COLUMNS_MAX
        {
            return Err(bad);
        }
        let columns = of_columns.as_chunks::<COLUMN_WORDS>().0.iter();
        let functions = of_functions.iter();
        let program = Self {
            rows: join(header[1], header[2]),
            columns: columns.map(Column::decode).collect::<Result<_, _>>()?,
            functions: functions
                .map(|word| Function::of_word(*word))
                .collect::<Result<_, _>>()?,
        };
        program.check()?;
        Ok(program)
    }

    /// Windows of the columns: values, and bitmaps of those that are nullable.
    pub fn windows(&self) -> usize {
        let nullable = self.columns.iter().filter(|column| column.nullable).count();
        self.columns.len() + nullable
    }

    fn check(&self) -> Result<(), OpError> {
        let fits = (1..=COLUMNS_MAX).contains(&self.columns.len())
            && self.functions.len() <= AGGREGATES_MAX
            && self.columns.iter().all(Column::is_sound)
            && self.functions.iter().all(|function| self.takes(*function));
        fits.then_some(()).ok_or(OpError::BAD_ARGUMENT)
    }

    fn takes(&self, function: Function) -> bool {
        let kind = |column: u8| Some(self.columns.get(usize::from(column))?.kind);
        match function {
            Function::Count { column }
            | Function::Sum { column }
            | Function::Min { column }
            | Function::Max { column } => kind(column).is_some(),
            Function::SumOfProducts { column, by } => match (kind(column), kind(by)) {
                (Some(one), Some(other)) => one.is_integer() == other.is_integer(),
                (Some(_) | None, None) | (None, Some(_)) => false,
            },
        }
    }
}

impl Column {
    fn decode(words: &[u32; COLUMN_WORDS]) -> Result<Self, OpError> {
        let bad = OpError::BAD_ARGUMENT;
        let [word, least_low, least_high, greatest_low, greatest_high] = *words;
        let kind = ColumnType::of_word(word & 0xff).ok_or(bad)?;
        if word & !(0xff | NULLABLE | RANGED) != 0 {
            return Err(bad);
        }
        let least = join(least_low, least_high);
        let greatest = join(greatest_low, greatest_high);
        let range = match (word & RANGED != 0, kind.is_integer()) {
            (true, true) => Some(Bounds::Integers {
                least: least.cast_signed(),
                greatest: greatest.cast_signed(),
            }),
            (true, false) => Some(Bounds::Numbers {
                least: f64::from_bits(least),
                greatest: f64::from_bits(greatest),
            }),
            (false, _) if least == 0 && greatest == 0 => None,
            (false, _) => return Err(bad),
        };
        Ok(Self {
            kind,
            nullable: word & NULLABLE != 0,
            range,
        })
    }

    fn is_sound(&self) -> bool {
        let narrow = |value: i64| i32::try_from(value).is_ok();
        match (self.range, self.kind) {
            (None, _) | (Some(Bounds::Integers { .. }), ColumnType::I64) => true,
            (Some(Bounds::Integers { least, greatest }), ColumnType::I32) => {
                narrow(least) && narrow(greatest)
            }
            (Some(Bounds::Numbers { least, greatest }), ColumnType::F64) => {
                !least.is_nan() && !greatest.is_nan()
            }
            (Some(Bounds::Numbers { least, greatest }), ColumnType::F32) => {
                is_single(least) && is_single(greatest)
            }
            (Some(Bounds::Integers { .. }), ColumnType::F32 | ColumnType::F64)
            | (Some(Bounds::Numbers { .. }), ColumnType::I32 | ColumnType::I64) => false,
        }
    }
}

/// Whether a number is one of 32 bits; NaN is none.
#[expect(clippy::cast_possible_truncation, reason = "that is the question")]
#[expect(clippy::float_cmp, reason = "bit for bit")]
fn is_single(value: f64) -> bool {
    f64::from(value as f32) == value
}

impl Function {
    fn word(self) -> u32 {
        let (function, column, by) = match self {
            Self::Count { column } => (1, column, 0),
            Self::Sum { column } => (2, column, 0),
            Self::Min { column } => (3, column, 0),
            Self::Max { column } => (4, column, 0),
            Self::SumOfProducts { column, by } => (5, column, by),
        };
        u32::from_le_bytes([function, column, by, 0])
    }

    fn of_word(word: u32) -> Result<Self, OpError> {
        Ok(match word.to_le_bytes() {
            [1, column, 0, 0] => Self::Count { column },
            [2, column, 0, 0] => Self::Sum { column },
            [3, column, 0, 0] => Self::Min { column },
            [4, column, 0, 0] => Self::Max { column },
            [5, column, by, 0] => Self::SumOfProducts { column, by },
            _ => return Err(OpError::BAD_ARGUMENT),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn column() -> impl Strategy<Value = Column> {
        let kind = prop_oneof![
            Just(ColumnType::I32),
            Just(ColumnType::I64),
            Just(ColumnType::F32),
            Just(ColumnType::F64)
        ];
        (kind, any::<bool>(), any::<bool>(), any::<[i32; 2]>()).prop_map(
            |(kind, nullable, ranged, [one, other])| {
                let range = if kind.is_integer() {
                    Bounds::Integers {
                        least: one.into(),
                        greatest: other.into(),
                    }
                } else {
                    // Multiples of 1/4 below 2^22: each a 32-bit number.
                    Bounds::Numbers {
                        least: f64::from(one >> 8) / 4.0,
                        greatest: f64::from(other >> 8) / 4.0,
                    }
                };
                Column {
                    kind,
                    nullable,
                    range: ranged.then_some(range),
                }
            },
        )
    }

    /// Any program over up to 8 columns.
    pub(crate) fn program() -> impl Strategy<Value = Program> {
        (
            any::<u64>(),
            vec(column(), 1..=8),
            vec(any::<[u8; 3]>(), 0..=8),
        )
            .prop_map(|(rows, columns, functions)| {
                let count = u8::try_from(columns.len()).unwrap();
                let functions = functions.into_iter().map(|[which, one, other]| {
                    let (column, by) = (one % count, other % count);
                    let alike = columns[usize::from(column)].kind.is_integer()
                        == columns[usize::from(by)].kind.is_integer();
                    match which % 5 {
                        0 => Function::Count { column },
                        1 => Function::Sum { column },
                        2 => Function::Min { column },
                        3 => Function::Max { column },
                        _ if alike => Function::SumOfProducts { column, by },
                        _ => Function::SumOfProducts { column, by: column },
                    }
                });
                Program {
                    rows,
                    functions: functions.collect(),
                    columns: columns.into(),
                }
            })
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_gives_the_same_program(program in program()) {
            let words = program.encode().unwrap();
            prop_assert_eq!(Program::decode(&words), Ok(program));
        }

        #[test]
        fn words_that_decode_are_the_words_of_what_they_decode_to(
            program in program(), at: prop::sample::Index, bits: u32, cut: prop::sample::Index,
        ) {
            let mut words = program.encode().unwrap();
            let at = at.index(words.len());
            words[at] ^= bits;
            if bits.is_multiple_of(8) {
                words.truncate(cut.index(words.len() + 1));
            }
            if let Ok(decoded) = Program::decode(&words) {
                prop_assert_eq!(decoded.encode(), Ok(words));
            }
        }
    }

    fn one(kind: ColumnType, range: Option<Bounds>) -> Program {
        Program {
            rows: 1,
            columns: SmallVec::from_iter([Column {
                kind,
                nullable: false,
                range,
            }]),
            functions: SmallVec::new(),
        }
    }

    #[test]
    fn bounds_that_are_no_values_of_the_column_are_refused() {
        let integers = |least, greatest| Some(Bounds::Integers { least, greatest });
        let numbers = |least, greatest| Some(Bounds::Numbers { least, greatest });
        for (kind, range) in [
            (ColumnType::I32, integers(0, 1 << 31)),
            (ColumnType::I32, integers(-(1 << 31) - 1, 0)),
            (ColumnType::I64, numbers(0.0, 1.0)),
            (ColumnType::F64, numbers(f64::NAN, 1.0)),
            (ColumnType::F64, integers(0, 1)),
            (ColumnType::F32, numbers(0.1, 1.0)),
            (ColumnType::F32, numbers(0.0, 1e300)),
        ] {
            assert_eq!(
                one(kind, range).encode(),
                Err(OpError::BAD_ARGUMENT),
                "{range:?}"
            );
        }
        assert!(
            one(ColumnType::F32, numbers(f64::NEG_INFINITY, 0.5))
                .encode()
                .is_ok()
        );
    }

    #[test]
    fn no_column_nine_columns_and_functions_of_absent_or_unlike_columns_are_refused() {
        let bad = Err(OpError::BAD_ARGUMENT);
        let mut program = one(ColumnType::I32, None);
        program.functions.push(Function::Sum { column: 1 });
        assert_eq!(program.encode(), bad);
        program.functions[0] = Function::SumOfProducts { column: 0, by: 1 };
        assert_eq!(program.encode(), bad);
        program.columns.push(Column {
            kind: ColumnType::F32,
            nullable: false,
            range: None,
        });
        assert_eq!(program.encode(), bad);
        program.functions[0] = Function::Sum { column: 1 };
        assert!(program.encode().is_ok());
        let column = program.columns[0];
        program.columns = std::iter::repeat_n(column, 9).collect();
        assert_eq!(program.encode(), bad);
        program.columns.clear();
        program.functions.clear();
        assert_eq!(program.encode(), bad);
        program.columns.push(column);
        program.functions = std::iter::repeat_n(Function::Count { column: 0 }, 9).collect();
        assert_eq!(program.encode(), bad);
    }
}
