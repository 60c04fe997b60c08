//! Buffers: the faults of earlier memory managers that must not come back, and a model.
#![allow(clippy::wildcard_enum_match_arm, clippy::single_match_else)]

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use orlop_saga::amount::ByteCount;
use orlop_saga::digest::Digest;
use proptest::prelude::*;

use super::error::{AccessError, BindError, CreateError, FreeError, SealError, WriteError};
use super::{BufferId, BufferRef, Buffers, Evicted, Freed, MemoryClass, PinnedWindow, Room};
use crate::tests::{ALICE, BOB, device, options};
use crate::{Device, DeviceOptions};

fn full(buffers: &Buffers) {
    assert_eq!(
        buffers.available(),
        buffers.capacity(),
        "a slot or bytes leaked"
    );
}

#[test]
fn a_stale_id_reads_and_frees_nobody_elses_buffer() {
    let device = Device::open(
        &DeviceOptions {
            buffer_slots: 1,
            ..options(1)
        },
        vec![],
    )
    .unwrap();
    let buffers = device.buffers();
    let old = buffers.put(ALICE, b"old").unwrap();
    assert_eq!(buffers.free(ALICE, old), Ok(Freed::Now));
    let new = buffers.put(ALICE, b"new").unwrap();
    assert_eq!(old.slot, new.slot);
    let is_stale = |id: &BufferId, current| *id == old && current == Some(new.generation);
    match buffers.read(ALICE, old).unwrap_err() {
        AccessError::Stale(stale) => assert!(is_stale(&stale.id, stale.current_generation)),
        other => panic!("{other}"),
    }
    match buffers.free(ALICE, old).unwrap_err() {
        FreeError::Stale(stale) => assert!(is_stale(&stale.id, stale.current_generation)),
        other => panic!("{other}"),
    }
    assert!(matches!(
        buffers.header(ALICE, old),
        Err(AccessError::Stale(_))
    ));
    assert_eq!(*buffers.read(ALICE, new).unwrap(), *b"new");
    let nowhere = BufferId {
        slot: 99,
        generation: 1,
    };
    match buffers.read(ALICE, nowhere).unwrap_err() {
        AccessError::Stale(stale) => assert_eq!(stale.current_generation, None),
        other => panic!("{other}"),
    }
}

#[test]
fn available_never_exceeds_capacity_while_threads_put_and_free() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    let capacity = buffers.capacity();
    assert_eq!(
        capacity,
        Room {
            slots: 64,
            bytes: ByteCount::new(8 << 20)
        }
    );
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3_u8)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..400_u32 {
                        let content = [&[thread][..], &round.to_le_bytes()].concat();
                        let id = buffers.put(ALICE, &content).unwrap();
                        assert_eq!(buffers.free(ALICE, id), Ok(Freed::Now));
                    }
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let available = buffers.available();
            assert!(available.slots <= capacity.slots && available.slots >= capacity.slots - 3);
            assert!(available.bytes <= capacity.bytes);
        }
    });
    full(buffers);
}

#[test]
fn a_writer_that_panics_or_is_dropped_leaks_neither_slot_nor_bytes() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    for _ in 0..200 {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut writer = buffers.create(ALICE, 100_000).unwrap();
            writer.write(b"half").unwrap();
            panic!("planted");
        }));
        assert!(panicked.is_err());
        drop(buffers.create(BOB, 100_000).unwrap());
        full(buffers);
    }
}

#[test]
fn a_reader_that_panics_leaves_the_buffer_usable() {
    let device = device(1, vec![]);
    let id = device.buffers().put(ALICE, b"content").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _pinned = device.buffers().read(ALICE, id).unwrap();
        panic!("planted");
    }));
    assert!(panicked.is_err());
    assert_eq!(*device.buffers().read(ALICE, id).unwrap(), *b"content");
    assert_eq!(device.buffers().free(ALICE, id), Ok(Freed::Now));
    full(device.buffers());
}

#[test]
fn freeing_while_pinned_returns_at_once_and_frees_at_the_last_unpin() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    let id = buffers.put(ALICE, b"pinned").unwrap();
    let (first, second) = (
        buffers.read(ALICE, id).unwrap(),
        buffers.read(ALICE, id).unwrap(),
    );
    assert_eq!(buffers.free(ALICE, id), Ok(Freed::WhenUnpinned { pins: 2 }));
    assert!(
        matches!(buffers.free(ALICE, id), Err(FreeError::Stale(_))),
        "a double free"
    );
    assert!(matches!(
        buffers.read(ALICE, id),
        Err(AccessError::Stale(_))
    ));
    assert_eq!(buffers.find(ALICE, &Digest::of(b"pinned")), None);
    let again = buffers.put(ALICE, b"pinned").unwrap();
    assert_ne!(again, id);
    drop(first);
    assert_eq!(*second, *b"pinned");
    assert_eq!(buffers.available().slots, 62);
    drop(second);
    assert_eq!(buffers.available().slots, 63);
    assert_eq!(buffers.free(ALICE, again), Ok(Freed::Now));
    full(buffers);
}

