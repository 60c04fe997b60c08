//! Records: what a journal says happened, one event a piece, folded as recovery would.

use std::path::Path;

use orlop_saga::compat::Format;
use orlop_saga::live::Live;
use orlop_saga::record;
use orlop_saga::time::WallMillis;
use orlop_store::checkpoint::{self, Checkpoint};
use orlop_store::disk::SimDisk;
use orlop_store::projection;

use super::{STORE, pieces};

/// Decodes and folds; how many events the fold took.
pub(crate) fn run(input: &[u8]) -> usize {
    let mut live = Live::default();
    let mut folded = 0;
    for piece in pieces(input) {
        let Ok(event) = record::decode(piece) else {
            continue;
        };
        let bytes =
            record::encode(Format::NEWEST, &event).expect("an event that was read is written");
        assert_eq!(record::decode(&bytes), Ok(event.clone()));
        let before = live.lsn();
        match live.apply(before.next(), &event) {
            Ok(finished) => {
                folded += 1;
                let mut changes = Vec::new();
                projection::project(Format::NEWEST, &event, finished.as_ref(), &mut changes)
                    .unwrap();
            }
            Err(error) => {
                assert_eq!(
                    live.lsn(),
                    before,
                    "{error}, and it was applied all the same"
                );
            }
        }
    }
    survives(live);
    folded
}

/// A fold is what it was when it comes back from a checkpoint.
fn survives(live: Live) {
    let (disk, folder) = (SimDisk::new(), Path::new("/"));
    let written = Checkpoint {
        store: STORE,
        at: WallMillis::new(1),
        unexported_bytes: 0,
        live,
    };
    checkpoint::write(&disk, folder, &written, Format::NEWEST).unwrap();
    let found = checkpoint::find(&disk, folder, STORE).unwrap();
    assert_eq!(found.newest.as_ref(), Some(&written));
}
