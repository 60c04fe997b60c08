//! Folds that begin another life: of a backup that was restored, and of a copy under another id.

use super::{Live, Standing};
use crate::effect::Effect;
use crate::id::{Attempt, Fence, Incarnation, SagaId, StoreId};
use crate::saga::{Hold, Phase, SagaState};

impl Live {
    /// Whether the outside may have seen more than the journal says: the store was restored from a
    /// backup, and the original went on after it was taken. What changes the outside is then asked
    /// about before it is run, also where nothing of it was recorded.
    pub fn outside_ahead(&self) -> bool {
        self.outside_ahead
    }

    /// Makes it the beginning of a restored store. Its fences are above `incarnation` and its saga
    /// ids above `saga`: both beyond whatever the original may have used since the backup.
    pub fn restore(&mut self, incarnation: Incarnation, saga: SagaId) {
        self.incarnation = self.incarnation.max(incarnation);
        self.saga_last = self.saga_last.max(saga);
        // What was interrupted was no crash's doing.
        self.standing = Standing::Closed;
        self.outside_ahead = true;
        let fence = Fence::new(self.incarnation, Attempt::new(0));
        for effect in self.effects.values_mut() {
            if let Effect::Accepted { request } = effect
                && request.external
            {
                // The original may have launched it.
                *effect = Effect::Launched {
                    request: request.clone(),
                    fence,
                    runs: 0,
                    asking: true,
                    lost_asks: 0,
                    lost_runs: 0,
                };
            }
        }
    }

    /// Makes it the beginning of a copy of the store `of`, which goes on with the work itself: what
    /// is unfinished and changes the outside, or may, waits for an operator.
    pub fn part_from(&mut self, of: StoreId) {
        self.standing = Standing::Closed;
        self.outside_ahead = false;
        let reason = format!("cloned from store {of}, which goes on with this itself");
        for effect in self.effects.values_mut() {
            let fence = effect.fence().unwrap_or_default();
            match effect {
                Effect::Accepted { request } | Effect::Launched { request, .. }
                    if request.external =>
                {
                    *effect = Effect::Stuck {
                        request: request.clone(),
                        fence,
                        reason: reason.clone(),
                    };
                }
                Effect::Accepted { .. } | Effect::Launched { .. } | Effect::Stuck { .. } => {}
            }
        }
        for saga in self.sagas.values_mut() {
            park(saga, &reason);
        }
    }
}

