//! The store without Python: adds a directory to an artifact, lists it and verifies it.
//!
//! ```text
//! cargo run --release -p em-core --example add -- DIRECTORY STORE ARTIFACT
//! ```

use std::{env, path::Path, process::ExitCode, thread};

use em_core::{
    Result, add::Add, artifact::ArtifactDir, cancel::Progress, stat_cache::StatCache, store::Store, verify::Verify,
};

fn run(source: &Path, store: &Path, artifact: &Path) -> Result<bool> {
    let store = Store::open(store)?;
    let artifact = ArtifactDir::open(artifact).or_else(|_| ArtifactDir::create(artifact))?;
    // An add that was killed may have left links behind.
    let progress = Progress::default();
    artifact.recover(&store, &progress)?;
    let cache = StatCache::open(&store.root().join("../stat-cache"));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let add =
        Add { store: &store, artifact: &artifact, cache: &cache, progress: &progress, threads, chunk_tables: true };
    let added = add.dir(source, "")?;
    println!("{} files, {} bytes; {} bytes were new", added.files, added.bytes, added.new_bytes);

    let (_, manifest) = artifact.manifest()?;
    for file in manifest.files() {
        let (path, size, digest, _) = file?;
        println!("{digest} {size:>12} {path}");
    }
    let report = Verify { store: &store, progress: &Progress::default(), threads: 2 }.artifact(&artifact)?;
    for problem in report.problems() {
        let problem = problem?;
        println!("{}: {}", problem.kind.as_str(), problem.path);
    }
    println!("version {}, {} objects verified", manifest.digest(), report.objects);
    Ok(report.is_clean())
}

fn main() -> ExitCode {
    let paths: Vec<_> = env::args_os().skip(1).collect();
    let [source, store, artifact] = paths.as_slice() else {
        eprintln!("usage: add DIRECTORY STORE ARTIFACT");
        return ExitCode::from(2);
    };
    match run(source.as_ref(), store.as_ref(), artifact.as_ref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
