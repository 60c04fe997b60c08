//! Script: entries and orders as this side encodes them, and what each is to end with as this
//! side's own operations say.

use orlop_saga::id::TenantId;

use crate::control::{Order, Reply};
use crate::entry::{Entry, EntryWords, Opcode, Window};
use crate::layout::{SLOT_WORDS, control_word};
use crate::memory::Region;
use crate::ops::{
    Blake3, Blake3Many, Crc32c, Crc32cPages, FilterAggregate, HostOp, Noop, OpError, Output,
    Partial, TaskArgs, VectorTopk,
};
use crate::status::{RefusedWhy, Status};

pub(super) const ALICE: TenantId = TenantId::new(0, 1);
pub(super) const BOB: TenantId = TenantId::new(1, 4);
pub(super) const CAROL: TenantId = TenantId::new(7, 2);
pub(super) const SHARED_OP: Opcode = Opcode::new(0x4000_0000);
pub(super) const OWN_OP: Opcode = Opcode::new(0x4000_0001);
pub(super) const ENTRY_SLOTS: u32 = 32;
const TICKETS: u32 = 16;
const RESULT_BYTES: u32 = 4096;
const BLOCKS: u32 = 3;
const ARENA_BYTES: u32 = 2 << 20;
/// From where on operands are put.
const OPERANDS_AT: u32 = 1 << 20;
pub(super) const OPERANDS_SLOT: u32 = 5;
const TILES_MAX: u32 = 5000;
const POOL_PAGES: u32 = 64;

/// What `op_test.cuh` is, on this side.
struct TestOp;

impl HostOp for TestOp {
    fn opcode(&self) -> Opcode {
        SHARED_OP
    }
    fn name(&self) -> &'static str {
        "test"
    }
    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        task.arg(0)
    }
    fn run_tile(&self, tile: u32, task: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        if task.arg(3)? == tile + 1 {
            return Err(OpError::new(77));
        }
        let words = (0..16).map(|at| tile.wrapping_mul(task.args()[1]).wrapping_add(at));
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        Partial::new(&bytes)
    }
    fn reduce(
        &self,
        task: &TaskArgs<'_>,
        partials: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        let words = partials
            .iter()
            .flat_map(|p| p.as_bytes().as_chunks::<4>().0);
        let sum: u64 = words.map(|word| u64::from(u32::from_le_bytes(*word))).sum();
        let filler = |at: u64| u8::try_from(sum.wrapping_add(at) & 0xff).unwrap();
        let more = u64::from(task.arg(2)?);
        let mut bytes = sum.to_le_bytes().to_vec();
        let inline = 8 + more <= 32;
        bytes.extend((8..8 + more).map(|at| if inline { 0 } else { filler(at) }));
        out.write(&bytes)
    }
}

