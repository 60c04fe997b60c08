//! `noop`: what a round trip to the device costs.

use orlop_gpu::{self as gpu, Opcode};
use orlop_saga::outcome::Failure;

use super::{DeviceFunction, Plan, fixed};
use crate::computation::{Computation, Pure};

/// Does nothing, on the device: what a round trip costs. The input tells submissions apart.
#[derive(Clone, Copy, Debug)]
pub struct Noop;

impl Computation for Noop {
    const NAME: &'static str = "noop";
    type Input = u64;
    type Output = ();
    type Kind = Pure;
}

impl DeviceFunction<Noop> for Noop {
    fn opcode(&self) -> Opcode {
        gpu::Noop::OPCODE
    }

    fn plan(&self, _input: u64) -> Result<Plan, Failure> {
        Ok(Plan::default())
    }

    fn output(&self, result: &[u8]) -> Result<(), Failure> {
        fixed::<0>(result).map(|_| ())
    }
}
