//! TPC-H query 6: the sum of price times discount over a year of orders, for small quantities and a
//! range of discounts; as money in hundredths, and as numbers.

use smallvec::SmallVec;

use super::replay::{Folder, play};
use super::script::{ALICE, Script};
use crate::ops::aggregate::program::{Bounds, Column, ColumnType, Function, Program};
use crate::ops::testing::{self, Aligned};
use crate::ops::{FilterAggregate, TaskArgs};

const ROWS: usize = 17_000;
/// 1994, in days since 1992 began.
const YEAR: (i32, i32) = (731, 1095);

struct Lines {
    days: Vec<i32>,
    discounts: Vec<i64>,
    quantities: Vec<i64>,
    prices: Vec<i64>,
}

impl Lines {
    fn drawn() -> Self {
        let mut random = testing::random(6);
        let mut draw = |least: i64, count: u64| {
            let draw = |_| least + i64::try_from(random() % count).unwrap();
            (0..ROWS).map(draw).collect::<Vec<i64>>()
        };
        let days = draw(0, 2526);
        Self {
            days: days
                .iter()
                .map(|day| i32::try_from(*day).unwrap())
                .collect(),
            discounts: draw(0, 11),
            quantities: draw(1, 50),
            prices: draw(90_000, 10_000_000),
        }
    }

    /// The lines that count, as the query says it.
    fn counted(&self) -> impl Iterator<Item = usize> {
        (0..ROWS).filter(|line| {
            (YEAR.0..=YEAR.1).contains(&self.days[*line])
                && (5..=7).contains(&self.discounts[*line])
                && self.quantities[*line] < 24
        })
    }
}

/// Days, discounts, quantities, prices; the ranges are closed.
fn program(kind: ColumnType, bounds: impl Fn(i64, i64) -> Bounds) -> Program {
    let column = |kind, range| Column {
        kind,
        nullable: false,
        range,
    };
    let year = Bounds::Integers {
        least: YEAR.0.into(),
        greatest: YEAR.1.into(),
    };
    Program {
        rows: ROWS as u64,
        columns: SmallVec::from_iter([
            column(ColumnType::I32, Some(year)),
            column(kind, Some(bounds(5, 7))),
            column(kind, Some(bounds(1, 23))),
            column(kind, None),
        ]),
        functions: SmallVec::from_iter([Function::SumOfProducts { column: 3, by: 1 }]),
    }
}

fn windows(lines: &Lines, wide: impl Fn(i64) -> [u8; 8]) -> Vec<Aligned> {
    let days: Vec<u8> = lines
        .days
        .iter()
        .flat_map(|day| day.to_le_bytes())
        .collect();
    let columns = [&lines.discounts, &lines.quantities, &lines.prices];
    let columns = columns.map(|values| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| wide(*value)).collect();
        Aligned::of(&bytes)
    });
    std::iter::once(Aligned::of(&days)).chain(columns).collect()
}

/// What this side answers; and has the kernel answer the same.
fn answer(script: &mut Script, program: &Program, columns: &[Aligned]) -> Vec<u8> {
    let args = program.encode().unwrap();
    let shown: Vec<&[u8]> = columns.iter().map(Aligned::bytes).collect();
    let task = TaskArgs::new(ALICE, 1, &args, &shown);
    let answer = testing::answer(&FilterAggregate, &task).unwrap();
    let windows: Vec<_> = shown.iter().map(|bytes| script.operand(bytes, 0)).collect();
    script.entry(ALICE, FilterAggregate::OPCODE, &args, &windows);
    answer
}

fn as_number(value: i64) -> f64 {
    f64::from(i32::try_from(value).unwrap()) / 100.0
}

#[test]
fn tpch_query_6_is_the_same_by_a_plain_loop_by_this_side_and_by_the_kernel() {
    let lines = Lines::drawn();
    let mut script = Script::plain(6);
    let money = program(ColumnType::I64, |least, greatest| Bounds::Integers {
        least,
        greatest,
    });
    let columns = windows(&lines, i64::to_le_bytes);
    let exact = answer(&mut script, &money, &columns);
    let revenue: i128 = lines
        .counted()
        .map(|line| i128::from(lines.prices[line]) * i128::from(lines.discounts[line]))
        .sum();
    let count = lines.counted().count() as u64;
    assert!(count > 200, "{count} lines of {ROWS}");
    assert_eq!(exact[..8], count.to_le_bytes());
    assert_eq!(exact[16..], revenue.to_le_bytes());

    let numbers = program(ColumnType::F64, |least, greatest| Bounds::Numbers {
        least: as_number(least),
        greatest: as_number(greatest),
    });
    let columns = windows(&lines, |value| as_number(value).to_le_bytes());
    let rounded = answer(&mut script, &numbers, &columns);
    let sum = f64::from_le_bytes(rounded[16..24].try_into().unwrap());
    #[expect(clippy::cast_precision_loss, reason = "within the bound below")]
    let expected = revenue as f64 / 1e4;
    assert_eq!(rounded[..8], count.to_le_bytes());
    assert!((sum / expected - 1.0).abs() < 1e-13, "{sum} {expected}");

    let folder = Folder::new("query6");
    // The answers of this side are what each is to end with.
    play(&folder, &script, super::compiler::Watch::Nothing, 1, 2);
}
