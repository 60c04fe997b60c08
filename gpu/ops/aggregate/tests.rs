//! Against a plain loop over rows, written from the definition and nothing else.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::wildcard_enum_match_arm,
    reason = "values are drawn so that they are what they become"
)]

use orlop_saga::id::TenantId;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::super::testing::{self, Aligned};
use super::program::tests::program;
use super::program::{Column, ColumnType, Program};
use super::*;

/// Null, an integer, or a number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Null,
    Integer(i64),
    Number(f64),
}

impl Cell {
    fn is_within(self, bounds: Bounds) -> bool {
        match (self, bounds) {
            (Self::Integer(value), Bounds::Integers { least, greatest }) => {
                least <= value && value <= greatest
            }
            (Self::Number(value), Bounds::Numbers { least, greatest }) => {
                least <= value && value <= greatest
            }
            (Self::Null | Self::Integer(_) | Self::Number(_), _) => false,
        }
    }
}

/// Values at the bounds of the column's range, extreme ones, and others; only `wild` ones may be
/// infinite or NaN, which hide in what order a sum was made.
fn cell(column: &Column, wild: bool, random: u64) -> Cell {
    if column.nullable && random.is_multiple_of(8) {
        return Cell::Null;
    }
    let (kind, step) = (random >> 8 & 15, (random >> 16 & 3).cast_signed() - 1);
    if column.kind.is_integer() {
        let value = match (kind, column.range) {
            (0..4, Some(Bounds::Integers { least, .. })) => least.saturating_add(step),
            (4..8, Some(Bounds::Integers { greatest, .. })) => greatest.saturating_add(step),
            (8, _) => i64::MIN,
            (9, _) => i64::MAX,
            (10..13, _) => random.cast_signed(),
            _ => random.cast_signed() >> 44,
        };
        return Cell::Integer(match column.kind {
            ColumnType::I32 => value.clamp(i32::MIN.into(), i32::MAX.into()),
            _ => value,
        });
    }
    let value = match (kind, column.range) {
        (0..4, Some(Bounds::Numbers { least, .. })) => least + step as f64,
        (4..8, Some(Bounds::Numbers { greatest, .. })) => greatest + step as f64,
        (8, _) if wild && step == 0 => f64::NAN,
        (9, _) if wild && step == 0 => f64::INFINITY,
        (10, _) => -0.0,
        (11, _) => 0.0,
        _ => f64::from_bits((random & !(0x7ff << 52)) | (1000 + (random >> 20 & 31)) << 52),
    };
    Cell::Number(match column.kind {
        ColumnType::F32 => f64::from(value as f32),
        _ => value,
    })
}

pub(crate) struct Data {
    pub(crate) program: Program,
    /// Rows of each column.
    cells: Vec<Vec<Cell>>,
}

impl Data {
    pub(crate) fn draw(mut program: Program, rows: usize, seed: u64) -> Self {
        program.rows = rows as u64;
        let mut random = testing::random(seed);
        let columns = program.columns.iter();
        let cells = columns.map(|column| {
            let wild = random().is_multiple_of(4);
            (0..rows).map(|_| cell(column, wild, random())).collect()
        });
        let cells = cells.collect();
        Self { program, cells }
    }

    /// What the windows show; the values of nulls are arbitrary.
    pub(crate) fn windows(&self) -> Vec<Aligned> {
        let mut windows = Vec::new();
        for (column, cells) in self.program.columns.iter().zip(&self.cells) {
            let mut bytes = Vec::new();
            let mut bitmap = vec![0xff_u8; cells.len().div_ceil(8)];
            for (row, cell) in cells.iter().enumerate() {
                if *cell == Cell::Null {
                    bitmap[row / 8] &= !(1 << (row % 8));
                }
                let (integer, number) = match cell {
                    Cell::Null => (-7, f64::NAN),
                    Cell::Integer(value) => (*value, 0.0),
                    Cell::Number(value) => (0, *value),
                };
                match column.kind {
                    ColumnType::I32 => bytes.extend(i32::try_from(integer).unwrap().to_le_bytes()),
                    ColumnType::I64 => bytes.extend(integer.to_le_bytes()),
                    ColumnType::F32 => bytes.extend((number as f32).to_le_bytes()),
                    ColumnType::F64 => bytes.extend(number.to_le_bytes()),
                }
            }
            windows.push(Aligned::of(&bytes));
            if column.nullable {
                windows.push(Aligned::of(&bitmap));
            }
        }
        windows
    }

