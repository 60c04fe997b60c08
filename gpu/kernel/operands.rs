//! Operands: the operations that have an input of some form, drawn by the strategies of their own
//! tests, with a word or a window changed now and then.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::script::{ALICE, Script};
use crate::entry::{Opcode, Window};
use crate::ops::{Blake3Many, Crc32cPages, FilterAggregate, VectorTopk, aggregate, topk};

/// The most bytes of operands of one operation.
const BYTES_MAX: usize = 150_000;

impl Script {
    fn drawn<T>(&mut self, strategy: &impl Strategy<Value = T>) -> T {
        let seed = self.draw(u64::MAX).to_le_bytes();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.repeat(4));
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        strategy.new_tree(&mut runner).unwrap().current()
    }

    fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.draw(below as u64)).unwrap()
    }

    /// Mostly where it should be.
    fn skew(&mut self) -> usize {
        match self.draw(6) {
            0 => self.below(20),
            1 => 8,
            2 => 4,
            _ => 0,
        }
    }

    /// Operations and nothing between them.
    pub(super) fn of_operations(seed: u64) -> Self {
        let mut script = Self::new(seed);
        script.begin();
        for _ in 0..20 {
            script.any_operation();
        }
        script
    }

    /// One of the operations, with an input that fits what there is room for.
    pub(super) fn any_operation(&mut self) {
        if self.room() < 2 * BYTES_MAX {
            return self.any_pages();
        }
        match self.draw(5) {
            0 => self.any_pages(),
            1 => self.any_items(),
            2 | 3 => self.any_aggregate(),
            _ => self.any_search(),
        }
    }

    fn publish_changed(&mut self, opcode: Opcode, mut args: Vec<u32>, mut windows: Vec<Window>) {
        if self.draw(8) == 0 && !args.is_empty() {
            let at = self.below(args.len());
            args[at] ^= 1 << self.draw(32);
        }
        match self.draw(16) {
            0 => drop(windows.pop()),
            1 if windows.len() + args.len() / 8 < 10 => windows.extend(windows.first().copied()),
            2 => {
                let at = self.below(windows.len());
                let cut = self.draw(9).min(windows[at].length);
                windows[at].length -= cut;
            }
            3 => {
                let at = self.below(windows.len());
                let cut = self.draw(9).min(windows[at].length);
                windows[at].offset += cut;
                windows[at].length -= cut;
            }
            _ => {}
        }
        self.entry(ALICE, opcode, &args, &windows);
    }

    fn any_pages(&mut self) {
        let window = self.any_window();
        let page = [1, 7, 16, 100, 512, 4096, 8192, 100_000, 262_144, 262_145];
        let page = page[self.below(page.len())];
        let tenant = self.tenant_of(&window);
        self.entry(tenant, Crc32cPages::OPCODE, &[page], &[window]);
        let mut short = window;
        short.length = window.length.min(u64::from(page) * 9);
        self.entry(tenant, Crc32cPages::OPCODE, &[page], &[short]);
    }

    fn any_items(&mut self) {
        let count = self.below(60);
        let mut bounds = vec![self.draw(100)];
        for _ in 0..count {
            let lengths = [0, 1, 64, 1000, 1024, 1025, 3000, 9000, 40_000];
            let length = lengths[self.below(lengths.len())];
            let next = bounds[bounds.len() - 1] + length;
            if next < BYTES_MAX as u64 {
                bounds.push(next);
            }
        }
        let length = usize::try_from(bounds[bounds.len() - 1]).unwrap();
        match self.draw(10) {
            0 => {
                let at = self.below(bounds.len());
                bounds[at] = self.draw(BYTES_MAX as u64);
            }
            1 => bounds.extend([200_000, 350_000]),
            _ => {}
        }
        let more = self.below(3) * self.below(2000);
        let bytes: Vec<u8> = crate::ops::testing::bytes(length + more);
        let skew = self.skew();
        let bytes = self.operand(&bytes, skew);
        let skew = if skew == 4 { 4 } else { 0 };
        let bounds: Vec<u8> = bounds
            .iter()
            .flat_map(|bound| bound.to_le_bytes())
            .collect();
        let bounds = self.operand(&bounds, skew);
        self.publish_changed(Blake3Many::OPCODE, Vec::new(), vec![bytes, bounds]);
    }

    fn any_aggregate(&mut self) {
        let program = self.drawn(&aggregate::program::tests::program());
        let columns = program.columns.len();
        let rows = match self.draw(8) {
            0 => 16_384,
            1 => 16_384 + self.below(9),
            2 => 40_000,
            _ => self.below(3000),
        };
        let rows = rows.min(BYTES_MAX / (9 * columns));
        let seed = self.draw(u64::MAX);
        let data = aggregate::tests::Data::draw(program, rows, seed);
        let mut windows = Vec::new();
        let mut args = data.program.encode().unwrap();
        // Of many columns an entry carries either the program or the windows.
        let is_long = args.len() + 6 * data.program.windows() > 100;
        if is_long || self.draw(3) == 0 {
            let skew = self.skew();
            let window = self.operand(bytemuck::cast_slice(&args), skew);
            windows.push(window);
            args.clear();
        }
        // The same for all, or a column is rarely right.
        let skew = self.skew();
        for window in data.windows() {
            windows.push(self.operand(window.bytes(), skew));
        }
        self.publish_changed(FilterAggregate::OPCODE, args, windows);
    }

    fn any_search(&mut self) {
        let mut query = self.drawn(&topk::tests::query());
        let vectors = if self.draw(2) == 0 { 40 } else { 700 };
        let (mut vectors, queries) = (self.below(vectors), 1 + self.below(9));
        if self.draw(3) == 0 {
            // So short that there are several tiles, and many equal scores.
            query.dimensions = 1 + u32::try_from(self.draw(3)).unwrap();
            vectors = 9000;
        }
        let bytes = query.vector_bytes();
        let (vectors, queries) = (
            vectors.min(BYTES_MAX / bytes),
            queries.min(BYTES_MAX / bytes).max(1),
        );
        let seed = self.draw(u64::MAX);
        let data = topk::tests::Data::draw(query, vectors, queries, seed);
        let skew = self.skew();
        let of_vectors = self.operand(data.window(&data.vectors).bytes(), skew);
        let skew = self.skew();
        let of_queries = self.operand(data.window(&data.queries).bytes(), skew);
        let args = query.encode().unwrap().to_vec();
        self.publish_changed(VectorTopk::OPCODE, args, vec![of_vectors, of_queries]);
    }
}
