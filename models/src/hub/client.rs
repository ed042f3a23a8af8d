//! Requests to the hub, and what its refusals mean.

use super::side_by_side::MAX_CONNECTIONS;
use super::{HubError, HubSettings, ModelId, id};
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

/// Redirects that are followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Tries of a request that fails for a reason that may pass.
const MAX_TRIES: u32 = 5;
/// The longest wait that the hub may ask for before a next try.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Longest listing of a repository's files.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// What a revision holds.
pub(super) struct Listing {
    /// Its commit: 40 hexadecimal digits.
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a repository.
pub(super) struct RemoteFile {
    /// Its path in the repository.
    pub(super) name: String,
    /// Its size, where the hub tells it.
    pub(super) n_bytes: Option<u64>,
}

/// Where a file's bytes are.
pub(super) struct Place {
    /// The name of its content: a safe name of a file.
    pub(super) etag: String,
    pub(super) n_bytes: Option<u64>,
    /// The address that answers to ranges, perhaps of another host.
    pub(super) url: String,
}

/// How an answer with a file's bytes begins.
pub(super) struct Answer {
    /// Whether it is the range that was asked for, or some range.
    pub(super) is_range: bool,
    /// Its first byte in the file, where that can be told.
    pub(super) first: Option<u64>,
    /// Bytes of the whole file, where it tells them.
    pub(super) n_bytes: Option<u64>,
    /// The ETag at the place of the bytes, which may be another one than the hub's.
    pub(super) etag: Option<String>,
}

impl Answer {
    pub(super) fn of(response: &Response<Body>) -> Self {
        let is_range = response.status() == StatusCode::PARTIAL_CONTENT;
        // `bytes 100-199/200`.
        let range = text(response.headers(), header::CONTENT_RANGE.as_str()).filter(|_| is_range);
        let range = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
        let first = range.and_then(|(range, _)| range.split('-').next()?.trim().parse().ok());
        let n_bytes = range.and_then(|(_, n_bytes)| n_bytes.trim().parse().ok());
        let etag = text(response.headers(), header::ETAG.as_str()).map(str::to_owned);
        // What is no range is all of the file.
        Self { is_range, first: if is_range { first } else { Some(0) }, n_bytes, etag }
    }
}

/// Tries of something that fails for reasons that may pass.
pub(super) struct Patience {
    retry_wait: Duration,
    n_tries: u32,
}

impl Patience {
    /// How long to wait before the next try.
    ///
    /// # Errors
    /// The one of the last try, if there shall be no other.
    pub(super) fn after(&mut self, error: HubError) -> Result<Duration, HubError> {
        self.n_tries += 1;
        let wait = match error {
            HubError::RateLimited { retry_after: Some(wait), .. } => wait,
            _ => self.retry_wait * 2u32.pow(self.n_tries - 1),
        };
        let may_pass = error.is_passing() && self.n_tries < MAX_TRIES && wait <= MAX_WAIT;
        if may_pass { Ok(wait) } else { Err(error) }
    }

