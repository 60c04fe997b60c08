//! What a tenant may ask for that no operation takes: ended with a code, never by a panic.

use super::*;

const BYTES: u32 = 64 * 1024;

/// Words near those that each operation takes.
fn words(opcode: Opcode, random: &mut impl FnMut() -> u32) -> Vec<u32> {
    let mut words = match opcode {
        Crc32cPages::OPCODE => vec![1 + random() % 4096],
        VectorTopk::OPCODE => {
            let shape = (1 + random() % 3) | (1 + random() % 2) << 8;
            vec![shape, 1 + random() % 64, 1 + random() % 256]
        }
        FilterAggregate::OPCODE => program(random),
        _ => Vec::new(),
    };
    match random() % 4 {
        0 if !words.is_empty() => {
            let at = random() as usize % words.len();
            words[at] = match random() % 4 {
                0 => 0,
                1 => u32::MAX,
                2 => 1 << (random() % 32),
                _ => random() << 1,
            };
        }
        1 => words.truncate(random() as usize % 4),
        2 if random().is_multiple_of(4) => words.push(random()),
        _ => {}
    }
    words
}

/// Rows, columns and functions, of which few fit each other.
fn program(random: &mut impl FnMut() -> u32) -> Vec<u32> {
    let (columns, functions) = (1 + random() % 4, random() % 5);
    let mut words = vec![columns | functions << 8, random() % 3000, 0];
    for _ in 0..columns {
        let flags = (random() % 4) << 8;
        let (kind, ranged) = (1 + random() % 4, flags & 0x200 != 0);
        words.push(kind | flags);
        // Of numbers from 1 to 2, of integers up to 2^31.
        let high = |random: u32| {
            if kind == 4 {
                0x3ff0_0000 | random >> 12
            } else {
                0
            }
        };
        for _ in 0..2 {
            let low = if kind < 4 { random() } else { 0 };
            let low = if kind == 3 { 0 } else { low };
            let number = |random: u32| if kind == 3 { 0x3ff0_0000 } else { high(random) };
            let bound = [low, number(random())];
            words.extend(bound.map(|word| if ranged { word } else { 0 }));
        }
    }
    let function = |_| (1 + random() % 5) | (random() % 4) << 8 | (random() % 4) << 16;
    words.extend((0..functions).map(function).map(|word| match word & 0xff {
        5 => word,
        _ => word & 0xffff,
    }));
    words
}

/// Lengths of windows: mostly those that the words call for.
fn lengths(opcode: Opcode, words: &[u32], random: &mut impl FnMut() -> u32) -> Vec<u32> {
    let word = |at: usize| words.get(at).copied().unwrap_or(1);
    let mut lengths = match opcode {
        Blake3Many::OPCODE => vec![BYTES / 2, 8 * (random() % 300)],
        VectorTopk::OPCODE => {
            let bytes = word(1).saturating_mul(if word(0) >> 8 == 2 { 2 } else { 4 });
            vec![
                bytes.saturating_mul(random() % 40),
                bytes.saturating_mul(1 + random() % 6),
            ]
        }
        FilterAggregate::OPCODE => {
            let rows = word(1);
            let columns = (0..(word(0) & 0xf) as usize).map(|column| word(3 + 5 * column));
            columns
                .flat_map(|kind| {
                    let values = rows.saturating_mul(if kind.is_multiple_of(2) { 8 } else { 4 });
                    let bitmap = (kind & 0x100 != 0).then_some(rows.div_ceil(8));
                    std::iter::once(values).chain(bitmap)
                })
                .collect()
        }
        _ => vec![random() % (BYTES / 2)],
    };
    match random() % 16 {
        0 => lengths.push(8),
        1 => drop(lengths.pop()),
        _ => {}
    }
    lengths
}

#[test]
fn whatever_words_and_windows_an_operation_is_given_it_ends_with_a_code_and_never_faults() {
    let device = device(2, vec![]);
    let (done, completions) = listener();
    let mut random = fastrand_lite(77);
    // Words that rise, so that they are bounds, but for a few.
    let content: Vec<u8> = (0..u64::from(BYTES / 8))
        .map(|at| {
            if random().is_multiple_of(64) {
                random().into()
            } else {
                at
            }
        })
        .flat_map(u64::to_le_bytes)
        .collect();
    device.buffers().put(ALICE, &content).unwrap();
    let digest = Digest::of(&content);
    let opcodes = [
        Noop::OPCODE,
        Blake3::OPCODE,
        Crc32c::OPCODE,
        Blake3Many::OPCODE,
        Crc32cPages::OPCODE,
        FilterAggregate::OPCODE,
        VectorTopk::OPCODE,
    ];
    let mut ended = HashMap::new();
    for _ in 0..4_000 {
        let opcode = opcodes[random() as usize % opcodes.len()];
        let mut task = Task::new(opcode, ALICE);
        task.args = words(opcode, &mut random).into_iter().collect();
        let mut parts = Vec::new();
        for wanted in lengths(opcode, &task.args, &mut random) {
            let mut offset = random() % (BYTES / 2);
            if !random().is_multiple_of(8) {
                offset &= !7;
            }
            let length = match random() % 16 {
                0 => random() % (BYTES / 2),
                1 => 0,
                _ => wanted.min(BYTES / 2),
            };
            let part = BufferRef {
                digest,
                offset: offset.into(),
                length: length.into(),
            };
            task.windows
                .push(device.buffers().bind(ALICE, &part).unwrap());
            parts.push((offset, length));
        }
        task.windows.truncate(crate::layout::WINDOWS_MAX);
        let told = (opcode, task.args.clone(), parts);
        match device.publish(task, Arc::clone(&done)) {
            Ok(_) => {}
            Err(PublishRefused::Encode(_)) => continue,
            Err(other) => panic!("{other}"),
        }
        let completed = next(&completions);
        let kind = match completed.status {
            Status::Done => 0,
            Status::Failed { code } if OpError::new(code).meaning().is_some() => 1,
            other => panic!("{told:?} ended as {other:?}: {:?}", completed.result),
        };
        *ended.entry((opcode.get(), kind)).or_insert(0) += 1;
    }
    quiet(&device);
    for opcode in &opcodes[1..] {
        for kind in [0, 1] {
            assert!(
                ended.get(&(opcode.get(), kind)) > Some(&10),
                "opcode {} was {}: {ended:?}",
                opcode.get(),
                ["rarely answered", "rarely refused"][kind]
            );
        }
    }
}
