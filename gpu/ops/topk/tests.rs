//! Against a plain loop that scores and sorts everything, written from the definition.

use orlop_saga::id::TenantId;
use proptest::prelude::*;

use super::super::testing::{self, Aligned};
use super::*;

pub(crate) struct Data {
    pub(crate) query: Query,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) queries: Vec<Vec<f32>>,
}

/// Few different numbers, so that scores tie; some that are none.
fn element(random: u64, wild: bool) -> f32 {
    let small = f32::from(i8::try_from(random >> 8 & 7).unwrap()) - 3.0;
    match random & 63 {
        0 if wild => f32::NAN,
        1 if wild => f32::INFINITY,
        2 => -0.0,
        3..32 => small,
        _ => small + f32::from(u8::try_from(random >> 16 & 255).unwrap()) / 64.0,
    }
}

impl Data {
    pub(crate) fn draw(query: Query, vectors: usize, queries: usize, seed: u64) -> Self {
        let mut random = testing::random(seed);
        let dimensions = query.dimensions as usize;
        let mut draw = |count: usize| -> Vec<Vec<f32>> {
            let mut vector = || {
                let (zero, wild) = (random().is_multiple_of(16), random().is_multiple_of(8));
                let element = |random| if zero { 0.0 } else { element(random, wild) };
                (0..dimensions).map(|_| element(random())).collect()
            };
            (0..count).map(|_| vector()).collect()
        };
        Self {
            query,
            vectors: draw(vectors),
            queries: draw(queries),
        }
    }

    pub(crate) fn window(&self, vectors: &[Vec<f32>]) -> Aligned {
        let elements = vectors.iter().flatten();
        let bytes: Vec<u8> = match self.query.element {
            ElementType::F32 => elements.flat_map(|element| element.to_le_bytes()).collect(),
            // What is drawn has few bits, so nothing is lost.
            ElementType::F16 => elements
                .flat_map(|element| f16::from_f32(*element).to_le_bytes())
                .collect(),
        };
        Aligned::of(&bytes)
    }

    fn answer(&self, seed: u64) -> Result<Vec<u8>, OpError> {
        let args = self.query.encode()?;
        let (vectors, queries) = (self.window(&self.vectors), self.window(&self.queries));
        let windows = [vectors.bytes(), queries.bytes()];
        let task = TaskArgs::new(TenantId::new(0, 1), 1, &args, &windows);
        let order = testing::shuffled(VectorTopk.tiles(&task)?, seed);
        testing::in_order(&VectorTopk, &task, &order)
    }

    fn oracle(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let k = self.query.k as usize;
        for query in &self.queries {
            let scores = self.vectors.iter().map(|vector| self.score(vector, query));
            let mut found: Vec<(u32, f32)> = (0..).zip(scores).collect();
            found.retain(|(_, score)| !score.is_nan());
            found.sort_by(|(i, one), (j, other)| {
                let order = one.partial_cmp(other).unwrap();
                let order = match self.query.metric {
                    VectorMetric::SquaredL2 => order,
                    VectorMetric::InnerProduct | VectorMetric::Cosine => order.reverse(),
                };
                order.then(i.cmp(j))
            });
            found.truncate(k);
            bytes.extend(u32::try_from(found.len()).unwrap().to_le_bytes());
            bytes.extend(self.query.k.to_le_bytes());
            for at in 0..k {
                let (index, score) = found.get(at).copied().unwrap_or((0, 0.0));
                bytes.extend(index.to_le_bytes());
                bytes.extend((score + 0.0).to_le_bytes());
            }
        }
        bytes
    }

    fn score(&self, vector: &[f32], query: &[f32]) -> f32 {
        let product = |one: &[f32], other: &[f32]| in_lanes(one, other, |one, other| one * other);
        match self.query.metric {
            VectorMetric::SquaredL2 => {
                in_lanes(vector, query, |one, other| (one - other) * (one - other))
            }
            VectorMetric::InnerProduct => product(vector, query),
            VectorMetric::Cosine => {
                let length = |vector: &[f32]| product(vector, vector).sqrt();
                product(vector, query) / (length(vector) * length(query))
            }
        }
    }
}