/// Holds a saga, whatever held it before, until an operator says otherwise: what is missing here
/// may be there when it is opened, and a wish or a deadline would have it unwind by itself.
fn park(saga: &mut SagaState, reason: &str) {
    // One that has ended waits for its parent, which is held.
    if saga.ended() {
        return;
    }
    saga.hold = Some(Hold::Stuck(reason.to_owned()));
    if matches!(saga.phase, Phase::Running) {
        saga.cancel_requested = false;
        saga.deadline_passed = None;
        saga.start.deadline = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Payload;
    use crate::effect::{CodeRef, EffectEvent, EffectId, Request};
    use crate::event::Event;
    use crate::id::{Lsn, TenantId};
    use crate::key::{Fingerprint, Key};
    use crate::saga::{Cause, PauseReason, SagaEvent, SagaStart};
    use crate::tenant::{AuditTag, Class};
    use crate::time::WallMillis;
    use crate::trace::TraceContext;

    fn id(key: u8) -> EffectId {
        EffectId {
            tenant: TenantId::new(1, 1),
            key: Key::new([key; 16]),
        }
    }

    fn accepted(live: &mut Live, key: u8, external: bool) {
        let input = Payload::default();
        let request = Request {
            fingerprint: Fingerprint::of("c", 1, &input),
            code: CodeRef::new("c", 1),
            external,
            input,
            class: Class::Standard,
            audit: AuditTag::default(),
            trace: TraceContext::default(),
            at: WallMillis::new(0),
            deadline: None,
            retention_ms: 10,
        };
        let event = Event::Effect {
            id: id(key),
            event: EffectEvent::Accepted(Box::new(request)),
        };
        live.apply(live.lsn().next(), &event).unwrap();
    }

    #[test]
    fn a_restored_fold_doubts_what_was_only_accepted_and_is_beyond_the_original() {
        let mut live = Live::default();
        accepted(&mut live, 1, true);
        accepted(&mut live, 2, false);
        live.restore(Incarnation::new(900), SagaId::new(7));
        assert!(live.outside_ahead());
        assert_eq!(live.incarnation(), Incarnation::new(900));
        assert_eq!(live.saga_last(), SagaId::new(7));
        let Some(Effect::Launched { fence, runs: 0, .. }) = live.effects().get(&id(1)) else {
            panic!("{:?}", live.effects().get(&id(1)));
        };
        assert_eq!(fence.incarnation, Incarnation::new(900));
        let pure = live.effects().get(&id(2)).unwrap();
        assert!(matches!(pure, Effect::Accepted { .. }), "{pure:?}");
        assert_eq!(live.lsn(), Lsn::new(2));
    }

    #[test]
    fn a_clone_parks_what_changes_the_outside_and_runs_the_rest() {
        let mut live = Live::default();
        accepted(&mut live, 1, true);
        accepted(&mut live, 2, false);
        live.part_from(StoreId::new([0xab; 16]));
        let Some(Effect::Stuck { reason, .. }) = live.effects().get(&id(1)) else {
            panic!("{:?}", live.effects().get(&id(1)));
        };
        assert!(reason.starts_with("cloned from store abab"), "{reason}");
        let pure = live.effects().get(&id(2)).unwrap();
        assert!(matches!(pure, Effect::Accepted { .. }), "{pure:?}");
    }

    fn started(live: &mut Live, saga: u64, then: &[SagaEvent]) {
        let input = Payload::default();
        let start = SagaStart {
            id: id(u8::try_from(saga).unwrap()),
            fingerprint: Fingerprint::of("s", 1, &input),
            code: CodeRef::new("s", 1),
            input,
            class: Class::Standard,
            audit: AuditTag::default(),
            trace: TraceContext::default(),
            at: WallMillis::new(0),
            retention_ms: 10,
            paused: false,
            deadline: Some(WallMillis::new(5)),
            parent: None,
        };
        let events = [SagaEvent::Started(Box::new(start))];
        for event in events.iter().chain(then) {
            let event = Event::Saga {
                id: SagaId::new(saga),
                event: event.clone(),
            };
            live.apply(live.lsn().next(), &event).unwrap();
        }
    }

    #[test]
    fn a_clone_has_no_saga_that_would_go_on_or_unwind_by_itself() {
        let missing = Hold::Paused(PauseReason::Definition("no code".into()));
        let at = WallMillis::new(5);
        let cause = Cause::Cancelled;
        let courses = [
            vec![],
            vec![SagaEvent::Held(missing)],
            vec![SagaEvent::CancelRequested],
            vec![
                SagaEvent::Held(Hold::Stuck("own".into())),
                SagaEvent::CancelRequested,
            ],
            vec![SagaEvent::DeadlinePassed { at }],
            vec![
                SagaEvent::CancelRequested,
                SagaEvent::UnwindingStarted { cause },
            ],
        ];
        let mut live = Live::default();
        for (saga, course) in (1..).zip(&courses) {
            started(&mut live, saga, course);
        }
        live.part_from(StoreId::new([0xab; 16]));
        assert_eq!(live.sagas().len(), courses.len());
        for (id, saga) in live.sagas() {
            let Some(Hold::Stuck(reason)) = saga.hold() else {
                panic!("{id}: {:?}", saga.hold());
            };
            assert!(
                reason.starts_with("cloned from store abab"),
                "{id}: {reason}"
            );
            assert_eq!(saga.doom(), None, "{id}");
            let running = matches!(saga.phase(), Phase::Running);
            assert!(!running || saga.start().deadline.is_none(), "{id}");
        }
    }
}
