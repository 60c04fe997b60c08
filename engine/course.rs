//! Courses: the attempts of one effect, step or undo, and what is to be done after each.
//!
//! Invariants
//! - An `External` effect that may have happened is asked about before it is run again.
//! - `NotDone` counts only once no late attempt can prove it wrong.
//! - Where attempts write under names of their own, nothing that is known of several of them is
//!   believed before what the losers left is swept away.
//! - What crashes alone used up may have happened: it ends stuck, and not as if it had failed.
//! - Attempts are counted across restarts; a refusal by admission is none.

use std::time::Duration;

use orlop_saga::canonical::Payload;
use orlop_saga::outcome::{Disposition, Failure, clip};
use orlop_saga::time::Monotonic;

use crate::host::Late;
use crate::options::RetryPolicy;

/// What the next attempt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Runs the code.
    Run,
    /// Asks the outside what became of it.
    Reconcile,
    /// Has the outside remove what attempts left under names of their own.
    Sweep,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Done, by this attempt or, as reconciliation found, by an earlier one.
    Output(Payload),
    /// An undo is done.
    Undone,
    /// Reconciliation: it did not happen.
    NotDone,
    /// Reconciliation: nobody can tell.
    Unknown(String),
    /// What attempts left under names of their own is gone.
    Swept,
    /// It held its lease no longer: nobody waits for its end.
    Expired {
        /// Whether no other attempt is to be made.
        last: bool,
    },
    /// It failed.
    Failed(Failure),
    /// The device was lost with it. It was `Pure`, and nothing of it is left.
    Lost {
        /// Whether it ran at that moment: then it may be what lost the device.
        running: bool,
    },
    /// It was cut off because the engine ends: nothing is to be made of it here.
    Interrupted,
}

impl Ending {
    /// What an ending means once the engine itself ends: what is done is done, anything else may
    /// be the end's doing.
    pub(crate) fn at_the_end(self) -> Self {
        match self {
            Self::Output(_) | Self::Undone => self,
            Self::NotDone
            | Self::Unknown(_)
            | Self::Swept
            | Self::Expired { .. }
            | Self::Failed(_)
            | Self::Lost { .. }
            | Self::Interrupted => Self::Interrupted,
        }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done.
    Done(Payload),
    /// Its undo is done.
    Undone,
    /// It failed for good, without effect.
    Permanent(Failure),
    /// Its attempts are used up, without effect.
    Exhausted(Failure),
    /// Another attempt, under a fence of its own.
    Again { after: Duration },
    /// The same attempt once more, under its fence: what ran it is gone and writes nothing late.
    Repeat { after: Duration },
    /// The attempt goes on with what it was recorded for.
    Onward,
    /// Nobody can tell whether it happened.
    Stuck(String),
    /// Nothing: the engine ends, and the next one goes on.
    Leave,
}

/// What is believed once nothing is left of the attempts that lost.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pending {
    /// Nothing: what was to be done can be done.
    Nothing,
    /// It is done.
    Done(Payload),
    /// It did not happen.
    NotDone,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Course {
    late: Option<Late>,
    retry: RetryPolicy,
    reconciles_max: u32,
    mode: Mode,
    attempts: u32,
    reconciles: u32,
    ran_at: Monotonic,
    /// How many runs ended with the process.
    lost: u32,
    /// How many devices were lost while it ran there, and with how many it is quarantined.
    device_losses: u32,
    device_losses_max: u32,
    /// An attempt may have left something that another one does not know of.
    doubted: bool,
    pending: Pending,
}

impl Course {
    /// A course before its first attempt. `late` is given for `External` code.
    pub(crate) fn new(late: Option<Late>, retry: RetryPolicy, reconciles_max: u32) -> Self {
        Self {
            late,
            retry,
            reconciles_max,
            mode: Mode::Run,
            attempts: 0,
            reconciles: 0,
            ran_at: Monotonic::default(),
            lost: 0,
            device_losses: 0,
            device_losses_max: u32::MAX,
            doubted: false,
            pending: Pending::Nothing,
        }
    }

    /// It is quarantined at so many losses of a device it ran on.
    pub(crate) fn quarantine_after(&mut self, device_losses: u32) {
        self.device_losses_max = device_losses;
    }

