//! Courses: the attempts of one effect, step or undo, and what is to be done after each.
//!
//! Invariants
//! - An `External` effect that may have happened is asked about before it is run again.
//! - `NotDone` counts only once no late attempt can prove it wrong.
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
    /// It failed.
    Failed(Failure),
    /// It was cut off because the engine ends: nothing is to be made of it here.
    Interrupted,
}

impl Ending {
    /// What an ending means once the engine itself ends: what is done is done, anything else may
    /// be the end's doing.
    pub(crate) fn at_the_end(self) -> Self {
        match self {
            Self::Output(_) | Self::Undone => self,
            Self::NotDone | Self::Unknown(_) | Self::Failed(_) | Self::Interrupted => {
                Self::Interrupted
            }
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
    /// Nobody can tell whether it happened.
    Stuck(String),
    /// Nothing: the engine ends, and the next one goes on.
    Leave,
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
        }
    }

    /// A caller joined who wants failures without effect tried again as `retry` says, if that is
    /// more often than so far.
    pub(crate) fn be_patient(&mut self, retry: RetryPolicy) {
        if retry.attempts_max > self.retry.attempts_max {
            self.retry = retry;
        }
    }

    /// A course found unfinished after `attempts` attempts, whose last one nobody saw the end of.
    pub(crate) fn resume(&mut self, attempts: u32, now: Monotonic) {
        self.attempts = attempts;
        self.ran_at = now;
        self.mode = if self.late.is_some() {
            Mode::Reconcile
        } else {
            Mode::Run
        };
    }

    /// Whether crashes alone have used up the attempts: running it once more may crash the host
    /// once more.
    pub(crate) fn poisoned(&self) -> bool {
        self.mode == Mode::Run && self.attempts >= self.retry.attempts_max
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// An operator had it tried again: all attempts are free again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
        self.reconciles = 0;
    }

    /// An attempt starts.
    pub(crate) fn launched(&mut self, now: Monotonic) {
        match self.mode {
            Mode::Run => {
                self.attempts += 1;
                self.ran_at = now;
            }
            Mode::Reconcile => self.reconciles += 1,
        }
    }

    /// The attempt that was about to start was refused: it does not count.
    pub(crate) fn unlaunched(&mut self) {
        match self.mode {
            Mode::Run => self.attempts = self.attempts.saturating_sub(1),
            Mode::Reconcile => self.reconciles = self.reconciles.saturating_sub(1),
        }
    }

    /// An attempt ended: what next. `draw` is uniform in `0.0..1.0`.
    pub(crate) fn judge(&mut self, ending: Ending, now: Monotonic, draw: f64) -> Verdict {
        match ending {
            Ending::Output(output) => Verdict::Done(output),
            Ending::Undone => Verdict::Undone,
            Ending::Interrupted => Verdict::Leave,
            Ending::NotDone => self.not_done(now, draw),
            Ending::Unknown(reason) => self.unknown(&reason, draw),
            // A question that was lost is one that nobody answered.
            Ending::Failed(failure) if self.mode == Mode::Reconcile => {
                self.unknown(failure.reason(), draw)
            }
            Ending::Failed(failure) => match failure.disposition() {
                Disposition::Permanent => Verdict::Permanent(failure),
                Disposition::Retryable => self.failed(failure, draw),
                Disposition::InDoubt if self.late.is_some() => {
                    // It started before it ended: to count from here is to count long enough.
                    self.ran_at = now;
                    self.mode = Mode::Reconcile;
                    Verdict::Again {
                        after: Duration::ZERO,
                    }
                }
                // `Pure` code and undos may be run again at will.
                Disposition::InDoubt => self.failed(failure, draw),
            },
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
            return Verdict::Exhausted(failure);
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
        course.resume(1, at(0));
        assert!(!course.poisoned());
        course.launched(at(0));
        let failure = Failure::retryable("busy");
        let verdict = course.judge(Ending::Failed(failure.clone()), at(1), 0.5);
        assert_eq!(verdict, Verdict::Exhausted(failure));
        course.resume(2, at(2));
        assert!(course.poisoned());
    }

    #[test]
    fn backoff_doubles_up_to_its_cap_and_is_drawn_from_zero() {
        assert_eq!(RETRY.backoff(1, 1.0), Duration::from_millis(10));
        assert_eq!(RETRY.backoff(2, 1.0), Duration::from_millis(15));
        assert_eq!(RETRY.backoff(60, 0.0), Duration::ZERO);
    }
}
