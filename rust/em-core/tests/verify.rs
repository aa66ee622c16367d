//! What a verification reports: of a store and of an artifact, with one worker or several, with lists in files or not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use em_core::{
    Digest,
    add::Add,
    artifact::ArtifactDir,
    cancel::Progress,
    chunk::{
        ChunkerId,
        table::{ChunkTable, TableWriter},
    },
    gc::gc,
    stat_cache::StatCache,
    store::{
        Store,
        leases::Lease,
        link::LinkMode,
        objects::{Presence, relative_path},
    },
    verify::{Problem, ProblemKind, Report, Thing, Verify},
};
use tempfile::TempDir;

/// `artifacts/x` beside `store`, and what is added to it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("source")).unwrap();
        ArtifactDir::create(&place.path("artifacts/x")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }

    fn artifact(&self) -> ArtifactDir {
        ArtifactDir::open(&self.path("artifacts/x")).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Digest {
        fs::write(self.path("source").join(name), bytes).unwrap();
        Digest::of(bytes)
    }

    fn add_to(&self, artifact: &ArtifactDir, link_mode: Option<LinkMode>) {
        let store = self.store().with_link_mode(link_mode);
        let (cache, progress) = (StatCache::open(&self.path("cache")), Progress::default());
        let add = Add { store: &store, artifact, cache: &cache, progress: &progress, threads: 2, chunk_tables: true };
        add.dir(&self.path("source"), "").unwrap();
    }

    fn add(&self) {
        self.add_to(&self.artifact(), Some(LinkMode::Hardlink));
    }

    fn object(&self, digest: Digest) -> PathBuf {
        self.store().object_path(digest)
    }

    fn table(&self, digest: Digest) -> PathBuf {
        self.store().table_path(digest)
    }

    /// The same whatever is held in memory and however many work.
    fn verified(&self, artifact: Option<&ArtifactDir>) -> Vec<Problem> {
        let run = |threads, store: &Store| {
            let progress = Progress::default();
            let verify = Verify { store, progress: &progress, threads };
            let report = artifact.map_or_else(|| verify.store(), |artifact| verify.artifact(artifact)).unwrap();
            let total = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(total(&progress.files), report.objects);
            (assert_counts(&report), total(&progress.bytes), total(&progress.total_bytes))
        };
        let (problems, bytes, total_bytes) = run(1, &self.store());
        assert_eq!(bytes, total_bytes);
        assert_eq!(run(3, &self.store().with_held_bytes(256)), (problems.clone(), bytes, total_bytes));
        problems
    }

    fn of_store(&self) -> Vec<Problem> {
        self.verified(None)
    }

    fn of_artifact(&self) -> Vec<Problem> {
        self.verified(Some(&self.artifact()))
    }

    fn assert_clean(&self) {
        assert_eq!((self.of_store(), self.of_artifact()), (Vec::new(), Vec::new()));
    }
}

/// The problems, which the counts tell too.
fn assert_counts(report: &Report) -> Vec<Problem> {
    let problems: Vec<_> = report.problems().map(Result::unwrap).collect();
    for kind in ProblemKind::ALL {
        let counted = problems.iter().filter(|problem| problem.kind == kind && problem.file.is_none());
        let sizes: Vec<_> = counted.map(|problem| problem.bytes).collect();
        assert_eq!((report.count(kind).files, report.count(kind).bytes), (sizes.len() as u64, sizes.iter().sum()));
    }
    assert_eq!(report.is_clean(), problems.is_empty());
    problems
}

/// Kind, thing, path and bytes of problems; the files of objects are left out.
fn facts(problems: &[Problem]) -> Vec<(ProblemKind, Thing, PathBuf, u64)> {
    let problems = problems.iter().filter(|problem| problem.file.is_none());
    problems.map(|one| (one.kind, one.thing, PathBuf::from(&one.path), one.bytes)).collect()
}

/// The paths in artifacts that objects with problems are.
fn files(problems: &[Problem]) -> Vec<String> {
    problems.iter().filter_map(|problem| problem.file.as_ref().map(|(_, path)| path.clone())).collect()
}

