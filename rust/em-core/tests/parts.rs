//! Calls that may hold two thousand bytes of a list and keep the rest in a file: the same results as with all of it in memory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use em_core::{
    Error, Kind, Result,
    add::{Add, Summary},
    artifact::ArtifactDir,
    cancel::Progress,
    diff::{shared, usage},
    gc::gc,
    stat_cache::StatCache,
    store::Store,
    verify::Verify,
};

/// Enough for some thirty files.
const LITTLE: usize = 2000;
const ALL: usize = 64 << 20;

/// More than one place in the list of entries that a worker can begin at.
const FILES: usize = 1200;

struct Place {
    dir: tempfile::TempDir,
    held_bytes: usize,
}

impl Place {
    fn holding(held_bytes: usize) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), held_bytes }
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("em/store")).unwrap().with_held_bytes(self.held_bytes)
    }

    fn artifact(&self, name: &str) -> ArtifactDir {
        let root = self.dir.path().join("em/artifacts").join(name);
        ArtifactDir::open(&root).or_else(|_| ArtifactDir::create(&root)).unwrap()
    }

    fn add(&self, name: &str, source: &Path, obj_path: &str) -> Result<Summary> {
        let (store, artifact) = (self.store(), self.artifact(name));
        let (cache, progress) = (StatCache::open(&self.dir.path().join("cache")), Progress::default());
        let add = Add {
            store: &store,
            artifact: &artifact,
            cache: &cache,
            progress: &progress,
            threads: 3,
            chunk_tables: true,
        };
        add.dir(source, obj_path)
    }

    fn leftovers(&self) -> usize {
        let store = self.dir.path().join("em/store");
        let temporary = fs::read_dir(&store)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp-"));
        temporary.count() + fs::read_dir(store.join("leases")).unwrap().count()
    }
}

/// Directories whose names begin alike, empty ones, ones without a file of their own, links, and programs.
fn source() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, bytes: &[u8]| -> PathBuf {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    };
    for number in 0..FILES {
        let directory = ["a", "a/b/c", "a-b", "a.b", "ab", "0", "é/ü"][number % 7];
        write(&format!("{directory}/{number}"), &number.to_le_bytes());
    }
    write("large", &[7; 3 << 20]);
    let program = write("a/b/run", b"#!/bin/sh\n");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    for empty in ["a/empty", "empty", "a-b/x/y/z"] {
        fs::create_dir_all(dir.path().join(empty)).unwrap();
    }
    std::os::unix::fs::symlink("a/b", dir.path().join("link")).unwrap();
    dir
}

fn both<T: PartialEq + std::fmt::Debug>(work: impl Fn(&Place) -> T) -> T {
    let [all, little] = [ALL, LITTLE].map(|held_bytes| {
        let place = Place::holding(held_bytes);
        let result = work(&place);
        assert_eq!(place.leftovers(), 0);
        result
    });
    assert_eq!(all, little);
    all
}

#[test]
fn adds_are_the_same() {
    let source = source();
    let (first, again, digest) = both(|place| {
        let first = place.add("x", source.path(), "").unwrap();
        let again = place.add("y", source.path(), "below").unwrap();
        for name in ["x", "y"] {
            let report = Verify { store: &place.store(), progress: &Progress::default(), threads: 2 }
                .artifact(&place.artifact(name))
                .unwrap();
            assert!(report.is_clean());
        }
        (first, again, place.artifact("x").manifest().unwrap().1.digest())
    });
    // Those below the link count twice.
    let linked = (0..FILES).filter(|number| number % 7 == 1).count() + 1;
    assert_eq!((first.files as usize, first.new_objects as usize), (FILES + 2 + linked, FILES + 2), "{digest}");
    assert_eq!((again.files, again.new_objects), (first.files, 0));
}

#[test]
fn replaced_files_are_the_same() {
    let source = source();
    both(|place| {
        place.add("x", source.path(), "").unwrap();
        let other = tempfile::tempdir().unwrap();
        for number in 0..FILES {
            // One directory that was empty, and a third of another.
            let path = other.path().join(["empty", "a/b/c", "new"][number % 3]).join(number.to_string());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("other {number}")).unwrap();
        }
        let summary = place.add("x", other.path(), "").unwrap();
        (summary, place.artifact("x").manifest().unwrap().1.digest())
    });
}

#[test]
fn failed_adds_leave_nothing() {
    let source = source();
    both(|place| {
        let root = place.artifact("x").root().to_owned();
        // In the way of one of the last files.
        fs::create_dir_all(root.join("é/ü/1196")).unwrap();
        let error: Error = place.add("x", source.path(), "").unwrap_err();
        assert_ne!(error.kind, Kind::NotFound);
        let left: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(fs::read_dir(root.join("é/ü")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.join(".artifact")).unwrap().count(), 1);
        assert!(place.artifact("x").manifest().unwrap().1.is_empty());
    });
}

#[test]
fn counts_and_collections_are_the_same() {
    let source = source();
    let (compared, (each, total), deleted) = both(|place| {
        place.add("x", source.path(), "").unwrap();
        place.add("y", &source.path().join("a"), "").unwrap();
        let (store, progress) = (place.store(), Progress::default());
        let manifest = |index: usize| Ok(place.artifact(["x", "y"][index]).manifest()?.1);
        let compared = shared(&store, &manifest(1).unwrap(), &manifest(0).unwrap(), &progress).unwrap();
        let used = usage(&store, 2, 2, manifest, &progress).unwrap();
        fs::remove_dir_all(place.artifact("x").root()).unwrap();
        let planned = gc(&store, Duration::ZERO, true, &progress).unwrap();
        let done = gc(&store, Duration::ZERO, false, &progress).unwrap();
        assert_eq!((planned.unreachable_objects, planned.reclaimable_bytes), (done.deleted_objects, done.freed_bytes));
        let report = Verify { store: &store, progress: &progress, threads: 2 }.artifact(&place.artifact("y")).unwrap();
        assert!(report.is_clean());
        let (each, total, errors) = used;
        assert!(errors.is_empty());
        (compared, (each.into_iter().map(Option::unwrap).collect::<Vec<_>>(), total), done.deleted_objects)
    });
    let kept = (0..FILES).filter(|number| number % 7 < 2).count() + 1;
    assert_eq!(deleted as usize, FILES + 2 - kept);
    assert_eq!(compared.shared_bytes, each[1].stored_bytes);
    assert_eq!((each[0].stored_bytes, each[1].unique_bytes), (total.stored_bytes, 0));
    assert_eq!(each[0].unique_bytes, each[0].stored_bytes - each[1].stored_bytes);
}
