//! Windows against a row of cells, each of which knows whose it is.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const CAPACITY: u32 = 24;

/// What an opcode is, cell by cell: the simplest thing that can be right.
struct Cells {
    /// Of which giving each opcode is.
    row: Vec<Option<u32>>,
    givings: u32,
    windows: HashMap<TenantId, (u32, OpcodeWindow)>,
    /// Givings whose life has left, perhaps with something in flight.
    left: Vec<u32>,
    pins: HashMap<u32, u32>,
}

impl Cells {
    fn new() -> Self {
        Self {
            row: vec![None; CAPACITY as usize],
            givings: 0,
            windows: HashMap::new(),
            left: Vec::new(),
            pins: HashMap::new(),
        }
    }

    fn longest(&self) -> u32 {
        let runs = self.row.split(Option::is_some).map(<[_]>::len);
        u32::try_from(runs.max().unwrap_or(0)).unwrap()
    }

    fn take(&mut self, tenant: TenantId, window: OpcodeWindow) {
        let first = (window.first().get() - WINDOWS_FIRST) as usize;
        self.givings += 1;
        for cell in &mut self.row[first..first + window.count() as usize] {
            assert_eq!(*cell, None, "an opcode is given twice");
            *cell = Some(self.givings);
        }
        self.windows.insert(tenant, (self.givings, window));
    }

    fn leave(&mut self, tenant: TenantId) {
        let giving = self.windows.remove(&tenant).map(|(giving, _)| giving);
        self.left.extend(giving);
    }

    fn reclaim(&mut self) {
        let pins = &self.pins;
        let quiet = |giving: &u32| pins.get(giving).copied().unwrap_or(0) == 0;
        for cell in &mut self.row {
            if cell.is_some_and(|giving| self.left.contains(&giving) && quiet(&giving)) {
                *cell = None;
            }
        }
        self.left.retain(|giving| !quiet(giving));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Give { tenant: TenantId, count: u32 },
    Pin { tenant: TenantId, local: u32 },
    Unpin { which: usize },
    Leave { tenant: TenantId },
    Succeed { tenant: TenantId },
    Reclaim,
}

fn act() -> impl Strategy<Value = Act> {
    let tenant = || (0..4_u32, 1..4_u32).prop_map(|(slot, life)| TenantId::new(slot, life));
    prop_oneof![
        3 => (tenant(), 0..12_u32).prop_map(|(tenant, count)| Act::Give { tenant, count }),
        3 => (tenant(), prop_oneof![0..14_u32, Just(u32::MAX)])
            .prop_map(|(tenant, local)| Act::Pin { tenant, local }),
        2 => (0..8_usize).prop_map(|which| Act::Unpin { which }),
        2 => tenant().prop_map(|tenant| Act::Leave { tenant }),
        1 => tenant().prop_map(|tenant| Act::Succeed { tenant }),
        2 => Just(Act::Reclaim),
    ]
}

fn give(opcodes: &mut Opcodes, cells: &mut Cells, tenant: TenantId, count: u32) {
    let asked = count;
    let expected = match cells.windows.get(&tenant) {
        _ if count == 0 => Some(InstallError::Empty),
        Some((_, window)) => Some(InstallError::Given {
            tenant,
            count: window.count(),
        }),
        None => {
            let longest = cells.longest();
            (longest < count).then_some(InstallError::Full { asked, longest })
        }
    };
    match opcodes.give(tenant, count) {
        Ok(window) => {
            assert_eq!((expected, window.count()), (None, count));
            cells.take(tenant, window);
        }
        Err(error) => assert_eq!(Some(error), expected),
    }
}

fn pin(
    opcodes: &Opcodes,
    cells: &mut Cells,
    tenant: TenantId,
    asked: u32,
) -> Option<(u32, PinnedOpcode)> {
    let found = opcodes.translate(tenant, LocalOpcode::new(asked));
    let expected = match cells.windows.get(&tenant) {
        None => Err(TranslateError::NoWindow { tenant }),
        Some((_, window)) if asked >= window.count() => Err(TranslateError::OutOfRange {
            asked,
            count: window.count(),
        }),
        Some((_, window)) => Ok(window.first().get() + asked),
    };
    let told = found.as_ref().map(|pinned| pinned.get().get());
    assert_eq!(told.map_err(|error| *error), expected);
    let pinned = found.ok()?;
    let cell = (pinned.get().get() - WINDOWS_FIRST) as usize;
    let giving = cells.windows[&tenant].0;
    assert_eq!(cells.row[cell], Some(giving));
    *cells.pins.entry(giving).or_default() += 1;
    Some((giving, pinned))
}

proptest! {
    #[test]
    fn windows_agree_with_a_row_of_cells(acts in vec(act(), 0..80)) {
        let (mut opcodes, mut cells) = (Opcodes::new(CAPACITY), Cells::new());
        let mut pinned = Vec::new();
        for act in acts {
            match act {
                Act::Give { tenant, count } => give(&mut opcodes, &mut cells, tenant, count),
                Act::Pin { tenant, local } => {
                    pinned.extend(pin(&opcodes, &mut cells, tenant, local));
                }
                Act::Unpin { which } if which < pinned.len() => {
                    let (giving, pin) = pinned.swap_remove(which);
                    drop(pin);
                    *cells.pins.get_mut(&giving).unwrap() -= 1;
                }
                Act::Unpin { .. } => {}
                Act::Leave { tenant } => {
                    opcodes.leave(tenant);
                    cells.leave(tenant);
                }
                Act::Succeed { tenant } => {
                    opcodes.succeed(tenant);
                    let others: Vec<_> = cells.windows.keys().copied().collect();
                    let of_slot = |other: &TenantId| other.slot() == tenant.slot();
                    let others = others.into_iter().filter(of_slot);
                    others.filter(|other| *other != tenant).for_each(|other| cells.leave(other));
                }
                Act::Reclaim => {
                    let taken = cells.row.iter().flatten().count();
                    cells.reclaim();
                    let freed = taken - cells.row.iter().flatten().count();
                    let told = opcodes.reclaim();
                    let told: u32 = told.iter().map(|window| window.count()).sum();
                    prop_assert_eq!(told as usize, freed);
                }
            }
        }
    }
}

#[test]
fn a_window_lies_in_the_user_range_and_ends_where_it_says() {
    let mut opcodes = Opcodes::default();
    let tenant = TenantId::new(0, 1);
    let window = opcodes.give(tenant, 2).unwrap();
    assert!(window.first().is_user());
    assert!(Opcodes::reserves(window.first()));
    let second = window.global(LocalOpcode::new(1)).unwrap();
    assert!(window.contains(second));
    assert!(!window.contains(Opcode::new(second.get() + 1)));
    let (asked, count) = (2, 2);
    let error = TranslateError::OutOfRange { asked, count };
    assert_eq!(window.global(LocalOpcode::new(2)), Err(error));
}
