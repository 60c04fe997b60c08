//! Opcode windows: a tenant's own operations, and nobody else's way to them.

use super::*;

/// Answers with a number of its own.
fn says(number: u8) -> Arc<dyn HostOp> {
    let run = move |_: u32, _: &TaskArgs<'_>, out: Option<&mut Output<'_>>| {
        out.map_or(Ok(()), |out| out.write(&[number]))?;
        Ok(Partial::EMPTY)
    };
    Arc::new(Free(0, |_: &TaskArgs<'_>| Ok(1), run))
}

fn local(number: u32) -> LocalOpcode {
    LocalOpcode::new(number)
}

const UNKNOWN: Status = Status::Refused(RefusedWhy::UnknownOpcode);

/// How `tenant` fares with an opcode of the device.
fn ask(device: &Device, tenant: TenantId, opcode: Opcode) -> (Status, Vec<u8>) {
    let (done, completions) = listener();
    device.publish(Task::new(opcode, tenant), done).unwrap();
    let completed = next(&completions);
    (completed.status, completed.result.to_vec())
}

#[test]
fn the_same_local_opcode_of_two_tenants_is_two_operations_and_neither_reaches_the_others() {
    let device = device(1, vec![]);
    for (tenant, number) in [(ALICE, 1), (BOB, 2)] {
        let ops = [(local(0), says(number)), (local(2), says(number + 10))];
        let window = device.install_ops(tenant, 3, &ops).unwrap();
        assert_eq!(device.opcode_window(tenant), Some(window));
    }
    let opcode = |tenant, number| device.translate(tenant, local(number)).unwrap();
    let (alice, bob) = (opcode(ALICE, 0), opcode(BOB, 0));
    assert_ne!(alice.get(), bob.get());
    assert_eq!(ask(&device, ALICE, alice.get()), (Status::Done, vec![1]));
    assert_eq!(ask(&device, BOB, bob.get()), (Status::Done, vec![2]));
    let last = opcode(BOB, 2);
    assert_eq!(ask(&device, BOB, last.get()), (Status::Done, vec![12]));
    // Who guesses the number of another's is told what is told of one that nobody has.
    assert_eq!(ask(&device, BOB, alice.get()).0, UNKNOWN);
    assert_eq!(ask(&device, ALICE, bob.get()).0, UNKNOWN);
    assert_eq!(ask(&device, ALICE, opcode(ALICE, 1).get()).0, UNKNOWN);
    assert_eq!(device.opcode_owner(alice.get()), Some(ALICE));
    assert_eq!(device.opcode_owner(bob.get()), Some(BOB));
    assert_eq!(device.opcode_owner(Noop::OPCODE), None);
    quiet(&device);
}

#[test]
fn a_local_opcode_out_of_its_window_is_refused_with_what_was_asked_and_the_windows_size() {
    let device = device(1, vec![]);
    device
        .install_ops(ALICE, 2, &[(local(0), says(1))])
        .unwrap();
    device.install_ops(BOB, 2, &[(local(0), says(2))]).unwrap();
    for asked in [2, 3, u32::MAX] {
        let refused = device.translate(ALICE, local(asked)).unwrap_err();
        assert_eq!(refused, TranslateError::OutOfRange { asked, count: 2 });
    }
    let other = TenantId::new(ALICE.slot(), ALICE.generation() + 1);
    let refused = device.translate(other, local(0)).unwrap_err();
    assert_eq!(refused, TranslateError::NoWindow { tenant: other });
}

#[test]
fn what_cannot_be_installed_changes_nothing() {
    let device = device(1, vec![]);
    let install = |count, ops: &[(LocalOpcode, Arc<dyn HostOp>)]| {
        let refused = device.install_ops(ALICE, count, ops).unwrap_err();
        assert_eq!(device.opcode_window(ALICE), None);
        refused
    };
    assert_eq!(install(0, &[]), InstallError::Empty);
    let range = TranslateError::OutOfRange { asked: 1, count: 1 };
    let beyond = [(local(0), says(1)), (local(1), says(1))];
    assert_eq!(install(1, &beyond), InstallError::Range(range));
    let twice = [(local(0), says(1)), (local(0), says(2))];
    assert_eq!(install(1, &twice), InstallError::Twice { local: 0 });
    let (asked, longest) = (WINDOWED_OPCODES_MAX + 1, WINDOWED_OPCODES_MAX);
    assert_eq!(install(asked, &[]), InstallError::Full { asked, longest });
    let many: Vec<_> = (0..5_000).map(|number| (local(number), says(0))).collect();
    let table_full = InstallError::TableFull { ops_max: 4096 };
    assert_eq!(install(5_000, &many), table_full);
    // All of it is free still.
    let window = device.install_ops(ALICE, longest, &[]).unwrap();
    assert_eq!(device.opcode_owner(window.first()), None);
    let again = device.install_ops(ALICE, 1, &[]).unwrap_err();
    let (tenant, count) = (ALICE, longest);
    assert_eq!(again, InstallError::Given { tenant, count });
}

#[test]
fn no_operation_is_registered_in_the_range_of_windows() {
    let device = device(1, vec![]);
    let first = device.install_ops(ALICE, 1, &[]).unwrap().first();
    let (op, ..) = gated(first.get(), 1);
    let refused = device.register_op(op).unwrap_err();
    let opcode = first.get();
    assert_eq!(refused, RegisterError::Windowed { opcode });
}

#[test]
fn a_window_is_given_again_only_when_nothing_of_its_life_is_in_flight() {
    let device = device(1, vec![]);
    let (op, starts, go) = gated(USER, 1);
    let all = WINDOWED_OPCODES_MAX;
    let old = device.install_ops(ALICE, all, &[(local(0), op)]).unwrap();
    let pinned = device.translate(ALICE, local(0)).unwrap();
    let opcode = pinned.get();
    let (tell, completions) = channel();
    let tell = Mutex::new(tell);
    // What is in flight keeps its window.
    let done = move |completed: Completed| {
        assert_eq!(pinned.get(), opcode);
        tell.lock().send(completed.status).unwrap();
    };
    device
        .publish(Task::new(opcode, ALICE), Arc::new(done))
        .unwrap();
    starts.recv_timeout(LIMIT).unwrap();
    let reborn = TenantId::new(ALICE.slot(), ALICE.generation() + 1);
    device.register_tenant_generation(reborn).unwrap();
    assert_eq!(device.opcode_window(ALICE), None);
    let gone = TranslateError::NoWindow { tenant: ALICE };
    assert_eq!(device.translate(ALICE, local(0)).unwrap_err(), gone);
    let ops = [(local(0), says(7))];
    let refused = device.install_ops(reborn, 1, &ops).unwrap_err();
    let (asked, longest) = (1, 0);
    assert_eq!(refused, InstallError::Full { asked, longest });
    drop(go);
    let status = completions.recv_timeout(LIMIT).unwrap();
    assert_eq!(status, Status::Done);
    quiet(&device);
    let window = device.install_ops(reborn, 1, &ops).unwrap();
    assert_eq!(window.first(), old.first());
    assert_eq!(ask(&device, reborn, opcode), (Status::Done, vec![7]));
    // The life before has that number in its hands still.
    assert_eq!(
        ask(&device, ALICE, opcode).0,
        Status::Refused(RefusedWhy::StaleTenant)
    );
    quiet(&device);
}

#[test]
fn an_operation_of_another_generation_of_its_owner_is_unknown() {
    let (mut op, _starts, go) = gated(USER, 0);
    Arc::get_mut(&mut op).unwrap().owner = Some(ALICE);
    drop(go);
    let device = device(1, vec![op]);
    let user = Opcode::new(USER);
    assert_eq!(ask(&device, ALICE, user).0, Status::Done);
    let reborn = TenantId::new(ALICE.slot(), ALICE.generation() + 1);
    device.register_tenant_generation(reborn).unwrap();
    assert_eq!(ask(&device, reborn, user).0, UNKNOWN);
    quiet(&device);
}

#[test]
fn a_revoked_life_leaves_its_window_to_the_next_one_that_asks() {
    let device = device(1, vec![]);
    let all = WINDOWED_OPCODES_MAX;
    let window = device
        .install_ops(ALICE, all, &[(local(0), says(1))])
        .unwrap();
    assert!(device.install_ops(BOB, 1, &[]).is_err());
    device.revoke_tenant_generation(ALICE).unwrap();
    assert_eq!(
        device.install_ops(BOB, 1, &[]).unwrap().first(),
        window.first()
    );
    // What was in it is gone with it.
    assert_eq!(device.opcode_owner(window.first()), None);
    assert_eq!(ask(&device, BOB, window.first()).0, UNKNOWN);
}
