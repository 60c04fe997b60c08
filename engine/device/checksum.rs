//! CRC-32C, of one input and of every page of one.

use orlop_gpu::{self as gpu, Opcode};
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{DeviceFunction, Plan, Source, fixed, records};
use crate::computation::{Computation, Pure};

/// The CRC-32C (Castagnoli) of bytes of any length.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c;

impl Computation for Crc32c {
    const NAME: &'static str = "crc32c";
    type Input = Source;
    type Output = u32;
    type Kind = Pure;
}

impl DeviceFunction<Crc32c> for Crc32c {
    fn opcode(&self) -> Opcode {
        gpu::Crc32c::OPCODE
    }

    fn plan(&self, input: Source) -> Result<Plan, Failure> {
        Ok(Plan {
            args: SmallVec::new(),
            sources: SmallVec::from_iter([input]),
            ..Plan::default()
        })
    }

    fn output(&self, result: &[u8]) -> Result<u32, Failure> {
        fixed(result).map(u32::from_le_bytes)
    }
}

/// Pages to checksum, one after the other in one source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pages {
    /// Their bytes: at most 16,384 pages, of which the last may be shorter.
    pub bytes: Source,
    /// Bytes of a page, 1 to 262,144.
    pub page_bytes: u32,
}

/// The CRC-32C (Castagnoli) of each of many pages, in one operation.
#[derive(Clone, Copy, Debug)]
pub struct Crc32cPages;

impl Computation for Crc32cPages {
    const NAME: &'static str = "crc32c_pages";
    type Input = Pages;
    type Output = Vec<u32>;
    type Kind = Pure;
}

impl DeviceFunction<Crc32cPages> for Crc32cPages {
    fn opcode(&self) -> Opcode {
        gpu::Crc32cPages::OPCODE
    }

    fn plan(&self, input: Pages) -> Result<Plan, Failure> {
        Ok(Plan {
            args: SmallVec::from_iter([input.page_bytes]),
            sources: SmallVec::from_iter([input.bytes]),
            ..Plan::default()
        })
    }

    fn output(&self, result: &[u8]) -> Result<Vec<u32>, Failure> {
        let sums = records(result)?.iter();
        Ok(sums.map(|sum| u32::from_le_bytes(*sum)).collect())
    }
}
