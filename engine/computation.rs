//! Computations: the signatures of named, versioned code that can be submitted.
//!
//! A [`Computation`] is a signature and nothing else: a unit type that names the code and its
//! types. The code behind it is bound when the engine is built, and no closure is ever persisted:
//! what is journaled is the name, the version and the canonical input.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// May be run again at will, so that a key can be derived from the input.
#[derive(Clone, Copy, Debug)]
pub enum Pure {}

/// Changes the outside world: needs an explicit key, and a way to find out what happened.
#[derive(Clone, Copy, Debug)]
pub enum External {}

/// [`Pure`] or [`External`].
pub trait Kind: sealed::Sealed + Send + Sync + 'static {
    /// Whether it changes the outside world.
    const EXTERNAL: bool;
}

impl Kind for Pure {
    const EXTERNAL: bool = false;
}

impl Kind for External {
    const EXTERNAL: bool = true;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Pure {}
    impl Sealed for super::External {}
}

/// The signature of a computation.
///
/// ```
/// use orlop::{Computation, Pure};
///
/// #[derive(Clone, Copy)]
/// struct RowCount;
///
/// impl Computation for RowCount {
///     const NAME: &'static str = "row_count";
///     type Input = Vec<u8>;
///     type Output = u64;
///     type Kind = Pure;
/// }
/// ```
pub trait Computation: Copy + Send + Sync + 'static {
    /// The name it is registered, journaled and deduplicated under.
    const NAME: &'static str;
    /// Rises when the code changes what it does; pinned by running sagas, in no key.
    const VERSION: u32 = 1;
    /// Rises when the meaning of the input's encoding changes; part of every key.
    const INPUT_SCHEMA: u32 = 1;
    /// How long an outcome is kept and replayed, from completion.
    const RETENTION: Duration = Duration::from_hours(24);
    /// What it is given. Its serialisation must be deterministic: ordered maps, not hashed ones.
    type Input: Serialize + DeserializeOwned + Send + 'static;
    /// What it gives back.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// [`Pure`] or [`External`].
    type Kind: Kind;
}

/// The signature of an undo: what takes back one step of a saga.
///
/// An undo acts only on what its own step wrote: it finds that by the step's remote key.
pub trait Undo: Copy + Send + Sync + 'static {
    /// The name it is registered and journaled under.
    const NAME: &'static str;
    /// Rises when the code changes what it does.
    const VERSION: u32 = 1;
    /// What is recorded for it when the step is intended.
    type Argument: Serialize + DeserializeOwned + Send + 'static;
    /// The computation that it undoes.
    type Step: Computation;
}
