//! The outside: what the engine's effects change, and what becomes of the calls that change it.
//!
//! A write is counted each time it is done, so that nothing hides a second one. The outside keeps
//! to its side of [`Late::Fenced`] and refuses an older fence; it forgives nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::chain::Fate;
use crate::clock::JumpingClock;

use orlop::{
    Attempt, Computation, External, Failure, Fence, Found, HostFunction, Late, Pure, Reconcile,
    Reconciled, Undo, UndoFunction, Undoing,
};

/// What befalls one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// It cannot be done.
    Permanent,
    /// It is not done this time.
    Retryable,
    /// It is not done, and nobody hears so.
    DoubtBefore,
    /// It is done, and nobody hears so.
    DoubtAfter,
    /// The code panics before anything is done.
    PanicBefore,
    /// The code panics when it is done.
    PanicAfter,
    /// Nobody hears what became of it, and it arrives so many calls later.
    Late(u8),
    /// It takes longer than anybody waits, and arrives so many calls later.
    Hangs(u8),
}

/// What is known of one remote key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// What was written.
    pub(crate) name: String,
    /// How often it was written.
    pub(crate) puts: u32,
    /// How often it was removed.
    pub(crate) removes: u32,
    fence: Fence,
}

/// See the module. Clones are the same outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outside(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<[u8; 32], Entry>,
    weather: BTreeMap<String, VecDeque<Weather>>,
    /// How often code was called, by the name that it was given.
    calls: BTreeMap<String, u32>,
    /// Every write and removal, in order.
    history: Vec<String>,
    /// Every call, in order, for whoever has to find out.
    trail: Vec<String>,
    /// What no engine may do.
    violations: Vec<String>,
    /// Processes up to this one are dead: their calls have no effect any more.
    dead: u64,
    /// What does not get better, by name.
    fates: BTreeMap<String, Fate>,
    /// Writes on the wire. They arrive whoever has died meanwhile.
    wire: Vec<Sent>,
    /// How many calls there were for all that a chain does.
    chains: BTreeMap<String, u32>,
    /// Who is told when a chain has made so many calls.
    watches: Vec<(String, u32, oneshot::Sender<()>)>,
    /// After how many calls in all the clock jumps, and how far, in milliseconds.
    jumps: Vec<(u32, i64)>,
    /// How many calls there were since the jumps were planned.
    since: u32,
    clock: JumpingClock,
}

/// A write on the wire.
#[derive(Debug)]
struct Sent {
    /// Calls until it arrives.
    calls: u8,
    key: [u8; 32],
    fence: Fence,
    name: String,
}

/// The outside as one process sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    outside: Outside,
    process: u64,
}

impl Outside {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Code panics on purpose here, and never between two writes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the process of this number sees it.
    pub(crate) fn view(&self, process: u64) -> View {
        View {
            outside: self.clone(),
            process,
        }
    }

    /// The calls of every process up to this one have no effect from now on.
    pub(crate) fn kill(&self, process: u64) {
        self.lock().dead = process;
    }

    /// What befalls the next calls for `name`, after those planned before.
    pub(crate) fn forecast(&self, name: &str, weather: &[Weather]) {
        let mut state = self.lock();
        state
            .weather
            .entry(name.to_owned())
            .or_default()
            .extend(weather);
    }

    /// What becomes of every call for `name`.
    pub(crate) fn doom(&self, name: &str, fate: Fate) {
        self.lock().fates.insert(name.to_owned(), fate);
    }

    /// Is told once the chain of this name has made so many calls.
    pub(crate) fn watch(&self, chain: &str, calls: u32) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut state = self.lock();
        if state.chains.get(chain).copied().unwrap_or_default() >= calls {
            // Whoever watches does so already.
            let _ = tell.send(());
        } else {
            state.watches.push((chain.to_owned(), calls, tell));
        }
        told
    }

    /// Has a clock jump while calls are made, in place of what was planned before.
    pub(crate) fn jumps(&self, clock: &JumpingClock, jumps: &[(u32, i64)]) {
        let mut state = self.lock();
        state.clock = clock.clone();
        state.jumps = jumps.to_vec();
        state.since = 0;
    }

    /// Has everything arrive that is on the wire.
    pub(crate) fn deliver(&self) {
        let mut state = self.lock();
        for sent in std::mem::take(&mut state.wire) {
            state.arrive(&sent);
        }
    }

    /// How often code was called with this name.
    pub(crate) fn calls(&self, name: &str) -> u32 {
        self.lock().calls.get(name).copied().unwrap_or_default()
    }

    /// Everything that was ever written under this name.
    pub(crate) fn entries(&self, name: &str) -> Vec<Entry> {
        let state = self.lock();
        let named = state.entries.values().filter(|entry| entry.name == name);
        named.cloned().collect()
    }

    /// Every write and removal, in order.
    pub(crate) fn history(&self) -> Vec<String> {
        self.lock().history.clone()
    }

    /// Fails if anything was done that must not be.
    pub(crate) fn check(&self) {
        let state = self.lock();
        let trail = || state.trail.join("\n");
        assert!(
            state.violations.is_empty(),
            "{:?} after\n{}",
            state.violations,
            trail()
        );
    }
}