#[test]
fn equal_content_of_one_tenant_is_shared_and_of_two_is_not() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    let first = buffers.put(ALICE, b"same").unwrap();
    let mut writer = buffers.create(ALICE, 4).unwrap();
    writer.write(b"same").unwrap();
    assert_eq!(writer.seal(), Ok(first));
    let digest = Digest::of(b"same");
    assert_eq!(buffers.find(BOB, &digest), None);
    let name = BufferRef {
        digest,
        offset: 0,
        length: 4,
    };
    assert_eq!(
        buffers.bind(BOB, &name).unwrap_err(),
        BindError::Unknown { digest }
    );
    let other = buffers.put(BOB, b"same").unwrap();
    assert_ne!(other, first);
    assert_eq!(buffers.available().slots, 62);
    assert_eq!(buffers.free(ALICE, first), Ok(Freed::Shared { shares: 1 }));
    assert_eq!(*buffers.bind(ALICE, &name).unwrap(), *b"same");
    assert_eq!(buffers.free(ALICE, first), Ok(Freed::Now));
    assert_eq!(*buffers.bind(BOB, &name).unwrap(), *b"same");
    assert_eq!(buffers.free(BOB, other), Ok(Freed::Now));
    full(buffers);
}

#[test]
fn only_the_owner_looks_reads_and_frees() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    let id = buffers.put(ALICE, b"private").unwrap();
    assert_eq!(
        buffers.header(BOB, id),
        Err(AccessError::NotOwner { tenant: BOB })
    );
    assert_eq!(
        buffers.read(BOB, id).unwrap_err(),
        AccessError::NotOwner { tenant: BOB }
    );
    assert_eq!(
        buffers.free(BOB, id),
        Err(FreeError::NotOwner { tenant: BOB })
    );
    let header = buffers.header(ALICE, id).unwrap();
    assert_eq!((header.length, header.tenant), (ByteCount::new(7), ALICE));
    assert_eq!(
        (header.class, header.digest),
        (MemoryClass::Host, Digest::of(b"private"))
    );
}

#[test]
fn an_unsealed_buffer_is_not_read_and_an_unwritten_one_is_not_sealed() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    let mut writer = buffers.create(ALICE, 10).unwrap();
    let id = writer.id();
    assert_eq!(
        buffers.read(ALICE, id).unwrap_err(),
        AccessError::NotSealed { id }
    );
    assert_eq!(
        buffers.header(ALICE, id),
        Err(AccessError::NotSealed { id })
    );
    assert_eq!(buffers.free(ALICE, id), Err(FreeError::NotSealed { id }));
    let (asked, left) = (ByteCount::new(11), ByteCount::new(10));
    assert_eq!(
        writer.write(&[0; 11]),
        Err(WriteError::TooLong { asked, left })
    );
    writer.write(&[1; 9]).unwrap();
    let (written, length) = (ByteCount::new(9), ByteCount::new(10));
    assert_eq!(
        writer.seal(),
        Err(SealError::Incomplete { written, length })
    );
    full(buffers);
}

#[test]
fn lack_of_slots_and_of_bytes_are_told_apart_with_amounts() {
    let device = Device::open(
        &DeviceOptions {
            buffer_slots: 2,
            ..options(1)
        },
        vec![],
    )
    .unwrap();
    let buffers = device.buffers();
    let whole = 8 << 20;
    let a = buffers.create(ALICE, 1).unwrap();
    match buffers.create(ALICE, whole).unwrap_err() {
        CreateError::OutOfMemory {
            asked,
            largest_free,
            total_free,
        } => {
            assert_eq!(asked, ByteCount::new(whole));
            assert_eq!(total_free, ByteCount::new(whole - 256));
            assert!(largest_free <= total_free);
            drop(buffers.create(ALICE, largest_free.get()).unwrap());
        }
        other => panic!("{other}"),
    }
    let b = buffers.create(ALICE, 1).unwrap();
    assert_eq!(
        buffers.create(BOB, 1).unwrap_err(),
        CreateError::NoFreeSlot { slots_max: 2 }
    );
    drop((a, b));
    drop(buffers.create(ALICE, whole).unwrap());
    assert!(buffers.create(ALICE, u64::MAX).is_err());
    full(buffers);
}

