// Math: divisions and roots without a call, which is what the compiler makes of its own.
//
// Rounded as IEEE 754 has it: the quotient or root of numbers of 24 bits is found in 53, to within
// less than what would bring it over a place where rounding changes.
#pragma once

#include "port.cuh"

namespace orlop {

DEVICE bool is_nan(float value) { return (bits_of(value) & 0x7fffffffU) > 0x7f800000U; }
DEVICE bool is_nan(double value) { return (bits_of(value) & ~(1ULL << 63)) > 0x7ff0000000000000ULL; }
DEVICE bool is_infinite(float value) { return (bits_of(value) & 0x7fffffffU) == 0x7f800000U; }

// Of a number that is neither zero nor too large or small for that.
DEVICE double reciprocal(double value) {
    double found = reciprocal_about(value);
    UNROLL
    for (u32 turn = 0; turn < 3; ++turn) {
        found = fused(found, fused(-value, found, 1.0), found);
    }
    return found;
}

DEVICE float divide(float value, float by) {
    const u32 sign = (bits_of(value) ^ bits_of(by)) & 0x80000000U;
    if (is_nan(value) || is_nan(by) || (is_infinite(value) && is_infinite(by)) ||
        (value == 0.0F && by == 0.0F)) {
        return float_of(0x7fc00000U);
    }
    if (is_infinite(value) || by == 0.0F) {
        return float_of(sign | 0x7f800000U);
    }
    if (value == 0.0F || is_infinite(by)) {
        return float_of(sign);
    }
    const double inverse = reciprocal((double)by);
    const double about = multiply((double)value, inverse);
    return narrow(fused(fused(-(double)by, about, (double)value), inverse, about));
}

DEVICE float square_root(float value) {
    if (value == 0.0F || is_nan(value) || bits_of(value) == 0x7f800000U) {
        return value;
    }
    if (value < 0.0F) {
        return float_of(0x7fc00000U);
    }
    const double wide = (double)value;
    double inverse = reciprocal_root_about(wide);
    UNROLL
    for (u32 turn = 0; turn < 3; ++turn) {
        const double excess = fused(multiply(-wide, inverse), inverse, 1.0);
        inverse = fused(multiply(0.5, inverse), excess, inverse);
    }
    const double about = multiply(wide, inverse);
    return narrow(fused(fused(-about, about, wide), multiply(0.5, inverse), about));
}

// Of a number below 2^52.
DEVICE u64 divide(u64 value, u32 by, u32 *rest) {
    u64 found = (u64)multiply((double)value, reciprocal((double)by));
    i64 left = (i64)(value - found * by);
    if (left < 0) {
        found -= 1;
        left += by;
    } else if (left >= (i64)by) {
        found += 1;
        left -= by;
    }
    *rest = (u32)left;
    return found;
}

DEVICE u64 divide_up(u64 value, u32 by) {
    u32 rest = 0;
    const u64 whole = divide(value, by, &rest);
    return whole + (rest != 0 ? 1 : 0);
}

} // namespace orlop
