//! Errors of the engine.
//!
//! Rules: an error names the thing, the operation and, where there is one, the way out (`hint`).
//! [`Kind`] is what a caller handles; its names are stable and the same in Python and on the wire.

use std::{fmt, io, path::Path};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What kind of failure it is: decides which exception Python raises.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind, for the test that keeps Rust, Python and the protocol equal.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// The stable name, as JSON and Python spell it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// The caller asked for something that cannot be done (a bad path, a bad value).
    InvalidInput = "invalid_input",
    /// A path, artifact or object is not there.
    NotFound = "not_found",
    /// Somebody else changed the same thing, or a source changed while it was read.
    Conflict = "conflict",
    /// Bytes do not match their digest or checksum.
    Integrity = "integrity",
    /// The operating system refused: disk full, no permission, input/output error.
    Store = "store",
    /// The caller cancelled the call (Ctrl-C).
    Cancelled = "cancelled",
}

/// A failure with its kind, a message and perhaps a hint and the operating system's error number.
#[derive(Debug)]
pub struct Error {
    /// What the caller handles.
    pub kind: Kind,
    /// What happened to what.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// `errno`, when the operating system refused.
    pub errno: Option<i32>,
}

/// `Result` with the engine's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, errno: None }
    }

    /// The caller asked for something that cannot be done.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidInput, message)
    }

    /// Bytes are not what their name or checksum says.
    pub fn integrity(message: impl Into<String>) -> Self {
        Self::new(Kind::Integrity, message)
    }

    /// The operating system refused `operation` on `path`.
    pub fn io(operation: &str, path: &Path, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Store,
        };
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Some("free some space (`em gc` removes objects that no artifact uses) and try again".to_owned())
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                Some("raise the limit of open files (`ulimit -n`)".to_owned())
            }
            _ => None,
        };
        Self {
            kind,
            message: format!("cannot {operation} {}: {error}", path.display()),
            hint,
            errno: error.raw_os_error(),
        }
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
