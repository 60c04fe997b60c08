//! Operations from publish to result: what they answer, in which amounts, at what cost.

use super::*;

#[test]
fn a_noop_is_done_and_costs_time() {
    let device = device(1, vec![]);
    let (done, completions) = listener();
    let ticket = device
        .publish(Task::new(Noop::OPCODE, ALICE), done)
        .unwrap();
    let completed = next(&completions);
    assert_eq!((completed.ticket, completed.status), (ticket, Status::Done));
    assert!(completed.cost.get() > 0);
    assert!(completed.result.is_empty());
    quiet(&device);
}

#[test]
fn a_tiled_digest_of_a_buffer_equals_its_name() {
    let device = device(2, vec![]);
    let content: Vec<u8> = (0..=255_u8).cycle().take(3_000_001).collect();
    let id = device.buffers().put(ALICE, &content).unwrap();
    let digest = Digest::of(&content);
    let (done, completions) = listener();
    for (offset, length) in [(0, 3_000_001), (5, 2_999_990), (3_000_001, 0)] {
        let name = BufferRef {
            digest,
            offset,
            length,
        };
        let mut task = Task::new(Blake3::OPCODE, ALICE);
        task.windows
            .push(device.buffers().bind(ALICE, &name).unwrap());
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Done);
        let (offset, length) = (
            usize::try_from(offset).unwrap(),
            usize::try_from(length).unwrap(),
        );
        let expected = Digest::of(&content[offset..offset + length]);
        assert_eq!(*completed.result, *expected.as_bytes());
    }
    assert_eq!(device.buffers().free(ALICE, id), Ok(Freed::Now));
    quiet(&device);
    assert_eq!(device.buffers().available(), device.buffers().capacity());
}

#[test]
fn thousands_of_entries_of_every_length_wrap_the_ring_with_one_completion_each() {
    let echo = Free(
        USER,
        |_: &TaskArgs<'_>| Ok(1),
        |_, task: &TaskArgs<'_>, out: Option<&mut Output<'_>>| {
            if let Some(out) = out {
                let sum = task
                    .args()
                    .iter()
                    .fold(0_u32, |sum, arg| sum.wrapping_add(*arg));
                out.write(&sum.to_le_bytes())?;
            }
            Ok(Partial::EMPTY)
        },
    );
    let device = device(2, vec![Arc::new(echo)]);
    let threads = 4;
    let each = 2_000_u32;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let device = &device;
            scope.spawn(move || {
                let (done, completions) = listener();
                let mut expected = HashMap::new();
                let mut random = fastrand_lite(thread);
                let mut published = 0;
                while published < each {
                    let mut task = Task::new(Opcode::new(USER), ALICE);
                    let args = (random() % 120) as usize;
                    task.args = (0..args).map(|_| random()).collect();
                    let sum = task
                        .args
                        .iter()
                        .fold(0_u32, |sum, arg| sum.wrapping_add(*arg));
                    match device.publish(task, Arc::clone(&done)) {
                        Ok(ticket) => {
                            expected.insert(ticket, sum);
                            published += 1;
                        }
                        Err(PublishRefused::Full { tickets_max: 64 }) => {
                            // Other threads may hold all permits, then none of ours is due.
                            if let Ok(completed) = completions.try_recv() {
                                check(&mut expected, &completed);
                            } else {
                                std::thread::yield_now();
                            }
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                while !expected.is_empty() {
                    check(&mut expected, &next(&completions));
                }
                assert!(completions.try_recv().is_err(), "a second completion");
            });
        }
    });
    quiet(&device);
    assert_eq!(device.snapshot().done, u64::from(threads * each));
}

fn check(expected: &mut HashMap<Ticket, u32>, completed: &Completed) {
    let sum = expected
        .remove(&completed.ticket)
        .expect("one completion per ticket");
    assert_eq!(completed.status, Status::Done);
    assert_eq!(*completed.result, sum.to_le_bytes());
}

#[test]
fn a_large_result_is_read_through_a_guard_that_holds_its_permit() {
    let large = Free(
        USER,
        |_: &TaskArgs<'_>| Ok(0),
        |_, task: &TaskArgs<'_>, out: Option<&mut Output<'_>>| {
            if let Some(out) = out {
                for _ in 0..task.arg(0)? {
                    out.write(&[7])?;
                }
            }
            Ok(Partial::EMPTY)
        },
    );
    let device = device(1, vec![Arc::new(large)]);
    let (done, completions) = listener();
    for (length, held) in [(32, 0), (33, 1), (65_536, 1)] {
        let mut task = Task::new(Opcode::new(USER), ALICE);
        task.args.push(length);
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Done);
        assert_eq!(*completed.result, vec![7; length as usize]);
        assert_eq!(device.snapshot().permits, 64 - held);
        drop(completed);
        assert_eq!(device.snapshot().permits, 64);
    }
    let mut task = Task::new(Opcode::new(USER), ALICE);
    task.args.push(65_537);
    device.publish(task, done).unwrap();
    let code = OpError::RESULT_TOO_LONG.code;
    assert_eq!(next(&completions).status, Status::Failed { code });
    quiet(&device);
}

