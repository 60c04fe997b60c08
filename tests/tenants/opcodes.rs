//! Opcodes of a tenant's own, through the engine: who reaches what is private, and who is told.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use orlop::op::{OpError, Output, Partial, TaskArgs};
use orlop::{
    Computation, DeviceFunction, Engine, EngineBuilder, Failure, HostOp, Key, MemorySink, Object,
    Opcode, OpenError, Operation, Plan, Pure, RegisterError, Saga, SagaContext, SagaError,
    SubmitError, TenantManager, wait,
};
use parking_lot::Mutex;

use crate::support::{Two, builder, patient};

const LIMIT: Duration = Duration::from_mins(1);

/// An operation that says which it is.
struct Says {
    name: &'static str,
    number: u64,
    /// Told when it begins, and waited for before it ends.
    gate: Option<(Sender<()>, Mutex<Receiver<()>>)>,
}

impl HostOp for Says {
    // Where it is private, what stands beside it counts.
    fn opcode(&self) -> Opcode {
        Opcode::USER_FIRST
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn run_tile(&self, _: u32, _: &TaskArgs<'_>, _: &mut [u64]) -> Result<Partial, OpError> {
        if let Some((begun, go)) = &self.gate {
            let _ = begun.send(());
            // A closed gate stands open.
            let _ = go.lock().recv();
        }
        Ok(Partial::EMPTY)
    }

    fn reduce(
        &self,
        _: &TaskArgs<'_>,
        _: &[Partial],
        _: &mut [u64],
        out: &mut Output<'_>,
    ) -> Result<(), OpError> {
        out.write(&self.number.to_le_bytes())
    }
}

/// A private computation's way to its operation.
#[derive(Clone)]
struct Private {
    local: u32,
    op: Option<Arc<Says>>,
}

impl Private {
    fn new(local: u32, number: u64) -> Self {
        let (name, gate) = ("says", None);
        let op = Says { name, number, gate };
        let op = Some(Arc::new(op));
        Self { local, op }
    }
}

macro_rules! private {
    ($type:ident, $name:literal) => {
        #[derive(Clone, Copy)]
        struct $type;

        impl Computation for $type {
            const NAME: &'static str = $name;
            type Input = u64;
            type Output = u64;
            type Kind = Pure;
        }

        impl DeviceFunction<$type> for Private {
            fn opcode(&self) -> Opcode {
                Opcode::new(self.local)
            }

            fn op(&self) -> Option<Arc<dyn HostOp>> {
                self.op.clone().map(|op| op as Arc<dyn HostOp>)
            }

            fn plan(&self, _: u64) -> Result<Plan, Failure> {
                Ok(Plan::default())
            }

            fn output(&self, result: &[u8]) -> Result<u64, Failure> {
                let bytes = <[u8; 8]>::try_from(result).map_err(Failure::permanent)?;
                Ok(u64::from_le_bytes(bytes))
            }
        }
    };
}

private!(Price, "price");
private!(Score, "score");
private!(Guess, "guess");

/// A saga with a step that is alice's alone.
struct Prices;

impl Saga for Prices {
    const NAME: &'static str = "prices";
    type Input = u64;
    type Output = u64;