    /// Sweeps before anything else, in the attempt that was recorded for what follows.
    pub(crate) fn sweep_first(&mut self) {
        self.mode = Mode::Sweep;
        self.pending = Pending::Nothing;
    }

    /// A caller joined who wants failures without effect tried again as `retry` says, if that is
    /// more often than so far.
    pub(crate) fn be_patient(&mut self, retry: RetryPolicy) {
        if retry.attempts_max > self.retry.attempts_max {
            self.retry = retry;
        }
    }

    /// A course found unfinished after `attempts` attempts, whose last one nobody saw the end of.
    /// So many runs and so many questions ended with the process.
    pub(crate) fn resume(&mut self, attempts: u32, (runs, asks): (u32, u32), now: Monotonic) {
        self.attempts = attempts;
        self.reconciles = asks;
        self.lost = runs;
        self.doubted = true;
        self.ran_at = now;
        self.mode = if self.late.is_some() {
            Mode::Reconcile
        } else {
            Mode::Run
        };
    }

    /// Why it is not tried once more: crashes alone have used up the attempts or the questions,
    /// and another one may crash the host once more.
    pub(crate) fn poisoned(&self) -> Option<String> {
        match self.mode {
            Mode::Run if self.attempts >= self.retry.attempts_max => Some(self.lost_text()),
            Mode::Reconcile if self.reconciles >= self.reconciles_max => {
                let asks = self.reconciles;
                Some(format!("its {asks} reconciliations ended with the process"))
            }
            Mode::Run | Mode::Reconcile | Mode::Sweep => None,
        }
    }

    fn lost_text(&self) -> String {
        format!("its {} attempts ended with the process", self.attempts)
    }

    /// Whether the next attempt only asks: what the outside knows is not changed by it.
    pub(crate) fn asks(&self) -> bool {
        match self.mode {
            Mode::Run => false,
            Mode::Reconcile | Mode::Sweep => true,
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// An operator had it tried again: all attempts are free again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
        self.reconciles = 0;
        self.device_losses = 0;
    }

    /// An attempt starts.
    pub(crate) fn launched(&mut self, now: Monotonic) {
        match self.mode {
            Mode::Run => {
                self.attempts += 1;
                self.ran_at = now;
            }
            Mode::Reconcile | Mode::Sweep => self.reconciles += 1,
        }
    }

    /// The attempt that was about to start was refused: it does not count.
    pub(crate) fn unlaunched(&mut self) {
        match self.mode {
            Mode::Run => self.attempts = self.attempts.saturating_sub(1),
            Mode::Reconcile | Mode::Sweep => {
                self.reconciles = self.reconciles.saturating_sub(1);
            }
        }
    }

    /// An attempt ended: what next. `draw` is uniform in `0.0..1.0`.
    pub(crate) fn judge(&mut self, ending: Ending, now: Monotonic, draw: f64) -> Verdict {
        match ending {
            Ending::Output(output) if self.must_sweep() => self.sweep(Pending::Done(output)),
            Ending::Output(output) => Verdict::Done(output),
            Ending::Undone => Verdict::Undone,
            Ending::Interrupted => Verdict::Leave,
            Ending::NotDone if self.must_sweep() => self.sweep(Pending::NotDone),
            Ending::NotDone => self.not_done(now, draw),
            Ending::Unknown(reason) => self.unknown(&reason, draw),
            Ending::Swept => self.swept(now, draw),
            Ending::Expired { last } => self.expired(last, now, draw),
            Ending::Lost { running } => self.device_lost(running, draw),
            // A question that was lost is one that nobody answered.
            Ending::Failed(failure) if self.asks() => self.unknown(failure.reason(), draw),
            Ending::Failed(failure) => match failure.disposition() {
                Disposition::Permanent => Verdict::Permanent(failure),
                Disposition::Retryable => self.failed(failure, draw),
                Disposition::InDoubt if self.late.is_some() => {
                    // It started before it ended: to count from here is to count long enough.
                    self.doubt(now)
                }
                // `Pure` code and undos may be run again at will.
                Disposition::InDoubt => self.failed(failure, draw),
            },
        }
    }

    /// The device was lost: the attempt does not count, but what it may have done does.
    fn device_lost(&mut self, running: bool, draw: f64) -> Verdict {
        self.unlaunched();
        self.device_losses += u32::from(running);
        if running && self.device_losses >= self.device_losses_max {
            return Verdict::Stuck(format!(
                "quarantined: it ran on {} devices when they were lost",
                self.device_losses
            ));
        }
        Verdict::Repeat {
            after: self.retry.backoff(self.device_losses.max(1), draw),
        }
    }

    /// Nobody knows what became of the run: the outside is asked.
    fn doubt(&mut self, now: Monotonic) -> Verdict {
        self.ran_at = now;
        self.doubted = true;
        self.mode = Mode::Reconcile;
        Verdict::Again {
            after: Duration::ZERO,
        }
    }

    /// The attempt was given up while it ran.
    fn expired(&mut self, last: bool, now: Monotonic, draw: f64) -> Verdict {
        let reason = "it did not hold its lease";
        if last {
            self.attempts = self.attempts.max(self.retry.attempts_max);
        }
        match (self.late, last) {
            (Some(_), _) => self.doubt(now),
            (None, true) => Verdict::Permanent(Failure::permanent(reason)),
            (None, false) => self.failed(Failure::retryable(reason), draw),
        }
    }

    /// Whether what is known now is not believed before the leftovers of other attempts are gone.
    fn must_sweep(&self) -> bool {
        self.late == Some(Late::AttemptScoped) && self.doubted
    }

    fn sweep(&mut self, pending: Pending) -> Verdict {
        self.pending = pending;
        self.mode = Mode::Sweep;
        Verdict::Again {
            after: Duration::ZERO,
        }
    }

    fn swept(&mut self, now: Monotonic, draw: f64) -> Verdict {
        match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => {
                self.mode = Mode::Run;
                Verdict::Onward
            }
            Pending::Done(output) => Verdict::Done(output),
            Pending::NotDone => self.not_done(now, draw),
        }
    }

