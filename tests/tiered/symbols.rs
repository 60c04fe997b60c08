//! Batches of symbols, and ranges of one.

use orlop::tiered::{
    StoredSymbol, Symbol, SymbolBatch, SymbolDeleteBatch, SymbolGetRange, SymbolName,
    SymbolPutBatch, SymbolRange, TableName,
};
use orlop::{Key, Origin, SubmitError, Tenant, wait};

use crate::machine::Machine;
use crate::wire::Fault;

fn batch(symbols: &[(&str, &[u8])]) -> SymbolBatch {
    let symbols = symbols.iter().map(|(name, bytes)| Symbol {
        name: SymbolName::new(*name).unwrap(),
        bytes: bytes.to_vec(),
    });
    SymbolBatch {
        table: TableName::new("orders").unwrap(),
        symbols: symbols.collect(),
    }
}

fn put(tenant: &Tenant, key: &str, batch: SymbolBatch) -> Result<Vec<StoredSymbol>, SubmitError> {
    let put = tenant.enqueue(SymbolPutBatch, batch).key(Key::named(key));
    wait(wait(put)?).map(|reply| reply.output)
}

fn get(
    tenant: &Tenant,
    symbol: &StoredSymbol,
    offset: u64,
    length: u64,
) -> Result<Vec<u8>, SubmitError> {
    let range = SymbolRange {
        symbol: symbol.clone(),
        offset,
        length,
    };
    let get = tenant.submit(SymbolGetRange, range).key(Key::fresh());
    wait(get).map(|reply| reply.output)
}

#[track_caller]
fn failed_with<T: std::fmt::Debug>(result: Result<T, SubmitError>, text: &str) {
    match result {
        Err(SubmitError::Failed(failure)) if failure.reason().contains(text) => {}
        other => panic!("{other:?} is no failure that says {text:?}"),
    }
}

#[test]
fn every_range_of_every_symbol_is_read_back_and_none_beyond() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let symbols: [(&str, &[u8]); 3] = [("a", b"alpha"), ("none", b""), ("b", b"beta")];
    let stored = put(&tenant, "1", batch(&symbols)).unwrap();
    assert_eq!(stored.len(), symbols.len());
    for (stored, (name, bytes)) in stored.iter().zip(symbols) {
        assert_eq!(stored.name.as_bytes(), name.as_bytes());
        let length = bytes.len();
        for offset in 0..=length {
            for end in offset..=length {
                let range = get(&tenant, stored, offset as u64, (end - offset) as u64);
                assert_eq!(range.unwrap(), bytes[offset..end]);
            }
        }
        for (offset, length) in [(0, length + 1), (length, 1), (length + 1, 0)] {
            failed_with(get(&tenant, stored, offset as u64, length as u64), "beyond");
        }
        failed_with(get(&tenant, stored, u64::MAX, 2), "beyond");
        let all = tenant.submit(SymbolGetRange, SymbolRange::all(stored.clone()));
        assert_eq!(wait(all.key(Key::fresh())).unwrap().output, bytes);
    }
    engine.blocking().close().unwrap();
}

#[test]
fn a_batch_with_one_bad_item_is_refused_as_a_whole_and_the_item_is_named() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    machine.wire.arm(Vec::new());
    let twice = batch(&[("a", b"1"), ("b", b"2"), ("a", b"3")]);
    failed_with(put(&tenant, "1", twice), "item 2: symbol a");
    assert_eq!(machine.wire.calls(), 0);
    engine.blocking().close().unwrap();
}

#[test]
fn a_batch_of_which_half_arrived_is_cleared_away_and_put_whole() {
    for fault in [Fault::Spoil, Fault::SpoilUnheard] {
        let machine = Machine::default();
        let engine = machine.open();
        let tenant = engine.blocking().tenant("a").unwrap();
        machine.wire.arm(vec![(0, fault)]);
        let stored = put(&tenant, "1", batch(&[("a", b"alpha"), ("b", b"beta")])).unwrap();
        assert!(stored.iter().all(|symbol| symbol.batch.place == 1));
        assert_eq!(get(&tenant, &stored[1], 1, 2).unwrap(), b"et");
        assert_eq!(machine.wire.things().len(), 1);
        engine.blocking().close().unwrap();
    }
}

#[test]
fn a_batch_under_one_key_is_put_once() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let first = put(&tenant, "1", batch(&[("a", b"alpha")])).unwrap();
    machine.wire.arm(Vec::new());
    let again = tenant.submit(SymbolPutBatch, batch(&[("a", b"alpha")]));
    let again = wait(again.key(Key::named("1"))).unwrap();
    assert_eq!((again.origin, again.output), (Origin::Replayed, first));
    assert_eq!(machine.wire.calls(), 0);
    let other = put(&tenant, "1", batch(&[("a", b"other")])).unwrap_err();
    assert!(matches!(other, SubmitError::Conflict { .. }), "{other:?}");
    engine.blocking().close().unwrap();
}

#[test]
fn a_symbol_that_is_damaged_or_gone_or_of_another_tenant_is_not_read() {
    let machine = Machine::default();
    let engine = machine.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let other = engine.blocking().tenant("b").unwrap();
    let stored = put(&tenant, "1", batch(&[("a", b"alpha"), ("b", b"beta")])).unwrap();
    failed_with(get(&other, &stored[0], 0, 1), "is not in the object store");
    let path = machine.tiered().batch_path(tenant.id(), &stored[0].batch);
    let mut content = machine.wire.things()[&path].clone();
    *content.last_mut().unwrap() ^= 1;
    machine.wire.overwrite(&path, &content);
    // The damage is in the last byte of the second symbol, also for who asks for its first.
    assert_eq!(get(&tenant, &stored[0], 0, 5).unwrap(), b"alpha");
    failed_with(get(&tenant, &stored[1], 0, 1), "holds");
    let delete = tenant.submit(SymbolDeleteBatch, stored[0].batch.clone());
    wait(delete.key(Key::named("d"))).unwrap();
    for symbol in &stored {
        failed_with(get(&tenant, symbol, 0, 1), "is not in the object store");
    }
    engine.blocking().close().unwrap();
}
