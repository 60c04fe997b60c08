//! The child: works, and says on its standard output what was acknowledged, until it is killed.

use std::path::Path;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use orlop::{Engine, Key, SubmitError, Tenant, wait};

use crate::code::{Move, Put, Stamp, builder};
use crate::ledger::Ledger;

/// Where the child works.
pub(crate) const FOLDER: &str = "ORLOP_CRASH_FOLDER";
/// Which items it begins with.
pub(crate) const WAVE: &str = "ORLOP_CRASH_WAVE";
/// Items of one wave.
pub(crate) const WAVE_ITEMS: u64 = 10;
/// Begins every line that is for the parent.
pub(crate) const MARK: &str = "@";

fn say(text: &str) {
    // The harness may have begun a line of its own.
    println!("\n{MARK}{text}");
}

/// Does one item and gives its outcome as text; `accepted` is called once it is accepted.
pub(crate) async fn item(
    tenant: &Tenant,
    number: u64,
    accepted: impl Fn(),
) -> Result<String, SubmitError> {
    let name = format!("item {number}");
    let key = Key::named(&name);
    let outcome = match number % 5 {
        0 => {
            let reply = tenant.submit(Stamp, name).key(key).await;
            reply.map(|reply| reply.output.to_string())
        }
        1 => {
            let reply = tenant.submit(Put, name).key(key).await;
            reply.map(|reply| reply.output.to_string())
        }
        2 => {
            let ticket = tenant.enqueue(Put, name).key(key).await?;
            accepted();
            ticket.await.map(|reply| reply.output.to_string())
        }
        kind => {
            let ticket = tenant.start::<Move>(key, (name, kind == 4)).await?;
            accepted();
            ticket.await.map(|reply| format!("{:?}", reply.output))
        }
    };
    match outcome {
        Err(SubmitError::Failed(failure)) => Ok(format!("failed: {failure}")),
        outcome => outcome,
    }
}

/// The name that an item is written under, and how often its writes must be there at the end.
pub(crate) fn writes(number: u64) -> Vec<(String, u32)> {
    let name = format!("item {number}");
    let part = |part: u32| format!("{name} {part}");
    match number % 5 {
        0 => Vec::new(),
        1 | 2 => vec![(name, 1)],
        3 => vec![(part(1), 1), (part(2), 1), (part(3), 1)],
        _ => vec![(part(1), 0), (part(2), 0), (part(3), 0)],
    }
}

fn work(folder: &Path, wave: u64) {
    let ledger = Ledger::open(folder);
    say("opening");
    let engine: Engine = builder(folder, &ledger).open_blocking().unwrap();
    say("open");
    let items = wave * WAVE_ITEMS..(wave + 1) * WAVE_ITEMS;
    // Some of an earlier wave again, which must be replayed.
    let again = (0..wave * WAVE_ITEMS).rev().step_by(7).take(3);
    let one = |number: u64| -> BoxFuture<'_, ()> {
        let engine = engine.clone();
        async move {
            let tenant = engine
                .tenant(&format!("tenant {}", number % 3))
                .await
                .unwrap();
            let accepted = || say(&format!("accepted {number}"));
            match item(&tenant, number, accepted).await {
                Ok(outcome) => say(&format!("done {number} {outcome}")),
                Err(error) => say(&format!("broken {number} {error}")),
            }
        }
        .boxed()
    };
    wait(join_all(items.chain(again).map(one)));
    say("closing");
    engine.blocking().close().unwrap();
    say("closed");
}

#[test]
#[ignore = "the parent starts it, and kills it"]
fn child() {
    let folder = std::env::var_os(FOLDER).expect("started by its parent");
    let wave = std::env::var(WAVE).expect("started by its parent");
    work(Path::new(&folder), wave.parse().expect("a number"));
}
