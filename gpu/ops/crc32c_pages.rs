//! `crc32c_pages`: one Castagnoli checksum for every page of a window.

use super::{HostOp, OpError, Output, Partial, Scratch, TaskArgs};
use crate::entry::Opcode;
use crate::layout::RESULT_BYTES_MAX;

/// Bytes of a tile of several pages: 256 KiB, about 200 us where the processor does not help.
const TILE_BYTES: usize = 256 * 1024;

/// The CRC-32C of each page of window 0, 4 little-endian bytes each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crc32cPages;

impl Crc32cPages {
    /// Its opcode.
    pub const OPCODE: Opcode = Opcode::new(5);
    /// The most bytes of a page.
    pub const PAGE_BYTES_MAX: u32 = 256 * 1024;
    /// The most pages of one operation: their checksums fit the largest result area.
    pub const PAGES_MAX: usize = RESULT_BYTES_MAX as usize / 4;
}

/// The pages of a task.
#[derive(Clone, Copy)]
struct Pages<'a> {
    bytes: &'a [u8],
    page: usize,
}

impl<'a> Pages<'a> {
    fn of(task: &TaskArgs<'a>) -> Result<Self, OpError> {
        let (page, bytes) = (task.arg(0)?, task.window(0)?);
        let sound = (1..=Crc32cPages::PAGE_BYTES_MAX).contains(&page)
            && task.args().len() == 1
            && task.windows() == 1;
        if !sound {
            return Err(OpError::BAD_ARGUMENT);
        }
        let page = page as usize;
        let pages = Self { bytes, page };
        if pages.len() > Crc32cPages::PAGES_MAX {
            return Err(OpError::RESULT_TOO_LONG);
        }
        Ok(pages)
    }

    const fn len(&self) -> usize {
        self.bytes.len().div_ceil(self.page)
    }

    const fn per_tile(&self) -> usize {
        // At least one: a page has at most the bytes of a tile.
        TILE_BYTES / self.page
    }
}

impl HostOp for Crc32cPages {
    fn opcode(&self) -> Opcode {
        Self::OPCODE
    }

    fn name(&self) -> &'static str {
        "crc32c_pages"
    }

    fn tiles(&self, task: &TaskArgs<'_>) -> Result<u32, OpError> {
        let pages = Pages::of(task)?;
        let tiles = pages.len().div_ceil(pages.per_tile()).max(1);
        u32::try_from(tiles).map_err(|_| OpError::INPUT_TOO_LONG)
    }

    fn scratch(&self, task: &TaskArgs<'_>) -> Result<Scratch, OpError> {
        let pages = Pages::of(task)?;
        Ok(Scratch {
            tile: pages.len().min(pages.per_tile()),
            task: pages.len(),
        })
    }

    fn run_tile(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &mut [u64],
    ) -> Result<Partial, OpError> {
        let pages = Pages::of(task)?;
        let start = (tile as usize * pages.per_tile() * pages.page).min(pages.bytes.len());
        let bytes = pages.bytes.get(start..).unwrap_or_default();
        for (page, sum) in bytes.chunks(pages.page).zip(own) {
            *sum = ::crc32c::crc32c(page).into();
        }
        Ok(Partial::EMPTY)
    }

    fn merge(
        &self,
        tile: u32,
        task: &TaskArgs<'_>,
        own: &[u64],
        all: &mut [u64],
    ) -> Result<(), OpError> {
        let first = tile as usize * Pages::of(task)?.per_tile();
        let places = all.get_mut(first..).unwrap_or_default();
        for (place, sum) in places.iter_mut().zip(own) {
            *place = *sum;
        }
        Ok(())
    }

    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        all: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        for sum in all.iter() {
            out.write(&crate::slot::low(*sum).to_le_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use orlop_saga::id::TenantId;
    use proptest::prelude::*;

    use super::super::testing;
    use super::*;

    fn sums(bytes: &[u8], page: u32, seed: u64) -> Result<Vec<u8>, OpError> {
        let (args, windows) = ([page], [bytes]);
        let task = TaskArgs::new(TenantId::new(0, 1), 1, &args, &windows);
        let order = testing::shuffled(Crc32cPages.tiles(&task)?, seed);
        testing::in_order(&Crc32cPages, &task, &order)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn each_page_has_its_checksum_in_any_order_of_tiles(
            page in prop_oneof![1..5000_u32, Just(8192), 100_000..=262_144_u32],
            length in prop_oneof![0..3000_usize, 200_000..1_000_000_usize],
            seed: u64,
        ) {
            let bytes = testing::bytes(length);
            let pages = bytes.chunks(page as usize);
            let expected: Vec<u8> =
                pages.flat_map(|page| ::crc32c::crc32c(page).to_le_bytes()).collect();
            let expected = match expected.len() {
                0..=65_536 => Ok(expected),
                _ => Err(OpError::RESULT_TOO_LONG),
            };
            prop_assert_eq!(sums(&bytes, page, seed), expected);
        }
    }

    #[test]
    fn limits_are_typed_failures() {
        assert_eq!(sums(&[7; 16_384], 1, 1).map(|sums| sums.len()), Ok(65_536));
        assert_eq!(sums(&vec![7; 16_385], 1, 1), Err(OpError::RESULT_TOO_LONG));
        assert_eq!(sums(&[7], 0, 1), Err(OpError::BAD_ARGUMENT));
        assert_eq!(sums(&[7], 262_145, 1), Err(OpError::BAD_ARGUMENT));
        let tenant = TenantId::new(0, 1);
        let task = TaskArgs::new(tenant, 1, &[], &[&[7]]);
        assert_eq!(Crc32cPages.tiles(&task), Err(OpError::MISSING_ARGUMENT));
        let task = TaskArgs::new(tenant, 1, &[1, 2], &[&[7]]);
        assert_eq!(Crc32cPages.tiles(&task), Err(OpError::BAD_ARGUMENT));
        let task = TaskArgs::new(tenant, 1, &[1], &[]);
        assert_eq!(Crc32cPages.tiles(&task), Err(OpError::MISSING_WINDOW));
    }
}
