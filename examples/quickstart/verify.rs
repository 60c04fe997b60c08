//! The check: what is on the disk, against the plan, the ledger and what the children were told.
//!
//! It asks neither the engine nor the object store's code: files are read as files, digests are
//! those of the `blake3` crate, checksums those of the `crc32c` crate, and the format of tombstones
//! and of the names of objects is spelled out here. Of the library it uses only words: the names
//! of segments, and of what the children were told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use orlop::Origin;
use walkdir::WalkDir;

use crate::acks::Ack;
use crate::ledger::{self, Deed, Entry};
use crate::parent::Story;
use crate::plan::{CORRUPTED_EPOCH, Plan, Planned, TENANTS, hex};
use crate::{Places, Problem, local};

#[cfg(test)]
mod tests;

/// How a tombstone begins.
const TOMBSTONE: &[u8] = b"orlop tombstone 8b1f5d0c97e34a62 v1 ";

/// Everything that is not as it should be, in words.
pub(crate) fn check(plan: &Plan, places: &Places, story: &Story) -> Result<Vec<String>, Problem> {
    let remote = Objects::read(&places.remote)?;
    let ledger = ledger::read(&places.ledger)?;
    let mut check = Check {
        plan,
        mismatches: Vec::new(),
    };
    check.outputs(story);
    check.acknowledged(story);
    check.ran_once(story);
    let objects = check.ends(story);
    check.names(&objects);
    check.places(&places.local, &remote.segments, &objects)?;
    check.ledger(&ledger, &remote, &objects);
    Ok(check.mismatches)
}

/// What lies in the remote's folder: names, and digests of what is stored under them.
#[derive(Default)]
struct Objects {
    segments: BTreeMap<String, String>,
    tombstones: BTreeMap<String, String>,
}

impl Objects {
    fn read(folder: &Path) -> Result<Self, Problem> {
        let mut objects = Self::default();
        for entry in WalkDir::new(folder) {
            let entry = entry?;
            if !entry.file_type().is_file() {
                continue;
            }
            let content = std::fs::read(entry.path())?;
            let kind = if is_tombstone(&content) {
                &mut objects.tombstones
            } else {
                &mut objects.segments
            };
            let name = entry.path().strip_prefix(folder)?.to_string_lossy();
            kind.insert(name.into_owned(), blake3::hash(&content).to_string());
        }
        Ok(objects)
    }
}

/// `removed`, or `fenced` by an incarnation and an attempt, in decimal.
fn is_tombstone(content: &[u8]) -> bool {
    let text = content.strip_prefix(TOMBSTONE);
    let text = text.and_then(|text| std::str::from_utf8(text).ok());
    let Some(line) = text.and_then(|text| text.strip_suffix('\n')) else {
        return false;
    };
    let is_number =
        |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    match line.split(' ').collect::<Vec<_>>().as_slice() {
        ["removed"] => true,
        ["fenced", by @ ..] => by.len() == 2 && by.iter().all(is_number),
        _ => false,
    }
}

/// What may run once: of one tenant, one computation of one content, or the eviction of one
/// segment.
type Work<'a> = (usize, &'a str, String);

struct Check<'a> {
    plan: &'a Plan,
    mismatches: Vec<String>,
}

