//! Values: what the four column types have in common.

/// A value of a column.
pub(super) trait Value: Copy + Default + PartialOrd {
    /// A word that compares as the values do: `-0.0` is less than `0.0`. Not for NaN.
    fn rank(self) -> i64;
}

/// A value whose sums are exact.
pub(super) trait Integer: Value {
    fn wide(self) -> i64;
}

/// A value whose sums are rounded.
pub(super) trait Number: Value {
    fn wide(self) -> f64;
}

impl Value for i32 {
    #[inline(always)]
    fn rank(self) -> i64 {
        self.into()
    }
}

impl Value for i64 {
    #[inline(always)]
    fn rank(self) -> i64 {
        self
    }
}

impl Value for f32 {
    #[inline(always)]
    fn rank(self) -> i64 {
        f64::from(self).rank()
    }
}

impl Value for f64 {
    #[inline(always)]
    fn rank(self) -> i64 {
        let bits = self.to_bits().cast_signed();
        // Of negative numbers the greater magnitude is less.
        bits ^ ((bits >> 63) & i64::MAX)
    }
}

/// The number of a rank.
pub(super) fn number_of(rank: i64) -> f64 {
    f64::from_bits((rank ^ ((rank >> 63) & i64::MAX)).cast_unsigned())
}

impl Integer for i32 {
    #[inline(always)]
    fn wide(self) -> i64 {
        self.into()
    }
}

impl Integer for i64 {
    #[inline(always)]
    fn wide(self) -> i64 {
        self
    }
}

impl Number for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Number for f64 {
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
}
