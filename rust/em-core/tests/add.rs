//! Adding real files to real stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::PathBuf,
    process::Command,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use em_core::{
    Digest, Kind,
    add::{Add, Summary, reference},
    artifact::ArtifactDir,
    cancel::Progress,
    chunk::table::ChunkTable,
    diff::shared,
    ingest::{BLOCK_BYTES, Ingest, hash_file},
    manifest::{EntryKind, Reference},
    scan,
    stat_cache::StatCache,
    store::{
        Boot, Store,
        leases::Lease,
        link::{LinkMode, Linked},
        objects::Presence,
    },
    verify::{ProblemKind, Report, Verify},
};

/// A store, an artifact, a source directory and a cache, in a directory of their own.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        ArtifactDir::create(&dir.path().join("artifact")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path("source").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }

    fn artifact(&self) -> ArtifactDir {
        ArtifactDir::open(&self.path("artifact")).unwrap()
    }

    fn with<T>(&self, threads: usize, work: impl FnOnce(&Add<'_>) -> T) -> T {
        self.with_store(self.store(), threads, work)
    }

    fn with_store<T>(&self, store: Store, threads: usize, work: impl FnOnce(&Add<'_>) -> T) -> T {
        let artifact = self.artifact();
        let (cache, progress) = (StatCache::open(&self.path("cache")), Progress::default());
        work(&Add {
            store: &store,
            artifact: &artifact,
            cache: &cache,
            progress: &progress,
            threads,
            chunk_tables: true,
        })
    }

    fn add(&self) -> Summary {
        self.with(2, |add| add.dir(&self.path("source"), "")).unwrap()
    }

    fn digest(&self, path: &str) -> Digest {
        match self.artifact().manifest().unwrap().1.get(path).unwrap() {
            Some(EntryKind::File { digest, .. }) => digest,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn assert_verifies(&self) {
        let (store, artifact, progress) = (self.store(), self.artifact(), Progress::default());
        let verify = Verify { store: &store, progress: &progress, threads: 2 };
        // A user's own file there stays.
        let mine = self.path("artifact/mine").display().to_string();
        for report in [verify.artifact(&artifact).unwrap(), verify.store().unwrap()] {
            let problems = report.problems().map(Result::unwrap);
            let problems: Vec<_> = problems.filter(|one| one.kind != ProblemKind::Stray || one.path != mine).collect();
            assert!(problems.is_empty(), "{problems:?}");
        }
    }
}

/// Bytes that do not repeat, the same for the same seed.
fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn digest_of_every_size_equals_blake3() {
    let place = Place::new();
    let block = BLOCK_BYTES as usize;
    let mut sizes = vec![0, 1, 1023, 1024, 1025, 16 << 10, 256 << 10, (256 << 10) + 1];
    for blocks in 1..=9 {
        sizes.extend([blocks * block - 1, blocks * block, blocks * block + 1]);
    }
    sizes.extend((0..30).map(|i| (i * 7_919_017) % (5 * block)));
    for (index, &size) in sizes.iter().enumerate() {
        place.write(&format!("{index:03}"), &bytes(index as u64, size));
    }
    place.add();
    for (index, &size) in sizes.iter().enumerate() {
        let expected = Digest::of(&bytes(index as u64, size));
        assert_eq!(place.digest(&format!("{index:03}")), expected, "size {size}");
        let path = place.path("source").join(format!("{index:03}"));
        assert_eq!(hash_file(&path, 3, &Progress::default()).unwrap(), expected, "size {size}");
    }
    place.assert_verifies();
}

#[test]
fn chunk_table_covers_the_object_and_does_not_depend_on_threads() {
    let table_with = |threads| {
        let place = Place::new();
        let content = bytes(1, 7_654_321);
        place.write("a", &content);
        place.with(threads, |add| add.dir(&place.path("source"), "")).unwrap();
        let hex = place.digest("a").to_string();
        let table = fs::read(place.path("store/chunks").join(&hex[..2]).join(&hex[2..])).unwrap();
        let mut rest = content.as_slice();
        for (digest, length) in ChunkTable::decode(&table).unwrap().chunks {
            let (chunk, after) = rest.split_at(length as usize);
            assert_eq!(Digest::of(chunk), digest);
            rest = after;
        }
        assert!(rest.is_empty());
        table
    };
    let one = table_with(1);
    assert_eq!(one, table_with(2));
    assert_eq!(one, table_with(5));
}

#[test]
fn add_again_stores_nothing() {
    let place = Place::new();
    for (name, size) in [("big", 3 << 20), ("small", 5)] {
        let file = fs::File::open(place.write(name, &bytes(1, size))).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    }
    assert_eq!(place.add().new_objects, 2);
    let again = place.add();
    assert_eq!(again, Summary { files: 2, bytes: (3 << 20) + 5, linked: again.linked, ..Summary::default() });
    place.assert_verifies();
}

#[test]
fn file_that_looks_like_a_stored_one_counts_once_in_progress() {
    let (place, size) = (Place::new(), 3 * BLOCK_BYTES);
    let mut checkpoint = bytes(1, size as usize);
    place.write("first.bin", &checkpoint);
    place.add();
    checkpoint[100_000] ^= 1; // Between the samples.
    place.write("first.bin", &checkpoint);
    place.with(2, |add| {
        add.dir(&place.path("source"), "").unwrap();
        assert_eq!(add.progress.bytes.load(Ordering::Relaxed), size);
        assert_eq!(add.progress.files.load(Ordering::Relaxed), 1);
    });
    assert_eq!(place.digest("first.bin"), Digest::of(&checkpoint));
    place.assert_verifies();
}

#[test]
fn known_file_that_changes_after_it_was_listed_is_added_as_it_was() {
    let place = Place::new();
    let file = place.write("a", b"before");
    place.add();
    let (store, progress, root) = (place.store(), Progress::default(), place.path("source"));
    let cache = StatCache::open(&place.path("cache"));
    let (lease, root_fd) = (Lease::take(&store).unwrap(), fs::File::open(&root).unwrap().into());
    let listing = scan::scan(&root, store.room(), 1, &progress).unwrap();
    let tree = listing.parts().next().unwrap().unwrap();
    // As if it had been older than the slack.
    cache.record(&tree.stat(0), Digest::of(b"before"));
    fs::write(&file, b"behind, and longer").unwrap();
    let ingest = Ingest {
        store: &store,
        cache: &cache,
        progress: &progress,
        root: &root,
        root_fd: &root_fd,
        lease: &lease,
        chunk_tables: true,
    };
    let objects = ingest.run(&tree, 2).unwrap();
    assert_eq!((objects.digest(0), objects.size_bytes(&tree, 0)), (Digest::of(b"before"), 6));
    assert!(!objects.is_new(0));
    // Where its object is gone, it is read: as it is now.
    fs::remove_file(store.object_path(Digest::of(b"before"))).unwrap();
    let objects = ingest.run(&tree, 2).unwrap();
    assert_eq!((objects.digest(0), objects.size_bytes(&tree, 0)), (Digest::of(b"behind, and longer"), 18));
    assert!(objects.is_new(0));
}

#[test]
fn replaced_path_leaves_the_old_object_alone() {
    let place = Place::new();
    place.write("a", b"one");
    place.add();
    place.write("a", b"two");
    place.add();
    assert_eq!(fs::read(place.path("artifact/a")).unwrap(), b"two");
    assert_eq!(fs::read(place.store().object_path(Digest::of(b"one"))).unwrap(), b"one");
    place.assert_verifies();
}

#[test]
fn executable_bit_holes_links_and_empty_directories_survive() {
    let place = Place::new();
    let script = place.write("run.sh", b"#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(place.path("source/empty")).unwrap();
    std::os::unix::fs::symlink("run.sh", place.path("source/link")).unwrap();
    let sparse = fs::File::create(place.path("source/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"end", (64 << 20) - 3).unwrap();
    place.add();
    assert_eq!(fs::metadata(place.path("artifact/run.sh")).unwrap().mode() & 0o111, 0o111);
    assert_eq!(fs::read(place.path("artifact/link")).unwrap(), b"#!/bin/sh\n");
    assert!(place.path("artifact/empty").is_dir());
    assert!(fs::metadata(place.path("artifact/sparse")).unwrap().blocks() * 512 < 1 << 20);
    place.assert_verifies();
}

#[test]
fn damaged_object_goes_to_trash_and_is_stored_anew() {
    let place = Place::new();
    let digest = Digest::of(b"content");
    place.write("a", b"content");
    place.add();
    let store = place.store();
    assert_eq!(store.presence(digest, 7).unwrap(), Presence::Sealed);
    let object = store.object_path(digest);
    fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&object, b"c0ntent").unwrap();
    assert_eq!(store.presence(digest, 7).unwrap(), Presence::Suspect);
    assert_eq!(
        Verify { store: &store, progress: &Progress::default(), threads: 2 }
            .store()
            .unwrap()
            .count(ProblemKind::Damaged)
            .files,
        1
    );
    assert_eq!(place.add().new_objects, 1);
    assert_eq!(fs::read(&object).unwrap(), b"content");
    assert_eq!(fs::read_dir(place.path("store/trash")).unwrap().count(), 1);
    place.assert_verifies();
}

#[test]
fn damaged_chunk_table_is_reported_and_stray_files_beside_it() {
    let place = Place::new();
    place.write("a", &bytes(1, 300_000));
    place.add();
    let hex = place.digest("a").to_string();
    let table = place.path("store/chunks").join(&hex[..2]).join(&hex[2..]);
    fs::set_permissions(&table, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&table, vec![0; 148]).unwrap();
    let problems = |report: Report| -> Vec<_> {
        report.problems().map(|problem| problem.map(|one| (one.kind, PathBuf::from(one.path))).unwrap()).collect()
    };
    let (store, artifact, progress) = (place.store(), place.artifact(), Progress::default());
    let damaged = (ProblemKind::Damaged, table.clone());
    assert_eq!(
        problems(Verify { store: &store, progress: &progress, threads: 2 }.artifact(&artifact).unwrap()),
        std::slice::from_ref(&damaged)
    );
    let stray = table.with_file_name(".tmp-x");
    fs::write(&stray, "").unwrap();
    let found = problems(Verify { store: &store, progress: &progress, threads: 2 }.store().unwrap());
    assert_eq!(found, [(ProblemKind::Stray, stray.clone()), damaged]);
    let manifest = artifact.manifest().unwrap().1;
    let error = shared(&store, &manifest, &manifest, &Progress::default()).unwrap_err();
    assert!(error.message.contains(table.to_str().unwrap()) && error.hint.is_some(), "{error}");
    fs::remove_file(&table).unwrap();
    fs::remove_file(&stray).unwrap();
    assert_eq!(shared(&store, &manifest, &manifest, &Progress::default()).unwrap().shared_bytes, 300_000);
    place.add();
    assert!(table.exists(), "an add makes it anew");
    place.assert_verifies();
}

#[test]
fn what_is_no_regular_file_is_reported_as_damaged() {
    let place = Place::new();
    place.write("a", &bytes(1, 300_000));
    place.add();
    let (store, artifact, object) = (place.store(), place.artifact(), place.store().object_path(place.digest("a")));
    let hex = place.digest("a").to_string();
    let table = place.path("store/chunks").join(&hex[..2]).join(&hex[2..]);
    for path in [place.path("artifact/a"), object, table] {
        let aside = place.path("aside");
        fs::rename(&path, &aside).unwrap();
        let assert_is_reported = || {
            let report =
                Verify { store: &store, progress: &Progress::default(), threads: 2 }.artifact(&artifact).unwrap();
            let problems: Vec<_> = report.problems().map(Result::unwrap).filter(|one| one.file.is_none()).collect();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!((problems[0].kind, problems[0].path.as_str()), (ProblemKind::Damaged, path.to_str().unwrap()));
        };
        fs::create_dir(&path).unwrap();
        assert_is_reported();
        fs::remove_dir(&path).unwrap();
        // Without a writer a pipe could be waited for.
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_is_reported();
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    place.assert_verifies();
}

#[test]
fn object_that_is_written_to_while_it_is_rehashed_is_not_sealed() {
    let place = Place::new();
    let content = bytes(1, 64 << 20);
    let digest = Digest::of(&content);
    place.write("a", &content);
    place.add();
    let store = place.store();
    let path = store.object_path(digest);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let object = fs::File::options().write(true).open(&path).unwrap();
    std::thread::scope(|scope| {
        let rehash = scope.spawn(|| store.usable(digest, content.len() as u64).unwrap());
        std::thread::sleep(Duration::from_millis(5));
        object.write_all_at(b"other", 0).unwrap();
        rehash.join().unwrap();
    });
    if path.exists() {
        assert_eq!(store.presence(digest, content.len() as u64).unwrap(), Presence::Suspect);
    }
}

#[test]
fn touched_and_intact_object_is_sealed_again() {
    let place = Place::new();
    let digest = Digest::of(b"content");
    place.write("a", b"content");
    place.add();
    let store = place.store();
    fs::File::open(store.object_path(digest)).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(store.presence(digest, 7).unwrap(), Presence::Suspect);
    assert!(store.usable(digest, 7).unwrap());
    assert_eq!(store.presence(digest, 7).unwrap(), Presence::Sealed);
}

#[test]
fn cancelled_rehash_of_a_touched_object_leaves_it_where_it_is() {
    let place = Place::new();
    let digest = Digest::of(b"content");
    place.write("a", b"content");
    place.add();
    let store = place.store();
    fs::File::open(store.object_path(digest)).unwrap().set_modified(SystemTime::now()).unwrap();
    let cancelled = Progress::default();
    cancelled.cancel();
    assert_eq!(store.usable_unless_cancelled(digest, 7, &cancelled).unwrap_err().kind, Kind::Cancelled);
    assert_eq!(Verify { store: &store, progress: &cancelled, threads: 2 }.store().unwrap_err().kind, Kind::Cancelled);
    assert_eq!(store.presence(digest, 7).unwrap(), Presence::Suspect);
    assert!(store.usable(digest, 7).unwrap());
    place.assert_verifies();
}

#[test]
fn bad_obj_paths_are_refused_and_change_nothing() {
    let place = Place::new();
    let file = place.write("a", b"1");
    place.with(1, |add| add.file(&file, "dir/a")).unwrap();
    let before = place.artifact().manifest().unwrap();
    for bad in ["", "/a", "..", "a/../b", "a//b", "./a", ".artifact/x", ".ARTIFACT", "a\0b", "dir", "dir/a/b", "DIR/b"]
    {
        let error = place.with(1, |add| add.file(&file, bad)).unwrap_err();
        assert_eq!(error.kind, Kind::InvalidInput, "{bad:?}");
    }
    let known = Reference { uri: "s3://bucket/x".into(), size: None, etag: None, digest: None };
    assert!(reference(&place.artifact(), "../x", known, &Progress::default()).is_err());
    assert_eq!(place.artifact().manifest().unwrap(), before);
    assert_eq!(place.with(1, |add| add.dir(place.dir.path(), "")).unwrap_err().kind, Kind::InvalidInput);
}

#[test]
fn cancelled_add_leaves_the_artifact_as_it_was() {
    let place = Place::new();
    place.write("a", &bytes(1, 5 << 20));
    let before = place.artifact().manifest().unwrap();
    let error = place.with(2, |add| {
        add.progress.cancel();
        add.dir(&place.path("source"), "").unwrap_err()
    });
    assert_eq!(error.kind, Kind::Cancelled);
    assert_eq!(place.artifact().manifest().unwrap(), before);
    assert!(!place.path("artifact/a").exists());
    place.assert_verifies();
}

#[test]
fn concurrent_adds_to_one_artifact_lose_no_entry() {
    let place = Place::new();
    for i in 0..8 {
        place.write(&format!("{i}/own"), &bytes(i, 10_000));
        place.write(&format!("{i}/shared"), &bytes(99, 300_000));
    }
    std::thread::scope(|scope| {
        for i in 0..8 {
            let place = &place;
            scope.spawn(move || {
                let source = place.path("source").join(i.to_string());
                place.with(1, |add| add.dir(&source, &i.to_string())).unwrap();
                place.with(1, |add| add.file(&source.join("own"), "contested")).unwrap();
            });
        }
    });
    assert_eq!(place.artifact().manifest().unwrap().1.len(), 17);
    place.assert_verifies();
}

/// What leases and intents begin with: of a process that runs, or of one that is gone.
fn owner(is_alive: bool) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let (host, boot) = (read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/boot_id"));
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    let pid = if is_alive { std::process::id() } else { 4_194_305 };
    let stat = read("/proc/self/stat");
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
    format!("{} {} {} {pid} {started}", host.trim(), boot.trim(), namespace.display())
}

/// An artifact with `a`, and what an add left that made `new/…` and `copy` and was to replace `a`.
fn interrupted(is_alive: bool) -> Place {
    let place = Place::new();
    place.write("a", b"one");
    place.write("b", b"two");
    place.add();
    let names = ["=a", "+copy", "+../escape", "+mine", "/new", "/new/deep", "+new/deep/b", "+never", "/x/../../escape"];
    let names: Vec<_> = names.iter().map(|name| format!("\0{name}")).collect();
    fs::write(place.path("artifact/.artifact").join("intent-x"), owner(is_alive) + &names.concat()).unwrap();
    fs::create_dir_all(place.path("artifact/new/deep")).unwrap();
    fs::remove_file(place.path("artifact/a")).unwrap();
    fs::write(place.path("artifact/a"), b"new").unwrap();
    let object = place.store().object_path(Digest::of(b"two"));
    fs::hard_link(&object, place.path("artifact/new/deep/b")).unwrap();
    fs::write(place.path("artifact/copy"), b"two").unwrap();
    fs::write(place.path("escape"), b"two").unwrap();
    place
}

impl Place {
    /// As an add does that has no time. Files have the time of the clock's last tick.
    fn leave(&self) {
        let inner = self.path("artifact/.artifact");
        std::thread::sleep(Duration::from_millis(50));
        fs::rename(inner.join("intent-x"), inner.join("undo-x")).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }

    /// After an add that was interrupted has been undone.
    fn assert_put_back(&self, intent: &str) {
        assert_eq!(fs::read(self.path("artifact/a")).unwrap(), b"one");
        assert!(!self.path("artifact/new").exists());
        assert!(!self.path("artifact/copy").exists());
        assert!(self.path("escape").exists());
        assert!(!self.path("artifact/.artifact").join(intent).exists());
        self.assert_verifies();
    }
}

#[test]
fn intent_that_was_left_behind_a_commit_takes_nothing_away() {
    let place = interrupted(false);
    fs::create_dir(place.path("source/new")).unwrap();
    fs::create_dir_all(place.path("source/new/empty")).unwrap();
    fs::create_dir(place.path("source/new/deep")).unwrap();
    fs::write(place.path("source/new/deep/b"), b"two").unwrap();
    fs::write(place.path("source/copy"), b"two").unwrap();
    place.add();
    let intent = owner(false) + "\0+copy\0/new\0/new/deep\0+new/deep/b\0/new/empty";
    fs::write(place.path("artifact/.artifact/intent-x"), &intent).unwrap();
    fs::remove_dir_all(place.path("artifact/new/deep")).unwrap();
    place.artifact().recover(&place.store(), &Progress::default()).unwrap();
    place.assert_verifies();
    assert!(place.path("artifact/new/empty").is_dir());
    assert!(!place.path("artifact/.artifact/intent-x").exists());
}

#[test]
fn leftover_intent_of_a_dead_process_is_undone() {
    let place = interrupted(false);
    fs::write(place.path("artifact/mine"), b"not in the store").unwrap();
    place.artifact().recover(&place.store(), &Progress::default()).unwrap();
    place.assert_put_back("intent-x");
    assert!(place.path("artifact/mine").exists(), "a file that is not of the store is the user's");
    assert_eq!(place.artifact().manifest().unwrap().0, 2, "nobody had to be told");
}

#[test]
fn file_that_cannot_be_read_does_not_keep_the_rest_from_being_undone() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let place = interrupted(false);
    let secret = place.path("artifact/mine");
    fs::write(&secret, b"two").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let undone = std::thread::scope(|scope| {
        let undo = || {
            // Of this thread alone: root reads everything.
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
            set_capabilities(None, sets).unwrap();
            assert!(fs::File::open(&secret).is_err());
            place.artifact().recover(&place.store(), &Progress::default())
        };
        scope.spawn(undo).join().unwrap()
    });
    undone.unwrap();
    place.assert_put_back("intent-x");
    assert!(secret.exists());
}

#[test]
fn intent_of_a_process_that_lives_is_left_alone_unless_it_says_so() {
    let place = interrupted(true);
    place.artifact().recover(&place.store(), &Progress::default()).unwrap();
    assert!(place.path("artifact/copy").exists());
    place.leave();
    fs::write(place.path("artifact/mine"), b"two").unwrap();
    place.artifact().recover(&place.store(), &Progress::default()).unwrap();
    place.assert_put_back("undo-x");
    assert!(place.path("artifact/mine").exists(), "what was put there since is the user's");
}

#[test]
fn add_in_flight_is_told_of_an_undo_that_may_have_removed_its_files() {
    let place = interrupted(true);
    place.leave();
    fs::write(place.path("artifact/.artifact/intent-y"), owner(true)).unwrap();
    let (before, manifest) = place.artifact().manifest().unwrap();
    place.artifact().recover(&place.store(), &Progress::default()).unwrap();
    let (after, same) = place.artifact().manifest().unwrap();
    assert_eq!((after, same), (before + 1, manifest));
    place.assert_put_back("undo-x");
}

#[test]
fn processes_that_undo_the_same_all_succeed() {
    const NAMES: usize = 3000;
    let place = Place::new();
    place.write("a", b"one");
    place.add();
    let (store, inner) = (place.store(), place.path("artifact/.artifact"));
    let object = store.object_path(Digest::of(b"one"));
    for round in 0..4 {
        let names: String = (0..NAMES).map(|name| format!("\0+new/{name:05}")).collect();
        fs::create_dir(place.path("artifact/new")).unwrap();
        for name in 0..NAMES {
            fs::hard_link(&object, place.path("artifact/new").join(format!("{name:05}"))).unwrap();
        }
        fs::remove_file(place.path("artifact/a")).unwrap();
        fs::write(inner.join("undo-x"), owner(true) + "\0=a\0/new" + &names).unwrap();
        let begin = std::sync::Barrier::new(6);
        let undone: Vec<_> = std::thread::scope(|scope| {
            let undo = || {
                begin.wait();
                place.artifact().recover(&store, &Progress::default())
            };
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(undo)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(undone.iter().all(Result::is_ok), "round {round}: {undone:?}");
        assert!(!place.path("artifact/new").exists());
        assert!(!inner.join("undo-x").exists());
        place.assert_verifies();
    }
}

#[test]
fn forced_link_mode_is_used() {
    for (mode, shared) in [(LinkMode::Hardlink, true), (LinkMode::Copy, false)] {
        let place = Place::new();
        let file = place.write("a", b"content");
        let store = place.store().with_link_mode(Some(mode));
        let done = place.with(1, |add| Add { store: &store, ..*add }.file(&file, "a")).unwrap();
        let copied_bytes = if shared { 0 } else { 7 };
        let (hardlinks, copies) = (u64::from(shared), u64::from(!shared));
        assert_eq!(done.linked, Linked { hardlinks, copies, copied_bytes, ..Linked::default() });
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let object = place.store().object_path(Digest::of(b"content"));
        assert_eq!(inode(place.path("artifact/a")) == inode(object), shared);
    }
}

#[test]
fn what_is_put_back_comes_in_the_forced_mode_or_another() {
    let cases = [(LinkMode::Copy, Some(1)), (LinkMode::Hardlink, Some(2)), (LinkMode::Reflink, None::<u64>)];
    for (mode, names) in cases {
        let place = interrupted(false);
        place.artifact().recover(&place.store().with_link_mode(Some(mode)), &Progress::default()).unwrap();
        place.assert_put_back("intent-x");
        let found = fs::metadata(place.path("artifact/a")).unwrap().nlink();
        assert_eq!(found, names.unwrap_or(found), "{mode:?}");
    }
}

#[test]
fn bytes_that_are_copied_count_as_more_work() {
    for (mode, executable, copied) in [
        (LinkMode::Copy, false, true),
        (LinkMode::Copy, true, true),
        (LinkMode::Hardlink, false, false),
        (LinkMode::Hardlink, true, true),
    ] {
        let place = Place::new();
        let mut bytes = 0;
        for (name, size) in [("a", 3 * BLOCK_BYTES + 5), ("b", 100), ("c", BLOCK_BYTES)] {
            let file = place.write(name, &vec![7; size as usize]);
            fs::set_permissions(file, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 })).unwrap();
            bytes += size;
        }
        let (store, progress) = (place.store().with_link_mode(Some(mode)), Progress::default());
        let add = |add: &Add<'_>| Add { store: &store, progress: &progress, ..*add }.dir(&place.path("source"), "");
        let linked = place.with(2, add).unwrap().linked;
        assert_eq!(linked.copied_bytes, if copied { bytes } else { 0 });
        let counted = [&progress.bytes, &progress.total_bytes].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counted, [bytes + linked.copied_bytes; 2], "{mode:?} {executable}");
    }
}

/// Another add comes between while this one copies, so it puts its file there once more, and is interrupted in that.
#[test]
fn add_that_is_interrupted_behind_its_commit_is_settled_by_the_next() {
    assert!((0..20).any(|_| is_interrupted_behind_its_commit()), "it was over before that, each time");
}

/// Whether the add was not over before that; what it leaves is settled.
fn is_interrupted_behind_its_commit() -> bool {
    let place = Place::new();
    let bytes: Vec<u8> = (0..64 << 20).map(|at: u32| (at >> 10) as u8).collect();
    let file = place.write("large", &bytes);
    let (store, progress) = (place.store().with_link_mode(Some(LinkMode::Copy)), Progress::default());
    let far = Reference { uri: "s3://far".into(), size: None, etag: None, digest: None };
    let wait = |until: &dyn Fn(u64, u64) -> bool, adding: &std::thread::ScopedJoinHandle<'_, _>| {
        while !adding.is_finished() {
            let generation = place.artifact().manifest().unwrap().0;
            if until(progress.bytes.load(Ordering::Relaxed), generation) {
                break;
            }
            std::thread::yield_now();
        }
    };
    let added = std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            place.with(1, |add| Add { store: &store, progress: &progress, ..*add }.file(&file, "large")).map(drop)
        });
        wait(&|copied, _| copied > 65 << 20, &adding);
        reference(&place.artifact(), "far", far, &Progress::default()).unwrap();
        wait(&|_, generation| generation == 3, &adding);
        progress.cancel();
        adding.join().unwrap()
    });
    let was_interrupted = added.is_err();
    if let Err(error) = added {
        assert_eq!(error.kind, Kind::Cancelled);
        assert!(
            fs::read_dir(place.path("artifact/.artifact"))
                .unwrap()
                .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("undo-") })
        );
        fs::remove_file(place.path("artifact/large")).unwrap();
        place.artifact().recover(&store, &Progress::default()).unwrap();
    }
    assert_eq!(fs::read(place.path("artifact/large")).unwrap(), bytes);
    assert_eq!(fs::read_dir(place.path("artifact/.artifact")).unwrap().count(), 1);
    place.assert_verifies();
    was_interrupted
}

