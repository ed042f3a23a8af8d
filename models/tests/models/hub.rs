//! Models from a hub, which the test plays: what is fetched, what the cache holds then, and what every refusal says.

use crate::play_hub::{COMMIT, PlayHub, Trouble};
use ingot_models::hub::{Fetched, HubError, HubSettings, ModelId, Token, fetch, find, list, remove};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) struct Scene {
    pub(crate) hub: Arc<PlayHub>,
    pub(crate) settings: HubSettings,
    _folder: TempDir,
}

pub(crate) const WEIGHTS: &str = "model.safetensors";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ingot-tales-1m")
}

fn weights() -> Vec<u8> {
    std::fs::read(shipped().join(WEIGHTS)).expect("a shipped model")
}

pub(crate) fn scene_of(hub: Arc<PlayHub>) -> Scene {
    let folder = tempfile::tempdir().expect("there is room");
    let settings = HubSettings {
        endpoint: hub.endpoint.clone(),
        token: None,
        cache: folder.path().join("hub"),
        offline: false,
        timeout: Duration::from_secs(10),
        retry_wait: Duration::from_millis(1),
    };
    Scene { hub, settings, _folder: folder }
}

fn scene() -> Scene {
    scene_of(PlayHub::of_folder(&shipped()))
}

impl Scene {
    pub(crate) fn fetch_as(&self, id: &str) -> Result<Fetched, HubError> {
        fetch(&id.parse().expect("a name"), &self.settings, &mut |_| true)
    }
    pub(crate) fn fetch(&self) -> Result<Fetched, HubError> {
        self.fetch_as("owner/tiny")
    }
    pub(crate) fn home(&self) -> PathBuf {
        self.settings.cache.join("models--owner--tiny")
    }
    pub(crate) fn blob(&self, file: &str) -> PathBuf {
        self.home().join("blobs").join(self.hub.etag(file))
    }
    /// The beginning of a file as an interrupted download leaves it.
    pub(crate) fn leave_part(&self, bytes: &[u8]) -> PathBuf {
        std::fs::create_dir_all(self.home().join("blobs")).expect("there is room");
        let path = self.blob(WEIGHTS).with_extension("incomplete");
        std::fs::write(&path, bytes).expect("there is room");
        path
    }
    /// Ranges of the weights that were asked for since the last question.
    pub(crate) fn ranges(&self) -> Vec<String> {
        self.hub.seen().into_iter().filter(|seen| seen.at_store).filter_map(|seen| seen.range).collect()
    }
    #[track_caller]
    pub(crate) fn refused(&self, part: &str, times: usize, trouble: Trouble, parts: &[&str]) -> HubError {
        self.hub.trouble(part, times, trouble);
        let error = self.fetch().expect_err("the hub refuses");
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
        error
    }
}

#[test]
fn what_is_needed_is_fetched_into_the_layout_of_hugging_face() {
    let scene = scene();
    let mut told = Vec::new();
    let id: ModelId = "owner/tiny".parse().expect("a name");
    let fetched = fetch(&id, &scene.settings, &mut |progress| {
        told.push((progress.done_bytes, progress.total_bytes));
        true
    })
    .expect("the hub answers");
    assert_eq!((fetched.commit.as_str(), fetched.stale.is_none()), (COMMIT, true));
    assert_eq!(fetched.folder, scene.home().join("snapshots").join(COMMIT));
    let opened = ingot_models::Model::open(&fetched.folder).expect("a checkpoint");
    opened.graph().expect("a model");
    let mut names: Vec<_> = std::fs::read_dir(&fetched.folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    let small = ["chat_template.jinja", "config.json", "generation_config.json"];
    assert_eq!(names, [&small[..], &[WEIGHTS, "tokenizer.json", "tokenizer_config.json"]].concat());
    assert_eq!(std::fs::read_to_string(scene.home().join("refs/main")).expect("a name"), COMMIT);
    assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights());
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(fetched.folder.join(WEIGHTS)).expect("a link"),
        Path::new("../../blobs").join(scene.hub.etag(WEIGHTS))
    );
    // Small files come first, the hub is asked before its store, and progress ends at the whole.
    let seen = scene.hub.seen();
    assert!(seen.last().is_some_and(|last| last.at_store && last.method == "GET"), "{seen:?}");
    let total: u64 = names.iter().map(|name| std::fs::metadata(shipped().join(name)).expect("a file").len()).sum();
    assert_eq!(told.last(), Some(&(total, total)));
    assert!(told.iter().map(|(done, _)| done).is_sorted());

    scene.fetch().expect("it is there");
    let again = scene.hub.seen();
    assert_eq!(again.len(), 1, "only the newest commit is asked for: {again:?}");
}