/// Bytes that do not repeat, the same for the same seed.
fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Writes to a file that is read-only.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

fn set_mtime(path: &Path, time: SystemTime) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn what_manifests_name_and_the_store_lacks_is_missing_with_its_files() {
    let place = Place::new();
    let gone: Vec<_> =
        (0..40).map(|seed| place.write(&format!("{seed:02}"), &bytes(seed, 10 + seed as usize))).collect();
    place.write("same as 07", &bytes(7, 17));
    let chunked = place.write("chunked", &bytes(99, 300_000));
    place.add();
    let elsewhere = ArtifactDir::create(&place.path("elsewhere")).unwrap();
    place.add_to(&elsewhere, None);
    place.assert_clean();
    for digest in gone[..9].iter().chain([&chunked]) {
        fs::remove_file(place.object(*digest)).unwrap();
    }
    let mut expected: Vec<_> =
        (0..9).map(|seed| (ProblemKind::Missing, Thing::Object, place.object(gone[seed]), 10 + seed as u64)).collect();
    // Its table is no stray: it is wanted again.
    expected.push((ProblemKind::Missing, Thing::Object, place.object(chunked), 300_000));
    expected.sort_by(|a, b| a.2.cmp(&b.2));
    let (of_store, of_artifact) = (place.of_store(), place.of_artifact());
    // The files of the artifact are there still: who has them can add them again.
    assert_eq!((facts(&of_store), facts(&of_artifact)), (expected.clone(), expected));
    assert_eq!((files(&of_store).len(), files(&of_artifact).len()), (22, 11));
    let of_seven: Vec<_> = of_store.iter().filter(|one| Path::new(&one.path) == place.object(gone[7])).collect();
    let [x, elsewhere] = [place.path("artifacts/x"), place.path("elsewhere")].map(|path| path.display().to_string());
    let file = |artifact: &str, path: &str| Some((artifact.to_owned(), path.to_owned()));
    assert_eq!(
        of_seven.iter().map(|problem| problem.file.clone()).collect::<Vec<_>>(),
        [None, file(&x, "07"), file(&x, "same as 07"), file(&elsewhere, "07"), file(&elsewhere, "same as 07")]
    );
    place.add();
    place.assert_clean();
}

#[test]
fn what_gc_has_set_aside_is_no_stray_and_what_is_named_meanwhile_comes_back() {
    let place = Place::new();
    let digest = place.write("a", &bytes(1, 300_000));
    place.add();
    fs::rename(place.path("artifacts/x"), place.path("aside")).unwrap();
    gc(&place.store(), Duration::from_secs(3600), false, &Progress::default()).unwrap();
    assert!(!place.object(digest).exists() && place.table(digest).exists());
    assert_eq!(place.of_store(), []);
    fs::rename(place.path("aside"), place.path("artifacts/x")).unwrap();
    let problems = place.of_store();
    assert_eq!(facts(&problems), [(ProblemKind::Missing, Thing::Object, place.object(digest), 300_000)]);
    assert!(problems[0].reason.contains("em gc"), "{problems:?}");
    gc(&place.store(), Duration::from_secs(3600), false, &Progress::default()).unwrap();
    place.assert_clean();
}