#[test]
fn a_name_out_of_bounds_is_refused_with_the_size() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    buffers.put(ALICE, b"12345").unwrap();
    let digest = Digest::of(b"12345");
    for (offset, length) in [(0, 6), (5, 1), (u64::MAX, 2)] {
        let refused = buffers.bind(
            ALICE,
            &BufferRef {
                digest,
                offset,
                length,
            },
        );
        let bytes = ByteCount::new(5);
        assert_eq!(
            refused.unwrap_err(),
            BindError::Bounds {
                offset,
                length,
                bytes
            }
        );
    }
    let tail = BufferRef {
        digest,
        offset: 3,
        length: 2,
    };
    assert_eq!(*buffers.bind(ALICE, &tail).unwrap(), *b"45");
}

#[test]
fn a_persisted_name_reads_back_the_same() {
    let name = BufferRef {
        digest: Digest::of(b"x"),
        offset: 1,
        length: u64::MAX,
    };
    let bytes = postcard::to_stdvec(&name).unwrap();
    assert_eq!(postcard::from_bytes::<BufferRef>(&bytes).unwrap(), name);
}

#[test]
fn an_eviction_takes_one_share_of_what_nothing_pins_and_leaves_the_rest_alone() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    let id = buffers.put(ALICE, b"content").unwrap();
    assert_eq!(buffers.put(ALICE, b"content"), Ok(id));
    let pinned = buffers.read(ALICE, id).unwrap();
    assert_eq!(buffers.evict(ALICE, id), Ok(Evicted::Pinned { pins: 1 }));
    drop(pinned);
    assert_eq!(
        buffers.evict(BOB, id),
        Err(FreeError::NotOwner { tenant: BOB })
    );
    assert_eq!(buffers.evict(ALICE, id), Ok(Evicted::Shared { shares: 1 }));
    assert_eq!(*buffers.read(ALICE, id).unwrap(), *b"content");
    assert_eq!(buffers.evict(ALICE, id), Ok(Evicted::Now));
    assert!(matches!(buffers.evict(ALICE, id), Err(FreeError::Stale(_))));
    full(buffers);
}

#[test]
fn what_is_written_in_pieces_has_the_digest_of_the_whole_or_is_refused() {
    let device = device(1, vec![]);
    let buffers = device.buffers();
    let content: Vec<u8> = (0..=250_u8).cycle().take(3 << 20).collect();
    let write = |expected: Digest| {
        let mut writer = buffers.create(ALICE, content.len() as u64).unwrap();
        for piece in content.chunks(700_001) {
            writer.write(piece).unwrap();
        }
        writer.seal_expecting(expected)
    };
    let found = Digest::of(&content);
    let expected = Digest::of(b"else");
    let refused = Err(SealError::OtherContent { expected, found });
    assert_eq!(write(expected), refused);
    assert_eq!(buffers.find(ALICE, &expected), None);
    full(buffers);
    let id = write(found).unwrap();
    assert_eq!(*buffers.read(ALICE, id).unwrap(), content[..]);
    assert_eq!(buffers.find(ALICE, &found), Some(id));
}

#[test]
fn each_memory_class_has_bytes_of_its_own_and_names_lie_in_the_devices() {
    let whole = 1 << 20;
    let options = DeviceOptions {
        arena_bytes: whole,
        device_bytes: 2 * whole,
        ..options(1)
    };
    let device = Device::open(&options, vec![]).unwrap();
    let buffers = device.buffers();
    let free = |class| buffers.available_of(class).0.get();
    let own = MemoryClass::Device(0);
    assert_eq!((free(MemoryClass::Host), free(own)), (whole, 2 * whole));
    let id = buffers.put(ALICE, &vec![1; 2 << 20]).unwrap();
    assert_eq!(buffers.header(ALICE, id).unwrap().class, own);
    assert_eq!((free(MemoryClass::Host), free(own)), (whole, 0));
    // What is carried along lies in the host's, and one class never overlaps the other.
    let staged = buffers.stage(ALICE, &vec![2; 1 << 20]).unwrap();
    assert_eq!((free(MemoryClass::Host), free(own)), (0, 0));
    assert!(
        buffers
            .read(ALICE, id)
            .unwrap()
            .iter()
            .all(|byte| *byte == 1)
    );
    assert!(staged.iter().all(|byte| *byte == 2));
    assert!(matches!(
        buffers.create_in(ALICE, own, 1),
        Err(CreateError::OutOfMemory { .. })
    ));
    let class = MemoryClass::Device(1);
    let unknown = buffers.create_in(ALICE, class, 1).unwrap_err();
    assert_eq!(unknown, CreateError::NoSuchClass { class });
    drop(staged);
    assert_eq!(buffers.free(ALICE, id), Ok(Freed::Now));
    full(buffers);
}