#[test]
fn a_commit_that_is_there_needs_no_hub_and_a_branch_has_its_own_name() {
    let scene = scene();
    scene.fetch_as("owner/tiny@v1/x").expect("the hub answers");
    assert!(scene.hub.seen()[0].path.contains("/revision/v1%2Fx"), "a slash is part of the name");
    assert_eq!(std::fs::read_to_string(scene.home().join("refs/v1/x")).expect("a name"), COMMIT);
    let fetched = scene.fetch_as(&format!("owner/tiny@{COMMIT}")).expect("it is there");
    assert_eq!((fetched.commit.as_str(), scene.hub.seen().len()), (COMMIT, 0));
    assert!(!scene.home().join("refs").join(COMMIT).exists());
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let mut scene = scene();
    scene.settings.token = Some(Token::new("hf_secret", "HF_TOKEN"));
    scene.fetch().expect("the hub answers");
    let seen = scene.hub.seen();
    assert!(seen.iter().any(|seen| seen.at_store) && seen.iter().any(|seen| !seen.at_store));
    for seen in seen {
        let expected = (!seen.at_store).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(seen.authorization, expected, "{}", seen.path);
    }
}

#[test]
fn a_cut_connection_is_taken_up_where_it_ended() {
    let scene = scene();
    let etag = scene.hub.etag(WEIGHTS);
    scene.hub.trouble(&etag, 2, Trouble::Cut(100_000));
    scene.hub.trouble("tokenizer.json", 2, Trouble::Cut(1000));
    scene.fetch().expect("the rest comes");
    assert_eq!(scene.ranges(), ["bytes=0-", "bytes=100000-", "bytes=200000-"]);
    assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights());
}

#[test]
fn a_connection_that_never_gets_further_is_an_error_and_the_next_run_goes_on() {
    let scene = scene();
    let etag = scene.hub.etag(WEIGHTS);
    scene.hub.trouble(&etag, 1, Trouble::Cut(5000));
    let error = scene.refused(&etag, 50, Trouble::Cut(0), &[WEIGHTS, "5000 of", "run the same command again"]);
    assert!(matches!(error, HubError::Cut { done: 5000, .. }), "{error:?}");
    let healed =
        Scene { hub: PlayHub::of_folder(&shipped()), settings: scene.settings.clone(), _folder: scene._folder };
    let settings = HubSettings { endpoint: healed.hub.endpoint.clone(), ..healed.settings.clone() };
    let healed = Scene { settings, ..healed };
    healed.fetch().expect("the hub is well");
    assert_eq!(healed.ranges(), ["bytes=5000-"]);
    assert_eq!(std::fs::read(healed.blob(WEIGHTS)).expect("a content"), weights());
}

