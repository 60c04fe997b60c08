//! Backend: what a device runs its megakernel on, as asked for and as chosen.

use std::fmt;

use crate::cuda::error::CudaError;
use crate::cuda::found::CudaFound;
use crate::cuda::options::CudaOptions;

/// What the megakernel is to run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Threads of the host.
    #[default]
    Host,
    /// The first CUDA device that will do, else threads of the host. [`Choice`] says which, and
    /// why.
    Auto(CudaOptions),
    /// A CUDA device, or the device is not opened.
    Cuda(CudaOptions),
}

/// What the megakernel runs on, and why. Prints as one sentence.
///
/// ```
/// use orlop_gpu::{Backend, Choice, CudaOptions};
///
/// // Wherever this runs: it never panics, and says what there is.
/// let choice = Choice::of(&Backend::Auto(CudaOptions::default())).unwrap();
/// println!("{choice}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Threads of the host, as was asked for.
    Host,
    /// Threads of the host, since no CUDA device will do.
    NoCuda(CudaError),
    /// A CUDA device.
    Cuda {
        /// Which.
        found: CudaFound,
        /// How many the driver has.
        of: u32,
    },
}

impl Choice {
    /// What would be chosen now. Loads the driver if there is one, and makes no context.
    ///
    /// # Errors
    /// [`CudaError`]: a CUDA device was asked for, and none will do.
    pub fn of(backend: &Backend) -> Result<Self, CudaError> {
        match backend {
            Backend::Host => Ok(Self::Host),
            Backend::Auto(options) => match crate::cuda::probe(options) {
                Ok((found, of)) => Ok(Self::Cuda { found, of }),
                // An option that is wrong is wrong wherever it runs.
                Err(error @ CudaError::Option { .. }) => Err(error),
                Err(error) => Ok(Self::NoCuda(error)),
            },
            Backend::Cuda(options) => {
                let (found, of) = crate::cuda::probe(options)?;
                Ok(Self::Cuda { found, of })
            }
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host threads, as asked for"),
            Self::NoCuda(error) => write!(f, "host threads, since {error}"),
            Self::Cuda { found, of } => {
                write!(f, "{found}; one of {of}")?;
                if found.is_lazy {
                    f.write_str(
                        "; functions are loaded lazily, which waits for a kernel that stays",
                    )?;
                }
                Ok(())
            }
        }
    }
}
