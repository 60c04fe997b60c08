//! The cache against an oracle that is a list: what is held, what is evicted for whom, and in
//! which order; and what becomes of the rest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests assert by panicking"
)]

use std::collections::HashSet;
use std::sync::Arc;

use orlop_admission::{Quotas, TenantAccount, Tenants};
use orlop_gpu::{Device, DeviceOptions, MemoryClass};
use orlop_saga::tenant::TenantLabel;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

/// Has every content that was not taken from it.
#[derive(Default)]
struct Shop {
    gone: Mutex<HashSet<u8>>,
}

/// Contents of different lengths.
fn content(number: u8) -> Vec<u8> {
    vec![number; 700 * (usize::from(number) + 1)]
}

fn digest(number: u8) -> Digest {
    Digest::of(&content(number))
}

const CONTENTS: u8 = 8;

impl BufferSource for Shop {
    fn load(&self, _: TenantId, asked: &Digest) -> Option<Vec<u8>> {
        let number = (0..CONTENTS).find(|number| digest(*number) == *asked)?;
        (!self.gone.lock().contains(&number)).then(|| content(number))
    }
}

/// What one tenant is expected to have.
#[derive(Default)]
struct Expected {
    /// Oldest use first.
    cached: Vec<u8>,
    held: Vec<u8>,
    /// With the life of the content that the pin is of.
    pinned: Vec<(u8, u32)>,
    lives: [u32; CONTENTS as usize],
}

const BYTES_MAX: u64 = 14_000;
const BUFFERS_MAX: u64 = 5;
const CACHED_MAX: u64 = 10_000;

fn bytes(numbers: &[u8]) -> u64 {
    let lengths = numbers.iter().map(|number| content(*number).len() as u64);
    lengths.sum()
}

impl Expected {
    fn is_pinned(&self, number: u8) -> bool {
        self.pinned
            .contains(&(number, self.lives[usize::from(number)]))
    }

    fn evict_oldest(&mut self, in_use: &[u8]) -> bool {
        let idle = |number: &u8| !self.is_pinned(*number) && !in_use.contains(number);
        let Some(at) = self.cached.iter().position(idle) else {
            return false;
        };
        let number = self.cached.remove(at);
        self.left(number);
        true
    }

    /// One owner less; what comes under this name after the last one is something else.
    fn left(&mut self, number: u8) {
        if !self.has(number) {
            self.lives[usize::from(number)] += 1;
        }
    }

    /// Whether there is room for one more, after what makes way has gone.
    fn make_room(&mut self, number: u8, in_use: &[u8]) -> bool {
        // What is brought for work while it cannot be cached is held by the work alone.
        let beside: Vec<u8> = in_use
            .iter()
            .copied()
            .filter(|n| !self.cached.contains(n))
            .collect();
        loop {
            let used = bytes(&self.cached) + bytes(&self.held) + bytes(&beside);
            let count = (self.cached.len() + self.held.len() + beside.len()) as u64;
            let fits = used + bytes(&[number]) <= BYTES_MAX && count < BUFFERS_MAX;
            if fits || !self.evict_oldest(in_use) {
                return fits;
            }
        }
    }

    fn touch(&mut self, number: u8) {
        if let Some(at) = self.cached.iter().position(|cached| *cached == number) {
            self.cached.remove(at);
            self.cached.push(number);
        }
    }

    fn keep(&mut self, number: u8, in_use: &[u8]) {
        if self.cached.contains(&number) {
            self.touch(number);
        } else {
            self.cached.push(number);
        }
        while bytes(&self.cached) > CACHED_MAX && self.evict_oldest(in_use) {}
    }

    fn has(&self, number: u8) -> bool {
        self.cached.contains(&number) || self.held.contains(&number)
    }