#[test]
fn chunk_tables_that_are_not_of_their_object_are_found_and_an_add_makes_them_anew() {
    let place = Place::new();
    let (small, large) = (bytes(1, 300_000), bytes(2, 17 << 20));
    let digests = [place.write("small", &small), place.write("large", &large)];
    place.add();
    place.assert_clean();
    for (digest, content) in digests.into_iter().zip([&small, &large]) {
        let table = place.table(digest);
        let right = fs::read(&table).unwrap();
        let write = |size: u64, chunks: &[(Digest, u32)]| {
            fs::remove_file(&table).unwrap();
            let file =
                fs::File::create_new(&table).and_then(|_| fs::File::options().read(true).write(true).open(&table));
            let (file, writer) = (file.unwrap(), TableWriter::new(ChunkerId::CdcV1, size));
            writer.put(&file, 0, chunks).unwrap();
            writer.finish(&file, chunks.len() as u64).unwrap();
        };
        let found = |kind: ProblemKind| {
            let bytes = fs::metadata(&table).map_or(0, |metadata| metadata.len());
            let expected = [(kind, Thing::Table, table.clone(), bytes)];
            let (of_store, of_artifact) = (place.of_store(), place.of_artifact());
            assert_eq!((facts(&of_store), facts(&of_artifact)), (expected.to_vec(), expected.to_vec()));
            of_store[0].reason.clone()
        };
        // Of other bytes, behind the first block where there is one: only who hashes the chunks sees it.
        let mut chunks = ChunkTable::decode(&right).unwrap().chunks;
        chunks.last_mut().unwrap().0 = Digest::of(b"other");
        write(content.len() as u64, &chunks);
        assert_eq!(found(ProblemKind::Damaged), "its chunks are not those of its object");
        // Of another object.
        write(100, &[(Digest::of(b"other"), 100)]);
        assert_eq!(
            found(ProblemKind::Damaged),
            format!("it is of an object of 100 bytes, and this has {}", content.len())
        );
        fs::write(&table, &right[..right.len() - 1]).unwrap();
        assert_eq!(found(ProblemKind::Damaged), "not a chunk table: wrong length");
        fs::remove_file(&table).unwrap();
        assert_eq!(found(ProblemKind::Missing), "");
        // Unchanged, and new to the stat cache.
        for _ in 0..2 {
            place.add();
            assert_eq!(fs::read(&table).unwrap(), right);
            fs::remove_file(&table).unwrap();
            fs::remove_dir_all(place.path("cache")).unwrap();
        }
        place.add();
        place.assert_clean();
    }
}

#[test]
fn tables_and_temporary_files_are_strays_when_no_add_is_in_flight() {
    let place = Place::new();
    let digest = place.write("a", b"a");
    place.add();
    let other = Digest::of(b"other");
    let (orphan, table, temp) = (place.table(other), place.table(digest), place.path("store/objects/.tmp-x"));
    for path in [&orphan, &table] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"none").unwrap();
    }
    let damaged = |path: &Path| (ProblemKind::Damaged, Thing::Table, path.to_owned(), 4);
    assert_eq!(
        facts(&place.of_store()).into_iter().collect::<BTreeSet<_>>(),
        [damaged(&orphan), damaged(&table)].into()
    );
    let file = fs::File::options().read(true).write(true).truncate(true).open(&orphan).unwrap();
    TableWriter::new(ChunkerId::CdcV1, 0).finish(&file, 0).unwrap();
    fs::write(&temp, b"12").unwrap();
    let strange = [("store/note", 3), ("store/objects/zz/x", 0), ("store/chunks/a", 4), ("store/parts/x", 5)];
    for (name, size) in strange {
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        fs::write(place.path(name), vec![0; size]).unwrap();
    }
    let known = place.object(digest).with_file_name("what");
    fs::write(&known, b"1").unwrap();
    let stray = |thing, path: &Path, bytes| (ProblemKind::Stray, thing, path.to_owned(), bytes);
    let mut expected = vec![
        stray(Thing::Other, &known, 1),
        stray(Thing::Other, &place.path("store/note"), 3),
        stray(Thing::Other, &place.path("store/objects/zz"), 0),
        stray(Thing::Other, &place.path("store/chunks/a"), 4),
        stray(Thing::Other, &place.path("store/parts/x"), 5),
        damaged(&table),
    ];
    expected.sort_by(|a, b| a.2.cmp(&b.2));
    let lease = Lease::take(&place.store()).unwrap();
    assert_eq!(facts(&place.of_store()), expected);
    drop(lease);
    expected.extend([stray(Thing::Table, &orphan, 40), stray(Thing::Other, &temp, 2)]);
    expected.sort_by(|a, b| a.2.cmp(&b.2));
    assert_eq!(facts(&place.of_store()), expected);
}

