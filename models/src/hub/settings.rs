//! Where the hub and its cache are: the environment variables of Hugging Face's tools, with their meaning.

use super::HubError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub, its cache, and how it is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubSettings {
    /// The hub's address, without a slash at its end. `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// Who asks. `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `$HF_HOME/token`, which `hf auth login` writes.
    pub token: Option<Token>,
    /// The cache's folder. `HF_HUB_CACHE`, else `$HF_HOME/hub`; `HF_HOME` is `~/.cache/huggingface` unless it is set.
    pub cache: PathBuf,
    /// Whether only the cache is used. `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// How long a request waits for the hub to say something. `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, else 10.
    pub timeout: Duration,
    /// The wait before the second try of what may pass; each further one waits twice as long.
    pub retry_wait: Duration,
}

/// A secret that says who asks. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: String,
    origin: String,
}

impl Token {
    /// A token; `origin` tells in messages where it came from.
    pub fn new(secret: impl Into<String>, origin: impl Into<String>) -> Self {
        Self { secret: secret.into(), origin: origin.into() }
    }
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }
    /// Where it came from.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.origin)
    }
}

impl HubSettings {
    /// The settings of this process's environment.
    ///
    /// # Errors
    /// If neither a variable nor a home folder tells where the cache is.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// The settings of an environment in which `variable` looks a name up. Empty variables count as unset.
    ///
    /// # Errors
    /// As [`HubSettings::from_env`].
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let is_on = |name: &str| {
            set(name).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let user = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let expand = |path: String| match (path.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(path),
        };
        let home = set("HF_HOME").map(expand);
        let home = home.or_else(|| set("XDG_CACHE_HOME").map(|cache| expand(cache).join("huggingface")));
        let home = home.or_else(|| user.as_ref().map(|user| user.join(".cache/huggingface")));
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map(expand);
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or(HubError::NoHome)?;
        let token = if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            let named = |name: &str| set(name).map(|secret| Token::new(secret.trim(), name));
            let file = set("HF_TOKEN_PATH").map(expand).or_else(|| home.as_ref().map(|home| home.join("token")));
            named("HF_TOKEN")
                .or_else(|| named("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| file.as_deref().and_then(token_file))
        };
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let seconds = set("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.trim().parse::<u64>().ok());
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token,
            cache,
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            timeout: Duration::from_secs(seconds.unwrap_or(10).max(1)),
            retry_wait: Duration::from_secs(1),
        })
    }
}

fn token_file(path: &Path) -> Option<Token> {
    let text = std::fs::read_to_string(path).ok()?;
    let secret: String = text.split_whitespace().collect();
    (!secret.is_empty()).then(|| Token::new(secret, path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
        HubSettings::from_variables(&find).expect("there is a home")
    }

    #[test]
    fn defaults_are_hugging_faces() {
        let plain = settings(&[("HOME", "/home/ada")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, Path::new("/home/ada/.cache/huggingface/hub"));
        assert_eq!((plain.token, plain.offline), (None, false));
        assert!(matches!(HubSettings::from_variables(&|_| None), Err(HubError::NoHome)));
    }

    #[test]
    fn variables_win_in_hugging_faces_order() {
        let cache = |variables: &[(&str, &str)]| settings(&[&[("HOME", "/h")], variables].concat()).cache;
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]), Path::new("/h/hf/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/hf")]), Path::new("/c"));
        assert_eq!(cache(&[("HF_HUB_CACHE", " ")]), Path::new("/h/.cache/huggingface/hub"), "empty is unset");
        let at = settings(&[("HOME", "/h"), ("HF_ENDPOINT", "http://mirror.example/"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!((at.endpoint.as_str(), at.offline), ("http://mirror.example", true));
        assert!(!settings(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn tokens_come_from_a_variable_or_a_file_and_are_not_printed() {
        let folder = tempfile::tempdir().expect("there is room");
        let home = folder.path().to_str().expect("UTF-8");
        let token = |variables: &[(&str, &str)]| settings(&[&[("HF_HOME", home)], variables].concat()).token;
        assert_eq!(token(&[]), None);
        std::fs::write(folder.path().join("token"), "hf_file\n").expect("is written");
        let of_file = token(&[]).expect("there is a file");
        assert!(of_file.secret() == "hf_file" && of_file.origin().ends_with("token"));
        let of_variable = token(&[("HF_TOKEN", "hf_secret")]).expect("it is set");
        assert_eq!((of_variable.secret(), of_variable.origin()), ("hf_secret", "HF_TOKEN"));
        assert!(!format!("{of_variable:?}").contains("hf_secret"));
        assert_eq!(token(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
    }
}
