//! Running the built command.

use std::process::{Command, Output, Stdio};

/// The built `tare`, with nothing of the caller's environment that it would heed.
pub(crate) fn tare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tare"));
    command.env_remove("TARE_SECRET").stdin(Stdio::null());
    command
}

/// What a finished command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("tare prints UTF-8");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// Runs `tare` with these words to its end.
pub(crate) fn run(words: &[&str]) -> Ran {
    let output = tare().args(words).output();
    output.expect("the built binary starts").into()
}
