//! What `gc` may delete, and what it must not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use em_core::{
    Digest, Kind,
    add::Add,
    artifact::ArtifactDir,
    cancel::Progress,
    gc::{Reclaimed, gc, register_root},
    stat_cache::StatCache,
    store::{Boot, Store, leases::Lease, objects::Presence},
    verify::Verify,
};

const HOUR: Duration = Duration::from_secs(3600);

fn store(dir: &Path) -> Store {
    Store::open(&dir.join("em/store")).unwrap()
}

/// Makes an artifact at `path` below `dir` that holds one file with `text`.
fn add(dir: &Path, path: &str, text: &str) -> PathBuf {
    let root = dir.join(path);
    let artifact = ArtifactDir::create(&root).unwrap();
    let source = dir.join(format!("source-{}", path.replace('/', "-")));
    fs::write(&source, text).unwrap();
    let (store, cache, progress) = (store(dir), StatCache::open(&dir.join("cache")), Progress::default());
    let add =
        Add { store: &store, artifact: &artifact, cache: &cache, progress: &progress, threads: 1, chunk_tables: true };
    add.file(&source, "file").unwrap();
    root
}

fn run(dir: &Path, grace: Duration) -> Reclaimed {
    gc(&store(dir), grace, false, &Progress::default()).unwrap()
}

fn has(dir: &Path, text: &str) -> bool {
    store(dir).presence(Digest::of(text.as_bytes()), text.len() as u64).unwrap() == Presence::Sealed
}

#[test]
fn deleting_an_artifact_makes_its_objects_reclaimable() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    add(dir, "em/artifacts/kept", "kept");
    fs::remove_dir_all(add(dir, "em/artifacts/gone", "gone")).unwrap();
    let planned = gc(&store(dir), Duration::ZERO, true, &Progress::default()).unwrap();
    assert_eq!((planned.unreachable_objects, planned.unreachable_bytes, planned.deleted_objects), (1, 4, 0));
    assert!(has(dir, "gone"), "a dry run changes nothing");
    let done = run(dir, Duration::ZERO);
    assert_eq!((done.deleted_objects, done.freed_bytes), (1, 4096));
    assert!(has(dir, "kept") && !has(dir, "gone"));
    assert_eq!(run(dir, Duration::ZERO), Reclaimed::default());
}

#[test]
fn condemned_object_answers_missing_and_is_deleted_only_after_the_grace_period() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::remove_dir_all(add(dir, "em/artifacts/a", "text")).unwrap();
    assert_eq!(run(dir, HOUR).deleted_objects, 0);
    assert!(!has(dir, "text"));
    assert_eq!(run(dir, HOUR).deleted_objects, 0);
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 1);
}

#[test]
fn condemned_object_that_a_manifest_names_is_restored() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let artifact = add(dir, "em/artifacts/a", "text");
    let aside = dir.join("aside");
    fs::rename(&artifact, &aside).unwrap();
    run(dir, HOUR);
    assert!(!has(dir, "text"));
    fs::rename(&aside, &artifact).unwrap();
    run(dir, Duration::ZERO);
    assert!(has(dir, "text"));
}

#[test]
fn lease_keeps_everything() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::remove_dir_all(add(dir, "em/artifacts/a", "text")).unwrap();
    let lease = Lease::take(&store(dir)).unwrap();
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 0);
    assert!(has(dir, "text"));
    drop(lease);
    // What a process of an earlier boot leaves does not count. If it wrote in this boot, it is on another host of the name.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    let dead = dir.join("em/store/leases/dead");
    fs::write(&dead, format!("{} other-boot {} 1 1", host.trim(), namespace.display())).unwrap();
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 0);
    let earlier = SystemTime::UNIX_EPOCH + Duration::from_secs(Boot::current().began_s as u64 - 1);
    fs::File::options().write(true).open(&dead).unwrap().set_modified(earlier).unwrap();
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 1);
    assert!(!dead.exists());
}

#[test]
fn lease_of_another_host_or_container_counts_while_it_is_renewed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::remove_dir_all(add(dir, "em/artifacts/a", "text")).unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let lease = dir.join("em/store/leases/foreign");
    let here = format!("{} {} pid:[1] 1 1", host.trim(), boot.trim());
    for owner in [here.as_bytes(), b"other boot pid:[1] 1 1", b"?", b"\xff"] {
        fs::write(&lease, owner).unwrap();
        assert_eq!(run(dir, Duration::ZERO).deleted_objects, 0);
    }
    let stale = SystemTime::now() - 2 * HOUR;
    fs::File::options().write(true).open(&lease).unwrap().set_modified(stale).unwrap();
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 1);
    assert!(!lease.exists());
}

#[test]
fn table_without_an_object_is_a_leftover() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let text = "line\n".repeat(100_000);
    add(dir, "em/artifacts/a", &text);
    let table = |content: &str| {
        let hex = Digest::of(content.as_bytes()).to_string();
        dir.join("em/store/chunks").join(&hex[..2]).join(&hex[2..])
    };
    fs::create_dir_all(table("gone").parent().unwrap()).unwrap();
    fs::copy(table(&text), table("gone")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    run(dir, HOUR);
    assert!(table("gone").exists());
    run(dir, Duration::ZERO);
    assert!(!table("gone").exists() && table(&text).exists());
}

