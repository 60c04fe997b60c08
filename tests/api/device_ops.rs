//! The device's computations through the whole engine: typed, durable, replayed.

use orlop::{
    Aggregate, Blake3Many, BufferRef, Crc32cPages, Digest, Disposition, ElementType,
    FilterAggregate, Items, Neighbour, Origin, Pages, Source, SubmitError, Tenant, TopK,
    VectorMetric, VectorTopk, le_bytes, wait,
};

use crate::support::World;

/// Numbers that look random and are always the same.
fn random(seed: u64) -> impl FnMut(u64) -> i64 {
    let mut state = seed;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((state >> 33) % below).unwrap()
    }
}

/// Columns of TPC-H's `lineitem` that its sixth query reads. Money in cents, discounts in percent,
/// dates in days.
struct LineItems {
    shipdate: Vec<i32>,
    discount: Vec<i64>,
    quantity: Vec<i64>,
    price: Vec<i64>,
}

impl LineItems {
    fn generated(rows: usize) -> Self {
        let mut random = random(6);
        let mut column = |rows: usize, from: i64, below: u64| -> Vec<i64> {
            (0..rows).map(|_| from + random(below)).collect()
        };
        let dates = column(rows, 8035, 2557).into_iter();
        Self {
            shipdate: dates.map(|day| i32::try_from(day).unwrap()).collect(),
            discount: column(rows, 0, 11),
            quantity: column(rows, 1, 50),
            price: column(rows, 90_000, 10_404_951),
        }
    }

    /// Selected rows, revenue and the first day of shipping, by the letter of the query.
    fn q6(&self) -> (u64, i128, i32) {
        let mut found = (0, 0, i32::MAX);
        for row in 0..self.price.len() {
            let selected = (8766..9131).contains(&self.shipdate[row])
                && (5..=7).contains(&self.discount[row])
                && self.quantity[row] < 24;
            if selected {
                found.0 += 1;
                found.1 += i128::from(self.price[row]) * i128::from(self.discount[row]);
                found.2 = found.2.min(self.shipdate[row]);
            }
        }
        found
    }
}

fn buffer(tenant: &Tenant, bytes: &[u8]) -> orlop::Buffer {
    tenant.buffer(bytes).unwrap()
}

#[test]
fn tpch_q6_is_that_of_an_exact_oracle_and_replays_after_a_restart_without_its_columns() {
    let items = LineItems::generated(100_003);
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let columns = [
        buffer(&tenant, &le_bytes(&items.shipdate)),
        buffer(&tenant, &le_bytes(&items.discount)),
        buffer(&tenant, &le_bytes(&items.quantity)),
        buffer(&tenant, &le_bytes(&items.price)),
    ];
    let references = columns.each_ref().map(orlop::Buffer::reference);
    let q6 = || {
        let [shipdate, discount, quantity, price] = references;
        let mut query = Aggregate::of_rows(100_003);
        let shipdate = query.column::<i32>(shipdate);
        let discount = query.column::<i64>(discount);
        let quantity = query.column::<i64>(quantity);
        let price = query.column::<i64>(price);
        query.within(shipdate, 8766..9131);
        query.within(discount, 5..=7);
        query.within(quantity, ..24);
        let revenue = query.sum_of_products(price, discount);
        let first = query.min(shipdate);
        (query, revenue, first)
    };
    let (query, revenue, first) = q6();
    let reply = wait(tenant.submit(FilterAggregate, query)).unwrap();
    assert_eq!(reply.origin, Origin::Ran);
    let (selected, expected, day) = items.q6();
    assert!(selected > 1000);
    assert_eq!(reply.output.selected(), selected);
    assert_eq!(reply.output.counted(revenue), selected);
    assert_eq!(reply.output.get(revenue), Some(expected));
    assert_eq!(reply.output.get(first), Some(day));
    drop(columns);
    engine.blocking().close().unwrap();
    drop((engine, tenant));

    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let again = wait(tenant.submit(FilterAggregate, q6().0)).unwrap();
    assert_eq!(again.origin, Origin::Replayed);
    assert_eq!(again.output, reply.output);
    engine.blocking().close().unwrap();
}

#[test]
fn eight_columns_with_nulls_and_eight_functions_fit_one_operation() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let mut query = Aggregate::of_rows(4);
    let mut maxima = Vec::new();
    for number in 0..8_i32 {
        let values: Vec<f64> = (0..4_i32)
            .map(|row| f64::from(row) + f64::from(number))
            .collect();
        let column = query.column::<f64>(Source::of_values(&values));
        // The last row has no value in any column, and the first none in the first.
        query.present(column, vec![if number == 0 { 0b0110 } else { 0b0111_u8 }]);
        query.within(column, ..1e9);
        maxima.push(query.max(column));
    }
    let output = wait(tenant.submit(FilterAggregate, query)).unwrap().output;
    assert_eq!(output.selected(), 2);
    for (number, asked) in (0..8_i32).zip(maxima) {
        assert_eq!(output.counted(asked), 2);
        assert_eq!(output.get(asked), Some(2.0 + f64::from(number)));
    }
    let mut nobody = Aggregate::of_rows(1);
    let column = nobody.column::<f32>(Source::of_values(&[1.0_f32]));
    nobody.within(column, 2.0..);
    let (sum, least) = (nobody.sum(column), nobody.min(column));
    let output = wait(tenant.submit(FilterAggregate, nobody)).unwrap().output;
    assert_eq!(
        (output.selected(), output.get(sum), output.get(least)),
        (0, None, None)
    );
    engine.blocking().close().unwrap();
}

