//! Shares: what a tenant gets of a bulkhead when there is not enough for all.

use std::fmt;

use crate::turns::Weight;

/// Names a group of tenants that share what the group gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u32);

impl GroupId {
    /// Wraps a raw number.
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The raw number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a tenant gets of each bulkhead, beside the others that want something of it.
///
/// Groups share the bulkhead by their weights, the tenants of a group what it gets by theirs, and
/// what one does not use goes to the others. Whoever is given no share is of group 0 with weight
/// 1, as the group itself is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Its weight within its group.
    pub weight: Weight,
    /// Its group. A change takes effect in a bulkhead once the tenant has nothing in it.
    pub group: GroupId,
    /// The weight of that group, of which the one told last counts.
    pub group_weight: Weight,
}

impl Share {
    /// The share of whoever is given none.
    pub const ORDINARY: Self = Self {
        weight: Weight::ONE,
        group: GroupId::new(0),
        group_weight: Weight::ONE,
    };
}