    /// Whether work over these runs; then its windows are pinned.
    fn run(&mut self, numbers: &[u8], gone: &HashSet<u8>) -> bool {
        let mut brought: Vec<u8> = Vec::new();
        for _ in 0..=numbers.len() + 1 {
            let mut absent = None;
            for number in numbers {
                if self.has(*number) || brought.contains(number) {
                    self.touch(*number);
                } else {
                    absent = Some(*number);
                    break;
                }
            }
            let Some(absent) = absent else {
                let lives = self.lives;
                let life = |number: &u8| (*number, lives[usize::from(*number)]);
                self.pinned.extend(numbers.iter().map(life));
                return true;
            };
            if gone.contains(&absent) || !self.make_room(absent, &brought) {
                return false;
            }
            brought.push(absent);
            self.keep(absent, &brought);
        }
        false
    }
}

struct Side {
    account: Arc<TenantAccount>,
    expected: Expected,
    held: Vec<Buffer>,
    pins: Vec<(u8, orlop_gpu::PinnedWindow)>,
}

struct Rig {
    device: Arc<Device>,
    cache: Cache,
    shop: Shop,
    sides: Vec<Side>,
}

impl Rig {
    fn new(options: &DeviceOptions, quotas: Quotas, cached_max: u64) -> Self {
        let device = Arc::new(Device::open(options, Vec::new()).unwrap());
        let tenants = Tenants::new(2).unwrap();
        let cache = Cache::new(cached_max);
        let side = |label| {
            let label = TenantLabel::new(label).unwrap();
            let account = tenants.register_next(label, quotas).unwrap();
            device.register_tenant_generation(account.id()).unwrap();
            cache.enter(account.id());
            Side {
                account,
                expected: Expected::default(),
                held: Vec::new(),
                pins: Vec::new(),
            }
        };
        let sides = ["alice", "bob"].map(side).into();
        Self {
            device,
            cache,
            shop: Shop::default(),
            sides,
        }
    }

    fn desk(&self, side: usize) -> Desk<'_> {
        let account = &self.sides[side].account;
        Desk {
            device: &self.device,
            cache: &self.cache,
            tenant: account.id(),
            account: Some(account),
        }
    }

    /// As the executor does it.
    fn run(&self, side: usize, numbers: &[u8]) -> Option<Windows> {
        let sources = numbers.iter().map(|number| {
            Source::Buffer(BufferRef {
                digest: digest(*number),
                offset: 0,
                length: content(*number).len() as u64,
            })
        });
        let sources: Vec<Source> = sources.collect();
        let desk = self.desk(side);
        let mut brought = Vec::new();
        for _ in 0..=sources.len() + 1 {
            match bind(&self.device, &self.cache, desk.tenant, &sources) {
                Ok(windows) => return Some(windows),
                Err(BindPlanError::Absent(absent)) => {
                    let loaded = load(desk, Some(&self.shop), &absent.digest, true);
                    brought.push(loaded.ok()?);
                }
                Err(BindPlanError::Failed(failure)) => panic!("{failure}"),
            }
        }
        None
    }
}

#[derive(Clone, Debug)]
enum Step {
    Cache(u8),
    Hold(u8),
    LetGo(usize),
    Run(Vec<u8>),
    End(usize),
    Evict(u8),
    Lose(u8),
    Find(u8),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let number = || 0..CONTENTS;
    let step = prop_oneof![
        3 => number().prop_map(Step::Cache),
        1 => number().prop_map(Step::Hold),
        1 => any::<usize>().prop_map(Step::LetGo),
        4 => proptest::collection::vec(number(), 1..3).prop_map(Step::Run),
        3 => any::<usize>().prop_map(Step::End),
        1 => number().prop_map(Step::Evict),
        1 => number().prop_map(Step::Lose),
        1 => number().prop_map(Step::Find),
    ];
    (0..2_usize, step)
}

