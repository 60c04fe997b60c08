//! The tape: every change of one folder, in the order in which it was made, between what was
//! acknowledged and what happened outside; and faults of the disk, on request.
//!
//! Invariants
//! - A change, its place on the tape, and whether it fails are decided under one lock: the tape is
//!   in the order of the changes, and what is noted after an answer comes after all that the
//!   answer rests on.
//! - Nothing outside the folder is recorded, counted or failed.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::life::Ack;
use super::outside::Entry;

/// A file or folder, for as long as it has a name or was open. The folder itself is 0.
pub(crate) type Node = u32;

/// One thing on the tape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A file got its first name.
    CreatedFile {
        folder: Node,
        name: String,
        node: Node,
    },
    /// A folder was made.
    CreatedFolder {
        folder: Node,
        name: String,
        node: Node,
    },
    /// A file got another name.
    Linked {
        folder: Node,
        name: String,
        node: Node,
    },
    /// Bytes were written.
    Wrote {
        node: Node,
        offset: u64,
        data: Vec<u8>,
    },
    /// Zeros were written.
    WroteZeros { node: Node, offset: u64, bytes: u64 },
    /// A file was cut, or made longer.
    SetLength { node: Node, bytes: u64 },
    /// A file or folder was synced.
    Synced { node: Node },
    /// A name was moved, over another one if there was one.
    Renamed {
        from: (Node, String),
        to: (Node, String),
        node: Node,
    },
    /// A name was removed.
    Removed { folder: Node, name: String },
    /// Everything before is durable.
    Settled,
    /// An engine said something.
    Said(Ack),
    /// Something happened outside.
    Outside(Entry),
}

/// Where something is, as the system is told it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) folder: Option<RawFd>,
    pub(crate) path: &'a Path,
}

/// What the system is asked for.
#[derive(Debug)]
pub(crate) enum Call<'a> {
    Open {
        place: Place<'a>,
        creates: bool,
        truncates: bool,
        appends: bool,
    },
    Close {
        file: RawFd,
    },
    Write {
        file: RawFd,
        offset: u64,
        data: &'a [u8],
    },
    SetLength {
        file: RawFd,
        bytes: u64,
    },
    Sync {
        file: RawFd,
    },
    /// Starts and awaits writing, and is no promise that a loss of power would keep.
    SyncRange {
        file: RawFd,
    },
    Rename {
        from: Place<'a>,
        to: Place<'a>,
    },
    Link {
        from: Place<'a>,
        to: Place<'a>,
    },
    Remove {
        place: Place<'a>,
    },
    MakeFolder {
        place: Place<'a>,
    },
}

/// How a change fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// The device does not do it.
    Io,
    /// There is no space: of what needs none, nothing fails.
    NoSpace,
    /// A write writes half of what it was given.
    Short,
}

/// Which changes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Faults {
    /// The first change that may, counted from 1.
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    /// Whether all after it fail too.
    pub(crate) lasting: bool,
}

/// Asks the system; the limit is the number of bytes that a write is cut to.
pub(crate) type System<'a> = dyn FnMut(Option<usize>) -> i64 + 'a;

static ON: AtomicBool = AtomicBool::new(false);
static TAPE: Mutex<Option<Tape>> = Mutex::new(None);

struct Tape {
    root: PathBuf,
    records: bool,
    faults: Option<Faults>,
    events: Vec<Event>,
    /// How many changes were asked for, and how many of them failed.
    changes: u64,
    failed: u64,
    names: BTreeMap<(Node, String), Node>,
    kinds: HashMap<Node, bool>,
    open: HashMap<RawFd, Opened>,
    nodes: Node,
}

#[derive(Clone, Copy)]
struct Opened {
    node: Node,
    appends: bool,
}

/// What a tape has in the end.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) events: Vec<Event>,
    pub(crate) changes: u64,
    pub(crate) failed: u64,
}

/// Whether changes are looked at.
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Starts to record the changes of a folder in which `before` has happened.
pub(crate) fn record(root: &Path, before: Vec<Event>) {
    start(Tape::new(root, true, None, before));
}

/// Starts to fail changes of an empty folder.
pub(crate) fn fail(root: &Path, faults: Option<Faults>) {
    start(Tape::new(root, false, faults, Vec::new()));
}

fn start(tape: Tape) {
    *TAPE.lock() = Some(tape);
    ON.store(true, Ordering::Release);
}

