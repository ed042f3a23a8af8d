//! Standard output that may be a closed pipe, and errors as one line.

use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Prints and flushes; a closed pipe is an error that [`is_broken_pipe`] knows, never a panic.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output")
}

/// [`print`] with a line end.
pub(crate) fn println(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Fails where a file that takes long to make could not be written in the end.
pub(crate) fn check_place(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() {
        bail!("{} is a folder; name a file", path.display());
    }
    if !folder.is_dir() {
        bail!("{} cannot be written: there is no folder {}", path.display(), folder.display());
    }
    Ok(())
}

/// Whether the reader of standard output went away.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// Writes `error: ...` to standard error, and where the bytes would go if there are too many. Nothing is left to do if that fails too.
pub(crate) fn report(error: &anyhow::Error) {
    let table = error.downcast_ref::<ingot::Error>().and_then(ingot::Error::memory_table);
    let table = table.map_or(String::new(), |table| format!("\n{table}"));
    let _ = writeln!(std::io::stderr(), "error: {}{table}", one_line(error));
}

/// The error and its causes in one line. Causes that a message already tells are not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_and_on_one_line() {
        let io = std::io::Error::other("disk\n  on fire");
        let error = anyhow::Error::new(io).context("model.safetensors: disk on fire").context("loading");
        assert_eq!(one_line(&error), "loading: model.safetensors: disk on fire");
    }

    #[test]
    fn places_of_files_are_checked_before_they_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| check_place(path).map_err(|error| error.to_string());
        assert_eq!((told(&folder.path().join("new.csv")), told(Path::new("new.csv"))), (Ok(()), Ok(())));
        assert!(told(folder.path()).unwrap_err().contains("is a folder"));
        assert!(told(&folder.path().join("a/b.csv")).unwrap_err().contains("there is no folder"));
    }

    #[test]
    fn a_closed_pipe_is_found_under_its_context() {
        let error = anyhow::Error::new(std::io::Error::from(ErrorKind::BrokenPipe)).context("standard output");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("another")));
    }
}
