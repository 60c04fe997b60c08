//! Failures that operations report.

/// A failure that an operation reports. Its effect, if any, is the operation's own matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpError {
    /// The code; those from `0xffff_0000` on are ours.
    pub code: u32,
}

impl OpError {
    /// Fewer arguments than the operation reads.
    pub const MISSING_ARGUMENT: Self = Self { code: 0xffff_0001 };
    /// Fewer windows than the operation reads.
    pub const MISSING_WINDOW: Self = Self { code: 0xffff_0002 };
    /// A partial result of more than 64 bytes.
    pub const PARTIAL_TOO_LONG: Self = Self { code: 0xffff_0003 };
    /// A result larger than the permit's result area.
    pub const RESULT_TOO_LONG: Self = Self { code: 0xffff_0004 };
    /// A partial result that the operation's own reduction does not understand.
    pub const BAD_PARTIAL: Self = Self { code: 0xffff_0005 };
    /// The input is larger than the operation can cut into tiles.
    pub const INPUT_TOO_LONG: Self = Self { code: 0xffff_0006 };
    /// An argument outside its range, or more or fewer arguments or windows than the others call
    /// for.
    pub const BAD_ARGUMENT: Self = Self { code: 0xffff_0007 };
    /// A window's length is not what the arguments call for.
    pub const BAD_LENGTH: Self = Self { code: 0xffff_0008 };
    /// A window does not begin at a multiple of the size of what it holds.
    pub const MISALIGNED: Self = Self { code: 0xffff_0009 };
    /// An exact integer result exceeds its 128 bits.
    pub const OVERFLOW: Self = Self { code: 0xffff_000a };
    /// The content of a window is none that the operation takes: bounds that fall or lie outside.
    pub const BAD_CONTENT: Self = Self { code: 0xffff_000b };
    /// Scratch memory beyond what a task may have.
    pub const SCRATCH_TOO_LONG: Self = Self { code: 0xffff_000c };

    /// A failure with this code.
    pub const fn new(code: u32) -> Self {
        Self { code }
    }

    /// What one of our codes means; none for an operation's own.
    pub const fn meaning(self) -> Option<&'static str> {
        Some(match self {
            Self::MISSING_ARGUMENT => "an argument is missing",
            Self::MISSING_WINDOW => "a window is missing",
            Self::PARTIAL_TOO_LONG => "a partial result is too long",
            Self::RESULT_TOO_LONG => "the result exceeds the result area",
            Self::BAD_PARTIAL => "a partial result is malformed",
            Self::INPUT_TOO_LONG => "the input exceeds what can be cut into tiles",
            Self::BAD_ARGUMENT => "an argument is outside its range",
            Self::BAD_LENGTH => "a window's length does not fit the arguments",
            Self::MISALIGNED => "a window is misaligned",
            Self::OVERFLOW => "an integer result exceeds 128 bits",
            Self::BAD_CONTENT => "the content of a window is malformed",
            Self::SCRATCH_TOO_LONG => "the scratch memory of a task is at its bound",
            Self { .. } => return None,
        })
    }
}

impl std::fmt::Display for OpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the operation failed with code {:#x}", self.code)?;
        match self.meaning() {
            Some(meaning) => write!(f, ": {meaning}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OpError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_our_codes_says_what_it_means_and_others_their_number_only() {
        let ours = (0xffff_0001..=0xffff_000c).map(OpError::new);
        let meanings: Vec<_> = ours.map(|error| error.meaning().unwrap()).collect();
        for (at, meaning) in meanings.iter().enumerate() {
            assert!(!meanings[..at].contains(meaning), "{meaning}");
        }
        assert_eq!(OpError::new(0xffff_000d).meaning(), None);
        assert_eq!(
            OpError::new(7).to_string(),
            "the operation failed with code 0x7"
        );
        assert_eq!(
            OpError::OVERFLOW.to_string(),
            "the operation failed with code 0xffff000a: an integer result exceeds 128 bits"
        );
    }
}
