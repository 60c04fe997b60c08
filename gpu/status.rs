//! Statuses: how an operation ended.

/// How an operation ended. Exactly one per ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It ran to its end; the result is its output.
    Done,
    /// It ran and reported a failure of its own.
    Failed {
        /// The operation's code.
        code: u32,
    },
    /// It was cancelled: it never started, or stopped at a tile boundary.
    Cancelled,
    /// Its deadline passed before it finished; as with a cancel, a tile that ran was not undone.
    Expired,
    /// The device refused it; nothing ran.
    Refused(RefusedWhy),
    /// It panicked, or broke its own contract; the result is a text that says how.
    Faulted,
    /// The device was lost before it answered: it may have run, and its result is gone. Publish it
    /// again on the next epoch. Never on the ring: the host says so.
    Lost {
        /// A worker was at it when the device was lost, so it may be what lost it.
        running: bool,
    },
}

/// Why the device refused an operation. Nothing ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum RefusedWhy {
    /// The entry's words are no entry.
    Malformed = 1,
    /// The opcode is unknown, or not visible to this tenant (which learns no more than that).
    UnknownOpcode = 2,
    /// The tenant is not registered on the device in this generation.
    StaleTenant = 3,
    /// A window names a buffer that is not mapped in this generation.
    StaleWindow = 4,
    /// A window reaches beyond its buffer.
    WindowBounds = 5,
    /// A window names another tenant's buffer.
    ForeignWindow = 6,
    /// The operation needs more tiles than the publisher or the device allows.
    TooManyTiles = 7,
}

impl RefusedWhy {
    const ALL: [Self; 7] = [
        Self::Malformed,
        Self::UnknownOpcode,
        Self::StaleTenant,
        Self::StaleWindow,
        Self::WindowBounds,
        Self::ForeignWindow,
        Self::TooManyTiles,
    ];
}

impl Status {
    /// The status word and the code that stands in the first inline word.
    pub(crate) const fn to_words(self) -> (u32, u32) {
        match self {
            Self::Done => (1, 0),
            Self::Failed { code } => (2, code),
            Self::Cancelled => (3, 0),
            Self::Expired => (4, 0),
            Self::Refused(why) => (5, why as u32),
            Self::Faulted => (6, 0),
            Self::Lost { running } => (7, running as u32),
        }
    }

    /// The inverse of [`Status::to_words`].
    pub(crate) fn of_words(kind: u32, code: u32) -> Option<Self> {
        match kind {
            1 => Some(Self::Done),
            2 => Some(Self::Failed { code }),
            3 => Some(Self::Cancelled),
            4 => Some(Self::Expired),
            5 => RefusedWhy::ALL
                .into_iter()
                .find(|why| *why as u32 == code)
                .map(Self::Refused),
            6 => Some(Self::Faulted),
            _ => None,
        }
    }

    /// Whether the inline words and the result area hold result bytes.
    pub(crate) const fn has_result(self) -> bool {
        match self {
            Self::Done | Self::Faulted => true,
            Self::Failed { .. }
            | Self::Cancelled
            | Self::Expired
            | Self::Refused(_)
            | Self::Lost { .. } => false,
        }
    }
}