/// A hub whose weights are in so many files, and these.
fn sharded(n: usize) -> (Scene, Vec<(String, Vec<u8>)>) {
    let name = |ix| format!("model-{:05}-of-{n:05}.safetensors", ix + 1);
    let shards: Vec<_> = (0..n).map(|ix| (name(ix), weights()[ix * 1000..][..300_000].to_vec())).collect();
    let mut files = vec![("config.json", &b"{}"[..]), ("tokenizer.json", b"{}")];
    files.extend(shards.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    (scene_of(PlayHub::start(&files)), shards)
}

#[test]
fn files_come_side_by_side_over_few_connections() {
    let (scene, shards) = sharded(18);
    for (name, _) in &shards {
        scene.hub.trouble(&scene.hub.etag(name), 1, Trouble::Late(200));
    }
    let mut told = Vec::new();
    let id: ModelId = "owner/tiny".parse().expect("a name");
    let fetched = fetch(&id, &scene.settings, &mut |progress| {
        told.push((progress.file.to_owned(), progress.done_bytes, progress.total_bytes));
        true
    });
    let folder = fetched.expect("the hub answers").folder;
    for (name, bytes) in &shards {
        assert!(std::fs::read(folder.join(name)).expect("it is there") == *bytes, "{name}");
    }
    assert!((2..=8).contains(&scene.hub.most_answers()), "{} at one time", scene.hub.most_answers());
    // One sum of all files, which only grows and ends at the whole; small files are there before the first large one.
    assert!(told.iter().map(|(_, done, _)| done).is_sorted(), "{told:?}");
    assert!(
        told.iter().all(|(_, _, total)| *total == 5_400_004) && told.last().is_some_and(|last| last.1 == 5_400_004)
    );
    let first_large = told.iter().position(|(name, ..)| name.starts_with("model")).expect("weights");
    assert!(told[first_large..].iter().all(|(name, ..)| name.starts_with("model")), "{told:?}");
}

#[test]
fn the_first_file_that_fails_ends_the_others_and_the_next_run_goes_on() {
    let (scene, shards) = sharded(10);
    // One is refused while seven others have come half of the way and hang.
    for (name, _) in &shards[..7] {
        scene.hub.trouble(&scene.hub.etag(name), 1, Trouble::Pause(150_000));
    }
    scene.refused(&scene.hub.etag(&shards[7].0), 1, Trouble::Late(418), &["status 418"]);
    assert!(shards[8..].iter().all(|(name, _)| !scene.blob(name).exists()), "nothing is begun any more");
    let part =
        |name: &str| std::fs::metadata(scene.blob(name).with_extension("incomplete")).map_or(0, |meta| meta.len());
    let parts: Vec<u64> = shards.iter().map(|(name, _)| part(name)).collect();
    assert_eq!(parts[7..], [0; 3], "{parts:?}");
    scene.hub.seen();
    scene.fetch().expect("the rest comes");
    let (mut found, mut expected) = (scene.ranges(), Vec::new());
    expected.extend(parts.iter().filter(|n| **n < 300_000).map(|n| format!("bytes={n}-")));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let folder = scene.fetch().expect("it is there").folder;
    for (name, bytes) in &shards {
        assert!(std::fs::read(folder.join(name)).expect("it is there") == *bytes, "{name}");
    }
}

#[test]
fn a_hub_that_falls_silent_is_asked_again() {
    let mut scene = scene();
    scene.settings.timeout = Duration::from_secs(1);
    scene.hub.trouble(&scene.hub.etag(WEIGHTS), 1, Trouble::Pause(200_000));
    scene.fetch().expect("the rest comes");
    assert_eq!(scene.ranges(), ["bytes=0-", "bytes=200000-"], "it does not wait for the silence to end");
    assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights());
}

#[test]
fn who_stops_a_fetch_keeps_what_has_arrived() {
    let scene = scene();
    let id = "owner/tiny".parse().expect("a name");
    let stopped =
        fetch(&id, &scene.settings, &mut |progress| progress.file != WEIGHTS || progress.done_bytes < 600_000);
    let error = stopped.expect_err("it was stopped");
    assert!(matches!(&error, HubError::Stopped { file } if file == WEIGHTS), "{error:?}");
    assert!(error.to_string().contains("run the same command again"), "{error}");
    let part = scene.blob(WEIGHTS).with_extension("incomplete");
    let n = std::fs::metadata(&part).expect("a part").len();
    assert!(n > 0 && !scene.blob(WEIGHTS).exists());
    scene.hub.seen();
    scene.fetch().expect("the rest comes");
    assert_eq!(scene.ranges(), [format!("bytes={n}-")]);
    assert!(!part.exists() && std::fs::read(scene.blob(WEIGHTS)).expect("a content") == weights());
}

