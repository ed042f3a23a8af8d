//! The name of a model on the hub: `owner/name`, or `owner/name@revision`.

use super::HubError;
use std::fmt;
use std::str::FromStr;

/// A model on the hub, and which revision of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ModelId {
    repo: String,
    revision: Option<String>,
}

impl ModelId {
    /// `owner/name`.
    pub fn repo(&self) -> &str {
        &self.repo
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
        hf_hub::Repo::with_revision(self.repo.clone(), hf_hub::RepoType::Model, self.revision().to_owned())
    }
}

/// Whether this is a commit's whole hash, and so a safe name of a folder.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.repo),
            None => f.write_str(&self.repo),
        }
    }
}

impl FromStr for ModelId {
    type Err = HubError;

    /// The hub's own rules on names, and git's on revisions.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let (repo, revision) = text.split_once('@').map_or((text, None), |(repo, revision)| (repo, Some(revision)));
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
        if !is_repo || repo.ends_with(".git") || !revision.is_none_or(is_revision) {
            return Err(HubError::BadId { found: text.to_owned() });
        }
        Ok(Self { repo: repo.to_owned(), revision: revision.map(str::to_owned) })
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
            "a\\b/c",
            "a/b@x\n",
            "~/b",
        ] {
            let error = text.parse::<ModelId>().expect_err(text).to_string();
            assert!(error.contains("owner/name"), "{error}");
        }
    }
}