    fn answer(&self, in_window: bool, seed: u64) -> Result<Vec<u8>, OpError> {
        let words = self.program.encode()?;
        let program = Aligned::of(bytemuck::cast_slice(&words));
        let columns = self.windows();
        let (args, first) = if in_window {
            (&[][..], Some(program.bytes()))
        } else {
            (&words[..], None)
        };
        let windows: Vec<&[u8]> = first
            .into_iter()
            .chain(columns.iter().map(Aligned::bytes))
            .collect();
        let task = TaskArgs::new(TenantId::new(0, 1), 1, args, &windows);
        let order = testing::shuffled(FilterAggregate.tiles(&task)?, seed);
        testing::in_order(&FilterAggregate, &task, &order)
    }

    /// The definition, row by row.
    fn oracle(&self) -> Vec<u8> {
        let rows = usize::try_from(self.program.rows).unwrap();
        let selected: Vec<usize> = (0..rows)
            .filter(|row| {
                let columns = self.program.columns.iter().zip(&self.cells);
                let mut ranges = columns.filter_map(|(column, cells)| Some((column.range?, cells)));
                ranges.all(|(range, cells)| cells[*row].is_within(range))
            })
            .collect();
        let mut bytes = (selected.len() as u64).to_le_bytes().to_vec();
        for function in &self.program.functions {
            let (counted, value) = self.apply(*function, &selected);
            bytes.extend(counted.to_le_bytes());
            bytes.extend(if counted == 0 { [0; 16] } else { value });
        }
        bytes
    }

    fn apply(&self, function: Function, selected: &[usize]) -> (u64, [u8; 16]) {
        let cells = |column: u8| {
            let cells = &self.cells[usize::from(column)];
            selected.iter().map(|row| (*row, cells[*row]))
        };
        match function {
            Function::Count { column } => {
                let count = cells(column)
                    .filter(|(_, cell)| *cell != Cell::Null)
                    .count();
                (count as u64, [0; 16])
            }
            Function::Sum { column } => sum(cells(column)),
            Function::SumOfProducts { column, by } => {
                let pairs = cells(column).zip(cells(by));
                let products = pairs.map(|((row, one), (_, by))| (row, product(one, by)));
                let mut counted = 0;
                let mut total = num::Big::default();
                let mut numbers = Vec::new();
                for (row, product) in products {
                    match product {
                        Product::Null => continue,
                        Product::Integer(value) => total.add(value),
                        Product::Number(value) => numbers.push((row, Cell::Number(value))),
                    }
                    counted += 1;
                }
                if numbers.is_empty() {
                    (counted, total.get().to_le_bytes())
                } else {
                    sum(numbers.into_iter())
                }
            }
            Function::Min { column } => extreme(cells(column), std::cmp::Ordering::Less),
            Function::Max { column } => extreme(cells(column), std::cmp::Ordering::Greater),
        }
    }
}

enum Product {
    Null,
    Integer(i128),
    Number(f64),
}

fn product(one: Cell, by: Cell) -> Product {
    match (one, by) {
        (Cell::Integer(one), Cell::Integer(by)) => {
            Product::Integer(i128::from(one) * i128::from(by))
        }
        (Cell::Number(one), Cell::Number(by)) => Product::Number(one * by),
        _ => Product::Null,
    }
}

/// A sum that is told wrong where it overflows: such data is not drawn.
mod num {
    #[derive(Default)]
    pub(super) struct Big(i128);

    impl Big {
        pub(super) fn add(&mut self, value: i128) {
            self.0 = self
                .0
                .checked_add(value)
                .expect("data that overflows is not drawn");
        }

        pub(super) fn get(&self) -> i128 {
            self.0
        }
    }
}

fn number_bytes(value: f64) -> [u8; 16] {
    let value = if value.is_nan() { f64::NAN } else { value };
    u128::from(value.to_bits()).to_le_bytes()
}