#[test]
fn artifact_without_a_manifest_or_out_of_reach_hides_no_other() {
    let place = Place::new();
    let digest = place.write("a", b"a");
    place.add();
    let (empty, cut) = (place.path("artifacts/empty"), place.path("artifacts/cut"));
    for root in [&empty, &cut, &place.path("away/y")] {
        place.add_to(&ArtifactDir::create(root).unwrap(), None);
    }
    let manifest = |root: &Path| root.join(".artifact/manifest-0000000002");
    fs::write(manifest(&empty), b"").unwrap();
    fs::write(manifest(&cut), b"EMMANIF\0").unwrap();
    let root = fs::read_dir(place.path("store/roots")).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(place.path("away")).unwrap();
    let wrong_root = place.path("store/roots").join("0".repeat(64));
    fs::write(&wrong_root, place.path("artifacts/x").to_str().unwrap()).unwrap();
    fs::remove_file(place.object(digest)).unwrap();
    let problems = place.of_store();
    let size = fs::metadata(&wrong_root).unwrap().len();
    let mut expected = [
        (ProblemKind::Missing, Thing::Object, place.object(digest), 1),
        (ProblemKind::Damaged, Thing::Manifest, manifest(&empty), 0),
        (ProblemKind::Damaged, Thing::Manifest, manifest(&cut), 8),
        (ProblemKind::Unreadable, Thing::Artifact, root, 0),
        (ProblemKind::Stray, Thing::Other, wrong_root, size),
    ];
    expected.sort_by(|a, b| a.2.cmp(&b.2));
    assert_eq!(facts(&problems), expected);
    let reason = |path: &Path| &problems.iter().find(|one| Path::new(&one.path) == path).unwrap().reason;
    assert!(reason(&manifest(&empty)).contains("power cut"), "{problems:?}");
    // What the two need is not known, so nothing is collected; the error says which it is and the way out.
    let error = gc(&place.store(), Duration::ZERO, false, &Progress::default()).unwrap_err();
    assert!(error.message.contains("cannot be reached") && error.hint.is_some(), "{error}");
    fs::create_dir(place.path("away")).unwrap();
    let error = gc(&place.store(), Duration::ZERO, false, &Progress::default()).unwrap_err();
    assert!(error.message.contains(manifest(&cut).to_str().unwrap()) && error.hint.is_some(), "{error}");
}

#[test]
fn files_of_an_artifact_are_missing_damaged_or_strays() {
    let place = Place::new();
    for (name, size) in [("gone", 1), ("cut", 20), ("other", 300_000), ("pipe", 5), ("large", 17 << 20), ("good", 6)] {
        place.write(name, &bytes(size as u64, size));
    }
    fs::create_dir_all(place.path("source/d/e")).unwrap();
    fs::write(place.path("source/d/moved"), b"moved").unwrap();
    place.add_to(&place.artifact(), Some(LinkMode::Copy));
    place.assert_clean();
    let at = |name: &str| place.path("artifacts/x").join(name);
    fs::remove_file(at("gone")).unwrap();
    fs::write(at("cut"), b"cut").unwrap();
    fs::write(at("other"), bytes(0, 300_000)).unwrap();
    let mut large = bytes(17 << 20, 17 << 20);
    large[16 << 20] ^= 1;
    fs::write(at("large"), large).unwrap();
    fs::remove_file(at("pipe")).unwrap();
    fs::create_dir(at("pipe")).unwrap();
    fs::write(at("pipe/new"), b"new").unwrap();
    fs::write(at("d/-"), b"").unwrap();
    symlink("/nowhere", at("link")).unwrap();
    fs::remove_dir(at("d/e")).unwrap();
    // A directory may lie elsewhere; `.artifact` is ours.
    fs::rename(at("d"), place.path("elsewhere")).unwrap();
    symlink(place.path("elsewhere"), at("d")).unwrap();
    fs::write(at(".artifact/metadata.json"), b"{}").unwrap();
    let mut expected = [
        (ProblemKind::Missing, Thing::File, at("gone"), 1),
        (ProblemKind::Missing, Thing::File, at("d/e"), 0),
        (ProblemKind::Damaged, Thing::File, at("cut"), 3),
        (ProblemKind::Damaged, Thing::File, at("other"), 300_000),
        (ProblemKind::Damaged, Thing::File, at("large"), 17 << 20),
        (ProblemKind::Damaged, Thing::File, at("pipe"), 0),
        (ProblemKind::Stray, Thing::File, at("pipe/new"), 3),
        (ProblemKind::Stray, Thing::File, at("link"), 8),
    ];
    expected.sort_by(|a, b| a.2.cmp(&b.2));
    assert_eq!(facts(&place.of_artifact()), expected);
    assert_eq!(place.of_store(), []);
    assert!(at("pipe/new").exists() && at("link").is_symlink());
}

