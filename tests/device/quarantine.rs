//! What ends every device that it runs on.

use std::fs::File;

use orlop::{Key, Origin, SubmitError, wait};

use crate::support::{Bomb, LIMIT, Stamp, builder};

fn is_quarantined(error: &SubmitError, key: Key) -> bool {
    matches!(error, SubmitError::Stuck { key: stuck, reason }
        if *stuck == key && reason.contains("quarantined"))
}

#[test]
fn accepted_work_that_ends_every_device_is_quarantined_durably_until_an_operator_lifts_that() {
    let folder = tempfile::tempdir().unwrap();
    let armed = folder.path().join("armed");
    File::create(&armed).unwrap();
    let input = armed.to_str().unwrap();
    let engine = builder(folder.path(), 2).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("bomb");
    let bomb = wait(tenant.enqueue(Bomb, input).key(key)).unwrap();
    let error = wait(bomb).unwrap_err();
    assert!(is_quarantined(&error, key), "{error}");
    assert!(!error.is_retryable());
    // Others go on, and nobody starts it again by asking for it.
    let stamped = wait(tenant.submit(Stamp, 1_u32)).unwrap();
    assert_eq!(stamped.origin, Origin::Ran);
    let asked = wait(tenant.submit(Bomb, input).key(key)).unwrap_err();
    assert!(is_quarantined(&asked, key), "{asked}");
    assert_eq!(engine.snapshot().device_losses, 2);
    engine.blocking().close().unwrap();
    drop((tenant, engine));

    let engine = builder(folder.path(), 2).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let asked = wait(tenant.submit(Bomb, input).key(key)).unwrap_err();
    assert!(is_quarantined(&asked, key), "{asked}");
    assert_eq!(engine.snapshot().device_losses, 0, "it ran in quarantine");
    std::fs::remove_file(&armed).unwrap();
    let manager = wait(engine.manage("a")).unwrap();
    assert!(manager.retry(key));
    let done = wait(tenant.submit(Bomb, input).key(key).deadline(LIMIT)).unwrap();
    assert_eq!(done.output, 7);
    engine.blocking().close().unwrap();
}

#[test]
fn awaited_work_that_ends_every_device_is_quarantined_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let armed = folder.path().join("armed");
    File::create(&armed).unwrap();
    let input = armed.to_str().unwrap();
    let engine = builder(folder.path(), 1).open_blocking().unwrap();
    let tenant = engine.blocking().tenant("a").unwrap();
    let key = Key::named("bomb");
    let error = wait(tenant.submit(Bomb, input).key(key)).unwrap_err();
    assert!(is_quarantined(&error, key), "{error}");
    std::fs::remove_file(&armed).unwrap();
    let asked = wait(tenant.submit(Bomb, input).key(key)).unwrap_err();
    assert!(is_quarantined(&asked, key), "{asked}");
    assert!(wait(engine.manage("a")).unwrap().retry(key));
    let done = wait(tenant.submit(Bomb, input).key(key).deadline(LIMIT)).unwrap();
    assert_eq!(done.output, 7);
    assert_eq!(engine.snapshot().device_losses, 1);
    engine.blocking().close().unwrap();
}
