//! The simulated clock: wall and monotonic time apart, timers that ring when the test says so,
//! and random numbers from a seed.
//!
//! An engine that is given one has its sleeps, backoffs, time-outs and deadlines follow it.
//!
//! Invariants
//! - Time passes only when it is told to, and on [`SimClock::run`] only while nothing is under way.
//! - What belongs to a life of the process that is over rings no more and holds nothing still.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use orlop_saga::time::{Clock, Monotonic, Simulated, WallMillis};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// Where the wall clock of a new [`SimClock`] stands: 2026-01-01T00:00:00Z.
const BEGIN: WallMillis = WallMillis::new(1_767_225_600_000);
/// How long, in real time, nothing may be under way before nothing is expected any more, and how
/// long what is still under way after an answer is waited for: only what hangs out of the clock's
/// sight takes as long, and on a busy machine whatever a thread does may take a good part of it.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_PARTS: u32 = 50;

/// See the module. Clones are the same clock.
#[derive(Clone)]
pub struct SimClock {
    shared: Arc<Shared>,
}

struct Shared {
    hands: Mutex<Hands>,
    life: Mutex<Arc<Life>>,
}

#[derive(Clone, Copy, Debug)]
struct Hands {
    wall: WallMillis,
    monotonic: Monotonic,
}

/// What one life of the process has under way.
struct Life {
    state: Mutex<State>,
    moved: Condvar,
}

type Call = Box<dyn FnOnce() + Send>;

struct State {
    timers: BTreeMap<(Monotonic, u64), Call>,
    due: HashMap<u64, Monotonic>,
    calls: u64,
    /// How much is under way, and how much of it only waits for time to pass.
    working: usize,
    waiting: usize,
    /// Something outside of the clock's sight happened that somebody waits for.
    woken: bool,
    random: fastrand::Rng,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new(State {
                timers: BTreeMap::new(),
                due: HashMap::new(),
                calls: 0,
                working: 0,
                waiting: 0,
                woken: false,
                random: fastrand::Rng::with_seed(seed),
            }),
            moved: Condvar::new(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.moved.notify_all();
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.working <= self.waiting
    }
}

impl Simulated for Life {
    fn call_at(&self, at: Monotonic, call: Call) -> u64 {
        let mut state = self.state.lock();
        let number = state.calls;
        state.calls += 1;
        state.timers.insert((at, number), call);
        state.due.insert(number, at);
        number
    }

    fn cancel(&self, call: u64) {
        let mut state = self.state.lock();
        let forgotten = state
            .due
            .remove(&call)
            .and_then(|at| state.timers.remove(&(at, call)));
        drop(state);
        drop(forgotten);
    }

    fn begin(&self) {
        self.state.lock().working += 1;
    }

    fn end(&self) {
        self.change(|state| state.working = state.working.saturating_sub(1));
    }

    fn draw(&self) -> u64 {
        self.state.lock().random.u64(..)
    }
}

impl Wake for Life {
    fn wake(self: Arc<Self>) {
        self.change(|state| state.woken = true);
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Life")
            .field("timers", &state.timers.len())
            .field("working", &state.working)
            .field("waiting", &state.waiting)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimClock")
            .field("hands", &*self.shared.hands.lock())
            .field("life", &self.life())
            .finish()
    }
}

/// What a clock waited for.
pub(crate) enum Moment {
    /// The future may have something to say.
    Woken,
    /// Nothing is under way that needs no time.
    Idle,
}

impl SimClock {
    /// A clock that stands at 2026-01-01T00:00:00Z and draws from `seed`.
    pub fn new(seed: u64) -> Self {
        let hands = Hands {
            wall: BEGIN,
            monotonic: Monotonic::default(),
        };
        Self {
            shared: Arc::new(Shared {
                hands: Mutex::new(hands),
                life: Mutex::new(Arc::new(Life::new(seed))),
            }),
        }
    }

    /// A new life of the process: timers and work of the one before are forgotten, and random
    /// numbers come from `seed`. Both clocks go on from where they are.
    pub fn restart(&self, seed: u64) {
        let before = std::mem::replace(&mut *self.shared.life.lock(), Arc::new(Life::new(seed)));
        before.state.lock().timers.clear();
    }

    /// Sets the wall clock, as an operator might: no timer rings for it, and monotonic time does
    /// not pass.
    pub fn set_wall(&self, wall: WallMillis) {
        self.shared.hands.lock().wall = wall;
    }

    /// Has `duration` pass: every timer that is due meanwhile rings, each at its time.
    pub fn advance(&self, duration: Duration) {
        let until = self.monotonic().after(duration);
        while self.ring_next(until) {}
        self.turn_to(until);
    }

    /// Has time pass until the next timer rings; false if there is none.
    pub fn pass(&self) -> bool {
        self.ring_next(Monotonic::new(u64::MAX))
    }