#[test]
fn object_is_looked_at_again_when_its_size_mode_or_time_alone_is_another() {
    let place = Place::new();
    let content = bytes(1, 300_000);
    let (digest, store) = (place.write("a", &content), place.store());
    place.add();
    let (object, size) = (place.object(digest), content.len() as u64);
    let sealed = fs::metadata(&object).unwrap().modified().unwrap();
    let presence = || store.presence(digest, size).unwrap();
    assert_eq!(presence(), Presence::Sealed);
    // The bytes are right: it is used, and sealed again.
    for touch in [&|| fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap() as _, &|| {
        set_mtime(&object, sealed + Duration::from_nanos(1))
    }] as [&dyn Fn(); 2]
    {
        touch();
        assert_eq!(presence(), Presence::Suspect);
        place.assert_clean();
        assert_eq!(presence(), Presence::Suspect, "a verification changes nothing");
        assert!(store.usable(digest, size).unwrap());
        assert_eq!((presence(), fs::metadata(&object).unwrap().mode() & 0o777), (Presence::Sealed, 0o444));
    }
    // Another size alone, with the time as it was: it is wrong, and stored anew.
    let sealed = fs::metadata(&object).unwrap().modified().unwrap();
    overwrite(&object, &content[..299_999]);
    set_mtime(&object, sealed);
    assert_eq!(presence(), Presence::Suspect);
    place.add();
    assert_eq!((presence(), fs::read(&object).unwrap() == content), (Presence::Sealed, true));
    assert_eq!(fs::read_dir(place.path("store/trash")).unwrap().count(), 1);
    // Who puts size, mode and time back is believed until everything is hashed.
    let mut other = content.clone();
    other[7] ^= 1;
    let sealed = fs::metadata(&object).unwrap().modified().unwrap();
    overwrite(&object, &other);
    set_mtime(&object, sealed);
    assert_eq!(presence(), Presence::Sealed);
    assert_eq!(facts(&place.of_store()), [(ProblemKind::Damaged, Thing::Object, object.clone(), size)]);
    assert_eq!(files(&place.of_store()), ["a"]);
    fs::remove_file(&object).unwrap();
    place.add();
    place.assert_clean();
}

#[test]
fn objects_that_no_manifest_names_are_hashed_too() {
    let place = Place::new();
    let digests = [place.write("a", &bytes(1, 10)), place.write("b", &bytes(2, 17 << 20))];
    place.add();
    fs::remove_dir_all(place.path("artifacts/x")).unwrap();
    for digest in digests {
        let size = fs::metadata(place.object(digest)).unwrap().len() as usize;
        overwrite(&place.object(digest), &bytes(3, size));
    }
    let mut expected = digests.map(|digest| {
        let bytes = fs::metadata(place.object(digest)).unwrap().len();
        (ProblemKind::Damaged, Thing::Object, place.object(digest), bytes)
    });
    expected.sort_by(|a, b| a.2.cmp(&b.2));
    assert_eq!(facts(&place.of_store()), expected);
    assert!(expected[0].2.ends_with(relative_path(digests[0])) || expected[1].2.ends_with(relative_path(digests[0])));
}
