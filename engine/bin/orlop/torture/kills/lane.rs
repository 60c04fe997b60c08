//! A lane: stores one after the other. Each goes through many children, all but the last of which
//! are killed; the last one has everything end, and then the outside is judged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::super::judge::{Problem, Verdict, judge};
use super::super::life::{Ack, Phase};
use super::super::outside::Outside;
use super::super::plan::Plan;
use super::super::report::{Progress, Report};
use super::super::role::{self, Role};
use super::super::told::Told;
use super::super::wire::Server;
use super::super::{Failed, life};
use super::aim::{Aim, Course};
use super::child::Order;
use super::spread;

/// Kills that one store goes through before it is judged and another one created.
const KILLS_PER_STORE: u32 = 30;
/// New items that each child is given.
const ITEMS: u64 = 14;
/// Items of earlier children that it is given again.
const AGAIN: usize = 6;
/// Files that are there only while something is written, and what.
const UNFINISHED: [(&str, &str); 5] = [
    ("checkpoint.new", "checkpoint"),
    ("export.new", "export"),
    ("CURRENT.new", "change of trees"),
    ("FORMAT.new", "creation"),
    (".generating", "sled's snapshot"),
];

/// See the module.
pub(crate) struct Lane {
    folder: PathBuf,
    plan: Plan,
    seed: u64,
    random: fastrand::Rng,
    aim: Aim,
    report: Report,
    /// In which phase children died.
    died_in: BTreeMap<Phase, u64>,
    /// What was being written then.
    cut_off: BTreeMap<&'static str, u64>,
}

/// One store, the outside beside it, and what was told of it.
struct Place {
    store: PathBuf,
    backup: PathBuf,
    socket: PathBuf,
    outside: Arc<Outside>,
    _server: Server,
    told: Told,
    items: u64,
    opened: bool,
}

/// How a child ended.
enum End {
    Killed,
    Closed,
    Broken,
}

impl Lane {
    pub(crate) fn new(folder: &Path, seed: u64, plan: Plan) -> Result<Self, Failed> {
        std::fs::create_dir_all(folder).map_err(|e| Failed::of("no folder for a lane", &e))?;
        Ok(Self {
            folder: folder.to_owned(),
            plan,
            seed,
            random: fastrand::Rng::with_seed(seed),
            aim: Aim::default(),
            report: Report::new("kills"),
            died_in: BTreeMap::new(),
            cut_off: BTreeMap::new(),
        })
    }

    /// Kills so many children.
    pub(crate) fn run(mut self, kills: u32, progress: &Progress) -> Result<Report, Failed> {
        let mut killed = 0;
        let mut stores = 0;
        while killed < kills && self.report.problems.is_empty() {
            stores += 1;
            let mut place = self.place(stores)?;
            let here = (kills - killed).min(KILLS_PER_STORE);
            let mut killed_here = 0;
            while killed_here < here && self.report.problems.is_empty() {
                match self.child(&mut place, false)? {
                    End::Killed => {
                        killed_here += 1;
                        progress.at(1);
                    }
                    End::Closed | End::Broken => {}
                }
            }
            killed += killed_here;
            self.finish(place, stores)?;
        }
        self.report.runs = u64::from(killed);
        if !self.died_in.is_empty() {
            let line = format!("killed in: {}", spread(&self.died_in));
            self.report.notes.push(line);
            let line = format!("cut off by a kill: {}", spread(&self.cut_off));
            self.report.notes.push(line);
        }
        Ok(self.report)
    }

    fn place(&mut self, number: u32) -> Result<Place, Failed> {
        let folder = self.folder.join(format!("store-{number}"));
        std::fs::create_dir_all(&folder).map_err(|e| Failed::of("no folder for a store", &e))?;
        let socket = folder.join("outside");
        let outside = Arc::new(Outside::new(self.random.u64(..), &[]));
        let server = Server::start(&socket, Arc::clone(&outside))
            .map_err(|e| Failed::of("no socket for the outside; a shorter --folder may do", &e))?;
        Ok(Place {
            store: folder.join("store"),
            backup: folder.join("backup"),
            socket,
            outside,
            _server: server,
            told: Told::default(),
            items: 0,
            opened: false,
        })
    }

    /// Everything ends, and is judged. A store that nothing is wrong with is removed.
    fn finish(&mut self, mut place: Place, number: u32) -> Result<(), Failed> {
        if self.report.problems.is_empty() {
            match self.child(&mut place, true)? {
                End::Closed | End::Broken => {}
                End::Killed => self.problem("the last child was killed by somebody else"),
            }
        }
        if self.report.problems.is_empty() {
            place.outside.settle();
            let problems = judge(self.plan, &place.told, &place.outside.objects());
            self.report.problems.extend(problems);
        }
        for item in place.told.done.keys() {
            if self.plan.kind(*item).is_saga() {
                self.report.sagas += 1;
            } else {
                self.report.effects += 1;
            }
        }
        if self.report.problems.is_empty() {
            let folder = place.store.parent().map(Path::to_owned);
            drop(place);
            if let Some(folder) = folder {
                std::fs::remove_dir_all(folder).map_err(|e| Failed::of("removing a store", &e))?;
            }
        } else {
            let line = format!(
                "store {number} of seed {:#x} is kept in {}",
                self.seed,
                place.store.display()
            );
            self.report.notes.push(line);
        }
        Ok(())
    }

    fn problem(&mut self, text: impl Into<String>) {
        let problem = Problem::new(Verdict::Silent, text);
        self.report.problems.push(problem);
    }

