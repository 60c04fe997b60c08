//! Signals: what a saga is told from outside, and which wait takes which.
//!
//! Invariants
//! - A signal is recorded once, whatever its sender repeats: its id is kept as long as the saga.
//! - Signals of one name are taken in the order of the journal, by the waits of that name in the
//!   order of theirs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CallKind, Delivery, SagaState};
use crate::canonical::Payload;
use crate::effect::IllegalEvent;
use crate::id::StepIndex;
use crate::key::Key;

/// What a repeated signal is recognised by, within one saga.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignalId([u8; 16]);

impl SignalId {
    /// An id that the sender chose: the same on every retry of one signal.
    pub const fn new(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    /// An id that was never used: for a signal that is sent once and not repeated.
    pub fn fresh() -> Self {
        Self(*Key::fresh().as_bytes())
    }

    /// An id from any text that the sender recognises the signal by; the digest is that of
    /// [`Key::named`].
    pub fn named(name: &str) -> Self {
        Self(*Key::named(name).as_bytes())
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SignalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::digest::hex(f, &self.0)
    }
}

impl fmt::Debug for SignalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignalId({self})")
    }
}

/// A signal as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// What it is told apart from others by.
    pub name: Box<str>,
    /// What a repetition is recognised by.
    pub id: SignalId,
    /// Its canonical bytes.
    pub payload: Payload,
    /// The wait that took it.
    pub taken_by: Option<StepIndex>,
}

impl SagaState {
    /// Every signal that it was sent, in the order of the journal.
    pub fn signals(&self) -> &[Signal] {
        &self.signals
    }

    /// How many bytes the payloads of its signals have together.
    pub fn signal_bytes(&self) -> u64 {
        let bytes = |signal: &Signal| signal.payload.len() as u64;
        self.signals.iter().map(bytes).sum()
    }

    /// The signal of this id.
    pub fn signal(&self, id: SignalId) -> Option<&Signal> {
        self.signals.iter().find(|signal| signal.id == id)
    }

    /// What the wait at `index` took.
    pub fn taken(&self, index: StepIndex) -> Option<&Signal> {
        self.signals
            .iter()
            .find(|signal| signal.taken_by == Some(index))
    }

    /// Whether the call at `index` is a wait that took no signal.
    pub(super) fn took_nothing(&self, index: StepIndex) -> bool {
        let waits = matches!(
            self.call(index).map(|call| &call.kind),
            Some(CallKind::Signal { .. })
        );
        waits && self.taken(index).is_none()
    }

    /// A signal came: the first wait of its name that has none takes it.
    pub(super) fn signalled(
        &mut self,
        name: &str,
        id: SignalId,
        payload: &Payload,
    ) -> Result<(), IllegalEvent> {
        self.check(
            self.hears_signals() && self.signal(id).is_none(),
            "signalled",
        )?;
        let waits = |kind: &CallKind| match kind {
            CallKind::Signal { name: waits, over } => !over && **waits == *name,
            CallKind::Step { .. }
            | CallKind::Sleep { .. }
            | CallKind::Now { .. }
            | CallKind::Random { .. } => false,
        };
        let waiting = self.calls.iter().position(|call| waits(&call.kind));
        let waiting = waiting
            .and_then(|position| u32::try_from(position).ok())
            .map(StepIndex::new);
        self.payload_bytes += payload.len() as u64;
        self.signals.push(Signal {
            name: name.into(),
            id,
            payload: payload.clone(),
            taken_by: waiting,
        });
        if let Some(index) = waiting {
            self.wait_is_over(index);
        }
        Ok(())
    }

    /// A wait was called, as the call at `index`: it takes the first signal of its name that
    /// nobody took.
    pub(super) fn waits(&mut self, index: StepIndex, name: &str) {
        let mut untaken = self.signals.iter_mut();
        let signal = untaken.find(|signal| signal.taken_by.is_none() && *signal.name == *name);
        if let Some(signal) = signal {
            signal.taken_by = Some(index);
            self.wait_is_over(index);
        }
    }

    fn wait_is_over(&mut self, index: StepIndex) {
        let call = self.calls.get_mut(index.get() as usize);
        if let Some(CallKind::Signal { over, .. }) = call.map(|call| &mut call.kind) {
            *over = true;
            self.deliveries.push(Delivery::Call(index));
        }
    }
}