fn sum(cells: impl Iterator<Item = (usize, Cell)>) -> (u64, [u8; 16]) {
    let (mut counted, mut integers) = (0, 0_i128);
    let mut tiles: Vec<[f64; 256]> = Vec::new();
    let mut is_number = false;
    for (row, cell) in cells {
        match cell {
            Cell::Null => continue,
            Cell::Integer(value) => integers += i128::from(value),
            Cell::Number(value) => {
                is_number = true;
                if tiles.len() <= row / 16_384 {
                    tiles.resize(row / 16_384 + 1, [-0.0; 256]);
                }
                tiles[row / 16_384][row % 256] += value;
            }
        }
        counted += 1;
    }
    if !is_number {
        return (counted, integers.to_le_bytes());
    }
    let mut total = -0.0;
    for lanes in &mut tiles {
        for half in [128, 64, 32, 16, 8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        total += lanes[0];
    }
    (counted, number_bytes(total))
}

fn extreme(
    cells: impl Iterator<Item = (usize, Cell)>,
    wanted: std::cmp::Ordering,
) -> (u64, [u8; 16]) {
    let (mut counted, mut best) = (0, None);
    for (_, cell) in cells {
        let order = match (cell, best) {
            (Cell::Null, _) => continue,
            (Cell::Number(value), _) if value.is_nan() => continue,
            (Cell::Integer(value), Some(Cell::Integer(best))) => value.cmp(&best),
            (Cell::Number(value), Some(Cell::Number(best))) => value.total_cmp(&best),
            _ => wanted,
        };
        counted += 1;
        if order == wanted {
            best = Some(cell);
        }
    }
    let bytes = match best {
        Some(Cell::Integer(value)) => i128::from(value).to_le_bytes(),
        Some(Cell::Number(value)) => number_bytes(value),
        Some(Cell::Null) | None => [0; 16],
    };
    (counted, bytes)
}

fn rows() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..300_usize,
        1 => prop::sample::select(vec![16_383_usize, 16_384, 16_385, 32_768, 40_001]),
    ]
}

/// Sums of products of whole 64-bit integers overflow; the others do not.
fn tame(mut program: Program) -> Program {
    for function in &mut program.functions {
        if let Function::SumOfProducts { column, by } = *function
            && program.columns[usize::from(column)].kind == ColumnType::I64
            && program.columns[usize::from(by)].kind == ColumnType::I64
        {
            *function = Function::Sum { column };
        }
    }
    program
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn every_answer_is_that_of_a_plain_loop_in_any_order_of_tiles(
        program in program(), rows in rows(), seed: u64, in_window: bool,
    ) {
        let data = Data::draw(tame(program), rows, seed);
        prop_assert_eq!(data.answer(in_window, seed >> 7), Ok(data.oracle()));
    }

    #[test]
    fn any_words_and_windows_are_answered_or_refused(
        program in program(), rows in 0..200_usize, seed: u64, words: [u32; 2],
        lengths in proptest::collection::vec(0..40_usize, 0..6),
    ) {
        let data = Data::draw(program, rows, seed);
        let mut args = data.program.encode().unwrap();
        let at = usize::try_from(seed % args.len() as u64).unwrap();
        args[at] = words[0];
        let columns = data.windows();
        let mut windows: Vec<&[u8]> = columns.iter().map(Aligned::bytes).collect();
        for (window, length) in windows.iter_mut().zip(lengths) {
            *window = window.get(length..).unwrap_or_default();
        }
        if words[1].is_multiple_of(8) {
            windows.pop();
        }
        let task = TaskArgs::new(TenantId::new(0, 1), 1, &args, &windows);
        if let Ok(bytes) = testing::answer(&FilterAggregate, &task) {
            prop_assert!(bytes.len() <= 8 + 8 * 24);
        }
    }

    #[test]
    fn a_sum_of_numbers_keeps_its_bound(
        values in proptest::collection::vec((any::<i32>(), 0..60_i32), 1..2000),
    ) {
        let numbers = values.iter().map(|(value, shift)| f64::from(*value) * f64::from(*shift).exp2());
        let bytes: Vec<u8> = numbers.clone().flat_map(f64::to_le_bytes).collect();
        let exact: i128 = values.iter().map(|(value, shift)| i128::from(*value) << shift).sum();
        let absolute: f64 = numbers.map(f64::abs).sum();
        let window = Aligned::of(&bytes);
        let program = single(ColumnType::F64, values.len(), Function::Sum { column: 0 });
        let answer = alone(&program, &[window.bytes()]).unwrap();
        let sum = f64::from_bits(u64::from_le_bytes(answer[16..24].try_into().unwrap()));
        let unit = 2_f64.powi(-53);
        // One unit more for the conversion of the exact sum, and of the sum of absolute values.
        let bound = 75.0 * unit / (1.0 - 73.0 * unit) * absolute;
        prop_assert!((sum - exact as f64).abs() <= bound, "{} {}", sum, exact);
    }
}