    /// Something was reached that had not been before.
    pub(super) fn renew(&mut self) {
        self.n_tries = 0;
    }
}

/// Asks a hub.
pub(super) struct Client<'a> {
    pub(super) settings: &'a HubSettings,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a HubSettings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The token must not follow to another host, and a redirect to the content tells its ETag.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(2 * MAX_CONNECTIONS)
            .max_idle_connections_per_host(MAX_CONNECTIONS)
            // Sizes and ranges are those of the file itself.
            .accept_encoding("identity")
            .user_agent(concat!("ingot/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout));
        Self { settings, agent: config.build().new_agent() }
    }

    /// The commit of a model's revision, and its files.
    pub(super) fn listing(&self, id: &ModelId) -> Result<Listing, HubError> {
        let url = format!("{}/api/{}?blobs=true", self.settings.endpoint, id.hf().api_url());
        let get = || {
            let mut response = self.get(id, &url, None)?;
            let mut text = String::new();
            let body = response.body_mut().with_config().limit(MAX_LISTING_BYTES).reader();
            let read = { body }.read_to_string(&mut text);
            read.map_err(|error| self.no_network(&error.to_string()))?;
            Ok(text)
        };
        let mut patience = self.patience();
        let text = loop {
            match get() {
                Ok(text) => break text,
                // Who has no network is told at once.
                Err(error @ HubError::NoNetwork { .. }) => return Err(error),
                Err(error) => std::thread::sleep(patience.after(error)?),
            }
        };
        listing(&text).map_err(|what| HubError::BadAnswer { url, what })
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { retry_wait: self.settings.retry_wait, n_tries: 0 }
    }

    /// Where a file of a commit is.
    pub(super) fn place(&self, id: &ModelId, commit: &str, file: &str) -> Result<Place, HubError> {
        let mut url = format!("{}/{}/resolve/{commit}/{}", self.settings.endpoint, id.repo(), encode(file));
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.agent.head(&url);
            if let Some(token) = self.token_for(&url) {
                request = request.header(header::AUTHORIZATION, token);
            }
            let response = request.call().map_err(|error| self.no_network(&error.to_string()))?;
            let headers = response.headers();
            let location = text(headers, header::LOCATION.as_str()).filter(|_| response.status().is_redirection());
            match location {
                // The model was renamed, or the hub keeps the file elsewhere itself.
                Some(path) if path.starts_with('/') && !path.starts_with("//") => url = self.at_host_of(&url, path),
                _ if response.status().is_success() || location.is_some() => {
                    let etag = etag(headers).ok_or_else(|| HubError::BadAnswer {
                        url: url.clone(),
                        what: "the answer has no ETag, so it is no file of a hub".into(),
                    })?;
                    let size = |name: &str| text(headers, name).and_then(|size| size.parse().ok());
                    // The length of a redirect is its own.
                    let length = if location.is_some() { None } else { size(header::CONTENT_LENGTH.as_str()) };
                    let n_bytes = size("x-linked-size").or(length);
                    return Ok(Place { etag, n_bytes, url: location.map_or(url.clone(), str::to_owned) });
                }
                _ => return Err(self.refusal(id, &url, &response)),
            }
        }
        Err(HubError::BadAnswer { url, what: "too many redirects".into() })
    }