    /// How long it is until the next timer rings.
    pub fn next_timer(&self) -> Option<Duration> {
        let life = self.life();
        let state = life.state.lock();
        let (at, _) = *state.timers.keys().next()?;
        drop(state);
        Some(at.since(self.monotonic()))
    }

    /// Waits for as long as this clock takes, inside of a function of the embedder's: what it
    /// holds up does not keep time from passing.
    pub fn sleep(&self, duration: Duration) -> SimSleep {
        let at = self.monotonic().after(duration);
        SimSleep {
            life: self.life(),
            at: Some(at),
            rung: None,
        }
    }

    /// Never ends, as a request to which nobody answers: what it holds up does not keep time from
    /// passing.
    pub fn never(&self) -> SimSleep {
        SimSleep {
            life: self.life(),
            at: None,
            rung: None,
        }
    }

    /// Runs a future to its end on this thread, and has time pass whenever nothing is under way
    /// and a timer is left. `None` if nothing is left that could bring the end about.
    ///
    /// Work that the clock does not see, on threads of the embedder's own, is waited for as long
    /// as 5 seconds of real time.
    pub fn run<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = self.poll(future.as_mut()) {
                return Some(output);
            }
            match self.wait() {
                Moment::Woken => {}
                Moment::Idle => {
                    if !self.pass() && !self.wait_unseen() {
                        return None;
                    }
                }
            }
        }
    }

    /// Polls a future; [`wait`](Self::wait) hears when it is to be polled again.
    pub(crate) fn poll<F: Future>(&self, future: Pin<&mut F>) -> Poll<F::Output> {
        let life = self.life();
        life.state.lock().woken = false;
        let waker = Waker::from(life);
        future.poll(&mut Context::from_waker(&waker))
    }

    /// Waits until what was polled is to be polled again, or nothing is under way.
    pub(crate) fn wait(&self) -> Moment {
        let life = self.life();
        let mut state = life.state.lock();
        loop {
            if state.woken {
                return Moment::Woken;
            }
            if state.is_idle() {
                return Moment::Idle;
            }
            life.moved.wait(&mut state);
        }
    }

    /// Waits until nothing is under way that needs no time, or it is over and whoever says so
    /// [wakes](Self::wake) this; as long as 5 seconds of real time.
    pub(crate) fn rest(&self, is_over: impl Fn() -> bool) {
        let life = self.life();
        let mut state = life.state.lock();
        let works = |state: &mut State| !state.is_idle() && !is_over();
        life.moved.wait_while_for(&mut state, works, PATIENCE);
    }

    /// Waits for a wake that nothing in sight will bring; false if it does not come.
    pub(crate) fn wait_unseen(&self) -> bool {
        let life = self.life();
        let mut state = life.state.lock();
        let waiting =
            |state: &mut State| !state.woken && state.is_idle() && state.timers.is_empty();
        // In parts: a machine that stood still meanwhile used up one of them.
        (0..PATIENCE_PARTS).any(|_| {
            let part = PATIENCE / PATIENCE_PARTS;
            let waited = life.moved.wait_while_for(&mut state, waiting, part);
            !waited.timed_out()
        })
    }

    /// Whether nothing at all is under way, not even what only waits for time to pass.
    pub(crate) fn is_quiet(&self) -> bool {
        self.life().state.lock().working == 0
    }

    /// Has whoever waits look again.
    pub(crate) fn wake(&self) {
        self.life().wake();
    }

    fn life(&self) -> Arc<Life> {
        Arc::clone(&self.shared.life.lock())
    }

    fn turn_to(&self, until: Monotonic) {
        let mut hands = self.shared.hands.lock();
        let passes = until.since(hands.monotonic);
        hands.monotonic = hands.monotonic.after(passes);
        // Rounded up: who waits for a millisecond of the wall clock must not find it short.
        let millis = passes.as_nanos().div_ceil(1_000_000);
        let millis = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        hands.wall = hands.wall.after(millis);
    }

    fn ring_next(&self, until: Monotonic) -> bool {
        let life = self.life();
        let mut state = life.state.lock();
        let due = state
            .timers
            .first_entry()
            .filter(|first| first.key().0 <= until);
        let Some(due) = due else {
            return false;
        };
        let ((at, number), call) = due.remove_entry();
        state.due.remove(&number);
        // Until what follows from it has begun.
        state.working += 1;
        drop(state);
        self.turn_to(at);
        call();
        life.end();
        true
    }
}

impl Clock for SimClock {
    fn wall(&self) -> WallMillis {
        self.shared.hands.lock().wall
    }

    fn monotonic(&self) -> Monotonic {
        self.shared.hands.lock().monotonic
    }

    fn simulated(&self) -> Option<Arc<dyn Simulated>> {
        let life: Arc<dyn Simulated> = self.life();
        Some(life)
    }
}

/// A wait by a [`SimClock`].
#[must_use = "it waits when it is awaited"]
pub struct SimSleep {
    life: Arc<Life>,
    /// When it ends, unless never.
    at: Option<Monotonic>,
    rung: Option<Rung>,
}