/// How an operation ends on this side.
fn ending(op: &dyn HostOp, task: &TaskArgs<'_>) -> (Status, Vec<u8>) {
    let failed = |error: OpError| (Status::Failed { code: error.code }, Vec::new());
    let region = Region::new(u64::from(RESULT_BYTES)).unwrap();
    let mut out = Output::new(&region, 0, RESULT_BYTES.into());
    let run = |out: &mut Output<'_>| {
        let tiles = op.tiles(task)?;
        if tiles > 1 && tiles.div_ceil(64) > POOL_PAGES {
            return Ok(false);
        }
        let scratch = op.scratch(task)?;
        let (mut own, mut all) = (vec![0; scratch.tile], vec![0; scratch.task]);
        let mut partials = Vec::new();
        for tile in 0..tiles {
            partials.push(op.run_tile(tile, task, &mut own)?);
            op.merge(tile, task, &own, &mut all)?;
        }
        op.reduce(task, &partials, &mut all, out)?;
        Ok(true)
    };
    match run(&mut out) {
        Err(error) => failed(error),
        Ok(false) => (Status::Refused(RefusedWhy::TooManyTiles), Vec::new()),
        Ok(true) => {
            let length = usize::try_from(out.length()).unwrap();
            let result = if length <= 32 {
                out.inline()[..length].to_vec()
            } else {
                // SAFETY: nothing else knows this region, and the reduction is over.
                #[allow(unsafe_code)]
                unsafe { region.bytes(0, out.length()) }.unwrap().to_vec()
            };
            (Status::Done, result)
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Mapping {
    pub(super) generation: u32,
    offset: u64,
    pub(super) length: u64,
    pub(super) tenant: TenantId,
}

/// A script under construction: what the device is to believe, kept beside it.
pub(super) struct Script {
    content: Vec<u8>,
    records: Vec<u32>,
    count: u32,
    pub(super) tickets: u64,
    tenants: Vec<TenantId>,
    pub(super) windows: [Option<Mapping>; 8],
    random: u64,
    operands_end: usize,
    follows: u32,
    kept_permit: Option<u64>,
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        let mut script = Self {
            content: Vec::new(),
            records: Vec::new(),
            count: 0,
            tickets: 0,
            tenants: Vec::new(),
            windows: [None; 8],
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            operands_end: OPERANDS_AT as usize,
            follows: 0,
            kept_permit: None,
        };
        script.content = (0..ARENA_BYTES)
            .map(|_| u8::try_from(script.draw(256)).unwrap())
            .collect();
        script
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    fn record(&mut self, words: &EntryWords, is_order: bool, end: [u32; 3], result: &[u8]) {
        let [expected, code, may_expire] = end;
        let slots = u32::try_from(words.slots()).unwrap();
        let length = u32::try_from(result.len()).unwrap();
        let head = [
            u32::from(is_order),
            slots,
            expected,
            code,
            length,
            may_expire,
            self.follows,
        ];
        self.records.extend(head);
        self.records.extend(words.iter().flatten());
        let padded = result.chunks(4).map(|chunk| {
            let mut bytes = [0; 4];
            bytes[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(bytes)
        });
        self.records.extend(padded);
        self.count += 1;
    }

    pub(super) fn order(&mut self, order: Order, reply: Reply) {
        let mut words = EntryWords::empty();
        words.push(&order.encode(0));
        let expected = reply.encode(0)[control_word::COMMAND];
        self.record(&words, true, [expected, 0, 0], &[]);
        if reply != Reply::Done {
            return;
        }
        match order {
            Order::Map {
                slot,
                generation,
                offset,
                length,
                tenant,
            } => {
                self.windows[slot as usize] = Some(Mapping {
                    generation,
                    offset,
                    length,
                    tenant,
                });
            }
            Order::Unmap { slot, .. } => self.windows[slot as usize] = None,
            Order::SetTenant(tenant) => {
                self.tenants.retain(|known| known.slot() != tenant.slot());
                self.tenants.push(tenant);
            }
            Order::ClearTenant(tenant) => self.tenants.retain(|known| *known != tenant),
            Order::Cancel { .. } | Order::Drain | Order::Stop => {}
        }
    }

    /// Words that are no order.
    pub(super) fn no_order(&mut self) {
        let mut slot = Order::Drain.encode(0);
        slot[control_word::COMMAND] = 99;
        let mut words = EntryWords::empty();
        words.push(&slot);
        let expected = Reply::Malformed.encode(0)[control_word::COMMAND];
        self.record(&words, true, [expected, 0, 0], &[]);
    }

    /// Memory of an operation of Alice's, so far from a multiple of 256. Where there is no more, what
    /// was put first is overwritten, so nothing may be in flight then.
    pub(super) fn operand(&mut self, bytes: &[u8], skew: usize) -> Window {
        let from = self.operands_end.next_multiple_of(256) + skew;
        let room = self.content.get_mut(from..from + bytes.len());
        room.expect("operands fit the arena").copy_from_slice(bytes);
        self.operands_end = from + bytes.len();
        Window {
            slot: OPERANDS_SLOT,
            generation: 1,
            offset: (from - OPERANDS_AT as usize) as u64,
            length: bytes.len() as u64,
        }
    }

    /// Bytes of operands for which there is still room.
    pub(super) fn room(&self) -> usize {
        self.content.len().saturating_sub(self.operands_end + 4096)
    }

    /// The number of the record to come.
    pub(super) const fn next(&self) -> u32 {
        self.count
    }

    /// The records to come are over only when this one is.
    pub(super) const fn follow(&mut self, record: u32) {
        self.follows = record + 1;
    }

    /// No ticket to come has the permit of the last one, so that none waits for it.
    pub(super) fn keep_permit(&mut self) {
        self.kept_permit = Some(self.tickets % u64::from(TICKETS));
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        if Some(self.tickets % u64::from(TICKETS)) == self.kept_permit {
            self.tickets += 1;
        }
        (7 << 32) | self.tickets
    }

    /// Words that are no entry: one slot that announces another shape.
    pub(super) fn no_entry(&mut self, shape: u32) {
        let ticket = self.ticket();
        let mut slot = [0; SLOT_WORDS];
        slot[0] = Noop::OPCODE.get();
        slot[1] = shape;
        slot[4] = crate::slot::low(ticket);
        slot[5] = crate::slot::high(ticket);
        let mut words = EntryWords::empty();
        words.push(&slot);
        let (status, code) = Status::Refused(RefusedWhy::Malformed).to_words();
        self.record(&words, false, [status, code, 0], &[]);
    }

    pub(super) fn entry(
        &mut self,
        tenant: TenantId,
        opcode: Opcode,
        args: &[u32],
        windows: &[Window],
    ) {
        self.timed(tenant, opcode, args, windows, 0, 0);
    }

    pub(super) fn timed(
        &mut self,
        tenant: TenantId,
        opcode: Opcode,
        args: &[u32],
        windows: &[Window],
        deadline_us: u32,
        tiles_max: u32,
    ) {
        let entry = Entry {
            opcode,
            flags: 0,
            tenant,
            ticket: self.ticket(),
            attempt: u32::try_from(self.draw(9)).unwrap(),
            tiles_max,
            deadline_us,
            args: args.into(),
            windows: windows.into(),
        };
        let (status, result) = match self.refusal(&entry) {
            Some(why) => (Status::Refused(why), Vec::new()),
            None => self.run(&entry),
        };
        self.publish(&entry, status, deadline_us != 0, &result);
    }

    fn publish(&mut self, entry: &Entry, status: Status, may_expire: bool, result: &[u8]) {
        let (kind, code) = status.to_words();
        let words = entry.encode().unwrap();
        self.record(&words, false, [kind, code, may_expire.into()], result);
    }

    /// A task whose deadline is over long before its last tile has begun.
    fn late(&mut self, tenant: TenantId) {
        let entry = Entry {
            opcode: SHARED_OP,
            flags: 0,
            tenant,
            ticket: self.ticket(),
            attempt: 1,
            tiles_max: 0,
            deadline_us: 1,
            args: [1200, 7, 0, 0].as_slice().into(),
            windows: [].as_slice().into(),
        };
        self.publish(&entry, Status::Expired, false, &[]);
    }

    fn refusal(&self, entry: &Entry) -> Option<RefusedWhy> {
        if !self.tenants.contains(&entry.tenant) {
            return Some(RefusedWhy::StaleTenant);
        }
        let owned = entry.opcode == OWN_OP && entry.tenant == ALICE;
        if Self::built_in(entry.opcode).is_none() && entry.opcode != SHARED_OP && !owned {
            return Some(RefusedWhy::UnknownOpcode);
        }
        entry.windows.iter().find_map(|window| {
            let mapping = self.windows.get(window.slot as usize).copied().flatten();
            match mapping.filter(|m| m.generation == window.generation) {
                None => Some(RefusedWhy::StaleWindow),
                Some(m) if m.tenant != entry.tenant => Some(RefusedWhy::ForeignWindow),
                Some(m) => {
                    let end = window.offset.checked_add(window.length);
                    end.is_none_or(|end| end > m.length)
                        .then_some(RefusedWhy::WindowBounds)
                }
            }
        })
    }

    fn built_in(opcode: Opcode) -> Option<&'static dyn HostOp> {
        Some(match opcode {
            Noop::OPCODE => &Noop,
            Blake3::OPCODE => &Blake3,
            Crc32c::OPCODE => &Crc32c,
            Blake3Many::OPCODE => &Blake3Many,
            Crc32cPages::OPCODE => &Crc32cPages,
            FilterAggregate::OPCODE => &FilterAggregate,
            VectorTopk::OPCODE => &VectorTopk,
            _ => return None,
        })
    }

    fn run(&self, entry: &Entry) -> (Status, Vec<u8>) {
        let windows = entry.windows.iter().map(|window| {
            let from = self.windows[window.slot as usize].unwrap().offset + window.offset;
            let from = usize::try_from(from).unwrap();
            &self.content[from..from + usize::try_from(window.length).unwrap()]
        });
        let windows: Vec<&[u8]> = windows.collect();
        let task = TaskArgs::new(entry.tenant, entry.attempt, &entry.args, &windows);
        let op = Self::built_in(entry.opcode).unwrap_or(&TestOp);
        let allowed = if entry.tiles_max == 0 {
            TILES_MAX
        } else {
            entry.tiles_max
        };
        match op.tiles(&task) {
            Ok(tiles) if tiles > 1 && tiles > allowed => {
                (Status::Refused(RefusedWhy::TooManyTiles), Vec::new())
            }
            Ok(_) | Err(_) => ending(op, &task),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let sizes = [ENTRY_SLOTS, TICKETS, RESULT_BYTES, BLOCKS, 7];
        let limits = [8, 16, TILES_MAX, POOL_PAGES];
        let mut words: Vec<u32> = sizes.into_iter().chain(limits).collect();
        words.extend([ARENA_BYTES, 2]);
        words.extend([SHARED_OP.get(), 0, 0, 0]);
        words.extend([OWN_OP.get(), 1, ALICE.slot(), ALICE.generation()]);
        words.push(ARENA_BYTES / 4);
        let content = self.content.as_chunks::<4>().0;
        words.extend(content.iter().map(|bytes| u32::from_le_bytes(*bytes)));
        words.push(self.count);
        words.extend(&self.records);
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Everything that the protocol has, in an order drawn from the seed.
    pub(super) fn whole(seed: u64) -> Self {
        let mut script = Self::new(seed);
        script.begin();
        for round in 0..4 {
            for _ in 0..12 {
                script.any_entry();
            }
            script.change(round);
            for _ in 0..4 {
                script.any_operation();
            }
        }
        script.late(BOB);
        for _ in 0..6 {
            script.any_entry();
        }
        script
    }

    pub(super) fn map(
        slot: u32,
        generation: u32,
        offset: u64,
        length: u64,
        tenant: TenantId,
    ) -> Order {
        Order::Map {
            slot,
            generation,
            offset,
            length,
            tenant,
        }
    }

    pub(super) fn begin(&mut self) {
        self.entry(ALICE, Noop::OPCODE, &[], &[]);
        for tenant in [ALICE, BOB, CAROL] {
            self.order(Order::SetTenant(tenant), Reply::Done);
        }
        self.order(Order::SetTenant(TenantId::new(99, 1)), Reply::Unknown);
        self.order(Order::ClearTenant(TenantId::new(1, 3)), Reply::Stale);
        self.order(Order::ClearTenant(TenantId::new(5, 3)), Reply::Unknown);
        self.order(Self::map(0, 3, 64, 5000, ALICE), Reply::Done);
        self.order(Self::map(1, 1, 8192, 400_001, ALICE), Reply::Done);
        self.order(Self::map(2, 9, 450_001, 70_000, BOB), Reply::Done);
        self.order(Self::map(3, 1, 600_000, 400_000, CAROL), Reply::Done);
        self.map_operands();
        self.order(Self::map(1, 2, 0, 10, ALICE), Reply::Stale);
        self.order(Self::map(8, 1, 0, 10, ALICE), Reply::Unknown);
        self.order(
            Self::map(4, 1, 1, ARENA_BYTES.into(), ALICE),
            Reply::Malformed,
        );
        self.order(Self::map(4, 1, u64::MAX, 2, ALICE), Reply::Malformed);
        self.no_order();
    }

    fn map_operands(&mut self) {
        let (at, length) = (OPERANDS_AT.into(), (ARENA_BYTES - OPERANDS_AT).into());
        let order = Self::map(OPERANDS_SLOT, 1, at, length, ALICE);
        self.order(order, Reply::Done);
    }

    /// Of Alice and Bob and one window of operands, and nothing else.
    pub(super) fn plain(seed: u64) -> Self {
        let mut script = Self::new(seed);
        for tenant in [ALICE, BOB] {
            script.order(Order::SetTenant(tenant), Reply::Done);
        }
        script.map_operands();
        script
    }

    pub(super) fn any_window(&mut self) -> Window {
        let slot = u32::try_from(self.draw(4)).unwrap();
        let mapping = self.windows[slot as usize];
        let (generation, length) = mapping.map_or((1, 100), |m| (m.generation, m.length));
        let lengths = [
            0, 1, 63, 64, 1024, 1025, 4097, 65_536, 65_537, 140_000, length,
        ];
        let asked = lengths[usize::try_from(self.draw(lengths.len() as u64)).unwrap()];
        let asked = asked.min(length).min(200_000);
        Window {
            slot,
            generation,
            offset: self.draw(length - asked + 1),
            length: asked,
        }
    }

    pub(super) fn tenant_of(&self, window: &Window) -> TenantId {
        self.windows[window.slot as usize].map_or(BOB, |m| m.tenant)
    }

    fn any_entry(&mut self) {
        let window = self.any_window();
        let tenant = self.tenant_of(&window);
        let opcode = if self.draw(2) == 0 {
            Blake3::OPCODE
        } else {
            Crc32c::OPCODE
        };
        let number = |value: u64| u32::try_from(value).unwrap();
        match self.draw(16) {
            0 => self.entry(tenant, Noop::OPCODE, &[1; 100], &[]),
            1..=6 => self.entry(tenant, opcode, &[], &[window]),
            7 => self.entry(tenant, opcode, &[], &[window; crate::layout::WINDOWS_MAX]),
            8 => {
                let args = [number(self.draw(80)), 3, number(self.draw(24)), 0];
                self.entry(tenant, SHARED_OP, &args, &[window]);
            }
            9 => {
                let args = [number(self.draw(200)), 5, number(self.draw(300)), 0];
                self.entry(tenant, SHARED_OP, &args, &[window]);
            }
            10 => self.entry(tenant, SHARED_OP, &[1500, 7, 0, 0], &[]),
            11 => {
                let tile = number(self.draw(60)) + 1;
                self.entry(tenant, SHARED_OP, &[60, 7, 0, tile], &[]);
            }
            12 => self.timed(tenant, SHARED_OP, &[90, 7, 0, 0], &[window], 1, 0),
            13 => self.entry(tenant, OWN_OP, &[4, 9, 0, 0], &[]),
            14 => self.odd_entry(window, tenant),
            _ => self.entry(tenant, Noop::OPCODE, &[], &[window]),
        }
    }

    fn odd_entry(&mut self, window: Window, tenant: TenantId) {
        match self.draw(9) {
            0 => self.no_entry(9),
            1 => self.no_entry(0),
            2 => self.no_entry(1 | 200 << 16),
            3 => self.entry(TenantId::new(1, 3), Noop::OPCODE, &[], &[]),
            4 => self.entry(TenantId::new(500, 1), Noop::OPCODE, &[], &[]),
            5 => self.entry(tenant, Opcode::new(77), &[], &[window]),
            6 => {
                let offset = u64::MAX - 3;
                let beyond = Window { offset, ..window };
                self.entry(tenant, Crc32c::OPCODE, &[], &[window, beyond]);
            }
            7 => self.timed(tenant, SHARED_OP, &[9, 1, 0, 0], &[], 0, 8),
            _ => self.entry(tenant, Blake3::OPCODE, &[], &[]),
        }
        self.entry(tenant, SHARED_OP, &[4200, 1, 0, 0], &[]);
        let stranger = if tenant == BOB { CAROL } else { BOB };
        self.entry(stranger, Blake3::OPCODE, &[], &[window]);
    }
}
