//! Where the lines of earlier chats are kept.

use std::ffi::OsString;
use std::path::PathBuf;

/// The file: `$INGOT_HOME/chat_history`, else in the system's place for what programs remember; `None` where no variable tells of
/// a home.
pub(super) fn path() -> Option<PathBuf> {
    place(|name| std::env::var_os(name))
}

fn place(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let var = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let system = || {
        if cfg!(target_os = "macos") {
            return Some(var("HOME")?.join("Library/Application Support/ingot"));
        }
        if cfg!(windows) {
            return Some(var("LOCALAPPDATA")?.join("ingot"));
        }
        let state = var("XDG_STATE_HOME").filter(|folder| folder.is_absolute());
        Some(state.or_else(|| Some(var("HOME")?.join(".local/state")))?.join("ingot"))
    };
    Some(var("INGOT_HOME").or_else(system)?.join("chat_history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under(vars: &[(&str, &str)]) -> Option<PathBuf> {
        place(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn variables_tell_the_place() {
        assert_eq!(under(&[]), None);
        assert_eq!(under(&[("INGOT_HOME", "/i"), ("HOME", "/h")]), Some("/i/chat_history".into()));
        if cfg!(target_os = "linux") {
            let own = Some("/h/.local/state/ingot/chat_history".into());
            assert_eq!(under(&[("HOME", "/h"), ("INGOT_HOME", "")]), own);
            assert_eq!(under(&[("HOME", "/h"), ("XDG_STATE_HOME", "not/absolute")]), own);
            assert_eq!(under(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), Some("/s/ingot/chat_history".into()));
        }
    }
}