fn take(rig: &mut Rig, side: usize, step: Step) -> Result<(), TestCaseError> {
    let gone = rig.shop.gone.lock().clone();
    match step {
        Step::Cache(number) => {
            let put = put(rig.desk(side), &content(number));
            let expected = &mut rig.sides[side].expected;
            prop_assert_eq!(put.is_ok(), expected.make_room(number, &[]));
            if let Ok(buffer) = put {
                // What was there already is not what the caller holds.
                let is_there = expected.cached.contains(&number);
                let in_use = [number];
                expected.keep(number, if is_there { &[] } else { &in_use });
                rig.cache.keep(&buffer);
                drop(buffer);
                expected.left(number);
            }
        }
        Step::Hold(number) => {
            let put = put(rig.desk(side), &content(number));
            let one = &mut rig.sides[side];
            prop_assert_eq!(put.is_ok(), one.expected.make_room(number, &[]));
            if let Ok(buffer) = put {
                one.expected.held.push(number);
                one.held.push(buffer);
            }
        }
        Step::LetGo(at) => {
            let one = &mut rig.sides[side];
            if !one.held.is_empty() {
                let at = at % one.held.len();
                drop(one.held.remove(at));
                let number = one.expected.held.remove(at);
                one.expected.left(number);
            }
        }
        Step::Run(numbers) => {
            let windows = rig.run(side, &numbers);
            let one = &mut rig.sides[side];
            prop_assert_eq!(windows.is_some(), one.expected.run(&numbers, &gone));
            one.pins
                .extend(numbers.into_iter().zip(windows.into_iter().flatten()));
        }
        Step::End(at) => {
            let one = &mut rig.sides[side];
            if !one.pins.is_empty() {
                let at = at % one.pins.len();
                drop(one.pins.remove(at));
                one.expected.pinned.remove(at);
            }
        }
        Step::Evict(number) => {
            let evicted = rig.cache.evict(rig.desk(side).tenant, &digest(number));
            let expected = &mut rig.sides[side].expected;
            let at = expected.cached.iter().position(|cached| *cached == number);
            let answer = match at {
                None => Eviction::Absent,
                Some(_) if expected.is_pinned(number) => Eviction::InUse,
                Some(at) => {
                    expected.cached.remove(at);
                    expected.left(number);
                    Eviction::Evicted
                }
            };
            prop_assert_eq!(evicted, answer);
        }
        Step::Lose(number) => drop(rig.shop.gone.lock().insert(number)),
        Step::Find(number) => drop(rig.shop.gone.lock().remove(&number)),
    }
    Ok(())
}

