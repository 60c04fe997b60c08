//! `vector_topk`: what a search for the nearest vectors asks, and what it is told.

use orlop_gpu::topk::query::{ElementType, Query, VectorMetric};
use orlop_gpu::{self as gpu, Opcode};
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{DeviceFunction, Plan, Source, records};
use crate::computation::{Computation, Pure};

/// A search for the nearest of some vectors to each of some query vectors.
///
/// Both sources show vectors row after row without gaps, and begin at a multiple of the size of an
/// element. Bounds of errors, ties and NaN: `docs/device-ops.md`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopK {
    /// How vectors are compared.
    pub metric: VectorMetric,
    /// The type of the elements of all vectors.
    pub element: ElementType,
    /// Elements of a vector, 1 to 16,384.
    pub dimensions: u32,
    /// The most neighbours told of each query vector, 1 to 256.
    pub k: u32,
    /// The vectors, at most 2^32 - 1.
    pub vectors: Source,
    /// The query vectors: at least one, and `8 * (k + 1)` bytes of answer each within 65,536.
    pub queries: Source,
}

/// A vector near to a query vector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its index among the vectors.
    pub index: u32,
    /// Its score under the search's metric; never NaN.
    pub score: f32,
}

/// For each query vector the nearest vectors, nearest first; equal scores by index.
#[derive(Clone, Copy, Debug)]
pub struct VectorTopk;

impl Computation for VectorTopk {
    const NAME: &'static str = "vector_topk";
    type Input = TopK;
    type Output = Vec<Vec<Neighbour>>;
    type Kind = Pure;
}

impl DeviceFunction<VectorTopk> for VectorTopk {
    fn opcode(&self) -> Opcode {
        gpu::VectorTopk::OPCODE
    }

    fn plan(&self, input: TopK) -> Result<Plan, Failure> {
        let query = Query {
            metric: input.metric,
            element: input.element,
            dimensions: input.dimensions,
            k: input.k,
        };
        let args = query.encode().map_err(Failure::permanent)?;
        Ok(Plan {
            args: SmallVec::from_slice(&args),
            sources: SmallVec::from_iter([input.vectors, input.queries]),
            ..Plan::default()
        })
    }

    fn output(&self, result: &[u8]) -> Result<Vec<Vec<Neighbour>>, Failure> {
        // Each answer begins with the number of its neighbours, and has room for `k`.
        let mut rest = records::<8>(result)?;
        let mut answers = Vec::new();
        while let Some((head, places)) = rest.split_first() {
            let [count, room] = halves(*head);
            let (places, others) = places
                .split_at_checked(room as usize)
                .ok_or_else(|| Failure::permanent("the device's result ends within an answer"))?;
            let near = places.iter().take(count as usize);
            answers.push(near.map(|place| Neighbour::of(*place)).collect());
            rest = others;
        }
        Ok(answers)
    }
}

impl Neighbour {
    fn of(place: [u8; 8]) -> Self {
        let [index, score] = halves(place);
        Self {
            index,
            score: f32::from_bits(score),
        }
    }
}

fn halves(place: [u8; 8]) -> [u32; 2] {
    let word = u64::from_le_bytes(place);
    [word & 0xffff_ffff, word >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}
