//! The engine of the artifact store: everything that touches bytes.
//!
//! The modules follow the way of the data: [`scan`] lists a tree, [`stat_cache`] answers for files
//! that did not change, [`ingest`] reads the others once (hash, chunk, write), [`store`] keeps the
//! objects and links them, [`manifest`] names the result, [`add`] runs all of it. On the way to another machine
//! [`pack`] takes chunks there and puts objects together, and [`materialize`] makes an artifact of them.
//!
//! No thread outlives a call and no state is global, so a forked child can use the engine at once.
#![warn(missing_docs)]

pub mod add;
pub mod artifact;
mod buffer;
pub mod cancel;
pub mod chunk;
pub mod diff;
pub mod digest;
pub mod error;
pub mod gc;
pub mod ingest;
pub mod intent;
pub mod manifest;
pub mod materialize;
pub mod metrics;
pub mod names;
pub mod pack;
mod parallel;
pub mod scan;
pub mod spool;
pub mod stat_cache;
pub mod store;
mod tally;
pub mod verify;

pub use digest::Digest;
pub use error::{Error, Kind, Result};
