//! Device computations: how a typed input becomes an entry of the ring, and a result an output.

mod aggregate;
mod checksum;
mod digest;
mod noop;
mod topk;
mod value;

use std::marker::PhantomData;
use std::sync::Arc;

use orlop_gpu::BufferRef;
use orlop_gpu::HostOp;
use orlop_gpu::{LocalOpcode, Opcode};
use orlop_saga::canonical::{self, Payload};
use orlop_saga::outcome::Failure;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

pub use self::aggregate::{Aggregate, Aggregated, Asked, ColumnOf, FilterAggregate};
pub use self::checksum::{Crc32c, Crc32cPages, Pages};
pub use self::digest::{Blake3, Blake3Many, Items};
pub use self::noop::Noop;
pub use self::topk::{Neighbour, TopK, VectorTopk};
pub use self::value::{AnswerValue, ColumnValue, DeviceValue, le_bytes};
use crate::computation::{Computation, Pure};
use crate::host::output_of;

/// Bytes for the device: in a buffer that is there already, or carried along.
///
/// The canonical bytes of a buffer are its name, so that equal work has equal keys wherever the
/// buffer lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// A part of a sealed buffer.
    Buffer(BufferRef),
    /// Bytes within the input limit, staged for the one attempt.
    Inline(Payload),
}

impl Source {
    /// Values, carried along in the form in which the device reads them.
    pub fn of_values<T: DeviceValue>(values: &[T]) -> Self {
        le_bytes(values).into()
    }
}

impl From<BufferRef> for Source {
    fn from(buffer: BufferRef) -> Self {
        Self::Buffer(buffer)
    }
}

impl From<&[u8]> for Source {
    fn from(bytes: &[u8]) -> Self {
        Self::Inline(Payload::new(bytes.to_vec()))
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Inline(Payload::new(bytes))
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

/// What an entry of the ring is made of, before ids and generations are bound.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Argument words, as the opcode defines them.
    pub args: SmallVec<[u32; 8]>,
    /// What the windows show, in the opcode's order.
    pub sources: SmallVec<[Source; 2]>,
    /// The longest result, in bytes. Above the device's `result_bytes_max` a buffer is taken for it,
    /// within the tenant's quotas, and is free again once the output was made from it.
    pub result_bytes_max: u64,
}

/// The code behind a device computation: an opcode of the megakernel and the way to it.
pub trait DeviceFunction<C: Computation<Kind = Pure>>: Send + Sync + 'static {
    /// The operation, as the megakernel knows it; of a
    /// [private](crate::EngineBuilder::private_device) one the number, from zero, among those of
    /// its tenant.
    fn opcode(&self) -> Opcode;

    /// The operation itself, to be registered with the device; `None` where the megakernel has it
    /// built in.
    fn op(&self) -> Option<Arc<dyn HostOp>> {
        None
    }

    /// The entry for an input.
    ///
    /// # Errors
    /// [`Failure::permanent`]: the input is none that the operation takes.
    fn plan(&self, input: C::Input) -> Result<Plan, Failure>;

    /// The output of a result.
    ///
    /// # Errors
    /// A [`Failure`]: the result's bytes are none that the operation gives.
    fn output(&self, result: &[u8]) -> Result<C::Output, Failure>;
}

/// [`DeviceFunction`] with its types erased.
pub(crate) trait DeviceCode: Send + Sync {
    fn opcode(&self) -> Opcode;

    /// Its number among the opcodes of the tenant that it is private to, if it is.
    fn local(&self) -> Option<LocalOpcode>;
    fn plan(&self, input: &Payload) -> Result<Plan, Failure>;
    fn output(&self, result: &[u8], output_max: usize) -> Result<Payload, Failure>;
}

/// A device function with the signature it is bound to.
pub(crate) struct DeviceBound<C, F> {
    function: F,
    local: Option<LocalOpcode>,
    signature: PhantomData<fn() -> C>,
}

impl<C, F> DeviceBound<C, F> {
    pub(crate) fn new(function: F) -> Arc<Self> {
        Self::numbered(function, None)
    }

    /// Of one tenant, under this number of its own.
    pub(crate) fn private(function: F, local: LocalOpcode) -> Arc<Self> {
        Self::numbered(function, Some(local))
    }

    fn numbered(function: F, local: Option<LocalOpcode>) -> Arc<Self> {
        Arc::new(Self {
            function,
            local,
            signature: PhantomData,
        })
    }
}

impl<C: Computation<Kind = Pure>, F: DeviceFunction<C>> DeviceCode for DeviceBound<C, F> {
    fn opcode(&self) -> Opcode {
        self.function.opcode()
    }

    fn local(&self) -> Option<LocalOpcode> {
        self.local
    }

    fn plan(&self, input: &Payload) -> Result<Plan, Failure> {
        let input = canonical::decode(input).map_err(Failure::permanent)?;
        self.function.plan(input)
    }

    fn output(&self, result: &[u8], output_max: usize) -> Result<Payload, Failure> {
        output_of(&self.function.output(result)?, output_max)
    }
}

fn fixed<const N: usize>(result: &[u8]) -> Result<[u8; N], Failure> {
    <[u8; N]>::try_from(result).map_err(|_| {
        Failure::permanent(format!(
            "the device gave {} bytes, {N} were expected",
            result.len()
        ))
    })
}

/// A result as records of equal length.
fn records<const N: usize>(result: &[u8]) -> Result<&[[u8; N]], Failure> {
    let (records, rest) = result.as_chunks();
    if rest.is_empty() {
        return Ok(records);
    }
    Err(Failure::permanent(format!(
        "the device gave {} bytes, records of {N} were expected",
        result.len()
    )))
}
