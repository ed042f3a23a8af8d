//! Where the system keeps what programs leave behind.

use std::ffi::OsString;
use std::path::PathBuf;

/// What is kept.
///
/// ```
/// use ingot::Place;
///
/// // `None` where no variable tells of a home.
/// assert!(Place::Cache.folder().is_none_or(|folder| Some(folder) != Place::State.folder()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// What can be made again: compiled plans.
    Cache,
    /// What cannot be made again in a moment: measured tiles.
    Data,
    /// What a program remembers of its last runs: lines that were typed.
    State,
}

impl Place {
    /// The folder, which need not exist: of `$INGOT_HOME`, else the system's; `None` where no variable tells of a home.
    ///
    /// ```
    /// assert!(ingot::Place::Data.folder().is_none_or(|folder| folder.is_absolute()));
    /// ```
    pub fn folder(self) -> Option<PathBuf> {
        self.among(&|name| std::env::var_os(name))
    }

    fn among(self, var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let is_cache = self == Self::Cache;
        if let Some(home) = var("INGOT_HOME") {
            return Some(if is_cache { home.join("cache") } else { home });
        }
        if cfg!(target_os = "macos") {
            let library = var("HOME")?.join("Library");
            return Some(library.join(if is_cache { "Caches/ingot" } else { "Application Support/ingot" }));
        }
        if cfg!(windows) {
            return Some(var("LOCALAPPDATA")?.join(if is_cache { "ingot/cache" } else { "ingot" }));
        }
        let (variable, usual) = match self {
            Self::Cache => ("XDG_CACHE_HOME", ".cache"),
            Self::Data => ("XDG_DATA_HOME", ".local/share"),
            Self::State => ("XDG_STATE_HOME", ".local/state"),
        };
        let system = var(variable).filter(|folder| folder.is_absolute());
        Some(system.or_else(|| Some(var("HOME")?.join(usual)))?.join("ingot"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_tell_the_place() {
        let under = |place: Place, vars: &[(&str, &str)]| {
            place.among(&|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        let own = [("INGOT_HOME", "/i"), ("HOME", "/h")];
        assert_eq!(under(Place::State, &[]), None);
        assert_eq!(
            [Place::Cache, Place::State].map(|place| under(place, &own)),
            [Some("/i/cache".into()), Some("/i".into())]
        );
        if cfg!(target_os = "linux") {
            let usual = Some("/h/.local/state/ingot".into());
            assert_eq!(under(Place::State, &[("HOME", "/h"), ("INGOT_HOME", "")]), usual);
            assert_eq!(under(Place::State, &[("HOME", "/h"), ("XDG_STATE_HOME", "not/absolute")]), usual);
            assert_eq!(under(Place::Cache, &[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Some("/c/ingot".into()));
            assert_eq!(under(Place::Data, &[("HOME", "/h")]), Some("/h/.local/share/ingot".into()));
        }
    }
}
