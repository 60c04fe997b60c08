//! Faults: what panics in an operation or a callback takes with it, and what not.

use super::*;

#[test]
fn a_panic_in_any_part_of_an_operation_faults_its_task_and_spares_the_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("planted in the payload's drop");
        }
    }
    let panics = Free(
        USER,
        |task: &TaskArgs<'_>| match task.arg(0)? {
            0 => panic!("planted in tiles"),
            1 => Ok(1),
            2 => Ok(5),
            3 => Ok(0),
            _ => std::panic::panic_any(Bomb),
        },
        |tile, task: &TaskArgs<'_>, _: Option<&mut Output<'_>>| {
            assert!(task.arg(0)? == 2 && tile != 3, "planted {}", "x".repeat(40));
            Ok(Partial::EMPTY)
        },
    );
    let device = device(1, vec![Arc::new(panics)]);
    let (done, completions) = listener();
    let texts = [
        "planted in tiles",
        "planted xxxx",
        "planted xxxx",
        "planted xxxx",
        "a panic",
    ];
    for (which, text) in (0..).zip(texts) {
        let mut task = Task::new(Opcode::new(USER), ALICE);
        task.args.push(which);
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Faulted);
        let said = String::from_utf8(completed.result.to_vec()).unwrap();
        assert!(said.starts_with(text), "{said}");
    }
    device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    assert_eq!(next(&completions).status, Status::Done);
    quiet(&device);
}

#[test]
fn a_panicking_callback_is_counted_and_spares_the_worker() {
    let device = device(1, vec![]);
    let bad: Arc<dyn Completion> = Arc::new(|_| panic!("planted"));
    device.publish(Task::new(Noop::OPCODE, ALICE), bad).unwrap();
    let (done, completions) = listener();
    device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    assert_eq!(next(&completions).status, Status::Done);
    quiet(&device);
    assert_eq!(device.snapshot().callback_panics, 1);
}
