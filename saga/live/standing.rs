//! Standing: how the newest opening of a store stands, and what came before it.
//!
//! Invariants
//! - Only an opening whose recovery ended the process counts as a crash in recovery: one that had
//!   recovered, or was closed, begins anew.

use serde::{Deserialize, Serialize};

/// How the newest opening of a store stands.
///
/// The position of a variant is part of the format; the first two are what a `bool` was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It is open, or crashed: after a close, or after its recovery was over.
    #[default]
    Open,
    /// It was closed in good order.
    Closed,
    /// The one before crashed; whether its recovery did is not known yet.
    AfterCrash,
    /// The recovery of the one before crashed too: what was found is played one saga at a time.
    Probation,
}

impl Standing {
    /// After another opening.
    pub(crate) const fn opened(self) -> Self {
        match self {
            Self::Closed => Self::Open,
            Self::Open => Self::AfterCrash,
            Self::AfterCrash | Self::Probation => Self::Probation,
        }
    }

    /// After its recovery is over.
    pub(crate) const fn recovered(self) -> Self {
        match self {
            Self::Closed => Self::Closed,
            Self::Open | Self::AfterCrash | Self::Probation => Self::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::compat::{Format, decode, encode};
    use crate::event::Event;
    use crate::id::{Incarnation, SagaId};
    use crate::live::{Live, Standing};
    use crate::saga::tests::run;
    use crate::saga::{Hold, PauseReason, SagaEvent};
    use crate::time::WallMillis;

    #[test]
    fn only_crashes_of_two_recoveries_in_a_row_lead_to_probation() {
        let at = WallMillis::new(1);
        let mut live = Live::default();
        let mut opened = 0;
        let mut next = |live: &mut Live, event: Option<Event>| {
            let event = event.unwrap_or_else(|| {
                opened += 1;
                Event::Opened {
                    incarnation: Incarnation::new(opened),
                    at,
                }
            });
            live.apply(live.lsn().next(), &event).unwrap();
            live.standing()
        };
        let (open, after) = (Standing::Open, Standing::AfterCrash);
        assert_eq!(next(&mut live, None), open);
        live.sagas.insert(SagaId::new(1), run(&[]).unwrap());
        // Each recovery gets through.
        for _ in 0..3 {
            assert_eq!(next(&mut live, None), after);
            assert_eq!(next(&mut live, Some(Event::Recovered)), open);
        }
        assert_eq!(next(&mut live, None), after);
        // None does, until one is closed.
        for _ in 0..3 {
            assert_eq!(next(&mut live, None), Standing::Probation);
        }
        let closed = next(&mut live, Some(Event::Closed { at }));
        assert_eq!(closed, Standing::Closed);
        assert_eq!(next(&mut live, None), open);
        // Without sagas there is nobody to look for.
        live.sagas.clear();
        assert_eq!(next(&mut live, None), open);
        assert_eq!(next(&mut live, None), open);
    }

    /// A record of each turn says whose it was: an opening that died before the turn of the one who
    /// was named earlier charges nobody.
    #[test]
    fn a_saga_is_charged_once_for_each_opening_that_died_in_its_turn() {
        let (at, id) = (WallMillis::new(1), SagaId::new(1));
        let mut live = Live::default();
        live.sagas.insert(id, run(&[]).unwrap());
        live.sagas.insert(SagaId::new(2), run(&[]).unwrap());
        let mut opened = 0;
        let mut next = |live: &mut Live, event: Option<SagaEvent>| {
            opened += 1;
            let event = match event {
                Some(event) => Event::Saga { id, event },
                None => Event::Opened {
                    incarnation: Incarnation::new(opened),
                    at,
                },
            };
            live.apply(live.lsn().next(), &event).unwrap();
            live.sagas[&id].probation()
        };
        let turn = |crashes| {
            let reason = PauseReason::Probation { crashes };
            Some(SagaEvent::Held(Hold::Paused(reason)))
        };
        next(&mut live, None);
        assert_eq!(next(&mut live, Some(SagaEvent::Probed)), Some(0));
        assert_eq!(next(&mut live, None), Some(1));
        // Dies before it has its turn, twice.
        assert_eq!(next(&mut live, None), Some(1));
        assert_eq!(next(&mut live, None), Some(1));
        assert_eq!(next(&mut live, turn(1)), Some(1));
        let bytes = encode(Format::NEWEST, &live).unwrap();
        let mut live: Live = decode(&bytes).unwrap();
        assert_eq!(next(&mut live, None), Some(2));
        assert_eq!(next(&mut live, turn(2)), Some(2));
        // What an older format keeps does not say whether it had its turn.
        let bytes = encode(Format::V2, &live).unwrap();
        let mut live: Live = decode(&bytes).unwrap();
        assert_eq!(next(&mut live, None), Some(3));
        assert_eq!(live.sagas[&SagaId::new(2)].probation(), None);
    }

    #[test]
    fn a_standing_is_the_byte_that_said_whether_the_store_was_closed() {
        for (standing, was) in [(Standing::Open, false), (Standing::Closed, true)] {
            assert_eq!(
                postcard::to_allocvec(&standing),
                postcard::to_allocvec(&was)
            );
        }
        let live = Live {
            standing: Standing::Probation,
            ..Live::default()
        };
        let bytes = encode(Format::NEWEST, &live).unwrap();
        assert_eq!(decode::<Live>(&bytes), Ok(live));
    }
}
