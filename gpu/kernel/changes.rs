//! Changes: what a script does between its rounds to what is mapped and who is known.

use super::script::{ALICE, BOB, CAROL, OWN_OP, SHARED_OP, Script};
use crate::control::{Order, Reply};
use crate::entry::Window;
use crate::ops::{Blake3, Crc32c, Noop};
use orlop_saga::id::TenantId;

impl Script {
    /// What is mapped and who is known changes between rounds.
    pub(super) fn change(&mut self, round: u32) {
        let unmap = |slot, generation| Order::Unmap { slot, generation };
        match round {
            0 => {
                self.order(unmap(0, 2), Reply::Stale);
                self.order(unmap(7, 2), Reply::Unknown);
                self.busy(0);
                self.order(unmap(0, 3), Reply::Done);
                let gone = Window {
                    slot: 0,
                    generation: 3,
                    offset: 0,
                    length: 10,
                };
                self.entry(ALICE, Crc32c::OPCODE, &[], &[gone]);
                self.order(Self::map(0, 4, 530_000, 60_000, BOB), Reply::Done);
                self.entry(BOB, Crc32c::OPCODE, &[], &[gone]);
            }
            1 => {
                // The third waits for pages, and what has no tile at all waits behind it.
                for tiles in [1500, 1500, 1500, 0, 1] {
                    self.entry(ALICE, SHARED_OP, &[tiles, 3, 0, 0], &[]);
                }
                self.order(Order::ClearTenant(CAROL), Reply::Done);
                self.entry(CAROL, Noop::OPCODE, &[], &[]);
            }
            2 => {
                self.order(Order::SetTenant(CAROL), Reply::Done);
                self.order(Order::SetTenant(TenantId::new(1, 5)), Reply::Done);
                self.entry(BOB, Noop::OPCODE, &[], &[]);
                // Who has the slot now is not who the window was mapped for.
                let former = Window {
                    slot: 2,
                    generation: 9,
                    offset: 0,
                    length: 64,
                };
                self.entry(TenantId::new(1, 5), Blake3::OPCODE, &[], &[former]);
                self.order(Order::SetTenant(BOB), Reply::Done);
                // And who has the slot of an operation's owner is not the owner.
                let heir = TenantId::new(ALICE.slot(), ALICE.generation() + 1);
                self.order(Order::SetTenant(heir), Reply::Done);
                self.entry(heir, OWN_OP, &[4, 9, 0, 0], &[]);
                self.order(Order::SetTenant(ALICE), Reply::Done);
            }
            _ => {
                self.busy(2);
                self.order(unmap(2, 9), Reply::Done);
            }
        }
    }

    /// Something is using the window when the next order comes.
    fn busy(&mut self, slot: u32) {
        let mapping = self.windows[slot as usize].unwrap();
        let window = Window {
            slot,
            generation: mapping.generation,
            offset: 0,
            length: mapping.length,
        };
        for opcode in [Blake3::OPCODE, Crc32c::OPCODE, Blake3::OPCODE] {
            self.entry(mapping.tenant, opcode, &[], &[window]);
        }
        // An older ticket of the same permit is another operation's.
        let older = (6 << 32) | self.tickets;
        self.order(Order::Cancel { ticket: older }, Reply::Unknown);
    }
}
