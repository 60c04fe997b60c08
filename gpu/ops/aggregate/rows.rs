//! Rows: the columns of a task as typed values, cut into tiles of 16,384 rows.

use std::ops::Range;

use smallvec::SmallVec;

use super::super::view::values;
use super::super::{OpError, TaskArgs};
use super::program::{COLUMNS_MAX, ColumnType, Program};

/// Rows of one tile: at most 1 MiB of values.
pub const TILE_ROWS: usize = 16_384;
/// Rows that one word of a mask stands for.
pub(super) const BLOCK: usize = 64;
/// Words of the mask of one tile.
pub(super) const MASKS: usize = TILE_ROWS / BLOCK;

/// Bit `i` of word `w` stands for row `64 w + i` of a tile.
pub(super) type Mask = [u64; MASKS];

/// Values of one column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> Values<'a> {
    fn of(kind: ColumnType, window: &'a [u8]) -> Result<Self, OpError> {
        Ok(match kind {
            ColumnType::I32 => Self::I32(values(window)?),
            ColumnType::I64 => Self::I64(values(window)?),
            ColumnType::F32 => Self::F32(values(window)?),
            ColumnType::F64 => Self::F64(values(window)?),
        })
    }

    fn part(self, rows: Range<usize>) -> Self {
        match self {
            Self::I32(values) => Self::I32(values.get(rows).unwrap_or_default()),
            Self::I64(values) => Self::I64(values.get(rows).unwrap_or_default()),
            Self::F32(values) => Self::F32(values.get(rows).unwrap_or_default()),
            Self::F64(values) => Self::F64(values.get(rows).unwrap_or_default()),
        }
    }
}

/// One column: its values, and its bitmap if it is nullable.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnRows<'a> {
    pub(super) values: Values<'a>,
    bitmap: Option<&'a [u8]>,
}

impl ColumnRows<'_> {
    /// Takes the rows without a value out of `mask`.
    pub(super) fn retain_present(&self, mask: &mut Mask) {
        let Some(bitmap) = self.bitmap else { return };
        let (words, rest) = bitmap.as_chunks::<8>();
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        for (word, bits) in mask.iter_mut().zip(words.iter().chain([&last])) {
            *word &= u64::from_le_bytes(*bits);
        }
    }
}

pub(super) type Columns<'a> = SmallVec<[ColumnRows<'a>; COLUMNS_MAX]>;

/// The program of a task and what its windows show.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) program: Program,
    pub(super) columns: Columns<'a>,
    rows: usize,
}

impl<'a> Table<'a> {
    pub(super) fn of(task: &TaskArgs<'a>) -> Result<Self, OpError> {
        let (words, first) = match task.args() {
            [] => (values::<u32>(task.window(0)?)?, 1),
            args => (args, 0),
        };
        let program = Program::decode(words)?;
        let mut next = first..task.windows();
        let mut window = || task.window(next.next().ok_or(OpError::MISSING_WINDOW)?);
        let mut columns = Columns::new();
        for column in &program.columns {
            let shown = window()?;
            let bytes = program.rows.checked_mul(column.kind.bytes());
            if bytes != Some(shown.len() as u64) {
                return Err(OpError::BAD_LENGTH);
            }
            let bitmap = if column.nullable {
                Some(window()?)
            } else {
                None
            };
            if let Some(bitmap) = bitmap {
                if bitmap.len() as u64 != program.rows.div_ceil(8) {
                    return Err(OpError::BAD_LENGTH);
                }
                if !bitmap.is_empty() && !bitmap.as_ptr().addr().is_multiple_of(8) {
                    return Err(OpError::MISALIGNED);
                }
            }
            let values = Values::of(column.kind, shown)?;
            columns.push(ColumnRows { values, bitmap });
        }
        if first + program.windows() != task.windows() {
            return Err(OpError::BAD_ARGUMENT);
        }
        let rows = usize::try_from(program.rows).map_err(|_| OpError::INPUT_TOO_LONG)?;
        Ok(Self {
            program,
            columns,
            rows,
        })
    }

    pub(super) fn tiles(&self) -> Result<u32, OpError> {
        let tiles = self.rows.div_ceil(TILE_ROWS).max(1);
        u32::try_from(tiles).map_err(|_| OpError::INPUT_TOO_LONG)
    }

    /// The columns of one tile, and the mask of the rows that it has.
    pub(super) fn tile(&self, tile: u32) -> (Columns<'a>, Mask) {
        let start = (tile as usize).saturating_mul(TILE_ROWS).min(self.rows);
        let end = start.saturating_add(TILE_ROWS).min(self.rows);
        let columns = self.columns.iter().map(|column| ColumnRows {
            values: column.values.part(start..end),
            // A tile's rows are a multiple of eight, so its bits begin with a byte.
            bitmap: column
                .bitmap
                .map(|bitmap| bitmap.get(start / 8..end.div_ceil(8)).unwrap_or_default()),
        });
        let mut mask = [0; MASKS];
        for (word, at) in mask.iter_mut().zip((0..).step_by(BLOCK)) {
            *word = match (end - start).saturating_sub(at) {
                0 => 0,
                rows @ 1..BLOCK => (1 << rows) - 1,
                BLOCK.. => u64::MAX,
            };
        }
        (columns.collect(), mask)
    }
}