/// Notes something that is no change.
pub(crate) fn note(event: Event) {
    if let Some(tape) = &mut *TAPE.lock() {
        tape.note(event);
    }
}

/// Ends what was started.
pub(crate) fn stop() -> Recorded {
    ON.store(false, Ordering::Release);
    let tape = TAPE.lock().take();
    tape.map_or_else(Recorded::default, |tape| Recorded {
        events: tape.events,
        changes: tape.changes,
        failed: tape.failed,
    })
}

/// Passes a call to the system, or has it fail.
///
/// # Errors
/// The number of the error that the caller is to be told; the system was not asked.
pub(crate) fn gate(call: &Call<'_>, system: &mut System<'_>) -> Result<i64, i32> {
    match &mut *TAPE.lock() {
        Some(tape) => tape.pass(call, system),
        None => Ok(system(None)),
    }
}

impl Tape {
    fn new(root: &Path, records: bool, faults: Option<Faults>, before: Vec<Event>) -> Self {
        let mut tape = Self {
            root: root.to_owned(),
            records,
            faults,
            events: Vec::new(),
            changes: 0,
            failed: 0,
            names: BTreeMap::new(),
            kinds: HashMap::from([(0, true)]),
            open: HashMap::new(),
            nodes: 1,
        };
        for event in &before {
            tape.follow(event);
        }
        tape.events = before;
        tape
    }

    fn note(&mut self, event: Event) {
        self.follow(&event);
        if self.records {
            self.events.push(event);
        }
    }

