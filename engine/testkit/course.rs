//! Courses: what a saga is made to go through, apart from crashes.

use std::fmt;

/// Which way a saga is made to go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// As it goes.
    Forward,
    /// The step at this path fails for good, without effect, whenever it is to run.
    Fails(String),
    /// The saga is cancelled when the step at this path is about to run.
    Cancelled(String),
}

/// How attempts are delivered, and what the engine may keep in memory between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Manner {
    /// Once.
    Plain,
    /// Every step, every question and every undo runs twice, one run after the other: the answer
    /// of the first is lost.
    Twice,
    /// The saga's function is dropped whenever it waits, and played again from its beginning.
    Passivated,
    /// The engine is closed after every step and every undo, and opened again.
    Reopened,
}

/// A way and a manner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Course {
    /// Which way.
    pub way: Way,
    /// In which manner.
    pub manner: Manner,
}

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Forward => f.write_str("forward()"),
            Way::Fails(path) => write!(f, "fails({path})"),
            Way::Cancelled(path) => write!(f, "cancelled({path})"),
        }?;
        match self.manner {
            Manner::Plain => Ok(()),
            Manner::Twice => f.write_str(" twice"),
            Manner::Passivated => f.write_str(" passivated"),
            Manner::Reopened => f.write_str(" reopened"),
        }
    }
}

impl Course {
    /// Reads what `Display` writes; `None` if it is not that.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (head, manner) = text.rsplit_once(')')?;
        let (way, path) = head.split_once('(')?;
        let way = match (way, path) {
            ("forward", "") => Way::Forward,
            ("fails", path) => Way::Fails(path.to_owned()),
            ("cancelled", path) => Way::Cancelled(path.to_owned()),
            _ => return None,
        };
        let manner = match manner {
            "" => Manner::Plain,
            " twice" => Manner::Twice,
            " passivated" => Manner::Passivated,
            " reopened" => Manner::Reopened,
            _ => return None,
        };
        Some(Self { way, manner })
    }
}
