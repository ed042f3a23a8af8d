//! A hub that a test plays on this machine: the addresses, redirects, ranges and headers of the real one, and its troubles.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit of everything.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// An answer of this status with these headers.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// After so many bytes of the body nothing comes for three seconds.
    Pause(usize),
    /// The answer begins a tenth of a second later. It is empty unless the status is 200.
    Late(u16),
    /// The whole file, whatever range is asked for.
    NoRanges,
    /// The range begins a byte later than it was asked for.
    Shifted,
    /// The content has another ETag at the place of the bytes.
    Etag(&'static str),
    /// The first byte is another one.
    Wrong,
    /// A page of something else.
    Page,
}

/// A request that came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    /// Whether it came to the second address, where large contents are.
    pub(crate) at_store: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, File>,
    /// Part of a path and range, how many times yet, and what happens then.
    troubles: Vec<(String, usize, Trouble)>,
    seen: Vec<Seen>,
    /// Answers of the store that are under way, and the most at one time.
    n_answers: usize,
    most_answers: usize,
}

#[derive(Clone)]
struct File {
    bytes: Arc<Vec<u8>>,
    /// The content's name.
    etag: String,
}

/// A running hub with one model, `owner/tiny`, which `owner/old-name` leads to.
pub(crate) struct PlayHub {
    pub(crate) endpoint: String,
    store: String,
    state: Arc<Mutex<State>>,
}

impl PlayHub {
    /// A hub with these files. Those ending in `.safetensors` and `.gguf` are large ones: they are kept at another address.
    pub(crate) fn start(files: &[(&str, &[u8])]) -> Arc<Self> {
        let [hub, store] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let address = |of: &TcpListener| format!("http://{}", of.local_addr().expect("it is bound"));
        let file = |name: &str, bytes: &[u8]| File { bytes: Arc::new(bytes.to_vec()), etag: name_of(name, bytes) };
        let files = files.iter().map(|(name, bytes)| (name.to_string(), file(name, bytes))).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let play = Arc::new(Self { endpoint: address(&hub), store: address(&store), state });
        for (listener, at_store) in [(hub, false), (store, true)] {
            let play = Arc::clone(&play);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let play = Arc::clone(&play);
                    // A client that goes away is no affair of the hub.
                    std::thread::spawn(move || play.answer(stream, at_store));
                }
            });
        }
        play
    }

    /// A hub with the files of a checkpoint's folder, and some that no one needs.
    pub(crate) fn of_folder(folder: &Path) -> Arc<Self> {
        let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<(String, Vec<u8>)> = entries
            .map(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
                (name, std::fs::read(&path).expect("a file"))
            })
            .collect();
        for extra in ["README.md", "pytorch_model.bin", "onnx/config.json", "consolidated.safetensors"] {
            files.push((extra.into(), b"not needed".to_vec()));
        }
        let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        Self::start(&files)
    }

    /// For the next `times` requests whose path and range have this part, `/path bytes=0-99`.
    pub(crate) fn trouble(&self, part: &str, times: usize, trouble: Trouble) {
        self.state.lock().expect("no panic").troubles.push((part.into(), times, trouble));
    }

    /// The requests since this was last asked.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().expect("no panic").seen)
    }

    /// The most answers of the store that were under way at one time.
    pub(crate) fn most_answers(&self) -> usize {
        self.state.lock().expect("no panic").most_answers
    }

    /// The content's name at the hub.
    pub(crate) fn etag(&self, file: &str) -> String {
        self.state.lock().expect("no panic").files[file].etag.clone()
    }

    fn answer(&self, stream: TcpStream, at_store: bool) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut words = first.split_whitespace();
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let range = headers.get("range").cloned();
        let seen = Seen {
            method: method.clone(),
            path: path.clone(),
            range: range.clone(),
            authorization: headers.get("authorization").cloned(),
            at_store,
        };
        let trouble = {
            let mut state = self.state.lock().expect("no panic");
            state.seen.push(seen);
            let asked = format!("{path} {}", range.as_deref().unwrap_or(""));
            let found = state.troubles.iter_mut().find(|(part, times, _)| asked.contains(part.as_str()) && *times > 0);
            found.map(|(_, times, trouble)| {
                *times -= 1;
                trouble.clone()
            })
        };
        let mut reply = Reply { stream, is_head: method == "HEAD", trouble };
        let status = match reply.trouble {
            Some(Trouble::Status(status, headers)) => Some((status, headers)),
            _ => None,
        };
        if let Some((status, headers)) = status {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.to_string())).collect();
            return reply.send(status, &headers, b"");
        }
        if matches!(reply.trouble, Some(Trouble::Page)) {
            return reply.send(200, &[], b"<html>Sign in to the guest network</html>");
        }
        if at_store {
            let mut state = self.state.lock().expect("no panic");
            state.n_answers += 1;
            state.most_answers = state.most_answers.max(state.n_answers);
        }
        if let Some(Trouble::Late(status)) = reply.trouble {
            std::thread::sleep(Duration::from_millis(100));
            if status != 200 {
                return reply.send(status, &[], b"");
            }
        }
        if at_store {
            let result = self.stored(&path, range.as_deref(), &mut reply);
            self.state.lock().expect("no panic").n_answers -= 1;
            return result;
        }
        if let Some(rest) = path.strip_prefix("/owner/old-name/") {
            return reply.send(307, &[("location", format!("/owner/tiny/{rest}"))], b"");
        }
        if path.starts_with("/api/models/owner/tiny/revision/") {
            return reply.send(200, &[("content-type", "application/json".into())], self.listing().as_bytes());
        }
        if path.starts_with("/api/models/owner/old-name/") {
            return reply.send(307, &[("location", path.replace("old-name", "tiny"))], b"");
        }
        let name = path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/")).unwrap_or("");
        let file = self.state.lock().expect("no panic").files.get(name).cloned();
        let Some(File { bytes, etag }) = file else {
            return reply.send(404, &[("x-error-code", "RepoNotFound".into())], b"");
        };
        let commit = ("x-repo-commit", COMMIT.to_owned());
        if is_large(name) {
            let headers = [
                commit,
                ("location", format!("{}/{etag}", self.store)),
                ("x-linked-etag", format!("\"{etag}\"")),
                ("x-linked-size", bytes.len().to_string()),
                ("etag", "\"of-the-redirect\"".into()),
            ];
            return reply.send(302, &headers, b"Found. Redirecting");
        }
        reply.ranged(&[commit, ("etag", format!("\"{etag}\""))], &bytes, range.as_deref())
    }

    fn stored(&self, path: &str, range: Option<&str>, reply: &mut Reply) -> std::io::Result<()> {
        let state = self.state.lock().expect("no panic");
        let found = state.files.values().find(|file| file.etag == path.trim_start_matches('/')).cloned();
        drop(state);
        let etag = match reply.trouble {
            Some(Trouble::Etag(etag)) => etag,
            _ => "of-the-store",
        };
        match found {
            Some(file) => reply.ranged(&[("etag", format!("\"{etag}\""))], &file.bytes, range),
            None => reply.send(404, &[], b""),
        }
    }

    fn listing(&self) -> String {
        let state = self.state.lock().expect("no panic");
        let files = state.files.iter();
        let files = files.map(|(name, file)| serde_json::json!({ "rfilename": name, "size": file.bytes.len() }));
        serde_json::json!({ "id": "owner/tiny", "sha": COMMIT, "siblings": files.collect::<Vec<_>>() }).to_string()
    }
}

