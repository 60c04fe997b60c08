//! Queries: what one `vector_topk` asks for, as words of the ring.
//!
//! Invariants
//! - Decoding what was encoded gives the same query; anything else is an error, never a guess.

use super::super::OpError;
use crate::layout::RESULT_BYTES_MAX;

/// The most neighbours of one query.
pub const K_MAX: u32 = 256;
/// The most elements of one vector.
pub const DIMENSIONS_MAX: u32 = 16_384;

/// How two vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum VectorMetric {
    /// The square of the Euclidean distance; the least is the nearest.
    SquaredL2 = 1,
    /// The inner product; the greatest is the nearest.
    InnerProduct = 2,
    /// The cosine of the angle; the greatest is the nearest. None where a vector has length zero.
    Cosine = 3,
}

/// The type of a vector's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum ElementType {
    /// 32-bit IEEE 754 numbers.
    F32 = 1,
    /// 16-bit IEEE 754 numbers; computed with as 32-bit ones.
    F16 = 2,
}

impl ElementType {
    /// Bytes of one element; windows begin at a multiple of it.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// What is asked of every query vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// How vectors are compared.
    pub metric: VectorMetric,
    /// The elements' type, of vectors and query vectors alike.
    pub element: ElementType,
    /// Elements of a vector, 1 to [`DIMENSIONS_MAX`].
    pub dimensions: u32,
    /// The most neighbours told of each query, 1 to [`K_MAX`].
    pub k: u32,
}

impl Query {
    /// Words of a query.
    pub const WORDS: usize = 3;

    /// The query's words.
    ///
    /// # Errors
    /// [`OpError::BAD_ARGUMENT`]: a number is outside its range.
    pub const fn encode(&self) -> Result<[u32; Self::WORDS], OpError> {
        if !self.is_sound() {
            return Err(OpError::BAD_ARGUMENT);
        }
        let shape = self.metric as u32 | (self.element as u32) << 8;
        Ok([shape, self.dimensions, self.k])
    }

    /// The query that these words are.
    ///
    /// # Errors
    /// [`OpError::MISSING_ARGUMENT`] or [`OpError::BAD_ARGUMENT`]: they are none.
    pub fn decode(words: &[u32]) -> Result<Self, OpError> {
        let [shape, dimensions, k] = match words {
            [shape, dimensions, k] => [*shape, *dimensions, *k],
            [] | [_] | [_, _] => return Err(OpError::MISSING_ARGUMENT),
            [_, _, _, _, ..] => return Err(OpError::BAD_ARGUMENT),
        };
        let metric = match shape & 0xff {
            1 => VectorMetric::SquaredL2,
            2 => VectorMetric::InnerProduct,
            3 => VectorMetric::Cosine,
            _ => return Err(OpError::BAD_ARGUMENT),
        };
        let element = match shape >> 8 {
            1 => ElementType::F32,
            2 => ElementType::F16,
            _ => return Err(OpError::BAD_ARGUMENT),
        };
        let query = Self {
            metric,
            element,
            dimensions,
            k,
        };
        query
            .is_sound()
            .then_some(query)
            .ok_or(OpError::BAD_ARGUMENT)
    }

    /// Bytes of one vector.
    pub const fn vector_bytes(&self) -> usize {
        self.dimensions as usize * self.element.bytes()
    }

    /// Bytes of the answer to one query vector: a count, and `k` places.
    pub const fn answer_bytes(&self) -> usize {
        8 * (self.k as usize + 1)
    }

    /// The most query vectors of one operation: their answers fit the largest result area.
    pub const fn queries_max(&self) -> usize {
        RESULT_BYTES_MAX as usize / self.answer_bytes()
    }

    const fn is_sound(&self) -> bool {
        self.dimensions >= 1 && self.dimensions <= DIMENSIONS_MAX && self.k >= 1 && self.k <= K_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_that_decode_are_the_words_of_what_they_decode_to(
            shape in 0..0x500_u32, dimensions in 0..20_000_u32, k in 0..300_u32, bits: u32,
        ) {
            let words = [shape, dimensions, k];
            match Query::decode(&words) {
                Ok(query) => prop_assert_eq!(query.encode(), Ok(words)),
                Err(error) => prop_assert_eq!(error, OpError::BAD_ARGUMENT),
            }
            let garbage = Query::decode(&[shape | bits << 16, dimensions, k]);
            prop_assert!(bits.is_multiple_of(1 << 16) || garbage.is_err());
        }
    }

    #[test]
    fn k_of_0_or_257_and_vectors_without_or_with_too_many_elements_are_refused() {
        let query = Query {
            metric: VectorMetric::Cosine,
            element: ElementType::F16,
            dimensions: DIMENSIONS_MAX,
            k: K_MAX,
        };
        assert_eq!(query.encode(), Ok([0x203, 16_384, 256]));
        assert_eq!(Query::decode(&[0x203, 16_384, 256]), Ok(query));
        for (dimensions, k) in [(1, 0), (1, 257), (0, 1), (16_385, 1)] {
            let query = Query {
                dimensions,
                k,
                ..query
            };
            assert_eq!(query.encode(), Err(OpError::BAD_ARGUMENT));
            let words = [0x203, dimensions, k];
            assert_eq!(Query::decode(&words), Err(OpError::BAD_ARGUMENT));
        }
        assert_eq!(Query::decode(&[0x203, 1]), Err(OpError::MISSING_ARGUMENT));
        assert_eq!(Query::decode(&[0x203, 1, 1, 0]), Err(OpError::BAD_ARGUMENT));
    }
}
