//! Step paths: what identifies a call within a saga.
//!
//! A path is names joined by `/`; a name inside a loop carries its index, as in `part#3/upload`.
//! Identity is the path and not the order of calls, so that parallel steps replay alike.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where in its saga a call is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepPath(Box<str>);

/// Why a text is no step name. The call was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The name is empty.
    #[error("a step name is empty")]
    Empty,
    /// The name has `/`, `#` or a control character, which separate names in a path.
    #[error("the step name {name:?} has a '/', a '#' or a control character")]
    Reserved {
        /// The name.
        name: String,
    },
    /// The whole path is longer than [`StepPath::BYTES_MAX`].
    #[error("a step path of {bytes} bytes is longer than {bytes_max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most that is accepted.
        bytes_max: usize,
    },
}

impl StepPath {
    /// The longest path, in bytes.
    pub const BYTES_MAX: usize = 255;

    /// The path of a call at the top of a saga.
    ///
    /// # Errors
    /// [`PathError`]: which rule the name breaks.
    pub fn root(name: &str) -> Result<Self, PathError> {
        Self::checked(String::new(), name)
    }

    /// The path of a call inside the scope `name#index` of this path's own scope.
    ///
    /// # Errors
    /// [`PathError`]: which rule the name breaks.
    pub fn within(scope: &str, name: &str) -> Result<Self, PathError> {
        Self::checked(scope.to_owned(), name)
    }

    /// The prefix of every path inside the scope `name#index` within `outer` (itself a prefix, or
    /// empty).
    ///
    /// # Errors
    /// [`PathError`]: which rule the name breaks.
    pub fn scope(outer: &str, name: &str, index: u64) -> Result<String, PathError> {
        let checked = Self::checked(outer.to_owned(), name)?;
        let prefix = format!("{checked}#{index}/");
        Self::fits(&prefix)?;
        Ok(prefix)
    }

    fn checked(mut path: String, name: &str) -> Result<Self, PathError> {
        if name.is_empty() {
            return Err(PathError::Empty);
        }
        if name.chars().any(|c| c == '/' || c == '#' || c.is_control()) {
            return Err(PathError::Reserved {
                name: name.to_owned(),
            });
        }
        path.push_str(name);
        Self::fits(&path)?;
        Ok(Self(path.into_boxed_str()))
    }

    fn fits(path: &str) -> Result<(), PathError> {
        if path.len() > Self::BYTES_MAX {
            return Err(PathError::TooLong {
                bytes: path.len(),
                bytes_max: Self::BYTES_MAX,
            });
        }
        Ok(())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_cannot_be_forged_by_a_name() {
        let scope = StepPath::scope("", "part", 3).unwrap();
        assert_eq!(
            StepPath::within(&scope, "upload").unwrap().as_str(),
            "part#3/upload"
        );
        assert_eq!(
            StepPath::root("part#3/upload"),
            Err(PathError::Reserved {
                name: "part#3/upload".to_owned()
            })
        );
    }

    #[test]
    fn an_overlong_path_is_refused_with_its_length() {
        let name = "x".repeat(256);
        assert_eq!(
            StepPath::root(&name),
            Err(PathError::TooLong {
                bytes: 256,
                bytes_max: 255
            })
        );
    }
}