#[test]
fn table_of_a_condemned_object_stays_as_long_as_that() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let text = "line\n".repeat(100_000);
    fs::remove_dir_all(add(dir, "em/artifacts/a", &text)).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    // The table is older than the grace period, which for the object begins now.
    let grace = Duration::from_millis(150);
    assert_eq!(run(dir, grace).deleted_objects, 0);
    assert!(store(dir).has_table(Digest::of(text.as_bytes())));
    std::thread::sleep(Duration::from_millis(200));
    let done = run(dir, grace);
    assert_eq!((done.deleted_objects, done.freed_bytes), (1, done.reclaimable_bytes));
    assert!(!store(dir).has_table(Digest::of(text.as_bytes())));
}

#[test]
fn artifact_elsewhere_is_a_root_until_it_is_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let artifact = add(dir, "elsewhere/deep/a", "text");
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 0);
    // Its parent is gone too: perhaps a file system that is not mounted.
    fs::rename(dir.join("elsewhere"), dir.join("unmounted")).unwrap();
    let error = gc(&store(dir), Duration::ZERO, false, &Progress::default()).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(has(dir, "text"));
    fs::rename(dir.join("unmounted"), dir.join("elsewhere")).unwrap();
    fs::remove_dir_all(artifact).unwrap();
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 1);
}

#[test]
fn root_that_is_mounted_elsewhere_now_counts_until_an_add_says_where() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let artifact = add(dir, "elsewhere/a", "text");
    let root = fs::read_dir(dir.join("em/store/roots")).unwrap().next().unwrap().unwrap().path();
    let (record, aside) = (fs::read(&root).unwrap(), dir.join("aside"));
    let path = record.split(|&byte| byte == 0).next().unwrap().to_owned();
    fs::write(&root, [&path[..], b"\0/another"].concat()).unwrap();
    assert_eq!(run(dir, Duration::ZERO), Reclaimed::default(), "it is there");
    fs::rename(&artifact, &aside).unwrap();
    for found in [false, true] {
        // Whatever is at its path now.
        if found {
            fs::create_dir(&artifact).unwrap();
        }
        let error = gc(&store(dir), Duration::ZERO, false, &Progress::default()).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.hint.unwrap().contains(root.to_str().unwrap()));
    }
    fs::remove_dir(&artifact).unwrap();
    fs::rename(&aside, &artifact).unwrap();
    register_root(&store(dir), &artifact).unwrap();
    assert_eq!(fs::read(&root).unwrap(), record);
    // As an older version wrote it.
    fs::write(&root, path).unwrap();
    assert_eq!(run(dir, Duration::ZERO), Reclaimed::default());
    fs::remove_dir_all(artifact).unwrap();
    assert_eq!(run(dir, Duration::ZERO).deleted_objects, 1);
}

#[test]
fn what_cannot_be_reached_is_not_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    add(dir, "em/artifacts/a", "text");
    let elsewhere = add(dir, "elsewhere/b", "other text");
    for path in [dir.join("em/artifacts"), dir.join("em/artifacts/a"), elsewhere] {
        let aside = dir.join("aside");
        fs::rename(&path, &aside).unwrap();
        // A link into a file system that is not mounted, and a look that fails otherwise.
        for target in [&dir.join("unmounted"), &path] {
            symlink(target, &path).unwrap();
            gc(&store(dir), Duration::ZERO, false, &Progress::default()).unwrap_err();
            fs::remove_file(&path).unwrap();
        }
        fs::rename(&aside, &path).unwrap();
        assert!(has(dir, "text") && has(dir, "other text"), "{}", path.display());
    }
    assert_eq!(run(dir, Duration::ZERO), Reclaimed::default());
}

#[test]
fn damaged_manifest_stops_gc() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let artifact = add(dir, "em/artifacts/a", "text");
    fs::write(artifact.join(".artifact/manifest-0000000009"), b"garbage").unwrap();
    assert_eq!(gc(&store(dir), Duration::ZERO, false, &Progress::default()).unwrap_err().kind, Kind::Integrity);
    assert!(has(dir, "text"));
}

#[test]
fn temporary_files_of_crashes_are_removed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    add(dir, "em/artifacts/a", "text");
    let leftover = dir.join("em/store/objects").join(&Digest::of(b"text").to_string()[..2]).join(".tmp-1");
    fs::write(&leftover, b"half").unwrap();
    run(dir, HOUR);
    assert!(leftover.exists(), "it may belong to an add");
    // Longer than a tick of the file system's clock: what is as new as the run itself stays.
    std::thread::sleep(Duration::from_millis(20));
    run(dir, Duration::ZERO);
    assert!(!leftover.exists());
}

#[test]
fn gc_beside_running_adds_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                run(dir, Duration::ZERO);
            }
        });
        let adders: Vec<_> = (0..3)
            .map(|thread| {
                scope.spawn(move || {
                    for i in 0..60 {
                        // Half of the artifacts go away again, and their content comes back with the next ones.
                        let artifact = add(dir, &format!("em/artifacts/{thread}-{i}"), &format!("content {}", i % 7));
                        if i % 2 == 0 {
                            fs::remove_dir_all(artifact).unwrap();
                        }
                    }
                })
            })
            .collect();
        let added: Vec<_> = adders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        assert!(added.iter().all(Result::is_ok));
    });
    run(dir, Duration::ZERO);
    for artifact in fs::read_dir(dir.join("em/artifacts")).unwrap() {
        let artifact = ArtifactDir::open(&artifact.unwrap().path()).unwrap();
        let report =
            Verify { store: &store(dir), progress: &Progress::default(), threads: 2 }.artifact(&artifact).unwrap();
        assert!(report.is_clean(), "{:?}", report.problems().collect::<Vec<_>>());
    }
}