fn check(rig: &Rig) -> Result<(), TestCaseError> {
    for one in &rig.sides {
        let tenant = one.account.id();
        let cached: Vec<Digest> = one.expected.cached.iter().map(|n| digest(*n)).collect();
        prop_assert_eq!(rig.cache.in_order(tenant), cached);
        let counts = rig.cache.counts(tenant);
        let in_cache = (
            one.expected.cached.len() as u64,
            bytes(&one.expected.cached),
        );
        prop_assert_eq!((counts.buffers, counts.bytes), in_cache);
        let kept = one.account.snapshot().kept;
        let all = [&one.expected.cached[..], &one.expected.held[..]].concat();
        prop_assert_eq!(
            (kept.buffers, kept.device.get()),
            (all.len() as u64, bytes(&all))
        );
        for (number, window) in &one.pins {
            prop_assert_eq!(&**window, &content(*number)[..]);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn each_tenants_cache_is_a_list_in_order_of_use_that_makes_way_within_its_own_quota(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let quotas = Quotas {
            buffers_max: BUFFERS_MAX,
            device_bytes_max: ByteCount::new(BYTES_MAX),
            ..Quotas::UNLIMITED
        };
        let options = DeviceOptions { workers: 1, arena_bytes: 4 << 20, ..DeviceOptions::default() };
        let mut rig = Rig::new(&options, quotas, CACHED_MAX);
        for (side, step) in steps {
            take(&mut rig, side, step)?;
            check(&rig)?;
        }
        for one in &mut rig.sides {
            one.pins.clear();
            one.held.clear();
            rig.cache.clear(one.account.id());
        }
        let buffers = rig.device.buffers();
        prop_assert_eq!(buffers.available(), buffers.capacity());
        for one in &rig.sides {
            prop_assert_eq!(one.account.snapshot().kept, Kept::default());
        }
    }

    /// Without quotas it is the arena that is full: who fills it evicts only of its own.
    #[test]
    fn a_full_arena_evicts_nothing_of_another_tenant(
        hers in proptest::collection::vec(0..CONTENTS, 1..4),
        his in proptest::collection::vec(0..CONTENTS, 1..40),
    ) {
        let options = DeviceOptions {
            workers: 1,
            arena_bytes: 4096,
            device_bytes: 24 << 10,
            ..DeviceOptions::default()
        };
        let rig = Rig::new(&options, Quotas::UNLIMITED, u64::MAX);
        for number in hers {
            if let Ok(buffer) = put(rig.desk(0), &content(number)) {
                rig.cache.keep(&buffer);
            }
        }
        let alice = rig.desk(0).tenant;
        let had = rig.cache.in_order(alice);
        let mut stored = 0;
        for number in his {
            if let Ok(buffer) = put(rig.desk(1), &content(number)) {
                rig.cache.keep(&buffer);
                stored += 1;
            }
        }
        prop_assert!(stored > 0, "what is small fits once one's own has made way");
        prop_assert_eq!(rig.cache.in_order(alice), had);
        prop_assert_eq!(rig.cache.counts(alice).evicted, 0);
        let (free, all) = rig.device.buffers().available_of(MemoryClass::Device(0));
        prop_assert!(free < all);
    }
}

#[test]
fn what_the_source_has_lost_or_damaged_or_breaks_off_is_told_apart_and_nothing_is_kept() {
    struct Bad(Vec<u8>, u64);
    impl BufferSource for Bad {
        fn load(&self, _: TenantId, _: &Digest) -> Option<Vec<u8>> {
            panic!("planted")
        }

        fn open(&self, tenant: TenantId, digest: &Digest) -> Option<SourceBytes> {
            if self.0.is_empty() {
                return self.load(tenant, digest).map(SourceBytes::from);
            }
            Some(SourceBytes::new(
                self.1,
                std::io::Cursor::new(self.0.clone()),
            ))
        }
    }
    let options = DeviceOptions {
        workers: 1,
        ..DeviceOptions::default()
    };
    let rig = Rig::new(&options, Quotas::UNLIMITED, u64::MAX);
    let asked = digest(3);
    let ask = |source: Option<&dyn BufferSource>| {
        let loaded = load(rig.desk(0), source, &asked, false);
        let error = loaded.map(|_| ()).map_err(|error| error.0);
        assert_eq!(rig.sides[0].account.snapshot().kept, Kept::default());
        let buffers = rig.device.buffers();
        assert_eq!(buffers.available(), buffers.capacity());
        error.unwrap_err()
    };
    assert_eq!(ask(None), BufferError::NoSource);
    rig.shop.gone.lock().insert(3);
    assert_eq!(ask(Some(&rig.shop)), BufferError::Lost { digest: asked });
    assert_eq!(rig.cache.counts(rig.desk(0).tenant).lost, 1);
    let found = digest(4);
    let other = Bad(content(4), content(4).len() as u64);
    let (digest, reason) = (asked, |error: BufferError| error.to_string());
    assert_eq!(
        ask(Some(&other)),
        BufferError::OtherContent { digest, found }
    );
    let short = Bad(content(3), 1 + content(3).len() as u64);
    assert!(reason(ask(Some(&short))).contains("it ended after"));
    let broken = Bad(Vec::new(), 0);
    assert!(reason(ask(Some(&broken))).contains("planted"));
    rig.shop.gone.lock().clear();
    let held = load(rig.desk(0), Some(&rig.shop), &asked, false);
    assert_eq!(held.map_err(|error| error.0).unwrap().digest(), asked);
}

/// A device of its own, as the next epoch has one.
fn another(options: &DeviceOptions, tenant: TenantId) -> Arc<Device> {
    let device = Arc::new(Device::open(options, Vec::new()).unwrap());
    device.register_tenant_generation(tenant).unwrap();
    device
}

#[test]
fn what_is_kept_late_of_a_device_that_was_succeeded_does_not_stay() {
    let options = DeviceOptions {
        workers: 1,
        ..DeviceOptions::default()
    };
    let mut rig = Rig::new(&options, Quotas::UNLIMITED, u64::MAX);
    let tenant = rig.desk(0).tenant;
    let (cached, late) = (content(1), content(2));
    rig.cache.keep(&put(rig.desk(0), &cached).unwrap());
    let late = put(rig.desk(0), &late).unwrap();
    let next = another(&options, tenant);
    rig.cache.succeed(&next);
    assert_eq!(rig.cache.counts(tenant).buffers, 0);
    assert_eq!(rig.sides[0].account.snapshot().kept.buffers, 1, "late");
    // Whoever had it before the loss keeps it after the cache was emptied.
    rig.cache.keep(&late);
    assert_eq!(rig.cache.counts(tenant), BufferUse::default());
    drop(late);
    assert_eq!(rig.sides[0].account.snapshot().kept, Kept::default());
    // On the next device it is brought once, and stays.
    rig.device = next;
    for _ in 0..3 {
        assert!(rig.run(0, &[2]).is_some());
    }
    let counts = rig.cache.counts(tenant);
    assert_eq!((counts.buffers, counts.loads, counts.hits), (1, 1, 3));
}

#[test]
fn what_is_carried_along_finds_room_in_an_arena_that_its_tenants_cache_fills() {
    let options = DeviceOptions {
        workers: 1,
        arena_bytes: 8192,
        ..DeviceOptions::default()
    };
    let rig = Rig::new(&options, Quotas::UNLIMITED, u64::MAX);
    for number in [4, 3] {
        let buffer = put(rig.desk(0), &content(number)).unwrap();
        rig.cache.keep(&buffer);
    }
    let tenant = rig.desk(0).tenant;
    assert_eq!(rig.cache.counts(tenant).buffers, 2);
    let inline = [Source::from(vec![7; 3000])];
    let windows = bind(&rig.device, &rig.cache, tenant, &inline).ok().unwrap();
    assert_eq!(&*windows[0], &[7; 3000]);
    assert_eq!(rig.cache.in_order(tenant), [digest(3)]);
}

#[test]
fn nothing_makes_way_for_what_would_not_fit_in_any_case() {
    struct Boaster;
    impl BufferSource for Boaster {
        fn load(&self, _: TenantId, _: &Digest) -> Option<Vec<u8>> {
            None
        }

        fn open(&self, _: TenantId, _: &Digest) -> Option<SourceBytes> {
            Some(SourceBytes::new(u64::MAX, std::io::empty()))
        }
    }
    let options = DeviceOptions {
        workers: 1,
        arena_bytes: 64 << 10,
        ..DeviceOptions::default()
    };
    let rig = Rig::new(&options, Quotas::UNLIMITED, u64::MAX);
    rig.cache.keep(&put(rig.desk(0), &content(1)).unwrap());
    let tenant = rig.desk(0).tenant;
    let asked = [
        put(rig.desk(0), &vec![0; (64 << 10) + 1]).map(drop),
        result(rig.desk(0), 1 << 40).map(drop),
        load(rig.desk(0), Some(&Boaster), &digest(2), false)
            .map(drop)
            .map_err(|error| error.0),
    ];
    for refused in asked {
        let refused = refused.unwrap_err();
        let no_room = matches!(
            refused,
            BufferError::Put(PutError::Create(_)) | BufferError::Refused(_)
        );
        assert!(no_room, "{refused:?}");
    }
    assert_eq!(rig.cache.in_order(tenant), [digest(1)]);
}