    fn failed(&mut self, failure: Failure, draw: f64) -> Verdict {
        self.mode = Mode::Run;
        if self.attempts >= self.retry.attempts_max {
            return Verdict::Exhausted(failure);
        }
        Verdict::Again {
            after: self.retry.backoff(self.attempts, draw),
        }
    }

    fn not_done(&mut self, now: Monotonic, draw: f64) -> Verdict {
        if let Some(Late::Settles(bound)) = self.late {
            let elapsed = now.since(self.ran_at);
            if elapsed < bound {
                // Not a failed question, only one that came too early.
                self.reconciles = self.reconciles.saturating_sub(1);
                return Verdict::Again {
                    after: bound.saturating_sub(elapsed),
                };
            }
        }
        let failure = Failure::retryable("it did not happen");
        self.mode = Mode::Run;
        if self.attempts >= self.retry.attempts_max {
            return if self.lost >= self.attempts {
                Verdict::Stuck(self.lost_text())
            } else {
                Verdict::Exhausted(failure)
            };
        }
        // Recorded like every run, so that one that ends the process is counted.
        Verdict::Again {
            after: self.retry.backoff(self.attempts, draw),
        }
    }

    fn unknown(&mut self, reason: &str, draw: f64) -> Verdict {
        let reason = clip(reason.to_owned());
        if self.reconciles >= self.reconciles_max {
            return Verdict::Stuck(format!(
                "the outside could not tell in {} reconciliations: {reason}",
                self.reconciles
            ));
        }
        Verdict::Again {
            after: self.retry.backoff(self.reconciles, draw),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: RetryPolicy = RetryPolicy {
        attempts_max: 2,
        base: Duration::from_millis(10),
        cap: Duration::from_millis(15),
    };

    fn at(millis: u64) -> Monotonic {
        Monotonic::new(millis * 1_000_000)
    }

    fn course(late: Option<Late>) -> Course {
        let mut course = Course::new(late, RETRY, 2);
        course.launched(at(0));
        course
    }

    #[test]
    fn an_external_effect_in_doubt_is_asked_about_before_it_is_run_again() {
        let mut course = course(Some(Late::Fenced));
        let verdict = course.judge(Ending::Failed(Failure::in_doubt("no reply")), at(1), 0.5);
        assert_eq!(
            verdict,
            Verdict::Again {
                after: Duration::ZERO
            }
        );
        assert_eq!(course.mode(), Mode::Reconcile);
        course.launched(at(2));
        let verdict = course.judge(Ending::NotDone, at(3), 0.5);
        assert_eq!(
            verdict,
            Verdict::Again {
                after: Duration::from_millis(5)
            }
        );
        assert_eq!(course.mode(), Mode::Run);
    }

    #[test]
    fn not_done_is_not_believed_before_the_effect_has_settled() {
        let mut course = course(Some(Late::Settles(Duration::from_millis(100))));
        course.judge(Ending::Failed(Failure::in_doubt("no reply")), at(1), 0.5);
        course.launched(at(2));
        let verdict = course.judge(Ending::NotDone, at(40), 0.5);
        assert_eq!(
            verdict,
            Verdict::Again {
                after: Duration::from_millis(61)
            }
        );
        assert_eq!(course.mode(), Mode::Reconcile);
        course.launched(at(101));
        course.judge(Ending::NotDone, at(101), 0.5);
        assert_eq!(course.mode(), Mode::Run);
    }

    #[test]
    fn nobody_knowing_ends_in_stuck_and_never_in_a_second_run() {
        let mut course = course(Some(Late::Fenced));
        course.judge(Ending::Failed(Failure::in_doubt("no reply")), at(1), 0.5);
        for _ in 0..2 {
            course.launched(at(2));
            assert_eq!(course.mode(), Mode::Reconcile);
            let verdict = course.judge(Ending::Unknown("down".into()), at(3), 1.0);
            if course.reconciles < 2 {
                assert!(matches!(verdict, Verdict::Again { .. }), "{verdict:?}");
            } else {
                assert!(matches!(verdict, Verdict::Stuck(_)), "{verdict:?}");
            }
        }
    }

    #[test]
    fn a_question_that_is_lost_every_time_ends_in_stuck() {
        let mut course = course(Some(Late::Fenced));
        course.judge(Ending::Failed(Failure::in_doubt("no reply")), at(1), 0.5);
        for round in 0..2 {
            course.launched(at(2));
            let lost = Ending::Failed(Failure::in_doubt("it panicked"));
            let verdict = course.judge(lost, at(3), 1.0);
            match round {
                0 => assert_eq!(
                    verdict,
                    Verdict::Again {
                        after: Duration::from_millis(10)
                    }
                ),
                _ => assert!(matches!(verdict, Verdict::Stuck(_)), "{verdict:?}"),
            }
        }
    }

    #[test]
    fn attempts_are_counted_across_restarts() {
        let mut course = Course::new(None, RETRY, 2);
        course.resume(1, (1, 0), at(0));
        assert_eq!(course.poisoned(), None);
        course.launched(at(0));
        let failure = Failure::retryable("busy");
        let verdict = course.judge(Ending::Failed(failure.clone()), at(1), 0.5);
        assert_eq!(verdict, Verdict::Exhausted(failure));
        course.resume(2, (1, 0), at(2));
        assert!(course.poisoned().is_some());
    }

    #[test]
    fn crashes_alone_end_an_external_effect_stuck_and_failures_end_it_exhausted() {
        let mut lost = Course::new(Some(Late::Fenced), RETRY, 2);
        lost.resume(2, (2, 0), at(0));
        lost.launched(at(1));
        let verdict = lost.judge(Ending::NotDone, at(1), 0.5);
        assert!(
            matches!(&verdict, Verdict::Stuck(why) if why.contains("process")),
            "{verdict:?}"
        );
        let mut failed = Course::new(Some(Late::Fenced), RETRY, 2);
        failed.resume(2, (1, 0), at(0));
        failed.launched(at(3));
        let verdict = failed.judge(Ending::NotDone, at(3), 0.5);
        assert!(matches!(verdict, Verdict::Exhausted(_)), "{verdict:?}");
    }

    #[test]
    fn questions_lost_with_the_process_are_counted() {
        let mut course = Course::new(Some(Late::Fenced), RETRY, 2);
        course.resume(1, (1, 1), at(0));
        assert_eq!(course.poisoned(), None);
        course.launched(at(0));
        let verdict = course.judge(Ending::Unknown("down".into()), at(1), 1.0);
        assert!(matches!(verdict, Verdict::Stuck(_)), "{verdict:?}");
        course.resume(1, (1, 2), at(2));
        assert!(course.poisoned().is_some());
    }

    #[test]
    fn nothing_is_believed_of_several_attempts_before_what_the_losers_left_is_swept() {
        let again = Verdict::Again {
            after: Duration::ZERO,
        };
        let output = Payload::new(&b"out"[..]);
        let mut first = course(Some(Late::AttemptScoped));
        let verdict = first.judge(Ending::Output(output.clone()), at(1), 0.5);
        assert_eq!(verdict, Verdict::Done(output.clone()), "there was but one");
        let mut course = course(Some(Late::AttemptScoped));
        course.judge(Ending::Failed(Failure::in_doubt("no reply")), at(1), 0.5);
        course.launched(at(2));
        assert_eq!(course.judge(Ending::NotDone, at(2), 0.5), again);
        assert_eq!((course.mode(), course.asks()), (Mode::Sweep, true));
        course.launched(at(3));
        course.judge(Ending::Swept, at(3), 0.5);
        assert_eq!(course.mode(), Mode::Run);
        course.launched(at(4));
        let verdict = course.judge(Ending::Output(output.clone()), at(4), 0.5);
        assert_eq!((verdict, course.mode()), (again, Mode::Sweep));
        course.launched(at(5));
        let verdict = course.judge(Ending::Swept, at(5), 0.5);
        assert_eq!(verdict, Verdict::Done(output));
    }

    #[test]
    fn a_sweep_that_fails_every_time_ends_in_stuck() {
        let mut course = course(Some(Late::AttemptScoped));
        course.judge(Ending::Failed(Failure::in_doubt("no reply")), at(1), 0.5);
        course.launched(at(2));
        course.judge(Ending::NotDone, at(2), 0.5);
        course.launched(at(3));
        let lost = Ending::Failed(Failure::permanent("no listing"));
        let verdict = course.judge(lost, at(3), 0.5);
        assert!(matches!(verdict, Verdict::Stuck(_)), "{verdict:?}");
    }

    #[test]
    fn an_expired_attempt_is_tried_again_asked_about_or_the_last_one() {
        let expired = |late, last| {
            let mut course = course(late);
            let verdict = course.judge(Ending::Expired { last }, at(9), 0.5);
            (verdict, course)
        };
        let (verdict, _) = expired(None, false);
        assert!(matches!(verdict, Verdict::Again { .. }), "{verdict:?}");
        let (verdict, _) = expired(None, true);
        assert!(matches!(verdict, Verdict::Permanent(_)), "{verdict:?}");
        let (_, mut course) = expired(Some(Late::Fenced), true);
        assert_eq!(course.mode(), Mode::Reconcile);
        course.launched(at(10));
        let verdict = course.judge(Ending::NotDone, at(10), 0.5);
        assert!(matches!(verdict, Verdict::Exhausted(_)), "{verdict:?}");
    }

    #[test]
    fn losses_of_the_device_cost_no_attempt_and_quarantine_what_ran_at_each_of_them() {
        let mut course = course(None);
        course.quarantine_after(3);
        let repeat = |verdict: &Verdict| matches!(verdict, Verdict::Repeat { .. });
        for _ in 0..100 {
            let verdict = course.judge(Ending::Lost { running: false }, at(1), 0.5);
            assert!(repeat(&verdict), "{verdict:?}");
        }
        for _ in 0..2 {
            course.judge(Ending::Lost { running: true }, at(200), 0.5);
            course.launched(at(200));
        }
        let verdict = course.judge(Ending::Lost { running: true }, at(201), 0.5);
        assert!(matches!(verdict, Verdict::Stuck(_)), "{verdict:?}");
        course.reset();
        let verdict = course.judge(Ending::Lost { running: true }, at(203), 0.5);
        assert!(repeat(&verdict), "{verdict:?}");
    }

    #[test]
    fn backoff_doubles_up_to_its_cap_and_is_drawn_from_zero() {
        assert_eq!(RETRY.backoff(1, 1.0), Duration::from_millis(10));
        assert_eq!(RETRY.backoff(2, 1.0), Duration::from_millis(15));
        assert_eq!(RETRY.backoff(60, 0.0), Duration::ZERO);
    }
}