    /// The answer to a request for an address; for a range of it if its first byte, and perhaps the one after its last, are
    /// given. Its status is a success, or says that there is no such byte.
    pub(super) fn get(
        &self,
        id: &ModelId,
        url: &str,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Response<Body>, HubError> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token_for(&url) {
                request = request.header(header::AUTHORIZATION, token);
            }
            if let Some((from, until)) = range {
                let last = until.map_or(String::new(), |until| (until - 1).to_string());
                request = request.header(header::RANGE, format!("bytes={from}-{last}"));
            }
            let response = request.call().map_err(|error| self.no_network(&error.to_string()))?;
            match text(response.headers(), header::LOCATION.as_str()) {
                Some(location) if response.status().is_redirection() => {
                    let is_path = location.starts_with('/') && !location.starts_with("//");
                    url = if is_path { self.at_host_of(&url, location) } else { location.to_owned() };
                }
                _ if response.status().is_success() => return Ok(response),
                _ if range.is_some() && response.status() == StatusCode::RANGE_NOT_SATISFIABLE => return Ok(response),
                _ => return Err(self.refusal(id, &url, &response)),
            }
        }
        Err(HubError::BadAnswer { url, what: "too many redirects".into() })
    }

    fn no_network(&self, why: &str) -> HubError {
        HubError::NoNetwork { endpoint: self.settings.endpoint.clone(), why: why.to_owned() }
    }

    /// The header's value, if the address is the hub's own.
    fn token_for(&self, url: &str) -> Option<String> {
        let token = self.settings.token.as_ref()?;
        let own = origin(url).is_some() && origin(url) == origin(&self.settings.endpoint);
        own.then(|| format!("Bearer {}", token.secret()))
    }

    fn at_host_of(&self, url: &str, path: &str) -> String {
        let (scheme, host) = origin(url).unwrap_or_default();
        format!("{scheme}://{host}{path}")
    }

    /// What a status that is no success means. The hub names the reason in a header; without it 401 stands for a model that
    /// is private or missing.
    fn refusal(&self, id: &ModelId, url: &str, response: &Response<Body>) -> HubError {
        let (id, endpoint) = (id.clone(), self.settings.endpoint.clone());
        let has_token = self.settings.token.is_some();
        let headers = response.headers();
        let (code, message) = (text(headers, "x-error-code"), text(headers, "x-error-message"));
        let status = response.status().as_u16();
        match (status, code) {
            (_, Some("GatedRepo")) => HubError::Gated { id, endpoint, has_token },
            (_, Some("RevisionNotFound")) => HubError::NoRevision { id, endpoint },
            (_, Some("RepoNotFound")) => HubError::NotFound { id, endpoint, has_token },
            (401, _) => match &self.settings.token {
                Some(token) => HubError::BadToken { origin: token.origin().to_owned(), endpoint },
                None => HubError::NotFound { id, endpoint, has_token },
            },
            (403, _) => HubError::Forbidden { id, why: message.unwrap_or("status 403").to_owned() },
            (404, None) => HubError::NotFound { id, endpoint, has_token },
            (429, _) => {
                let wait = text(headers, header::RETRY_AFTER.as_str()).and_then(|seconds| seconds.trim().parse().ok());
                HubError::RateLimited { retry_after: wait.map(Duration::from_secs), has_token }
            }
            (500.., _) => HubError::Server { url: url.to_owned(), status },
            _ => {
                let said = message.or(code).map_or(String::new(), |message| format!(" ({message})"));
                HubError::BadAnswer { url: url.to_owned(), what: format!("status {status}{said}") }
            }
        }
    }
}

/// A header's value as text.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The ETag of the content, without marks and quotes, if it is a safe name of a file.
fn etag(headers: &HeaderMap) -> Option<String> {
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, header::ETAG.as_str()))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    ((1..=128).contains(&etag.len()) && etag.bytes().all(plain)).then(|| etag.to_owned())
}

/// Scheme and host with port of an address.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    Some((uri.scheme_str()?.to_owned(), uri.authority()?.to_string()))
}

/// A file's name as a part of an address.
fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn listing(text: &str) -> Result<Listing, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("the answer is not JSON: {error}"))?;
    let commit = value["sha"].as_str().filter(|sha| id::is_commit(sha));
    let (Some(commit), Some(siblings)) = (commit, value["siblings"].as_array()) else {
        return Err("the answer lists no files of a commit".into());
    };
    let file = |sibling: &Value| {
        Some(RemoteFile { name: sibling["rfilename"].as_str()?.to_owned(), n_bytes: sibling["size"].as_u64() })
    };
    Ok(Listing { commit: commit.to_owned(), files: siblings.iter().filter_map(file).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_names_of_files_or_nothing() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a header"));
            etag(&headers)
        };
        assert_eq!(of("etag", "\"abc-1\"").as_deref(), Some("abc-1"));
        assert_eq!(of("etag", "W/\"abc\"").as_deref(), Some("abc"));
        assert_eq!(of("x-linked-etag", "\"f00\"").as_deref(), Some("f00"));
        for unsafe_name in ["\"../x\"", "\"\"", "\"a/b\"", "\"a.b\""] {
            assert_eq!(of("etag", unsafe_name), None, "{unsafe_name}");
        }
    }

    #[test]
    fn names_in_addresses() {
        assert_eq!(encode("model-00001-of-00002.safetensors"), "model-00001-of-00002.safetensors");
        assert_eq!(encode("a b?é.json"), "a%20b%3F%C3%A9.json");
    }
}