    /// Runs one child; unless it is the last, aims at it.
    fn child(&mut self, place: &mut Place, last: bool) -> Result<End, Failed> {
        match std::fs::remove_dir_all(&place.backup) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failed::of("a backup cannot be removed", &error));
            }
            Ok(()) | Err(_) => {}
        }
        let order = self.order(place, last);
        let aim = (!last).then(|| self.aim.take(&mut self.random, !order.exists));
        let mut child = role::start(&Role::Kill(order), role::errors(&self.folder)?)?;
        let (tell, told) = crossbeam_channel::unbounded();
        let Some(stdout) = child.stdout.take() else {
            return Err(Failed::new("a child has no standard output"));
        };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // A line that was cut off says nothing.
                    if let Ok(ack) = serde_json::from_str::<Ack>(&line)
                        && tell.send(ack).is_err()
                    {
                        return;
                    }
                }
            });
            self.watch(place, &mut child, &told, aim)
        })
    }

    fn order(&mut self, place: &mut Place, last: bool) -> Order {
        let mut order = Order {
            store: place.store.clone(),
            socket: place.socket.clone(),
            plan: self.plan,
            exists: place.opened,
            known: Vec::new(),
            first: Vec::new(),
            second: Vec::new(),
            third: Vec::new(),
            backup: place.backup.clone(),
        };
        if last {
            order.known = place.told.known().into_iter().collect();
            order.first = place.told.begun.iter().copied().collect();
            return order;
        }
        let known: Vec<u64> = place.told.known().into_iter().collect();
        let begun: Vec<u64> = place.told.begun.iter().copied().collect();
        order.known = self.random.choose_multiple(known, AGAIN);
        let again = self.random.choose_multiple(begun, AGAIN);
        let fresh = place.items..place.items + ITEMS;
        place.items += ITEMS;
        let mut items: Vec<u64> = again.into_iter().chain(fresh).collect();
        self.random.shuffle(&mut items);
        order.third = items.split_off(items.len() - items.len() / 4);
        order.second = items.split_off(items.len() / 2);
        order.first = items;
        order
    }

    /// Hears a child to its end, and kills it when the moment has come.
    fn watch(
        &mut self,
        place: &mut Place,
        child: &mut Child,
        told: &Receiver<Ack>,
        aim: Option<(Phase, Duration)>,
    ) -> Result<End, Failed> {
        let mut course = Course::start();
        let mut killed = false;
        loop {
            if let Some((phase, after)) = aim
                && phase == course.phase
                && !killed
            {
                killed = true;
                self.hear_for(after, place, told, &mut course);
                child
                    .kill()
                    .map_err(|e| Failed::of("a child cannot be killed", &e))?;
            }
            match told.recv_timeout(role::PATIENCE) {
                Ok(ack) => self.hear(place, &ack, &mut course),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = role::PATIENCE.as_secs();
                    let phase = course.phase;
                    self.problem(format!("a child in {phase:?} said nothing for {seconds} s"));
                    child
                        .kill()
                        .map_err(|e| Failed::of("a child cannot be killed", &e))?;
                }
            }
        }
        let status = child
            .wait()
            .map_err(|e| Failed::of("a child has no end", &e))?;
        Ok(self.ended(place, status, &course))
    }

    /// Hears a child until the moment has come.
    fn hear_for(
        &mut self,
        time: Duration,
        place: &mut Place,
        told: &Receiver<Ack>,
        course: &mut Course,
    ) {
        let moment = std::time::Instant::now() + time;
        while let Ok(ack) = told.recv_deadline(moment) {
            self.hear(place, &ack, course);
        }
        // Closed early, the channel does not wait.
        std::thread::sleep(moment.saturating_duration_since(std::time::Instant::now()));
    }

    fn hear(&mut self, place: &mut Place, ack: &Ack, course: &mut Course) {
        if let Ack::Phase(phase) = ack {
            course.go_over(*phase, &mut self.aim);
        }
        if let Ack::Opened { rebuilt, .. } = ack {
            place.opened = true;
            if let Some(why) = rebuilt {
                *self.cut_off.entry("tables rebuilt").or_default() += 1;
                self.report.notes.push(format!("tables rebuilt: {why}"));
            }
        }
        self.report.problems.extend(place.told.hear(ack, false));
    }

    fn ended(&mut self, place: &mut Place, status: ExitStatus, course: &Course) -> End {
        if status.signal() == Some(9) {
            *self.died_in.entry(course.phase).or_default() += 1;
            for what in unfinished(&place.store) {
                *self.cut_off.entry(what).or_default() += 1;
            }
            // Whatever it had created by then is there.
            place.opened |= course.phase > life::Phase::Open;
            return End::Killed;
        }
        if status.success() && course.phase == Phase::Closed {
            return End::Closed;
        }
        let stderr = self.folder.join("stderr");
        let phase = course.phase;
        self.problem(format!(
            "a child in {phase:?} ended with {status}; what it said is in {}",
            stderr.display()
        ));
        End::Broken
    }
}

/// What was being written when the process died.
fn unfinished(store: &Path) -> Vec<&'static str> {
    let files = walk(store);
    let is_there = |name: &str| files.iter().any(|file| file.ends_with(name));
    let found = UNFINISHED.iter().filter(|(name, _)| is_there(name));
    found.map(|(_, what)| *what).collect()
}

fn walk(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => names.extend(walk(&entry.path())),
            _ => names.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    names
}
