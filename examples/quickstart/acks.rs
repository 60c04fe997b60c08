//! Acknowledgements: what the engine told the child, line by line. A line is in the file before
//! anything else is made of the answer; a kill loses no line that was written.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use orlop::Origin;

/// One thing that the child was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The engine is open.
    Opened {
        /// From the start of the process, in microseconds.
        micros: u64,
        /// Sagas that go on.
        sagas: usize,
        /// Plain effects that go on.
        effects: usize,
        /// Records replayed.
        records: u64,
    },
    /// A computation has an outcome.
    Effect {
        /// Which computation.
        what: String,
        /// Of which segment of the plan.
        segment: usize,
        origin: Origin,
        output: String,
    },
    /// A saga has completed.
    Completed {
        segment: usize,
        origin: Origin,
        /// The object that has the segment now.
        object: String,
    },
    /// A saga was compensated.
    Compensated { segment: usize, reason: String },
    /// Everything is done and the engine is closed.
    Closed,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened {
                micros,
                sagas,
                effects,
                records,
            } => write!(f, "opened {micros} {sagas} {effects} {records}"),
            Self::Effect {
                what,
                segment,
                origin,
                output,
            } => write!(f, "effect {what} {segment} {} {output}", word(*origin)),
            Self::Completed {
                segment,
                origin,
                object,
            } => write!(f, "completed {segment} {} {object}", word(*origin)),
            Self::Compensated { segment, reason } => {
                write!(f, "compensated {segment} {}", reason.escape_debug())
            }
            Self::Closed => f.write_str("closed"),
        }
    }
}

fn word(origin: Origin) -> &'static str {
    match origin {
        Origin::Ran => "ran",
        Origin::Joined => "joined",
        Origin::Replayed => "replayed",
    }
}

fn origin(word: &str) -> Option<Origin> {
    let all = [Origin::Ran, Origin::Joined, Origin::Replayed];
    all.into_iter().find(|origin| self::word(*origin) == word)
}

impl Ack {
    fn read(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "opened" => {
                let mut fields = rest.split(' ');
                Some(Self::Opened {
                    micros: fields.next()?.parse().ok()?,
                    sagas: fields.next()?.parse().ok()?,
                    effects: fields.next()?.parse().ok()?,
                    records: fields.next()?.parse().ok()?,
                })
            }
            "effect" => {
                let mut fields = rest.splitn(4, ' ');
                Some(Self::Effect {
                    what: fields.next()?.to_owned(),
                    segment: fields.next()?.parse().ok()?,
                    origin: origin(fields.next()?)?,
                    output: fields.next()?.to_owned(),
                })
            }
            "completed" => {
                let mut fields = rest.splitn(3, ' ');
                Some(Self::Completed {
                    segment: fields.next()?.parse().ok()?,
                    origin: origin(fields.next()?)?,
                    object: fields.next()?.to_owned(),
                })
            }
            "compensated" => {
                let (segment, reason) = rest.split_once(' ')?;
                Some(Self::Compensated {
                    segment: segment.parse().ok()?,
                    reason: reason.to_owned(),
                })
            }
            "closed" => Some(Self::Closed),
            _ => None,
        }
    }

    /// Whether it is the end of a segment's saga.
    pub(crate) fn ends_a_saga(&self) -> bool {
        match self {
            Self::Completed { .. } | Self::Compensated { .. } => true,
            Self::Opened { .. } | Self::Effect { .. } | Self::Closed => false,
        }
    }
}

/// The file, as the child writes it.
pub(crate) struct AckFile(File);

impl AckFile {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        File::options()
            .create_new(true)
            .append(true)
            .open(path)
            .map(Self)
    }

    pub(crate) fn append(&self, ack: &Ack) -> io::Result<()> {
        (&self.0).write_all(format!("{ack}\n").as_bytes())
    }
}

/// Every acknowledgement that was written to its end.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Ack>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split_inclusive('\n');
    let whole = lines.filter_map(|line| line.strip_suffix('\n'));
    Ok(whole.filter_map(Ack::read).collect())
}
