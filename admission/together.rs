//! Together: a largest set of members that may run at the same time.
//!
//! The set is exact, by branch and bound over sets of up to 64 members, and nothing is allocated
//! after [`Together::new`]. A largest set alone would starve whoever conflicts with many, so
//! members that were passed over take turns at being part of it.

use crate::conflicts::ConflictMatrix;
use crate::exclusion::bits;

/// Chooses, round after round, who may run together.
///
/// A member that was ready and not chosen in as many rounds in a row as there are members is due:
/// the next set is a largest one of those that contain the member that waits longest. So a member
/// that stays ready is chosen at least once in twice as many rounds as there are members.
///
/// The time a choice takes grows exponentially with the number of members that conflict with three
/// others or more; so choose with no lock held.
#[derive(Clone, Debug)]
pub struct Together {
    matrix: ConflictMatrix,
    /// Rounds in a row in which each member was ready and passed over.
    passed: Box<[u32]>,
}

/// Why nobody was chosen. No member counts as passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TogetherError {
    /// It was not said for each member of the matrix whether it is ready. Say it for each.
    #[error("readiness of {given} members for a conflict matrix of {members}")]
    WrongSize {
        /// How many were given.
        given: usize,
        /// How many members the matrix has.
        members: usize,
    },
}

impl Together {
    /// Members are the groups of `matrix`, in its order; none has been passed over.
    pub fn new(matrix: ConflictMatrix) -> Self {
        Self {
            passed: (0..matrix.len()).map(|_| 0).collect(),
            matrix,
        }
    }

    /// Overwrites `into` with the members that are to run now, of those that are `ready`, in
    /// ascending order. Keeps the capacity of `into`.
    ///
    /// # Errors
    /// [`TogetherError`]: `into` is empty and nothing else has changed.
    pub fn choose(&mut self, ready: &[bool], into: &mut Vec<usize>) -> Result<(), TogetherError> {
        into.clear();
        let members = self.matrix.len();
        if ready.len() != members {
            let given = ready.len();
            return Err(TogetherError::WrongSize { given, members });
        }
        let ready = ready.iter().enumerate().filter(|(_, ready)| **ready);
        let ready = ready.fold(0, |mask, (member, _)| mask | 1_u64 << member);
        let chosen = match self.due(ready) {
            Some(due) => {
                let rest = ready & !self.conflicts_of(due) & !(1 << due);
                1 << due | self.largest(rest)
            }
            None => self.largest(ready),
        };
        for (member, passed) in self.passed.iter_mut().enumerate() {
            let waits = (ready & !chosen) >> member & 1 == 1;
            *passed = if waits { passed.saturating_add(1) } else { 0 };
        }
        into.extend(bits(chosen));
        Ok(())
    }

    /// The member that was passed over most often, if that was too often.
    fn due(&self, ready: u64) -> Option<usize> {
        let rounds_max = u32::try_from(self.matrix.len()).unwrap_or(u32::MAX);
        let passed = |member: usize| self.passed.get(member).copied().unwrap_or(0);
        let longest = bits(ready).max_by_key(|&member| passed(member))?;
        (passed(longest) >= rounds_max).then_some(longest)
    }

    /// With whom a member cannot run; itself does not count.
    fn conflicts_of(&self, member: usize) -> u64 {
        self.matrix.row(member) & !(1 << member)
    }

    fn largest(&self, free: u64) -> u64 {
        let mut best = 0;
        self.search(free, 0, &mut best);
        best
    }