/// A wait that has begun.
struct Rung {
    heard: oneshot::Receiver<()>,
    call: Option<u64>,
    /// Whether the clock still counts it as waiting.
    counted: Arc<Mutex<bool>>,
    /// Kept, so that who never rings is not taken for gone.
    _never: Option<oneshot::Sender<()>>,
}

impl Life {
    fn stop_waiting(&self, counted: &Mutex<bool>) {
        if std::mem::take(&mut *counted.lock()) {
            self.change(|state| state.waiting = state.waiting.saturating_sub(1));
        }
    }
}

impl SimSleep {
    fn begin(&self) -> Rung {
        let (ring, rung) = oneshot::channel();
        let counted = Arc::new(Mutex::new(true));
        let Some(at) = self.at else {
            self.life.change(|state| state.waiting += 1);
            return Rung {
                heard: rung,
                call: None,
                counted,
                _never: Some(ring),
            };
        };
        let (life, still) = (Arc::clone(&self.life), Arc::clone(&counted));
        let call = self.life.call_at(
            at,
            Box::new(move || {
                life.stop_waiting(&still);
                // Whoever slept may have left.
                let _ = ring.send(());
            }),
        );
        self.life.change(|state| state.waiting += 1);
        Rung {
            heard: rung,
            call: Some(call),
            counted,
            _never: None,
        }
    }
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.rung.is_none() {
            self.rung = Some(self.begin());
        }
        let Some(rung) = &mut self.rung else {
            return Poll::Pending;
        };
        match Pin::new(&mut rung.heard).poll(context) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // Forgotten with its life.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        if let Some(rung) = &self.rung {
            if let Some(call) = rung.call {
                self.life.cancel(call);
            }
            self.life.stop_waiting(&rung.counted);
        }
    }
}

impl fmt::Debug for SimSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSleep")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::timers::Timers;

    #[test]
    fn a_day_passes_in_no_time_and_both_clocks_show_it() {
        let clock = SimClock::new(1);
        let day = Duration::from_hours(24);
        let (wall, monotonic) = (clock.wall(), clock.monotonic());
        assert_eq!(clock.run(clock.sleep(day)), Some(()));
        assert_eq!(clock.wall(), wall.after(day));
        assert_eq!(clock.monotonic(), monotonic.after(day));
    }

    #[test]
    fn timers_ring_in_their_order_and_each_at_its_time() {
        let clock = SimClock::new(1);
        let rung = Arc::new(Mutex::new(Vec::new()));
        for seconds in [3, 1, 2] {
            let (rung, at) = (
                Arc::clone(&rung),
                clock.monotonic().after(Duration::from_secs(seconds)),
            );
            let seen = clock.clone();
            clock.life().call_at(
                at,
                Box::new(move || rung.lock().push(seen.monotonic().get())),
            );
        }
        clock.advance(Duration::from_secs(2));
        assert_eq!(*rung.lock(), [1_000_000_000, 2_000_000_000]);
        assert_eq!(clock.next_timer(), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_wall_clock_that_is_set_rings_no_timer() {
        let clock = SimClock::new(1);
        let monotonic = clock.monotonic();
        let sleep = clock
            .life()
            .call_at(monotonic.after(Duration::from_secs(1)), Box::new(|| ()));
        clock.set_wall(clock.wall().after(Duration::from_hours(1)));
        assert_eq!(clock.monotonic(), monotonic);
        assert_eq!(clock.next_timer(), Some(Duration::from_secs(1)));
        clock.life().cancel(sleep);
        assert_eq!(clock.next_timer(), None);
    }

    #[test]
    fn whoever_was_woken_by_a_timer_holds_the_clock_still_until_it_has_done_what_it_woke_for() {
        let clock = SimClock::new(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let timers = Timers::new(runtime.handle().clone(), Arc::new(clock.clone()));
        // Something hangs, so that only the time-out can end it.
        let _work = timers.work();
        let limit = Duration::from_secs(1);
        let mut bounded = Box::pin(timers.timeout(limit, clock.never()));
        assert!((&mut bounded).now_or_never().is_none());
        assert!(clock.pass());
        let seen = clock.life().state.lock().is_idle();
        assert!(!seen, "it rang, and nobody has looked yet");
        assert_eq!(bounded.now_or_never(), Some(None));
        assert!(
            !clock.life().state.lock().is_idle(),
            "what follows from it is not over"
        );
    }

    #[test]
    fn a_life_that_is_over_rings_no_more_and_holds_nothing_still() {
        let clock = SimClock::new(1);
        clock.life().begin();
        let rung = Arc::new(Mutex::new(false));
        let ring = Arc::clone(&rung);
        clock
            .life()
            .call_at(clock.monotonic(), Box::new(move || *ring.lock() = true));
        clock.restart(2);
        assert!(matches!(clock.wait(), Moment::Idle));
        assert!(!clock.pass());
        assert!(!*rung.lock());
    }
}