#[test]
fn parts_that_do_not_fit_are_not_built_upon() {
    // A server without ranges sends everything again.
    let scene = scene();
    let etag = scene.hub.etag(WEIGHTS);
    scene.leave_part(&weights()[..1000]);
    scene.hub.trouble(&etag, 1, Trouble::NoRanges);
    scene.fetch().expect("it comes whole");
    assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights());
    // One that knows no such byte is asked for the whole.
    remove(&"owner/tiny".parse().expect("a name"), &scene.settings).expect("it is there");
    scene.leave_part(&weights()[..1000]);
    scene.hub.trouble(&etag, 1, Trouble::Status(416, &[]));
    scene.fetch().expect("it comes whole");
    assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights());
    // A part that is none, of the right size, too long, and of one byte less.
    for n in [weights().len(), weights().len() + 7, weights().len() - 1] {
        remove(&"owner/tiny".parse().expect("a name"), &scene.settings).expect("it is there");
        let part = scene.leave_part(&vec![7; n]);
        scene.fetch().expect("it is fetched anew");
        assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights(), "{n}");
        assert!(!part.exists());
    }
    // A whole part needs no bytes.
    remove(&"owner/tiny".parse().expect("a name"), &scene.settings).expect("it is there");
    scene.leave_part(&weights());
    scene.hub.seen();
    scene.fetch().expect("it is whole");
    assert_eq!(scene.ranges(), Vec::<String>::new());
}

#[test]
fn bytes_that_are_not_the_hubs_are_thrown_away() {
    let scene = scene();
    let etag = scene.hub.etag(WEIGHTS);
    scene.hub.trouble(&etag, 1, Trouble::Wrong);
    scene.fetch().expect("the second try is right");
    assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights());
    let scene = self::scene();
    let etag = scene.hub.etag(WEIGHTS);
    scene.refused(&etag, 50, Trouble::Wrong, &[WEIGHTS, "hash", "run the same command again"]);
    assert!(!scene.blob(WEIGHTS).exists() && !scene.blob(WEIGHTS).with_extension("incomplete").exists());
}

#[test]
fn refusals_say_what_to_do() {
    let anonymous = scene();
    let gated: &[_] = &[("x-error-code", "GatedRepo"), ("x-error-message", "Access is restricted.")];
    let (api, file) = ("/api/models", "/resolve/");
    let page = format!("{}/owner/tiny", anonymous.hub.endpoint);
    anonymous.refused(
        file,
        1,
        Trouble::Status(401, gated),
        &["owner/tiny", "gated", &page, "HF_TOKEN", "hf auth login"],
    );
    anonymous.refused(api, 1, Trouble::Status(401, &[]), &["owner/tiny", "no such model", "private", "HF_TOKEN"]);
    anonymous.refused(api, 1, Trouble::Status(404, &[("x-error-code", "RepoNotFound")]), &["no such model", "name"]);
    anonymous.refused(api, 1, Trouble::Status(404, &[("x-error-code", "RevisionNotFound")]), &["no revision `main`"]);
    anonymous.refused(api, 1, Trouble::Status(418, &[]), &["status 418", "HF_ENDPOINT"]);

    let mut known = scene();
    known.settings.token = Some(Token::new("hf_x", "HF_TOKEN"));
    let error = known.refused(file, 1, Trouble::Status(403, gated), &["gated", "account of your token"]);
    assert!(matches!(error, HubError::Gated { has_token: true, .. }));
    known.refused(api, 1, Trouble::Status(401, &[]), &["refuses the token from HF_TOKEN", "/settings/tokens"]);
    let fine: &[_] = &[("x-error-message", "A finer token is needed.")];
    known.refused(file, 1, Trouble::Status(403, fine), &["denies access", "A finer token is needed.", "HF_TOKEN"]);
    let message = known.refused(api, 1, Trouble::Status(401, &[]), &[]).to_string();
    assert!(!message.contains("hf_x"), "{message}");
}

