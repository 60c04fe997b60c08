//! Results that are longer than a permit's area: in a buffer, behind a guard.

use super::*;

/// Writes as many bytes of a pattern as its argument says; its second argument is the number of
/// windows that it is to see.
fn pattern() -> Arc<dyn HostOp> {
    Arc::new(Free(
        USER,
        |task: &TaskArgs<'_>| Ok(task.arg(2).unwrap_or(1)),
        |_, task: &TaskArgs<'_>, out: Option<&mut Output<'_>>| {
            if task.windows() != task.arg(1)? as usize {
                return Err(OpError::BAD_ARGUMENT);
            }
            if let Some(out) = out {
                for chunk in content(task.arg(0)?).chunks(1000) {
                    out.write(chunk)?;
                }
            }
            Ok(Partial::EMPTY)
        },
    ))
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

fn task(length: u32, room: Option<ResultWindow>) -> Task {
    let mut task = Task::new(Opcode::new(USER), ALICE);
    task.args.extend([length, 0]);
    task.result = room;
    task
}

#[test]
fn a_result_beyond_its_permits_area_is_read_in_its_buffer_and_free_when_dropped() {
    let device = device(2, vec![pattern()]);
    let (done, completions) = listener();
    let buffers = device.buffers();
    for tiles in [1, 5] {
        let mut task = task(300_000, Some(buffers.result(ALICE, 300_000).unwrap()));
        task.args.push(tiles);
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Done);
        assert!(!completed.result.holds_permit());
        assert_eq!(*completed.result, content(300_000)[..]);
        assert_eq!(buffers.available().slots, 63);
        drop(completed);
        assert_eq!(buffers.available(), buffers.capacity());
    }
    quiet(&device);
}

#[test]
fn a_short_result_is_inline_and_leaves_no_buffer_and_a_shorter_one_shows_nothing_beyond() {
    let device = device(1, vec![pattern()]);
    let (done, completions) = listener();
    let buffers = device.buffers();
    // What lay there before is not shown.
    let secret = buffers.put(BOB, &vec![9; 100_000]).unwrap();
    buffers.free(BOB, secret).unwrap();
    for (length, in_buffer) in [(32, false), (33, true), (70_000, true)] {
        let room = buffers.result(ALICE, 100_000).unwrap();
        assert_eq!(room.capacity().get(), 100_000);
        let published = device.publish(task(length, Some(room)), Arc::clone(&done));
        published.unwrap();
        let completed = next(&completions);
        assert_eq!(*completed.result, content(length)[..]);
        assert_eq!(completed.result.into_buffer().is_ok(), in_buffer);
        assert_eq!(buffers.available(), buffers.capacity());
    }
    quiet(&device);
}

#[test]
fn a_result_that_is_kept_becomes_a_buffer_of_its_tenant_without_a_copy() {
    let device = device(1, vec![pattern()]);
    let (done, completions) = listener();
    let buffers = device.buffers();
    let run = || {
        let room = buffers.result(ALICE, 200_000).unwrap();
        let slot = room.window().slot;
        let published = device.publish(task(150_000, Some(room)), Arc::clone(&done));
        published.unwrap();
        let result = next(&completions).result.into_buffer().unwrap();
        let (id, digest) = result.keep().unwrap();
        assert_eq!(digest, Digest::of(&content(150_000)));
        (id, slot)
    };
    let (kept, slot) = run();
    assert_eq!(kept.slot, slot);
    let header = buffers.header(ALICE, kept).unwrap();
    assert_eq!(header.length.get(), 150_000);
    assert_eq!(*buffers.read(ALICE, kept).unwrap(), content(150_000)[..]);
    assert_eq!(
        buffers.read(BOB, kept).unwrap_err(),
        AccessError::NotOwner { tenant: BOB }
    );
    // The same again is shared, and its own room is free.
    assert_eq!(run().0, kept);
    assert_eq!(buffers.available().slots, 63);
    assert_eq!(buffers.free(ALICE, kept), Ok(Freed::Shared { shares: 1 }));
    assert_eq!(buffers.free(ALICE, kept), Ok(Freed::Now));
    assert_eq!(buffers.available(), buffers.capacity());
    quiet(&device);
}

#[test]
fn a_result_beyond_its_buffer_fails_typed_and_anothers_room_is_refused() {
    let device = device(1, vec![pattern()]);
    let (done, completions) = listener();
    let buffers = device.buffers();
    let room = buffers.result(ALICE, 70_000).unwrap();
    let published = device.publish(task(70_001, Some(room)), Arc::clone(&done));
    published.unwrap();
    let code = OpError::RESULT_TOO_LONG.code;
    assert_eq!(next(&completions).status, Status::Failed { code });
    let room = buffers.result(BOB, 70_000).unwrap();
    let refused = device.publish(task(1, Some(room)), Arc::clone(&done));
    let (window, tenant) = (0, ALICE);
    assert_eq!(
        refused,
        Err(PublishRefused::ForeignWindow { window, tenant })
    );
    assert!(matches!(
        buffers.result(ALICE, 9 << 20),
        Err(PutError::Create(CreateError::OutOfMemory { .. }))
    ));
    assert_eq!(buffers.available(), buffers.capacity());
    quiet(&device);
}