fn search(vectors: impl Into<Source>, queries: &[f32], k: u32) -> TopK {
    TopK {
        metric: VectorMetric::SquaredL2,
        element: ElementType::F32,
        dimensions: 3,
        k,
        vectors: vectors.into(),
        queries: Source::of_values(queries),
    }
}

#[test]
fn the_nearest_vectors_are_told_nearest_first_and_equal_ones_by_index() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    // A line of points; the query vectors lie on it and between two of them.
    let points = (0..50_000_u16).flat_map(|at| [f32::from(at), 0.0, 1.0]);
    let vectors = buffer(&tenant, &le_bytes(&points.collect::<Vec<f32>>()));
    let queries = [49_999.0, 0.0, 1.0, 100.5, 0.0, 1.0];
    let reply = wait(tenant.submit(VectorTopk, search(&vectors, &queries, 3))).unwrap();
    let near = |index, score| Neighbour { index, score };
    assert_eq!(
        reply.output,
        [
            [near(49_999, 0.0), near(49_998, 1.0), near(49_997, 4.0)],
            [near(100, 0.25), near(101, 0.25), near(99, 2.25)],
        ]
    );
    let few = search(
        Source::of_values(&[0.0_f32, f32::NAN, 0.0, 1.0, 2.0, 3.0]),
        &queries,
        256,
    );
    let output = wait(tenant.submit(VectorTopk, few)).unwrap().output;
    assert_eq!(output.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    engine.blocking().close().unwrap();
}

#[test]
fn many_digests_and_many_checksums_come_from_one_operation_each() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    let items: Vec<Vec<u8>> = (0..2000_usize)
        .map(|at| vec![at.to_le_bytes()[0]; at % 100])
        .collect();
    let input = Items::inline(items.iter().map(Vec::as_slice));
    let digests = wait(tenant.submit(Blake3Many, input)).unwrap().output;
    let expected: Vec<Digest> = items.iter().map(|item| Digest::of(item)).collect();
    assert_eq!(digests, expected);

    let bytes: Vec<u8> = (0..=255_u8).cycle().take(3_000_000).collect();
    let kept = buffer(&tenant, &bytes);
    let pages = Pages {
        bytes: Source::from(&kept),
        page_bytes: 4096,
    };
    let sums = wait(tenant.submit(Crc32cPages, pages)).unwrap().output;
    let expected: Vec<u32> = bytes.chunks(4096).map(crc32c::crc32c).collect();
    assert_eq!(sums, expected);
    engine.blocking().close().unwrap();
}

/// A permanent failure, with this in its text.
fn refused<T: std::fmt::Debug>(result: Result<T, SubmitError>, text: &str) {
    let Err(SubmitError::Failed(failure)) = result else {
        panic!("{result:?} is no failure");
    };
    assert_eq!(failure.disposition(), Disposition::Permanent, "{failure:?}");
    assert!(failure.to_string().contains(text), "{failure:?}");
}

fn misaligned(tenant: &Tenant) {
    let vectors = buffer(tenant, &[0; 64]);
    let shifted = BufferRef {
        offset: 2,
        length: 24,
        ..vectors.reference()
    };
    let answer = wait(tenant.submit(VectorTopk, search(shifted, &[0.0; 3], 1)));
    refused(answer, "misaligned");
}

#[test]
fn inputs_that_an_operation_does_not_take_are_permanent_failures_that_say_why() {
    let world = World::new();
    let engine = world.open();
    let tenant = engine.blocking().tenant("a").unwrap();
    misaligned(&tenant);
    let vectors = || Source::of_values(&[0.0_f32; 6]);
    for k in [0, 257] {
        let answer = wait(tenant.submit(VectorTopk, search(vectors(), &[0.0; 3], k)));
        refused(answer, "an argument is outside its range");
    }
    let answer = wait(tenant.submit(VectorTopk, search(vectors(), &[0.0; 4], 1)));
    refused(answer, "a window's length does not fit");
    let answer = wait(tenant.submit(VectorTopk, search(vectors(), &[0.0; 3 * 32], 256)));
    refused(answer, "the result exceeds");

    let mut query = Aggregate::of_rows(2);
    let column = query.column::<i64>(Source::of_values(&[i64::MIN, i64::MIN]));
    query.sum_of_products(column, column);
    refused(
        wait(tenant.submit(FilterAggregate, query)),
        "exceeds 128 bits",
    );
    let mut query = Aggregate::of_rows(3);
    query.column::<i64>(Source::of_values(&[1_i64, 2]));
    refused(
        wait(tenant.submit(FilterAggregate, query)),
        "length does not fit",
    );
    let mut query = Aggregate::of_rows(1);
    let column = query.column::<f64>(Source::of_values(&[1.0]));
    query.within(column, f64::NAN..);
    refused(
        wait(tenant.submit(FilterAggregate, query)),
        "outside its range",
    );
    let mut query = Aggregate::of_rows(0);
    for _ in 0..9 {
        query.column::<i32>(Source::of_values::<i32>(&[]));
    }
    refused(
        wait(tenant.submit(FilterAggregate, query)),
        "outside its range",
    );

    let items = Items {
        bytes: "abc".into(),
        bounds: Source::of_values(&[0_u64, 4]),
    };
    refused(
        wait(tenant.submit(Blake3Many, items)),
        "content of a window",
    );
    let pages = Pages {
        bytes: "abc".into(),
        page_bytes: 0,
    };
    refused(wait(tenant.submit(Crc32cPages, pages)), "outside its range");
    engine.blocking().close().unwrap();
}
