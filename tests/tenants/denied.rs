//! Denials: whatever a tenant's handle meets that is another's is refused where it is used, with
//! an answer that says nothing, and told to the audit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use orlop::{
    AbandonError, AuditEvent, AuditOptions, Blake3, CancelError, Key, MemorySink, Object,
    Operation, Origin, PauseError, Quotas, Refusal, ResumeError, RetryError, SagaId, SagaQuery,
    ShowError, SignalError, SignalId, SinkError, SkipUndoError, SubmitError, wait,
};
use tempfile::tempdir;

use crate::support::{Doing, Double, Listener, Two, builder, patient};

fn path() -> orlop::StepPath {
    orlop::StepPath::root("word").unwrap()
}

#[test]
fn every_verb_on_a_saga_of_another_tenant_is_denied_as_if_there_were_none_and_audited() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let key = Key::named("k");
    let ticket = wait(two.alice.tenant().start::<Listener>(key, 1_u64)).unwrap();
    let hers = ticket.id().unwrap();
    let operator = two.mallory.operator();
    // The same answers as for a saga that never was.
    for saga in [hers, SagaId::new(u64::MAX - 1)] {
        let id = SignalId::named("1");
        let signal = two.mallory.tenant().signal(saga, "word", id, &7_u64);
        assert_eq!(wait(signal), Err(SignalError::NotRunning));
        assert!(matches!(wait(operator.show(saga)), Err(ShowError::Unknown)));
        assert!(matches!(
            wait(operator.export(saga)),
            Err(ShowError::Unknown)
        ));
        assert_eq!(wait(operator.pause(saga, "mine")), Err(PauseError::Unknown));
        assert_eq!(wait(operator.resume(saga)), Err(ResumeError::Unknown));
        assert_eq!(wait(operator.retry(saga, path())), Err(RetryError::Unknown));
        let skipped = wait(operator.skip_undo(saga, path(), "mine"));
        assert_eq!(skipped, Err(SkipUndoError::Unknown));
        let abandoned = wait(operator.abandon(saga, "mine"));
        assert!(matches!(abandoned, Err(AbandonError::Unknown)));
    }
    let saga = Object::Saga(hers);
    let expected: Vec<_> = [
        Operation::Signal,
        Operation::Look,
        Operation::Look,
        Operation::Change,
        Operation::Change,
        Operation::Change,
        Operation::Change,
        Operation::Change,
    ]
    .map(|operation| two.denial(operation, saga))
    .into();
    assert_eq!(two.denials(), expected);
    let all = SagaQuery {
        tenant: Some(two.alice.tenant().id()),
        ..SagaQuery::default()
    };
    assert!(wait(operator.list(all)).unwrap().sagas.is_empty());
    let listed = Object::SagasOf(two.alice.tenant().id());
    assert_eq!(two.denials(), [two.denial(Operation::Look, listed)]);
    // It goes on as if nothing had been.
    let signal = two.alice.tenant();
    wait(signal.signal(hers, "word", SignalId::named("1"), &7_u64)).unwrap();
    assert_eq!(wait(ticket).unwrap().output, 7);
    // Ended, it is as unknown as before.
    let shown = wait(operator.show(hers));
    assert!(matches!(shown, Err(ShowError::Unknown)));
    assert_eq!(two.denials(), [two.denial(Operation::Look, saga)]);
    // Her own verbs are no attempts.
    wait(two.alice.operator().show(hers)).unwrap();
    assert!(two.denials().is_empty());
    two.close();
}

#[test]
fn a_key_of_another_tenant_is_unknown_and_asking_for_it_is_audited() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let (runs, done) = (Key::named("runs"), Key::named("done"));
    let _ticket = wait(two.alice.tenant().start::<Listener>(runs, 1_u64)).unwrap();
    wait(two.alice.tenant().submit(Double, 4_u64).key(done)).unwrap();
    for key in [runs, done, Key::named("nobody's")] {
        let id = SignalId::named("1");
        let signal = two.mallory.tenant().signal(key, "word", id, &7_u64);
        assert_eq!(wait(signal), Err(SignalError::NotRunning));
        assert_eq!(wait(two.mallory.cancel_saga(key)), Err(CancelError::Ended));
        assert!(!two.mallory.retry(key));
        assert_eq!(wait(two.mallory.operator().find(key)), None);
    }
    let operations = [
        Operation::Signal,
        Operation::Cancel,
        Operation::Change,
        Operation::Look,
    ];
    let expected: Vec<_> = [runs, done]
        .into_iter()
        .flat_map(|key| operations.map(|operation| two.denial(operation, Object::Key(key))))
        .collect();
    assert_eq!(two.denials(), expected);
    two.close();
}