    /// Keeps the names.
    fn follow(&mut self, event: &Event) {
        match event {
            Event::CreatedFile { folder, name, node }
            | Event::CreatedFolder { folder, name, node } => {
                let is_folder = matches!(event, Event::CreatedFolder { .. });
                self.names.insert((*folder, name.clone()), *node);
                self.kinds.insert(*node, is_folder);
                self.nodes = self.nodes.max(*node + 1);
            }
            Event::Linked { folder, name, node } => {
                self.names.insert((*folder, name.clone()), *node);
            }
            Event::Renamed { from, to, node } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *node);
            }
            Event::Removed { folder, name } => {
                self.names.remove(&(*folder, name.clone()));
            }
            Event::Wrote { .. }
            | Event::WroteZeros { .. }
            | Event::SetLength { .. }
            | Event::Synced { .. }
            | Event::Settled
            | Event::Said(_)
            | Event::Outside(_) => {}
        }
    }

    fn pass(&mut self, call: &Call<'_>, system: &mut System<'_>) -> Result<i64, i32> {
        let limit = if self.is_change(call) {
            self.changes += 1;
            match self.faults {
                Some(faults) if self.changes >= faults.at => self.fault(faults, call)?,
                Some(_) | None => None,
            }
        } else {
            None
        };
        let answer = system(limit);
        if answer >= 0 {
            self.done(call, answer);
        }
        Ok(answer)
    }

    /// Whether it changes the folder, or promises that it has.
    fn is_change(&self, call: &Call<'_>) -> bool {
        match call {
            Call::Open {
                place,
                creates,
                truncates,
                ..
            } => match self.find(*place) {
                Some((_, _, Some(_))) => *truncates,
                Some((_, _, None)) => *creates,
                None => false,
            },
            Call::Close { .. } => false,
            Call::Write { file, .. }
            | Call::SetLength { file, .. }
            | Call::Sync { file }
            | Call::SyncRange { file } => self.open.contains_key(file),
            Call::Rename { from, .. } | Call::Link { from, .. } => self.find(*from).is_some(),
            Call::Remove { place } | Call::MakeFolder { place } => self.find(*place).is_some(),
        }
    }

    /// What a faulty disk does: the error, or the number of bytes that are written.
    fn fault(&mut self, faults: Faults, call: &Call<'_>) -> Result<Option<usize>, i32> {
        let needs_space = match call {
            Call::Write { .. } | Call::MakeFolder { .. } | Call::Open { .. } => true,
            Call::SetLength { .. } | Call::Rename { .. } | Call::Link { .. } => true,
            Call::Sync { .. } | Call::SyncRange { .. } => true,
            Call::Close { .. } | Call::Remove { .. } => false,
        };
        let outcome = match (faults.fault, call) {
            (Fault::Io, _) => Err(libc::EIO),
            (Fault::NoSpace, _) if needs_space => Err(libc::ENOSPC),
            (Fault::Short, Call::Write { data, .. }) if data.len() > 1 => Ok(Some(data.len() / 2)),
            (Fault::NoSpace | Fault::Short, _) => return Ok(None),
        };
        self.failed += 1;
        if !faults.lasting {
            self.faults = None;
        }
        outcome
    }

    /// Records what the system has done.
    fn done(&mut self, call: &Call<'_>, answer: i64) {
        match call {
            Call::Open {
                place,
                truncates,
                appends,
                ..
            } => {
                let Ok(file) = RawFd::try_from(answer) else {
                    return;
                };
                // The number may have been that of a folder, which the system closed unseen.
                self.open.remove(&file);
                let Some((folder, name, found)) = self.find(*place) else {
                    return;
                };
                let node = found.unwrap_or(self.nodes);
                if found.is_none() {
                    self.note(Event::CreatedFile { folder, name, node });
                } else if *truncates {
                    self.note(Event::SetLength { node, bytes: 0 });
                }
                let appends = *appends;
                self.open.insert(file, Opened { node, appends });
            }
            Call::Close { file } => {
                self.open.remove(file);
            }
            Call::Write { file, offset, data } => self.wrote(*file, *offset, data, answer),
            Call::SetLength { file, bytes } => {
                if let Some(opened) = self.open.get(file).copied() {
                    let (node, bytes) = (opened.node, *bytes);
                    self.note(Event::SetLength { node, bytes });
                }
            }
            Call::Sync { file } => {
                if let Some(opened) = self.open.get(file).copied() {
                    self.note(Event::Synced { node: opened.node });
                }
            }
            Call::SyncRange { .. } => {}
            Call::Rename { from, to } => {
                if let (Some((folder, name, Some(node))), Some((to_folder, to_name, _))) =
                    (self.find(*from), self.find(*to))
                {
                    let (from, to) = ((folder, name), (to_folder, to_name));
                    self.note(Event::Renamed { from, to, node });
                }
            }
            Call::Link { from, to } => {
                if let (Some((_, _, Some(node))), Some((folder, name, None))) =
                    (self.find(*from), self.find(*to))
                {
                    self.note(Event::Linked { folder, name, node });
                }
            }
            Call::Remove { place } => {
                if let Some((folder, name, Some(_))) = self.find(*place) {
                    self.note(Event::Removed { folder, name });
                }
            }
            Call::MakeFolder { place } => {
                if let Some((folder, name, None)) = self.find(*place) {
                    let node = self.nodes;
                    self.note(Event::CreatedFolder { folder, name, node });
                }
            }
        }
    }

    fn wrote(&mut self, file: RawFd, offset: u64, data: &[u8], answer: i64) {
        let Some(Opened { node, appends }) = self.open.get(&file).copied() else {
            return;
        };
        if self.kinds.get(&node) == Some(&true) {
            // The number of a folder that the system closed unseen, and not this file.
            self.open.remove(&file);
            return;
        }
        // Nobody appends to a store; if somebody did, the tape would have to know the length.
        debug_assert!(!appends, "a file of the store is appended to");
        let count = usize::try_from(answer).unwrap_or_default();
        let data = data.get(..count).unwrap_or(data);
        if data.iter().all(|byte| *byte == 0) {
            let bytes = data.len() as u64;
            self.note(Event::WroteZeros {
                node,
                offset,
                bytes,
            });
        } else if self.records {
            let data = data.to_vec();
            self.note(Event::Wrote { node, offset, data });
        }
    }

    /// Folder and name of a place within the root, and what is there. The root itself has neither.
    fn find(&self, place: Place<'_>) -> Option<(Node, String, Option<Node>)> {
        let (mut folder, path) = match place.folder {
            None => (0, place.path.strip_prefix(&self.root).ok()?),
            Some(_) if place.path.is_absolute() => (0, place.path.strip_prefix(&self.root).ok()?),
            Some(file) => (self.open.get(&file)?.node, place.path),
        };
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else {
                return None;
            };
            let name: &OsStr = name;
            let name = name.to_string_lossy().into_owned();
            let found = self.names.get(&(folder, name.clone())).copied();
            if parts.peek().is_none() {
                return Some((folder, name, found));
            }
            folder = found?;
        }
        // The folder itself, to be synced: it has no name here, and is not created.
        place.folder.is_none().then(|| (0, String::new(), Some(0)))
    }
}

#[cfg(test)]
mod tests;
