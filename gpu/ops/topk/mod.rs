//! `vector_topk`: the nearest of many vectors to each of some query vectors, by comparing all.
//!
//! A tile is a block of vectors and a block of query vectors. It keeps its own nearest in its
//! scratch memory, and they are merged into the task's: the nearest of all do not depend on the
//! order.
#![expect(
    clippy::inline_always,
    reason = "see `simd`: what runs wide must be inlined"
)]

mod nearest;
pub mod query;
mod score;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use smallvec::SmallVec;

use self::nearest::{Candidate, Nearest};
use self::query::{ElementType, Query, VectorMetric};
use self::score::{cosine, inner_product, length, squared_l2};
use super::simd::wide;
use super::view::values;
use super::{HostOp, OpError, Output, Partial, Scratch, TaskArgs};
use crate::entry::Opcode;

/// Query vectors of one tile.
pub(crate) const QUERIES_PER_TILE: usize = 4;
/// Work of one tile, in elements that are compared: about 120 us where it is slowest (cosine).
pub(crate) const WORK_PER_TILE: usize = 1 << 19;
/// What folding and offering a score costs, in elements.
pub(crate) const WORK_PER_SCORE: usize = 64;
/// 32-bit numbers of the memory in which 16-bit vectors are widened: one vector at least.
const WIDENED: usize = query::DIMENSIONS_MAX as usize;

/// The k nearest of the vectors of window 0 to each query vector of window 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct VectorTopk;

impl VectorTopk {
    /// Its opcode.
    pub const OPCODE: Opcode = Opcode::new(7);
}

/// A task: its query, and how many vectors and query vectors there are.
struct Search<'a> {
    query: Query,
    k: usize,
    dimensions: usize,
    vectors: &'a [u8],
    queries: &'a [u8],
    vectors_count: usize,
    queries_count: usize,
}

impl<'a> Search<'a> {
    fn of(task: &TaskArgs<'a>) -> Result<Self, OpError> {
        let query = Query::decode(task.args())?;
        let (vectors, queries) = (task.window(0)?, task.window(1)?);
        if task.windows() != 2 {
            return Err(OpError::BAD_ARGUMENT);
        }
        let count = |window: &[u8]| {
            let bytes = query.vector_bytes();
            let whole = window.len().is_multiple_of(bytes);
            whole
                .then(|| window.len() / bytes)
                .ok_or(OpError::BAD_LENGTH)
        };
        let (vectors_count, queries_count) = (count(vectors)?, count(queries)?);
        if queries_count == 0 {
            return Err(OpError::BAD_LENGTH);
        }
        if queries_count > query.queries_max() {
            return Err(OpError::RESULT_TOO_LONG);
        }
        if u32::try_from(vectors_count).is_err() {
            return Err(OpError::INPUT_TOO_LONG);
        }
        Ok(Self {
            query,
            k: query.k as usize,
            dimensions: query.dimensions as usize,
            vectors,
            queries,
            vectors_count,
            queries_count,
        })
    }

    /// The work that one vector is to a tile.
    fn work_per_vector(&self) -> usize {
        let queries = QUERIES_PER_TILE.min(self.queries_count);
        let lengths = match self.query.metric {
            VectorMetric::Cosine => 1,
            VectorMetric::SquaredL2 | VectorMetric::InnerProduct => 0,
        };
        (queries + lengths) * (self.dimensions + WORK_PER_SCORE)
    }

    fn vectors_per_tile(&self) -> usize {
        (WORK_PER_TILE / self.work_per_vector()).max(1)
    }

    const fn query_blocks(&self) -> usize {
        self.queries_count.div_ceil(QUERIES_PER_TILE)
    }

    fn tiles(&self) -> Result<u32, OpError> {
        let blocks = self.vectors_count.div_ceil(self.vectors_per_tile()).max(1);
        let tiles = blocks.checked_mul(self.query_blocks());
        tiles
            .and_then(|tiles| u32::try_from(tiles).ok())
            .ok_or(OpError::INPUT_TOO_LONG)
    }

    /// The vectors and the query vectors of a tile. Tiles of the same vectors follow each other.
    fn of_tile(&self, tile: u32) -> (Range<usize>, Range<usize>) {
        let (block, query) = (
            tile as usize / self.query_blocks(),
            tile as usize % self.query_blocks(),
        );
        let part =
            |at: usize, size: usize, all: usize| (at * size).min(all)..(at * size + size).min(all);
        (
            part(block, self.vectors_per_tile(), self.vectors_count),
            part(query, QUERIES_PER_TILE, self.queries_count),
        )
    }

