//! The check finds what is wrong: a world as it should be, and one thing in it doctored.

use std::path::PathBuf;

use orlop::Origin;

use super::{TOMBSTONE, check, is_tombstone};
use crate::acks::Ack;
use crate::ledger::{Deed, Entry, Ledger};
use crate::parent::Story;
use crate::plan::{CORRUPTED_EPOCH, Plan, Planned, hex};
use crate::{Places, local};

/// How many segments the first child was told of.
const TOLD: usize = 2;

/// Six segments, of which the first and the fourth are equal and of one tenant, the fifth is
/// spoilt by the remote, and the last is refused; all moved as they should be.
struct World {
    /// Goes with the world.
    _folder: tempfile::TempDir,
    places: Places,
    plan: Plan,
    story: Story,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (dir, root) = (folder.path().join("dir"), folder.path().join("root"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(&root).unwrap();
        let places = Places::new(&root);
        places.create().unwrap();
        let contents = ["same", "b", "c", "same", "e", "f"];
        for (index, content) in contents.iter().enumerate() {
            std::fs::write(dir.join(index.to_string()), content).unwrap();
        }
        let plan = Plan::cut(&dir, &places).unwrap();
        let mut world = Self {
            _folder: folder,
            places,
            plan,
            story: Story::default(),
        };
        for index in 0..contents.len() {
            world.tell(index);
            world.upload(index);
        }
        world
    }

    fn tell(&mut self, index: usize) {
        let segment = &self.plan.segments[index];
        let told = |origin| {
            [
                digested(index, segment, origin),
                ended(index, segment, origin),
            ]
        };
        if index < TOLD {
            self.story.first.extend(told(Origin::Ran));
            self.story.second.extend(told(Origin::Replayed));
        } else {
            self.story.second.extend(told(Origin::Ran));
        }
        // The fourth is the first again.
        if index == 3 {
            let digest = self.story.second.len() - 2;
            self.story.second[digest] = digested(index, segment, Origin::Replayed);
        }
    }

    fn upload(&self, index: usize) {
        let segment = &self.plan.segments[index];
        let copy = local::file(&self.places.local, &segment.name);
        let path = self.object(index);
        if segment.can_be_evicted() {
            self.record(Deed::Created, &std::fs::read(&copy).unwrap(), index);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::rename(copy, path).unwrap();
        } else if segment.epoch == CORRUPTED_EPOCH {
            let removed = [TOMBSTONE, b"removed\n"].concat();
            self.record(Deed::Created, b"spoilt", index);
            self.record(Deed::Replaced, &removed, index);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, removed).unwrap();
        }
    }

    fn record(&self, deed: Deed, content: &[u8], index: usize) {
        let mut ledger = Ledger::open(&self.places.ledger, &self.places.remote).unwrap();
        let object = name(&self.plan.segments[index]);
        ledger.append(&Entry::new(deed, content, &object)).unwrap();
    }

    fn object(&self, index: usize) -> PathBuf {
        self.places.remote.join(name(&self.plan.segments[index]))
    }

    fn digested(&self, index: usize, origin: Origin) -> Ack {
        digested(index, &self.plan.segments[index], origin)
    }

    fn mismatches(&self) -> Vec<String> {
        check(&self.plan, &self.places, &self.story).unwrap()
    }
}

fn name(segment: &Planned) -> String {
    let part = segment.name.as_bytes().escape_ascii();
    format!("{:016x}/{part}/{:020}/v.0", segment.tenant, segment.epoch)
}

fn digested(index: usize, segment: &Planned, origin: Origin) -> Ack {
    Ack::Effect {
        what: "blake3".to_owned(),
        segment: index,
        origin,
        output: hex(segment.digest.as_bytes()),
    }
}

fn ended(index: usize, segment: &Planned, origin: Origin) -> Ack {
    if segment.can_be_evicted() {
        Ack::Completed {
            segment: index,
            origin,
            object: name(segment),
        }
    } else {
        Ack::Compensated {
            segment: index,
            reason: "as planned".to_owned(),
        }
    }
}

fn assert_one(mismatches: &[String], part: &str) {
    let [mismatch] = mismatches else {
        panic!("not one mismatch: {mismatches:?}");
    };
    assert!(mismatch.contains(part), "{mismatch}");
}

#[test]
fn a_world_as_it_should_be_has_no_mismatch() {
    assert_eq!(World::new().mismatches(), [""; 0]);
}

#[test]
fn equal_work_that_ran_twice_in_one_life_is_named() {
    let mut world = World::new();
    let again = world.digested(4, Origin::Ran);
    world.story.second.push(again);
    assert_one(&world.mismatches(), "ran 2 times for south");
}