#[test]
fn forced_hardlinks_keep_the_executable_bit() {
    let place = Place::new();
    let script = place.write("run.sh", b"#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let store = place.store().with_link_mode(Some(LinkMode::Hardlink));
    place.with(1, |add| Add { store: &store, ..*add }.file(&script, "run.sh")).unwrap();
    assert_eq!(fs::metadata(place.path("artifact/run.sh")).unwrap().mode() & 0o777, 0o755);
    place.assert_verifies();
}

#[test]
fn newer_store_is_refused() {
    let place = Place::new();
    place.store();
    fs::write(place.path("store/VERSION"), "2\n").unwrap();
    assert!(Store::open(&place.path("store")).unwrap_err().message.contains("format 2"));
}

#[test]
fn object_of_an_earlier_boot_is_hashed_before_use() {
    let place = Place::new();
    for name in ["kept", "lost"] {
        place.write(name, name.as_bytes());
    }
    place.add();
    let (kept, lost) = (Digest::of(b"kept"), Digest::of(b"lost"));
    // A power cut: the inode with its size and times was written, the bytes were not.
    let path = place.store().object_path(lost);
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, [0; 4]).unwrap();
    fs::File::open(&path).unwrap().set_modified(mtime).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(place.store().presence(lost, 4).unwrap(), Presence::Sealed, "nothing shows before the reboot");

    let later = |id| Store::open_in(&place.path("store"), Boot { id: [id; 16], began_s: i64::MAX }).unwrap();
    let next = later(1);
    assert_eq!(next.presence(kept, 4).unwrap(), Presence::Suspect);
    assert!(next.usable(kept, 4).unwrap());
    assert!(!next.usable(lost, 4).unwrap());
    assert_eq!(next.presence(lost, 4).unwrap(), Presence::Missing);
    assert_eq!(later(2).presence(kept, 4).unwrap(), Presence::Sealed, "read back once, durable for ever");
}

#[test]
fn failed_add_removes_what_it_linked_and_nothing_else() {
    let place = Place::new();
    place.write("1", b"one");
    place.write("2", b"two");
    // A directory is in the way of the second file; the first path holds a file of the user's.
    fs::create_dir_all(place.path("artifact/2/x")).unwrap();
    let error = place.with(1, |add| add.dir(&place.path("source"), "")).unwrap_err();
    assert_ne!(error.kind, Kind::NotFound, "{error}");
    assert!(!place.path("artifact/1").exists());
    assert!(place.path("artifact/2/x").is_dir());
    assert_eq!(place.artifact().manifest().unwrap().1.len(), 0);
}

#[test]
fn file_that_lies_in_the_artifact_already_becomes_an_entry() {
    let place = Place::new();
    let own = place.path("artifact/logs");
    fs::write(&own, b"events").unwrap();
    place.with(1, |add| add.file(&own, "logs")).unwrap();
    assert_eq!(fs::read(&own).unwrap(), b"events");
    place.assert_verifies();
}
