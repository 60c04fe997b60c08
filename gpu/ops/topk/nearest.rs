//! The nearest so far: a bounded selection of scores, in the words of a scratch memory.
//!
//! A candidate is one word, `{rank of its score: high 32, index: low 32}`, so that comparing words
//! compares candidates, ties of scores included.
//!
//! Invariants
//! - What is kept does not depend on the order in which candidates were offered.
//! - Memory that holds zeros is a selection of nothing.

use crate::slot::{high, join, low};

/// One candidate, the lesser the nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    /// None if the score is NaN. `greatest` says that the greatest score is the nearest.
    #[inline(always)]
    pub(super) fn of(score: f32, index: u32, greatest: bool) -> Option<Self> {
        if score.is_nan() {
            return None;
        }
        // Minus zero becomes zero, so that equal scores have equal bits.
        let bits = (score + 0.0).to_bits();
        let rising = if bits >> 31 == 0 {
            bits | 1 << 31
        } else {
            !bits
        };
        let rank = if greatest { !rising } else { rising };
        Some(Self(join(index, rank)))
    }

    pub(super) const fn index(self) -> u32 {
        low(self.0)
    }

    pub(super) const fn score(self, greatest: bool) -> f32 {
        let rank = high(self.0);
        let rising = if greatest { !rank } else { rank };
        let bits = if rising >> 31 == 0 {
            !rising
        } else {
            rising & !(1 << 31)
        };
        f32::from_bits(bits)
    }
}

/// The `k` nearest of what was offered.
pub(super) struct Nearest<'a> {
    k: usize,
    /// How many candidates are held.
    held: &'a mut u64,
    /// The complement of what a candidate must be less than, so that zero refuses nobody.
    bound: &'a mut u64,
    /// Twice `k` places: what is held, then what is free.
    places: &'a mut [u64],
}

impl<'a> Nearest<'a> {
    /// Words of a selection.
    pub(super) const fn words(k: usize) -> usize {
        2 + 2 * k
    }

    /// The selection in this memory; none if that is too short.
    pub(super) fn resume(k: usize, words: &'a mut [u64]) -> Option<Self> {
        let (head, places) = words.split_first_chunk_mut::<2>()?;
        let [held, bound] = head;
        let places = places.get_mut(..2 * k)?;
        Some(Self {
            k,
            held,
            bound,
            places,
        })
    }

    /// An empty selection in this memory, whatever it held.
    pub(super) fn begin(k: usize, words: &'a mut [u64]) -> Option<Self> {
        let nearest = Self::resume(k, words)?;
        *nearest.held = 0;
        *nearest.bound = 0;
        Some(nearest)
    }

    #[inline(always)]
    pub(super) fn offer(&mut self, candidate: Candidate) {
        if candidate.0 < !*self.bound {
            self.keep(candidate);
        }
    }

    #[inline(never)]
    fn keep(&mut self, candidate: Candidate) {
        let held = usize::try_from(*self.held).unwrap_or(usize::MAX);
        if let Some(place) = self.places.get_mut(held) {
            *place = candidate.0;
            *self.held += 1;
        }
        if held + 1 == self.places.len() {
            let (_, greatest, _) = self.places.select_nth_unstable(self.k - 1);
            *self.bound = !*greatest;
            *self.held = self.k as u64;
        }
    }

    /// What is held of a selection in this memory, in no order.
    pub(super) fn held(words: &[u64]) -> impl Iterator<Item = Candidate> {
        let held = words.first().and_then(|held| usize::try_from(*held).ok());
        let places = words.iter().skip(2).take(held.unwrap_or(0));
        places.map(|place| Candidate(*place))
    }

    /// The nearest, in order.
    pub(super) fn sorted(&mut self) -> impl Iterator<Item = Candidate> {
        let held = usize::try_from(*self.held).unwrap_or(usize::MAX);
        let places = self.places.get_mut(..held).unwrap_or_default();
        places.sort_unstable();
        places.iter().take(self.k).map(|place| Candidate(*place))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn offered(scores: &[(f32, u32)], k: usize, greatest: bool) -> Vec<(u32, f32)> {
        let mut words = vec![0; Nearest::words(k)];
        let mut nearest = Nearest::resume(k, &mut words).unwrap();
        for (score, index) in scores {
            if let Some(candidate) = Candidate::of(*score, *index, greatest) {
                nearest.offer(candidate);
            }
        }
        let sorted = nearest.sorted();
        sorted.map(|c| (c.index(), c.score(greatest))).collect()
    }

    proptest! {
        #[test]
        fn the_selection_is_that_of_a_sort_whatever_the_order(
            bits in vec(any::<u32>(), 0..300), k in 1..20_usize, greatest: bool, few: bool,
        ) {
            let score = |bits: u32| match bits % 7 {
                0 => f32::NAN,
                1 => -0.0,
                2 => 0.0,
                3 => f32::INFINITY,
                _ if few => f32::from(u16::try_from(bits % 5).unwrap()),
                _ => f32::from_bits(bits),
            };
            let mut scores: Vec<(f32, u32)> =
                bits.iter().zip(0..).map(|(bits, index)| (score(*bits), index)).collect();
            let forward = offered(&scores, k, greatest);
            scores.reverse();
            prop_assert_eq!(&offered(&scores, k, greatest), &forward);
            scores.retain(|(score, _)| !score.is_nan());
            scores.sort_by(|(one, i), (other, j)| {
                let order = one.partial_cmp(other).unwrap();
                let order = if greatest { order.reverse() } else { order };
                order.then(i.cmp(j))
            });
            let expected: Vec<_> = scores.iter().take(k).map(|(s, i)| (*i, *s + 0.0)).collect();
            let bits = |answer: &[(u32, f32)]| -> Vec<(u32, u32)> {
                answer.iter().map(|(index, score)| (*index, score.to_bits())).collect()
            };
            prop_assert_eq!(bits(&forward), bits(&expected));
        }
    }

    #[test]
    fn memory_that_is_too_short_is_no_selection() {
        assert!(Nearest::resume(3, &mut [0; 7]).is_none());
        assert!(Nearest::begin(3, &mut []).is_none());
    }
}
