//! Starved: scripts in which something would wait for as long as something else goes on.

use super::script::{ALICE, BOB, SHARED_OP, Script};

/// A task that needs every page there is, behind and before a stream of tasks that need one.
pub(super) fn of_pages(seed: u64) -> Script {
    let mut script = Script::plain(seed);
    for _ in 0..6 {
        script.entry(BOB, SHARED_OP, &[60, 3, 0, 0], &[]);
    }
    let large = script.next();
    script.entry(ALICE, SHARED_OP, &[4090, 3, 0, 0], &[]);
    script.keep_permit();
    for number in 0..120 {
        if number == 60 {
            script.follow(large);
        }
        script.entry(BOB, SHARED_OP, &[60, 3, 0, 0], &[]);
    }
    script
}
