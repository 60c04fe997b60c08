//! The check: what is on the disk, against the plan, the ledger and what the children were told.
//!
//! It asks neither the engine nor the object store's code: files are read as files, digests are
//! those of the `blake3` crate, checksums those of the `crc32c` crate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use orlop::Origin;
use orlop::tiered::Tombstone;
use walkdir::WalkDir;

use crate::acks::Ack;
use crate::ledger::{self, Deed, Entry};
use crate::parent::Story;
use crate::plan::{CORRUPTED_EPOCH, Plan, Planned, hex};
use crate::{Places, Problem, local};

/// Everything that is not as it should be, in words.
pub(crate) fn check(plan: &Plan, places: &Places, story: &Story) -> Result<Vec<String>, Problem> {
    let remote = remote_segments(&places.remote)?;
    let ledger = ledger::read(&places.ledger)?;
    let mut check = Check {
        plan,
        mismatches: Vec::new(),
    };
    check.outputs(story);
    check.acknowledged(story);
    let objects = check.ends(story);
    check.places(&places.local, &remote, &objects)?;
    check.ledger(&ledger, &remote, &objects);
    Ok(check.mismatches)
}

/// The objects that are no tombstones, with the digests of what they hold.
fn remote_segments(folder: &Path) -> Result<BTreeMap<String, String>, Problem> {
    let mut objects = BTreeMap::new();
    for entry in WalkDir::new(folder) {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        let content = std::fs::read(entry.path())?;
        if Tombstone::read(&content).is_none() {
            let name = entry.path().strip_prefix(folder)?.to_string_lossy();
            objects.insert(name.into_owned(), blake3::hash(&content).to_string());
        }
    }
    Ok(objects)
}

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
            let copy = match path.exists() {
                true => Some(blake3::hash(&std::fs::read(path)?).to_string()),
                false => None,
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
    fn ledger(
        &mut self,
        ledger: &[Entry],
        remote: &BTreeMap<String, String>,
        objects: &BTreeMap<usize, String>,
    ) {
        let tombstones: BTreeSet<String> = ledger
            .iter()
            .filter(|entry| entry.deed == Deed::Replaced)
            .map(|entry| entry.object.clone())
            .collect();
        let mut created: BTreeMap<(String, String), u32> = BTreeMap::new();
        for entry in ledger.iter().filter(|entry| entry.deed == Deed::Created) {
            let object = (entry.object.clone(), entry.digest.clone());
            *created.entry(object).or_default() += 1;
        }
        let digests: BTreeSet<String> = self
            .plan
            .segments
            .iter()
            .map(|planned| hex(planned.digest.as_bytes()))
            .collect();
        for (index, planned) in self.plan.segments.iter().enumerate() {
            let Some(object) = objects.get(&index) else {
                continue;
            };
            let digest = hex(planned.digest.as_bytes());
            let times = created.remove(&(object.clone(), digest));
            if times != Some(1) {
                let times = times.unwrap_or_default();
                self.mismatch(format!(
                    "the ledger has the upload of {planned} {times} times"
                ));
            }
        }
        // What is left are the fences of attempts that never wrote, and what was taken away.
        let mut taken_away = 0;
        for ((object, digest), times) in created {
            let is_segment = digests.contains(&digest) || tombstones.contains(&object);
            taken_away += u32::from(is_segment);
            if times != 1 {
                self.mismatch(format!("the ledger has object {object} {times} times"));
            }
            if is_segment && remote.contains_key(&object) {
                self.mismatch(format!(
                    "object {object} was uploaded beside its segment's own"
                ));
            }
        }
        let corrupted = |planned: &&Planned| planned.epoch == CORRUPTED_EPOCH;
        let expected = self.plan.segments.iter().filter(corrupted).count();
        if taken_away as usize != expected {
            self.mismatch(format!(
                "{taken_away} uploads were taken away, not {expected}"
            ));
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
