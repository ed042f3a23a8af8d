//! The name of a model on the hub: `owner/name`, `owner/name@revision`, and of one of its GGUF files `owner/name:QUANT`.

use super::HubError;
use std::fmt;
use std::str::FromStr;

/// A model on the hub, and which revision of it and which of its GGUF files.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ModelId {
    repo: Box<str>,
    quant: Option<Box<str>>,
    revision: Option<Box<str>>,
}

impl ModelId {
    /// `owner/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }
    /// The part of its name that tells a GGUF file from others, e.g. `Q4_K_M`, if one is meant.
    pub fn quant(&self) -> Option<&str> {
        self.quant.as_deref()
    }
    /// The branch, tag or commit; `main` if none is named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
    /// Whether a revision is named.
    pub fn has_revision(&self) -> bool {
        self.revision.is_some()
    }
    /// Whether the revision is a commit's whole hash.
    pub fn is_commit(&self) -> bool {
        is_commit(self.revision())
    }
    /// The form that `hf-hub` takes.
    pub(super) fn hf(&self) -> hf_hub::Repo {
        hf_hub::Repo::with_revision(self.repo.to_string(), hf_hub::RepoType::Model, self.revision().to_owned())
    }
}

/// Whether this is a commit's whole hash, and so a safe name of a folder.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        self.quant.iter().try_for_each(|quant| write!(f, ":{quant}"))?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

impl FromStr for ModelId {
    type Err = HubError;

    /// The hub's own rules on names, and git's on revisions.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let (repo, revision) = text.split_once('@').map_or((text, None), |(repo, revision)| (repo, Some(revision)));
        let (repo, quant) = repo.split_once(':').map_or((repo, None), |(repo, quant)| (repo, Some(quant)));
        let is_name = |name: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            (1..=96).contains(&name.len())
                && name.chars().all(plain)
                && !name.starts_with(['-', '.'])
                && !name.ends_with(['-', '.'])
                && !name.contains("--")
                && !name.contains("..")
        };
        let is_repo = repo.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
        let is_revision = |name: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
            (1..=250).contains(&name.len())
                && name.chars().all(plain)
                && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
                && !name.starts_with('-')
                && !name.contains("..")
        };
        if !is_repo || repo.ends_with(".git") || !quant.is_none_or(is_name) || !revision.is_none_or(is_revision) {
            return Err(HubError::BadId { found: text.to_owned() });
        }
        Ok(Self { repo: repo.into(), quant: quant.map(Box::from), revision: revision.map(Box::from) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_a_revision() {
        for (text, repo, revision) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "main"),
            ("mlx-community/Llama-3.2_1B.4bit@refs/pr/3", "mlx-community/Llama-3.2_1B.4bit", "refs/pr/3"),
            ("a/b@v1.0", "a/b", "v1.0"),
        ] {
            let id: ModelId = text.parse().expect(text);
            assert_eq!((id.repo(), id.revision(), id.to_string().as_str()), (repo, revision, text));
            assert!(!id.is_commit());
        }
        let id: ModelId = "a/b-GGUF:Q4_K_M@v2".parse().expect("a name");
        assert_eq!((id.repo(), id.quant(), id.revision()), ("a/b-GGUF", Some("Q4_K_M"), "v2"));
        assert_eq!((id.to_string().as_str(), id.has_revision()), ("a/b-GGUF:Q4_K_M@v2", true));
        let commit = format!("a/b@{}", "0123456789".repeat(4));
        assert!(commit.parse::<ModelId>().expect("a commit").is_commit());
    }

    #[test]
    fn what_is_no_name_or_would_leave_the_cache() {
        for text in [
            "",
            "a",
            "/a",
            "a/",
            "a/b/c",
            "../a",
            "a/..",
            "./a",
            "a/.b",
            "a--b/c",
            "a b/c",
            "a/b.git",
            "a/b@",
            "a/b@..",
            "a/b@x/../y",
            "a/b@-x",
            "a/b@x//y",
            "a/b@.x",
            "a/b@x@y",
            "a:b/c",
            "a/b:",
            "a/b:../c",
            "a/b:x/y",
            "a/b@v1:Q4_0",
            "a\\b/c",
            "a/b@x\n",
            "~/b",
        ] {
            let error = text.parse::<ModelId>().expect_err(text).to_string();
            assert!(error.contains("owner/name"), "{error}");
        }
    }
}