#[test]
fn equal_keys_of_two_tenants_neither_join_nor_replay_nor_conflict() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let key = Key::named("k");
    let hers = wait(two.alice.tenant().submit(Double, 4_u64).key(key)).unwrap();
    let same = wait(two.mallory.tenant().submit(Double, 4_u64).key(key)).unwrap();
    assert_eq!((hers.origin, same.origin), (Origin::Ran, Origin::Ran));
    let key = Key::named("l");
    wait(two.alice.tenant().submit(Double, 4_u64).key(key)).unwrap();
    let other = wait(two.mallory.tenant().submit(Double, 5_u64).key(key)).unwrap();
    assert_eq!((other.output, other.origin), (10, Origin::Ran));
    // Derived keys of equal work are two, too.
    let hers = wait(two.alice.tenant().submit(Double, 6_u64)).unwrap();
    let his = wait(two.mallory.tenant().submit(Double, 6_u64)).unwrap();
    assert_eq!(his.origin, Origin::Ran);
    assert_ne!(hers.key, his.key);
    // Nothing of either runs any more: there is nobody to be told, and no attempt.
    let signal = two.mallory.tenant();
    let signal = signal.signal(key, "word", SignalId::named("1"), &7_u64);
    assert_eq!(wait(signal), Err(SignalError::NotRunning));
    assert!(two.denials().is_empty(), "a key of one's own is no attempt");
    two.close();
}

#[test]
fn the_ledger_of_another_tenant_is_not_shown_and_asking_for_it_is_audited() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    wait(two.alice.tenant().submit(Double, 1_u64)).unwrap();
    let hers = two.alice.tenant().id();
    let asked = wait(two.mallory.ledger().lines_of(hers));
    assert!(asked.is_err());
    assert!(wait(two.mallory.ledger().lines()).unwrap().is_empty());
    let ledger = Object::Ledger(hers);
    assert_eq!(two.denials(), [two.denial(Operation::Look, ledger)]);
    assert_eq!(wait(two.alice.ledger().lines_of(hers)).unwrap().len(), 1);
    assert!(two.denials().is_empty());
    two.close();
}

#[test]
fn the_first_tenant_there_is_passes_by_no_check() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let first = two.mallory.tenant();
    assert!(
        two.engine
            .snapshot()
            .tenants
            .iter()
            .all(|it| it.id >= first.id())
    );
    let hers = two.alice.tenant();
    let hers = wait(hers.start::<Listener>(Key::named("k"), 1_u64)).unwrap();
    let hers = hers.id().unwrap();
    let shown = wait(two.mallory.operator().show(hers));
    assert!(matches!(shown, Err(ShowError::Unknown)));
    assert_eq!(
        two.denials(),
        [two.denial(Operation::Look, Object::Saga(hers))]
    );
    let none = Quotas {
        slots_max: 0,
        ..Quotas::UNLIMITED
    };
    wait(two.mallory.set_quotas(none)).unwrap();
    let refused = wait(first.submit(Double, 1_u64));
    assert!(matches!(
        refused,
        Err(SubmitError::Refused(Refusal::NeverFits { .. }))
    ));
    wait(two.mallory.set_quotas(Quotas::UNLIMITED)).unwrap();
    wait(two.mallory.suspend()).unwrap();
    let refused = wait(first.submit(Double, 1_u64));
    assert!(matches!(
        refused,
        Err(SubmitError::Refused(Refusal::Suspended { .. }))
    ));
    two.close();
}

#[test]
fn a_buffer_of_another_tenant_is_not_read_and_naming_it_is_audited() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let bytes = vec![9_u8; 100_000];
    let hers = two.alice.tenant().buffer(&bytes).unwrap();
    let nobodys = orlop::BufferRef {
        digest: orlop::Digest::of(b"nobody's"),
        ..hers.reference()
    };
    for reference in [nobodys, hers.reference()] {
        let read = wait(two.mallory.tenant().submit(Blake3, reference));
        assert!(matches!(read, Err(SubmitError::Exhausted(_))), "{read:?}");
    }
    let named = Object::Buffer(hers.digest());
    assert_eq!(two.denials(), [two.denial(Operation::Run, named)]);
    let own = wait(two.alice.tenant().submit(Blake3, hers.reference())).unwrap();
    assert_eq!(own.output, hers.digest());
    assert!(two.denials().is_empty());
    two.close();
}