#[test]
fn what_may_pass_is_tried_again() {
    let scene = scene();
    scene.hub.trouble("/api/models", 2, Trouble::Status(503, &[]));
    scene.hub.trouble("config.json", 2, Trouble::Status(500, &[]));
    scene.hub.trouble(&scene.hub.etag(WEIGHTS), 2, Trouble::Status(429, &[("retry-after", "0")]));
    scene.fetch().expect("it passes");

    let scene = self::scene();
    scene.refused("/api/models", 50, Trouble::Status(502, &[]), &["status 502", "later", "/api/models/owner/tiny"]);
    assert_eq!(scene.hub.seen().len(), 5, "it is not asked for ever");
    let scene = self::scene();
    let wait: &[_] = &[("retry-after", "300")];
    scene.refused("/api/models", 50, Trouble::Status(429, wait), &["fewer requests", "300 s", "HF_TOKEN"]);
    assert_eq!(scene.hub.seen().len(), 1, "so long a wait is the user's affair");
}

#[test]
fn without_a_network_the_cache_serves() {
    let mut scene = scene();
    scene.settings.timeout = Duration::from_secs(2);
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}", listener.local_addr().expect("it is bound"))
    };
    let here = std::mem::replace(&mut scene.settings.endpoint, nowhere.clone());
    let error = scene.fetch().expect_err("nobody listens");
    let message = error.to_string();
    assert!(matches!(error, HubError::NoNetwork { .. }) && message.contains(&nowhere), "{message}");
    assert!(message.contains("network") && message.contains("proxy"), "{message}");
    scene.settings.offline = true;
    let message = scene.fetch().expect_err("nothing is cached").to_string();
    assert!(message.contains("owner/tiny") && message.contains("--offline"), "{message}");

    scene.settings = HubSettings { endpoint: here, offline: false, ..scene.settings };
    let folder = scene.fetch().expect("the hub answers").folder;
    scene.settings.endpoint = nowhere;
    let fetched = scene.fetch().expect("there is a copy");
    assert!(fetched.folder == folder && matches!(fetched.stale, Some(HubError::NoNetwork { .. })));
    scene.settings.offline = true;
    let fetched = scene.fetch().expect("there is a copy");
    assert!(fetched.folder == folder && fetched.stale.is_none());
    // Half a copy is none.
    std::fs::remove_file(folder.join(WEIGHTS)).expect("a link");
    assert!(matches!(scene.fetch(), Err(HubError::NotCached { .. })));
}

#[test]
fn answers_that_are_no_hubs() {
    let page = scene();
    page.refused("/api/models", 1, Trouble::Page, &["/api/models/owner/tiny", "not JSON", "HF_ENDPOINT"]);
    page.refused("config.json", 1, Trouble::Page, &["config.json", "ETag", "HF_ENDPOINT"]);
    let circle: &[_] = &[("location", "/owner/tiny/resolve/x")];
    page.refused("/resolve/", 50, Trouble::Status(302, circle), &["too many redirects"]);
}

#[test]
fn a_renamed_model_is_found() {
    let scene = scene();
    let fetched = scene.fetch_as("owner/old-name").expect("it has moved");
    assert!(fetched.folder.starts_with(scene.settings.cache.join("models--owner--old-name")));
    assert_eq!(std::fs::read(fetched.folder.join(WEIGHTS)).expect("a file"), weights());
}

#[test]
fn a_repository_without_a_checkpoint_is_told_before_anything_is_fetched() {
    let none = scene_of(PlayHub::start(&[
        ("config.json", b"{}"),
        ("pytorch_model.bin", b"x"),
        ("t-00001-of-00002.gguf", b"x"),
    ]));
    let message = none.fetch().expect_err("no safetensors").to_string();
    assert!(message.contains("no model*.safetensors") && message.contains("pytorch_model.bin"), "{message}");
    let none = scene_of(PlayHub::start(&[(WEIGHTS, b"x")]));
    assert!(none.fetch().expect_err("no configuration").to_string().contains("no config.json"));
    assert_eq!(none.hub.seen().len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_what_is_missing() {
    let scene = scene();
    let part = scene.leave_part(b"");
    std::fs::remove_file(&part).expect("it is there");
    // Writes to this device fail as on a full disk.
    std::os::unix::fs::symlink("/dev/full", &part).expect("a link");
    let message = scene.fetch().expect_err("there is no room").to_string();
    let cache = scene.settings.cache.display().to_string();
    for part in [&cache, "disk is full", WEIGHTS, &weights().len().to_string(), "HF_HUB_CACHE", "ingot models rm"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut scene = scene();
    scene.settings.cache = scene.settings.cache.join("file/hub");
    std::fs::create_dir_all(scene.settings.cache.parent().and_then(Path::parent).expect("a parent")).expect("room");
    std::fs::write(scene.settings.cache.parent().expect("a parent"), "no folder").expect("room");
    let message = scene.fetch().expect_err("no folder can be made").to_string();
    assert!(message.contains("file/hub") && message.contains("HF_HUB_CACHE"), "{message}");
}

#[test]
fn two_fetches_at_once_do_not_disturb_each_other() {
    let scene = scene();
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| scene.fetch().map(|fetched| fetched.folder)));
        let [a, b] = both.map(|thread| thread.join().expect("no panic").expect("it is fetched"));
        assert_eq!(a, b);
    });
    assert_eq!(scene.ranges().len(), 1, "one of them waits for the other");
    assert_eq!(std::fs::read(scene.blob(WEIGHTS)).expect("a content"), weights());
}

