//! What the public edge of the engine returns: whose fault it is, what happened, and what to do.

use std::fmt;

/// Whose fault an error is; the command derives its exit code from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The request itself makes no sense: a flag, a size, a CPU that does not exist.
    Usage,
    /// This machine or container does not allow it.
    Environment,
    /// The server refused, died, or speaks something else.
    Peer,
    /// A defect of tare's own: to be reported.
    Bug,
}

/// An error with its culprit and its remedy.
#[derive(Debug, Clone)]
pub struct Error {
    fault: Fault,
    message: String,
    remedy: Option<String>,
}

impl Error {
    /// An error of the given fault: `message` says what happened, in one line.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into(), remedy: None }
    }

    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Fault::Usage, message)
    }

    /// An environment error.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Fault::Environment, message)
    }

    /// A peer error.
    pub fn peer(message: impl Into<String>) -> Self {
        Self::new(Fault::Peer, message)
    }

    /// A defect of tare's own.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Fault::Bug, message)
    }

    /// Adds what to type, or to do, next.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        self.fault
    }

    /// What happened, without the remedy.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to type or to do, where something helps.
    pub fn advice(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        if self.fault == Fault::Bug {
            f.write_str(" (a defect of tare: please report it)")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// What the public edge returns.
pub type Result<T> = std::result::Result<T, Error>;
