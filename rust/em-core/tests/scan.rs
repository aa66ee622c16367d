//! Listing a tree: what is found, what is followed, what is refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink, net::UnixListener},
    path::Path,
    sync::atomic::Ordering::Relaxed,
};

use em_core::{
    Error, Kind, Result,
    cancel::Progress,
    names::MAX_PATH_BYTES,
    scan::{FileFound, Listing, Row, Stat, scan, stat_file},
    spool::Room,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use tempfile::TempDir;

fn tree(files: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    dir
}

/// Scans with one thread, with four, and with four in parts of a few files, which must agree.
fn list(root: &Path) -> Result<Listing> {
    let rest = TempDir::new().unwrap();
    let [large, small] = [1 << 20, 200].map(|held_bytes| Room::of_bytes(rest.path(), held_bytes));
    let one = scan(root, &large, 1, &Progress::default());
    for other in [scan(root, &large, 4, &Progress::default()), scan(root, &small, 4, &Progress::default())] {
        match (&one, &other) {
            (Ok(a), Ok(b)) => {
                assert_eq!((files(a), empty(a)), (files(b), empty(b)));
                assert_eq!((a.len(), a.bytes()), (b.len(), b.bytes()));
                let parts: Vec<_> = b.parts().map(|part| part.unwrap().into_owned()).collect();
                let paths = parts.iter().flat_map(|part| (0..part.len()).map(|index| part.path(index)));
                assert!(paths.eq(a.rows().map(|row| row.unwrap().path)));
            }
            (Err(a), Err(b)) => assert_eq!(a.kind, b.kind),
            _ => panic!("they disagree: {one:?} {other:?}"),
        }
    }
    assert_eq!(fs::read_dir(rest.path()).unwrap().count(), 0, "the file for the rest has no name");
    one
}

fn files(listing: &Listing) -> Vec<FileFound> {
    listing.rows().filter_map(|row| row.unwrap().into_file()).collect()
}

fn empty(listing: &Listing) -> Vec<String> {
    listing.rows().map(Result::unwrap).filter(Row::is_directory).map(|row| row.path).collect()
}

fn refused(root: &Path) -> Error {
    list(root).unwrap_err()
}

fn paths(tree: &Listing) -> Vec<String> {
    files(tree).into_iter().map(|file| file.path).collect()
}

fn found(tree: &Listing, path: &str) -> FileFound {
    files(tree).into_iter().find(|file| file.path == path).unwrap()
}

#[test]
fn test_scan_sorts_by_path_bytes_and_sets_totals() {
    let dir = tree(&["b", "a/z", "a.txt", "a/b/c", "é", "Z"]);
    fs::create_dir_all(dir.path().join("empty/inner")).unwrap();
    let progress = Progress::default();
    let tree = scan(dir.path(), &Room::new(dir.path()), 2, &progress).unwrap();
    assert_eq!(paths(&tree), ["Z", "a.txt", "a/b/c", "a/z", "b", "é"]);
    assert_eq!(empty(&tree), ["empty/inner"]);
    assert_eq!(progress.total_files.load(Relaxed), 6);
    assert_eq!(progress.total_bytes.load(Relaxed), 1 + 5 + 5 + 3 + 1 + 2);
    assert_eq!(paths(&list(dir.path()).unwrap()), paths(&tree));
}

#[test]
fn test_scan_empty_root_is_the_empty_path() {
    let dir = TempDir::new().unwrap();
    let tree = list(dir.path()).unwrap();
    assert!(tree.is_empty());
    assert_eq!(empty(&tree), [""]);
}

#[test]
fn test_scan_reports_executable_sparse_and_stat() {
    let dir = tree(&["run", "plain"]);
    fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::File::create(dir.path().join("holes")).unwrap().set_len(1 << 20).unwrap();
    let tree = list(dir.path()).unwrap();
    assert!(found(&tree, "run").executable && !found(&tree, "plain").executable);
    assert!(found(&tree, "holes").stat.sparse && !found(&tree, "plain").stat.sparse);
    let open = fs::File::open(dir.path().join("plain")).unwrap();
    assert_eq!(Stat::of(&open).unwrap(), found(&tree, "plain").stat);
}

#[test]
fn test_stat_differs_after_a_write_of_the_same_length() {
    let dir = tree(&["f"]);
    let before = stat_file(&dir.path().join("f")).unwrap().stat;
    std::thread::sleep(std::time::Duration::from_millis(30));
    fs::write(dir.path().join("f"), "g").unwrap();
    assert_ne!(stat_file(&dir.path().join("f")).unwrap().stat, before);
}

#[test]
fn test_scan_missing_root_is_not_found_and_file_root_is_invalid() {
    let dir = tree(&["f"]);
    assert_eq!(refused(&dir.path().join("nothing")).kind, Kind::NotFound);
    assert_eq!(refused(&dir.path().join("f")).kind, Kind::InvalidInput);
}

#[test]
fn test_scan_follows_links_to_files_and_directories_out_of_the_tree() {
    let out = tree(&["x", "d/y"]);
    let dir = tree(&["own"]);
    symlink(out.path().join("x"), dir.path().join("file")).unwrap();
    symlink(out.path().join("d"), dir.path().join("folder")).unwrap();
    let tree = list(dir.path()).unwrap();
    assert_eq!(paths(&tree), ["file", "folder/y", "own"]);
    assert!(found(&tree, "file").via_link);
    assert!(!found(&tree, "folder/y").via_link && !found(&tree, "own").via_link);
    assert_eq!(found(&tree, "file").stat.size, 1);
}

#[test]
fn test_scan_root_may_be_a_link_and_a_directory_may_be_reached_twice() {
    let dir = tree(&["r/a/f"]);
    symlink("a", dir.path().join("r/b")).unwrap();
    symlink("r", dir.path().join("root")).unwrap();
    assert_eq!(paths(&list(&dir.path().join("root")).unwrap()), ["a/f", "b/f"]);
}

#[test]
fn test_scan_loop_of_directories_names_the_link() {
    let dir = tree(&["r/a/f", "r/b/f"]);
    symlink("..", dir.path().join("r/a/up")).unwrap();
    let error = refused(&dir.path().join("r"));
    assert_eq!(error.kind, Kind::InvalidInput);
    assert!(error.message.contains("a/up "), "{error}");
}

#[test]
fn test_scan_loop_through_a_directory_above_the_root_names_the_link() {
    let dir = tree(&["r/a/f"]);
    symlink("../..", dir.path().join("r/a/above")).unwrap();
    let error = refused(&dir.path().join("r"));
    assert!(error.kind == Kind::InvalidInput && error.message.contains("r/a/above "), "{error}");
}

#[test]
fn test_scan_link_to_itself_is_refused() {
    let dir = tree(&["f"]);
    symlink("self", dir.path().join("self")).unwrap();
    let error = refused(dir.path());
    assert!(error.kind == Kind::InvalidInput && error.message.contains("self"), "{error}");
}

#[test]
fn test_scan_dangling_link_is_refused() {
    let dir = tree(&["d/f"]);
    symlink("nothing", dir.path().join("d/gone")).unwrap();
    let error = refused(dir.path());
    assert!(error.kind == Kind::InvalidInput && error.message.contains("d/gone"), "{error}");
    assert_eq!(stat_file(&dir.path().join("d/gone")).unwrap_err().kind, Kind::InvalidInput);
}

#[test]
fn test_scan_special_files_are_refused_also_through_links() {
    let dir = tree(&["f"]);
    let fifo = dir.path().join("pipe");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = refused(dir.path());
    assert!(error.kind == Kind::InvalidInput && error.message.contains("pipe is a named pipe"), "{error}");
    assert_eq!(stat_file(&fifo).unwrap_err().kind, Kind::InvalidInput);

    let dir = tree(&["f"]);
    let _socket = UnixListener::bind(dir.path().join("sock")).unwrap();
    assert!(refused(dir.path()).message.contains("sock is a socket"));

    let dir = tree(&["f"]);
    symlink("/dev/null", dir.path().join("null")).unwrap();
    assert!(refused(dir.path()).message.contains("null is a device"));
}

#[test]
fn test_scan_name_that_is_not_utf8_is_shown_escaped() {
    let dir = tree(&["d/f"]);
    let path = dir.path().join("d").join(std::ffi::OsStr::from_bytes(b"bad\xff.png"));
    fs::write(&path, "").unwrap();
    let error = refused(dir.path());
    assert!(error.kind == Kind::InvalidInput && error.message.contains(r"bad\xff.png"), "{error}");
    assert_eq!(stat_file(&path).unwrap_err().kind, Kind::InvalidInput);
}

#[test]
fn test_scan_unreadable_entries_are_store_errors() {
    if rustix::process::geteuid().is_root() {
        return; // Root may read everything.
    }
    let dir = tree(&["d/secret"]);
    let mode = |path: &str, mode| fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    mode("d/secret", 0o000);
    let file = refused(dir.path());
    mode("d/secret", 0o644);
    mode("d", 0o000);
    let folder = refused(dir.path());
    mode("d", 0o755);
    assert!(file.kind == Kind::Store && file.message.contains("d/secret"), "{file}");
    assert!(folder.kind == Kind::Store && folder.message.contains("/d"), "{folder}");
}

#[test]
fn test_scan_200_nested_directories_and_long_paths() {
    for (depth, name) in [(200, "n".to_owned()), (20, "x".repeat(199)), (60, "y".repeat(250))] {
        let dir = TempDir::new().unwrap();
        // By handles: the longer paths do not fit into one system call.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
        }
        openat(&at, "leaf", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        let listed = list(dir.path());
        if depth * (name.len() + 1) > MAX_PATH_BYTES {
            assert_eq!(listed.unwrap_err().kind, Kind::InvalidInput);
            continue;
        }
        let tree = listed.unwrap();
        assert_eq!(paths(&tree)[0], format!("{}leaf", format!("{name}/").repeat(depth)));
        assert_eq!((tree.len(), empty(&tree).len()), (1, 0));
    }
}

#[test]
fn test_scan_wide_directories_are_complete() {
    let dir = TempDir::new().unwrap();
    for i in 0..1500 {
        fs::write(dir.path().join(format!("{i:04}")), "").unwrap();
        fs::create_dir(dir.path().join(format!("d{i:04}"))).unwrap();
    }
    let tree = list(dir.path()).unwrap();
    assert_eq!(paths(&tree), (0..1500).map(|i| format!("{i:04}")).collect::<Vec<_>>());
    assert_eq!(empty(&tree).len(), 1500);
}

#[test]
fn test_scan_one_bad_entry_among_many_fails_and_ends() {
    let dir = TempDir::new().unwrap();
    for i in 0..300 {
        fs::create_dir_all(dir.path().join(format!("{i}/a/b"))).unwrap();
    }
    symlink("nothing", dir.path().join("150/a/gone")).unwrap();
    for threads in [0, 1, 2, 16] {
        let error = scan(dir.path(), &Room::new(dir.path()), threads, &Progress::default()).unwrap_err();
        assert!(error.message.contains("150/a/gone"), "{error}");
    }
}

#[test]
fn test_scan_cancelled_stops() {
    let dir = tree(&["f"]);
    let progress = Progress::default();
    progress.cancel();
    assert_eq!(scan(dir.path(), &Room::new(dir.path()), 4, &progress).unwrap_err().kind, Kind::Cancelled);
}

#[test]
fn test_stat_file_follows_links_and_refuses_directories() {
    let dir = tree(&["f"]);
    symlink("f", dir.path().join("link")).unwrap();
    let file = stat_file(&dir.path().join("f")).unwrap();
    let link = stat_file(&dir.path().join("link")).unwrap();
    assert_eq!((link.path.as_str(), link.stat, link.via_link), ("link", file.stat, true));
    assert!(!file.via_link);
    assert_eq!(stat_file(dir.path()).unwrap_err().kind, Kind::InvalidInput);
    assert_eq!(stat_file(Path::new("/")).unwrap_err().kind, Kind::InvalidInput);
    assert_eq!(stat_file(&dir.path().join("nothing")).unwrap_err().kind, Kind::NotFound);
}