impl Check<'_> {
    fn mismatch(&mut self, mismatch: String) {
        self.mismatches.push(mismatch);
    }

    /// Every output that a child was told is right.
    fn outputs(&mut self, story: &Story) {
        for ack in story.first.iter().chain(&story.second) {
            let Ack::Effect {
                what,
                segment,
                output,
                ..
            } = ack
            else {
                continue;
            };
            let Some(planned) = self.plan.segments.get(*segment) else {
                self.mismatch(format!("segment {segment} is not in the plan"));
                continue;
            };
            let expected = match what.as_str() {
                "blake3" => hex(planned.digest.as_bytes()),
                _ => format!("{:08x}", planned.checksum),
            };
            if *output != expected {
                self.mismatch(format!("{what} of {planned} is {output}, not {expected}"));
            }
        }
    }

    /// Nothing that the first child was told is missing or has changed: it was not done again,
    /// and the answer is the same.
    fn acknowledged(&mut self, story: &Story) {
        let second: BTreeSet<String> = story.second.iter().map(ToString::to_string).collect();
        for ack in &story.first {
            let again = match ack {
                Ack::Opened { .. } | Ack::Closed => continue,
                Ack::Effect { .. } | Ack::Completed { .. } | Ack::Compensated { .. } => {
                    replayed(ack)
                }
            };
            if !second.contains(&again.to_string()) {
                self.mismatch(format!("acknowledged before the kill and lost: {ack}"));
            }
        }
    }

    /// Equal work ran once over both lives, and not again once somebody was told of it.
    fn ran_once(&mut self, story: &Story) {
        let mut ran: BTreeMap<Work<'_>, usize> = BTreeMap::new();
        let mut told: BTreeSet<Work<'_>> = BTreeSet::new();
        for (life, acks) in [(1, &story.first), (2, &story.second)] {
            for ack in acks {
                let Some((work, origin)) = self.work(ack) else {
                    continue;
                };
                if origin == Origin::Ran {
                    if life == 2 && told.contains(&work) {
                        self.mismatch(format!("acknowledged before the kill and run again: {ack}"));
                    }
                    *ran.entry(work.clone()).or_default() += 1;
                }
                if life == 1 {
                    told.insert(work);
                }
            }
        }
        for ((tenant, what, content), times) in ran {
            if times > 1 {
                let tenant = TENANTS.get(tenant).copied().unwrap_or("nobody");
                self.mismatch(format!(
                    "{what} of {content} ran {times} times for {tenant}"
                ));
            }
        }
    }

    /// Which work an acknowledgement is about, and how its outcome was come by.
    fn work<'b>(&self, ack: &'b Ack) -> Option<(Work<'b>, Origin)> {
        match ack {
            Ack::Effect {
                what,
                segment,
                origin,
                ..
            } => {
                let planned = self.plan.segments.get(*segment)?;
                let content = hex(planned.digest.as_bytes());
                Some(((planned.tenant, what, content), *origin))
            }
            // Two segments of equal content are two evictions.
            Ack::Completed {
                segment, origin, ..
            } => {
                let planned = self.plan.segments.get(*segment)?;
                let work = (planned.tenant, "eviction", planned.to_string());
                Some((work, *origin))
            }
            Ack::Opened { .. } | Ack::Compensated { .. } | Ack::Closed => None,
        }
    }

    /// How every saga ended: the object of each that completed.
    fn ends(&mut self, story: &Story) -> BTreeMap<usize, String> {
        let mut objects = BTreeMap::new();
        let mut ended = BTreeSet::new();
        for ack in &story.second {
            match ack {
                Ack::Completed {
                    segment, object, ..
                } => {
                    ended.insert(*segment);
                    objects.insert(*segment, object.clone());
                }
                Ack::Compensated { segment, .. } => {
                    ended.insert(*segment);
                }
                Ack::Opened { .. } | Ack::Effect { .. } | Ack::Closed => {}
            }
        }
        for (index, planned) in self.plan.segments.iter().enumerate() {
            if !ended.contains(&index) {
                self.mismatch(format!("the eviction of {planned} has no end"));
            } else if objects.contains_key(&index) != planned.can_be_evicted() {
                self.mismatch(format!("the eviction of {planned} ended the wrong way"));
            }
        }
        objects
    }

    /// Every object is named after its segment's tenant and epoch:
    /// `tenant/segment/epoch/version`.
    fn names(&mut self, objects: &BTreeMap<usize, String>) {
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, planned) in self.plan.segments.iter().enumerate() {
            let Some(object) = objects.get(&index) else {
                continue;
            };
            let [tenant, _, epoch, _] = object.split('/').collect::<Vec<_>>()[..] else {
                self.mismatch(format!("{object} is no name for the object of {planned}"));
                continue;
            };
            if epoch != format!("{:020}", planned.epoch) {
                self.mismatch(format!("the object of {planned} has epoch {epoch}"));
            }
            // Which number the engine gave to a tenant is its own affair, if it gave it to one.
            let other = *named.entry(tenant).or_insert(planned.tenant);
            if other != planned.tenant {
                self.mismatch(format!("the object of {planned} is of another tenant"));
            }
        }
        let tenants: BTreeSet<usize> = named.values().copied().collect();
        if tenants.len() != named.len() {
            self.mismatch("a tenant has objects under two names".to_owned());
        }
    }

    /// Every segment is in exactly one place, whole.
    fn places(
        &mut self,
        folder: &Path,
        remote: &BTreeMap<String, String>,
        objects: &BTreeMap<usize, String>,
    ) -> Result<(), Problem> {
        let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, planned) in self.plan.segments.iter().enumerate() {
            let object = objects.get(&index).map(String::as_str);
            let stored = object.and_then(|object| remote.get(object));
            let path = local::file(folder, &planned.name);
            let copy = if path.exists() {
                Some(blake3::hash(&std::fs::read(path)?).to_string())
            } else {
                None
            };
            let expected = hex(planned.digest.as_bytes());
            match (copy, stored) {
                (Some(_), Some(_)) => self.mismatch(format!("{planned} is in two places")),
                (None, None) => self.mismatch(format!("{planned} is nowhere")),
                (Some(digest), None) => {
                    if digest != expected {
                        self.mismatch(format!("the local copy of {planned} is {digest}"));
                    }
                }
                (None, Some(digest)) => {
                    if *digest != expected {
                        self.mismatch(format!("the object of {planned} holds {digest}"));
                    }
                }
            }
            if let Some(object) = object
                && let Some(other) = owners.insert(object, index)
            {
                self.mismatch(format!("{planned} and segment {other} share an object"));
            }
        }
        for object in remote.keys() {
            if !owners.contains_key(object.as_str()) {
                self.mismatch(format!("object {object} belongs to no segment"));
            }
        }
        let copies = std::fs::read_dir(folder)?.count();
        let expected = self.plan.segments.len() - objects.len();
        if copies != expected {
            self.mismatch(format!("{copies} local copies are left, not {expected}"));
        }
        Ok(())
    }

    /// The ledger shows every upload's effect exactly once, and nothing else.
    fn ledger(&mut self, ledger: &[Entry], remote: &Objects, objects: &BTreeMap<usize, String>) {
        let mut created: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut replaced: BTreeSet<&str> = BTreeSet::new();
        for entry in ledger {
            match entry.deed {
                Deed::Created => created
                    .entry(&entry.object)
                    .or_default()
                    .push(&entry.digest),
                Deed::Replaced => {
                    replaced.insert(&entry.object);
                }
                Deed::Begin | Deed::NotCreated | Deed::HeldBefore | Deed::HeldAfter => {}
            }
        }
        for (index, planned) in self.plan.segments.iter().enumerate() {
            let Some(object) = objects.get(&index) else {
                continue;
            };
            let times = created.remove(object.as_str()).unwrap_or_default();
            if times != [hex(planned.digest.as_bytes())] {
                let times = times.len();
                self.mismatch(format!(
                    "the ledger has the upload of {planned} {times} times"
                ));
            }
        }
        // What is left was taken away again, or is the fence of an attempt that never wrote.
        let mut taken_away = BTreeSet::new();
        for (object, digests) in created {
            let stands = remote.tombstones.get(object).map(String::as_str);
            if digests.len() != 1 || stands.is_none() {
                let times = digests.len();
                self.mismatch(format!(
                    "object {object} is a stray upload, made {times} times"
                ));
            } else if replaced.contains(object) {
                taken_away.insert(object);
            } else if digests.first().copied() != stands {
                self.mismatch(format!("object {object} is not what the ledger says"));
            }
        }
        let spoilt = format!("{CORRUPTED_EPOCH:020}");
        for object in &taken_away {
            if object.split('/').nth(2) != Some(spoilt.as_str()) {
                self.mismatch(format!("object {object} was taken away for no reason"));
            }
        }
        let is_spoilt = |planned: &Planned| planned.epoch == CORRUPTED_EPOCH;
        if taken_away.is_empty() && self.plan.segments.iter().any(is_spoilt) {
            self.mismatch("the spoilt upload was not taken away".to_owned());
        }
    }
}

/// The same answer, given a second time.
fn replayed(ack: &Ack) -> Ack {
    let mut again = ack.clone();
    match &mut again {
        Ack::Effect { origin, .. } | Ack::Completed { origin, .. } => *origin = Origin::Replayed,
        Ack::Compensated { .. } | Ack::Opened { .. } | Ack::Closed => {}
    }
    again
}

impl std::fmt::Display for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {}", self.name)
    }
}
