//! Fault plans: what befalls which call to an [`Outside`](super::Outside).

use std::fmt;

/// What is asked of an outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// Something is to be put there.
    Put,
    /// It is to be removed.
    Remove,
    /// Whether it is there, asked under a fence.
    Stat,
    /// Whether it is there, as a plain read tells.
    Look,
}

/// What befalls one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// It is refused, without effect and for good.
    Refused,
    /// It is lost, and the caller is told that nobody knows.
    LostRequest,
    /// It has its effect, and the caller is told that nobody knows.
    LostReply,
    /// It lingers on the wire until the next request under its key was answered. Its caller hears
    /// nothing, ever: the step needs a time-out.
    AppliedAfterTimeout,
    /// It lingers on the wire until what it is for was removed. Its caller hears nothing, ever: the
    /// step needs a time-out.
    AppliedAfterUndo,
    /// The answer is what was so before the last change; only for [`Request::Look`]. Who has
    /// raised a fence there reads what is.
    StaleStat,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Remove => "remove",
            Self::Stat => "stat",
            Self::Look => "look",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::LostRequest => "lost request",
            Self::LostReply => "lost reply",
            Self::AppliedAfterTimeout => "applied after time-out",
            Self::AppliedAfterUndo => "applied after undo",
            Self::StaleStat => "stale stat",
        })
    }
}

/// Which requests meet which faults; all others are answered at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    faults: Vec<(Request, String, u32, Fault)>,
}

impl FaultPlan {
    /// No faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// And a fault: it befalls the `nth` such request for `name`, counted from 0 over all lives of
    /// the process.
    #[must_use]
    pub fn and(mut self, request: Request, name: &str, nth: u32, fault: Fault) -> Self {
        self.faults.push((request, name.to_owned(), nth, fault));
        self
    }

    /// Every plan with one fault that befalls the first request of its kind for one of `names`, and
    /// that an outside which keeps fences must survive without harm.
    pub fn each(names: &[&str]) -> Vec<Self> {
        let faults = [
            (Request::Put, Fault::Refused),
            (Request::Put, Fault::LostRequest),
            (Request::Put, Fault::LostReply),
            (Request::Put, Fault::AppliedAfterTimeout),
            (Request::Put, Fault::AppliedAfterUndo),
            (Request::Remove, Fault::LostRequest),
            (Request::Remove, Fault::LostReply),
            (Request::Remove, Fault::AppliedAfterTimeout),
            (Request::Stat, Fault::LostReply),
            (Request::Look, Fault::LostReply),
            (Request::Look, Fault::StaleStat),
        ];
        let of = |name: &&str| {
            let name = (*name).to_owned();
            faults.map(|(request, fault)| Self::new().and(request, &name, 0, fault))
        };
        names.iter().flat_map(of).collect()
    }

    /// What befalls the `nth` request.
    pub(crate) fn fault(&self, request: Request, name: &str, nth: u32) -> Option<Fault> {
        let planned = |(of, to, at, _): &&(Request, String, u32, Fault)| {
            (*of, to.as_str(), *at) == (request, name, nth)
        };
        self.faults.iter().find(planned).map(|(.., fault)| *fault)
    }
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.faults.is_empty() {
            return f.write_str("no fault");
        }
        for (index, (request, name, nth, fault)) in self.faults.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{request} {nth} of {name}: {fault}")?;
        }
        Ok(())
    }
}
