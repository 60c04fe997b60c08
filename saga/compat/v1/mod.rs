//! Version 1, frozen: every type as it was, and how it becomes one of today and back.
//!
//! The types here describe bytes on disks and are never changed. Ids, keys, digests, times,
//! amounts, labels and failures are shared with today's, which may not change either.

mod effect;
mod event;
mod state;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BodyError, NotInFormat, Persisted, push, take, v2};
use crate::effect::Settlement;
use crate::event::Event;
use crate::live::Live;
use crate::saga::SagaState;

/// Whether version 1 can say an event of a saga.
///
/// # Errors
/// [`NotInFormat`]: what it lacks.
pub fn can_say(event: &crate::saga::SagaEvent) -> Result<(), NotInFormat> {
    event.freeze().map(drop)
}

/// Values of today that version 1 may be able to say, through the frozen type `V`.
trait Frozen<V>: Sized {
    fn freeze(&self) -> Result<V, NotInFormat>;
    fn thaw(frozen: V) -> Self;
}

fn push_frozen<V: Serialize, T: Frozen<V>>(
    value: &T,
    bytes: &mut Vec<u8>,
) -> Result<(), BodyError> {
    push(&value.freeze()?, bytes)
}

fn take_frozen<V: DeserializeOwned, T: Frozen<V>>(bytes: &[u8]) -> Result<(T, &[u8]), BodyError> {
    let (frozen, rest) = take::<V>(bytes)?;
    Ok((T::thaw(frozen), rest))
}

macro_rules! persisted {
    ($($type:ty as $frozen:ty),* $(,)?) => {$(
        impl Persisted for $type {
            fn push_v1(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
                push_frozen::<$frozen, Self>(self, bytes)
            }

            fn take_v1(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
                take_frozen::<$frozen, Self>(bytes)
            }
        }
    )*};
}

persisted! {
    Settlement as effect::Settlement,
    SagaState as state::SagaState,
}

impl Persisted for Event {
    fn push_v1(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        push_frozen::<event::Event, Self>(self, bytes)
    }

    fn take_v1(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        take_frozen::<event::Event, Self>(bytes)
    }

    fn push_v2(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        v2::push_event(self, bytes)
    }
}

impl Persisted for Live {
    fn push_v1(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        push_frozen::<state::Live, Self>(self, bytes)
    }

    fn take_v1(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        take_frozen::<state::Live, Self>(bytes)
    }

    fn push_v2(&self, bytes: &mut Vec<u8>) -> Result<(), BodyError> {
        v2::push_live(self, bytes)
    }

    fn take_v2(bytes: &[u8]) -> Result<(Self, &[u8]), BodyError> {
        v2::take_live(bytes)
    }
}

fn freeze_all<V, T: Frozen<V>>(values: &[T]) -> Result<Vec<V>, NotInFormat> {
    values.iter().map(Frozen::freeze).collect()
}

fn thaw_all<V, T: Frozen<V>>(frozen: Vec<V>) -> Vec<T> {
    frozen.into_iter().map(T::thaw).collect()
}