#[derive(Clone, Debug)]
enum Step {
    Put(bool, u8, u16),
    Stage(u16),
    Read(usize),
    Unpin(usize),
    Free(usize, bool),
    Evict(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<bool>(), 0..4_u8, 0..20_000_u16).prop_map(|(t, c, n)| Step::Put(t, c, n)),
        (0..20_000_u16).prop_map(Step::Stage),
        any::<usize>().prop_map(Step::Read),
        any::<usize>().prop_map(Step::Unpin),
        (any::<usize>(), any::<bool>()).prop_map(|(i, t)| Step::Free(i, t)),
        any::<usize>().prop_map(Step::Evict),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Every id ever given out is either live with its content and share count, or refused.
    #[test]
    fn buffers_behave_as_a_map_of_shared_contents(steps in proptest::collection::vec(step(), 1..120)) {
        let device = Device::open(&DeviceOptions { buffer_slots: 8, ..options(1) }, vec![]).unwrap();
        let buffers = device.buffers();
        let mut live: HashMap<BufferId, (bool, Vec<u8>, u64)> = HashMap::new();
        let mut ids: Vec<BufferId> = Vec::new();
        let mut pins: Vec<(PinnedWindow, Vec<u8>)> = Vec::new();
        let tenant = |bob: bool| if bob { BOB } else { ALICE };
        for step in steps {
            match step {
                Step::Put(bob, fill, length) => {
                    let content = vec![fill; usize::from(length)];
                    let known = live.iter().find(|(_, (t, c, _))| *t == bob && *c == content);
                    let known = known.map(|(id, _)| *id);
                    match buffers.put(tenant(bob), &content) {
                        Ok(id) => {
                            prop_assert!(known.is_none_or(|known| known == id));
                            live.entry(id).or_insert((bob, content, 0)).2 += 1;
                            ids.push(id);
                        }
                        Err(_) => prop_assert!(known.is_none() && buffers.available().slots == 0),
                    }
                }
                Step::Stage(length) => {
                    let content = vec![9; usize::from(length)];
                    if let Ok(pinned) = buffers.stage(ALICE, &content) {
                        pins.push((pinned, content));
                    }
                }
                Step::Read(at) if !ids.is_empty() => {
                    let id = ids[at % ids.len()];
                    match live.get(&id) {
                        Some((bob, content, _)) => {
                            pins.push((buffers.read(tenant(*bob), id).unwrap(), content.clone()));
                        }
                        None => {
                            let refused = buffers.read(ALICE, id).unwrap_err();
                            let expected = matches!(refused, AccessError::Stale(_));
                            prop_assert!(expected, "{}", refused);
                        }
                    }
                }
                Step::Unpin(at) if !pins.is_empty() => {
                    let (pinned, content) = pins.swap_remove(at % pins.len());
                    prop_assert_eq!(&*pinned, &content[..]);
                }
                Step::Free(at, bob) if !ids.is_empty() => {
                    let id = ids[at % ids.len()];
                    match live.get_mut(&id) {
                        Some((owner, _, shares)) if *owner == bob => {
                            *shares -= 1;
                            let left = *shares;
                            let freed = buffers.free(tenant(bob), id).unwrap();
                            let shared = matches!(freed, Freed::Shared { shares } if shares == left);
                            prop_assert_eq!(shared, left > 0);
                            if left == 0 {
                                live.remove(&id);
                            }
                        }
                        _ => prop_assert!(buffers.free(tenant(bob), id).is_err()),
                    }
                }
                Step::Evict(at) if !ids.is_empty() => {
                    let id = ids[at % ids.len()];
                    let pinned = pins.iter().filter(|(pin, _)| pin.id() == id).count() as u64;
                    match live.get_mut(&id) {
                        Some((owner, _, shares)) => {
                            let evicted = buffers.evict(tenant(*owner), id).unwrap();
                            if pinned > 0 {
                                prop_assert_eq!(evicted, Evicted::Pinned { pins: pinned });
                            } else if *shares > 1 {
                                *shares -= 1;
                                prop_assert_eq!(evicted, Evicted::Shared { shares: *shares });
                            } else {
                                prop_assert_eq!(evicted, Evicted::Now);
                                live.remove(&id);
                            }
                        }
                        None => prop_assert!(buffers.evict(ALICE, id).is_err()),
                    }
                }
                Step::Read(_) | Step::Unpin(_) | Step::Free(..) | Step::Evict(_) => {}
            }
            let held: HashSet<_> = live.keys().copied().chain(pins.iter().map(|(p, _)| p.id())).collect();
            prop_assert_eq!(buffers.available().slots as usize, 8 - held.len());
            for (pinned, content) in &pins {
                prop_assert_eq!(&**pinned, &content[..]);
            }
        }
        drop(pins);
        for (id, (bob, _, shares)) in live {
            for _ in 0..shares {
                buffers.free(tenant(bob), id).unwrap();
            }
        }
        prop_assert_eq!(buffers.available(), buffers.capacity());
    }
}
