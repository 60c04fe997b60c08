//! Crowds: clients that ask for naps, each at its own pace, and what became of what they asked.
//!
//! Clients are open: they ask when it is time to, whatever became of what they asked before, so
//! that a slow answer delays no later question. A backlogged client has a fixed number of
//! questions open instead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use orlop::{Computation, Pure, SubmitError, Tenant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::nap::Turn;
use crate::bench::BenchError;

/// How a client asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// So many times a second, evenly.
    Open(f64),
    /// The first pace for so long, then the second.
    After(f64, Duration, f64),
    /// So many open questions all the time.
    Backlogged(u32),
}

/// One client.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) number: u32,
    pub(super) tenant: Tenant,
    pub(super) pace: Pace,
    /// How long it asks.
    pub(super) lasts: Duration,
}

/// What became of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// None yet.
    Awaited,
    /// The outcome, after so long.
    Done(Duration),
    /// A refusal, or no outcome in time.
    Denied,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) client: u32,
    pub(super) at: Instant,
    pub(super) answer: Answer,
}

/// How clients ask: for how long they wait, and whether the outcome is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    pub(super) deadline: Option<Duration>,
    pub(super) ephemeral: bool,
}

type Questions = Arc<Mutex<Vec<Asked>>>;

/// Clients on a thread of their own.
pub(super) struct Crowd {
    runtime: Runtime,
    /// No two questions are equal, in no run: an equal one would be replayed.
    number: Arc<Mutex<u64>>,
}

impl Crowd {
    pub(super) fn new() -> Result<Self, BenchError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("orlop-crowd")
            .enable_time()
            .build()
            .map_err(BenchError::Thread)?;
        Ok(Self {
            runtime,
            // Numbers of one length: to the engine all naps are of one size.
            number: Arc::new(Mutex::new(1 << 40)),
        })
    }

    /// Has the clients ask for naps of computation `C` for `lasts`; then nobody waits any more.
    pub(super) fn ask<C>(
        &self,
        computation: C,
        clients: &[Client],
        manner: Manner,
        lasts: Duration,
    ) -> Vec<Asked>
    where
        C: Computation<Kind = Pure, Input = Turn, Output = ()>,
    {
        let questions = Questions::default();
        let begun = Instant::now();
        let asking: Vec<JoinHandle<()>> = clients
            .iter()
            .flat_map(|client| {
                let lanes = match client.pace {
                    Pace::Open(_) | Pace::After(..) => 1,
                    Pace::Backlogged(open) => open,
                };
                std::iter::repeat_n(client, lanes as usize)
            })
            .map(|client| {
                let asker = Asker {
                    client: client.clone(),
                    computation,
                    manner,
                    questions: Arc::clone(&questions),
                    number: Arc::clone(&self.number),
                };
                self.runtime.spawn(asker.ask(begun))
            })
            .collect();
        std::thread::sleep(lasts);
        for asker in asking {
            asker.abort();
        }
        let asked = questions.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }
}

/// One client at work.
#[derive(Clone)]
struct Asker<C> {
    client: Client,
    computation: C,
    manner: Manner,
    questions: Questions,
    number: Arc<Mutex<u64>>,
}

impl<C> Asker<C>
where
    C: Computation<Kind = Pure, Input = Turn, Output = ()>,
{
    async fn ask(self, begun: Instant) {
        let ends = begun + self.client.lasts;
        match self.client.pace {
            Pace::Open(rate) => self.ask_evenly(begun, rate, ends).await,
            Pace::After(before, lasts, rate) => {
                self.ask_evenly(begun, before, begun + lasts).await;
                self.ask_evenly(begun + lasts, rate, ends).await;
            }
            Pace::Backlogged(_) => {
                while Instant::now() < ends {
                    self.clone().question().await;
                }
            }
        }
    }

    async fn ask_evenly(&self, from: Instant, rate: f64, to: Instant) {
        // Clients do not ask in step.
        let phase = f64::from(self.client.number) * 0.37;
        let mut open = Open::default();
        let mut count = 0_u32;
        loop {
            let due = from + Duration::from_secs_f64((f64::from(count) + phase.fract()) / rate);
            if due >= to {
                tokio::time::sleep_until(to.into()).await;
                // What is open is waited for: its answers count.
                return open.wait().await;
            }
            tokio::time::sleep_until(due.into()).await;
            open.add(tokio::spawn(self.clone().question()));
            count += 1;
        }
    }

    async fn question(self) {
        let number = {
            let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
            *number += 1;
            *number
        };
        let at = Instant::now();
        let place = self.note(Asked {
            client: self.client.number,
            at,
            answer: Answer::Awaited,
        });
        let turn = (self.client.number, number);
        let mut submission = self.client.tenant.submit(self.computation, turn);
        if self.manner.ephemeral {
            submission = submission.ephemeral();
        }
        if let Some(deadline) = self.manner.deadline {
            submission = submission.deadline(deadline);
        }
        let answer = match submission.await {
            Ok(_) => Answer::Done(at.elapsed()),
            // Nobody asks again at once: a client that is refused comes back at its pace.
            Err(SubmitError::Refused(_) | SubmitError::Expired) => Answer::Denied,
            Err(error) => {
                eprintln!("orlop: a nap failed: {error}");
                Answer::Denied
            }
        };
        let mut questions = self
            .questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = questions.get_mut(place) {
            asked.answer = answer;
        }
    }

    fn note(&self, asked: Asked) -> usize {
        let mut questions = self
            .questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        questions.push(asked);
        questions.len() - 1
    }
}

/// Questions of one client that may be open. Dropped, nobody waits for them any more.
#[derive(Default)]
struct Open(Vec<JoinHandle<()>>);

impl Open {
    fn add(&mut self, question: JoinHandle<()>) {
        if self.0.len() >= 1024 {
            self.0.retain(|question| !question.is_finished());
        }
        self.0.push(question);
    }

    async fn wait(mut self) {
        for question in &mut self.0 {
            let _ = question.await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for question in &self.0 {
            question.abort();
        }
    }
}