#[test]
fn equal_work_of_two_segments_that_ran_for_each_is_named() {
    let mut world = World::new();
    // Of segment 0, whose content is that of segment 3, the first child was told.
    let again = world.digested(3, Origin::Ran);
    world.story.second.push(again);
    let mismatches = world.mismatches();
    assert!(mismatches[0].starts_with("acknowledged before the kill and run again: effect blake3"));
    assert_one(&mismatches[1..], "ran 2 times for north");
}

#[test]
fn work_that_was_acknowledged_as_joined_and_ran_again_is_named() {
    let mut world = World::new();
    world.story.first[0] = world.digested(0, Origin::Joined);
    let again = world.digested(0, Origin::Ran);
    world.story.second.push(again);
    assert_one(
        &world.mismatches(),
        "acknowledged before the kill and run again",
    );
}

#[test]
fn an_acknowledgement_that_is_not_repeated_is_named() {
    let mut world = World::new();
    world.story.second.remove(0);
    // Segment 3 has the digest, and another number.
    assert_one(
        &world.mismatches(),
        "acknowledged before the kill and lost: effect blake3 0",
    );
}

#[test]
fn an_output_that_is_wrong_is_named() {
    let mut world = World::new();
    world.story.second.push(Ack::Effect {
        what: "crc32c".to_owned(),
        segment: 2,
        origin: Origin::Replayed,
        output: "no checksum".to_owned(),
    });
    assert_one(&world.mismatches(), "crc32c of segment 2#0 is no checksum");
}

#[test]
fn an_upload_that_the_ledger_has_twice_is_named() {
    let world = World::new();
    world.record(Deed::Created, b"b", 1);
    assert_one(&world.mismatches(), "the upload of segment 1#0 2 times");
}

#[test]
fn an_upload_that_the_ledger_does_not_have_is_named() {
    let world = World::new();
    let ledger = std::fs::read_to_string(&world.places.ledger).unwrap();
    let (_first, rest) = ledger.split_once('\n').unwrap();
    std::fs::write(&world.places.ledger, rest).unwrap();
    assert_one(&world.mismatches(), "the upload of segment 0#0 0 times");
}

#[test]
fn an_object_that_is_missing_is_named() {
    let world = World::new();
    std::fs::remove_file(world.object(1)).unwrap();
    assert_one(&world.mismatches(), "segment 1#0 is nowhere");
}

#[test]
fn an_object_with_other_content_is_named() {
    let world = World::new();
    std::fs::write(world.object(1), "B").unwrap();
    assert_one(&world.mismatches(), "the object of segment 1#0 holds ");
}

#[test]
fn an_object_that_nobody_knows_of_is_named() {
    let world = World::new();
    std::fs::write(world.places.remote.join("stray"), "b").unwrap();
    assert_one(&world.mismatches(), "object stray belongs to no segment");
}

#[test]
fn a_segment_in_two_places_is_named() {
    let world = World::new();
    let copy = local::file(&world.places.local, &world.plan.segments[1].name);
    std::fs::write(copy, "b").unwrap();
    let mismatches = world.mismatches();
    assert_eq!(mismatches[0], "segment 1#0 is in two places");
    assert_one(&mismatches[1..], "3 local copies are left, not 2");
}

#[test]
fn an_object_of_another_epoch_is_named() {
    let mut world = World::new();
    let other = name(&Planned {
        epoch: 9,
        ..world.plan.segments[2].clone()
    });
    for ack in &mut world.story.second {
        if let Ack::Completed {
            segment: 2, object, ..
        } = ack
        {
            object.clone_from(&other);
        }
    }
    let mismatches = world.mismatches();
    assert_eq!(
        mismatches[0],
        "the object of segment 2#0 has epoch 00000000000000000009"
    );
}

#[test]
fn an_object_of_another_tenant_is_named() {
    let mut world = World::new();
    world.plan.segments[1].tenant = 0;
    assert_one(&world.mismatches(), "a tenant has objects under two names");
    let mut world = World::new();
    world.plan.segments[3].tenant = 2;
    let mismatches = world.mismatches();
    assert!(mismatches.contains(&"the object of segment 3#0 is of another tenant".to_owned()));
}

#[test]
fn a_tombstone_is_told_from_a_segment_by_its_whole_text() {
    let is = |text: &[u8]| is_tombstone(&[TOMBSTONE, text].concat());
    assert!(is(b"removed\n"));
    assert!(is(b"fenced 7 3\n"));
    for text in [
        &b""[..],
        b"removed",
        b"removed \n",
        b"fenced 7\n",
        b"fenced 7 x\n",
    ] {
        assert!(!is(text), "{}", text.escape_ascii());
    }
    assert!(!is_tombstone(b"removed\n"));
}
