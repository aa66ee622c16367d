//! Directories from manifests: whole or not at all, whatever is in the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use em_core::{
    Digest, Error, Kind,
    artifact::ArtifactDir,
    cancel::Progress,
    gc::gc,
    manifest::{Entry, EntryKind, Manifest, Reference},
    materialize::{self, Materialize},
    store::{
        Store,
        link::{LinkMode, Linked},
        objects::{Presence, relative_path},
    },
    verify::Verify,
};

/// A store beside `artifacts/`, with some objects.
struct Place {
    directory: tempfile::TempDir,
    store: Store,
}

fn put(store: &Store, bytes: &[u8]) -> Digest {
    use std::os::unix::fs::FileExt;
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    let temp = store.new_object(Some(digest)).unwrap();
    temp.file().write_all_at(bytes, 0).unwrap();
    temp.publish_object(digest, size, 1_000_000_000).unwrap();
    digest
}

fn file(path: &str, bytes: &[u8], executable: bool) -> Entry {
    let (size, digest) = (bytes.len() as u64, Digest::of(bytes));
    Entry { path: path.into(), kind: EntryKind::File { size, digest, executable } }
}

fn manifest(entries: impl IntoIterator<Item = Entry>) -> Manifest<'static> {
    Manifest::default().with(entries).unwrap()
}

fn entries() -> Vec<Entry> {
    let uri = Reference { uri: "s3://bucket/key".into(), size: Some(7), etag: None, digest: None };
    vec![
        file("a/b/one", b"one", false),
        file("a/run", b"#!", true),
        file("again", b"one", false),
        file("empty", b"", false),
        Entry { path: "nothing/here".into(), kind: EntryKind::Directory },
        Entry { path: "far/away".into(), kind: EntryKind::Reference(Box::new(uri)) },
    ]
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        for bytes in [&b"one"[..], b"#!", b"", b"two"] {
            put(&store, bytes);
        }
        Self { directory, store }
    }

    fn artifacts(&self) -> PathBuf {
        self.directory.path().join("artifacts")
    }

    fn target(&self) -> PathBuf {
        self.artifacts().join("x")
    }

    fn call(&self, target: &Path, manifest: &Manifest, link_mode: Option<LinkMode>) -> Result<Linked, Error> {
        let (store, progress) =
            (Store::open(self.store.root()).unwrap().with_link_mode(link_mode), Progress::default());
        let call = Materialize { store: &store, progress: &progress, threads: 2 };
        call.artifact(target, manifest, Some(b"{}"))
    }

    fn refused(&self, manifest: &Manifest, kind: Kind) -> Error {
        let error = self.call(&self.target(), manifest, None).expect_err("refused");
        assert_eq!(error.kind, kind, "{error}");
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
        error
    }

    /// Temporary names and leases that a call left.
    fn leftovers(&self) -> Vec<PathBuf> {
        let listed = |path: PathBuf| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
        let building = listed(self.artifacts()).filter(|path| path.to_string_lossy().contains("/.tmp-"));
        building.chain(listed(self.store.root().join("leases"))).collect()
    }
}

