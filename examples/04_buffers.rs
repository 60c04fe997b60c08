//! Buffers: a column uploaded once, queried many times, evicted, and brought back after a restart.
//!
//! ```sh
//! cargo run --release --example 04_buffers
//! ```
//!
//! The embedder keeps its columns in files. One of them is put into a tenant's cache on the device
//! and queried; another tenant uses a lot of memory, which changes nothing; then its own tenant
//! needs the room, and the column is evicted. The next query names it all the same: the engine asks
//! for its file, in pieces, and checks the digest. So it does after a restart, when nothing at all is
//! on the device. At last the file is damaged.

use std::fs::File;
use std::path::{Path, PathBuf};

use orlop::{
    Aggregate, BufferError, BufferRef, BufferSource, ByteCount, Digest, Engine, FilterAggregate,
    Key, Quotas, SourceBytes, Tenant, TenantId, le_bytes, wait,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROWS: i64 = 1_000_000;

/// A folder with a file per column, called by its digest.
#[derive(Clone)]
struct Columns(PathBuf);

impl Columns {
    fn file(&self, digest: &Digest) -> PathBuf {
        self.0.join(digest.to_string())
    }

    fn store(&self, bytes: &[u8]) -> Outcome<()> {
        Ok(std::fs::write(self.file(&Digest::of(bytes)), bytes)?)
    }
}

impl BufferSource for Columns {
    fn load(&self, _: TenantId, digest: &Digest) -> Option<Vec<u8>> {
        std::fs::read(self.file(digest)).ok()
    }

    fn open(&self, _: TenantId, digest: &Digest) -> Option<SourceBytes> {
        let file = File::open(self.file(digest)).ok()?;
        let length = file.metadata().ok()?.len();
        println!("  the source opens a file of {length} bytes");
        Some(SourceBytes::new(length, file))
    }
}

fn open(store: &Path, columns: &Columns) -> Outcome<Engine> {
    let builder = Engine::builder(store).buffer_source(columns.clone());
    Ok(builder.open_blocking()?)
}

/// The sum of all prices in a range, which a query that has not run before asks for.
fn query(tenant: &Tenant, prices: BufferRef, from: i64) -> Outcome<()> {
    let mut query = Aggregate::of_rows(ROWS.unsigned_abs());
    let cents = query.column::<i64>(prices);
    query.within(cents, from..from + 1000);
    let sum = query.sum(cents);
    let reply = wait(tenant.submit(FilterAggregate, query).key(Key::fresh()))?;
    let expected: i64 = (from..from + 1000).sum();
    assert_eq!(reply.output.get(sum), Some(i128::from(expected)));
    Ok(())
}

fn tell(what: &str, tenant: &Tenant) {
    let used = tenant.cached();
    println!(
        "{what}: {} columns cached, {} hits, {} loads, {} evicted",
        used.buffers, used.hits, used.loads, used.evicted
    );
}

fn main() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let columns = Columns(folder.path().to_owned());
    let store = folder.path().join("store");
    let prices = le_bytes(&(0..ROWS).collect::<Vec<i64>>());
    columns.store(&prices)?;

    let engine = open(&store, &columns)?;
    let quotas = Quotas {
        device_bytes_max: ByteCount::new(12 << 20),
        ..Quotas::UNLIMITED
    };
    let acme = wait(engine.register("acme", quotas))?.tenant().clone();
    let named = acme.cache(&prices)?;
    for from in 0..10 {
        query(&acme, named, from)?;
    }
    tell("uploaded once, queried ten times", &acme);

    let globex = engine.blocking().tenant("globex")?;
    let large = globex.buffer(&vec![0; 64 << 20])?;
    tell("another tenant holds 64 MiB", &acme);
    let scratch = acme.buffer(&vec![0; 10 << 20])?;
    tell("its own tenant needs 10 MiB", &acme);
    drop(scratch);
    query(&acme, named, 500)?;
    tell("queried after the eviction", &acme);
    engine.blocking().close()?;
    drop((acme, globex, large, engine));

    let engine = open(&store, &columns)?;
    let acme = engine.blocking().tenant("acme")?;
    tell("after a restart", &acme);
    query(&acme, named, 700)?;
    tell("queried after the restart", &acme);

    acme.evict(&named.digest);
    std::fs::write(columns.file(&named.digest), b"something else")?;
    match acme.fetch(&named.digest) {
        Err(error @ BufferError::OtherContent { .. }) => println!("damaged: {error}"),
        other => return Err(format!("{other:?}").into()),
    }
    engine.blocking().close()?;
    println!("verified");
    Ok(())
}
