//! The small text files of `/proc` and `/sys`, below a root that tests replace by a fixture.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Reads below a root directory: `/` for the machine itself. What cannot be read is absent, since
/// on another kernel, or in a sandbox, any of these files may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files(PathBuf);

impl Default for Files {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Files {
    #[cfg(test)]
    pub(crate) fn below(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// Whether they are not a fixture's.
    pub(crate) fn is_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The real path of `path`, whose leading slash is optional.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The text of a file without the white space around it; absent where it cannot be read.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = std::fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The text of a file that says something; absent where it is empty.
    pub(crate) fn word(&self, path: impl AsRef<Path>) -> Option<String> {
        self.text(path).filter(|text| !text.is_empty())
    }

    pub(crate) fn number<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The numbers that a file holds, up to the first word that is none.
    pub(crate) fn numbers<T: FromStr>(&self, path: impl AsRef<Path>) -> Vec<T> {
        let text = self.text(path).unwrap_or_default();
        text.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect()
    }

    /// What `parse` makes of each line, without those that it makes nothing of.
    pub(crate) fn lines<T>(
        &self,
        path: impl AsRef<Path>,
        parse: impl FnMut(&str) -> Option<T>,
    ) -> Vec<T> {
        self.text(path).unwrap_or_default().lines().filter_map(parse).collect()
    }

    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// The names in a directory, sorted; none where it cannot be read.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The value of `key` in a file of `key value` lines (`cpu.stat`) or `key: value` lines
    /// (`/proc/self/status`, `/proc/cpuinfo`): that of the first line with this key.
    pub(crate) fn value_of(&self, path: impl AsRef<Path>, key: &str) -> Option<String> {
        value_of(&self.text(path)?, key).map(str::to_owned)
    }
}

/// As [`Files::value_of`], in a text that was read already.
pub(crate) fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?;
        let value = rest.trim_start_matches([' ', '\t', ':']);
        // Without a separator the key is only the beginning of a longer one.
        (value.len() < rest.len()).then(|| value.trim_end())
    })
}

#[cfg(test)]
mod tests {
    use super::value_of;
    use crate::fixtures::Fixture;

    #[test]
    fn what_cannot_be_read_is_absent() {
        let fixture = Fixture::new(&[("/proc/empty", "\n"), ("/proc/number", " 42\n")]);
        let files = fixture.files();
        assert_eq!(files.text("/proc/missing"), None);
        assert_eq!(files.text("/proc/empty"), Some(String::new()));
        assert_eq!(files.word("/proc/empty"), None);
        assert_eq!(files.number::<u32>("/proc/number"), Some(42));
        assert_eq!(files.number::<u32>("/proc/empty"), None);
        assert_eq!(files.names("/proc"), ["empty", "number"]);
    }

    #[test]
    fn a_key_is_a_whole_word() {
        let text = "nr_throttled_x 1\nnr_throttled 7\nSeccomp_filters:\t3\nSeccomp:\t2\n";
        assert_eq!(value_of(text, "nr_throttled"), Some("7"));
        assert_eq!(value_of(text, "Seccomp"), Some("2"));
        assert_eq!(value_of(text, "Secc"), None);
    }
}