    /// Extends `chosen` by members of `free`, which conflict with none of it, in every way that
    /// may lead to more than `best`.
    fn search(&self, mut free: u64, mut chosen: u64, best: &mut u64) {
        loop {
            if chosen.count_ones() + free.count_ones() <= best.count_ones() {
                return;
            }
            let degree = |&member: &usize| (self.conflicts_of(member) & free).count_ones();
            let Some(least) = bits(free).min_by_key(degree) else {
                *best = chosen;
                return;
            };
            if degree(&least) <= 1 {
                // Some largest set contains it.
                chosen |= 1 << least;
                free &= !(self.conflicts_of(least) | 1 << least);
                continue;
            }
            let Some(most) = bits(free).max_by_key(degree) else {
                return;
            };
            let without = self.conflicts_of(most) | 1 << most;
            self.search(free & !without, chosen | 1 << most, best);
            free &= !(1 << most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrix(members: usize, conflicts: &[(usize, usize)]) -> ConflictMatrix {
        let mut rows = vec![vec![false; members]; members];
        for &(one, other) in conflicts {
            rows[one][other] = true;
            rows[other][one] = true;
        }
        let names: Vec<String> = (0..members).map(|at| at.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        ConflictMatrix::new(&names, &rows).unwrap()
    }

    fn fits(matrix: &ConflictMatrix, set: &[usize]) -> bool {
        set.iter().all(|&one| {
            let row = matrix.row(one);
            set.iter()
                .all(|&other| one == other || row >> other & 1 == 0)
        })
    }

    #[test]
    fn the_choice_starves_nobody_for_ever() {
        // The middle of a star is in no largest set.
        let spokes: Vec<_> = (1..8).map(|spoke| (0, spoke)).collect();
        let mut together = Together::new(matrix(8, &spokes));
        let mut into = Vec::new();
        let mut last = [0_u32; 8];
        for round in 1..1_000 {
            together.choose(&[true; 8], &mut into).unwrap();
            for &member in &into {
                last[member] = round;
            }
            assert!(last.iter().all(|last| round - last < 16), "{last:?}");
        }
    }

    #[test]
    fn a_choice_for_another_number_of_members_is_refused_and_nobody_is_chosen() {
        let mut together = Together::new(matrix(3, &[(0, 1)]));
        let mut into = vec![7];
        for given in [0, 2, 4] {
            let ready = vec![true; given];
            let error = TogetherError::WrongSize { given, members: 3 };
            assert_eq!(together.choose(&ready, &mut into), Err(error));
            assert!(into.is_empty());
        }
    }

    #[test]
    fn a_choice_allocates_nothing_once_there_is_room() {
        let mut together = Together::new(matrix(4, &[(0, 1)]));
        let mut into = Vec::with_capacity(4);
        let place = into.as_ptr();
        for _ in 0..100 {
            together.choose(&[true; 4], &mut into).unwrap();
            assert_eq!(into.len(), 3);
        }
        assert_eq!((into.as_ptr(), into.capacity()), (place, 4));
    }

    #[test]
    fn sixty_four_members_of_three_conflicts_each_are_no_trouble() {
        let mut conflicts = Vec::new();
        for member in 0..64 {
            conflicts.push((member, (member + 1) % 64));
            conflicts.push((member, (member + 11) % 64));
        }
        let matrix = matrix(64, &conflicts);
        let mut into = Vec::new();
        let mut together = Together::new(matrix.clone());
        together.choose(&[true; 64], &mut into).unwrap();
        // Even and odd: half of them, and more is impossible in a ring.
        assert_eq!(into.len(), 32);
        assert!(fits(&matrix, &into));
    }

    proptest! {
        #[test]
        fn the_set_is_as_large_as_any_and_nobody_waits_for_more_than_two_rounds_each(
            conflicts in proptest::collection::vec((0..9_usize, 0..9_usize), 0..30),
            unready in proptest::collection::vec(any::<bool>(), 9),
        ) {
            let matrix = matrix(9, &conflicts);
            let ready: Vec<bool> = unready.iter().map(|unready| !unready).collect();
            let sets = (0..1_u64 << 9).map(|mask| bits(mask).collect::<Vec<_>>());
            let largest = sets
                .filter(|set| set.iter().all(|&member| ready[member]) && fits(&matrix, set))
                .map(|set| set.len())
                .max()
                .unwrap();
            let mut together = Together::new(matrix.clone());
            let mut into = Vec::new();
            together.choose(&ready, &mut into).unwrap();
            prop_assert_eq!(into.len(), largest);
            let mut last = [0_u32; 9];
            for round in 1..100 {
                together.choose(&ready, &mut into).unwrap();
                prop_assert!(fits(&matrix, &into));
                for &member in &into {
                    prop_assert!(ready[member]);
                    last[member] = round;
                }
                for member in 0..9 {
                    prop_assert!(!ready[member] || round - last[member] <= 18);
                }
            }
        }
    }
}