impl State {
    /// Counts a call, and says what befalls it.
    fn call(&mut self, name: &str, attempt: &Attempt) -> Option<Weather> {
        self.trail
            .push(format!("{name}: {:?} of {:?}", attempt.fence, attempt.step));
        *self.calls.entry(name.to_owned()).or_default() += 1;
        self.count_for_chain(name);
        self.since += 1;
        let (since, clock) = (self.since, self.clock.clone());
        for (_, ms) in self.jumps.extract_if(.., |(at, _)| *at <= since) {
            clock.jump(ms);
        }
        let late = |sent: &mut Sent| {
            sent.calls = sent.calls.saturating_sub(1);
            sent.calls == 0
        };
        let arrived: Vec<Sent> = self.wire.extract_if(.., late).collect();
        for sent in arrived {
            self.arrive(&sent);
        }
        match self.fates.get(name) {
            Some(Fate::Fails) => Some(Weather::Permanent),
            Some(Fate::Tires) => Some(Weather::Retryable),
            Some(Fate::Sound) | None => self.weather.get_mut(name).and_then(VecDeque::pop_front),
        }
    }

    fn count_for_chain(&mut self, name: &str) {
        let of_step = name.rsplit(' ').next().unwrap_or(name);
        let Some((chain, _)) = of_step.split_once('/') else {
            return;
        };
        let calls = self.chains.entry(chain.to_owned()).or_default();
        *calls += 1;
        let calls = *calls;
        let reached = |watch: &mut (String, u32, _)| watch.0 == chain && watch.1 <= calls;
        for (_, _, tell) in self.watches.extract_if(.., reached) {
            // Whoever watched may have left.
            let _ = tell.send(());
        }
    }

    /// A write comes in from the wire. Its fence is refused like any other, and nobody hears so.
    fn arrive(&mut self, sent: &Sent) {
        self.trail
            .push(format!("{} arrives late: {:?}", sent.name, sent.fence));
        // The refusal goes to nobody.
        let _ = self.write(sent.key, sent.fence, &sent.name);
    }

    /// The entry of a key, unless a newer fence has been seen.
    fn fenced(&mut self, key: [u8; 32], fence: Fence, name: &str) -> Option<&mut Entry> {
        let entry = self.entries.entry(key).or_default();
        if fence < entry.fence {
            return None;
        }
        entry.fence = fence;
        name.clone_into(&mut entry.name);
        Some(entry)
    }

    /// A write whose process waits for its end.
    fn put(&mut self, attempt: &Attempt, name: &str) -> Result<(), Failure> {
        self.write(*attempt.remote_key.as_bytes(), attempt.fence, name)
    }

    /// A write that arrives some calls later.
    fn send(&mut self, attempt: &Attempt, name: &str, calls: u8) {
        self.wire.push(Sent {
            calls,
            key: *attempt.remote_key.as_bytes(),
            fence: attempt.fence,
            name: name.to_owned(),
        });
    }

    fn write(&mut self, key: [u8; 32], fence: Fence, name: &str) -> Result<(), Failure> {
        let Some(entry) = self.fenced(key, fence, name) else {
            return Err(Failure::retryable("an older fence is refused"));
        };
        entry.puts += 1;
        let twice = entry.puts > entry.removes + 1;
        let after_removal = entry.removes > 0;
        self.history.push(format!("put {name}"));
        if twice {
            self.violations.push(format!("{name} was written twice"));
        }
        if after_removal {
            self.violations
                .push(format!("{name} was written after its undo"));
        }
        Ok(())
    }
}

impl State {
    fn undo(
        &mut self,
        attempt: &Attempt,
        undoing: &Undoing<Remove>,
    ) -> (Option<Weather>, Result<(), Failure>) {
        let name = &undoing.argument;
        if let Found::Done(output) = undoing.found
            && output != worth(name)
        {
            let told = format!("the undo of {name} got another output");
            self.violations.push(told);
        }
        let weather = self.call(&format!("undo {name}"), attempt);
        match weather {
            Some(Weather::Permanent | Weather::Retryable | Weather::PanicBefore) => {
                return (weather, Ok(()));
            }
            Some(
                Weather::DoubtBefore
                | Weather::DoubtAfter
                | Weather::PanicAfter
                | Weather::Late(_)
                | Weather::Hangs(_),
            )
            | None => {}
        }
        let key = *undoing.step_key.as_bytes();
        let Some(entry) = self.fenced(key, attempt.fence, name) else {
            let refused = Failure::retryable("an older fence is refused");
            return (weather, Err(refused));
        };
        if entry.puts > entry.removes {
            entry.removes += 1;
            self.history.push(format!("remove {name}"));
        }
        (weather, Ok(()))
    }
}

