//! The parent: starts the child, kills it part of the way, starts it again, and watches.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::acks::{self, Ack};
use crate::ledger::{self, Deed};
use crate::plan::{Plan, Planned};
use crate::{Places, Problem, child};

/// How often the parent looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long nothing at all may happen.
const PATIENCE: Duration = Duration::from_mins(1);

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// What the first child was told.
    pub(crate) first: Vec<Ack>,
    /// What the second child was told.
    pub(crate) second: Vec<Ack>,
    /// How many sagas had ended when the first child was killed, and how many uploads were on the
    /// wire.
    pub(crate) killed_at: Option<(usize, usize)>,
    /// From the start of the first child to its death.
    pub(crate) first_took: Duration,
    /// From the start of the second child to its end.
    pub(crate) second_took: Duration,
}

/// Plays the whole story.
pub(crate) fn run(plan: &Plan, places: &Places) -> Result<Story, Problem> {
    let mut story = Story::default();
    let bar = bar(plan.segments.len());
    if plan.segments.iter().any(Planned::can_be_evicted) {
        say(&bar, "working");
        let started = Instant::now();
        story.killed_at = Some(work_and_kill(plan, places, &bar)?);
        story.first_took = started.elapsed();
        story.first = acks::read(&places.acks(1))?;
        say(&bar, "killed, recovering");
    }
    let started = Instant::now();
    let mut child = Running::start(places, 2, None)?;
    let mut watch = Watch::new(places, 2);
    while child.is_running()? {
        watch.look(&bar)?;
        std::thread::sleep(LOOK_EVERY);
    }
    watch.look(&bar)?;
    story.second_took = started.elapsed();
    story.second = acks::read(&places.acks(2))?;
    if story.second.last() != Some(&Ack::Closed) {
        return Err("the second child ended before its work was done".into());
    }
    bar.finish_and_clear();
    Ok(story)
}

/// Has the first child work until some sagas have ended and uploads are on the wire, and kills it.
fn work_and_kill(
    plan: &Plan,
    places: &Places,
    bar: &ProgressBar,
) -> Result<(usize, usize), Problem> {
    let uploads = plan.segments.iter().filter(|it| it.can_be_evicted());
    let uploads = uploads.count();
    // One upload in three gets an answer, and what is left is enough for a silence of both kinds.
    let answered = uploads / 3;
    let held_wanted = (uploads - answered).min(2);
    let ended_wanted = answered - answered / 4;
    let mut child = Running::start(places, 1, Some(answered))?;
    let mut watch = Watch::new(places, 1);
    loop {
        let ended = watch.look(bar)?;
        let held = watch.held;
        if ended >= ended_wanted && held >= held_wanted {
            child.kill()?;
            return Ok((watch.look(bar)?, held));
        }
        if !child.is_running()? {
            return Err("the first child ended by itself before it could be killed".into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A child that does not outlive its parent's interest in it.
struct Running(Child);

impl Running {
    fn start(places: &Places, life: u32, silent_after: Option<usize>) -> Result<Self, Problem> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(child::FOLDER, &places.root)
            .env(child::LIFE, life.to_string());
        if let Some(count) = silent_after {
            command.env(child::SILENT_AFTER, count.to_string());
        }
        Ok(Self(command.spawn()?))
    }

    fn is_running(&mut self) -> Result<bool, Problem> {
        match self.0.try_wait()? {
            None => Ok(true),
            Some(status) if status.success() => Ok(false),
            Some(status) => Err(format!("a child ended with {status}").into()),
        }
    }

    /// SIGKILL, and no way to prepare for it.
    fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(|_| ())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// What can be seen of a child from outside.
struct Watch<'a> {
    places: &'a Places,
    life: u32,
    seen: usize,
    seen_at: Instant,
    held: usize,
}

impl<'a> Watch<'a> {
    fn new(places: &'a Places, life: u32) -> Self {
        Self {
            places,
            life,
            seen: 0,
            seen_at: Instant::now(),
            held: 0,
        }
    }

    /// Looks; how many sagas have ended in this life.
    fn look(&mut self, bar: &ProgressBar) -> Result<usize, Problem> {
        let acks = acks::read(&self.places.acks(self.life))?;
        let ledger = ledger::read(&self.places.ledger)?;
        let is_held = |deed| matches!(deed, Deed::HeldBefore | Deed::HeldAfter);
        self.held = ledger.iter().filter(|entry| is_held(entry.deed)).count();
        let seen = acks.len() + ledger.len();
        if seen > self.seen {
            (self.seen, self.seen_at) = (seen, Instant::now());
        } else if self.seen_at.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(format!("child {} did nothing for {seconds} s", self.life).into());
        }
        let ended = acks.iter().filter(|ack| ack.ends_a_saga());
        let ended: BTreeSet<usize> = ended.filter_map(segment_of).collect();
        bar.set_position(ended.len() as u64);
        Ok(ended.len())
    }
}

fn segment_of(ack: &Ack) -> Option<usize> {
    match ack {
        Ack::Effect { segment, .. }
        | Ack::Completed { segment, .. }
        | Ack::Compensated { segment, .. } => Some(*segment),
        Ack::Opened { .. } | Ack::Closed => None,
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(segments: usize) -> ProgressBar {
    let bar = ProgressBar::new(segments as u64);
    let style = ProgressStyle::with_template("{msg:20} [{bar:40}] {pos}/{len} segments {elapsed}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Says what happens now, where the bar would not be seen.
fn say(bar: &ProgressBar, message: &'static str) {
    bar.set_message(message);
    if !io::stderr().is_terminal() {
        eprintln!("{message}");
    }
}