fn in_lanes(one: &[f32], other: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; 32];
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        lanes[at % 32] += term(*one, *other);
    }
    for half in [16, 8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

pub(crate) fn query() -> impl Strategy<Value = Query> {
    let metric = prop::sample::select(vec![
        VectorMetric::SquaredL2,
        VectorMetric::InnerProduct,
        VectorMetric::Cosine,
    ]);
    let element = prop::sample::select(vec![ElementType::F32, ElementType::F16]);
    let dimensions = prop_oneof![
        8 => 1..70_u32,
        1 => prop::sample::select(vec![128, 2047, 5000, 16_384]),
    ];
    let k = prop_oneof![4 => 1..12_u32, 1 => Just(256)];
    (metric, element, dimensions, k).prop_map(|(metric, element, dimensions, k)| Query {
        metric,
        element,
        dimensions,
        k,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_nearest_are_those_of_a_plain_loop_in_any_order_of_tiles(
        query in query(), vectors in 0..120_usize, queries in 1..10_usize, seed: u64,
    ) {
        let data = Data::draw(query, vectors, queries, seed);
        prop_assert_eq!(data.answer(seed >> 5), Ok(data.oracle()));
    }

    #[test]
    fn scores_keep_their_bounds(dimensions in 1..300_u32, element_is_half: bool, seed: u64) {
        for metric in [VectorMetric::SquaredL2, VectorMetric::InnerProduct, VectorMetric::Cosine] {
            let element = if element_is_half { ElementType::F16 } else { ElementType::F32 };
            let query = Query { metric, element, dimensions, k: 1 };
            let mut data = Data::draw(query, 1, 1, seed);
            for vector in data.vectors.iter_mut().chain(&mut data.queries) {
                for element in vector.iter_mut() {
                    *element = if element.is_finite() { *element + 0.25 } else { 1.0 };
                }
            }
            let answer = data.answer(1).unwrap();
            let score = f64::from(f32::from_le_bytes(answer[12..16].try_into().unwrap()));
            let pairs = data.vectors[0].iter().zip(&data.queries[0]);
            let wide: Vec<(f64, f64)> =
                pairs.map(|(one, other)| (f64::from(*one), f64::from(*other))).collect();
            let sum = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
                wide.iter().map(|(one, other)| term(*one, *other)).sum()
            };
            let (unit, d) = (2_f64.powi(-24), f64::from(dimensions));
            let g = |m: f64| m * unit / (1.0 - m * unit);
            let product = sum(&|one, other| one * other);
            let (exact, bound) = match metric {
                VectorMetric::SquaredL2 => {
                    let exact = sum(&|one, other| (one - other) * (one - other));
                    (exact, g(d + 2.0) * exact)
                }
                VectorMetric::InnerProduct => (product, g(d) * sum(&|one, other| (one * other).abs())),
                VectorMetric::Cosine => {
                    let lengths = sum(&|one, _| one * one).sqrt() * sum(&|_, other| other * other).sqrt();
                    (product / lengths, g(2.0 * d + 8.0))
                }
            };
            prop_assert!((score - exact).abs() <= bound, "{:?}: {} {}", metric, score, exact);
        }
    }

    #[test]
    fn any_words_and_windows_are_answered_or_refused(
        shape in 0..0x400_u32, dimensions in 0..20_u32, k in 0..300_u32,
        lengths in proptest::collection::vec(0..200_usize, 0..4), start in 0..4_usize,
    ) {
        let memory = Aligned::of(&testing::bytes(256));
        let windows: Vec<&[u8]> =
            lengths.iter().map(|length| &memory.bytes()[start..start + length]).collect();
        let args = [shape, dimensions, k];
        let task = TaskArgs::new(TenantId::new(0, 1), 1, &args, &windows);
        if let Ok(bytes) = testing::answer(&VectorTopk, &task) {
            prop_assert!(bytes.len() <= 65_536);
        }
    }
}

#[test]
fn equal_scores_are_told_by_index_over_tiles_and_the_nearest_are_not_lost_between() {
    // 31 vectors a tile; all score the same but two.
    let query = Query {
        metric: VectorMetric::InnerProduct,
        element: ElementType::F32,
        dimensions: 16_384,
        k: 5,
    };
    let mut vectors = vec![vec![1.0_f32; 16_384]; 40];
    vectors[37][0] = 3.0;
    vectors[20][0] = 2.0;
    let data = Data {
        query,
        vectors,
        queries: vec![vec![1.0; 16_384]],
    };
    for seed in 0..10 {
        let answer = data.answer(seed).unwrap();
        let words: Vec<u32> = answer
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect();
        let indices: Vec<u32> = words.iter().skip(2).step_by(2).copied().collect();
        assert_eq!((words[0], &indices[..]), (5, &[37, 20, 0, 1, 2][..]));
    }
}

#[test]
fn a_tile_is_no_more_work_for_short_vectors_and_many_queries_than_for_long_ones() {
    let memory = Aligned::of(&vec![0; 16 << 20]);
    for metric in [
        VectorMetric::SquaredL2,
        VectorMetric::InnerProduct,
        VectorMetric::Cosine,
    ] {
        for element in [ElementType::F32, ElementType::F16] {
            for (dimensions, queries) in [(1, 1), (1, 4), (3, 9), (16, 4), (128, 1), (16_384, 4)] {
                let query = Query {
                    metric,
                    element,
                    dimensions,
                    k: 10,
                };
                let bytes = query.vector_bytes();
                let length = memory.bytes().len() / bytes * bytes;
                let windows = [
                    &memory.bytes()[..length],
                    &memory.bytes()[..queries * bytes],
                ];
                let args = query.encode().unwrap();
                let task = TaskArgs::new(TenantId::new(0, 1), 1, &args, &windows);
                let tiles = VectorTopk.tiles(&task).unwrap() as usize;
                // Each score is its elements, and as much as 64 of them to fold and to offer.
                let work = (length / bytes) * queries * (dimensions as usize + 64);
                assert!(
                    work / tiles <= 1 << 19,
                    "{query:?}, {queries} queries: {work} in {tiles} tiles"
                );
            }
        }
    }
}

#[test]
fn lengths_and_limits_are_typed_failures() {
    let memory = Aligned::of(&vec![0; 64 * 1024]);
    let refused = |args: &[u32], windows: &[&[u8]]| {
        let task = TaskArgs::new(TenantId::new(0, 1), 1, args, windows);
        VectorTopk.tiles(&task).unwrap_err()
    };
    let bytes = memory.bytes();
    let (some, none): (&[u8], &[u8]) = (&bytes[..64], &[]);
    let args = [0x101, 4, 1];
    assert_eq!(refused(&args, &[some]), OpError::MISSING_WINDOW);
    assert_eq!(refused(&args, &[some, some, some]), OpError::BAD_ARGUMENT);
    assert_eq!(refused(&args, &[some, none]), OpError::BAD_LENGTH);
    assert_eq!(refused(&args, &[&bytes[..60], some]), OpError::BAD_LENGTH);
    assert_eq!(refused(&args, &[some, &bytes[..8]]), OpError::BAD_LENGTH);
    assert_eq!(refused(&args, &[&bytes[2..18], some]), OpError::MISALIGNED);
    assert_eq!(refused(&args, &[some, &bytes[1..17]]), OpError::MISALIGNED);
    assert_eq!(
        refused(&[0x101, 4, 0], &[some, some]),
        OpError::BAD_ARGUMENT
    );
    assert_eq!(
        refused(&[0x101, 4, 257], &[some, some]),
        OpError::BAD_ARGUMENT
    );
    assert_eq!(
        refused(&[0x101, 0, 1], &[some, some]),
        OpError::BAD_ARGUMENT
    );
    // 31 query vectors at k = 256 fit the result, 32 do not.
    let queries = |count: usize| &bytes[..16 * count];
    assert_eq!(
        refused(&[0x101, 4, 256], &[some, queries(32)]),
        OpError::RESULT_TOO_LONG
    );
    let (args, windows) = ([0x101, 4, 256], [some, queries(31)]);
    let task = TaskArgs::new(TenantId::new(0, 1), 1, &args, &windows);
    assert_eq!(
        testing::answer(&VectorTopk, &task).map(|bytes| bytes.len()),
        Ok(63_736)
    );
}