fn single(kind: ColumnType, rows: usize, function: Function) -> Program {
    Program {
        rows: rows as u64,
        columns: SmallVec::from_iter([Column {
            kind,
            nullable: false,
            range: None,
        }]),
        functions: SmallVec::from_iter([function]),
    }
}

fn alone(program: &Program, windows: &[&[u8]]) -> Result<Vec<u8>, OpError> {
    let words = program.encode()?;
    let task = TaskArgs::new(TenantId::new(0, 1), 1, &words, windows);
    testing::answer(&FilterAggregate, &task)
}

#[test]
fn a_sum_of_products_overflows_only_if_the_exact_sum_does() {
    let program = |rows| {
        single(
            ColumnType::I64,
            rows,
            Function::SumOfProducts { column: 0, by: 0 },
        )
    };
    let square = |values: &[i64]| {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        alone(&program(values.len()), &[Aligned::of(&bytes).bytes()])
    };
    // (2^63)^2 twice is 2^127, one more than fits; the largest squares that fit are just below.
    assert_eq!(square(&[i64::MIN, i64::MIN]), Err(OpError::OVERFLOW));
    let answer = square(&[i64::MIN, i64::MAX]).unwrap();
    let (least, greatest) = (i128::from(i64::MIN), i128::from(i64::MAX));
    assert_eq!(
        answer[16..],
        (least * least + greatest * greatest).to_le_bytes()
    );
    // Far beyond in between, and back: 20,000 rows of 2^126 and as many of -2^126.
    let mut one = vec![i64::MIN; 40_000];
    let by: Vec<i64> = (0..40_000)
        .map(|row| if row < 20_000 { i64::MIN } else { 1 << 62 })
        .collect();
    one[20_000..].fill(i64::MAX);
    let mut program = program(40_000);
    program.columns.push(program.columns[0]);
    program.functions[0] = Function::SumOfProducts { column: 0, by: 1 };
    let window = |values: &[i64]| {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Aligned::of(&bytes)
    };
    let (one_window, by_window) = (window(&one), window(&by));
    assert_eq!(
        alone(&program, &[one_window.bytes(), by_window.bytes()]),
        Err(OpError::OVERFLOW)
    );
    let by: Vec<i64> = (0..40_000)
        .map(|row| if row < 20_000 { 2 } else { -2 })
        .collect();
    let one: Vec<i64> = vec![i64::MAX; 40_000];
    let (one_window, by_window) = (window(&one), window(&by));
    let answer = alone(&program, &[one_window.bytes(), by_window.bytes()]).unwrap();
    assert_eq!(answer[16..], 0_i128.to_le_bytes());
}

#[test]
fn windows_of_wrong_length_or_place_and_too_few_or_many_are_typed_failures() {
    let program = single(ColumnType::I64, 3, Function::Sum { column: 0 });
    let memory = Aligned::of(&[0; 64]);
    let bytes = memory.bytes();
    assert!(alone(&program, &[&bytes[..24]]).is_ok());
    assert_eq!(alone(&program, &[&bytes[..32]]), Err(OpError::BAD_LENGTH));
    assert_eq!(alone(&program, &[&bytes[4..28]]), Err(OpError::MISALIGNED));
    assert_eq!(alone(&program, &[]), Err(OpError::MISSING_WINDOW));
    let two = [&bytes[..24], &bytes[..24]];
    assert_eq!(alone(&program, &two), Err(OpError::BAD_ARGUMENT));
    let mut nullable = program.clone();
    nullable.columns[0].nullable = true;
    assert!(alone(&nullable, &[&bytes[..24], &bytes[..1]]).is_ok());
    assert_eq!(
        alone(&nullable, &[&bytes[..24]]),
        Err(OpError::MISSING_WINDOW)
    );
    assert_eq!(
        alone(&nullable, &[&bytes[..24], &bytes[..2]]),
        Err(OpError::BAD_LENGTH)
    );
    assert_eq!(
        alone(&nullable, &[&bytes[..24], &bytes[1..2]]),
        Err(OpError::MISALIGNED)
    );
    let mut endless = program;
    endless.rows = u64::MAX;
    assert_eq!(alone(&endless, &[&bytes[..24]]), Err(OpError::BAD_LENGTH));
    endless.rows = 1 << 61;
    assert_eq!(alone(&endless, &[&[]]), Err(OpError::BAD_LENGTH));
}

#[test]
fn no_rows_are_no_values() {
    let program = single(ColumnType::F32, 0, Function::Min { column: 0 });
    assert_eq!(alone(&program, &[&[]]), Ok(vec![0; 32]));
}