    fn selection_words(&self) -> usize {
        Nearest::words(self.k)
    }

    /// Words in which a tile keeps what is nearest to its query vectors.
    fn kept_words(&self) -> usize {
        QUERIES_PER_TILE.min(self.queries_count) * self.selection_words()
    }

    /// Words in which a tile widens its query vectors, and vectors.
    fn widened_words(&self) -> (usize, usize) {
        match self.query.element {
            ElementType::F32 => (0, 0),
            ElementType::F16 => {
                let queries = QUERIES_PER_TILE.min(self.queries_count);
                ((queries * self.dimensions).div_ceil(2), WIDENED.div_ceil(2))
            }
        }
    }

    fn bytes_of(&self, window: &'a [u8], vectors: Range<usize>) -> Result<&'a [u8], OpError> {
        let bytes = self.query.vector_bytes();
        let range = vectors.start * bytes..vectors.end * bytes;
        window.get(range).ok_or(OpError::BAD_LENGTH)
    }

    fn run(&self, tile: u32, own: &mut [u64]) -> Result<(), OpError> {
        let (vectors, queries) = self.of_tile(tile);
        let first = u32::try_from(vectors.start).map_err(|_| OpError::INPUT_TOO_LONG)?;
        let vector_bytes = self.bytes_of(self.vectors, vectors)?;
        let query_bytes = self.bytes_of(self.queries, queries)?;
        let (kept, rest) = own
            .split_at_mut_checked(self.kept_words())
            .ok_or(OpError::BAD_PARTIAL)?;
        let selections = kept.chunks_exact_mut(self.selection_words());
        let selections = selections.filter_map(|words| Nearest::begin(self.k, words));
        let mut selections: SmallVec<[Nearest<'_>; QUERIES_PER_TILE]> = selections.collect();
        match self.query.element {
            ElementType::F32 => {
                let comparison = self.comparison(values(query_bytes)?);
                comparison.offer(values(vector_bytes)?, first, &mut selections);
            }
            ElementType::F16 => {
                let (of_queries, of_vectors) = self.widened_words();
                let (query_words, rest) = rest
                    .split_at_mut_checked(of_queries)
                    .ok_or(OpError::BAD_PARTIAL)?;
                let vector_words = rest.get_mut(..of_vectors).ok_or(OpError::BAD_PARTIAL)?;
                let comparison = self.comparison(widen(values(query_bytes)?, query_words)?);
                let per_chunk = WIDENED / self.dimensions;
                let chunks = values::<f16>(vector_bytes)?.chunks(per_chunk * self.dimensions);
                for (chunk, at) in chunks.zip((first..).step_by(per_chunk)) {
                    comparison.offer(widen(chunk, vector_words)?, at, &mut selections);
                }
            }
        }
        Ok(())
    }

    fn comparison<'q>(&self, queries: &'q [f32]) -> Comparison<'q> {
        let dimensions = self.dimensions;
        let lengths = match self.query.metric {
            VectorMetric::Cosine => wide(
                #[inline(always)]
                || queries.chunks_exact(dimensions).map(length).collect(),
            ),
            VectorMetric::SquaredL2 | VectorMetric::InnerProduct => SmallVec::new(),
        };
        Comparison {
            metric: self.query.metric,
            dimensions,
            queries,
            lengths,
        }
    }
}

/// The numbers of `narrow`, in `memory`.
fn widen<'m>(narrow: &[f16], memory: &'m mut [u64]) -> Result<&'m [f32], OpError> {
    let memory = bytemuck::cast_slice_mut::<u64, f32>(memory);
    let wide = memory.get_mut(..narrow.len()).ok_or(OpError::BAD_PARTIAL)?;
    narrow.convert_to_f32_slice(wide);
    Ok(wide)
}

/// Query vectors of one tile, to which vectors are compared.
struct Comparison<'q> {
    metric: VectorMetric,
    dimensions: usize,
    queries: &'q [f32],
    /// Of the query vectors, for cosine.
    lengths: SmallVec<[f32; QUERIES_PER_TILE]>,
}