impl View {
    /// Does something outside at once, or waits for ever if the process is dead.
    async fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        match self.act_alive(act) {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    fn act_alive<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        // Whoever gets the lock while alive does what it does before it can be killed.
        let mut state = self.outside.lock();
        (self.process > state.dead).then(|| act(&mut state))
    }
}

/// What a name is worth: the output of everything called with it.
pub(crate) fn worth(name: &str) -> u64 {
    name.bytes()
        .fold(7, |sum, byte| sum * 31 % 1_000_003 + u64::from(byte))
}

/// Computes what a name is worth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worth;

impl Computation for Worth {
    const NAME: &'static str = "worth";
    type Input = String;
    type Output = u64;
    type Kind = Pure;
}

impl HostFunction<Worth> for View {
    async fn run(&self, attempt: Attempt, input: String) -> Result<u64, Failure> {
        let weather = self.act(|state| state.call(&input, &attempt)).await;
        match weather {
            None | Some(Weather::DoubtAfter | Weather::Late(_)) => Ok(worth(&input)),
            Some(Weather::Hangs(_)) => std::future::pending().await,
            Some(Weather::Permanent) => Err(Failure::permanent("no such name")),
            Some(Weather::Retryable | Weather::DoubtBefore) => Err(Failure::retryable("busy")),
            Some(Weather::PanicBefore | Weather::PanicAfter) => panic!("planned"),
        }
    }
}

/// Writes a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put;

impl Computation for Put {
    const NAME: &'static str = "put";
    type Input = String;
    type Output = u64;
    type Kind = External;
}

impl HostFunction<Put> for View {
    async fn run(&self, attempt: Attempt, input: String) -> Result<u64, Failure> {
        let (weather, put) = self
            .act(|state| {
                let weather = state.call(&input, &attempt);
                let put = match weather {
                    Some(
                        Weather::Permanent
                        | Weather::Retryable
                        | Weather::DoubtBefore
                        | Weather::PanicBefore,
                    ) => Ok(()),
                    Some(Weather::Late(calls) | Weather::Hangs(calls)) => {
                        state.send(&attempt, &input, calls);
                        Ok(())
                    }
                    None | Some(Weather::DoubtAfter | Weather::PanicAfter) => {
                        state.put(&attempt, &input)
                    }
                };
                (weather, put)
            })
            .await;
        put?;
        match weather {
            None => Ok(worth(&input)),
            Some(Weather::Permanent) => Err(Failure::permanent("refused")),
            Some(Weather::Retryable) => Err(Failure::retryable("busy")),
            Some(Weather::DoubtBefore | Weather::DoubtAfter | Weather::Late(_)) => {
                Err(Failure::in_doubt("no reply"))
            }
            Some(Weather::Hangs(_)) => std::future::pending().await,
            Some(Weather::PanicBefore | Weather::PanicAfter) => panic!("planned"),
        }
    }
}

impl Reconcile<Put> for View {
    fn late(&self) -> Late {
        Late::Fenced
    }

    async fn reconcile(&self, attempt: Attempt, input: String) -> Reconciled<u64> {
        self.act(|state| {
            let weather = state.call(&format!("ask {input}"), &attempt);
            let key = *attempt.remote_key.as_bytes();
            let Some(entry) = state.fenced(key, attempt.fence, &input) else {
                return Reconciled::Unknown("an older fence is refused".to_owned());
            };
            if weather.is_some() {
                Reconciled::Unknown("cannot tell".to_owned())
            } else if entry.puts > entry.removes {
                Reconciled::Done(worth(&input))
            } else {
                Reconciled::NotDone
            }
        })
        .await
    }
}

/// Removes what a [`Put`] wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remove;

impl Undo for Remove {
    const NAME: &'static str = "remove";
    type Argument = String;
    type Step = Put;
}

impl UndoFunction<Remove> for View {
    async fn undo(&self, attempt: Attempt, undoing: Undoing<Remove>) -> Result<(), Failure> {
        let (weather, removed) = self.act(|state| state.undo(&attempt, &undoing)).await;
        removed?;
        match weather {
            None => Ok(()),
            Some(Weather::Permanent | Weather::Retryable) => Err(Failure::retryable("busy")),
            Some(
                Weather::DoubtBefore | Weather::DoubtAfter | Weather::Late(_) | Weather::Hangs(_),
            ) => Err(Failure::in_doubt("no reply")),
            Some(Weather::PanicBefore | Weather::PanicAfter) => panic!("planned"),
        }
    }
}