    async fn run(&self, saga: SagaContext, input: u64) -> Result<u64, SagaError> {
        Ok(saga.step("price", Price, input).await?)
    }
}

fn private(folder: &Path) -> EngineBuilder {
    builder(folder, patient())
        .opcodes("alice", 4)
        .opcodes("mallory", 2)
        .private_device("alice", Price, Private::new(3, 33))
        .private_device("alice", Score, Private::new(0, 30))
        .private_device("mallory", Guess, Private::new(0, 10))
        .saga(Prices)
}

fn two(builder: EngineBuilder) -> Two {
    let told = MemorySink::new(4096);
    let engine = builder.audit_sink(told.clone()).open_blocking().unwrap();
    let mallory = wait(engine.manage("mallory")).unwrap();
    let alice = wait(engine.manage("alice")).unwrap();
    Two {
        engine,
        told,
        mallory,
        alice,
    }
}

fn opcode(manager: &TenantManager, local: u32) -> u32 {
    manager.opcodes().unwrap().first().get() + local
}

#[test]
fn a_private_computation_runs_for_its_tenant_and_is_unregistered_to_another_who_is_audited() {
    let folder = tempfile::tempdir().unwrap();
    let two = two(private(folder.path()));
    let (alice, mallory) = (two.alice.tenant(), two.mallory.tenant());
    assert_eq!(wait(alice.submit(Price, 1_u64)).unwrap().output, 33);
    assert_eq!(wait(alice.submit(Score, 1_u64)).unwrap().output, 30);
    assert_eq!(wait(mallory.submit(Guess, 1_u64)).unwrap().output, 10);
    assert_eq!(two.denials(), []);
    let refused = wait(mallory.submit(Price, 1_u64)).unwrap_err();
    assert_eq!(refused, SubmitError::Unregistered { name: "price" });
    let refused = wait(mallory.enqueue(Price, 1_u64)).unwrap_err();
    assert_eq!(refused, SubmitError::Unregistered { name: "price" });
    let batch = wait(mallory.submit_batch(Score, [1_u64])).unwrap();
    let refused = SubmitError::Unregistered { name: "score" };
    assert_eq!(batch, [Err(refused)]);
    let denial = |local| {
        let object = Object::Opcode(opcode(&two.alice, local));
        two.denial(Operation::Run, object)
    };
    assert_eq!(two.denials(), [denial(3), denial(3), denial(0)]);
    two.close();
}

#[test]
fn a_step_that_is_another_tenants_pauses_the_saga_as_one_that_is_not_registered() {
    let folder = tempfile::tempdir().unwrap();
    let two = two(private(folder.path()));
    let own = wait(two.alice.tenant().start::<Prices>(Key::named("s"), 1_u64)).unwrap();
    assert_eq!(wait(own).unwrap().output, 33);
    let mallory = two.mallory.tenant();
    let ticket = wait(mallory.start::<Prices>(Key::named("s"), 1_u64)).unwrap();
    let held = wait(ticket).unwrap_err();
    let SubmitError::Stuck { reason, .. } = held else {
        panic!("{held:?}");
    };
    assert!(reason.contains("price"), "{reason}");
    assert!(reason.contains("not registered"), "{reason}");
    let object = Object::Opcode(opcode(&two.alice, 3));
    assert_eq!(two.denials(), [two.denial(Operation::Run, object)]);
    two.close();
}

#[test]
fn windows_of_two_tenants_do_not_overlap_and_who_was_given_none_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let two = two(private(folder.path()));
    let (alice, mallory) = (two.alice.opcodes().unwrap(), two.mallory.opcodes().unwrap());
    assert_eq!((alice.count(), mallory.count()), (4, 2));
    assert!(alice.first() >= Opcode::USER_FIRST);
    for opcode in (0..2).map(|local| Opcode::new(mallory.first().get() + local)) {
        assert!(!alice.contains(opcode));
    }
    let bob = wait(two.engine.manage("bob")).unwrap();
    assert_eq!(bob.opcodes(), None);
    two.close();
}

#[test]
fn accepted_private_work_finds_its_operation_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (begun, begins) = channel();
    let (go, gate) = channel();
    let op = Says {
        name: "says",
        number: 1,
        gate: Some((begun, Mutex::new(gate))),
    };
    let function = Private {
        local: 1,
        op: Some(Arc::new(op)),
    };
    let open = |function: Private| {
        let engine = builder(folder.path(), patient()).opcodes("alice", 2);
        let engine = engine.private_device("alice", Price, function);
        engine.open_blocking().unwrap()
    };
    let engine = open(function);
    let alice = engine.blocking().tenant("alice").unwrap();
    let key = Key::named("k");
    let ticket = wait(alice.enqueue(Price, 1_u64).key(key)).unwrap();
    begins.recv_timeout(LIMIT).unwrap();
    // The engine ends before the operation does.
    drop(ticket);
    let closing = std::thread::spawn(move || engine.blocking().close());
    drop(go);
    closing.join().unwrap().unwrap();
    let engine = open(Private::new(1, 2));
    let alice = engine.blocking().tenant("alice").unwrap();
    let reply = wait(alice.submit(Price, 1_u64).key(key)).unwrap();
    assert!([1, 2].contains(&reply.output));
    // What was not settled before runs by what is bound now.
    let fresh = wait(alice.submit(Price, 2_u64)).unwrap();
    assert_eq!(fresh.output, 2);
    engine.blocking().close().unwrap();
}