#[test]
fn a_flood_of_attempts_is_told_up_to_a_bound_and_counted_exactly() {
    let folder = tempdir().unwrap();
    let few = AuditOptions {
        denials_per_tenant_max: 3,
        ..patient()
    };
    let two = Two::with(folder.path(), few);
    let key = Key::named("k");
    let ticket = wait(two.alice.tenant().start::<Listener>(key, 1_u64)).unwrap();
    let hers = ticket.id().unwrap();
    let flood = |times: u64| {
        for n in 0..times {
            let id = SignalId::named(&n.to_string());
            let signal = two.mallory.tenant().signal(hers, "word", id, &n);
            assert_eq!(wait(signal), Err(SignalError::NotRunning));
        }
    };
    for times in [40, 2, 3, 4] {
        flood(times);
        let (mut one_by_one, mut counted) = (0, 0);
        for entry in two.entries() {
            match entry.event {
                AuditEvent::Denied(_) => one_by_one += 1,
                AuditEvent::Suppressed { who, count, .. } => {
                    assert_eq!(&*who.label, "mallory");
                    counted += count;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((one_by_one, one_by_one + counted), (times.min(3), times));
    }
    let counts = two.engine.snapshot().audit;
    assert_eq!((counts.denied, counts.suppressed), (49, 37 + 1));
    two.close();
}

#[test]
fn refusals_are_summed_by_tenant_and_reason_and_none_is_lost() {
    let folder = tempdir().unwrap();
    let two = Two::open(folder.path());
    let none = Quotas {
        slots_max: 0,
        ..Quotas::UNLIMITED
    };
    wait(two.mallory.set_quotas(none)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (tenant, engine) = (two.mallory.tenant(), &two.engine);
            scope.spawn(move || {
                for n in 0..100 {
                    wait(tenant.submit(Double, thread * 1000 + n)).unwrap_err();
                    if n % 10 == 0 {
                        wait(engine.flush_audit());
                    }
                }
            });
        }
    });
    wait(two.mallory.suspend()).unwrap();
    wait(two.mallory.tenant().submit(Double, 1_u64)).unwrap_err();
    let mut sums = std::collections::BTreeMap::new();
    for entry in two.entries() {
        let AuditEvent::Refused {
            who, reason, count, ..
        } = entry.event
        else {
            panic!("{entry:?}");
        };
        assert_eq!(who.tenant, two.mallory.tenant().id());
        *sums.entry(reason.into_string()).or_insert(0) += count;
    }
    let expected = [("never_fits".to_owned(), 400), ("suspended".to_owned(), 1)];
    assert_eq!(sums, expected.into());
    assert_eq!(two.engine.snapshot().audit.refused, 401);
    two.close();
}

#[test]
fn sums_are_told_interval_by_interval_without_being_asked_for_and_none_waits_for_the_next() {
    let folder = tempdir().unwrap();
    let often = AuditOptions {
        interval: std::time::Duration::from_millis(1),
        ..patient()
    };
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let engine = builder(folder.path(), often)
        .audit_sink(Doing(Arc::new(move |entries: &[orlop::AuditEntry]| {
            for entry in entries {
                let AuditEvent::Refused { count, .. } = &entry.event else {
                    panic!("{entry:?}");
                };
                tell.lock().unwrap().send(*count).unwrap();
            }
            Ok(())
        })))
        .open_blocking()
        .unwrap();
    let mallory = wait(engine.manage("mallory")).unwrap();
    wait(mallory.suspend()).unwrap();
    let mut sums = 0;
    for round in 1..=20_u64 {
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let tenant = mallory.tenant();
                scope.spawn(move || {
                    for n in 0..50 {
                        wait(tenant.submit(Double, thread * 1000 + n)).unwrap_err();
                    }
                });
            }
        });
        // Whoever counted last has woken the clerk: nothing of this round waits for another one.
        while sums < round * 200 {
            sums += told.recv().unwrap();
        }
        assert_eq!(sums, round * 200);
    }
    engine.blocking().close().unwrap();
}

#[test]
fn a_sink_that_fails_panics_or_blocks_stops_no_work_and_is_counted() {
    let folder = tempdir().unwrap();
    let (heard, blocked) = (MemorySink::new(16), Arc::new(AtomicBool::new(true)));
    let (enter, entered) = mpsc::channel();
    let enter = Mutex::new(enter);
    let stuck = Arc::clone(&blocked);
    let engine = builder(folder.path(), patient())
        .audit_sink(Doing(Arc::new(|_: &[_]| Err(SinkError("full".to_owned())))))
        .audit_sink(Doing(Arc::new(|_: &[_]| panic!("a sink's own fault"))))
        .audit_sink(heard.clone())
        .audit_sink(Doing(Arc::new(move |_: &[_]| {
            enter.lock().unwrap().send(()).unwrap();
            while stuck.load(Ordering::Acquire) {
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
            Ok(())
        })))
        .open_blocking()
        .unwrap();
    let mallory = wait(engine.manage("mallory")).unwrap();
    let alice = engine.blocking().tenant("alice").unwrap();
    let ticket = wait(alice.start::<Listener>(Key::named("k"), 1_u64)).unwrap();
    let hers = ticket.id().unwrap();
    let shown = wait(mallory.operator().show(hers));
    assert!(matches!(shown, Err(ShowError::Unknown)));
    entered
        .recv()
        .expect("the sink before it took the clerk along");
    assert_eq!(heard.entries().len(), 1);
    // The clerk is in the sink that blocks; nobody else is.
    for n in 0..100 {
        let shown = wait(mallory.operator().show(hers));
        assert!(matches!(shown, Err(ShowError::Unknown)));
        assert_eq!(wait(alice.submit(Double, n)).unwrap().output, n * 2);
    }
    blocked.store(false, Ordering::Release);
    wait(engine.flush_audit());
    let counts = engine.snapshot().audit;
    assert_eq!(counts.denied, 101);
    assert_eq!(
        heard.entries().len() as u64 + heard.dropped(),
        65,
        "64, and a sum"
    );
    assert_eq!(counts.failed, 2 * 65);
    engine.blocking().close().unwrap();
}