/// A second revision of the model, as a Python tool would have written it: other weights, the same configuration.
#[cfg(unix)]
fn add_revision(scene: &Scene, commit: &str, name: &str) {
    let snapshot = scene.home().join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).expect("there is room");
    std::fs::write(scene.home().join("blobs/other"), vec![0; 5000]).expect("there is room");
    let config = Path::new("../../blobs").join(scene.hub.etag("config.json"));
    std::os::unix::fs::symlink(config, snapshot.join("config.json")).expect("a link");
    std::os::unix::fs::symlink("../../blobs/other", snapshot.join(WEIGHTS)).expect("a link");
    std::fs::write(scene.home().join("refs").join(name), commit).expect("there is room");
}

#[cfg(unix)]
#[test]
fn the_cache_is_listed_and_cleared_by_model_and_by_revision() {
    let scene = scene();
    assert_eq!(list(&scene.settings).expect("an empty cache"), []);
    let id = |text: &str| text.parse::<ModelId>().expect("a name");
    scene.fetch().expect("the hub answers");
    let second = "f".repeat(40);
    add_revision(&scene, &second, "test");
    for other in ["datasets--a--b", "models--gpt2", "tmp"] {
        std::fs::create_dir_all(scene.settings.cache.join(other)).expect("there is room");
    }
    let models = list(&scene.settings).expect("a cache");
    let [model] = &models[..] else { panic!("{models:?}") };
    assert_eq!((model.id.to_string().as_str(), model.snapshots.len()), ("owner/tiny", 2));
    let [first, other] = &model.snapshots[..] else { panic!("{model:?}") };
    assert_eq!((&first.names[..], &other.names[..]), (&["main".to_owned()][..], &["test".to_owned()][..]));
    let config_bytes = std::fs::metadata(shipped().join("config.json")).expect("a file").len();
    assert_eq!(other.files, [("config.json".to_owned(), config_bytes), (WEIGHTS.to_owned(), 5000)]);
    assert!(
        model.n_bytes >= first.n_bytes() + 5000 && model.n_bytes < first.n_bytes() + 6000,
        "shared bytes count once"
    );

    assert_eq!(
        find(&id("owner/tiny@test"), &scene.settings).expect("it is there").snapshots,
        std::slice::from_ref(other)
    );
    for absent in ["owner/tiny@none", "owner/other"] {
        let message = find(&id(absent), &scene.settings).expect_err("it is absent").to_string();
        assert!(message.contains(absent) && message.contains("models list"), "{message}");
    }
    let freed = remove(&id("owner/tiny@test"), &scene.settings).expect("it is there");
    assert!((5000..5100).contains(&freed), "its own content and its name: {freed}");
    ingot_models::Model::open(&first.folder).expect("the other revision is whole");
    assert!(!scene.home().join("refs/test").exists() && !other.folder.exists());
    let freed = remove(&id("owner/tiny"), &scene.settings).expect("it is there");
    assert!(freed >= first.n_bytes() && !scene.home().exists());
    assert!(matches!(remove(&id("owner/tiny"), &scene.settings), Err(HubError::NotListed { .. })));
    assert!(scene.settings.cache.join("datasets--a--b").is_dir(), "others' things stay");
}
