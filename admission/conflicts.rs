//! Conflicts: which groups of computations must not run at the same time.
//!
//! Invariants
//! - A matrix is square, symmetric and of the size of its names, or there is none: nothing is
//!   read as "no conflicts" that was not said.

use std::fmt;

/// A group of a [`ConflictMatrix`], by its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExclusionId(u8);

impl ExclusionId {
    /// The group at `index` of a matrix; `None` beyond [`ConflictMatrix::GROUPS_MAX`].
    pub const fn new(index: usize) -> Option<Self> {
        if index < ConflictMatrix::GROUPS_MAX {
            // Below 64: nothing is cut off.
            Some(Self(index.to_le_bytes()[0]))
        } else {
            None
        }
    }

    /// Its place in the matrix.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn bit(self) -> u64 {
        1 << self.0
    }
}

impl fmt::Display for ExclusionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Named groups, and which of them exclude one another. The default has no groups.
///
/// Two requests whose groups conflict never hold permits of the bulkhead's ordinary lane at the
/// same time. A group may conflict with itself: then one of it runs at a time.
///
/// ```
/// use orlop_admission::{ConflictError, ConflictMatrix};
///
/// let matrix = ConflictMatrix::new(
///     &["compact", "backup"],
///     &[[true, true], [true, false]],
/// ).unwrap();
/// assert!(matrix.group("backup").is_some());
/// assert!(matches!(
///     ConflictMatrix::new(&["compact", "backup"], &[[true], [true]]),
///     Err(ConflictError::RowLength { row: 0, length: 1, groups: 2 }),
/// ));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflictMatrix {
    names: Box<[Box<str>]>,
    rows: Box<[u64]>,
}

impl ConflictMatrix {
    /// The most groups.
    pub const GROUPS_MAX: usize = 64;

    /// One row and one column for each name; `rows[i][j]` says that group `i` and group `j`
    /// exclude one another.
    ///
    /// # Errors
    /// [`ConflictError`]: nothing was made.
    pub fn new<R: AsRef<[bool]>>(names: &[&str], rows: &[R]) -> Result<Self, ConflictError> {
        let groups = names.len();
        if groups > Self::GROUPS_MAX {
            let groups_max = Self::GROUPS_MAX;
            return Err(ConflictError::TooMany { groups, groups_max });
        }
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(ConflictError::NameEmpty { group: index });
            }
            if names.iter().take(index).any(|other| other == name) {
                let name = (*name).to_owned();
                return Err(ConflictError::NameTwice { name });
            }
        }
        if rows.len() != groups {
            let rows = rows.len();
            return Err(ConflictError::RowCount { rows, groups });
        }
        for (row, cells) in rows.iter().enumerate() {
            let length = cells.as_ref().len();
            if length != groups {
                return Err(ConflictError::RowLength {
                    row,
                    length,
                    groups,
                });
            }
        }
        let cell = |row: usize, column: usize| {
            let cells = rows.get(row).map(AsRef::as_ref);
            cells.and_then(|cells| cells.get(column)).copied()
        };
        for row in 0..groups {
            for column in 0..row {
                if cell(row, column) != cell(column, row) {
                    return Err(ConflictError::Asymmetric { row, column });
                }
            }
        }
        let masks = rows.iter().map(|cells| {
            let cells = cells.as_ref().iter().enumerate();
            let set = cells.filter(|(_, excludes)| **excludes);
            set.fold(0, |mask, (column, _)| mask | 1 << column)
        });
        Ok(Self {
            names: names.iter().map(|name| Box::from(*name)).collect(),
            rows: masks.collect(),
        })
    }

    /// How many groups there are.
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no group.
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The group called `name`.
    pub fn group(&self, name: &str) -> Option<ExclusionId> {
        let at = self.names.iter().position(|known| **known == *name)?;
        ExclusionId::new(at)
    }

    /// Whether the two exclude one another; `None` if one of them is not of this matrix.
    pub fn excludes(&self, one: ExclusionId, other: ExclusionId) -> Option<bool> {
        self.has(other).then_some(())?;
        let row = self.rows.get(one.index())?;
        Some(row & other.bit() != 0)
    }

    pub(crate) const fn has(&self, group: ExclusionId) -> bool {
        group.index() < self.rows.len()
    }

    /// The groups with which the one at `index` conflicts.
    pub(crate) fn row(&self, index: usize) -> u64 {
        self.rows.get(index).copied().unwrap_or(0)
    }
}

