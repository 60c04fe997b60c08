//! Refusals: what the device does not take, and whose it is.

use super::*;

#[test]
fn the_device_refuses_unknown_opcodes_stale_tenants_and_too_many_tiles() {
    let (mut op, _starts, _go) = gated(USER, 1_000_000);
    Arc::get_mut(&mut op).unwrap().owner = Some(BOB);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    let refused = |opcode, tenant| {
        device
            .publish(Task::new(opcode, tenant), Arc::clone(&done))
            .unwrap();
        next(&completions).status
    };
    let user = Opcode::new(USER);
    let unknown = Status::Refused(RefusedWhy::UnknownOpcode);
    assert_eq!(refused(Opcode::new(99), ALICE), unknown);
    assert_eq!(
        refused(user, ALICE),
        unknown,
        "another tenant's opcode is simply unknown"
    );
    assert_eq!(
        refused(user, BOB),
        Status::Refused(RefusedWhy::TooManyTiles)
    );
    let reborn = TenantId::new(0, 2);
    let stale = Status::Refused(RefusedWhy::StaleTenant);
    assert_eq!(refused(Noop::OPCODE, reborn), stale);
    device.register_tenant_generation(reborn).unwrap();
    assert_eq!(refused(Noop::OPCODE, ALICE), stale);
    assert_eq!(refused(Noop::OPCODE, reborn), Status::Done);
    let error = TenantError::Stale { tenant: ALICE };
    assert_eq!(device.revoke_tenant_generation(ALICE), Err(error));
    device.revoke_tenant_generation(reborn).unwrap();
    assert_eq!(refused(Noop::OPCODE, reborn), stale);
    quiet(&device);
}

#[test]
fn a_pad_cannot_be_published_as_an_operation() {
    let device = device(1, vec![]);
    let (done, _completions) = listener();
    let refused = device.publish(Task::new(Opcode::PAD, ALICE), done);
    assert_eq!(refused, Err(PublishRefused::Pad));
    quiet(&device);
}

#[test]
fn a_revoked_tenant_publishes_no_more_but_what_was_on_the_ring_runs() {
    let (op, starts, go) = gated(USER, 1);
    let device = device(1, vec![op]);
    let (done, completions) = listener();
    for _ in 0..3 {
        device
            .publish(Task::new(Opcode::new(USER), ALICE), Arc::clone(&done))
            .unwrap();
    }
    starts.recv_timeout(LIMIT).unwrap();
    device.revoke_tenant_generation(ALICE).unwrap();
    device
        .publish(Task::new(Opcode::new(USER), ALICE), done)
        .unwrap();
    drop(go);
    let mut ends: Vec<_> = (0..4).map(|_| next(&completions)).collect();
    ends.sort_by_key(|completed| completed.ticket.serial);
    let ends: Vec<_> = ends.iter().map(|completed| completed.status).collect();
    let stale = Status::Refused(RefusedWhy::StaleTenant);
    assert_eq!(ends, [Status::Done, Status::Done, Status::Done, stale]);
    quiet(&device);
}

#[test]
fn a_window_of_another_tenant_or_device_is_refused_at_publish() {
    let (device, other) = (device(1, vec![]), device(1, vec![]));
    let (done, _completions) = listener();
    let foreign = |pinned| {
        let mut task = Task::new(Noop::OPCODE, ALICE);
        task.windows.push(pinned);
        device.publish(task, Arc::clone(&done)).unwrap_err()
    };
    let expected = PublishRefused::ForeignWindow {
        window: 0,
        tenant: ALICE,
    };
    assert_eq!(
        foreign(device.buffers().stage(BOB, b"x").unwrap()),
        expected
    );
    assert_eq!(
        foreign(other.buffers().stage(ALICE, b"x").unwrap()),
        expected
    );
    quiet(&device);
    assert_eq!(device.buffers().available(), device.buffers().capacity());
}

#[test]
fn an_opcode_is_registered_once_and_only_in_the_user_range() {
    let (op, ..) = gated(USER, 1);
    let (low, ..) = gated(USER - 1, 1);
    let device = device(1, vec![op.clone()]);
    let taken = RegisterError::Taken {
        opcode: USER,
        by: "gated",
    };
    assert_eq!(device.register_op(op), Err(taken));
    assert_eq!(
        device.register_op(low),
        Err(RegisterError::Reserved { opcode: USER - 1 })
    );
    let (later, ..) = gated(USER + 1, 0);
    device.register_op(later).unwrap();
    let (done, completions) = listener();
    device
        .publish(Task::new(Opcode::new(USER + 1), ALICE), done)
        .unwrap();
    assert_eq!(next(&completions).status, Status::Done);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let open = |change: fn(&mut DeviceOptions)| {
        let mut options = options(1);
        change(&mut options);
        match Device::open(&options, vec![]) {
            Err(OpenError::Option { option, .. }) => option,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(open(|o| o.entry_slots = 8), "entry_slots");
    assert_eq!(open(|o| o.entry_slots = 48), "entry_slots");
    assert_eq!(open(|o| o.tickets_max = 0), "tickets_max");
    assert_eq!(open(|o| o.result_bytes_max = 100), "result_bytes_max");
    assert_eq!(open(|o| o.workers = 257), "workers");
    assert_eq!(open(|o| o.arena_bytes = 0), "arena_bytes");
    assert_eq!(open(|o| o.arena_bytes = 1 << 40), "arena_bytes");
    assert_eq!(open(|o| o.buffer_slots = 0), "buffer_slots");
    assert_eq!(open(|o| o.tiles_max = 0), "tiles_max");
    assert_eq!(open(|o| o.spin = Duration::from_secs(1)), "spin");
    assert_eq!(open(|o| o.epoch = 0), "epoch");
}
