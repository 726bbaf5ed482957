//! What went wrong, in one vocabulary.
//!
//! An [`Error`] says what *kind* of thing happened ([`Kind`], which decides what
//! the caller does next), what it happened to, and what was seen. It never
//! carries a secret: URLs are stripped of credentials before they get here, and
//! header values never do.

use std::fmt;

/// What to do about an error. Every edge translates it by one exhaustive table
/// (errno for the kernel, status for HTTP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// The thing does not exist.
    NotFound,
    /// The thing exists already.
    Exists,
    /// A directory was needed.
    NotADirectory,
    /// Something other than a directory was needed.
    IsADirectory,
    /// The directory still has entries.
    NotEmpty,
    /// The name or the argument is not acceptable.
    Invalid,
    /// A name longer than 255 bytes, or a path longer than 4,096.
    NameTooLong,
    /// The caller may not do this.
    Denied,
    /// The remote refused our key.
    Unauthorized,
    /// The mount, the store or the remote is read-only.
    ReadOnly,
    /// No bytes or no inodes left, here or at the remote.
    NoSpace,
    /// Not something that this file system, remote or platform does.
    Unsupported,
    /// A precondition failed: the remote holds another version.
    Conflict,
    /// The version that was asked for is gone.
    Stale,
    /// The remote cannot be reached.
    Offline,
    /// A deadline passed.
    TimedOut,
    /// The remote asks us to slow down, or failed in a way that may pass.
    Unavailable,
    /// Bytes came that cannot be the file: short, long, wrong hash, an error page.
    Corrupt,
    /// In use.
    Busy,
    /// Given up on purpose, because something newer replaced it.
    Cancelled,
    /// The extended attribute does not exist.
    NoAttribute,
    /// The answer does not fit the caller's buffer.
    TooSmall,
    /// A byte range outside of the file.
    Range,
    /// Anything else that the system said.
    Io,
}

impl Kind {
    /// Whether the same request may succeed when it is simply made again.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Kind::Offline | Kind::TimedOut | Kind::Unavailable | Kind::Corrupt
        )
    }

    /// Whether the error says that the remote cannot be used at present.
    pub fn is_away(self) -> bool {
        matches!(self, Kind::Offline | Kind::TimedOut | Kind::Unavailable)
    }
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its kind and what it happened to.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    subject: Option<Box<str>>,
    message: Box<str>,
}

impl Error {
    /// An error of `kind`; `message` is what was seen, without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            subject: None,
            message: one_line(message.into()),
        }
    }

    /// Says what the error is about (a path, a URL without credentials, an option).
    /// The innermost subject wins.
    #[must_use]
    pub fn about(mut self, subject: impl fmt::Display) -> Self {
        if self.subject.is_none() {
            self.subject = Some(one_line(subject.to_string()));
        }
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it happened to, if that is known.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// What was seen, without the subject.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Whatever it holds: names and words of others must not break a line or drive a terminal.
fn one_line(text: String) -> Box<str> {
    if !text.chars().any(char::is_control) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.into()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Some(subject) => write!(f, "{subject}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::new(io_kind(&error), error.to_string())
    }
}

/// The kind behind an error of the operating system.
fn io_kind(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as E;
    // ENOTCONN, EHOSTDOWN and their like have stable kinds; inode and quota
    // exhaustion only have numbers.
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => return Kind::NoSpace,
        Some(libc::ENAMETOOLONG) => return Kind::NameTooLong,
        Some(libc::ELOOP) => return Kind::Denied,
        Some(libc::EXDEV) => return Kind::Denied,
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Kind::Unsupported,
        Some(libc::ENODATA) => return Kind::NoAttribute,
        Some(libc::ERANGE) => return Kind::TooSmall,
        Some(libc::ESTALE) => return Kind::Stale,
        _ => {}
    }
    match error.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::Exists,
        E::NotADirectory => Kind::NotADirectory,
        E::IsADirectory => Kind::IsADirectory,
        E::DirectoryNotEmpty => Kind::NotEmpty,
        E::PermissionDenied => Kind::Denied,
        E::ReadOnlyFilesystem => Kind::ReadOnly,
        E::StorageFull | E::QuotaExceeded => Kind::NoSpace,
        E::TimedOut => Kind::TimedOut,
        E::InvalidInput => Kind::Invalid,
        E::ResourceBusy | E::ExecutableFileBusy => Kind::Busy,
        E::ConnectionRefused
        | E::ConnectionReset
        | E::ConnectionAborted
        | E::HostUnreachable
        | E::NetworkUnreachable
        | E::NetworkDown
        | E::BrokenPipe => Kind::Offline,
        E::UnexpectedEof | E::InvalidData => Kind::Corrupt,
        _ => Kind::Io,
    }
}

/// Adds the subject to the error of any result.
pub trait About<T> {
    /// See [`Error::about`].
    fn about(self, subject: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> About<T> for std::result::Result<T, E> {
    fn about(self, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().about(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_an_error_is_one_line_whatever_it_is_about() {
        let error = Error::new(Kind::Invalid, "`a\nb` is not known").about("c\u{1b}[2J");
        assert_eq!(error.to_string(), "c\\u{1b}[2J: `a\\nb` is not known");
    }
}
