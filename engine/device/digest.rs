//! BLAKE3, of one input and of many.

use orlop_gpu::{self as gpu, Opcode};
use orlop_saga::digest::Digest;
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{DeviceFunction, Plan, Source, fixed, records};
use crate::computation::{Computation, Pure};

/// The BLAKE3 digest of bytes of any length.
#[derive(Clone, Copy, Debug)]
pub struct Blake3;

impl Computation for Blake3 {
    const NAME: &'static str = "blake3";
    type Input = Source;
    type Output = Digest;
    type Kind = Pure;
}

impl DeviceFunction<Blake3> for Blake3 {
    fn opcode(&self) -> Opcode {
        gpu::Blake3::OPCODE
    }

    fn plan(&self, input: Source) -> Result<Plan, Failure> {
        Ok(Plan {
            args: SmallVec::new(),
            sources: SmallVec::from_iter([input]),
            ..Plan::default()
        })
    }

    fn output(&self, result: &[u8]) -> Result<Digest, Failure> {
        fixed(result).map(Digest::new)
    }
}

/// Items to digest, one after the other in one source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Items {
    /// Their bytes.
    pub bytes: Source,
    /// One bound more than items, `u64`: item `i` is the bytes from bound `i` up to bound `i + 1`.
    /// Bounds never fall, and lie within the bytes. At most 2,048 items of at most 131,072 bytes.
    pub bounds: Source,
}

impl Items {
    /// These items, carried along.
    pub fn inline<'a>(items: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut bytes, mut bounds) = (Vec::new(), vec![0_u64]);
        for item in items {
            bytes.extend_from_slice(item);
            bounds.push(bytes.len() as u64);
        }
        Self {
            bytes: bytes.into(),
            bounds: Source::of_values(&bounds),
        }
    }
}

/// The BLAKE3 digest of each of many items, in one operation.
#[derive(Clone, Copy, Debug)]
pub struct Blake3Many;

impl Computation for Blake3Many {
    const NAME: &'static str = "blake3_many";
    type Input = Items;
    type Output = Vec<Digest>;
    type Kind = Pure;
}

impl DeviceFunction<Blake3Many> for Blake3Many {
    fn opcode(&self) -> Opcode {
        gpu::Blake3Many::OPCODE
    }

    fn plan(&self, input: Items) -> Result<Plan, Failure> {
        Ok(Plan {
            args: SmallVec::new(),
            sources: SmallVec::from_iter([input.bytes, input.bounds]),
            ..Plan::default()
        })
    }

    fn output(&self, result: &[u8]) -> Result<Vec<Digest>, Failure> {
        Ok(records(result)?.iter().copied().map(Digest::new).collect())
    }
}