#[test]
fn every_entry_is_made_in_every_link_mode() {
    for mode in [None, Some(LinkMode::Hardlink), Some(LinkMode::Copy)] {
        let place = Place::new();
        let (target, manifest) = (place.target(), manifest(entries()));
        let linked = place.call(&target, &manifest, mode).unwrap();
        let artifact = ArtifactDir::open(&target).unwrap();
        assert_eq!(artifact.manifest().unwrap(), (1, manifest));
        assert_eq!(fs::read(target.join("a/b/one")).unwrap(), b"one");
        assert_eq!(fs::read(target.join("again")).unwrap(), b"one");
        assert_eq!(fs::metadata(target.join("empty")).unwrap().len(), 0);
        assert_eq!(fs::metadata(target.join("a/run")).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(target.join("nothing/here").is_dir() && !target.join("far").exists());
        assert_eq!(fs::read(target.join(".artifact/metadata.json")).unwrap(), b"{}");
        assert_eq!(fs::read_dir(target.join(".artifact")).unwrap().count(), 2);
        let same = fs::metadata(target.join("again")).unwrap().ino()
            == fs::metadata(place.store.object_path(Digest::of(b"one"))).unwrap().ino();
        assert_eq!(same, mode == Some(LinkMode::Hardlink) || mode.is_none() && same);
        let Linked { reflinks, hardlinks, copies, copied_bytes, fell_to_copies } = linked;
        assert_eq!((reflinks + hardlinks + copies, fell_to_copies), (4, false), "{linked:?}");
        let expected = match mode {
            Some(LinkMode::Hardlink) => (0, 2, 2),
            Some(_) => (0, 0, 8),
            None => (reflinks, hardlinks, copied_bytes),
        };
        assert_eq!((reflinks, hardlinks, copied_bytes), expected);
        let verify = Verify { store: &place.store, progress: &Progress::default(), threads: 2 };
        assert!(verify.artifact(&artifact).unwrap().is_clean());
        assert!(place.leftovers().is_empty());
        // The artifact keeps its objects; "two" is in none.
        let done = gc(&place.store, Duration::ZERO, false, &Progress::default()).unwrap();
        assert_eq!(done.deleted_objects, 1);
    }
}

#[test]
fn an_artifact_elsewhere_is_a_root_before_it_is_there() {
    let place = Place::new();
    let target = place.directory.path().join("new/else/where");
    place.call(&target, &manifest(entries()), None).unwrap();
    let root = fs::read_dir(place.store.root().join("roots")).unwrap().next().unwrap().unwrap().path();
    let record = fs::read_to_string(root).unwrap();
    let (path, mounted) = record.split_once('\0').unwrap();
    assert_eq!(Path::new(path), target.canonicalize().unwrap());
    assert!(Path::new(path).starts_with(mounted) && mounted.starts_with('/'));
    gc(&place.store, Duration::ZERO, false, &Progress::default()).unwrap();
    assert!(place.store.usable(Digest::of(b"one"), 3).unwrap());
}

#[test]
fn what_is_in_the_way_stays_and_is_named() {
    let (one, two) = (manifest([file("f", b"one", false)]), manifest([file("f", b"two", false)]));
    let place = Place::new();
    let target = place.target();
    fs::create_dir_all(&target).unwrap();
    place.call(&target, &one, None).unwrap();
    // The same once more, even if a file was edited meanwhile; another content never.
    fs::remove_file(target.join("f")).unwrap();
    place.call(&target, &one, None).unwrap();
    assert!(!target.join("f").exists());
    assert!(place.refused(&two, Kind::Conflict).message.contains("artifacts/x"));

    for (make, named) in [
        (&(|path: &Path| fs::write(path, b"mine")) as &dyn Fn(&Path) -> _, "no directory"),
        (&|path| symlink("nowhere", path), "no directory"),
        (&|path| fs::create_dir(path).and_then(|()| symlink("..", path.join("link"))), "not empty"),
        (&|path| fs::create_dir_all(path.join(".artifact")), "not empty"),
    ] {
        let place = Place::new();
        fs::create_dir(place.artifacts()).unwrap();
        make(&place.target()).unwrap();
        assert!(place.refused(&one, Kind::Conflict).message.contains(named));
        assert!(place.target().symlink_metadata().is_ok());
    }
}

#[test]
fn a_missing_or_damaged_object_is_named_and_nothing_appears() {
    let place = Place::new();
    let error = place.refused(&manifest([file("f", b"one", false), file("g", b"gone", false)]), Kind::NotFound);
    assert!(error.message.contains(&Digest::of(b"gone").to_string()));
    let path = place.store.object_path(Digest::of(b"one"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"0ne").unwrap();
    let error = place.refused(&manifest([file("f", b"one", false)]), Kind::Integrity);
    assert!(error.message.contains("is now in trash/") && error.hint.is_some_and(|hint| hint.contains("load")));
    assert!(!path.exists() && !place.target().exists());
    // Another size is another object.
    let lie = EntryKind::File { size: 4, digest: Digest::of(b"two"), executable: false };
    let lie = Entry { path: "f".into(), kind: lie };
    let object = place.store.object_path(Digest::of(b"two"));
    place.refused(&manifest([lie.clone()]), Kind::NotFound);
    assert!(object.exists() && !place.target().exists());
    let both = manifest([file("g", b"two", false), lie]);
    assert_eq!(both.objects(&Progress::default()).expect_err("two sizes").kind, Kind::Integrity);
}

#[test]
fn a_cancelled_call_leaves_nothing() {
    let place = Place::new();
    let progress = Progress::default();
    progress.cancel();
    let call = Materialize { store: &place.store, progress: &progress, threads: 1 };
    let error = call.artifact(&place.target(), &manifest(entries()), None).expect_err("cancelled");
    assert_eq!((error.kind, place.target().exists()), (Kind::Cancelled, false));
    assert!(place.leftovers().is_empty());
}

/// Directories as killed calls leave them, and others of their name.
#[test]
fn leftovers_of_the_dead_are_removed_and_nothing_else() {
    let place = Place::new();
    let name = |digit: char| place.artifacts().join(format!(".tmp-{}", digit.to_string().repeat(32)));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    let dead = format!("{host} {} {} 4194305 1", boot.trim(), namespace.display());
    let intent = |path: &Path, owner: &str| {
        fs::create_dir_all(path.join(".artifact")).unwrap();
        fs::create_dir_all(path.join("a")).unwrap();
        fs::write(path.join(".artifact/intent-0"), owner).unwrap();
        symlink("/", path.join("a/link")).unwrap();
    };
    intent(&name('1'), &dead);
    intent(&name('2'), "another host");
    let old = SystemTime::now() - Duration::from_secs(7200);
    for digit in ['3', '4'] {
        fs::create_dir_all(name(digit)).unwrap();
    }
    fs::File::open(name('3')).unwrap().set_modified(old).unwrap();
    let theirs = place.artifacts().join(".tmp-of-a-user");
    intent(&theirs, &dead);
    fs::write(name('5'), b"a file").unwrap();

    place.call(&place.target(), &manifest(entries()), None).unwrap();
    let left = ['1', '2', '3', '4', '5'].map(|digit| name(digit).exists());
    assert_eq!(left, [false, true, false, true, true]);
    assert!(theirs.exists());
    intent(&name('1'), &dead);
    gc(&place.store, Duration::ZERO, false, &Progress::default()).unwrap();
    assert!(!name('1').exists() && name('2').exists());
}

#[test]
fn one_entry_is_linked_below_a_directory_through_no_link() {
    let place = Place::new();
    let (root, elsewhere) = (place.directory.path().join("root"), place.directory.path().join("elsewhere"));
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(&elsewhere).unwrap();
    let entry = |path: &str, bytes: &[u8], executable| {
        materialize::entries(&place.store, &root, &[(path, Digest::of(bytes), executable)], &Progress::default())
    };
    entry("a/b/f", b"one", false).unwrap();
    entry("a/b/f", b"two", true).unwrap();
    assert_eq!(fs::read(root.join("a/b/f")).unwrap(), b"two");
    assert_eq!(fs::metadata(root.join("a/b/f")).unwrap().permissions().mode() & 0o111, 0o111);
    symlink(&elsewhere, root.join("out")).unwrap();
    symlink(elsewhere.join("f"), root.join("link")).unwrap();
    assert_eq!(entry("out/f", b"one", false).expect_err("a link").kind, Kind::InvalidInput);
    entry("link", b"one", false).unwrap();
    assert!(root.join("link").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    for path in ["", "/f", "../f", "a/../../f", "a//f", ".artifact/f", "a/./f", "nul\0"] {
        assert_eq!(entry(path, b"one", false).expect_err(path).kind, Kind::InvalidInput, "{path:?}");
    }
    assert_eq!(entry("gone", b"gone", false).expect_err("gone").kind, Kind::NotFound);
    assert_eq!(fs::read_dir(root.join("a/b")).unwrap().count(), 1);
}

#[test]
fn a_range_is_read_as_far_as_the_object_reaches() {
    let place = Place::new();
    let range = |bytes: &[u8], offset, length| place.store.read_range(Digest::of(bytes), offset, length);
    assert_eq!(range(b"two", 1, 1).unwrap(), b"w");
    assert_eq!(range(b"two", 1, u64::MAX).unwrap(), b"wo");
    assert_eq!(range(b"two", u64::MAX, u64::MAX).unwrap(), b"");
    assert_eq!(range(b"", 0, 5).unwrap(), b"");
    assert_eq!(range(b"gone", 0, 1).expect_err("gone").kind, Kind::NotFound);
    let path = place.store.object_path(Digest::of(b"two"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"twO").unwrap();
    assert_eq!(range(b"two", 0, 3).expect_err("damaged").kind, Kind::Integrity);
    assert_eq!(place.store.presence(Digest::of(b"two"), 3).unwrap(), Presence::Missing);
    assert!(!place.store.root().join("objects").join(relative_path(Digest::of(b"two"))).exists());
}
