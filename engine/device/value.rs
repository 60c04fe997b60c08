//! Values: numbers as columns and vectors hold them.

use std::ops::{Bound, RangeBounds};

use orlop_gpu::aggregate::program::{Bounds, ColumnType};

mod sealed {
    pub trait Sealed {}
}

/// A number that a device operation reads: `i32`, `i64`, `u64`, `f32` or `f64`.
pub trait DeviceValue: Copy + sealed::Sealed {
    /// Adds its little-endian bytes.
    #[doc(hidden)]
    fn extend(self, bytes: &mut Vec<u8>);
}

/// The bytes of values as device operations read them, for a buffer.
pub fn le_bytes<T: DeviceValue>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of_val(values));
    for value in values {
        value.extend(&mut bytes);
    }
    bytes
}

macro_rules! device_value {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}

        impl DeviceValue for $type {
            fn extend(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

device_value!(i32, i64, u64, f32, f64);

/// A value that a function over columns comes to: `i128`, `i32`, `i64`, `f32` or `f64`.
pub trait AnswerValue: Copy + sealed::Sealed {
    /// The value of these bytes, if they are one.
    #[doc(hidden)]
    fn of_bytes(bytes: [u8; 16]) -> Option<Self>;
}

impl sealed::Sealed for i128 {}

impl AnswerValue for i128 {
    fn of_bytes(bytes: [u8; 16]) -> Option<Self> {
        Some(Self::from_le_bytes(bytes))
    }
}

impl AnswerValue for i32 {
    fn of_bytes(bytes: [u8; 16]) -> Option<Self> {
        i128::from_le_bytes(bytes).try_into().ok()
    }
}

impl AnswerValue for i64 {
    fn of_bytes(bytes: [u8; 16]) -> Option<Self> {
        i128::from_le_bytes(bytes).try_into().ok()
    }
}

impl AnswerValue for f64 {
    fn of_bytes(bytes: [u8; 16]) -> Option<Self> {
        let bits = u64::try_from(u128::from_le_bytes(bytes)).ok()?;
        Some(Self::from_bits(bits))
    }
}

impl AnswerValue for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "it was one of 32 bits")]
    fn of_bytes(bytes: [u8; 16]) -> Option<Self> {
        Some(f64::of_bytes(bytes)? as Self)
    }
}

/// A value of a column: `i32`, `i64`, `f32` or `f64`.
pub trait ColumnValue: DeviceValue + AnswerValue {
    /// What its sums are: `i128` of integers, `f64` of numbers.
    type Sum: AnswerValue;

    /// How the device calls it.
    #[doc(hidden)]
    const TYPE: ColumnType;

    /// The closed range of exactly these values.
    #[doc(hidden)]
    fn bounds(range: &impl RangeBounds<Self>) -> Bounds;
}

macro_rules! integer_column {
    ($type:ty, $kind:ident) => {
        impl ColumnValue for $type {
            type Sum = i128;
            const TYPE: ColumnType = ColumnType::$kind;

            fn bounds(range: &impl RangeBounds<Self>) -> Bounds {
                let least = match range.start_bound() {
                    Bound::Included(least) => Some(*least),
                    Bound::Excluded(least) => least.checked_add(1),
                    Bound::Unbounded => Some(Self::MIN),
                };
                let greatest = match range.end_bound() {
                    Bound::Included(greatest) => Some(*greatest),
                    Bound::Excluded(greatest) => greatest.checked_sub(1),
                    Bound::Unbounded => Some(Self::MAX),
                };
                // What begins after the greatest value, or ends before the least, holds nothing.
                let (least, greatest) = match (least, greatest) {
                    (Some(least), Some(greatest)) => (least, greatest),
                    (None, _) | (_, None) => (Self::MAX, Self::MIN),
                };
                Bounds::Integers {
                    least: least.into(),
                    greatest: greatest.into(),
                }
            }
        }
    };
}

integer_column!(i32, I32);
integer_column!(i64, I64);