impl Comparison<'_> {
    /// Offers each vector to the selection of each query vector; the first has index `first`.
    fn offer(&self, vectors: &[f32], first: u32, selections: &mut [Nearest<'_>]) {
        wide(
            #[inline(always)]
            || match self.metric {
                VectorMetric::SquaredL2 => self.each(vectors, first, selections, squared_l2),
                VectorMetric::InnerProduct => self.each(vectors, first, selections, inner_product),
                VectorMetric::Cosine => self.each_cosine(vectors, first, selections),
            },
        );
    }

    #[inline(always)]
    fn each(
        &self,
        vectors: &[f32],
        first: u32,
        selections: &mut [Nearest<'_>],
        score: impl Fn(&[f32], &[f32]) -> f32,
    ) {
        let greatest = self.metric.is_greatest_nearest();
        for (vector, index) in vectors.chunks_exact(self.dimensions).zip(first..) {
            let queries = self.queries.chunks_exact(self.dimensions);
            for (query, nearest) in queries.zip(&mut *selections) {
                if let Some(candidate) = Candidate::of(score(vector, query), index, greatest) {
                    nearest.offer(candidate);
                }
            }
        }
    }

    #[inline(always)]
    fn each_cosine(&self, vectors: &[f32], first: u32, selections: &mut [Nearest<'_>]) {
        for (vector, index) in vectors.chunks_exact(self.dimensions).zip(first..) {
            let own = length(vector);
            let queries = self
                .queries
                .chunks_exact(self.dimensions)
                .zip(&self.lengths);
            for ((query, other), nearest) in queries.zip(&mut *selections) {
                let score = cosine(inner_product(vector, query), own, *other);
                if let Some(candidate) = Candidate::of(score, index, true) {
                    nearest.offer(candidate);
                }
            }
        }
    }
}

impl HostOp for VectorTopk {
    fn opcode(&self) -> Opcode {
        Self::OPCODE
    }

    fn name(&self) -> &'static str {
        "vector_topk"
    }

    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        let search = Search::of(task)?;
        match search.query.element {
            ElementType::F32 => {
                values::<f32>(search.vectors)?;
                values::<f32>(search.queries)?;
            }
            ElementType::F16 => {
                values::<f16>(search.vectors)?;
                values::<f16>(search.queries)?;
            }
        }
        search.tiles()
    }

    fn scratch(&self, task: &TaskArgs<'_>) -> Result<Scratch, OpError> {
        let search = Search::of(task)?;
        let (queries, vectors) = search.widened_words();
        Ok(Scratch {
            tile: search.kept_words() + queries + vectors,
            task: search.queries_count * search.selection_words(),
        })
    }

    fn run_tile(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &mut [u64],
    ) -> Result<Partial, OpError> {
        Search::of(task)?.run(tile, own)?;
        Ok(Partial::EMPTY)
    }

    fn merge(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &[u64],
        all: &mut [u64],
    ) -> Result<(), OpError> {
        let search = Search::of(task)?;
        let (_, queries) = search.of_tile(tile);
        let words = search.selection_words();
        let tiles = own.chunks_exact(words).take(queries.len());
        let tasks = all.chunks_exact_mut(words).skip(queries.start);
        for (own, all) in tiles.zip(tasks) {
            let mut nearest = Nearest::resume(search.k, all).ok_or(OpError::BAD_PARTIAL)?;
            for candidate in Nearest::held(own) {
                nearest.offer(candidate);
            }
        }
        Ok(())
    }

    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        _: &[Partial],
        all: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let search = Search::of(task)?;
        let greatest = search.query.metric.is_greatest_nearest();
        for words in all.chunks_exact_mut(search.selection_words()) {
            let mut nearest = Nearest::resume(search.k, words).ok_or(OpError::BAD_PARTIAL)?;
            let mut answer: SmallVec<[(u32, u32); 32]> = SmallVec::new();
            let sorted = nearest.sorted();
            answer.extend(sorted.map(|near| (near.index(), near.score(greatest).to_bits())));
            let count = u32::try_from(answer.len()).map_err(|_| OpError::BAD_PARTIAL)?;
            answer.insert(0, (count, search.query.k));
            answer.resize(search.k + 1, (0, 0));
            for (index, score) in answer {
                out.write(&index.to_le_bytes())?;
                out.write(&score.to_le_bytes())?;
            }
        }
        Ok(())
    }
}