/// Why there is no conflict matrix. Nothing was made, and nothing that exists was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConflictError {
    /// More groups than a matrix can have. Nothing was made; merge some.
    #[error("{groups} exclusion groups, at most {groups_max} are supported")]
    TooMany {
        /// How many were named.
        groups: usize,
        /// The most there can be.
        groups_max: usize,
    },
    /// A group has an empty name. Nothing was made; name it.
    #[error("exclusion group {group} has no name")]
    NameEmpty {
        /// Its place.
        group: usize,
    },
    /// Two groups have one name. Nothing was made; rename one.
    #[error("two exclusion groups are called {name}")]
    NameTwice {
        /// The name.
        name: String,
    },
    /// There is not one row for each group. Nothing was made; a matrix of another size says
    /// nothing about these groups.
    #[error("a conflict matrix of {rows} rows for {groups} groups")]
    RowCount {
        /// How many rows were given.
        rows: usize,
        /// How many groups were named.
        groups: usize,
    },
    /// A row has not one cell for each group. Nothing was made.
    #[error("row {row} of a conflict matrix has {length} cells for {groups} groups")]
    RowLength {
        /// The row.
        row: usize,
        /// How many cells it has.
        length: usize,
        /// How many groups were named.
        groups: usize,
    },
    /// One group excludes another one that does not exclude it. Nothing was made; say the same in
    /// both cells.
    #[error("row {row} and column {column} of a conflict matrix disagree with their mirror")]
    Asymmetric {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_of_the_wrong_size_is_refused_and_never_read_as_no_conflicts() {
        let names = ["a", "b"];
        let rows: [[bool; 2]; 0] = [];
        assert_eq!(
            ConflictMatrix::new(&names, &rows),
            Err(ConflictError::RowCount { rows: 0, groups: 2 })
        );
        assert_eq!(
            ConflictMatrix::new(&names, &[[false; 2]; 3]),
            Err(ConflictError::RowCount { rows: 3, groups: 2 })
        );
        assert_eq!(
            ConflictMatrix::new(&names, &[vec![false; 2], vec![false; 3]]),
            Err(ConflictError::RowLength {
                row: 1,
                length: 3,
                groups: 2
            })
        );
        let names = vec!["x"; 65];
        assert_eq!(
            ConflictMatrix::new(&names, &[[false; 65]; 65]),
            Err(ConflictError::TooMany {
                groups: 65,
                groups_max: 64
            })
        );
    }

    #[test]
    fn a_matrix_that_contradicts_itself_is_refused() {
        assert_eq!(
            ConflictMatrix::new(&["a", "b"], &[[false, true], [false, false]]),
            Err(ConflictError::Asymmetric { row: 1, column: 0 })
        );
        assert_eq!(
            ConflictMatrix::new(&["a", "a"], &[[false; 2]; 2]),
            Err(ConflictError::NameTwice {
                name: "a".to_owned()
            })
        );
    }

    #[test]
    fn groups_are_found_by_name_and_exclude_whom_they_were_told_to() {
        let rows = [
            [true, false, true],
            [false, false, false],
            [true, false, false],
        ];
        let matrix = ConflictMatrix::new(&["a", "b", "c"], &rows).unwrap();
        let ids: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|name| matrix.group(name).unwrap())
            .collect();
        for (row, cells) in rows.iter().enumerate() {
            for (column, expected) in cells.iter().enumerate() {
                assert_eq!(matrix.excludes(ids[row], ids[column]), Some(*expected));
            }
        }
        assert_eq!(matrix.group("d"), None);
        let beyond = ExclusionId::new(3).unwrap();
        assert_eq!(matrix.excludes(ids[0], beyond), None);
    }
}
