//! Computations, undos and an outside world for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use orlop::{
    Attempt, Computation, Engine, EngineBuilder, External, Failure, Found, HostFunction, Late,
    Pure, Reconcile, Reconciled, RemoteKey, Undo, UndoFunction, Undoing,
};

/// The outside: what was written under which remote key, and every write and delete in order.
#[derive(Clone, Default)]
pub(crate) struct Outside {
    pub(crate) state: Arc<Mutex<OutsideState>>,
}

#[derive(Default)]
pub(crate) struct OutsideState {
    pub(crate) present: BTreeMap<[u8; 32], String>,
    pub(crate) ledger: Vec<String>,
    /// The names of all writes that were attempted.
    pub(crate) runs: Vec<String>,
    /// Names whose next writes fail, and how.
    pub(crate) failing: BTreeMap<String, Vec<Failure>>,
}

impl Outside {
    pub(crate) fn ledger(&self) -> Vec<String> {
        self.state.lock().unwrap().ledger.clone()
    }

    pub(crate) fn present(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .state
            .lock()
            .unwrap()
            .present
            .values()
            .cloned()
            .collect();
        names.sort();
        names
    }

    pub(crate) fn fail(&self, name: &str, failures: impl IntoIterator<Item = Failure>) {
        let mut state = self.state.lock().unwrap();
        state
            .failing
            .entry(name.to_owned())
            .or_default()
            .extend(failures);
    }

    fn put(&self, key: RemoteKey, name: &str) -> Result<u64, Failure> {
        let mut state = self.state.lock().unwrap();
        state.runs.push(name.to_owned());
        if let Some(failure) = state.failing.get_mut(name).and_then(Vec::pop) {
            return Err(failure);
        }
        if state
            .present
            .insert(*key.as_bytes(), name.to_owned())
            .is_none()
        {
            state.ledger.push(format!("put {name}"));
        }
        Ok(name.len() as u64)
    }
}

/// Writes a name into the outside.
#[derive(Clone, Copy)]
pub(crate) struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    type Input = String;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Put> for Outside {
    async fn run(&self, attempt: Attempt, input: String) -> Result<u64, Failure> {
        self.put(attempt.remote_key, &input)
    }
}

impl Reconcile<Put> for Outside {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: String) -> Reconciled<u64> {
        let state = self.state.lock().unwrap();
        match state.present.get(attempt.remote_key.as_bytes()) {
            Some(_) => Reconciled::Done(input.len() as u64),
            None => Reconciled::NotDone,
        }
    }
}

/// Removes what a [`Put`] wrote.
#[derive(Clone, Copy)]
pub(crate) struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = String;
    type Step = Put;
}

impl UndoFunction<Remove> for Outside {
    async fn undo(&self, _attempt: Attempt, undoing: Undoing<Remove>) -> Result<(), Failure> {
        let mut state = self.state.lock().unwrap();
        let name = format!("undo {}", undoing.argument);
        if let Some(failure) = state.failing.get_mut(&name).and_then(Vec::pop) {
            return Err(failure);
        }
        if let Found::Done(output) = undoing.found {
            assert_eq!(output, undoing.argument.len() as u64);
        }
        if state.present.remove(undoing.step_key.as_bytes()).is_some() {
            state.ledger.push(format!("remove {}", undoing.argument));
        }
        Ok(())
    }
}

/// Doubles a number, and counts how often it ran.
#[derive(Clone, Copy)]
pub(crate) struct Double;

impl Computation for Double {
    const NAME: &'static str = "double";
    type Input = u64;
    type Output = u64;
    type Kind = Pure;
}

#[derive(Clone, Default)]
pub(crate) struct Doubler {
    pub(crate) runs: Arc<Mutex<Vec<u64>>>,
}

impl HostFunction<Double> for Doubler {
    async fn run(&self, _attempt: Attempt, input: u64) -> Result<u64, Failure> {
        self.runs.lock().unwrap().push(input);
        if input == 13 {
            return Err(Failure::permanent("thirteen is not doubled"));
        }
        Ok(input * 2)
    }
}

/// A folder, an outside, and builders of engines over them.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) outside: Outside,
    pub(crate) doubler: Doubler,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            folder,
            outside: Outside::default(),
            doubler: Doubler::default(),
        }
    }

    pub(crate) fn builder(&self) -> EngineBuilder {
        Engine::builder(self.folder.path().join("store"))
            .pure(Double, self.doubler.clone())
            .external(Put, self.outside.clone())
            .undo(Remove, self.outside.clone())
    }

    pub(crate) fn open(&self) -> Engine {
        self.builder().open_blocking().unwrap()
    }
}