macro_rules! number_column {
    ($type:ty, $kind:ident) => {
        impl ColumnValue for $type {
            type Sum = f64;
            const TYPE: ColumnType = ColumnType::$kind;

            fn bounds(range: &impl RangeBounds<Self>) -> Bounds {
                let least = match range.start_bound() {
                    Bound::Included(least) => Some(*least),
                    Bound::Excluded(least) if *least == Self::INFINITY => None,
                    Bound::Excluded(least) => Some(least.next_up()),
                    Bound::Unbounded => Some(Self::NEG_INFINITY),
                };
                let greatest = match range.end_bound() {
                    Bound::Included(greatest) => Some(*greatest),
                    Bound::Excluded(greatest) if *greatest == Self::NEG_INFINITY => None,
                    Bound::Excluded(greatest) => Some(greatest.next_down()),
                    Bound::Unbounded => Some(Self::INFINITY),
                };
                let (least, greatest) = match (least, greatest) {
                    (Some(least), Some(greatest)) => (least, greatest),
                    // What is no number stays none, whatever the other bound is.
                    (Some(nan), None) | (None, Some(nan)) if nan.is_nan() => (nan, nan),
                    (None, _) | (_, None) => (Self::INFINITY, Self::NEG_INFINITY),
                };
                Bounds::Numbers {
                    least: least.into(),
                    greatest: greatest.into(),
                }
            }
        }
    };
}

number_column!(f32, F32);
number_column!(f64, F64);

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(least: i64, greatest: i64) -> Bounds {
        Bounds::Integers { least, greatest }
    }

    fn numbers(least: f64, greatest: f64) -> Bounds {
        Bounds::Numbers { least, greatest }
    }

    #[test]
    fn a_range_becomes_the_closed_range_of_exactly_its_values() {
        assert_eq!(i32::bounds(&(3..7)), integers(3, 6));
        assert_eq!(i32::bounds(&(3..=7)), integers(3, 7));
        assert_eq!(i32::bounds(&..), integers(i32::MIN.into(), i32::MAX.into()));
        assert_eq!(i64::bounds(&(..-2)), integers(i64::MIN, -3));
        let beyond = (Bound::Excluded(i64::MAX), Bound::Unbounded);
        assert_eq!(i64::bounds(&beyond), integers(i64::MAX, i64::MIN));
        assert_eq!(
            i32::bounds(&(..i32::MIN)),
            integers(i32::MAX.into(), i32::MIN.into())
        );
        assert_eq!(f64::bounds(&(0.05..=0.07)), numbers(0.05, 0.07));
        assert_eq!(
            f64::bounds(&(..24.0)),
            numbers(f64::NEG_INFINITY, 24.0_f64.next_down())
        );
        let single = f64::from(1.5_f32.next_up());
        let above = (Bound::Excluded(1.5_f32), Bound::Unbounded);
        assert_eq!(f32::bounds(&above), numbers(single, f64::INFINITY));
        // Less than zero is less than both zeros.
        let below = f64::bounds(&(..0.0));
        assert_eq!(below, numbers(f64::NEG_INFINITY, -f64::from_bits(1)));
    }

    #[test]
    fn a_range_beyond_every_number_holds_nothing_and_a_bound_that_is_nan_stays_one() {
        let above = (Bound::Excluded(f32::INFINITY), Bound::Unbounded);
        assert_eq!(
            f32::bounds(&above),
            numbers(f64::INFINITY, f64::NEG_INFINITY)
        );
        assert_eq!(
            f64::bounds(&(..f64::NEG_INFINITY)),
            numbers(f64::INFINITY, f64::NEG_INFINITY)
        );
        let bounds = f64::bounds(&(f64::NAN..f64::NEG_INFINITY));
        assert!(matches!(bounds, Bounds::Numbers { least, .. } if least.is_nan()));
    }

    #[test]
    fn values_are_laid_out_little_endian_one_after_the_other() {
        assert_eq!(le_bytes(&[1_i32, -2]), [1, 0, 0, 0, 254, 255, 255, 255]);
        assert_eq!(le_bytes(&[0.5_f64]), 0.5_f64.to_le_bytes());
    }
}
