//! Columns and vectors: a query over columns and a search for the nearest vectors, each run once.
//!
//! ```sh
//! cargo run --release --example 02_columns_and_vectors
//! ```
//!
//! What an embedder has are columns and vectors of its own, here generated: line items as in TPC-H,
//! and one vector per part. They are put onto the device once, as buffers. The sixth query of TPC-H
//! and a search run over them; the same query submitted again is not run again. A plain loop says
//! whether the answers are right.

use orlop::{
    Aggregate, Buffer, ElementType, Engine, FilterAggregate, Origin, Source, TopK, VectorMetric,
    VectorTopk, le_bytes, wait,
};

const ROWS: usize = 1_000_000;
const PARTS: usize = 50_000;
const DIMENSIONS: u16 = 64;

/// Columns of `lineitem`: days, percent, pieces, cents.
struct LineItems {
    shipdate: Vec<i32>,
    discount: Vec<i64>,
    quantity: Vec<i64>,
    price: Vec<i64>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let engine = Engine::builder(folder.path().join("store")).open_blocking()?;
    let tenant = engine.blocking().tenant("acme")?;

    let items = generate(ROWS);
    let shipdate = tenant.buffer(&le_bytes(&items.shipdate))?;
    let discount = tenant.buffer(&le_bytes(&items.discount))?;
    let quantity = tenant.buffer(&le_bytes(&items.quantity))?;
    let price = tenant.buffer(&le_bytes(&items.price))?;

    let mut query = Aggregate::of_rows(ROWS as u64);
    let shipped = query.column::<i32>(&shipdate);
    let percent = query.column::<i64>(&discount);
    let pieces = query.column::<i64>(&quantity);
    let cents = query.column::<i64>(&price);
    query.within(shipped, 8766..9131); // the year 1994
    query.within(percent, 5..=7);
    query.within(pieces, ..24);
    let revenue = query.sum_of_products(cents, percent);
    let dearest = query.max(cents);

    let first = wait(tenant.submit(FilterAggregate, query.clone()))?;
    let again = wait(tenant.submit(FilterAggregate, query))?;
    assert_eq!(
        (first.origin, again.origin),
        (Origin::Ran, Origin::Replayed)
    );
    let (selected, expected) = by_hand(&items);
    assert_eq!(first.output.selected(), selected);
    assert_eq!(first.output.get(revenue), Some(expected));
    println!(
        "{selected} of {ROWS} line items, revenue {}",
        expected / 10_000
    );
    println!("dearest of them: {:?} cents", first.output.get(dearest));

    let vectors = generate_vectors(PARTS);
    let parts = tenant.buffer(&le_bytes(&vectors))?;
    nearest(&tenant, &parts, &vectors)?;
    engine.blocking().close()?;
    println!("verified");
    Ok(())
}

/// The parts nearest to two of them, each of which is nearest to itself.
fn nearest(
    tenant: &orlop::Tenant,
    parts: &Buffer,
    vectors: &[f32],
) -> Result<(), Box<dyn std::error::Error>> {
    let asked = [17_u32, 4711];
    let queries: Vec<f32> = asked
        .iter()
        .flat_map(|part| {
            vectors
                .chunks(DIMENSIONS.into())
                .nth(*part as usize)
                .unwrap_or_default()
        })
        .copied()
        .collect();
    let search = TopK {
        metric: VectorMetric::Cosine,
        element: ElementType::F32,
        dimensions: DIMENSIONS.into(),
        k: 4,
        vectors: parts.into(),
        queries: Source::of_values(&queries),
    };
    let found = wait(tenant.submit(VectorTopk, search))?.output;
    for (part, neighbours) in asked.iter().zip(&found) {
        let near: Vec<String> = neighbours
            .iter()
            .map(|near| format!("{} ({:.3})", near.index, near.score))
            .collect();
        println!("nearest to part {part}: {}", near.join(", "));
        assert_eq!(neighbours.first().map(|near| near.index), Some(*part));
    }
    Ok(())
}

/// Numbers that look random and are always the same.
fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u32::try_from(state >> 33).unwrap_or(0)
    }
}

fn generate(rows: usize) -> LineItems {
    let mut random = random(1994);
    let mut column = |from: i64, below: u32| -> Vec<i64> {
        (0..rows)
            .map(|_| from + i64::from(random() % below))
            .collect()
    };
    LineItems {
        shipdate: column(8035, 2557)
            .into_iter()
            .map(|day| i32::try_from(day).unwrap_or(i32::MAX))
            .collect(),
        discount: column(0, 11),
        quantity: column(1, 50),
        price: column(90_000, 10_404_951),
    }
}

fn generate_vectors(parts: usize) -> Vec<f32> {
    let mut random = random(64);
    (0..parts * usize::from(DIMENSIONS))
        .map(|_| f32::from(u16::try_from(random() >> 16).unwrap_or(0)) / 16_384.0 - 1.0)
        .collect()
}

/// Selected rows and revenue, row by row.
fn by_hand(items: &LineItems) -> (u64, i128) {
    let rows = items
        .shipdate
        .iter()
        .zip(&items.discount)
        .zip(&items.quantity)
        .zip(&items.price);
    rows.filter(|(((date, discount), quantity), _)| {
        (8766..9131).contains(*date) && (5..=7).contains(*discount) && **quantity < 24
    })
    .fold(
        (0, 0),
        |(selected, revenue), (((_, discount), _), price)| {
            (
                selected + 1,
                revenue + i128::from(*price) * i128::from(*discount),
            )
        },
    )
}
