//! Random lives against the oracle.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};

use crate::life::World;
use crate::plan::life;

/// How many cases are drawn.
fn cases() -> u32 {
    let asked = std::env::var("ORLOP_MODEL_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(256)
}

pub(crate) fn config() -> Config {
    Config {
        cases: cases(),
        max_shrink_iters: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/model/regressions.txt"
        )))),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_crashes_no_acknowledged_outcome_is_lost_and_none_doubled(
        lives in vec(life(), 1..5),
        seed in any::<u64>(),
    ) {
        crate::hush();
        let mut world = World::default();
        for life in &lives {
            world.live(life);
        }
        world.conclude(seed);
    }
}
