//! Points: where a sweep crashes a saga, as text that can be given back to it.

use std::fmt;
use std::str::FromStr;

use super::course::Course;

/// One crash of one life of the process. What is counted is counted from 0 within that life: in
/// the first one from the saga's start, in later ones from their opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Crash {
    /// While a group of the journal is written, which nobody is told of. It is lost, or it is
    /// found again after the crash.
    Write {
        /// Which group.
        nth: u64,
        /// Whether it is found again.
        kept: bool,
    },
    /// When a step, a question or an undo is about to run.
    Before {
        /// Which of them.
        call: u64,
    },
    /// When it has run, before anything of it is in the journal.
    After {
        /// Which of them.
        call: u64,
    },
    /// When the saga's outcome was told.
    Told,
}

/// A course and the crashes on it, one for each life of the process but the last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SweepPoint {
    /// What the saga is made to go through.
    pub course: Course,
    /// Where it is crashed.
    pub crashes: Vec<Crash>,
}

/// A text is no point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no point of a sweep")]
#[non_exhaustive]
pub struct PointError {
    /// The text.
    pub text: String,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { nth, kept: false } => write!(f, "write {nth} lost"),
            Self::Write { nth, kept: true } => write!(f, "write {nth} kept"),
            Self::Before { call } => write!(f, "before call {call}"),
            Self::After { call } => write!(f, "after call {call}"),
            Self::Told => f.write_str("told"),
        }
    }
}

impl fmt::Display for SweepPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.course)?;
        for (index, crash) in self.crashes.iter().enumerate() {
            let before = if index == 0 { ": " } else { ", " };
            write!(f, "{before}{crash}")?;
        }
        Ok(())
    }
}

impl Crash {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["write", nth, kept] => Some(Self::Write {
                nth: nth.parse().ok()?,
                kept: match *kept {
                    "kept" => true,
                    "lost" => false,
                    _ => return None,
                },
            }),
            ["before", "call", call] => Some(Self::Before {
                call: call.parse().ok()?,
            }),
            ["after", "call", call] => Some(Self::After {
                call: call.parse().ok()?,
            }),
            ["told"] => Some(Self::Told),
            _ => None,
        }
    }
}

impl FromStr for SweepPoint {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        let error = || PointError {
            text: text.to_owned(),
        };
        // A path may have a colon in it, what follows the path has no bracket.
        let bracket = text.rfind(')').ok_or_else(error)?;
        let (course, crashes) = match text.get(bracket..).and_then(|rest| rest.find(": ")) {
            Some(colon) => {
                let (course, crashes) = text.split_at(bracket + colon);
                (course, crashes.get(2..).unwrap_or_default())
            }
            None => (text, ""),
        };
        let crashes = crashes.split(", ").filter(|crash| !crash.is_empty());
        Ok(Self {
            course: Course::parse(course).ok_or_else(error)?,
            crashes: crashes
                .map(Crash::parse)
                .collect::<Option<_>>()
                .ok_or_else(error)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::course::{Manner, Way};
    use super::*;

    #[test]
    fn a_point_is_read_back_as_it_is_shown() {
        let ways = [
            Way::Forward,
            Way::Fails("part#1/up (again): load".to_owned()),
            Way::Cancelled("verify".to_owned()),
        ];
        let all = vec![
            Crash::Write {
                nth: 3,
                kept: false,
            },
            Crash::Write { nth: 0, kept: true },
            Crash::Before { call: 1 },
            Crash::After { call: 12 },
            Crash::Told,
        ];
        for way in ways {
            for manner in [
                Manner::Plain,
                Manner::Twice,
                Manner::Passivated,
                Manner::Reopened,
            ] {
                for crashes in [Vec::new(), all.clone()] {
                    let way = way.clone();
                    let course = Course { way, manner };
                    let point = SweepPoint { course, crashes };
                    assert_eq!(point.to_string().parse(), Ok(point));
                }
            }
        }
        for text in ["", "forward", "fails(x): write 1", "sideways(): told"] {
            assert!(text.parse::<SweepPoint>().is_err(), "{text}");
        }
    }
}