#[test]
fn a_later_life_has_a_window_of_its_own_and_the_one_before_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let two = two(private(folder.path()));
    let before = two.alice.clone();
    let window = before.opcodes().unwrap();
    wait(before.suspend()).unwrap();
    wait(before.unregister()).unwrap();
    assert_eq!(before.opcodes(), None);
    let refused = wait(before.tenant().submit(Price, 1_u64)).unwrap_err();
    assert!(matches!(refused, SubmitError::Refused(_)), "{refused:?}");
    // Nobody is called alice now: there is nothing of another's to reach.
    two.entries();
    let refused = wait(two.mallory.tenant().submit(Price, 1_u64)).unwrap_err();
    assert_eq!(refused, SubmitError::Unregistered { name: "price" });
    assert_eq!(two.denials(), []);
    let after = wait(two.engine.manage("alice")).unwrap();
    assert_ne!(after.tenant().id(), before.tenant().id());
    // Nothing of the life before is in flight: its opcodes are given again.
    assert_eq!(after.opcodes(), Some(window));
    assert_eq!(
        wait(after.tenant().submit(Price, 1_u64)).unwrap().output,
        33
    );
    assert_eq!(before.opcodes(), None);
    two.close();
}

fn refusal(build: impl FnOnce(EngineBuilder) -> EngineBuilder) -> RegisterError {
    let folder = tempfile::tempdir().unwrap();
    match build(Engine::builder(folder.path())).open_blocking() {
        Err(OpenError::Register(error)) => error,
        other => panic!("{:?}", other.map(drop)),
    }
}

#[test]
fn a_private_opcode_out_of_its_tenants_window_is_refused_with_what_was_asked_and_the_size() {
    let out_of_range = |asked, count| RegisterError::OpcodeOutOfRange {
        name: "price",
        asked,
        count,
    };
    let refused = refusal(|builder| {
        let builder = builder.opcodes("alice", 3).opcodes("bob", 9);
        builder.private_device("alice", Price, Private::new(3, 0))
    });
    assert_eq!(refused, out_of_range(3, 3));
    // Who was given none has none.
    let refused = refusal(|builder| builder.private_device("alice", Price, Private::new(0, 0)));
    assert_eq!(refused, out_of_range(0, 0));
}

#[test]
fn opcodes_that_cannot_be_given_are_refused_before_anything_is_open() {
    let twice = refusal(|builder| builder.opcodes("alice", 1).opcodes("alice", 1));
    let tenant = "alice".to_owned();
    assert_eq!(twice, RegisterError::OpcodesTwice { tenant });
    let full = refusal(|builder| builder.opcodes("alice", 1 << 16).opcodes("bob", 1));
    let (asked, count_max) = ((1 << 16) + 1, 1 << 16);
    assert_eq!(full, RegisterError::OpcodesFull { asked, count_max });
    let taken = refusal(|builder| {
        let builder = builder.opcodes("alice", 2);
        let builder = builder.private_device("alice", Price, Private::new(1, 0));
        builder.private_device("alice", Score, Private::new(1, 0))
    });
    let (name, local, by) = ("score", 1, "price");
    assert_eq!(taken, RegisterError::OpcodeTaken { name, local, by });
    let none = refusal(|builder| {
        let nothing = Private { local: 0, op: None };
        let builder = builder.opcodes("alice", 1);
        builder.private_device("alice", Price, nothing)
    });
    assert_eq!(none, RegisterError::NoOperation { name: "price" });
    let label = refusal(|builder| builder.opcodes("", 1));
    assert!(matches!(label, RegisterError::Label(_)), "{label:?}");
}