struct Reply {
    stream: TcpStream,
    is_head: bool,
    trouble: Option<Trouble>,
}

impl Reply {
    fn ranged(&mut self, headers: &[(&str, String)], bytes: &[u8], range: Option<&str>) -> std::io::Result<()> {
        let (is_wrong, is_shifted, is_whole) = match self.trouble {
            Some(Trouble::Wrong) => (true, false, false),
            Some(Trouble::Shifted) => (false, true, false),
            Some(Trouble::NoRanges) => (false, false, true),
            _ => (false, false, false),
        };
        let mut wrong = Vec::new();
        let bytes = if is_wrong {
            wrong.extend(bytes.iter().enumerate().map(|(ix, byte)| byte ^ u8::from(ix == 0)));
            &wrong
        } else {
            bytes
        };
        let asked = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let asked = asked.and_then(|(from, last)| {
            let until = if last.is_empty() { bytes.len() } else { bytes.len().min(last.parse::<usize>().ok()? + 1) };
            Some((from.parse::<usize>().ok()? + usize::from(is_shifted), until))
        });
        match asked.filter(|_| !is_whole) {
            Some((from, _)) if from >= bytes.len() => self.send(416, headers, b""),
            Some((from, until)) => {
                let range = format!("bytes {from}-{}/{}", until - 1, bytes.len());
                let headers = [headers, &[("content-range", range)]].concat();
                self.send(206, &headers, &bytes[from..until])
            }
            None => self.send(200, headers, bytes),
        }
    }

    fn send(&mut self, status: u16, headers: &[(&str, String)], body: &[u8]) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all(format!("{head}\r\n").as_bytes())?;
        if self.is_head {
            return Ok(());
        }
        match self.trouble {
            Some(Trouble::Cut(most)) => self.stream.write_all(&body[..most.min(body.len())]),
            Some(Trouble::Pause(first)) => {
                let (first, rest) = body.split_at(first.min(body.len()));
                self.stream.write_all(first)?;
                std::thread::sleep(Duration::from_secs(3));
                self.stream.write_all(rest)
            }
            _ => self.stream.write_all(body),
        }
    }
}

fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".gguf")
}

/// Large contents are named by their SHA-256, others as git names them.
fn name_of(file: &str, bytes: &[u8]) -> String {
    let hash = match is_large(file) {
        true => digest(&SHA256, bytes),
        false => digest(&SHA1_FOR_LEGACY_USE_ONLY, &[format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()),
    };
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
