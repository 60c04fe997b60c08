//! Sagas that wait for others: a parent with a child that it adopts and a word that it is told.

use orlop::testkit::{CrashSweep, Ending, FaultPlan};
use orlop::{Saga, SagaContext, SagaError};

use crate::pair::{Code, Mistake, Put, Remove, bind, code, counting};

/// Puts its first, has a child put one more, and after a word from outside its last one.
struct Elder;

impl Saga for Elder {
    const NAME: &'static str = "elder";
    type Input = String;
    type Output = String;

    async fn run(&self, saga: SagaContext, name: String) -> Result<String, SagaError> {
        let first = format!("{name} first");
        let put = saga.step("first", Put, first.clone());
        put.undo(Remove, first).await?;
        saga.child::<Younger>("child", name.clone()).await?;
        let word: String = saga.signal("word").await?;
        let saga = saga.pivot().await?;
        saga.step("last", Put, format!("{name} last")).await?;
        Ok(word)
    }
}

/// A child that can be taken back.
struct Younger;

impl Saga for Younger {
    const NAME: &'static str = "younger";
    type Input = String;
    type Output = ();

    async fn run(&self, saga: SagaContext, name: String) -> Result<(), SagaError> {
        let one = format!("{name} one");
        saga.step("one", Put, one.clone()).undo(Remove, one).await?;
        Ok(())
    }
}

/// What stands in the end.
fn holds(code: &Code, ending: &Ending<String>) -> Result<(), String> {
    code.outside.check().map_err(|error| error.to_string())?;
    let standing = code.outside.standing().len();
    let expected = match ending {
        Ending::Completed(word) if word == "go" => 3,
        Ending::Completed(word) => return Err(format!("it was told {word:?}")),
        Ending::Compensated(_) => 0,
        // Only what fails after the pivot is held.
        Ending::Held(reason) if reason.contains("after its pivot") => 2,
        Ending::Held(reason) => return Err(reason.clone()),
    };
    if standing == expected {
        return Ok(());
    }
    Err(format!("{standing} stand after {ending:?}"))
}

fn sweep() -> CrashSweep<Elder, Code> {
    CrashSweep::new(
        |clock| Code {
            mistake: Mistake::None,
            ..code(&counting(FaultPlan::new())(clock))
        },
        |code, builder| bind(code, builder).saga(Elder).saga(Younger),
        |_, _| "f".to_owned(),
        holds,
    )
}

#[test]
fn a_parent_with_a_child_and_a_signal_survives_every_crash() {
    let sweep = sweep().signal("word", "go".to_owned());
    let report = sweep.depth(1).seed(2).run();
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    println!("{report}");
    // The step of the child fails too, and is cancelled at.
    assert_eq!(report.courses, 4 * (1 + 2 * 3), "{report}");
    assert!(report.endings.iter().all(|count| *count > 0), "{report}");
    assert!(report.forward.total() > 0 && report.unwinding.total() > 0);
}

#[test]
fn a_signal_that_nobody_sends_is_found() {
    let error = sweep().depth(0).run().unwrap_err();
    assert!(
        error.to_string().starts_with("the saga never ends"),
        "{error}"
    );
}