#[test]
fn a_batch_is_accepted_item_by_item() {
    let device = device(1, vec![]);
    let (done, completions) = listener();
    let task = |args: usize| {
        let mut task = Task::new(Noop::OPCODE, ALICE);
        task.args = (0..120).take(args).collect();
        (task, Arc::clone(&done))
    };
    let results = device.publish_batch([task(0), task(120), task(119)]);
    assert!(results[0].is_ok() && results[2].is_ok());
    assert!(matches!(results[1], Err(PublishRefused::Encode(_))));
    let ends = [next(&completions).ticket, next(&completions).ticket];
    assert_eq!(ends, [results[0].unwrap(), results[2].unwrap()]);
    quiet(&device);
    assert_eq!(device.snapshot().published, 2);
}

/// A sum of products of numbers over 40,000 rows, and the five nearest of 4,000 vectors.
fn rounded_answers(workers: u32) -> (Vec<u8>, Vec<u8>) {
    use crate::aggregate::program::{Column, ColumnType, Function, Program};
    use crate::topk::query::{ElementType, Query, VectorMetric};

    let device = device(workers, vec![]);
    let (done, completions) = listener();
    let mut random = fastrand_lite(11);
    let numbers: Vec<f64> = (0..40_000).map(|_| f64::from(random()) / 3.0).collect();
    let numbers: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let vectors: Vec<f32> = (0..4_000 * 300)
        .map(|_| f32::from(u16::try_from(random() & 0xffff).unwrap()) / 7.0)
        .collect();
    let vectors: Vec<u8> = vectors
        .iter()
        .flat_map(|element| element.to_le_bytes())
        .collect();
    let column = Column {
        kind: ColumnType::F64,
        nullable: false,
        range: None,
    };
    let program = Program {
        rows: 40_000,
        columns: std::iter::once(column).collect(),
        functions: std::iter::once(Function::SumOfProducts { column: 0, by: 0 }).collect(),
    };
    let query = Query {
        metric: VectorMetric::Cosine,
        element: ElementType::F32,
        dimensions: 300,
        k: 5,
    };
    let run = |opcode, args: &[u32], windows: &[&[u8]]| {
        let mut task = Task::new(opcode, ALICE);
        task.args = args.iter().copied().collect();
        for window in windows {
            task.windows
                .push(device.buffers().stage(ALICE, window).unwrap());
        }
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, Status::Done);
        completed.result.to_vec()
    };
    let sum = run(
        FilterAggregate::OPCODE,
        &program.encode().unwrap(),
        &[&numbers],
    );
    let near = run(
        VectorTopk::OPCODE,
        &query.encode().unwrap(),
        &[&vectors, &vectors[..8 * 1200]],
    );
    quiet(&device);
    (sum, near)
}

#[test]
fn rounded_answers_are_the_same_bits_on_one_worker_and_on_four() {
    let expected = rounded_answers(1);
    assert_eq!((expected.0.len(), expected.1.len()), (32, 8 * 48));
    for _ in 0..8 {
        assert_eq!(rounded_answers(4), expected);
    }
}

#[test]
fn an_operation_that_asks_for_more_scratch_memory_than_there_is_fails_and_none_is_lent() {
    struct Greedy;
    impl HostOp for Greedy {
        fn opcode(&self) -> Opcode {
            Opcode::new(USER)
        }
        fn name(&self) -> &'static str {
            "greedy"
        }
        fn scratch(&self, task: &TaskArgs<'_>) -> Result<Scratch, OpError> {
            let words = task.arg(0)? as usize;
            Ok(Scratch {
                tile: words,
                task: words,
            })
        }
        fn run_tile(&self, _: u32, _: &TaskArgs<'_>, own: &mut [u64]) -> Result<Partial, OpError> {
            own.fill(3);
            Ok(Partial::EMPTY)
        }
        fn merge(
            &self,
            _: u32,
            _: &TaskArgs<'_>,
            own: &[u64],
            all: &mut [u64],
        ) -> Result<(), OpError> {
            for (all, own) in all.iter_mut().zip(own) {
                *all += own;
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
            out.write(&all.iter().sum::<u64>().to_le_bytes())
        }
    }
    let device = device(1, vec![Arc::new(Greedy)]);
    let (done, completions) = listener();
    let most = u32::try_from(SCRATCH_WORDS_MAX).unwrap();
    // Twice: what the first left is not in the second's.
    for (words, status) in [
        (most, Status::Done),
        (most, Status::Done),
        (
            most + 1,
            Status::Failed {
                code: OpError::SCRATCH_TOO_LONG.code,
            },
        ),
    ] {
        let mut task = Task::new(Opcode::new(USER), ALICE);
        task.args.push(words);
        device.publish(task, Arc::clone(&done)).unwrap();
        let completed = next(&completions);
        assert_eq!(completed.status, status);
        if status == Status::Done {
            assert_eq!(*completed.result, (3 * u64::from(words)).to_le_bytes());
        }
    }
    quiet(&device);
}
