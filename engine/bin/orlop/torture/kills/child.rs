//! The child: works, and says every answer on its standard output before it makes anything of it,
//! until it is killed.

use std::io::{self, Write};
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::super::Failed;
use super::super::code::Remote;
use super::super::life::{Ack, Hear, Life, Phase};
use super::super::plan::Plan;

/// What a child is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) store: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) plan: Plan,
    /// Whether the store is there already.
    pub(crate) exists: bool,
    /// Items that the engine must know.
    pub(crate) known: Vec<u64>,
    /// Items to have done, before a checkpoint, during it, and during a backup.
    pub(crate) first: Vec<u64>,
    pub(crate) second: Vec<u64>,
    pub(crate) third: Vec<u64>,
    /// A folder for the backup, which there is not yet.
    pub(crate) backup: PathBuf,
}

/// Standard output, line by line.
struct Mouth(Mutex<io::Stdout>);

impl Hear for Mouth {
    fn hear(&self, ack: Ack) {
        let Ok(mut line) = serde_json::to_vec(&ack) else {
            return;
        };
        line.push(b'\n');
        let mut stdout = self.0.lock();
        // Whoever does not listen any more is about to kill this process.
        let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    }
}

/// Does it.
pub(crate) fn work(order: &Order) -> Result<(), Failed> {
    let mouth = Mouth(Mutex::new(io::stdout()));
    mouth.hear(Ack::Phase(if order.exists {
        Phase::Recovery
    } else {
        Phase::Open
    }));
    let remote = Remote::There(order.socket.as_path().into());
    let life = Life::open(&order.store, &remote, order.plan, &mouth);
    let life = life.map_err(|error| Failed::of("the engine does not open", &error))?;
    mouth.hear(Ack::Phase(Phase::Work));
    orlop::wait(async {
        life.probe(order.known.iter().copied()).await;
        life.items(order.first.iter().copied()).await;
        mouth.hear(Ack::Phase(Phase::Checkpoint));
        let second = life.items(order.second.iter().copied());
        futures_util::future::join(life.checkpoint(), second).await;
        mouth.hear(Ack::Phase(Phase::Backup));
        let third = life.items(order.third.iter().copied());
        futures_util::future::join(life.backup(&order.backup), third).await;
    });
    mouth.hear(Ack::Phase(Phase::Close));
    life.close();
    mouth.hear(Ack::Phase(Phase::Closed));
    Ok(())
}
